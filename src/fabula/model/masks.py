"""Who may attend to whom? Masks made from lengths and boundaries, never by looking for a token.

True means "may attend". A query always sees itself, so no row is empty and no softmax is NaN.

>>> causal(3, 3).int().tolist()
[[1, 0, 0], [1, 1, 0], [1, 1, 1]]
>>> same_document(torch.tensor([[0, 0, 1]])).int().tolist()
[[[1, 1, 0], [1, 1, 0], [0, 0, 1]]]

`Sight` combines causality, a span, documents and a bias of positions for one kind of layer, and cuts the attention into
pieces: some queries each, with only the keys that one of them may see. With windows and blocks memory and time are then
in proportion to what is seen. Only documents and biases in layers that see everything still need masks that grow with
the square of the longest document.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fabula.model.spans import Full, SpanConfig

# (t, s) distances from query back to key, in tokens; negative for keys that come later. Returns (N, t, s), added to the
# scores of N heads.
Bias = Callable[[Tensor], Tensor]

# Queries in a piece where keys are not limited, and the fewest where they are: measured, see docs/log.md.
_PIECE, _FEWEST = 256, 64


def causal(n_queries: int, n_keys: int, device: torch.device | None = None) -> Tensor:
    """(T, S): the last query sees every key, each earlier one a key less. With a cache, S > T."""
    return _distances(range(n_keys - n_queries, n_keys), range(n_keys), device) >= 0


def same_document(documents: Tensor, key_documents: Tensor | None = None) -> Tensor:
    """(B, T, S) from document numbers (B, T) and (B, S): only positions of one's own document."""
    keys = documents if key_documents is None else key_documents
    return documents.unsqueeze(2) == keys.unsqueeze(1)


class Piece(NamedTuple):
    """Some queries and the keys that they may see.

    `mask` (B or 1, N or 1, t, s) is added to the scores: 0 or -inf, and the bias of positions. Without one every key
    is seen, or, if `causal`, each query's own and those before it.
    """

    queries: slice
    keys: slice
    causal: bool
    mask: Tensor | None


