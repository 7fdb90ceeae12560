"""torch.compile: decided by figures, never the end of a run, and the numbers are those without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fabula.config import Data, to_data
from fabula.data.loader import Loader
from fabula.data.shards import Shards
from fabula.device import Device
from fabula.errors import MachineError, Stopped
from fabula.model.decoder import Decoder
from fabula.model.kinds import described
from fabula.progress import StopFlag
from fabula.train import compiling
from fabula.train.compiling import Compiled, decide, try_it
from fabula.train.config import TrainConfig
from fabula.train.objective import NextToken
from tests import tiny
from tests.train.test_trainer import ADAMW, make, weights

CPU = Device("cpu", "float32", 1, "a test")
FOUND = {"eager_seconds": 0.1, "compiled_seconds": 0.08, "compile_seconds": 20.0}


def decided(monkeypatch: pytest.MonkeyPatch, asked: Any = "auto", found: Data | None = None, **over: Any) -> Any:
    monkeypatch.setattr(compiling, "compiler", lambda device: over.pop("compiler", "g++"))

    def trial() -> Data:
        return pytest.fail("tried") if found is None else found

    given: dict[str, Any] = {"pairs": False, "steps": 36_000, "step_seconds": 0.1, "trial": trial, **over}
    given.pop("compiler", None)
    return decide(asked, given.pop("device", CPU), **given)


def test_a_short_run_is_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found = decided(monkeypatch, steps=3000)
    assert not found.compiled
    assert found.reason == "off: 300 s of steps might become 30 s less, and trying takes about 60 s"


def test_a_long_run_is_compiled_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    found = decided(monkeypatch, found=FOUND)
    assert found.compiled
    assert found.step_seconds == pytest.approx(0.08)
    assert found.reason == "on: a step takes 80.0 ms compiled, 100.0 ms as it is; compiling took 20 s"


@pytest.mark.parametrize("seconds", [0.099, 0.12], ids=["no gain", "a loss"])
def test_and_is_not_where_it_is_not(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found = decided(monkeypatch, found={**FOUND, "compiled_seconds": seconds})
    assert not found.compiled
    assert found.step_seconds is None
    assert found.reason.startswith("off: a step takes ")


def test_what_fails_is_noted_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"error": "InvalidCxxCompiler: none of g++ works"}
    assert decided(monkeypatch, found=failed).reason == "off: it failed (InvalidCxxCompiler: none of g++ works)"
    with pytest.raises(MachineError, match=r"could not be compiled \(InvalidCxxCompiler.*--train.compile off"):
        decided(monkeypatch, "on", failed)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decided(monkeypatch, compiler=None).reason == "off: it needs a C++ compiler, and there is none"
    with pytest.raises(MachineError, match="needs a C\\+\\+ compiler"):
        decided(monkeypatch, "on", compiler=None)
    assert decided(monkeypatch, "off", compiler=None).reason == "off: asked for"


def test_pairs_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decided(monkeypatch, pairs=True).reason.startswith("off: batches of pairs have many widths")


def test_a_signal_ends_the_trial_at_once() -> None:
    stop = StopFlag()
    stop.signal_number = 15
    before = psutil.Process().children()  # those of other tests
    with pytest.raises(Stopped, match="stopped while compiling"):
        try_it(job(), stop)
    assert set(psutil.Process().children()) <= set(before), "it is not waited for, and nothing is left running"


def test_a_trial_that_cannot_begin_says_so() -> None:
    found = try_it({**job(), "model": {"d_model": 3}}, StopFlag())
    assert "ConfigError" in found["error"]


def test_a_trial_that_takes_too_long_is_given_up() -> None:
    assert try_it(job(), StopFlag(), patience=0.1)["error"] == "not done after 0 s"


class Broken(Compiled):
    """Its compiler fails, as one that is not installed does."""

    def __init__(self, note: Any, error: Exception) -> None:
        super().__init__(note)
        self.error = error

        def run(*inputs: Any) -> torch.Tensor:
            raise self.error

        self._run = run


def test_a_compiler_that_fails_never_ends_a_run(tiny_data: Shards) -> None:
    told: list[str] = []
    from torch._inductor.exc import InvalidCxxCompiler

    batch = Loader(tiny_data.train, tiny.CONTEXT, 0, True).batch(0, 4)
    usual, broken = make(tiny_data), make(tiny_data, objective=Broken(told.append, InvalidCxxCompiler()))
    for _ in range(2):
        assert broken.take_step(batch).loss == usual.take_step(batch).loss
    assert len(told) == 1
    assert told[0].startswith("train.compile: compiling failed, going on without (InvalidCxxCompiler: ")


def test_an_error_of_the_model_is_no_failure_of_the_compiler(tiny_data: Shards) -> None:
    batch = Loader(tiny_data.train, tiny.CONTEXT, 0, True).batch(0, 4)
    for error in (ValueError("tokens"), RuntimeError("out of memory")):
        objective = Broken(pytest.fail, error)
        with pytest.raises(type(error)), CPU.autocast():
            objective(Decoder(tiny.model_config()), batch)


@pytest.mark.slow
def test_compiled_is_not_compiled(tiny_data: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated by torch, with documents in the rows; no code is generated: it needs no compiler."""
    usual = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, options, **given: usual(model, backend="aot_eager", **given))
    compare(tiny_data, lambda: Compiled(pytest.fail))


