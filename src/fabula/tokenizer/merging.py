"""Byte-pair merges over whole documents or lines, learnt in bounded memory.

Where merges may cross words a text has no "different words" to be counted once: every position is its own. So the text
stays one array of ids with the places of the neighbours beside it, and each pair keeps the places where it was seen.
A merge touches only those. Counts are exact but lazy: a pair's count can only fall, so what stands in the heap is never
too small; what comes to the top is counted anew, and goes back if it fell. (The result is `reference.learn`'s, merge
for merge.)

Memory: about 45 bytes for each id of the text at the peak (ids, two neighbours, places in order, and the sorting of the
first pairs). Time: the sum of all pairs ever merged, and some 0.2 ms for each merge.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Ids = npt.NDArray[np.int32] | npt.NDArray[np.uint8]
Pair = tuple[int, int]

# In a heap's entry: the count (turned round, so that the largest comes first), then the pair's two ids.
_ID_BITS = 22
_ID = (1 << _ID_BITS) - 1
_MOST = 1 << 40
# Pairs that stand only once are not learnt: they say nothing of another text.
_LEAST = 2
_EVERY = 64


@dataclass(slots=True)
class _Places:
    """Where some pairs stand: those of `keys[i]` at `places[starts[i]:ends[i]]`, in the order of the text."""

    keys: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    places: Ints

    @staticmethod
    def of(keys: npt.NDArray[Any], places: Ints) -> _Places:
        """Places by key, those of keys that stand only once left out."""
        order = np.argsort(keys, kind="stable")
        sorted_keys = keys[order]
        edges = np.flatnonzero(np.diff(sorted_keys)) + 1
        starts = np.concatenate(([0], edges)) if len(keys) else np.empty(0, dtype=np.int64)
        ends = np.concatenate((edges, [len(keys)])) if len(keys) else starts
        often = ends - starts >= _LEAST
        if not often.all():
            # Copied without the rare ones, so that these take no memory.
            order = order[np.repeat(often, ends - starts)]
            found, sizes = sorted_keys[starts[often]], (ends - starts)[often]
            ends = np.cumsum(sizes)
            starts = ends - sizes
        else:
            found = sorted_keys[starts]
        return _Places(found.astype(np.int64), starts, ends, places[order])

    def index(self, key: int) -> int:
        return int(np.searchsorted(self.keys, key))


def learn(
    ids: Ids, lengths: Sequence[int], n_ids: int, most: int, told: Callable[[int], None] = lambda done: None
) -> list[Pair]:
    """Up to `most` merges of neighbours in pieces of those lengths; the i-th makes the id `n_ids + i`.

    The most frequent pair comes first, of equally frequent ones that of the smaller ids; in a run of the same id pairs
    are joined from the left. Ends when no pair stands twice. `told` hears now and then how many there are.
    """
    if n_ids + most > _ID:
        raise ValueError(f"{n_ids + most} ids; at most {_ID}")
    text = _Text(ids, lengths)
    first = text.pairs(n_ids)
    heap = [_entry(count, key // n_ids, key % n_ids) for key, count in _counts(first)]
    heapq.heapify(heap)
    # For each learnt id the pairs in which it stands on the right, and those in which it stands on the left.
    tables: list[tuple[_Places, _Places]] = []
    pairs: list[Pair] = []
    while heap and len(pairs) < most:
        entry = heapq.heappop(heap)
        count, a, b = _MOST - (entry >> 2 * _ID_BITS), (entry >> _ID_BITS) & _ID, entry & _ID
        newer = max(a, b) - n_ids
        if newer < 0:
            table, index = first, first.index(a * n_ids + b)
        elif b >= a:
            table, index = tables[newer][0], tables[newer][0].index(a)
        else:
            table, index = tables[newer][1], tables[newer][1].index(b)
        start, end = int(table.starts[index]), int(table.ends[index])
        places = text.still(table.places[start:end], a, b)
        if len(places) < count:
            if len(places) >= _LEAST:
                table.places[start : start + len(places)] = places
                table.ends[index] = start + len(places)
                heapq.heappush(heap, _entry(len(places), a, b))
            continue
        new = n_ids + len(pairs)
        pairs.append((a, b))
        before, after = text.merge(places, new, alike=a == b)
        tables.append((before, after))
        for key, count in _counts(before):
            heapq.heappush(heap, _entry(count, key, new))
        for key, count in _counts(after):
            heapq.heappush(heap, _entry(count, new, key))
        if len(pairs) % _EVERY == 0:
            told(len(pairs))
    return pairs


class _Text:
    """Ids and their neighbours. Place n is outside of every piece; an id that was joined to the one before is -1."""

    def __init__(self, ids: Ids, lengths: Sequence[int]) -> None:
        self.n = n = len(ids)
        self.ids = np.append(np.asarray(ids, dtype=np.int32), np.int32(-1))
        self.before = np.arange(-1, n, dtype=np.int32)
        self.after = np.arange(1, n + 1, dtype=np.int32)
        ends = np.cumsum(np.asarray([size for size in lengths if size], dtype=np.int64))
        if n:
            self.before[0] = n
            self.before[ends[:-1]] = n
            self.after[ends - 1] = n

    def pairs(self, n_ids: int) -> _Places:
        """Where every pair of ids (below `n_ids`) stands; its key is the left one times `n_ids` plus the right one."""
        at = np.flatnonzero(self.after < self.n).astype(np.int32)
        # Keys of two bytes are sorted by counting them.
        keys: npt.NDArray[Any] = self.ids[at].astype(np.uint16 if n_ids <= 256 else np.int64)
        keys *= keys.dtype.type(n_ids)
        keys += self.ids[self.after[at]].astype(keys.dtype)
        return _Places.of(keys, at)

    def still(self, places: Ints, a: int, b: int) -> Ints:
        """Those of the places where the pair still stands."""
        places = places[self.ids[places] == a]
        return places[self.ids[self.after[places]] == b]

    def merge(self, places: Ints, new: int, alike: bool) -> tuple[_Places, _Places]:
        """Join the pair at all places; the new pairs with the new id on the right, and those with it on the left."""
        if alike:
            places = _from_the_left(places, self.after)
        joined = self.after[places]
        self.ids[places], self.ids[joined] = new, -1
        right = self.after[joined]
        self.after[places] = right
        self.before[right] = places  # what this writes at place n is never read
        left = self.before[places]
        left = left[left < self.n]
        # A pair of two new ids is counted once, at its left one.
        inside = (right < self.n) & (self.ids[right] != new)
        return _Places.of(self.ids[left], left), _Places.of(self.ids[right[inside]], places[inside])


def _from_the_left(places: Ints, after: Ints) -> Ints:
    """Of the places of a pair of equal ids those that are joined: in a run every second, counted from the left."""
    number = np.arange(len(places))
    begins = np.ones(len(places), dtype=bool)
    begins[1:] = after[places[:-1]] != places[1:]
    start = np.maximum.accumulate(np.where(begins, number, 0))
    return places[(number - start) % 2 == 0]


def _counts(table: _Places) -> Iterator[tuple[int, int]]:
    return zip(table.keys.tolist(), (table.ends - table.starts).tolist(), strict=True)


def _entry(count: int, a: int, b: int) -> int:
    return (_MOST - count) << 2 * _ID_BITS | a << _ID_BITS | b
