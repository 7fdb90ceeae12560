"""Byte-pair encoding (arXiv:1508.07909), to be read: what the fast trainers and encoders are tested equal to.

Ids 0 to 255 are the bytes; the i-th merge makes the id 256 + i. A piece is the bytes of a word, a line or a document:
merges never cross its edges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

Pair = tuple[int, int]


def learn(pieces: Iterable[bytes], most: int) -> list[Pair]:
    """Up to `most` merges: each time the most frequent pair of neighbours, until none stands twice.

    Of equally frequent pairs that of the smaller ids. In a run (`aaa`) every two neighbours are a pair (two of them).
    """
    texts = [list(piece) for piece in pieces]
    merges: list[Pair] = []
    while len(merges) < most:
        counts = Counter(pair for ids in texts for pair in pairwise(ids))
        pair = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if pair is None or counts[pair] < 2:
            break
        texts = [merged(ids, pair, 256 + len(merges)) for ids in texts]
        merges.append(pair)
    return merges


def encode(piece: bytes, merges: Iterable[Pair]) -> list[int]:
    """The ids of a piece: every merge in the order in which it was learnt."""
    ids = list(piece)
    for number, pair in enumerate(merges):
        ids = merged(ids, pair, 256 + number)
    return ids


def merged(ids: list[int], pair: Pair, new: int) -> list[int]:
    """Ids with every occurrence of a pair, from left to right, replaced by one new id."""
    made: list[int] = []
    place = 0
    while place < len(ids):
        if tuple(ids[place : place + 2]) == pair:
            made.append(new)
            place += 2
        else:
            made.append(ids[place])
            place += 1
    return made
