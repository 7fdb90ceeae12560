"""A recipe twice does nothing twice, nothing trained is replaced silently, and what is damaged is noticed."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fabula import checkpoint, pipeline, storage
from fabula.errors import DamagedError, DivergedError, FabulaError, InputError, SourceError, Stopped
from fabula.evaluate import run as evaluate_stage
from fabula.progress import Silent
from fabula.storage.folders import seal
from fabula.train import run as train_stage
from fabula.train.speed import Speed
from fabula.train.trainer import Trainer
from tests import tiny

SPEED = Speed(step=0.1, evaluation_row=0.01, sampled_token=0.001, save=0.05)


@pytest.fixture(autouse=True)
def _fixed_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def skipped(result: pipeline.RunResult) -> dict[str, bool]:
    return {row["stage"]: row["skipped"] for row in result.summary["stages"]}


def again(run: Path, tmp_path: Path, overrides: dict[str, Any] | None = None, **more: Any) -> pipeline.RunResult:
    """The recipe of `tiny_run` once more, in the folder of a copy of it."""
    return pipeline.run(tiny.write_recipe(tmp_path), overrides, runs=run.parent, **more)


def everything(folder: Path) -> dict[str, bytes]:
    """What a second run must not touch."""
    parts = ("checkpoints", "tokenizer", "data")
    return {str(p): p.read_bytes() for part in parts for p in sorted((folder / part).rglob("*")) if p.is_file()}


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Sends this process a signal after some step of the training."""

    def arrange(step: int, number: int = signal.SIGINT) -> None:
        take = Trainer.take_step

        def stepping(self: Trainer, batch: Any) -> Any:
            made = take(self, batch)
            if self.step == step:
                os.kill(os.getpid(), number)
            return made

        monkeypatch.setattr(Trainer, "take_step", stepping)

    return arrange


def test_a_run_has_everything_in_it(tiny_run: Path) -> None:
    assert {p.name for p in tiny_run.iterdir()} >= {
        *("recipe.toml", "tokenizer", "data", "checkpoints", "metrics.jsonl", "samples.jsonl", "evaluation.json"),
        *("report", "log.txt", "summary.json"),
    }
    lines = storage.read_json_lines(tiny_run / "metrics.jsonl")
    assert [r["step"] for r in lines if r["kind"] == "train"] == list(range(1, tiny.STEPS + 1))
    assert [r["step"] for r in lines if r["kind"] == "evaluation"] == [6, 12, 18, 24]
    samples = storage.read_json_lines(tiny_run / "samples.jsonl")
    assert [(r["step"], r["prompt"]) for r in samples[-2:]] == [(24, "El conejo"), (24, "Había una vez")]
    summary = storage.read_json(tiny_run / "summary.json")
    assert summary["status"] == "finished"
    assert summary["train"]["steps"] == tiny.STEPS
    assert storage.read_json(tiny_run / "evaluation.json")["validation"]["bits_per_byte"] > 0
    assert not list(tiny_run.rglob(".writing-*"))


def test_a_second_time_everything_is_skipped(copied_run: Path, tmp_path: Path) -> None:
    before = everything(copied_run)
    result = again(copied_run, tmp_path)
    assert skipped(result) == dict(tokenizer=True, data=True, train=True, evaluate=True, report=False)
    assert everything(copied_run) == before
    assert result.summary["train"]["steps"] == tiny.STEPS
    assert len(result.samples) == 2


def test_what_does_not_change_the_result_may_change(copied_run: Path, tmp_path: Path) -> None:
    changes = {"train.keep": 5, "train.log_every": 3, "train.threads": 0, "description": "another"}
    assert skipped(again(copied_run, tmp_path, changes))["train"]


def test_another_evaluation_evaluates_only(copied_run: Path, tmp_path: Path) -> None:
    result = again(copied_run, tmp_path, {"evaluate.checkpoint": "last", "evaluate.validation_bytes": 500})
    assert skipped(result) == dict(tokenizer=True, data=True, train=True, evaluate=False, report=False)


