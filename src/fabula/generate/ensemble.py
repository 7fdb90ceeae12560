"""How do several models write one text? Each says what may come next, and their probabilities are averaged.

The models must share a tokenizer; sizes, shapes and contexts may differ. As a backend an ensemble takes the place of a
model in everything that runs on one: draws, batches, guesses, patterns and searches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from fabula.errors import InputError, MachineError
from fabula.generate.backend import Backend, Wanted


class EnsembleBackend:
    """A `Backend` of several. Its context is the shortest of theirs."""

    def __init__(self, members: Sequence[Backend]) -> None:
        sizes = {member.vocab_size for member in members}
        if len(sizes) != 1:
            raise InputError(f"models of one ensemble have one vocabulary, not {sorted(sizes)} tokens")
        self.members = tuple(members)
        self.vocab_size = sizes.pop()
        self.context_length = min(member.context_length for member in members)
        self.capacity = min(member.capacity for member in members)
        self.deterministic = all(member.deterministic for member in members)
        self._open: dict[int, tuple[int, ...]] = {}

    def open(self) -> int:
        return self._hold([member.open for member in self.members])

    def length(self, sequence: int) -> int:
        return self.members[0].length(self._open[sequence][0])

    def read(self, sequence: int, ids: Sequence[int], wanted: Wanted = "last") -> Tensor | None:
        if self.length(sequence) + len(ids) > self.context_length:
            raise ValueError(f"{self.length(sequence) + len(ids):,} ids are more than {self.context_length:,}")
        found = [m.read(own, ids, wanted) for m, own in zip(self.members, self._open[sequence], strict=True)]
        logits = [row for row in found if row is not None]
        return averaged(logits) if logits else None

    def step(self, sequences: Sequence[int], ids: Sequence[int]) -> Tensor:
        return averaged(
            [member.step([self._open[s][n] for s in sequences], ids) for n, member in enumerate(self.members)]
        )

    def rewind(self, sequence: int, length: int) -> None:
        # Also where a member failed in a step and others have read on.
        for member, own in zip(self.members, self._open[sequence], strict=True):
            member.rewind(own, length)

    def copy(self, sequence: int, length: int) -> int:
        own = self._open[sequence]
        return self._hold([partial(m.copy, s, length) for m, s in zip(self.members, own, strict=True)])

    def close(self, sequence: int) -> None:
        for member, own in zip(self.members, self._open.pop(sequence), strict=True):
            member.close(own)

    def _hold(self, opening: Sequence[Callable[[], int]]) -> int:
        if len(self._open) == self.capacity:
            raise MachineError(f"all {self.capacity} sequences are in use")
        number = next(n for n in range(self.capacity) if n not in self._open)
        made: list[int] = []
        try:
            for make in opening:
                made.append(make())
        except BaseException:
            for member, own in zip(self.members, made, strict=False):
                member.close(own)
            raise
        self._open[number] = tuple(made)
        return number


def averaged(logits: Sequence[Tensor]) -> Tensor:
    """Logits (..., V) whose probabilities are the mean of those given.

    They keep the mean height of the logits given, which no draw sees but a penalty does: so a model averaged with
    itself is itself.
    """
    stacked = torch.stack(list(logits))
    heights = stacked.logsumexp(dim=-1, keepdim=True)
    return (stacked - heights).logsumexp(dim=0) - math.log(len(logits)) + heights.mean(dim=0)
