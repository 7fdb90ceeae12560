"""What does a layer remember between decoding steps? Keys and values, in blocks that are added as the text grows.

The cache belongs to the model because its shape is the mixer's decision; generation only carries it, copies and
rewinds. Shapes: keys and values (B, K, S, H).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Positions added at a time: growing by one would copy the cache at every token, growing to the maximum wastes memory.
_BLOCK = 64


class LayerCache:
    """Keys and values of one layer."""

    def __init__(self) -> None:
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new positions; returns all of them, oldest first."""
        needed = self.length + keys.shape[2]
        self._keys = self._grow(self._keys, keys, needed)
        self._values = self._grow(self._values, values, needed)
        self._keys[:, :, self.length : needed] = keys
        self._values[:, :, self.length : needed] = values
        self.length = needed
        return self._keys[:, :, :needed], self._values[:, :, :needed]

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` positions."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length}: the cache holds {self.length} positions")
        self.length = length

    def n_bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.numel() * t.element_size() for t in (self._keys, self._values) if t is not None)

    def _grow(self, held: Tensor | None, new: Tensor, needed: int) -> Tensor:
        if held is not None and held.shape[2] >= needed:
            return held
        capacity = -(-needed // _BLOCK) * _BLOCK
        grown = torch.empty((new.shape[0], new.shape[1], capacity, new.shape[3]), dtype=new.dtype, device=new.device)
        if held is not None:
            grown[:, :, : self.length] = held[:, :, : self.length]
        return grown


class Cache:
    """The caches of all layers."""

    def __init__(self, n_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(n_layers)]

    @property
    def length(self) -> int:
        """Positions held, in tokens."""
        return self.layers[0].length

    def rewind(self, length: int) -> None:
        for layer in self.layers:
            layer.rewind(length)

    def n_bytes(self) -> int:
        return sum(layer.n_bytes() for layer in self.layers)
