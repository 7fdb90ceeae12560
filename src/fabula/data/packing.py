"""How do documents fill rows? Pure functions on the index of documents; no disk, no ids.

Rows hold `context` predictions. A document is predicted from the end-of-document id before it, and its own end is
predicted too, so a text of n ids makes n + 1 predictions: in the stream the stretch from where it begins to where the
next one begins.

concat    rows are consecutive stretches of the stream. Nothing is padded and nothing dropped; wherever a row ends, the
          document goes on in another one.
best-fit  whole documents, as many as fit, so that only those are cut that are longer than a row: they fill rows of
          their own, and what is left of them is packed like a document. Best-fit decreasing: the longest first, each
          into the row with the least room that is enough (Ding et al. 2024, "Fewer Truncations Improve Language
          Modeling", arXiv:2404.10830). The rest of a row is padding.
pad       one document a row, then padding; a longer one goes on in rows of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fabula.config import Data

Ids = NDArray[np.int64]
Packing = Literal["concat", "best-fit", "pad"]


# ---- concat ------------------------------------------------------------------------------------------------


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


# ---- best-fit and pad --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Packed:
    """Which pieces of documents make which row: pieces firsts[r] .. firsts[r + 1] are row r's, in the stream's order.

    20 bytes a piece at most; some 60 while it is made.
    """

    context: int
    starts: Ids  # where each piece begins in the stream
    sizes: NDArray[np.int32]  # its predictions
    firsts: Ids

    @property
    def n_rows(self) -> int:
        return len(self.firsts) - 1

    @property
    def predictions(self) -> int:
        return int(self.sizes.sum(dtype=np.int64))


def packed(kind: Packing, document_starts: Ids, end: int, context: int) -> Packed:
    """The rows of the documents that begin at `document_starts`, in order; the last of them ends at `end`.

    >>> rows = packed("best-fit", np.array([0, 3, 9, 12]), 14, 4)  # documents of 3, 6, 3 and 2 predictions
    >>> [list(zip(rows.starts[a:b].tolist(), rows.sizes[a:b].tolist())) for a, b in zip(rows.firsts, rows.firsts[1:])]
    [[(3, 4)], [(0, 3)], [(9, 3)], [(7, 2), (12, 2)]]
    """
    starts, sizes = _pieces(document_starts, end, context)
    if kind == "pad":
        return Packed(context, starts, sizes, np.arange(len(starts) + 1))
    rows, count = best_fit(sizes, context)
    # Stable: the pieces of a row stay in the order of the stream.
    order = np.argsort(rows, kind="stable")
    firsts = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=firsts[1:])
    return Packed(context, starts[order], sizes[order], firsts)


def joined(parts: Sequence[Packed]) -> Packed:
    """The rows of several parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    pieces = np.cumsum([0, *(len(part.starts) for part in parts)])
    return Packed(
        parts[0].context,
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        np.concatenate([[0], *(part.firsts[1:] + n for part, n in zip(parts, pieces[:-1], strict=True))]),
    )


