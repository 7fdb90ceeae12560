"""In which shares, and in which order, are the components of a mixture read? No data here, only whole numbers.

The row of a run says by its number alone which component it is of, and how many rows of that component came before: no
state, no random draw, nothing stored. So changing the shares needs no new data, and a resumed run goes on exactly.

Shares are kept at every moment and not only in the long run. For one component of share w against all the others, its
rows among the first n are floor(n w + phase): never a whole row off. What is left goes to the others, among which the
next component is taken out in the same way. In any stretch of the run a component of n has its share to within a few
rows (n at the most). These are Beatty sequences, in whole numbers of 1 / 2^20.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fabula.corpus.mixture import MixtureComponent
from fabula.data.packing import Packing

Ids = NDArray[np.int64]

_ONE = 1 << 20


@dataclass(frozen=True, slots=True)
class Feed:
    """How a run reads its data: how documents fill rows, and the components of a mixture by name, if it is one."""

    packing: Packing = "concat"
    mixture: Mapping[str, MixtureComponent] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shares:
    """Of each component the share of the rows, and how many rows are an epoch of the whole."""

    rows: tuple[float, ...]
    epoch: int


def shares(components: Sequence[MixtureComponent], n_rows: Sequence[int], row_tokens: Sequence[float]) -> Shares:
    """The shares of components that have `n_rows` rows of `row_tokens` predictions each.

    Weights are shares of the predictions, so a component whose rows are half padding gets twice the rows; an epoch is
    then as many rows as there are. Without weights each component is read `epochs` times in an epoch.
    """
    if components[0].weight:
        wanted = [component.weight / tokens for component, tokens in zip(components, row_tokens, strict=True)]
        epoch = sum(n_rows)
    else:
        wanted = [component.epochs * rows for component, rows in zip(components, n_rows, strict=True)]
        epoch = max(1, round(sum(wanted)))
    return Shares(tuple(share / math.fsum(wanted) for share in wanted), epoch)


class Schedule:
    """Which component each row of a run is of. `phases` from 0 to 1 move where in the order each one stands."""

    def __init__(self, rows: Sequence[float], phases: Sequence[float]) -> None:
        self._steps: list[tuple[int, int]] = []  # of each component but the last: its share of what is left, its phase
        left = 1.0
        for share, phase in zip(rows[:-1], phases, strict=False):
            self._steps.append((min(_ONE, round(_ONE * share / left)) if left > 0 else _ONE, int(_ONE * phase)))
            left -= share

    def of(self, numbers: Ids) -> tuple[Ids, Ids]:
        """The component of each row, by its place in the list, and how many rows of it came before."""
        components = np.full(len(numbers), len(self._steps), dtype=np.int64)
        before = numbers.copy()
        todo = np.arange(len(numbers))
        for component, (share, phase) in enumerate(self._steps):
            here = before[todo]
            count = (here * share + phase) // _ONE
            taken = (here + 1) * share + phase >= (count + 1) * _ONE
            components[todo[taken]] = component
            before[todo] = np.where(taken, count, here - count)
            todo = todo[~taken]
        return components, before

    def counts(self, rows: int) -> list[int]:
        """How many of the first `rows` rows are of each component."""
        counts, left = [], rows
        for share, phase in self._steps:
            counts.append((left * share + phase) // _ONE)
            left -= counts[-1]
        return [*counts, left]
