"""A text in the place of a recipe: what is chosen is told, kept, gone on with, and left alone where it was given."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fabula import pipeline, recipe, storage
from fabula.corpus.fables import Fables
from fabula.defaults import request
from fabula.defaults import run as defaults_stage
from fabula.errors import ConfigError, InputError, SourceError, Stopped
from fabula.train.speed import Speed
from tests import tiny

Cli = Callable[..., tuple[int, str, str]]

SPEED = Speed(step=0.1, evaluation_row=0.01, sampled_token=0.001, save=0.05)

# A model for tests, laid on what is chosen.
TINY = {
    "model.d_model": 16,
    "model.n_layers": 1,
    "model.ffn.d_ff": 16,
    "model.attention.n_heads": 1,
    "model.attention.n_kv_heads": 1,
    "model.attention.head_dim": 16,
    "model.context_length": 32,
    "train.batch_tokens": 64,
    "train.checkpoints": 1,
    "train.threads": 1,
    "generate.max_new_tokens": 4,
}
OPTIONS = [part for name, value in TINY.items() for part in (f"--{name}", str(value))]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    fables = Fables("es", 0)
    path = tmp_path / "mis cuentos.txt"
    path.write_text("\n\n".join(fables[i].text for i in range(40)), encoding="utf-8")
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The machine is said to take 0.1 s a step; what it was measured with is listed."""
    calls: list[Any] = []

    def measure(config: Any, model: Any, *rest: Any) -> Speed:
        calls.append((config, model))
        return SPEED

    monkeypatch.setattr("fabula.defaults.run.measure", measure)
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)
    return calls


def choose(text: Path | str, **overrides: Any) -> recipe.Recipe:
    return defaults_stage.run(str(text), [(name, str(value)) for name, value in overrides.items()])


# ---- whole runs --------------------------------------------------------------------------------------------


def test_a_text_and_a_budget_are_enough(cli: Cli, text: Path, tmp_path: Path, measured: list[Any]) -> None:
    code, out, err = cli("run", text, "--budget", "3steps", "--runs", tmp_path / "runs", *OPTIONS)
    assert code == 0, err
    folder = tmp_path / "runs" / "mis-cuentos"
    assert f"run         {folder}" in out
    for name in ("model.preset", "tokenizer.most_tokens", "model.dropout", "train.optimizer.kind"):
        assert any(line.strip().startswith(name) for line in err.splitlines()), name
    # Told before anything is done.
    assert err.index("model.preset") < err.index("learning the tokenizer")
    assert measured == []  # steps are no time
    stored = recipe.load(folder / "recipe.toml")
    assert stored.rules["model.preset"].startswith("fabula-1m: ")
    assert stored.model["d_model"] == 16
    assert stored.train.batch_tokens == 64
    assert "model.context_length" not in stored.rules  # it was given
    assert storage.read_json(folder / "summary.json")["status"] == "finished"
    assert "model.preset" in (folder / "log.txt").read_text(encoding="utf-8")


def test_the_same_again_goes_on_and_another_is_refused(
    cli: Cli, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["--runs", tmp_path / "runs", *OPTIONS]
    assert cli("run", text, "--budget", "3steps", *where)[0] == 0
    monkeypatch.setattr("fabula.defaults.run.choose", lambda *_: pytest.fail("chosen again"))
    code, out, err = cli("run", text, "--train.budget", "3steps", "--train.keep", "5", *where)
    assert code == 0, err
    assert "train up to date" in out
    assert cli("resume", tmp_path / "runs" / "mis-cuentos")[0] == 0
    monkeypatch.undo()
    code, _, err = cli("run", text, "--budget", "4steps", *where)
    assert code == 2
    assert "train.budget: 3steps -> 4steps" in err
    assert cli("run", text, "--budget", "4steps", "--name", "other", *where)[0] == 0
    assert cli("run", text, "--budget", "4steps", "--fresh", *where)[0] == 0


def test_the_recipe_that_it_leaves_can_be_edited_and_run(cli: Cli, text: Path, tmp_path: Path) -> None:
    where = ["--runs", tmp_path / "runs"]
    assert cli("run", text, "--budget", "3steps", *where, *OPTIONS)[0] == 0
    edited = tmp_path / "edited.toml"
    edited.write_text((tmp_path / "runs" / "mis-cuentos" / "recipe.toml").read_text(encoding="utf-8"), encoding="utf-8")
    given = ("--train.budget", "2steps", "--train.batch_tokens", "512")
    code, _, err = cli("run", edited, "--name", "edited", *given, *where)
    assert code == 0
    assert "  tokenizer.most_tokens  " in err
    assert "train.batch_tokens  " not in err, "what was given was not chosen"


def test_one_document_with_json(cli: Cli, text: Path, tmp_path: Path) -> None:
    code, out, err = cli("run", text, "--budget", "2steps", "--runs", tmp_path / "runs", "--json", *OPTIONS)
    assert code == 0
    assert json.loads(out)["summary"]["train"]["steps"] == 2
    assert "model.preset" in err


def test_from_python(text: Path, tmp_path: Path) -> None:
    made = pipeline.run(text, {"train.budget": "2steps", **TINY}, name="mine", runs=tmp_path / "runs")
    assert made.folder == tmp_path / "runs" / "mine"


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(letter * 300 for letter in "abcdefghijklmnopqrstuvwxyz"),
        "one two\n\n" * 30 + "three four five\n\n" * 50 + "six\n\n" * 90,
        "".join(f"Line {i * i} of {i}.\n\n" for i in range(500)),
    ],
)
def test_ten_kilobytes_of_anything(content: str, tmp_path: Path) -> None:
    path = tmp_path / "small.txt"
    path.write_text(content, encoding="utf-8")
    made = pipeline.run(path, {"train.budget": "2steps", **TINY}, runs=tmp_path / "runs")
    assert made.summary["train"]["steps"] == 2
    assert "validation" in recipe.load(made.folder / "recipe.toml").rules["corpus.split"]


