"""Batches of pairs: a source that is read, a target that is written after it; exactly resumable, with little padding.

Rows of one batch are of about one length. The pairs of an epoch come in a keyed permutation; it is cut into pools of
64 batches, the pairs of a pool are sorted by length and cut into batches, and these come in another keyed permutation.
So the data position is one integer, as for texts, and a batch is a function of it, of the seed and of the rows in a
batch. Epochs follow each other without a gap: where the pairs do not fill the last batch of an epoch, the next epoch's
first pairs complete it, and every pair is seen once an epoch.

    source          s1 s2 s3 EOD          what the encoder reads
    tokens      EOD t1 t2                 what the decoder is given (a model may begin with another special id)
    targets         t1 t2 EOD             what it is to predict

Lengths are kept beside the ids: what is padding is never found by looking for an id. Nothing is cut: a pair of which
one half is longer than the context is left out, and counted in `too_long`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fabula.data.loader import Batches, mix, permute
from fabula.data.shards import Split
from fabula.device import Device
from fabula.errors import InputError
from fabula.losses import IGNORE

Ids = NDArray[np.int64]

# Batches in which pairs are sorted by length: more waste less, and bring less alike batches later.
_POOL_BATCHES = 64
# Pools that are remembered: batches are asked for in order, and two threads may be at it after one was given up.
_REMEMBERED = 4
# Pools that are looked at to tell how much is padding.
_MEASURED_POOLS = 16


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Rows of pairs. Shapes: source (B, S); source_lengths (B), at least 1; tokens and targets (B, T).

    Targets that are `losses.IGNORE` are padding and not predicted; what is after a source's length is padding too.
    """

    source: Tensor
    source_lengths: Tensor
    tokens: Tensor
    targets: Tensor

    @property
    def n_targets(self) -> int:
        """Positions that are predicted."""
        return int((self.targets != IGNORE).sum())

    def rows(self, start: int, stop: int) -> PairBatch:
        """Some of the rows, without columns that would be padding only."""
        lengths, targets = self.source_lengths[start:stop], self.targets[start:stop]
        width = max(1, int(lengths.max()) if len(lengths) else 1)
        length = max(1, int((targets != IGNORE).sum(dim=1).max()) if len(lengths) else 1)
        return PairBatch(
            self.source[start:stop, :width], lengths, self.tokens[start:stop, :length], targets[:, :length]
        )

    def pinned(self) -> PairBatch:
        """The same in page-locked memory, from which a copy to a graphics card does not wait (`to`)."""
        parts = (self.source, self.source_lengths, self.tokens, self.targets)
        return PairBatch(*(tensor.pin_memory() for tensor in parts))

    def to(self, device: Device) -> PairBatch:
        """The same on another device."""
        if device.name == "cpu":
            return self
        moved = [t.to(device.torch, non_blocking=True) for t in (self.source, self.source_lengths)]
        answers = [t.to(device.torch, non_blocking=True) for t in (self.tokens, self.targets)]
        return PairBatch(moved[0], moved[1], answers[0], answers[1])


def collate(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], end_of_document: int, padding: int, start: int | None = None
) -> PairBatch:
    """A batch of pairs given by the ids of source and target, without special ones.

    Targets begin with `start` (None: the end-of-document id).
    """
    sources = [[*source, end_of_document] for source, _ in pairs]
    tokens = [[end_of_document if start is None else start, *target] for _, target in pairs]
    targets = [[*target, end_of_document] for _, target in pairs]
    lengths = torch.tensor([len(source) for source in sources])
    return PairBatch(_padded(sources, padding), lengths, _padded(tokens, padding), _padded(targets, IGNORE))


def _padded(rows: list[list[int]], padding: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [padding] * (width - len(row)) for row in rows])


