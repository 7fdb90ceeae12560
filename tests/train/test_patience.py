"""A run that ends before its time: after how many evaluations, with what weights, and finished for good."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fabula import checkpoint, pipeline, storage
from fabula.checkpoint import RunFolder
from fabula.compare import run as comparing
from fabula.config import build, load_toml, to_data
from fabula.data.loader import Loader
from fabula.data.shards import Shards
from fabula.evaluate.intrinsic import Score
from fabula.plan.estimate import WORN, repeats, worth
from fabula.progress import Silent
from fabula.train.callbacks import Evaluate
from fabula.train.run import _reading_notes
from fabula.train.trainer import Trainer
from tests import tiny

RUN = {"train.patience": 2, "train.checkpoints": 8, "train.save_steps": 5, "train.keep": 8}


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def worse_after_nine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight evaluations in 24 steps: 3, 6, 9, ...; the third is the best."""

    def attach(self: Evaluate, trainer: Trainer) -> None:
        self.score = lambda *given: Score(nats=10.0 + abs(trainer.step - 9), tokens=10, bytes=10)  # type: ignore[method-assign]
        inner(self, trainer)

    inner = Evaluate.evaluate
    monkeypatch.setattr(Evaluate, "evaluate", attach)


def run(folder: Path, heard: Heard | None = None, **more: Any) -> pipeline.RunResult:
    path = tiny.write_recipe(folder)
    return pipeline.run(path, {**RUN, **more}, runs=folder / "runs", progress=heard or Heard())


def test_it_ends_when_patience_is_over_and_is_finished(tmp_path: Path, worse_after_nine: None) -> None:
    heard = Heard()
    result = run(tmp_path, heard)
    trained = result.summary["train"]
    assert (trained["steps"], trained["planned_steps"], trained["best_step"], trained["last_step"]) == (15, 24, 9, 15)
    assert result.evaluation["step"] == 9, "the best is what is evaluated"
    told = trained["ended_early"]
    assert "ended after 15 of 24 steps" in told
    assert "--train.budget 9steps" in told, "its rate was still high"
    assert any(sentence.startswith("train.patience: ended after 15") for sentence in heard.said)
    folder = RunFolder(result.folder)
    lines = storage.read_json_lines(folder.metrics)
    assert [r["step"] for r in lines if r["kind"] == "evaluation"] == [3, 6, 9, 12, 15]
    assert [r["step"] for r in lines if r["kind"] == "train"] == list(range(1, 16))
    assert result.summary["status"] == "finished"
    [detail] = [row["detail"] for row in result.summary["stages"] if row["stage"] == "train"]
    assert detail.startswith("15 steps, ended early by train.patience (24 were planned)")
    assert "Training ended after 15 of 24 steps" in result.report.read_text(encoding="utf-8")
    best = checkpoint.best(result.folder)
    assert best is not None
    assert best.step == 9
    assert load_toml(folder.recipe)["train"]["patience"] == 2

    # Finished for good: neither another `run` nor `resume` takes a step.
    weights = {p: p.read_bytes() for p in folder.checkpoints.rglob("model.safetensors")}
    for again in (lambda: run(tmp_path), lambda: pipeline.resume(result.folder, progress=Heard())):
        after = again()
        [row] = [row for row in after.summary["stages"] if row["stage"] == "train"]
        assert row["skipped"]
        assert "ended early by train.patience (24 were planned)" in row["detail"]
        assert after.summary["train"]["ended_early"] == told
        assert after.evaluation["step"] == 9
    assert {p: p.read_bytes() for p in folder.checkpoints.rglob("model.safetensors")} == weights


def test_a_line_is_written_where_it_ends(tmp_path: Path, worse_after_nine: None) -> None:
    result = run(tmp_path, **{"train.log_every": 7})
    lines = storage.read_json_lines(RunFolder(result.folder).metrics)
    assert [r["step"] for r in lines if r["kind"] == "train"] == [1, 3, 6, 7, 9, 12, 14, 15]


def test_killed_before_training_was_noted_as_done(tmp_path: Path, worse_after_nine: None) -> None:
    """The last checkpoint knows that the run is over, whatever the notes say."""
    result = run(tmp_path)
    stages = RunFolder(result.folder).stages
    noted = json.loads(stages.read_text(encoding="utf-8"))
    for name in ("train", "evaluate"):
        noted.pop(name)
    storage.write_json(stages, noted)
    again = pipeline.resume(result.folder, progress=Heard())
    assert again.summary["train"]["steps"] == 15
    assert again.summary["train"]["planned_steps"] == 24
    assert again.summary["train"]["ended_early"] == result.summary["train"]["ended_early"]
    assert again.evaluation["step"] == 9


