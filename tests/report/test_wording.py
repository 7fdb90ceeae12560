"""Numbers as a person reads them."""

from __future__ import annotations

import pytest

from fabula.report import wording


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (None, "–"),
        (0, "0"),
        (1234, "1,234"),
        (-5, "−5"),
        (12_345, "12.3 k"),
        (999_949, "1.00 M"),
        (1_230_000, "1.23 M"),
        (123_400_000, "123 M"),
        (2.5e13, "25.0 T"),
    ],
)
def test_count(number: float | None, said: str) -> None:
    assert wording.count(number).replace(wording.SPACE, " ") == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"),
        (0, "0 s"),
        (0.0371, "0.037 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (192, "3 min 12 s"),
        (3599.7, "1 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_duration(seconds: float | None, said: str) -> None:
    assert wording.duration(seconds).replace(wording.SPACE, " ") == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(0.57, "0.57"), (1e-12, "1e−12"), (-0.25, "−0.25"), (1000, "1,000"), (999.6, "1000"), (1e12, "1e12")],
)
def test_ratio(number: float, said: str) -> None:
    assert wording.ratio(number) == said


def test_a_date_that_is_none_stays_as_it_is() -> None:
    assert wording.day("yesterday") == "yesterday"
    assert wording.day("2026-03-02T14:05:09") == "2 March 2026, 14:05"
