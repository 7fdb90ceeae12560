"""The rate ends where it should, at the last step of the run, and moves as promised."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula.train.schedules import Cosine, ScheduleConfig, WarmupStableDecay, schedules

SHARES = st.floats(0, 0.99)
ANY = st.one_of(
    st.builds(WarmupStableDecay, warmup=SHARES, final=st.floats(0, 1), decay=st.floats(0.01, 1)),
    st.builds(Cosine, warmup=SHARES, final=st.floats(0, 1)),
)


@given(schedule=ANY, steps=st.integers(1, 400))
def test_every_schedule_ends_at_final_and_only_falls_after_the_warm_up(schedule: ScheduleConfig, steps: int) -> None:
    curve = [schedule.multiplier(step, steps) for step in range(steps)]
    assert curve[-1] == pytest.approx(schedule.final, abs=1e-9)
    assert all(-1e-12 <= m <= 1 + 1e-12 for m in curve)
    rising = min(round(schedule.warmup * steps), steps - 1)
    assert all(a < b for a, b in itertools.pairwise(curve[:rising]))
    after = curve[rising:]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(after))


@pytest.mark.parametrize("name", list(schedules))
def test_the_horizon_is_the_run(name: str) -> None:
    schedule = schedules.get(name)(final=0.1)
    for steps in (1, 2, 3, 10, 1000):
        assert schedule.multiplier(steps - 1, steps) == pytest.approx(0.1)
        for outside in (-1, steps, steps + 5):
            with pytest.raises(ValueError, match="outside a run"):
                schedule.multiplier(outside, steps)


def test_the_shape_of_wsd() -> None:
    schedule = WarmupStableDecay(warmup=0.1, final=0.0, decay=0.5)
    curve = [schedule.multiplier(step, 101) for step in range(101)]
    assert curve[0] == pytest.approx(1 / 11)
    assert all(m == 1.0 for m in curve[10:55])
    assert curve[55] == pytest.approx(1.0)
    assert curve[100] == 0
    slopes = {round(a - b, 9) for a, b in itertools.pairwise(curve[56:])}
    assert len(slopes) == 1


def test_the_shape_of_cosine() -> None:
    schedule = Cosine(warmup=0.0, final=0.1)
    assert schedule.multiplier(0, 101) == 1.0
    assert schedule.multiplier(50, 101) == pytest.approx(0.55)
    assert schedule.multiplier(100, 101) == pytest.approx(0.1)


@pytest.mark.parametrize("wrong", [{"warmup": 1.0}, {"warmup": -0.1}, {"final": 1.1}, {"final": -0.1}])
@pytest.mark.parametrize("kind", [WarmupStableDecay, Cosine])
def test_impossible_settings(kind: type[ScheduleConfig], wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)


@pytest.mark.parametrize("decay", [0.0, 1.1])
def test_impossible_decay(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        WarmupStableDecay(decay=decay)
