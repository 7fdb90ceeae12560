"""Means of weights: what they are, what is scored, sampled and saved, and that a resume is exact all the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fabula import checkpoint, storage
from fabula.config import build
from fabula.data.loader import Loader
from fabula.data.shards import Shards
from fabula.device import Device
from fabula.errors import Stopped
from fabula.evaluate.intrinsic import Score
from fabula.generate.config import GenerateConfig
from fabula.model.decoder import Decoder
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.base import Tokenizer
from fabula.train.averages import AverageConfig, Exponential, NoAverage, Tail, averages
from fabula.train.averaging import Average
from fabula.train.callbacks import Evaluate
from fabula.train.config import TrainConfig
from fabula.train.objective import NextToken
from fabula.train.optimizers import AdamWConfig
from fabula.train.run import TrainResult, run
from fabula.train.schedules import Constant
from fabula.train.speed import Speed
from fabula.train.trainer import Callback, StepRecord, Trainer
from tests import tiny

CPU = Device("cpu", "float32", 1, "a test")
KINDS: list[AverageConfig] = [Exponential(length=0.2), Tail(share=0.5)]
NAMES = ["ema", "tail"]


class Keep(Callback):
    """The weights after every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        self.weights.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})


def trained(data: Shards, average: Average, steps: int = 12) -> tuple[Trainer, Keep]:
    torch.manual_seed(3)
    model, keep = Decoder(tiny.model_config()), Keep()
    trainer = Trainer(
        model=model,
        objective=NextToken(),
        optimizers=AdamWConfig(lr=3e-3).build(model),
        schedule=Constant(),
        source=Loader(data.train, tiny.CONTEXT, 0, True),
        steps=steps,
        batch_rows=4,
        micro_rows=4,
        clip=1.0,
        device=CPU,
        stop=StopFlag(),
        callbacks=[average, keep],
    )
    trainer.fit()
    return trainer, keep


def shown(average: Average, trainer: Trainer) -> dict[str, torch.Tensor]:
    with average.shown(trainer):
        return {n: p.detach().clone() for n, p in trainer.model.named_parameters()}


# ---- what a mean is ----------------------------------------------------------------------------------------


def weights_of(config: AverageConfig, steps: int) -> list[float]:
    """How much each step's weights count in the mean at the end."""
    found: list[float] = []
    held = 0
    for step in range(1, steps + 1):
        share = config.newest(step, steps, held)
        found = [each * (1 - share) for each in found] + [share]
        held += share > 0
    return found


@pytest.mark.parametrize("kind", list(averages))
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 5000])
def test_shares_are_shares(kind: str, steps: int) -> None:
    config = averages.get(kind)()
    found = weights_of(config, steps)
    assert all(0 <= each <= 1 for each in found)
    assert sum(found) == pytest.approx(1 if config.keeps else 0)


def test_the_tail_is_a_plain_mean_of_the_last_part() -> None:
    found = weights_of(Tail(share=0.25), 40)
    assert found[:30] == [0] * 30
    assert found[30:] == pytest.approx([0.1] * 10)
    assert weights_of(Tail(share=0.001), 10) == [0] * 9 + [1.0], "at least one step"