def _pieces(document_starts: Ids, end: int, context: int) -> tuple[Ids, NDArray[np.int32]]:
    """Documents, cut where they are longer than a row: where each piece begins, and its predictions."""
    sizes = np.diff(document_starts, append=end)
    if not len(sizes) or sizes.max() <= context:
        return document_starts, sizes.astype(np.int32)
    counts = -(-sizes // context)
    skipped = ranges(np.zeros_like(counts), counts) * context
    return (
        np.repeat(document_starts, counts) + skipped,
        np.minimum(np.repeat(sizes, counts) - skipped, context).astype(np.int32),
    )


def best_fit(sizes: NDArray[np.int32], room: int) -> tuple[NDArray[np.int32], int]:
    """The row of each piece (sizes from 1 to `room`) by best-fit decreasing, and the number of rows.

    All pieces of one size are placed at once. Rows of equal room are as good as each other; the one with the least room
    that is enough is filled as often as the size goes into it before the next is begun. So it takes about
    room * log2(room) steps on whole arrays, however many pieces there are: a row's room is more than halved each time
    it is used.

    >>> best_fit(np.array([2, 3, 2, 1]), 4)
    (array([1, 0, 1, 0], dtype=int32), 2)
    """
    rows = np.empty(len(sizes), dtype=np.int32)
    order = np.argsort(-sizes, kind="stable")
    limits = np.searchsorted(-sizes[order], np.arange(-room, 1))  # those of size s: order[limits[room-s] : ..+1]
    open_rows: list[list[NDArray[np.int32]]] = [[] for _ in range(room + 1)]  # by the room that is left
    count = 0
    for size in range(room, 0, -1):
        waiting = order[limits[room - size] : limits[room - size + 1]]
        left = size
        while len(waiting) and left <= room:
            if left < room and not open_rows[left]:
                left += 1
                continue
            times = left // size
            needed = -(-len(waiting) // times)
            if left == room:
                found = np.arange(count, count + needed, dtype=np.int32)
                count += needed
            else:
                found = np.concatenate(open_rows[left])
                open_rows[left] = [found[needed:]] if len(found) > needed else []
                found = found[:needed]
            here = min(len(waiting), len(found) * times)
            rows[waiting[:here]] = np.repeat(found, times)[:here]
            waiting = waiting[here:]
            last = here - (len(found) - 1) * times  # pieces in the last of these rows
            _keep(open_rows, left - times * size, found[:-1])
            _keep(open_rows, left - last * size, found[-1:])
            left += 1
    return rows, count


def _keep(open_rows: list[list[NDArray[np.int32]]], left: int, rows: NDArray[np.int32]) -> None:
    if left and len(rows):
        open_rows[left].append(rows)


def ranges(firsts: Ids, counts: Ids) -> Ids:
    """Whole numbers counted up from each of `firsts`, one after the other.

    >>> ranges(np.array([7, 0]), np.array([2, 3])).tolist()
    [7, 8, 0, 1, 2]
    """
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(firsts - ends + counts, counts)


# ---- what a packing costs ----------------------------------------------------------------------------------


def figures(kind: Packing, document_starts: Ids, end: int, context: int) -> Data:
    """What a packing does to documents: plain data, exact.

    {"packing", "context", "rows", "padding": places that predict nothing, "waste": their share of all places,
    "cut": documents that do not lie in one row, "documents"}. Of concat the rows are those of an epoch that begins at
    the head of the stream (epochs are cut at other places), and what fills no row is neither row nor waste.
    """
    sizes = np.diff(document_starts, append=end)
    first = int(document_starts[0]) if len(document_starts) else end
    if kind == "concat":
        offsets = document_starts - first
        rows, padding = n_rows(end - first + 1, context), 0
        cut = int(np.count_nonzero(offsets // context != (offsets + sizes - 1) // context))
    else:
        rows = packed(kind, document_starts, end, context).n_rows
        padding = rows * context - int(end - first)
        cut = int(np.count_nonzero(sizes > context))
    return {
        "packing": kind,
        "context": context,
        "rows": rows,
        "padding": padding,
        "waste": padding / (rows * context) if rows else 0.0,
        "cut": cut,
        "documents": len(document_starts),
    }


def added(several: Sequence[Data]) -> Data:
    """The figures of several parts together."""
    first = dict(several[0])
    for name in ("rows", "padding", "cut", "documents"):
        first[name] = sum(part[name] for part in several)
    first["waste"] = first["padding"] / max(1, first["rows"] * first["context"])
    return first


def sentence(found: Data) -> str:
    """Figures in words.

    >>> sentence({"packing": "pad", "rows": 10, "context": 8, "waste": 0.25, "cut": 1, "documents": 9})
    'packing pad: 10 rows of 8 tokens, 25.0 % of them padding, 1 of 9 documents cut (11.1 %)'
    """
    share = found["cut"] / max(1, found["documents"])
    return (
        f"packing {found['packing']}: {found['rows']:,} rows of {found['context']:,} tokens, "
        f"{100 * found['waste']:.1f} % of them padding, {found['cut']:,} of {found['documents']:,} documents cut "
        f"({100 * share:.1f} %)"
    )