def test_going_on_from_before_ends_at_the_same_place(tmp_path: Path, worse_after_nine: None) -> None:
    """What is counted follows from the best step, which a checkpoint holds."""
    result = run(tmp_path)
    folder = RunFolder(result.folder)
    before = {n: checkpoint.find(result.folder, "step-15").manifest["files"][n] for n in _EXACT}
    for found in checkpoint.checkpoints(result.folder):
        if found.step > 12:
            storage.remove(found.path)
    stages = json.loads(folder.stages.read_text(encoding="utf-8"))
    stages.pop("train")
    storage.write_json(folder.stages, stages)
    again = pipeline.resume(result.folder, progress=Heard())
    assert again.summary["train"]["entered_at_step"] == 12
    assert again.summary["train"]["steps"] == 15
    assert {n: checkpoint.find(result.folder, "step-15").manifest["files"][n] for n in _EXACT} == before


_EXACT = (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)


def test_with_a_mean_of_weights_both_are_measured_where_it_ends(tmp_path: Path, worse_after_nine: None) -> None:
    result = run(tmp_path, **{"train.average.kind": "ema", "train.average.length": 0.3})
    lines = storage.read_json_lines(RunFolder(result.folder).metrics)
    last = [r for r in lines if r["kind"] == "evaluation"][-1]
    assert last["step"] == 15
    assert {"averaged_bits_per_byte", "raw_bits_per_byte"} <= last.keys()
    assert result.evaluation["step"] == 9
    assert checkpoint.find(result.folder, "step-9").manifest["weights"] == "averaged"


def test_without_patience_nothing_ends(tmp_path: Path, worse_after_nine: None) -> None:
    result = run(tmp_path, **{"train.patience": 0})
    assert result.summary["train"]["steps"] == 24
    assert "ended_early" not in result.summary["train"]
    assert result.evaluation["step"] == 9


def test_a_comparison_tells_that_runs_may_end_early(tmp_path: Path, worse_after_nine: None, quick: None) -> None:
    asked = comparing.CompareConfig(
        recipe=tiny.write_recipe(tmp_path),
        vary=("train.patience=0,2",),
        overrides={"train.checkpoints": 8},
        runs=tmp_path / "runs",
    )
    made = comparing.run(asked)
    assert [row["runs"][0]["steps"] for row in made["variants"]] == [24, 15]
    assert any("train.patience may end runs" in note for note in made["notes"])


def test_runs_of_before_there_was_patience_or_a_mean_go_on() -> None:
    from fabula.recipe import Recipe

    usual = pipeline.settings_that_matter(build(Recipe, {}))
    assert not {"patience", "average"} & usual.keys()
    changed = pipeline.settings_that_matter(
        build(Recipe, {"train": {"patience": 3, "average": {"kind": "tail", "share": 0.2}}})
    )
    assert changed["patience"] == 3
    assert changed["average"] == {"kind": "tail", "share": 0.2}
    assert to_data(build(Recipe, {}).train)["average"] == {"kind": "none"}


# ---- text that is read again and again ---------------------------------------------------------------------


def test_what_repeats_are_worth() -> None:
    """The law of arXiv:2305.16264 as they state it: four passes nearly new, forty worth about sixteen at most."""
    assert worth(0.5) == 0.5
    assert worth(1) == 1
    assert worth(4) == pytest.approx(3.7, abs=0.05)
    assert worth(1e6) == pytest.approx(16.4)
    passes = [worth(n) for n in range(1, 60)]
    assert passes == sorted(passes)


def test_a_plain_text_read_too_often_is_told_with_advice(tiny_data: Shards) -> None:
    loader = Loader(tiny_data.train, tiny.CONTEXT, 0, True)
    assert _reading_notes(loader, WORN * loader.n_rows) == []
    [told] = _reading_notes(loader, 10 * loader.n_rows)
    assert told == repeats("the text", 10.0)
    for part in ("read 10.0 times", "2.5 times as much text", "--train.budget 4epochs", "--train.patience 3"):
        assert part in told


@pytest.mark.skipif(os.name != "posix", reason="one system is enough")
def test_it_is_told_before_training_and_stands_in_the_log(tmp_path: Path) -> None:
    heard = Heard()
    recipe = tiny.write_recipe(tmp_path, tiny.RECIPE.replace("documents = 60", "documents = 12"))
    made = pipeline.run(recipe, {"train.budget": "6epochs"}, runs=tmp_path / "runs", progress=heard)
    [told] = [sentence for sentence in heard.said if "repeated text teaches less" in sentence]
    assert "is read 6.0 times" in told
    assert told in (made.folder / "log.txt").read_text(encoding="utf-8")
    planned = pipeline.plan(recipe, {"train.budget": "6epochs", "train.patience": 3})
    assert any("repeated text teaches less" in sentence for sentence in planned["advice"])
    assert any("--train.patience 3 may end it earlier" in sentence for sentence in planned["advice"])
