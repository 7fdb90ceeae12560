"""How far do the figures carry? Spread over seeds, and paired differences with their uncertainty.

Seed s gives every variant the same seed for weights and data order, so the two runs of a seed share much of their
luck: their difference is steadier than the difference of two means. Its uncertainty is Student's (1908): half of the
interval that holds the true mean difference in 95 of 100 such comparisons.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from fabula.config import Data

# The 97.5 % quantile of Student's t with 1 .. 30 degrees of freedom; beyond that the last, which is a little too wide.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def spread(values: Sequence[float]) -> Data | None:
    """Mean, sample standard deviation (None for one value), range and number; None without values."""
    if not values:
        return None
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
        "low": min(values),
        "high": max(values),
    }


def paired(first: Mapping[int, float], other: Mapping[int, float]) -> Data | None:
    """`other` minus `first` over the seeds that both have; None when there is none.

    `uncertainty` is half the 95 % interval, None for one pair.
    """
    differences = [other[seed] - first[seed] for seed in other if seed in first]
    if not differences:
        return None
    n = len(differences)
    deviation = statistics.stdev(differences) if n > 1 else None
    error = None if deviation is None else deviation / n**0.5
    return {
        "n": n,
        "mean": statistics.fmean(differences),
        "standard_deviation": deviation,
        "standard_error": error,
        "uncertainty": None if error is None else interval_factor(n) * error,
    }


def interval_factor(n: int) -> float:
    """Standard errors in half a 95 % interval of a mean over n values, two or more.

    >>> interval_factor(2), interval_factor(4)
    (12.706, 3.182)
    """
    return _T[min(n - 1, len(_T)) - 1]
