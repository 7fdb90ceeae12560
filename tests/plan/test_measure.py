"""Memory by rows at once and number format: measured in processes that end before they fill the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fabula.config import to_data
from fabula.device import Device, count_devices
from fabula.errors import Stopped
from fabula.model.kinds import described
from fabula.model.presets import presets
from fabula.plan import measure
from fabula.plan.estimate import state_bytes, training_bytes, utilisation
from fabula.plan.hardware import of_name, peak
from fabula.progress import StopFlag
from fabula.train.config import TrainConfig
from tests import tiny

CPU = Device("cpu", "float32", 1, "a test")
MODULE = "fabula.train.rehearsal"
JOB = {
    "train": to_data(TrainConfig(device="cpu", threads=1)),
    "model": described(tiny.model_config()),
    "source_tokens": 0,
    "target_tokens": tiny.CONTEXT,
}


@pytest.fixture(autouse=True)
def only_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "dtypes", lambda device: {"float32": "", "bfloat16": "no units for it"})


def trials(sizes: list[int], monkeypatch: pytest.MonkeyPatch, job: Any = JOB, **over: Any) -> list[measure.Trial]:
    monkeypatch.setattr(measure, "sizes", lambda rows: sizes)
    predict = over.pop("predict", lambda rows, dtype: 300_000_000)
    return list(measure.run(MODULE, job, 4, CPU, predict, over.pop("stop", StopFlag()), **over))


def test_peaks_are_measured_and_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large, other = trials([1, 1024], monkeypatch)
    assert small.outcome == large.outcome == "measured"
    assert small.measured_bytes is not None
    assert large.measured_bytes is not None
    assert large.measured_bytes > small.measured_bytes + 50_000_000
    assert large.tokens_per_second is not None
    assert large.tokens_per_second > 0
    assert (other.dtype, other.outcome, other.why) == ("bfloat16", "not tried", "no units for it")


def test_a_trial_ends_before_it_fills_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "free_memory_bytes", lambda device: 700_000_000)
    before = psutil.Process().children()  # those of other tests
    found = trials([1, 4096, 8192], monkeypatch)
    assert [trial.outcome for trial in found[:3]] == ["too large", "not tried", "not tried"]
    assert found[1].why == "1 rows were too large already"
    assert "before it filled the machine" in found[0].why
    assert set(psutil.Process().children()) <= set(before), "nothing is left running"


def test_what_is_predicted_to_be_far_too_large_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    (found, _) = trials([1], monkeypatch, predict=lambda rows, dtype: 10**15)
    assert found.outcome == "not tried"
    assert found.why.startswith("predicted to need 1000000.0 GB, ")


def test_a_trial_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, _ = trials([64, 128], monkeypatch, seconds=0.3)
    assert (first.outcome, first.why) == ("too slow", "ended after 0 s")
    assert (second.outcome, second.why) == ("not tried", "64 rows were too slow already")


def test_a_trial_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    (found, _) = trials([1], monkeypatch, job={**JOB, "model": {"d_model": 3}})
    assert found.outcome == "failed"
    assert "ConfigError" in found.why


def test_a_signal_ends_the_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopFlag()
    stop.signal_number = 2
    with pytest.raises(Stopped):
        trials([1], monkeypatch, stop=stop)


def test_the_table_of_a_recipe(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    tiny.write_recipe(tmp_path)
    code, out, err = cli("plan", "tiny.toml", "--measure")
    assert code == 0, err
    table = out.split("rows at once", 1)[1].splitlines()
    assert [line.split()[0] for line in table[2:-1]] == ["1", "2", "4", "8", "16"]
    assert all(len(line.split()) == 7 for line in table[2:-1]), "predicted, measured and tokens/s in each"
    assert "not tried: no units for it" in table[-1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "rows"), [("alexandria-9m", 4), ("fabula-3m", 8), ("lillm-39m", 1)])
def test_the_prediction_is_near(monkeypatch: pytest.MonkeyPatch, preset: str, rows: int) -> None:
    model = presets.get(preset).config
    lengths = (0, model.context_length)
    job = {**JOB, "model": described(model), "target_tokens": model.context_length}
    (found, _) = trials(
        [rows], monkeypatch, job=job, predict=lambda n, dtype: training_bytes(model, "muon", n, lengths, 4, True)
    )
    assert found.outcome == "measured", found.why
    assert found.predicted_bytes == pytest.approx(found.measured_bytes, rel=0.3)


def test_memory_is_more_than_four_bytes_a_parameter() -> None:
    """Mistake 9: training needs about 16 bytes a parameter, and activations that grow with the rows."""
    model = presets.get("lillm-39m").config
    one, two, four = (training_bytes(model, "adamw", n, (0, 512), 4, False) for n in (1, 2, 4))
    assert one > state_bytes(model, "adamw") == 16 * model.n_params()
    assert four - two == pytest.approx(2 * (two - one), rel=0.01)
    assert training_bytes(model, "adamw", 4, (0, 512), 2, False) < four
    assert training_bytes(model, "muon", 1, (0, 512), 4, False) > one, "it turns all matrices of a shape at once"


def test_utilisation_counts_every_device() -> None:
    """Mistake 9: MFU over the wrong number of devices."""
    one = utilisation(flops_per_token=6e9, tokens_per_second=10_000, peak_flops_per_second=1e14, devices=1)
    assert one == pytest.approx(0.6)
    both = utilisation(flops_per_token=6e9, tokens_per_second=20_000, peak_flops_per_second=1e14, devices=2)
    assert both == pytest.approx(one), "two devices that do twice as much are as busy as one"
    assert count_devices() == 1


def test_the_utilisation_of_a_run(tiny_run: Path) -> None:
    from fabula import storage

    lines = [line for line in storage.read_json_lines(tiny_run / "metrics.jsonl") if line["kind"] == "train"]
    facts = storage.read_json(tiny_run / "summary.json")["train"]
    flops = 3 * tiny.model_config().flops_per_token(tiny.CONTEXT)
    assert facts["devices"] == 1
    for line in lines:
        assert line["mfu"] == pytest.approx(flops * line["tokens_per_second"] / facts["peak_flops_per_second"])
        assert line["memory_bytes"] > 50_000_000
    assert facts["mfu"] == pytest.approx(flops * facts["tokens_per_second"] / facts["peak_flops_per_second"])


def test_peaks_of_cards_are_those_of_their_data_sheets() -> None:
    for name, flops in (
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Tesla T4", 65e12),
    ):
        found = of_name(name)
        assert found is not None
        assert found.flops_per_second == flops
    assert of_name("NVIDIA GeForce GTX 1060") is None
    here = peak(CPU)
    assert here.flops_per_second > 1e8
    assert here.source == "matrix products of float32 measured here, 1 threads"
    assert peak(CPU) is here, "measured once in a process"


def test_the_longest_pairs_are_planned_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Time is that of a usual batch, memory that of the batch with the longest pairs."""
    from fabula import pipeline
    from fabula.train import forecast

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr("fabula.train.speed._SECONDS", (0.0, 0.05))

    def watched(config: Any, model: Any, batch: Any, rows: int, device: Device) -> tuple[int, float, bool]:
        seen.append((batch.source.shape[1], batch.tokens.shape[1]))
        return 4_000_000_000, 1.0, True

    monkeypatch.setattr(forecast, "peak_of_steps", watched)
    text = "".join(f"word {i}\tpalabra {i}\n" for i in range(400)) + "very " * 30 + "\t" + "muy " * 60 + "\n"
    (tmp_path / "pairs.tsv").write_text(text, "utf-8")
    recipe = tiny.write_recipe(
        tmp_path,
        '[corpus]\nsource = "pairs.tsv"\nsource_field = "1"\ntarget_field = "2"\n'
        '[tokenizer]\nvocab_size = 300\n[model]\npreset = "fabula-translate-4m"\nd_model = 32\nencoder_layers = 1\n'
        'decoder_layers = 1\ncontext_length = 64\n[train]\nbudget = "4steps"\nbatch_tokens = 64\ndevice = "cpu"\n',
    )
    monkeypatch.chdir(tmp_path)
    planned = pipeline.plan(recipe)
    assert planned["peak_memory_bytes"] == 4_000_000_000
    ((source, target),) = seen
    assert source > 30
    assert target == 64, "what is longer than the context is left out"
