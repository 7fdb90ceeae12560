"""A comparison is fair, goes on where it was stopped, and survives a variant that fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula import checkpoint, pipeline, storage
from fabula.compare import run as stage
from fabula.config import Data
from fabula.data import run as data_stage
from fabula.errors import BusyError, ConfigError, DamagedError, DivergedError, InputError, MachineError, Stopped
from fabula.tokenizer import run as tokenizer_stage
from fabula.train import run as train_stage
from fabula.train.speed import Speed
from fabula.train.trainer import Trainer
from tests import tiny

VARY = ("train.optimizer.kind=muon,adamw",)


@pytest.fixture(autouse=True)
def _fixed_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = Speed(step=0.1, evaluation_row=0.01, sampled_token=0.001, save=0.05)
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: speed)


def compare(folder: Path, *vary: str, **more: Any) -> Data:
    settings = {"train.budget": "6steps", "train.checkpoints": 2, **more.pop("overrides", {})}
    config = stage.CompareConfig(
        recipe=tiny.write_recipe(folder), vary=vary or VARY, overrides=settings, runs=folder / "runs", **more
    )
    return stage.run(config)


def folders(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir() and path.name != "report"}


def weights(folder: Path) -> str:
    newest = checkpoint.last(folder)
    assert newest is not None
    return str(newest.manifest["files"][checkpoint.WEIGHTS]["sha256"])


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every training step from here on."""
    taken: list[int] = []
    take = Trainer.take_step

    def stepping(self: Trainer, batch: Any) -> Any:
        taken.append(self.step)
        return take(self, batch)

    monkeypatch.setattr(Trainer, "take_step", stepping)
    return taken


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Sends this process a signal after so many steps of all runs together."""

    def arrange(after: int, number: int) -> None:
        take = Trainer.take_step
        count = iter(range(1, 10_000))

        def stepping(self: Trainer, batch: Any) -> Any:
            made = take(self, batch)
            if next(count) == after:
                os.kill(os.getpid(), number)
            return made

        monkeypatch.setattr(Trainer, "take_step", stepping)

    return arrange


# ---- a whole one -------------------------------------------------------------------------------------------


def test_what_a_comparison_comes_to(tmp_path: Path) -> None:
    made = compare(tmp_path)
    root = tmp_path / "runs" / "tiny-compare"
    assert made == storage.read_json(root / "comparison.json")
    assert made["status"] == "finished"
    assert folders(root) == {"muon-seed0", "muon-seed1", "adamw-seed0", "adamw-seed1"}
    assert (root / "report" / "index.html").exists()
    first, other = made["variants"]
    assert (first["label"], other["label"]) == ("muon", "adamw")
    assert (first["steps"], first["tokens"]) == (6, 6 * 128)
    assert first["flops"] == 6 * 128 * first["training_flops_per_token"]
    assert first["difference"] is None
    for row in made["variants"]:
        scores = [run["bits_per_byte"] for run in row["runs"]]
        assert [run["seed"] for run in row["runs"]] == [0, 1]
        assert row["bits_per_byte"]["mean"] == pytest.approx(sum(scores) / 2)
        assert row["bits_per_byte"]["n"] == 2
        assert [[point["step"] for point in run["curve"]] for run in row["runs"]] == [[3, 6]] * 2
    pairs = [b["bits_per_byte"] - a["bits_per_byte"] for a, b in zip(first["runs"], other["runs"], strict=True)]
    assert other["difference"]["mean"] == pytest.approx(sum(pairs) / 2)
    assert len({run["validation"] for row in made["variants"] for run in row["runs"]}) == 1
    assert made["notes"] == []


def test_a_run_of_a_comparison_is_a_run_like_any_other(tmp_path: Path) -> None:
    made = compare(tmp_path, seeds=1)
    inside = tmp_path / "runs" / "tiny-compare" / "adamw-seed0"
    rows = made["variants"][1]["evaluation_rows"]
    alone = pipeline.run(
        tmp_path / "tiny.toml",
        {
            "train.budget": "6steps",
            "train.checkpoints": 2,
            "train.optimizer.kind": "adamw",
            "train.evaluation_rows": rows,
        },
        runs=tmp_path / "alone",
    )
    assert weights(alone.folder) == weights(inside)
    assert alone.evaluation["validation"]["bits_per_byte"] == made["variants"][1]["runs"][0]["bits_per_byte"]
    assert pipeline.resume(inside).summary["status"] == "finished"
    with pytest.raises(InputError, match="holds a comparison"):
        pipeline.run(tmp_path / "tiny.toml", name="tiny-compare", runs=tmp_path / "runs", fresh=True)


def test_the_same_order_for_every_variant_of_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[str, int], list[int]] = {}
    take = Trainer.take_step

    def stepping(self: Trainer, batch: Any) -> Any:
        kind = "+".join(type(o).__name__ for o in self.optimizers)
        seen.setdefault((kind, self.source.seed), []).append(int(batch.tokens.sum()))  # type: ignore[attr-defined]
        return take(self, batch)

    monkeypatch.setattr(Trainer, "take_step", stepping)
    compare(tmp_path, overrides={"seed": 5})
    orders = {key: tuple(sums) for key, sums in seen.items()}
    assert {seed for _, seed in orders} == {5, 6}
    assert len(orders) == 4
    assert len(set(orders.values())) == 2, "one order for each seed, whatever the variant"


def test_text_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[int] = []
    cut: list[Path] = []
    learn, prepare = tokenizer_stage.run, data_stage.run
    monkeypatch.setattr(tokenizer_stage, "run", lambda *a: (learnt.append(1), learn(*a))[1])
    monkeypatch.setattr(data_stage, "run", lambda *a: (cut.append(a[3]), prepare(*a))[1])
    made = compare(tmp_path, "tokenizer.vocab_size=300,320", "model.n_layers=1,2")
    assert len(learnt) == 2
    assert len(cut) == 2
    root = tmp_path / "runs" / "tiny-compare"
    tokens = "data/train-00000.tokens"
    shared = [(root / f"vocab_size-300-n_layers-{n}-seed{s}" / tokens).stat().st_ino for n in (1, 2) for s in (0, 1)]
    assert len(set(shared)) == 1, "the same bytes on the disk"
    assert any("tokenizer differs" in note for note in made["notes"])
    for row in made["variants"]:
        for run in row["runs"]:
            storage.verify(root / run["folder"] / "data")


def test_a_shared_file_that_goes_is_still_there_for_the_others(tmp_path: Path) -> None:
    compare(tmp_path)
    root = tmp_path / "runs" / "tiny-compare"
    storage.remove(root / "muon-seed0")
    assert pipeline.resume(root / "adamw-seed1").evaluation
    assert compare(tmp_path)["status"] == "finished"


# ---- the budget --------------------------------------------------------------------------------------------


def test_the_same_flops(tmp_path: Path) -> None:
    made = compare(tmp_path, "model.n_layers=1,6", seeds=1, match="flops", overrides={"train.budget": "40steps"})
    small, large = made["variants"]
    assert small["steps"] == 40
    assert large["steps"] < 40
    assert large["flops"] == pytest.approx(small["flops"], rel=0.05)
    assert [row["runs"][0]["steps"] for row in made["variants"]] == [small["steps"], large["steps"]]


def test_a_time_becomes_tokens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = compare(tmp_path, seeds=1, overrides={"train.budget": "2s"})
    steps = made["variants"][0]["steps"]
    assert made["variants"][1]["steps"] == steps
    assert made["budget"]["tokens"] == steps * 128
    assert "fixed for all" in made["budget"]["rule"]
    assert "at 100.0 ms a step" in made["budget"]["rule"]
    # More seeds later, on a machine that is faster by then: still the same budget.
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: Speed(0.001, 0.01, 0.001, 0.05))
    again = compare(tmp_path, seeds=2, overrides={"train.budget": "2s"})
    assert again["budget"] == made["budget"]
    assert {row["steps"] for row in again["variants"]} == {steps}


def test_all_are_measured_on_the_same_validation_text(tmp_path: Path) -> None:
    made = compare(tmp_path, "model.context_length=16,32", seeds=1)
    short, long = made["variants"]
    assert short["evaluation_rows"] == pytest.approx(2 * long["evaluation_rows"], abs=1)
    assert any("context differs" in note for note in made["notes"])
    other = compare(tmp_path, "corpus.validation=0.2,0.4", seeds=1, name="other")
    assert any("do not compare" in note for note in other["notes"])


# ---- stopped and called again ------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_and_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: Any, number: int, code: int
) -> None:
    (tmp_path / "straight").mkdir()
    straight = compare(tmp_path / "straight")
    with monkeypatch.context():
        interrupt(6 + 4, number)  # in the second run
        with pytest.raises(Stopped, match=r"1 of 4 runs finished.*The same command goes on") as caught:
            compare(tmp_path)
    assert caught.value.exit_code == code
    root = tmp_path / "runs" / "tiny-compare"
    assert storage.read_json(root / "comparison.json")["status"] == "stopped"
    assert "3 of 4 runs are not done" in (root / "report" / "index.html").read_text("utf-8")
    monkeypatch.undo()
    _fixed = Speed(step=0.1, evaluation_row=0.01, sampled_token=0.001, save=0.05)
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: _fixed)
    made = compare(tmp_path)
    assert made["status"] == "finished"
    for row, same in zip(made["variants"], straight["variants"], strict=True):
        assert row["bits_per_byte"] == same["bits_per_byte"]
        assert [run["curve"] for run in row["runs"]] == [run["curve"] for run in same["runs"]]
    for name in folders(root):
        assert weights(root / name) == weights(tmp_path / "straight" / "runs" / "tiny-compare" / name)


def test_what_is_finished_is_not_repeated_and_seeds_may_be_added(tmp_path: Path, steps_taken: list[int]) -> None:
    made = compare(tmp_path)
    assert len(steps_taken) == 4 * 6
    again = compare(tmp_path)
    assert len(steps_taken) == 4 * 6
    assert again["variants"] == made["variants"]
    assert again["started"] == made["started"]
    more = compare(tmp_path, seeds=3)
    assert len(steps_taken) == 6 * 6
    assert more["variants"][0]["runs"][:2] == made["variants"][0]["runs"]
    assert more["variants"][1]["difference"]["n"] == 3
    with pytest.raises(InputError, match="seeds: 3 -> 2"):
        compare(tmp_path)


def test_another_comparison_of_that_name_is_refused(tmp_path: Path) -> None:
    made = compare(tmp_path, seeds=1)
    for vary, more, told in (
        (("train.optimizer.kind=adamw,muon",), {}, "vary.train.optimizer.kind"),
        (("model.n_layers=1,2",), {}, "vary.model.n_layers: None"),
        (VARY, {"match": "flops"}, "match: tokens -> flops"),
        (VARY, {"overrides": {"train.clip": 2.0}}, "recipe.train.clip: 1.0 -> 2.0"),
        (VARY, {"overrides": {"corpus.documents": 70}}, "recipe.corpus.documents: 60 -> 70"),
    ):
        with pytest.raises(InputError, match="holds another comparison") as caught:
            compare(tmp_path, *vary, seeds=1, **more)
        assert told in str(caught.value)
        assert "--fresh" in str(caught.value)
    assert storage.read_json(tmp_path / "runs" / "tiny-compare" / "comparison.json") == made
    # How it is done may differ.
    assert compare(tmp_path, seeds=1, overrides={"train.keep": 4, "description": "x"})["variants"] == made["variants"]
    fresh = compare(tmp_path, "model.n_layers=1,2", seeds=1, fresh=True)
    assert folders(tmp_path / "runs" / "tiny-compare") == {"n_layers-1-seed0", "n_layers-2-seed0"}
    assert fresh["status"] == "finished"


def test_a_changed_text_is_another_comparison(tmp_path: Path, tiny_corpus: Path) -> None:
    changes = {"corpus.source": tiny_corpus}
    compare(tmp_path, seeds=1, overrides=changes)
    with tiny_corpus.open("a") as file:
        file.write("<|endoftext|>\nY colorín, colorado.\n")
    with pytest.raises(InputError, match="the text is not the same"):
        compare(tmp_path, seeds=1, overrides=changes)


def test_what_is_no_comparison_is_left_alone(tmp_path: Path) -> None:
    there = tmp_path / "runs" / "mine"
    there.mkdir(parents=True)
    (there / "novel.txt").write_text("the only copy")
    for fresh in (False, True):
        with pytest.raises(InputError, match="is not a comparison"):
            compare(tmp_path, name="mine", fresh=fresh)
    assert [p.name for p in there.iterdir()] == ["novel.txt"]
    with pytest.raises(ConfigError, match="folder's name"):
        compare(tmp_path, name="../mine")


def test_a_damaged_account_is_told(tmp_path: Path) -> None:
    compare(tmp_path, seeds=1)
    (tmp_path / "runs" / "tiny-compare" / "comparison.json").write_text("[]")
    with pytest.raises(DamagedError, match="not a comparison of this version"):
        compare(tmp_path, seeds=1)


def test_two_processes_do_not_share_one(tmp_path: Path) -> None:
    with storage.lock(tmp_path / "runs" / "tiny-compare"), pytest.raises(BusyError):
        compare(tmp_path)


# ---- what goes wrong ---------------------------------------------------------------------------------------


def test_nothing_is_made_for_a_recipe_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adamx"):
        compare(tmp_path, "train.optimizer.kind=muon,adamx")
    assert not (tmp_path / "runs").exists()


def test_what_does_not_fit_is_told_before_training(tmp_path: Path, steps_taken: list[int]) -> None:
    prompt = "Había una vez un conejo que no cabía en ninguna parte y lloraba"
    with pytest.raises(ConfigError) as caught:
        compare(tmp_path, "model.context_length=8,12,256", overrides={"generate.prompts": prompt})
    assert len(caught.value.problems) == 2
    assert all("generate.prompts" in problem for problem in caught.value.problems)
    assert steps_taken == []
    # Nothing was trained: the name may be used for another one.
    assert compare(tmp_path, seeds=1)["status"] == "finished"
    assert folders(tmp_path / "runs" / "tiny-compare") == {"muon-seed0", "adamw-seed0"}


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (DivergedError("loss is NaN at step 3"), "diverged", "loss is NaN at step 3"),
        (MachineError("one row does not fit"), "failed", "one row does not fit"),
        (RuntimeError("a bug"), "failed", "RuntimeError: a bug"),
    ],
)
def test_a_variant_that_fails_does_not_cost_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str, told: str
) -> None:
    train = train_stage.run
    tried: list[Path] = []

    def failing(config: Any, model: Any, tokenizer: Any, shards: Any, folder: Path, **more: Any) -> Any:
        tried.append(folder)
        if folder.name == "muon-seed1":
            raise error
        return train(config, model, tokenizer, shards, folder, **more)

    monkeypatch.setattr(train_stage, "run", failing)
    made = compare(tmp_path)
    first, other = made["variants"]
    assert made["status"] == "finished"
    assert [(label, run["seed"], run["status"]) for label, run in stage.failures(made)] == [("muon", 1, status)]
    assert told in first["runs"][1]["reason"]
    assert first["bits_per_byte"]["n"] == 1
    assert other["bits_per_byte"]["n"] == 2
    assert other["difference"]["n"] == 1
    assert told in (tmp_path / "runs" / "tiny-compare" / "report" / "index.html").read_text("utf-8")
    # What diverged would diverge again; anything else is tried again.
    tried.clear()
    compare(tmp_path)
    assert [folder.name for folder in tried] == ([] if status == "diverged" else ["muon-seed1"])


def test_a_first_variant_without_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = train_stage.run

    def failing(config: Any, model: Any, tokenizer: Any, shards: Any, folder: Path, **more: Any) -> Any:
        if folder.name.startswith("muon"):
            raise DivergedError("no")
        return train(config, model, tokenizer, shards, folder, **more)

    monkeypatch.setattr(train_stage, "run", failing)
    made = compare(tmp_path, seeds=1)
    assert made["variants"][0]["bits_per_byte"] is None
    assert made["variants"][1]["difference"] is None
