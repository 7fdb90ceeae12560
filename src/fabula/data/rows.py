"""Which ids make a row? The rows of a split, or of the components of a mixture, for each packing.

A row has a key, a whole number: where it begins in the stream (concat), or its number (best-fit, pad). The loader
chooses keys, this turns them into batches. Packed rows are decided from the index of documents alone and are the same
in every pass: so a pass has every prediction exactly once, the number of rows and the share of padding are known
before the first step, and the position in the data stays one integer. Which documents share a row teaches a model
nothing as long as they do not see each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fabula.config import Data
from fabula.data import packing
from fabula.data.batch import Batch
from fabula.data.packing import Packing
from fabula.data.shards import Component, Split
from fabula.errors import InputError
from fabula.losses import IGNORE

Ids = NDArray[np.int64]


class Rows(ABC):
    """All rows of `context` places of some parts of a split: of all of it, or of each component of a mixture."""

    n_rows: list[int]  # of each part in one pass over it, the same in every pass
    predictions: list[int]  # of each part in one pass
    kind: Packing

    def __init__(self, split: Split, context: int, parts: Sequence[Component]) -> None:
        self.split, self.context, self.parts = split, context, parts

    def figures(self) -> Data:
        """What the packing does to the documents: see `packing.figures`."""
        return packing.added(
            [
                packing.figures(
                    self.kind,
                    self.split.document_starts[part.first_document : part.first_document + part.documents],
                    part.first_token + part.tokens,
                    self.context,
                )
                for part in self.parts
            ]
        )

    @abstractmethod
    def keys(self, part: int, places: Ids, shift: int) -> Ids:
        """The keys of the rows at some places of a pass over a part; `shift` is a number that differs between them."""

    @abstractmethod
    def starts(self, keys: Ids) -> Ids:
        """Where rows begin in the split's stream."""

    @abstractmethod
    def fixed(self, most: int | None = None) -> Ids:
        """The keys of a fixed set of rows: all of them, or `most` spread evenly over the parts."""

    @abstractmethod
    def batch(self, keys: Ids) -> Batch:
        """The rows of some keys."""


def make_rows(
    split: Split,
    context: int,
    isolate_documents: bool,
    kind: Packing,
    padding: int,
    parts: Sequence[Component] | None = None,
) -> Rows:
    """The rows of a split, or of parts of it; InputError when one of them has not one row.

    `padding` is the id that stands where nothing is predicted.
    """
    parts = parts or [split.whole]
    if kind == "concat":
        return Stretches(split, context, isolate_documents, parts)
    return Pieces(split, context, isolate_documents, kind, padding, parts)


class Stretches(Rows):
    """Consecutive stretches of the stream. Each pass cuts them at another shift, so that a text seen twice is not cut
    twice at the same places."""

    def __init__(self, split: Split, context: int, isolate_documents: bool, parts: Sequence[Component]) -> None:
        super().__init__(split, context, parts)
        self.kind = "concat"
        self.isolate_documents = isolate_documents
        for part in parts:
            if part.tokens < context:
                raise _too_little(split, part, context)
        # The largest shift keeps at least one row, and the number of rows the same in every pass.
        self._most_shift = [min(context - 1, part.tokens - context) for part in parts]
        self.n_rows = [packing.n_rows(p.tokens + 1, context, s) for p, s in zip(parts, self._most_shift, strict=True)]
        self.predictions = [rows * context for rows in self.n_rows]

    def keys(self, part: int, places: Ids, shift: int) -> Ids:
        return self.parts[part].first_token + places * self.context + shift % (self._most_shift[part] + 1)

    def starts(self, keys: Ids) -> Ids:
        return keys

    def fixed(self, most: int | None = None) -> Ids:
        rows = [packing.n_rows(part.tokens + 1, self.context) for part in self.parts]
        chosen = spread(sum(rows), most)
        starts = [p.first_token + np.arange(n) * self.context for p, n in zip(self.parts, rows, strict=True)]
        return np.concatenate(starts)[chosen]

    def batch(self, keys: Ids) -> Batch:
        ids = torch.from_numpy(self.split.windows(keys, self.context + 1))
        tokens, targets = ids[:, :-1], ids[:, 1:]
        if not self.isolate_documents:
            return Batch(tokens, targets)
        documents, positions = packing.boundaries(keys, self.context, self.split.document_starts)
        return Batch(tokens, targets, torch.from_numpy(positions), torch.from_numpy(documents))