@pytest.mark.parametrize(
    ("change", "value", "told"),
    [
        ("train.optimizer.lr", 0.5, "train.optimizer.lr: 0.02 -> 0.5"),
        ("train.budget", "30steps", "train.budget: 24steps -> 30steps"),
        ("model.n_layers", 3, "model.n_layers: 2 -> 3"),
        ("seed", 4, "seed: 0 -> 4"),
        ("tokenizer.vocab_size", 330, "tokenizer.vocab_size: 320 -> 330"),
        ("corpus.documents", 61, "corpus.documents: 60 -> 61"),
        ("data.shard_tokens", 999, "data.shard_tokens: 134217728 -> 999"),
    ],
)
def test_other_settings_are_refused_with_what_differs(
    copied_run: Path, tmp_path: Path, change: str, value: Any, told: str
) -> None:
    before = everything(copied_run)
    with pytest.raises(InputError) as caught:
        again(copied_run, tmp_path, {change: value})
    assert told in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert "--name" in str(caught.value)
    assert everything(copied_run) == before


def test_fresh_replaces(copied_run: Path, tmp_path: Path) -> None:
    result = again(copied_run, tmp_path, {"train.budget": "3steps", "train.checkpoints": 1}, fresh=True)
    assert not any(skipped(result).values())
    assert [c.step for c in checkpoint.checkpoints(copied_run)] == [3]
    assert len(storage.read_json_lines(copied_run / "metrics.jsonl")) == 4


def test_fresh_keeps_the_old_run_when_the_new_one_cannot_begin(copied_run: Path, tmp_path: Path) -> None:
    before = everything(copied_run)
    with pytest.raises(SourceError):
        again(copied_run, tmp_path, {"corpus.source": "nowhere.txt"}, fresh=True)
    with pytest.raises(FabulaError):
        again(copied_run, tmp_path, {"train.budget": "soon"}, fresh=True)
    assert everything(copied_run) == before


def test_fresh_removes_runs_only(tmp_path: Path) -> None:
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "novel.txt").write_text("the only copy")
    with pytest.raises(InputError, match="not a run folder"):
        pipeline.run(tiny.write_recipe(tmp_path), runs=tmp_path / "runs", fresh=True)
    assert (tmp_path / "runs" / "tiny" / "novel.txt").read_text() == "the only copy"


@pytest.mark.parametrize("name", ["..", ".", "../other", "/tmp/other", "a/b"])
def test_a_name_is_no_way_out_of_the_runs_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "log.txt").write_text("mine")
    with pytest.raises(InputError, match="folder's name"):
        pipeline.run(tiny.write_recipe(tmp_path), name=name, runs=tmp_path / "runs", fresh=True)
    assert (tmp_path / "log.txt").read_text() == "mine"


# ---- damage ------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("part", "how"),
    [
        *[
            ("data/train-00000.tokens", "flip"),
            ("data/train-00000.documents", "remove"),
            ("data/manifest.json", "remove"),
        ],
        *[("tokenizer/tokenizer.json", "flip"), ("tokenizer/manifest.json", "remove")],
    ],
)
def test_a_damaged_stage_of_an_untrained_run_is_made_again(
    copied_run: Path, tmp_path: Path, part: str, how: str
) -> None:
    shutil.rmtree(copied_run / "checkpoints")
    before = everything(copied_run)
    if how == "flip":
        flip(copied_run / part)
    else:
        (copied_run / part).unlink()
    notes = Notes()
    again(copied_run, tmp_path, progress=notes)
    assert any("made again" in n for n in notes.notes)
    after = everything(copied_run)
    assert all(after[name] == content for name, content in before.items())


def test_damaged_data_of_a_trained_run_are_made_again_alike(copied_run: Path, tmp_path: Path) -> None:
    before = everything(copied_run)
    flip(copied_run / "data" / "train-00000.tokens")
    notes = Notes()
    result = again(copied_run, tmp_path, progress=notes)
    assert any("made again" in n for n in notes.notes)
    assert skipped(result) == dict(tokenizer=True, data=False, train=True, evaluate=True, report=False)
    assert everything(copied_run) == before


