"""What a user writes after `budget =`, and the steps that it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula.errors import InputError
from fabula.train.budget import Budget, parse_budget, steps_for


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("90s", 90, "seconds"),
        ("5m", 300, "seconds"),
        ("5 m", 300, "seconds"),
        (" 5M ", 300, "seconds"),
        ("5min", 300, "seconds"),
        ("1.5h", 5400, "seconds"),
        ("0.5m", 30, "seconds"),
        ("2d", 172_800, "seconds"),
        ("200steps", 200, "steps"),
        ("1step", 1, "steps"),
        ("1,000 steps", 1000, "steps"),
        ("1_000steps", 1000, "steps"),
        ("12,345,678tokens", 12_345_678, "tokens"),
        ("2ksteps", 2000, "steps"),
        ("20Mtokens", 20_000_000, "tokens"),
        ("20 M tokens", 20_000_000, "tokens"),
        ("1.5Gtokens", 1_500_000_000, "tokens"),
        ("1Btokens", 1_000_000_000, "tokens"),
        ("3epochs", 3, "epochs"),
        ("0.5 epoch", 0.5, "epochs"),
    ],
)
def test_good_budgets(text: str, amount: float, unit: str) -> None:
    assert parse_budget(text) == Budget(amount, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "5", "m", "0m", "0steps", "-5m", "5x", "5 miles", "1h30m", "1:30", "five minutes", "5mm", "5%"),
        *("infs", "nan steps", "1e3steps", "0x10steps", "5ms", "ñ", "5m;rm", "5..0m", ".5m", "5.m", "--json"),
        # Half Europe writes one and a half like this: it must not become fifteen hours.
        *("1,5h", "1,50h", "0,5m", "12,34steps", "1,,000steps", ",5m"),
        "9" * 400 + "steps",
    ],
)
def test_bad_budgets(text: str) -> None:
    with pytest.raises(InputError, match=r"is not a budget; give a time \(90s, 5m, 1\.5h\)"):
        parse_budget(text)


@given(st.text(max_size=12))
def test_anything_is_a_budget_or_an_input_error(text: str) -> None:
    try:
        made = parse_budget(text)
    except InputError:
        return
    assert 0 < made.amount < float("inf")


def test_steps_of_each_unit() -> None:
    assert steps_for(Budget(200, "steps"), 128, 1000, None)[0] == 200
    assert steps_for(Budget(12_800, "tokens"), 128, 1000, None)[0] == 100
    assert steps_for(Budget(2, "epochs"), 128, 12_800, None)[0] == 200
    steps, rule = steps_for(Budget(60, "seconds"), 128, 1000, 0.25)
    assert steps == 240
    assert rule == "60 s at 250.0 ms a step, measured here at the start"


def test_there_is_at_least_one_step() -> None:
    assert steps_for(Budget(0.2, "steps"), 128, 1000, None)[0] == 1
    assert steps_for(Budget(1, "tokens"), 128, 1000, None)[0] == 1
    assert steps_for(Budget(0.001, "epochs"), 128, 1000, None)[0] == 1
    assert steps_for(Budget(0.1, "seconds"), 128, 1000, 5.0)[0] == 1


def test_a_time_needs_a_measurement() -> None:
    with pytest.raises(ValueError, match="measured step"):
        steps_for(Budget(60, "seconds"), 128, 1000, None)
