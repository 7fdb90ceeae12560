"""Drawing lots with known probabilities."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChoicePoint:
    """One place where chance enters: its name and each option (in grammar notation) with its probability."""

    name: str
    options: tuple[tuple[str, float], ...]


class Lot:
    """Weighted drawing of an index. Weights are whole numbers, so every probability is an exact fraction."""

    __slots__ = ("weights", "total", "bits", "size", "bounds")

    def __init__(self, weights: Sequence[int]) -> None:
        if not weights or min(weights) < 1:
            raise ValueError("every option needs a weight of at least 1")
        self.weights = tuple(weights)
        self.total = sum(weights)
        self.size = len(self.weights)
        self.bits = tuple(math.log2(self.total / weight) for weight in self.weights)
        # Equal weights are the common case and need no search: an empty tuple stands for them.
        equal = len(set(self.weights)) == 1
        self.bounds = () if equal else tuple(sum(self.weights[: i + 1]) for i in range(self.size))

    def draw(self, point: float) -> int:
        """Index for a uniform ``point`` in [0, 1)."""
        if self.bounds:
            return bisect(self.bounds, point * self.total)
        return int(point * self.size)