def test_a_damaged_newest_checkpoint_is_trained_again(copied_run: Path, tmp_path: Path) -> None:
    newest = checkpoint.last(copied_run)
    assert newest is not None
    flip(newest.path / checkpoint.WEIGHTS)
    notes = Notes()
    result = again(copied_run, tmp_path, progress=notes)
    assert any("set aside" in n for n in notes.notes)
    assert result.summary["train"]["entered_at_step"] == 18
    made = checkpoint.last(copied_run)
    assert made is not None
    assert made.manifest["files"][checkpoint.WEIGHTS] == newest.manifest["files"][checkpoint.WEIGHTS]


def test_a_cut_newest_checkpoint_does_not_make_a_shorter_run(copied_run: Path, tmp_path: Path) -> None:
    newest = checkpoint.last(copied_run)
    assert newest is not None
    (newest.path / checkpoint.OPTIMIZER).write_bytes(b"")
    result = again(copied_run, tmp_path)
    assert result.summary["train"]["steps"] == tiny.STEPS
    assert not skipped(result)["train"]


def test_killed_after_the_last_checkpoint(copied_run: Path, tmp_path: Path) -> None:
    """The note that training is done was never written."""
    stages = storage.read_json(copied_run / "stages.json")
    for name in ("train", "evaluate"):
        del stages[name]
    storage.write_json(copied_run / "stages.json", stages)
    (copied_run / "evaluation.json").unlink()
    result = pipeline.resume(copied_run)
    assert result.summary["train"]["steps"] == tiny.STEPS
    assert result.evaluation["validation"]["bits_per_byte"] > 0
    lines = storage.read_json_lines(copied_run / "metrics.jsonl")
    assert [r["step"] for r in lines if r["kind"] == "train"] == list(range(1, tiny.STEPS + 1))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"train": 3}', "null"])
def test_a_damaged_list_of_stages(copied_run: Path, tmp_path: Path, content: str) -> None:
    (copied_run / "stages.json").write_text(content)
    with pytest.raises(DamagedError, match=r"stages\.json"):
        again(copied_run, tmp_path)


def test_leftovers_are_swept(copied_run: Path, tmp_path: Path) -> None:
    for folder in (copied_run, copied_run / "checkpoints", copied_run / "report"):
        (folder / ".writing-step-000030-999999999-abcdef01").mkdir()
    again(copied_run, tmp_path)
    assert not list(copied_run.rglob(".writing-*"))


# ---- stop and go on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal_and_resumed_it_is_the_same_run(
    tmp_path: Path, interrupt: Any, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    path = tiny.write_recipe(tmp_path)
    straight = pipeline.run(path, runs=tmp_path / "straight").folder
    with monkeypatch.context():
        interrupt(9, number)
        with pytest.raises(Stopped) as caught:
            pipeline.run(path, runs=tmp_path / "stopped")
    stopped = tmp_path / "stopped" / "tiny"
    assert caught.value.exit_code == code
    assert f"the state at step 9 is saved. Continue with: fabula resume {stopped}" in str(caught.value)
    assert storage.read_json(stopped / "summary.json")["status"] == "stopped"
    monkeypatch.undo()
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)
    result = pipeline.resume(stopped)
    assert result.summary["train"]["steps"] == tiny.STEPS
    assert result.summary["train"]["entered_at_step"] == 9
    curves = []
    for folder in (straight, stopped):
        lines = storage.read_json_lines(folder / "metrics.jsonl")
        assert [r["step"] for r in lines if r["kind"] == "train"] == list(range(1, tiny.STEPS + 1))
        curves.append([(r["kind"], r["step"], r["loss"]) for r in lines])
    assert curves[0] == curves[1]
    a, b = (checkpoint.last(folder) for folder in (straight, stopped))
    assert a is not None
    assert b is not None
    for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):
        assert a.manifest["files"][name] == b.manifest["files"][name]
    samples = [storage.read_json_lines(f / "samples.jsonl") for f in (straight, stopped)]
    assert samples[0] == samples[1]
    evaluations = [storage.read_json(f / "evaluation.json") for f in (straight, stopped)]
    assert evaluations[0] == evaluations[1]


