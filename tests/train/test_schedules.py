"""The rate ends where it should, at the last step of the run, and moves as promised."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula.errors import ConfigError
from fabula.recipe import resolve
from fabula.train.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    InverseSquareRoot,
    Linear,
    ScheduleConfig,
    WarmupStableDecay,
    schedules,
)

SHARES, PARTS = st.floats(0, 0.99), st.floats(0.01, 1)
FINAL = st.floats(0, 1)
FALLING = st.one_of(
    st.builds(WarmupStableDecay, warmup=SHARES, final=FINAL, decay=PARTS),
    st.builds(Cosine, warmup=SHARES, final=FINAL),
    st.builds(Linear, warmup=SHARES, final=FINAL),
    st.builds(InverseSquareRoot, warmup=SHARES, final=FINAL, reach=PARTS, decay=PARTS),
    st.builds(Constant, warmup=SHARES),
)
RESTARTING = st.builds(CosineRestarts, warmup=SHARES, final=FINAL, cycles=st.integers(1, 8), growth=st.floats(1, 4))
ANY = st.one_of(FALLING, RESTARTING)


def curve_of(schedule: ScheduleConfig, steps: int) -> tuple[list[float], list[float]]:
    """The multipliers of the warm-up, and those after it."""
    curve = [schedule.multiplier(step, steps) for step in range(steps)]
    rising = min(round(schedule.warmup * steps), steps - 1)
    return curve[:rising], curve[rising:]


def test_all_of_them_are_looked_at() -> None:
    assert set(schedules) == {"wsd", "cosine", "cosine_restarts", "linear", "inverse_sqrt", "constant"}


@given(schedule=ANY, steps=st.integers(1, 400))
def test_never_above_the_peak_never_below_the_end_and_exactly_there_at_the_last_step(
    schedule: ScheduleConfig, steps: int
) -> None:
    rising, after = curve_of(schedule, steps)
    assert after[-1] == schedule.end, "to the last bit"
    assert all(0 < m < 1 for m in rising)
    assert all(schedule.end <= m <= 1 for m in after)
    assert all(a < b for a, b in itertools.pairwise(rising))


@given(schedule=FALLING, steps=st.integers(1, 400))
def test_after_the_warm_up_it_only_falls(schedule: ScheduleConfig, steps: int) -> None:
    _, after = curve_of(schedule, steps)
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(after))
    if len(after) > 1:
        assert after[0] == 1


@given(schedule=FALLING)
def test_it_is_continuous(schedule: ScheduleConfig) -> None:
    """However steep it may be, a tenth of the step is about a tenth of the fall: there is no jump."""
    falls = []
    for points in (2_000, 20_000):
        heights = [schedule.shape(i / points) for i in range(points + 1)]
        falls.append(max(abs(a - b) for a, b in itertools.pairwise(heights)))
    # The steepest of them falls by 1 within a hundredth of the run, or by its root within as much.
    assert falls[0] <= 0.06
    assert falls[1] <= 0.006


@given(schedule=RESTARTING, steps=st.integers(1, 400))
def test_it_rises_only_where_it_restarts(schedule: CosineRestarts, steps: int) -> None:
    _, after = curve_of(schedule, steps)
    jumps = [i for i, (a, b) in enumerate(itertools.pairwise(after)) if b > a + 1e-12]
    assert len(jumps) <= schedule.cycles - 1
    if schedule.final < 0.9 and len(after) >= 400 * 0.5 and schedule.growth == 1:
        assert len(jumps) == schedule.cycles - 1


@pytest.mark.parametrize("name", list(schedules))
def test_mistake_4_the_horizon_is_the_run(name: str) -> None:
    """Whatever the run's length, the schedule ends with it; it cannot be asked beyond, nor be given another end."""
    schedule = schedules.get(name)()
    for steps in (1, 2, 3, 10, 1000):
        assert schedule.multiplier(steps - 1, steps) == schedule.end
        for outside in (-1, steps, steps + 5):
            with pytest.raises(ValueError, match="outside a run"):
                schedule.multiplier(outside, steps)
    for setting in ("steps", "T_max", "max_steps", "lr_decay_iters", "eta_min", "min_lr"):
        with pytest.raises(ConfigError, match=f"train.schedule.{setting}: unknown key"):
            resolve({"train": {"schedule": {"kind": name, setting: 100}}})


def test_mistake_4_a_schedule_that_would_rise_is_refused_with_everything_else() -> None:
    wrong: dict[str, Any] = {"kind": "cosine", "final": 5.0, "warmup": 1.0, "T_max": 100}
    with pytest.raises(ConfigError) as caught:
        resolve({"train": {"schedule": wrong, "optimizer": {"kind": "adamw", "lr": 0.0, "beta3": 0.9}}})
    told = "\n".join(caught.value.problems)
    for words in (
        "T_max: unknown key",
        "final=5.0 is a multiplier",
        "warmup=1.0 is a share",
        "lr=0.0",
        "beta3: unknown",
    ):
        assert words in told
    assert len(caught.value.problems) == 5


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


def test_the_shape_of_cosine_with_restarts() -> None:
    schedule = CosineRestarts(warmup=0.0, final=0.0, cycles=2, growth=3.0)
    curve = [schedule.multiplier(step, 401) for step in range(401)]
    assert curve[0] == curve[100] == 1.0, "the second cycle is three times the first"
    assert curve[99] < 0.001
    assert curve[50] == pytest.approx(0.5)
    assert curve[250] == pytest.approx(0.5)
    assert curve[400] == 0
    one = CosineRestarts(warmup=0.1, final=0.1, cycles=1)
    plain = Cosine(warmup=0.1, final=0.1)
    assert [one.multiplier(s, 50) for s in range(50)] == [plain.multiplier(s, 50) for s in range(50)]


def test_the_shape_of_linear_and_constant() -> None:
    linear, constant = Linear(warmup=0.0, final=0.2), Constant(warmup=0.1)
    assert [linear.multiplier(s, 5) for s in range(5)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert [constant.multiplier(s, 10) for s in range(10)] == [0.5, *[1.0] * 9]


def test_the_shape_of_inverse_square_root() -> None:
    schedule = InverseSquareRoot(warmup=0.0, final=0.0, reach=0.1, decay=0.2)
    curve = [schedule.multiplier(step, 1001) for step in range(1001)]
    for step in (0, 100, 300, 500, 800):
        assert curve[step] == pytest.approx((100 / (100 + step)) ** 0.5)
    assert curve[900] == pytest.approx(curve[800] / 2)
    # With a reach as long as the warm-up it is that of Vaswani et al.: the root of warm-up over step.
    theirs = InverseSquareRoot(warmup=0.1, final=0.0, reach=1 / 9, decay=0.01)
    for step in (100, 200, 600):
        assert theirs.multiplier(step, 1001) == pytest.approx((100 / step) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *[(schedules.get(n), {"warmup": w}) for n in schedules for w in (1.0, -0.1)],
        *[(schedules.get(n), {"final": w}) for n in schedules if n != "constant" for w in (1.1, -0.1)],
        *[(kind, {"decay": w}) for kind in (WarmupStableDecay, InverseSquareRoot) for w in (0.0, 1.1)],
        *[(InverseSquareRoot, {"reach": w}) for w in (0.0, 1.1)],
        *[(CosineRestarts, {"cycles": w}) for w in (0, 101)],
        *[(CosineRestarts, {"growth": w}) for w in (0.5, 11.0)],
    ],
)
def test_impossible_settings(kind: type[ScheduleConfig], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)
