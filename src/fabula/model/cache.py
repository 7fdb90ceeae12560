"""What does a layer remember between decoding steps? Keys and values, in blocks that are added as the text grows.

A layer that sees everything keeps everything; a layer with a span keeps what can still be seen and a reserve, so that a
few tokens can be taken back. The cache belongs to the model because its shape is the mixer's decision; generation only
carries it, copies rows and rewinds. Shapes: keys and values (B, K, S, H).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Positions added at a time: growing by one would copy the cache at every token, growing to the maximum wastes memory.
_BLOCK = 64
# Tokens that a layer with a span can take back (speculative decoding and edits do).
_RESERVE = 64


def positions_held(length: int, most: int | None) -> int:
    """Positions that a layer has memory for after `length` tokens, when it looks back `most` tokens at most."""
    grown = -(-length // _BLOCK) * _BLOCK
    return grown if most is None else min(grown, _capacity(most))


def _capacity(most: int) -> int:
    return -(-(most + _RESERVE + _BLOCK) // _BLOCK) * _BLOCK


class LayerCache:
    """Keys and values of one layer, which looks back at most `most` tokens (None: to the beginning)."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.length = 0  # tokens that have come
        self._held = 0  # of them are kept, the last ones, at the front of the memory
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def n_keys(self, n_new: int) -> int:
        """Keys that `append` returns for `n_new` positions."""
        return n_new + (self.length if self.most is None else min(self.length, self.most))

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new positions; returns all that they may see, oldest first."""
        n_new = keys.shape[2]
        needed = self._held + n_new
        if self.most is not None and needed > _capacity(self.most):
            return self._append_and_drop(self.most, keys, values)
        self._keys = self._grow(self._keys, keys, needed)
        self._values = self._grow(self._values, values, needed)
        self._keys[:, :, self._held : needed] = keys
        self._values[:, :, self._held : needed] = values
        seen = slice(needed - self.n_keys(n_new), needed)
        self.length, self._held = self.length + n_new, needed
        return self._keys[:, :, seen], self._values[:, :, seen]

    def _append_and_drop(self, most: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The same where what nobody can see any more makes room."""
        old = self.n_keys(0)
        results = []
        kept = 0
        for name, new in (("_keys", keys), ("_values", values)):
            held: Tensor | None = getattr(self, name)
            before = new[:, :, :0] if held is None else held[:, :, : self._held]
            everything = torch.cat((before, new), dim=2)
            kept = min(everything.shape[2], most + _RESERVE)
            memory = new.new_empty((*new.shape[:2], _capacity(most), new.shape[3]))
            memory[:, :, :kept] = everything[:, :, -kept:]
            setattr(self, name, memory)
            results.append(everything[:, :, self._held - old :])
        self.length, self._held = self.length + keys.shape[2], kept
        return results[0], results[1]

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` positions."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length}: the cache holds {self.length} positions")
        dropped = self.length - length
        needed = length if self.most is None else min(length, self.most)
        if self._held - dropped < needed:
            first = self.length - self._held + (self.most or 0)
            raise ValueError(
                f"cannot rewind to {length}: a layer that looks back {self.most} tokens has kept what is needed to go "
                f"on from {first} to {self.length}, or anew from 0"
            )
        self.length, self._held = length, self._held - dropped

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        self.length = self._held = 0

    def select(self, rows: Tensor) -> None:
        """Rows of the batch in a new order, repeated or left out."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys.index_select(0, rows), self._values.index_select(0, rows)

    def n_bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.numel() * t.element_size() for t in (self._keys, self._values) if t is not None)

    def _grow(self, held: Tensor | None, new: Tensor, needed: int) -> Tensor:
        if held is not None and (held.shape[0], held.dtype) != (new.shape[0], new.dtype):
            if self._held:
                raise ValueError(
                    f"the cache holds {held.shape[0]} rows of {held.dtype}, new are {new.shape[0]} of {new.dtype}"
                )
            held = None  # nothing is remembered: memory of another shape is of no use
        if held is not None and held.shape[2] >= needed:
            return held
        capacity = positions_held(needed, self.most)
        grown = torch.empty((new.shape[0], new.shape[1], capacity, new.shape[3]), dtype=new.dtype, device=new.device)
        if held is not None:
            grown[:, :, : self._held] = held[:, :, : self._held]
        return grown


class Cache:
    """The caches of all layers, by how far each looks back, and the documents of the rows."""

    def __init__(self, reaches: list[int | None]) -> None:
        self.layers = [LayerCache(most) for most in reaches]
        self.documents: Tensor | None = None  # (B, length), if any were given

    @property
    def length(self) -> int:
        """Tokens that have come."""
        return self.layers[0].length

    def extend_documents(self, documents: Tensor | None, batch: int, n_new: int) -> Tensor | None:
        """Remember the document numbers (B, T) of new tokens; returns those of all tokens (B, S), None if none are
        told apart. Without numbers the new tokens go on with the row's last document."""
        if documents is None and self.documents is None:
            return None
        held = self.documents
        if held is None:
            assert documents is not None
            # What came before nothing was told apart belongs to the first document.
            held = documents[:, :1].expand(batch, self.length)
        new = held[:, -1:].expand(batch, n_new) if documents is None else documents
        self.documents = torch.cat((held, new), dim=1)
        return self.documents

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens. ValueError, and nothing changed, when that is not held."""
        before = [(layer.length, layer._held) for layer in self.layers]
        try:
            for layer in self.layers:
                if length:
                    layer.rewind(length)
                else:
                    layer.reset()
        except ValueError:
            for layer, (was, held) in zip(self.layers, before, strict=True):
                layer.length, layer._held = was, held
            raise
        if self.documents is not None:
            self.documents = self.documents[:, :length] if length else None

    def select(self, rows: Tensor) -> None:
        """Rows of the batch in a new order, repeated or left out: for every new row the number of an old one."""
        for layer in self.layers:
            layer.select(rows)
        if self.documents is not None:
            self.documents = self.documents.index_select(0, rows)

    def n_bytes(self) -> int:
        return sum(layer.n_bytes() for layer in self.layers)