class PairLoader(Batches[PairBatch]):
    """Batches of a split's pairs of which both halves fit `context` (with the id that ends them).

    Targets begin with `start` (None: with the end-of-document id, as they lie there).
    """

    def __init__(self, split: Split, context: int, seed: int, padding: int, start: int | None = None) -> None:
        self.start = start
        self.split, self.name, self.context, self.seed, self.padding = split, split.name, context, seed, padding
        if split.n_documents % 2:
            raise InputError(f"the {split.name} split has an odd number of documents: it does not hold pairs")
        starts = split.document_starts
        lengths = np.diff(np.append(starts, split.n_tokens - 1))
        self._starts = starts.reshape(-1, 2)
        self._lengths = lengths.reshape(-1, 2)  # with one special id: a source's last, a target's first
        fits = np.asarray((self._lengths <= context).all(axis=1))
        self.pairs: Ids = np.flatnonzero(fits)  # numbers of the pairs that fit, in the split's order
        self.too_long = len(fits) - len(self.pairs)
        self.n_rows = len(self.pairs)
        if not self.n_rows:
            longest = int(self._lengths.max(axis=1).min()) if len(self._lengths) else 0
            raise InputError(
                f"the {split.name} split has no pair that fits the context of {context:,} tokens (the shortest needs "
                f"{longest:,}): raise --model.context_length, or give more text"
            )
        self._pools: OrderedDict[tuple[int, int, int], Ids] = OrderedDict()

    @property
    def target_tokens(self) -> int:
        """Predictions in one epoch."""
        return int(self._lengths[self.pairs, 1].sum())

    @property
    def target_bytes(self) -> int:
        """Bytes of the targets of one epoch."""
        return int(self.split.document_bytes[2 * self.pairs + 1].sum())

    def batch(self, position: int, rows: int) -> PairBatch:
        """The rows `position` .. `position + rows` of the run."""
        return self.rows_at(self._numbers(position, rows)[1])

    def places(self, position: int, rows: int) -> tuple[list[int], list[int]]:
        """Of the rows `position` .. `position + rows` of the run: their epochs, and where their pairs begin."""
        epochs, pairs = self._numbers(position, rows)
        return epochs.tolist(), self._starts[pairs, 0].tolist()

    def rows_at(self, pairs: Ids) -> PairBatch:
        """The pairs of given numbers."""
        (source_starts, target_starts), (sources, targets) = self._starts[pairs].T, self._lengths[pairs].T
        source = self.split.stretches(source_starts + 1, sources, self.padding)
        answers = self.split.stretches(target_starts + 1, targets, IGNORE)
        tokens = self.split.stretches(target_starts, targets, self.padding)
        if self.start is not None:
            tokens[:, 0] = self.start
        return PairBatch(
            torch.from_numpy(source),
            torch.from_numpy(np.ascontiguousarray(sources)),
            torch.from_numpy(tokens),
            torch.from_numpy(answers),
        )

    def ids(self, pair: int) -> tuple[list[int], list[int]]:
        """The ids of a pair's source and target, without special ones."""
        (source, target), (n_source, n_target) = self._starts[pair], self._lengths[pair]
        return (
            self.split.read(int(source) + 1, int(n_source) - 1).tolist(),
            self.split.read(int(target) + 1, int(n_target) - 1).tolist(),
        )

    def references(self) -> dict[tuple[int, ...], list[list[int]]]:
        """The ids of each source, without special ones, and those of all its targets, in the split's order."""
        found: dict[tuple[int, ...], list[list[int]]] = {}
        for pair in self.pairs:
            source, target = self.ids(int(pair))
            found.setdefault(tuple(source), []).append(target)
        return found

    def fixed(self, most: int | None = None) -> Ids:
        """A fixed set of pairs: all that fit, or `most` spread evenly over the split; of one length together."""
        chosen = self.pairs
        if most is not None and most < self.n_rows:
            chosen = chosen[np.floor(np.arange(most) * (self.n_rows / most)).astype(np.int64)]
        return chosen[_by_length(self._lengths[chosen])]

    def waste(self, rows: int) -> float:
        """The share of padding among the places of the batches, over the first epoch's first pools."""
        used = places = 0
        for first in range(0, min(self.n_rows, rows * _POOL_BATCHES * _MEASURED_POOLS), rows):
            pairs = self._numbers(first, min(rows, self.n_rows - first))[1]
            lengths = self._lengths[pairs]
            used += int(lengths.sum())
            places += len(pairs) * int(lengths.max(axis=0).sum())
        return 1 - used / max(1, places)

    def _numbers(self, position: int, rows: int) -> tuple[Ids, Ids]:
        """Epoch and pair of each of the rows `position` .. `position + rows` of the run."""
        epochs, pairs = [], []
        end = position + rows
        while position < end:
            epoch, place = divmod(position, self.n_rows)
            here = self._from(epoch, place, rows)[: end - position]
            pairs.append(here)
            epochs.append(np.full(len(here), epoch))
            position += len(here)
        return np.concatenate(epochs), np.concatenate(pairs)

    def _from(self, epoch: int, place: int, rows: int) -> Ids:
        """The pairs of an epoch from a place up to the end of the pool in which it lies."""
        # So many complete the last batch of the epoch before; the pools begin after them, with whole batches.
        head = min(-epoch * self.n_rows % rows, self.n_rows)
        size = rows * _POOL_BATCHES
        pool = -1 if place < head else (place - head) // size
        start = 0 if pool < 0 else head + pool * size
        stop = head if pool < 0 else min(start + size, self.n_rows)
        key = (epoch, pool, rows)
        found = self._pools.get(key)
        if found is None:
            found = self._pools[key] = self._pool(epoch, pool, start, stop, rows)
            while len(self._pools) > _REMEMBERED:
                self._pools.popitem(last=False)
        return found[place - start :]

    def _pool(self, epoch: int, pool: int, start: int, stop: int, rows: int) -> Ids:
        chosen = self.pairs[permute(np.arange(start, stop), self.n_rows, mix(self.seed, epoch))]
        chosen = chosen[_by_length(self._lengths[chosen])]
        # What fills no batch stays at the end, where the next epoch completes it.
        whole = len(chosen) // rows
        order = permute(np.arange(whole), whole, mix(mix(self.seed + 1, epoch), pool + 1))
        shuffled = chosen[: whole * rows].reshape(whole, rows)[order].ravel()
        return np.concatenate((shuffled, chosen[whole * rows :]))


def _by_length(lengths: Ids) -> Ids:
    """The order in which pairs of some lengths (n, 2) are of about one length together: by the longer half, then both.

    Measured on English and Spanish sentences, batches of 64: 10 % padding, by the target alone 11, unsorted 58.
    """
    return np.lexsort((lengths.sum(axis=1), lengths.max(axis=1)))