class Pieces(Rows):
    """Rows of whole documents, or of pieces of those that are longer than a row, with padding at their end.

    Batches are always `context` wide, whatever they hold: memory and time of a step do not depend on the data.
    """

    def __init__(
        self,
        split: Split,
        context: int,
        isolate_documents: bool,
        kind: Packing,
        padding: int,
        parts: Sequence[Component],
    ) -> None:
        super().__init__(split, context, parts)
        self.kind, self.padding = kind, padding
        # One document a row: what stands behind it is not seen, and no mask is needed.
        self.masked = isolate_documents and kind != "pad"
        made = []
        for part in parts:
            if not part.documents:
                raise _too_little(split, part, context)
            starts = split.document_starts[part.first_document : part.first_document + part.documents]
            made.append(packing.packed(kind, starts, part.first_token + part.tokens, context))
        self.n_rows = [rows.n_rows for rows in made]
        self.predictions = [part.tokens for part in parts]
        self.packed = packing.joined(made)

    def keys(self, part: int, places: Ids, shift: int) -> Ids:
        return sum(self.n_rows[:part]) + places

    def starts(self, keys: Ids) -> Ids:
        return self.packed.starts[self.packed.firsts[keys]]

    def fixed(self, most: int | None = None) -> Ids:
        return spread(self.packed.n_rows, most)

    def batch(self, keys: Ids) -> Batch:
        firsts = self.packed.firsts[keys]
        counts = self.packed.firsts[keys + 1] - firsts
        pieces = packing.ranges(firsts, counts)  # of all these rows, row by row
        sizes = self.packed.sizes[pieces].astype(np.int64)
        within = packing.ranges(np.zeros_like(sizes), sizes)
        places = np.repeat(self.packed.starts[pieces], sizes) + within
        filled = np.add.reduceat(sizes, np.cumsum(counts) - counts)
        columns = np.arange(self.context)
        inside = columns < filled[:, None]
        tokens = np.full(inside.shape, self.padding, dtype=np.int64)
        targets = np.full(inside.shape, IGNORE, dtype=np.int64)
        tokens[inside] = self.split.at(places)
        targets[inside] = self.split.at(places + 1)
        if not self.masked:
            return Batch(torch.from_numpy(tokens), torch.from_numpy(targets))
        # Padding is a document of its own.
        documents = np.broadcast_to(counts[:, None], inside.shape).copy()
        documents[inside] = np.repeat(packing.ranges(np.zeros_like(counts), counts), sizes)
        positions = columns - filled[:, None]
        positions[inside] = within
        return Batch(*(torch.from_numpy(part) for part in (tokens, targets, positions, documents)))


def spread(rows: int, most: int | None) -> Ids:
    """All of some rows by number, or `most` of them, evenly spread."""
    if most is None or most >= rows:
        return np.arange(rows, dtype=np.int64)
    return np.floor(np.arange(most) * (rows / most)).astype(np.int64)


def _too_little(split: Split, part: Component, context: int) -> InputError:
    whose = f"{part.name} in the {split.name} split" if part.name else f"the {split.name} split"
    more = "raise --corpus.validation" if split.name == "validation" else "give more text"
    have = part.tokens + 1 if part.documents else 0
    return InputError(
        f"{whose} has {have:,} tokens, one row needs {context + 1:,}: {more}, or use a smaller --model.context_length"
    )