def test_an_exponential_mean_has_the_length_it_says_and_forgets_the_beginning() -> None:
    for steps in (300, 3000):
        found = weights_of(Exponential(length=0.05), steps)
        age = sum(each * (steps - 1 - i) for i, each in enumerate(found))
        assert age == pytest.approx(0.05 * steps, rel=0.1)
        assert sum(found[: steps // 2]) < 1e-3
    short = weights_of(Exponential(length=0.5), 60)
    assert sum(short[:6]) < 1e-3, "however long the mean is meant to be"


def test_a_settled_number_of_steps_keeps_the_tail_a_plain_mean() -> None:
    """A time budget's steps change after the first minute, perhaps when the tail has begun already."""
    config, mean = Tail(share=1.0), 0.0
    for held, step in enumerate(range(1, 31)):
        share = config.newest(step, 40 if step < 5 else 30, held)
        mean += share * (step - mean)
    assert mean == pytest.approx(sum(range(1, 31)) / 30)


@pytest.mark.parametrize(
    ("kind", "name", "value"), [(Exponential, "length", 0.0), (Exponential, "length", 1.1), (Tail, "share", -0.5)]
)
def test_impossible_settings(kind: type[AverageConfig], name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        kind(**{name: value})
    with pytest.raises(ValueError, match="never runs out"):
        TrainConfig(patience=8)
    with pytest.raises(ValueError, match="patience=-1"):
        TrainConfig(patience=-1)


# ---- beside the weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", KINDS, ids=NAMES)
def test_the_mean_is_that_of_the_weights_of_every_step(tiny_data: Shards, config: AverageConfig) -> None:
    average = Average(config)
    trainer, keep = trained(tiny_data, average)
    shares = weights_of(config, trainer.steps)
    for name, value in shown(average, trainer).items():
        by_hand = sum(share * each[name].double() for share, each in zip(shares, keep.weights, strict=True))
        assert torch.allclose(value.double(), torch.as_tensor(by_hand), atol=1e-6), name


@pytest.mark.parametrize("config", KINDS, ids=NAMES)
def test_changing_places_is_exact_and_ends_with_an_error(tiny_data: Shards, config: AverageConfig) -> None:
    average = Average(config)
    trainer, keep = trained(tiny_data, average)
    mean = shown(average, trainer)
    assert any(not torch.equal(mean[n], keep.weights[-1][n]) for n in mean)

    def fail() -> None:
        with average.shown(trainer):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert all(torch.equal(p, keep.weights[-1][n]) for n, p in trainer.model.named_parameters())
    again = shown(average, trainer)
    assert all(torch.equal(mean[n], again[n]) for n in mean)


def test_the_steps_do_not_know_of_a_mean(tiny_data: Shards) -> None:
    _, plain = trained(tiny_data, Average(NoAverage()))
    for config in KINDS:
        _, other = trained(tiny_data, Average(config))
        assert all(torch.equal(plain.weights[-1][n], other.weights[-1][n]) for n in plain.weights[-1])


# ---- the stage ---------------------------------------------------------------------------------------------


def train(data: Shards, tokenizer: Tokenizer, folder: Path, stop: StopFlag | None = None, **settings: Any) -> Any:
    config = build(
        TrainConfig,
        {
            **dict(
                budget="20steps",
                batch_tokens=128,
                checkpoints=4,
                log_every=1,
                threads=1,
                device="cpu",
                precision="float32",
            ),
            **dict(evaluation_rows=6, optimizer={"kind": "adamw", "lr": 0.01}, schedule={"kind": "constant"}),
            **settings,
        },
    )

    return run(
        config,
        tiny.model_config(dropout=0.1),
        tokenizer,
        data,
        folder,
        seed=1,
        sampling=GenerateConfig(max_new_tokens=3, prompts=("El",)),
        facts={},
        progress=HEARD,
        stop=StopFlag() if stop is None else stop,  # an unset flag is false
    )


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


HEARD = Heard()


@pytest.fixture(autouse=True)
def fixed_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = Speed(step=0.1, evaluation_row=0.01, sampled_token=0.001, save=0.05)
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: speed)


def tensors(folder: Path, step: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    found = checkpoint.find(folder, f"step-{step}")
    model = Decoder(tiny.model_config(dropout=0.1))
    checkpoint.restore_weights(model, found)
    return model.state_dict(), checkpoint.trainer_state(found)[1]


def raw(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """The weights from which the steps go on."""
    prefix = "callback.Average."
    return {n.removeprefix(prefix): t for n, t in tensors(folder, step)[1].items() if n.startswith(prefix)}


def test_a_checkpoint_holds_the_mean_and_the_weights_beside_it(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    train(tiny_data, tiny_tokenizer, tmp_path / "plain", keep=4)
    train(tiny_data, tiny_tokenizer, tmp_path / "ema", keep=4, average={"kind": "ema", "length": 0.2})
    for step in (5, 10, 15):
        plain, _ = tensors(tmp_path / "plain", step)
        mean, _ = tensors(tmp_path / "ema", step)
        kept = raw(tmp_path / "ema", step)
        assert all(torch.equal(plain[name], kept[name]) for name in kept), "the steps are those of any run"
        assert any(not torch.equal(mean[name], kept[name]) for name in kept)
        assert checkpoint.find(tmp_path / "ema", f"step-{step}").manifest["weights"] == "averaged"


@pytest.mark.parametrize("average", [{"kind": "ema", "length": 0.3}, {"kind": "tail", "share": 0.5}], ids=NAMES)
def test_what_is_reported_is_what_is_saved(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, average: dict[str, Any]
) -> None:
    """The score of each checkpoint is that of its own weights, and the end keeps the better of both."""
    import numpy as np

    HEARD.said.clear()
    result: TrainResult = train(tiny_data, tiny_tokenizer, tmp_path, keep=4, average=average)
    lines = {r["step"]: r for r in storage.read_json_lines(tmp_path / "metrics.jsonl") if r["kind"] == "evaluation"}
    assert list(lines) == [5, 10, 15, 20], "the end is always measured"
    for found in checkpoint.checkpoints(tmp_path):
        loader = Loader(tiny_data.validation, tiny.CONTEXT, 1, True)
        lengths = np.array(tiny_tokenizer.byte_lengths(), dtype=np.int64)
        again = Evaluate([], loader, loader.fixed(6), 4, lengths, tmp_path / "x", None, StopFlag())  # type: ignore[arg-type]
        model = checkpoint.load(found.path).model
        assert again.score(model, CPU, 4).bits_per_byte == pytest.approx(lines[found.step]["bits_per_byte"], rel=1e-6)
        assert found.bits_per_byte == lines[found.step]["bits_per_byte"]
        assert found.manifest["weights"] == lines[found.step]["weights"]
    last = lines[20]
    assert last["bits_per_byte"] == min(last["averaged_bits_per_byte"], last["raw_bits_per_byte"])
    assert last["averaged_bits_per_byte"] != last["raw_bits_per_byte"]
    better = "averaged" if last["averaged_bits_per_byte"] < last["raw_bits_per_byte"] else "raw"
    assert last["weights"] == result.facts["weights"] == better
    assert sum("averaged weights" in sentence and "this checkpoint holds" in sentence for sentence in HEARD.said) == 1


@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_weights_without_a_score_are_not_the_better_ones(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strange: float
) -> None:
    calls: list[int] = []

    def scored(*given: Any) -> Score:
        calls.append(1)
        return Score(nats=strange if len(calls) == 5 else 10.0, tokens=10, bytes=10)

    monkeypatch.setattr(Evaluate, "score", scored)
    result = train(tiny_data, tiny_tokenizer, tmp_path, keep=4, average={"kind": "ema", "length": 0.3})
    assert result.facts["weights"] == "averaged"
    [last] = [
        r for r in storage.read_json_lines(tmp_path / "metrics.jsonl") if r["step"] == 20 and r["kind"] != "train"
    ]
    assert (last["averaged_bits_per_byte"], last["raw_bits_per_byte"]) == (last["bits_per_byte"], None)


@pytest.mark.parametrize("better", ["averaged", "raw"])
def test_the_better_one_is_kept_at_the_end(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: str
) -> None:
    calls: list[int] = []

    def scored(*given: Any) -> Score:
        calls.append(1)
        # Four milestones score the mean; the fifth call is that of the last step's weights.
        return Score(nats=9.0 if (len(calls) == 5) == (better == "raw") else 10.0, tokens=10, bytes=10)

    monkeypatch.setattr(Evaluate, "score", scored)
    result = train(tiny_data, tiny_tokenizer, tmp_path, keep=4, average={"kind": "ema", "length": 0.3})
    assert len(calls) == 5
    assert result.facts["weights"] == better
    last = checkpoint.find(tmp_path, "step-20")
    assert last.manifest["weights"] == better
    weights, _ = tensors(tmp_path, 20)
    train(tiny_data, tiny_tokenizer, tmp_path / "plain", keep=4)
    plain, _ = tensors(tmp_path / "plain", 20)
    assert all(torch.equal(weights[n], plain[n]) for n in plain) == (better == "raw")


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("at", [3, 10, 13, 20])
def test_a_resume_is_exact(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, at: int
) -> None:
    average = {"kind": kind, **({"length": 0.3} if kind == "ema" else {"share": 0.5})}
    train(tiny_data, tiny_tokenizer, tmp_path / "straight", average=average)
    stop = StopFlag()
    take = Trainer.take_step

    def stopping(self: Trainer, batch: Any) -> StepRecord:
        made = take(self, batch)
        if self.step == at and self.steps < 1000:
            stop.signal_number = 15
        return made

    monkeypatch.setattr(Trainer, "take_step", stopping)
    with pytest.raises(Stopped):
        train(tiny_data, tiny_tokenizer, tmp_path / "stopped", stop, average=average)
    monkeypatch.setattr(Trainer, "take_step", take)
    train(tiny_data, tiny_tokenizer, tmp_path / "stopped", average=average)
    a, b = (checkpoint.find(tmp_path / name, "step-20") for name in ("straight", "stopped"))
    for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):
        assert a.manifest["files"][name]["sha256"] == b.manifest["files"][name]["sha256"], name
    assert (a.bits_per_byte, a.manifest["weights"]) == (b.bits_per_byte, b.manifest["weights"])
    lines = [storage.read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("straight", "stopped")]
    kept = [[(r["step"], r["loss"], r.get("weights")) for r in each] for each in lines]
    assert kept[0] == kept[1]
