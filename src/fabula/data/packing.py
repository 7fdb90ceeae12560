"""How do documents fill rows? Pure functions on positions; no disk.

Rows are consecutive stretches of the split's stream, each one id longer than the context (the last id is only a
target). Nothing is padded and nothing dropped, a long document goes on in another row. Where a document begins inside
a row is known from the index of documents, so attention and positions can restart there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def n_rows(n_tokens: int, context: int, shift: int = 0) -> int:
    """Full rows of `context` predictions in a stream of `n_tokens` ids, `shift` ids left out at its head."""
    return max(0, (n_tokens - 1 - shift) // context)


def boundaries(row_starts: Ids, context: int, document_starts: Ids) -> tuple[Ids, Ids]:
    """Document numbers and positions inside the document for rows (B, T) that begin at `row_starts`.

    A document that began before its row counts its positions from the row's start: what is before is not seen.

    >>> numbers, positions = boundaries(np.array([2]), 5, np.array([0, 4]))
    >>> numbers.tolist(), positions.tolist()
    ([[0, 0, 1, 1, 1]], [[0, 1, 0, 1, 2]])
    """
    place = row_starts[:, None] + np.arange(context)
    number = np.searchsorted(document_starts, place, side="right") - 1
    begins = np.maximum(document_starts[np.maximum(number, 0)], row_starts[:, None])
    return number, place - begins