# ---- what is chosen ----------------------------------------------------------------------------------------


def test_a_time_is_measured_at_the_size_that_is_chosen(measured: list[Any]) -> None:
    made = choose("fables:es", **{"train.budget": "3m", "train.threads": 1})
    config, model = measured[-1]
    assert 1 <= len(measured) <= 3
    assert (config.batch_tokens, model.d_model) == (made.train.batch_tokens, 128)
    # FLOP/s of a step of 0.1 s.
    flops = model.training_flops_per_token() * config.batch_tokens / 0.1
    assert f"at {flops / 1e9:,.0f} GFLOP/s" in made.rules["model.preset"]


def test_a_machine_that_never_agrees_with_itself_is_asked_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def measure(config: Any, model: Any, *rest: Any) -> Speed:
        calls.append(model)
        return replace(SPEED, step=0.1 if len(calls) % 2 else 1e-6)

    monkeypatch.setattr("fabula.defaults.run.measure", measure)
    made = choose("fables:es", **{"train.budget": "10m"})
    assert len(calls) <= 3
    assert made.rules["model.preset"].startswith(f"{made.model['preset']}: ")


def test_a_signal_is_heard_while_the_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(config: Any, model: Any, *rest: Any) -> Speed:
        os.kill(os.getpid(), signal.SIGINT)
        rest[-1].check("measuring this machine")
        return pytest.fail("not heard")

    monkeypatch.setattr("fabula.defaults.run.measure", measure)
    with pytest.raises(Stopped, match="stopped while measuring this machine"):
        choose("fables:es", **{"train.budget": "10m"})


def test_without_a_budget_it_is_five_minutes(text: Path, measured: list[Any]) -> None:
    assert choose(text).train.budget == request.BUDGET == "5m"


def test_settings_that_are_given_stand(text: Path, measured: list[Any]) -> None:
    settings = {"model.preset": "fabula-3m", "tokenizer.vocab_size": 300, "train.optimizer.kind": "adamw", "seed": 7}
    made = choose(text, **settings)
    assert made.model["preset"] == "fabula-3m"
    assert (made.tokenizer.vocab_size, made.tokenizer.most_tokens, made.seed) == (300, 0, 7)
    assert type(made.train.optimizer).__name__ == "AdamWConfig"
    assert not made.rules.keys() & settings.keys()


def test_another_kind_of_tokenizer_is_left_as_it_is(text: Path, measured: list[Any]) -> None:
    assert choose(text, **{"tokenizer.kind": "byte"}).tokenizer.most_tokens == 0


def test_plan_says_what_would_be_chosen(cli: Cli, text: Path, measured: list[Any]) -> None:
    code, out, _ = cli("plan", text, "--budget", "2m", *OPTIONS)
    assert code == 0
    assert "\nmodel.preset" in out
    code, out, _ = cli("plan", text, "--budget", "2m", "--json", *OPTIONS)
    planned = json.loads(out)
    assert code == 0
    chosen = {row["name"]: row for row in planned["choices"]}
    assert chosen["model.preset"]["value"] == "fabula-1m"
    assert "weights" in chosen["model.preset"]["reason"]
    assert planned["rules"]["model.preset"].startswith("fabula-1m: ")


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "nowhere.txt"], "no such text: nowhere.txt"),
        (["run", "fabula-1m"], "TEXT --model.preset fabula-1m"),
        (["run", "RECIPE"], "did you mean"),
        (["run", "*.none"], "no file matches"),
        (["run", ""], "names nothing"),
        (["run", "nowhere.toml"], "no such recipe"),
        (["run", "TEXT", "--budget", "soon"], "is not a budget"),
        (["run", "TEXT", "--budget", "3m", "--train.budget", "3m"], "give one of them"),
        (["run", "TEXT", "--scale", "cpu"], "not a recipe"),
        (["run", "TEXT", "--corpus.source", "other.txt"], "leave out --corpus.source"),
        (["run", "TEXT", "--model.presett", "fabula-1m"], "model.presett"),
        (["run", "TEXT", "--model.preset", "fabula-2m"], "did you mean"),
        (["run", "TEXT", "--model.preset", "fabula-translate-4m"], "decoder-only"),
        (["train", "TEXT", "--find-lr"], "needs a recipe"),
        (["plan", "TEXT", "--corpus.x", "1"], "corpus.x"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_made(
    cli: Cli, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"TEXT": str(text), "RECIPE": str(tiny.write_recipe(tmp_path))[: -len(".toml")]}
    code, out, err = cli(*(given.get(part, part) for part in arguments))
    assert code == 2, err
    assert told in err
    assert out == ""
    assert not (tmp_path / "runs").exists()


def test_pairs_have_their_own_recipe(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("one\tuno\n" * 30, encoding="utf-8")
    with pytest.raises(InputError, match=r"recipes/translate\.toml|translates"):
        choose(path, **{"corpus.source_field": "1", "corpus.target_field": "2"})


def test_a_run_is_no_text(tiny_run: Path) -> None:
    with pytest.raises(InputError, match="fabula resume"):
        choose(tiny_run)


def test_all_that_is_wrong_is_told_before_the_text_is_read() -> None:
    with pytest.raises(ConfigError) as caught:
        choose("fables:xx", **{"model.layers": 3, "train.clip": -1})
    assert len(caught.value.problems) == 2
    with pytest.raises(SourceError):
        choose("fables:xx")