def test_giving_the_same_command_again_continues_too(
    tmp_path: Path, interrupt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.write_recipe(tmp_path)
    interrupt(7)
    with pytest.raises(Stopped):
        pipeline.run(path, runs=tmp_path)
    monkeypatch.undo()
    result = pipeline.run(path, runs=tmp_path)
    assert result.summary["train"]["entered_at_step"] == 7
    assert skipped(result) == dict(tokenizer=True, data=True, train=False, evaluate=False, report=False)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("fabula.data.run.Shards", "nothing was trained yet"),
        ("fabula.evaluate.run.score_documents", "Continue with: fabula resume"),
    ],
)
def test_stopped_elsewhere_it_also_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, told: str
) -> None:
    def stops(*a: Any, **k: Any) -> Any:
        raise Stopped("stopped while working", 15)

    with monkeypatch.context() as patch:
        patch.setattr(place, stops)
        with pytest.raises(Stopped, match=told) as caught:
            pipeline.run(tiny.write_recipe(tmp_path), {"train.budget": "2steps"}, runs=tmp_path / "runs")
    assert caught.value.exit_code == 143
    result = pipeline.run(tmp_path / "tiny.toml", {"train.budget": "2steps"}, runs=tmp_path / "runs")
    assert result.evaluation


def test_resume_of_what_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", tiny.write_recipe(tmp_path)):
        with pytest.raises(InputError, match="not a run folder"):
            pipeline.resume(path)


def test_resume_changes_nothing_that_matters(copied_run: Path) -> None:
    with pytest.raises(InputError, match=r"train\.budget: a resumed run is the same run; only train\.device"):
        pipeline.resume(copied_run, overrides={"train.budget": "99steps"})
    assert skipped(pipeline.resume(copied_run, overrides={"train.keep": 4}))["train"]