class Sight:
    """Which of S keys each of T queries may see, in one kind of layer. The queries are the last T of the S positions.

    positions (B or 1, T) count from 0 in each document; spans in blocks need them. documents (B, T) and key_documents
    (B, S) are numbers that differ between documents of a row; padding is a document of its own. `seen` (B, S) is false
    for keys that no query sees. Not causal (encoders): every query sees both ways.
    """

    def __init__(
        self,
        n_queries: int,
        n_keys: int,
        device: torch.device | None = None,
        *,
        causal: bool = True,
        span: SpanConfig | None = None,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        key_documents: Tensor | None = None,
        seen: Tensor | None = None,
        bias: Bias | None = None,
    ) -> None:
        self.n_queries, self.n_keys, self.device, self.causal = n_queries, n_keys, device, causal
        span = span or Full()
        self.most, self.bias, self.seen = span.most(), bias, seen
        if not causal and self.most is not None:
            raise ValueError("a span looks back: it needs causal attention")
        if self.most is not None and self.most >= n_keys - 1:
            self.most = None if span.reach(torch.zeros(1)) is None else self.most
        self.reach = None
        if self.most is not None:
            if positions is None:
                positions = torch.arange(n_keys - n_queries, n_keys, device=device).unsqueeze(0)
            self.reach = span.reach(positions)
        of_keys = documents if key_documents is None else key_documents
        if of_keys is not None and self._can_read and bool((of_keys == of_keys[:, :1]).all()):
            documents = of_keys = None  # one document a row: nothing to tell apart
        self.documents, self.key_documents = documents, of_keys
        self.block_mask: object | None = None  # what FlexAttention made of it
        self._pieces: dict[torch.dtype, list[Piece]] = {}

    @property
    def plain(self) -> bool:
        """Nothing but causality, or nothing at all."""
        return self.most is None and self.documents is None and self.bias is None and self.seen is None

    def allowed(self, queries: slice | None = None, keys: slice | None = None) -> Tensor:
        """(B or 1, 1, t, s): whether a query may see a key; of all of them without slices."""
        rows, columns = queries or slice(0, self.n_queries), keys or slice(0, self.n_keys)
        distance = self.distance(rows, columns)
        may = (distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)).unsqueeze(0)
        if self.reach is not None:
            may = may & (distance <= self.reach[:, rows].unsqueeze(-1))
        elif self.most is not None:
            may = may & (distance <= self.most)
        if self.documents is not None and self.key_documents is not None:
            may = may & same_document(self.documents[:, rows], self.key_documents[:, columns])
        if self.seen is not None:
            may = may & self.seen[:, columns].unsqueeze(1)
        return may.unsqueeze(1)

    def distance(self, queries: slice, keys: slice) -> Tensor:
        """(t, s): how many tokens a key lies before a query."""
        before = self.n_keys - self.n_queries
        rows = range(before + queries.start, before + queries.stop)
        return _distances(rows, range(keys.start, keys.stop), self.device)

    def pieces(self, dtype: torch.dtype) -> list[Piece]:
        """The pieces that together are this attention; made once, layers of one kind share them."""
        if dtype not in self._pieces:
            self._pieces[dtype] = self._cut(dtype)
        return self._pieces[dtype]

    def _cut(self, dtype: torch.dtype) -> list[Piece]:
        every = slice(0, self.n_queries), slice(0, self.n_keys)
        if self.plain:
            if not self.causal or self.n_queries == 1:
                return [Piece(*every, False, None)]
            if self.n_queries == self.n_keys:
                return [Piece(*every, True, None)]
        if not self.causal:
            return [self._piece(*every, dtype)]
        starts = self._first_keys()
        size = _PIECE if self.most is None else max(_FEWEST, min(_PIECE, (self.most + 1) // 4))
        before = self.n_keys - self.n_queries
        found = []
        for start in range(0, self.n_queries, size):
            stop = min(start + size, self.n_queries)
            found.append(self._piece(slice(start, stop), slice(starts(start), before + stop), dtype))
        return found

    def _first_keys(self) -> Callable[[int], int]:
        """The first key that a query or any after it may see."""
        before = self.n_keys - self.n_queries
        begins = None
        if self.documents is not None and self.key_documents is not None and self._can_read:
            numbers = self.key_documents
            # Where the document of each key begins; for numbers that come back it is not looked for.
            if bool((numbers[:, 1:] >= numbers[:, :-1]).all()):
                index = torch.arange(1, self.n_keys) * (numbers[:, 1:] != numbers[:, :-1])
                starts = torch.cat((index.new_zeros(len(index), 1), index), dim=1).cummax(dim=1).values
                begins = starts.amin(dim=0).tolist()

        def first(query: int) -> int:
            by_span = 0 if self.most is None else max(0, before + query - self.most)
            return by_span if begins is None else max(by_span, int(begins[before + query]))

        return first

    @property
    def _can_read(self) -> bool:
        """Whether values can be read at no cost: not from another device, nor while a graph is being traced."""
        return (self.device is None or self.device.type == "cpu") and not torch.compiler.is_compiling()

    def _piece(self, queries: slice, keys: slice, dtype: torch.dtype) -> Piece:
        single = queries.stop - queries.start == 1
        if single and self.reach is None and self.documents is None and self.bias is None and self.seen is None:
            return Piece(queries, keys, False, None)  # the span alone: its first key is the first one here
        if self.seen is not None and not self.causal and self.documents is None:
            allowed = self.seen[:, None, None, keys]  # the same for every query
        else:
            allowed = self.allowed(queries, keys)
        mask = torch.zeros(allowed.shape, dtype=dtype, device=self.device).masked_fill(~allowed, float("-inf"))
        if self.bias is not None:
            mask = self.bias(self.distance(queries, keys)).to(dtype).unsqueeze(0) + mask
        return Piece(queries, keys, False, mask)


def _distances(queries: range, keys: range, device: torch.device | None) -> Tensor:
    rows = torch.arange(queries.start, queries.stop, device=device)
    return rows.unsqueeze(1) - torch.arange(keys.start, keys.stop, device=device).unsqueeze(0)
