"""`fabula train`: the optimizers and schedules that it names are there, and runs of before they came go on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import pytest

from fabula import checkpoint, pipeline
from fabula.train.optimizers import optimizers
from fabula.train.schedules import schedules
from tests import tiny

Cli = Callable[..., tuple[int, str, str]]

PAIRS = list(zip_longest(optimizers, schedules, fillvalue="wsd"))


def test_the_help_names_every_optimizer_and_schedule_with_a_line_each(cli: Cli) -> None:
    code, out, _ = cli("train", "--help")
    assert code == 0
    lines = [line.strip() for line in out.splitlines()]
    for registry in (optimizers, schedules):
        for name in registry:
            told = [line for line in lines if line.startswith(f"{name} ") and line.endswith(".")]
            assert len(told) == 1, f"{name}: one line, which is not broken"
            assert len(told[0].split()) > 4


@pytest.mark.parametrize(("optimizer", "schedule"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_each_trains_the_smallest_recipe(cli: Cli, tmp_path: Path, optimizer: str, schedule: str) -> None:
    recipe = tiny.write_recipe(tmp_path)
    settings = ("--train.optimizer.kind", optimizer, "--train.schedule.kind", schedule, "--train.budget", "8steps")
    code, out, err = cli("train", recipe, "--runs", tmp_path / "runs", *settings)
    assert code == 0, err
    assert "8 steps" in out
    last = checkpoint.last(tmp_path / "runs" / "tiny")
    assert last is not None
    assert last.step == 8
    assert last.manifest["train_inputs"]["train"]["optimizer"]["kind"] == optimizer
    assert last.manifest["train_inputs"]["train"]["schedule"]["kind"] == schedule


def test_runs_of_before_there_were_these_settings_go_on(tmp_path: Path) -> None:
    """What by default changes nothing is no part of what a run is known by; what was chosen is."""

    def known(**given: str) -> set[str]:
        loaded = pipeline.load(tiny.write_recipe(tmp_path), {f"train.optimizer.{n}": v for n, v in given.items()})
        return set(pipeline.settings_that_matter(loaded)["optimizer"])

    rates = {"kind", "lr", "momentum", "ns_steps", "weight_decay", "table_lr", "vector_lr", "beta1", "beta2", "eps"}
    assert known() == rates
    assert known(cautious="false", base_width="64") == {*rates, "cautious", "base_width"}
    assert known(kind="adamw") == {"kind", "lr", "beta1", "beta2", "eps", "weight_decay"}
    assert known(kind="adamw", cautious="true", decay_tables="true") >= {"cautious", "decay_tables"}


def test_rates_by_width_are_told(cli: Cli, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path)
    settings = ("--train.optimizer.base_width", "64", "--train.optimizer.kind", "adamw", "--train.budget", "2steps")
    code, _, err = cli("train", recipe, "--runs", tmp_path / "runs", *settings)
    assert code == 0, err
    assert "train.optimizer: rates for width 64 in a model of 32: matrices x 2, heads x 2" in err
