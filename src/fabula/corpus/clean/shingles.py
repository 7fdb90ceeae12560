"""Which texts are nearly the same, and which share a stretch of words? Hashes of stretches of k words, and MinHash.

Broder 1997, "On the resemblance and containment of documents": a document is the set of its shingles, stretches of k
consecutive words, and the resemblance of two documents is the share of shingles that they have in common. A signature
of 128 numbers, each the least value of another hash over the set, agrees in about that share of its places. To find
candidates without comparing all pairs, signatures are cut into bands (Leskovec, Rajaraman, Ullman 2014, chapter 3):
documents that agree in a whole band are compared.

The hashes are our own arithmetic, so that no version of any library changes what is dropped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from hashlib import blake2b
from types import TracebackType
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from fabula.corpus.split import no_room, temporary

WORDS = 5  # of a shingle, as in FineWeb (Penedo et al. 2024, arXiv:2406.17557)
LEAST = 16  # a document with fewer different shingles is not judged
PLACES = 128  # of a signature

_RECALL = 0.95
_BLOCK = 1 << 13

Hashes = NDArray[np.uint64]

_ODD = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio, as in splitmix64
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


def shingles(words: Sequence[str], k: int) -> Hashes:
    """The hash of every stretch of k words, in their order, shape (len(words) - k + 1); none of a shorter text."""
    n = len(words) - k + 1
    if n < 1:
        return np.zeros(0, dtype=np.uint64)
    mixed = _mixed(np.fromiter((crc32(word.encode("utf-8")) for word in words), dtype=np.uint64, count=len(words)))
    result = np.zeros(n, dtype=np.uint64)
    for place in range(k):
        result *= np.uint64(_ODD)
        result += mixed[place : place + n]
    return _mixed(result)


def _mixed(values: Hashes) -> Hashes:
    """Each value spread over all 64 bits."""
    values = (values + np.uint64(1)) * np.uint64(_ODD)
    values ^= values >> _HALF
    values *= _MIX
    values ^= values >> _HALF
    return values


def _constants(purpose: bytes) -> Hashes:
    """As many fixed odd numbers of 64 bits as a signature has places."""
    raw = b"".join(blake2b(b"%d" % i, digest_size=8, person=purpose).digest() for i in range(PLACES))
    return np.frombuffer(raw, "<u8").astype(np.uint64) | np.uint64(1)


_TIMES, _PLUS = _constants(b"times"), _constants(b"plus")


def signature(words: Sequence[str]) -> NDArray[np.uint32] | None:
    """The MinHash signature of a text, shape (128); None when it is too short to be judged (16 different shingles)."""
    found = np.unique(shingles(words, WORDS))
    if len(found) < LEAST:
        return None
    least = np.full(PLACES, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(found), _BLOCK):
        block = found[start : start + _BLOCK]
        # Multiply-shift (Dietzfelbinger et al. 1997): the upper half of a * x + b modulo 2^64.
        values = (_TIMES[:, None] * block[None, :] + _PLUS[:, None]) >> _HALF
        np.minimum(least, values.min(axis=1).astype(np.uint32), out=least)
    return least


def resemblance(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    """The share of places in which two signatures agree: the resemblance, give or take 0.04."""
    return float(np.count_nonzero(one == other)) / PLACES


def bands_for(threshold: float) -> tuple[int, int]:
    """Bands and their rows: as long as can be while 95 % of the pairs at the threshold agree in a band.

    >>> bands_for(0.8), bands_for(0.5)
    ((18, 7), (42, 3))
    """
    for rows in range(PLACES, 0, -1):
        bands = PLACES // rows
        if 1 - (1 - threshold**rows) ** bands >= _RECALL:
            return bands, rows
    return PLACES, 1


class NearCopies:
    """The signatures of the documents kept so far, on disk, in a fixed amount of memory.

    About 1.3 KB a document in a temporary database (see `corpus.split.temporary`), which goes with the process. Each
    is compared with those that were kept, not with those that were dropped: whatever is kept, no two of it are near.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._bands, self._rows = bands_for(threshold)
        self._database = temporary(
            "CREATE TABLE signatures(number INTEGER PRIMARY KEY, origin TEXT, signature BLOB)",
            "CREATE TABLE bands(key INTEGER, number INTEGER, PRIMARY KEY(key, number)) WITHOUT ROWID",
        )
        self._kept = 0

    def copy_of(self, words: Sequence[str], origin: str) -> tuple[str, float] | None:
        """Where the nearest earlier document stands and how near it is; None, and the text remembered, if none is."""
        made = signature(words)
        if made is None:
            return None
        keys = self._keys(made)
        try:
            candidates = self._candidates(keys)
            best = max(((resemblance(made, other), -number, at) for number, at, other in candidates), default=None)
            if best is not None and best[0] >= self.threshold:
                return best[2], best[0]
            self._kept += 1
            self._database.execute(
                "INSERT INTO signatures VALUES (?, ?, ?)", (self._kept, origin, made.astype("<u4").tobytes())
            )
            self._database.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", [(k, self._kept) for k in keys])
        except sqlite3.OperationalError as error:
            raise no_room(error) from error
        return None

    def _candidates(self, keys: Sequence[int]) -> list[tuple[int, str, NDArray[np.uint32]]]:
        marks = ",".join("?" * len(keys))
        found = self._database.execute(
            "SELECT number, origin, signature FROM signatures WHERE number IN "
            f"(SELECT number FROM bands WHERE key IN ({marks}))",
            keys,
        )
        return [(number, origin, np.frombuffer(raw, "<u4")) for number, origin, raw in found]

    def _keys(self, made: NDArray[np.uint32]) -> list[int]:
        """A number for each band of a signature, that of another band never the same but by chance."""
        used = made[: self._bands * self._rows].astype(np.uint64).reshape(self._bands, self._rows)
        keys = np.arange(self._bands, dtype=np.uint64)
        for row in range(self._rows):
            keys = _mixed(keys ^ used[:, row])
        return [int(key) for key in keys.view(np.int64)]

    def __enter__(self) -> NearCopies:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
