"""How many threads: fewer than all only where they are clearly faster, tried only where the run is long enough."""

from __future__ import annotations

import pytest

from fabula.train.threads import candidates, fastest


class Machine:
    """Seconds of a step by threads; remembers how often it was asked."""

    def __init__(self, **times: float) -> None:
        self.times = {int(name[1:]): seconds for name, seconds in times.items()}
        self.asked: list[int] = []

    def step(self, count: int) -> float:
        self.asked.append(count)
        return self.times[count]


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"t4": 0.1, "t2": 0.15, "t1": 0.3}, 4),
        ({"t4": 0.1, "t2": 0.095, "t1": 0.3}, 4),
        ({"t4": 0.1, "t2": 0.06, "t1": 0.08}, 2),
        ({"t4": 0.1, "t2": 0.06, "t1": 0.03}, 1),
    ],
    ids=["all", "all within noise", "half", "one"],
)
def test_the_fastest_is_taken(times: dict[str, float], chosen: int) -> None:
    machine = Machine(**times)
    found = fastest(candidates(4), machine.step, lambda seconds: 10_000 * seconds)
    assert found is not None
    assert found[0] == chosen
    assert found[1].startswith(f"{chosen}: a step takes 100.0 ms with 4, ")
    assert machine.asked[2:] == [4, 2, 1] * 4, "in turn"


def test_a_short_run_is_not_tried() -> None:
    machine = Machine(t4=0.1, t2=0.1, t1=0.1)
    assert fastest(candidates(4), machine.step, lambda seconds: 100 * seconds) is None
    assert machine.asked == [4, 4]


def test_one_core_has_no_choice() -> None:
    assert fastest(candidates(1), lambda count: pytest.fail("asked"), lambda seconds: 1e9) is None
