"""How many validation documents have a near copy in training: what the content hash of `corpus.split` cannot see.

Equal texts never stand on both sides; a text with one word changed may, and then validation measures what was learnt by
heart. This counts such documents over the prepared ids. It removes nothing.

Broder 1997, "On the resemblance and containment of documents" (Compression and Complexity of Sequences): a document is
the set of its shingles, stretches of k consecutive ids; the containment of A in B is the share of A's shingles that B
has too; and it is estimated from the shingles with the smallest hashes. We deviate in three places. k follows the
tokenizer (about 20 bytes of text, at least 5 ids), so that all vocabularies are judged alike. Only the validation
documents are sketched, and every shingle of training is looked up: a training document may have any length, and nothing
of it is kept. Shingles that stand in more than 32 validation documents are boilerplate and count nowhere.

Why a containment of one half. Of the shingles of a copy with 5 % of its words changed, about 0.8 survive, 0.66 at the
least. Between unrelated documents the highest that was met among thousands was 0.38 for the generator's fables, which
share their sentences, and for texts of one sentence; 0.14 for TinyStories, 0.10 for web pages, 0.02 for short stories.

What this misses: copies with 15 % of the words changed (half of them; of 20 % nearly all), with other capitals or line
breaks, translations and paraphrases; a training document that holds less than half of a validation document, also when
several together hold all of it. Not judged are documents of fewer than 16 different shingles, about 10 to 15 words, and
texts that stand in more than 32 versions in validation, since all their shingles are boilerplate. The estimate from 128
shingles is off by 0.04 (one standard deviation): of documents near the threshold some fall on the other side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabula.config import Data
from fabula.data.shards import Split

THRESHOLD = 0.5
_SHINGLE_BYTES = 20
_LEAST_IDS, _MOST_IDS = 5, 32
_LEAST_SHINGLES = 16
_SKETCH = 128
_BOILERPLATE = 32
_EXAMPLES = 5

# What bounds the memory, below 100 MB: ids read at once, hashes of validation held at once.
_BLOCK = 1 << 15
_CANDIDATES = 2 * _SKETCH
_MOST_HASHES = 1 << 20
_MOST_BITS = 22

_ODD = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio, as in splitmix64
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)

Ints = NDArray[np.int64]
Numbers = NDArray[np.int32]
Hashes = NDArray[np.uint64]


def near_copies(
    validation: Split,
    train: Split,
    threshold: float = THRESHOLD,
    block: int = _BLOCK,
    advance: Callable[[int], None] | None = None,
) -> Data:
    """How many validation documents lie at least to `threshold` in one training document.

    {"validation_documents": all, "judged": those long enough, "near", "share": near / judged (0 when none is judged),
    "examples": up to 5, the nearest first: {"validation", "train": numbers of documents, "containment"}}. Of a large
    validation split a part is judged, spread evenly: about 4,000 documents, or more if they are short. The result does
    not depend on `block`, the ids read at once; `advance` is called with the number of training ids after each block.
    """
    k = _shingle_ids(validation, train)
    index = _index(validation, k, block)
    nearest = _scan(train, index, k, threshold, block, advance) if len(index.hashes) else {}
    ranked = sorted(nearest.items(), key=lambda item: (-item[1][0] / index.sizes[item[0]], item[0]))
    judged = int(np.count_nonzero(index.sizes))
    return {
        "validation_documents": validation.n_documents,
        "judged": judged,
        "near": len(nearest),
        "share": len(nearest) / judged if judged else 0.0,
        "examples": [
            {
                "validation": document,
                "train": other,
                "containment": round(count / int(index.sizes[document]), 4),
            }
            for document, (count, other) in ranked[:_EXAMPLES]
        ],
    }


def _shingle_ids(*splits: Split) -> int:
    """Ids in a shingle: about 20 bytes of text, three or four words."""
    n_bytes = sum(split.n_bytes for split in splits)
    # All but those that stand before every document and after the last.
    n_ids = sum(max(0, split.n_tokens - split.n_documents - 1) for split in splits)
    return min(max(-(-_SHINGLE_BYTES * n_ids // max(1, n_bytes)), _LEAST_IDS), _MOST_IDS)


# ---- shingles ----------------------------------------------------------------------------------------------


def _hashes(ids: Ints, k: int) -> Hashes:
    """The hash of every stretch of k ids, shape (len(ids) - k + 1): a polynomial over mixed ids, modulo 2^64."""
    mixed = ids.astype(np.uint64)
    mixed += np.uint64(1)
    mixed *= np.uint64(_ODD)
    mixed ^= mixed >> _HALF
    mixed *= _MIX
    mixed ^= mixed >> _HALF
    # Doubling: a stretch of 2n ids is two of n, so that k ids cost log k steps.
    result, n = mixed, 1
    for bit in f"{k:b}"[1:]:
        longer = result[:-n] * np.uint64(pow(_ODD, n, 1 << 64))
        longer += result[n:]
        result, n = longer, 2 * n
        if bit == "1":
            longer = result[:-1] * np.uint64(_ODD)
            longer += mixed[n:]
            result, n = longer, n + 1
    return result


def _blocks(split: Split, k: int, block: int) -> Iterator[tuple[int, Hashes]]:
    """All stretches of k ids in the stream: the position of the first, and the hashes from there on."""
    for start in range(0, split.n_tokens - k + 1, block):
        yield start, _hashes(split.read(start, min(block + k - 1, split.n_tokens - start), mapped=False), k)


class _Documents:
    """Which document a stretch of k ids lies in."""

    def __init__(self, split: Split, k: int) -> None:
        self.k, self.starts, self.last = k, split.document_starts, split.n_tokens - 1

    def at(self, positions: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """The document at each position, and whether the whole stretch is its text.

        The id that separates documents is no text, and a stretch across it belongs to no document.
        """
        documents = np.searchsorted(self.starts, positions, side="right") - 1
        following = np.minimum(documents + 1, len(self.starts) - 1)
        ends = np.where(following > documents, self.starts[following], self.last)
        return documents, (positions > self.starts[documents]) & (positions + self.k <= ends)

    def closed(self, position: int) -> int:
        """How many documents have no stretch that begins at a position or after it, the last one left aside."""
        return int(np.searchsorted(self.starts[1:], position + self.k))


# ---- the index of the validation documents -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Index:
    hashes: Hashes  # of the sketches: sorted, each once
    offsets: Ints  # owners[offsets[i] : offsets[i + 1]] are the documents that have hashes[i]
    owners: Numbers
    sizes: Ints  # shingles in the sketch of each document; 0 when it is not judged


def _index(split: Split, k: int, block: int) -> _Index:
    documents, hashes = _candidates(split, k, block)
    places = np.cumsum(_changes(hashes)) - 1
    rare = (np.bincount(places) <= _BOILERPLATE)[places]
    documents, hashes = documents[rare], hashes[rare]
    # The hashes are sorted, so a document's first ones are its smallest.
    order = np.argsort(documents, kind="stable")
    firsts = np.searchsorted(documents[order], np.arange(split.n_documents))
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order)) - firsts[documents[order]]
    sizes = np.minimum(np.bincount(documents, minlength=split.n_documents), _SKETCH)
    sizes[sizes < _LEAST_SHINGLES] = 0
    sketched = ranks < sizes[documents]
    documents, hashes = documents[sketched], hashes[sketched]
    starts = np.flatnonzero(_changes(hashes))
    return _Index(hashes[starts], np.append(starts, len(hashes)), documents, sizes)


def _candidates(split: Split, k: int, block: int) -> tuple[Numbers, Hashes]:
    """Documents and their shingles' hashes, by hash, each pair once: all, or about 250 of a long document."""
    where = _Documents(split, k)
    ends = np.append(split.document_starts, split.n_tokens - 1)[1:]
    lengths = np.maximum(ends - split.document_starts - k, 0)
    step = max(1, -(-int(np.minimum(lengths, _CANDIDATES).sum()) // _MOST_HASHES))
    # The smallest hashes are what a sketch is made of: of a long document only those below a limit are kept.
    limits = np.full(split.n_documents, np.iinfo(np.uint64).max)
    long = lengths > _CANDIDATES
    limits[long] = (_CANDIDATES / lengths[long] * 2.0**64).astype(np.uint64)
    limits[np.arange(split.n_documents) % step > 0] = 0
    found: list[tuple[Numbers, Hashes]] = [(np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.uint64))]
    for start, hashes in _blocks(split, k, block):
        documents, whole = where.at(np.arange(start, start + len(hashes)))
        whole &= hashes <= limits[documents]
        found.append((documents[whole].astype(np.int32), hashes[whole]))
    owners = np.concatenate([part for part, _ in found])
    hashes = np.concatenate([part for _, part in found])
    found.clear()
    order = np.argsort(hashes, kind="stable")
    owners, hashes = owners[order], hashes[order]
    new = _changes(hashes) | _changes(owners)
    return owners[new], hashes[new]


# ---- the scan of the training documents ------------------------------------------------------------------


def _scan(
    train: Split, index: _Index, k: int, threshold: float, block: int, advance: Callable[[int], None] | None
) -> dict[int, tuple[int, int]]:
    """For every near validation document the most shingles in one training document, and the first that has them."""
    where = _Documents(train, k)
    find = _Finder(index.hashes)
    least = np.maximum(1, np.ceil(threshold * index.sizes - 1e-9)).astype(np.int64)
    fewest = int(least[index.sizes > 0].min())
    nearest: dict[int, tuple[int, int]] = {}
    n_hashes = len(index.hashes)
    # Of the training document that the next block goes on with: which hashes it has so far.
    waiting = np.zeros(0, dtype=np.int64)
    for start, hashes in _blocks(train, k, block):
        places, found = find(hashes)
        documents, whole = where.at(places + start)
        # A training document counts a shingle once, however often it has it.
        met = _distinct(np.concatenate([waiting, documents[whole] * n_hashes + found[whole]]))
        documents, found = np.divmod(met, n_hashes)
        closed = documents < where.closed(start + len(hashes))
        waiting = met[~closed]
        _count(documents[closed], found[closed], index, least, fewest, nearest)
        if advance is not None:
            advance(len(hashes))
    documents, found = np.divmod(waiting, n_hashes)
    _count(documents, found, index, least, fewest, nearest)
    return nearest


class _Finder:
    """Looks up many hashes of which few are there, in far less time than np.searchsorted.

    A table of bits sorts out nearly all that are not there. The others are few steps from the first of their bucket:
    there are at least 16 buckets to a hash, 4 for the largest index.
    """

    def __init__(self, hashes: Hashes) -> None:
        self.hashes, self.last = hashes, len(hashes) - 1
        bits = min(max(10, (16 * len(hashes)).bit_length()), _MOST_BITS)
        self.shift = np.uint64(64 - bits)
        counts = np.bincount(self._buckets(hashes), minlength=1 << bits)
        self.taken, self.steps = counts > 0, int(counts.max()) - 1
        self.firsts = np.cumsum(counts, dtype=np.int32)
        self.firsts -= counts.astype(np.int32)

    def _buckets(self, hashes: Hashes) -> Ints:
        return (hashes >> self.shift).view(np.int64)

    def __call__(self, hashes: Hashes) -> tuple[Ints, Ints]:
        """The positions of those that are there, and their places in the index."""
        buckets = self._buckets(hashes)
        maybe = np.flatnonzero(self.taken[buckets])
        wanted = hashes[maybe]
        places = self.firsts[buckets[maybe]].astype(np.int64)
        for _ in range(self.steps):
            places += self.hashes[places] < wanted
            np.minimum(places, self.last, out=places)
        there = self.hashes[places] == wanted
        return maybe[there], places[there]


def _count(
    documents: Ints, found: Ints, index: _Index, least: Ints, fewest: int, nearest: dict[int, tuple[int, int]]
) -> None:
    """Enter the near pairs among whole training documents, given with the hashes that they have, into `nearest`."""
    if not len(documents):
        return
    # Most training documents have too few of any validation document's shingles to be near one.
    origin = int(documents[0])
    enough = np.bincount(documents - origin)[documents - origin] >= fewest
    documents, found = documents[enough], found[enough]
    firsts, repeats = index.offsets[found], index.offsets[found + 1] - index.offsets[found]
    ends = np.cumsum(repeats)
    owners = index.owners[np.arange(ends[-1] if len(ends) else 0) + np.repeat(firsts - ends + repeats, repeats)]
    n = len(index.sizes)
    pairs = np.repeat(documents * n, repeats) + owners
    # Counted roughly first, several pairs to a cell: what is too few even so need not be sorted.
    cells = pairs & ((1 << (4 * len(pairs)).bit_length()) - 1)
    pairs = pairs[np.bincount(cells)[cells] >= least[owners]]
    pairs, counts = _distinct_counts(pairs)
    near = counts >= least[pairs % n]
    for pair, count in zip(pairs[near].tolist(), counts[near].tolist(), strict=True):
        other, document = divmod(pair, n)
        if count > nearest.get(document, (0, 0))[0]:
            nearest[document] = (count, other)


def _distinct(values: Ints) -> Ints:
    """Sorted in place, then each once."""
    values.sort()
    return values[_changes(values)]


def _distinct_counts(values: Ints) -> tuple[Ints, Ints]:
    """The same, and how often each was there."""
    values.sort()
    starts = np.flatnonzero(_changes(values))
    return values[starts], np.diff(np.append(starts, len(values)))


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value differs from the one before."""
    changed = np.ones(len(values), dtype=np.bool_)
    changed[1:] = values[1:] != values[:-1]
    return changed
