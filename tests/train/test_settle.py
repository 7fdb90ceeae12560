"""A time budget keeps to its time although the machine was busy when it was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from fabula.distributed.spread import Spread
from fabula.train.callbacks import Settle
from fabula.train.config import TrainConfig
from fabula.train.run import Plan, settled
from fabula.train.trainer import StepRecord


class Clock(Spread):
    """A clock that a step moves on."""

    time = 100.0

    def now(self) -> float:
        return self.time


@dataclass
class Run:
    """A trainer's number of steps, and its clock."""

    steps: int
    spread: Clock = field(default_factory=Clock)

    @property
    def now(self) -> float:
        return self.spread.time


def steps_taken(planned: int, pace: float) -> tuple[Run, list[Any]]:
    run, told = Run(planned), []
    settle = Settle(100.0, 100.0 / planned, lambda steps, seconds: told.append((steps, seconds)))
    settle.on_start(run)  # type: ignore[arg-type]
    step = 0
    while step < run.steps:
        step += 1
        run.spread.time += pace
        settle.on_step(run, StepRecord(step, 0, 0.0, 0.0, 1.0, 0.0, pace))  # type: ignore[arg-type]
    return run, told


def test_a_faster_machine_gets_more_steps() -> None:
    run, told = steps_taken(planned=100, pace=0.25)
    assert told == [(run.steps, pytest.approx(0.25))]
    assert run.now - 100 == pytest.approx(100, abs=0.3), "the run takes the time that was given"


def test_a_slower_machine_gets_fewer() -> None:
    run, told = steps_taken(planned=1000, pace=0.5)
    assert len(told) == 1, "once"
    assert run.steps == pytest.approx(200, abs=1)
    assert run.now - 100 == pytest.approx(100, abs=0.6)


def test_a_good_plan_stays() -> None:
    for pace in (0.95, 1.01):
        run, told = steps_taken(planned=100, pace=pace)
        assert (run.steps, told) == (100, [(100, 1.0)])


def test_being_late_is_borne_less_than_being_early() -> None:
    run, told = steps_taken(planned=100, pace=1.05)
    assert told == [(95, pytest.approx(1.05))]
    assert run.now - 100 <= 100


def test_a_plan_far_too_short_is_not_the_end() -> None:
    run, told = steps_taken(planned=4, pace=0.5)
    assert len(told) == 1
    assert run.now - 100 == pytest.approx(100, abs=0.6)


def test_the_plan_follows() -> None:
    plan = Plan(100, 8, 8, 40, [50, 100], 90.0, 0.9, {"train.steps": "old", "train.epochs": "kept"})
    slower = settled(plan, 50, 1.8, TrainConfig(checkpoints=2))
    assert (slower.steps, slower.milestones, slower.evaluation_rows) == (50, [25, 50], 20)
    assert slower.rules["train.steps"].startswith("50: 90 s at 1,800.0 ms a step")
    assert settled(plan, 200, 0.45, TrainConfig(checkpoints=2)).evaluation_rows == 40, (
        "a faster pace does not score more rows than planned"
    )
    given = TrainConfig(checkpoints=2, evaluation_rows=40)
    assert settled(plan, 50, 1.8, given).evaluation_rows == 40, "what was asked for stays"
