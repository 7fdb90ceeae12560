"""Spread and paired differences, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from fabula.compare import figures


def test_spread() -> None:
    assert figures.spread([]) is None
    assert figures.spread([1.5]) == {"n": 1, "mean": 1.5, "standard_deviation": None, "low": 1.5, "high": 1.5}
    found = figures.spread([1.0, 2.0, 3.0])
    assert found == {"n": 3, "mean": 2.0, "standard_deviation": 1.0, "low": 1.0, "high": 3.0}


def test_pairs_are_by_seed() -> None:
    first, other = {0: 1.0, 1: 2.0, 2: 9.0}, {1: 2.3, 0: 1.1, 3: 0.0}
    found = figures.paired(first, other)
    assert found is not None
    assert found["n"] == 2, "only seeds that both have"
    assert found["mean"] == pytest.approx(0.2)
    assert found["standard_deviation"] == pytest.approx(0.2 / 2**0.5)
    assert found["standard_error"] == pytest.approx(0.1)
    assert found["uncertainty"] == pytest.approx(1.2706)


def test_one_pair_has_no_uncertainty() -> None:
    found = figures.paired({0: 1.0}, {0: 1.5})
    assert found == {"n": 1, "mean": 0.5, "standard_deviation": None, "standard_error": None, "uncertainty": None}
    assert figures.paired({0: 1.0}, {1: 1.5}) is None
    assert figures.paired({}, {}) is None


def test_many_pairs_use_the_last_quantile() -> None:
    assert figures.interval_factor(31) == figures.interval_factor(64) == 2.042