def compare(data: Shards, objective: Any) -> None:
    """Steps through an objective and through the usual one: the same losses and weights."""
    source = Loader(data.train, tiny.CONTEXT, 0, True)
    made = []
    for each in (objective(), NextToken()):
        trainer = make(data, ADAMW, objective=each)
        if isinstance(each, Compiled):
            before = torch.get_rng_state()
            each.warm(trainer.model, source.batch(0, 4), CPU)
            assert torch.equal(torch.get_rng_state(), before)
            assert all(p.grad is None for p in trainer.model.parameters())
        losses = [trainer.take_step(source.batch(4 * step, 4)).loss for step in range(3)]
        made.append((losses, weights(trainer)))
    assert made[0][0] == pytest.approx(made[1][0], abs=1e-4)
    for name, usual in made[1][1].items():
        torch.testing.assert_close(made[0][1][name], usual, rtol=1e-3, atol=2e-3)


def job(**settings: Any) -> Data:
    return {
        "train": to_data(TrainConfig(device="cpu", threads=1, optimizer=ADAMW, **settings)),
        "model": described(tiny.model_config()),
        "dtype": "float32",
        "threads": 1,
        "rows": 2,
        "batch_rows": 4,
        "seconds": 0.0,
        "document_tokens": 9.5,
    }


needs_compiler = pytest.mark.skipif(compiling.compiler("cpu") is None, reason="there is no C++ compiler")


@pytest.mark.slow
@needs_compiler
def test_generated_code_gives_the_same_numbers(tiny_data: Shards) -> None:
    compare(tiny_data, lambda: Compiled(pytest.fail))


@pytest.mark.slow
@needs_compiler
def test_a_trial_finds_both_times() -> None:
    found = try_it(job(), StopFlag())
    assert found.keys() == {"eager_seconds", "compiled_seconds", "compile_seconds"}, found
    assert all(value > 0 for value in found.values())


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_compiler
def test_a_compiled_run_that_was_stopped_is_the_same_to_the_last_bit(
    tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_recipe(tmp_path)
    code, _, err = cli("train", "tiny.toml", "--compile", "on", "--name", "straight")
    assert code == 0, err
    assert "train.compile: on: asked for; compiling took" in err
    monkeypatch.setenv("FABULA_FAULTS", "train.step=signal:SIGTERM@9")
    code, _, err = cli("train", "tiny.toml", "--compile", "on", "--name", "stopped")
    assert code == 143, err
    monkeypatch.delenv("FABULA_FAULTS")
    code, _, err = cli("resume", "runs/stopped")
    assert code == 0, err
    assert "was made elsewhere" not in err
    last = [sorted((tmp_path / "runs" / name / "checkpoints").iterdir())[-1] for name in ("straight", "stopped")]
    assert [folder.name for folder in last] == ["step-000024"] * 2
    assert (last[0] / "model.safetensors").read_bytes() == (last[1] / "model.safetensors").read_bytes()