def test_without_its_source_a_run_still_goes_on(
    tmp_path: Path, tiny_corpus: Path, interrupt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(9)
    with pytest.raises(Stopped):
        pipeline.run(tiny.write_recipe(tmp_path), {"corpus.source": tiny_corpus}, runs=tmp_path / "runs")
    monkeypatch.undo()
    tiny_corpus.unlink()
    assert pipeline.resume(tmp_path / "runs" / "tiny").summary["train"]["steps"] == tiny.STEPS


def test_copied_elsewhere_a_run_still_works(tiny_run: Path, tmp_path: Path) -> None:
    import fabula

    elsewhere = tmp_path / "otro sitio 🦊" / "mi corrida"
    shutil.copytree(tiny_run, elsewhere)
    a, b = (fabula.load(folder).generate("El", max_new_tokens=5) for folder in (tiny_run, elsewhere))
    assert a == b
    result = pipeline.resume(elsewhere)
    assert skipped(result) == dict(tokenizer=True, data=True, train=True, evaluate=True, report=False) or skipped(
        result
    ) == dict(train=True, evaluate=True, report=False)


# ---- bad input ---------------------------------------------------------------------------------------------


def test_a_changed_text_is_refused(tmp_path: Path, tiny_corpus: Path) -> None:
    path, changes = tiny.write_recipe(tmp_path), {"corpus.source": tiny_corpus, "train.budget": "2steps"}
    pipeline.run(path, changes, runs=tmp_path / "runs")
    with tiny_corpus.open("a") as file:
        file.write("<|endoftext|>\nY colorín, colorado.\n")
    with pytest.raises(InputError, match="the text is not the same"):
        pipeline.run(path, changes, runs=tmp_path / "runs")


def test_a_text_shorter_than_one_context(tmp_path: Path) -> None:
    source = tmp_path / "short.jsonl"
    source.write_text('{"text": "Hola"}\n{"text": "Adiós"}\n{"text": "Bien"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"tokens, one row needs 33"):
        pipeline.run(
            tiny.write_recipe(tmp_path),
            {"corpus.source": source, "tokenizer.vocab_size": 262, "corpus.validation": 0.5},
            runs=tmp_path / "runs",
        )


def test_a_stride_longer_than_the_context_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stride"):
        pipeline.run(tiny.write_recipe(tmp_path), {"evaluate.stride": 33, "train.budget": "2steps"}, runs=tmp_path)
    assert not (tmp_path / "tiny" / "checkpoints").exists()


def test_a_run_of_before_there_was_a_setting_goes_on(copied_run: Path, tmp_path: Path) -> None:
    """Whatever section the setting came into: at its default the run is the same one, otherwise it is told alone."""
    for made in checkpoint.checkpoints(copied_run):
        inputs = made.manifest["train_inputs"]
        del inputs["generate"]["lookup"], inputs["generate"]["typical_p"], inputs["model"]["logit_cap"]
        del inputs["train"]["skip_spikes"], inputs["train"]["optimizer"]["eps"]
        manifest = {**made.manifest, "train_inputs": inputs, "train_key": storage.hash_data(inputs)}
        del manifest["files"]
        (made.path / storage.MANIFEST).unlink()
        seal(made.path, manifest)
    stages = storage.read_json(copied_run / "stages.json")
    stages["train"]["key"] = storage.hash_data(inputs)
    storage.write_json(copied_run / "stages.json", stages)
    before = everything(copied_run)
    assert skipped(again(copied_run, tmp_path))["train"]
    assert skipped(pipeline.resume(copied_run))["train"]
    assert everything(copied_run) == before
    with pytest.raises(InputError, match=r"would change \(generate\.lookup: None -> 8\); choose"):
        again(copied_run, tmp_path, {"generate.lookup": 8})


def test_the_threads_of_one_run_are_not_those_of_the_next(
    copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a comparison: a count that one run asks for, or finds to be fastest, stays its own."""
    before, seen = torch.get_num_threads(), []
    wanted = before + 1
    evaluate = evaluate_stage.run_on_split
    monkeypatch.setattr(
        evaluate_stage, "run_on_split", lambda *a: (seen.append(torch.get_num_threads()), evaluate(*a))[1]
    )
    again(copied_run, tmp_path, {"train.threads": wanted, "evaluate.validation_bytes": 1500})
    assert (seen, torch.get_num_threads()) == ([wanted], before)


def test_a_run_is_evaluated_in_the_format_that_it_was_trained_in(
    copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabula.train.precision.relative_time", lambda *a: 0.1)
    formats: list[str] = []
    evaluate = evaluate_stage.run_on_split
    monkeypatch.setattr(evaluate_stage, "run_on_split", lambda *a: (formats.append(a[4].dtype), evaluate(*a))[1])
    again(copied_run, tmp_path, {"train.precision": "auto", "evaluate.validation_bytes": 1500})
    assert formats == ["float32"]


def with_trainer(run: Path, change: Callable[[Any], object]) -> None:
    """Take the newest checkpoint of a run away, and change what the trainer kept in the one before."""
    storage.remove(checkpoint.checkpoints(run)[-1].path)
    newest = checkpoint.checkpoints(run)[-1]
    kept = checkpoint.trainer_data(newest)
    change(kept)
    storage.write_json(newest.path / checkpoint.TRAINER, kept)
    (newest.path / storage.MANIFEST).unlink()
    seal(newest.path, {name: value for name, value in newest.manifest.items() if name != "files"})


def test_what_is_compiled_again_has_the_rows_that_fitted(
    copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_trainer(copied_run, lambda kept: kept.update(micro_rows=1))
    rows: list[int] = []
    objective = train_stage._objective
    monkeypatch.setattr(train_stage, "_objective", lambda *a: (rows.append(a[3].tokens.shape[0]), objective(*a))[1])
    again(copied_run, tmp_path)
    assert rows == [1]


def test_a_run_whose_plan_has_no_format_goes_on_in_that_of_its_environment(
    copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of before formats were measured: what was trained in float32 is not gone on with in another one."""
    monkeypatch.setattr("fabula.train.precision.relative_time", lambda *a: 0.1)
    with_trainer(copied_run, lambda kept: kept["plan"].pop("dtype"))
    result = again(copied_run, tmp_path, {"train.precision": "auto"})
    assert result.summary["environment"]["dtype"] == "float32"


def test_a_model_whose_score_is_not_finite_has_diverged(
    copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = evaluate_stage.run_on_split

    def scored(*given: Any) -> Any:
        made = evaluate(*given)
        return replace(made, score=replace(made.score, nats=math.nan))

    monkeypatch.setattr(evaluate_stage, "run_on_split", scored)
    with pytest.raises(DivergedError, match=r"step-0000\d\d: its score on the validation text is not finite"):
        again(copied_run, tmp_path, {"evaluate.validation_bytes": 1500})
