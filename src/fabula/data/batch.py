"""`Batch`: the contract between data and objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fabula.device import Device
from fabula.losses import IGNORE


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of ids, always rectangular. Shapes (B, T). Targets that are `losses.IGNORE` are not predicted.

    `documents` (numbers that differ between documents of a row) and `positions` (from 0 in each document) are there
    when attention and positions stay inside documents; without them a row is one text.
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor | None = None
    documents: Tensor | None = None

    @property
    def n_targets(self) -> int:
        """Positions that are predicted."""
        return int((self.targets != IGNORE).sum())

    def rows(self, start: int, stop: int) -> Batch:
        """Some of the rows."""

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[start:stop]

        return Batch(self.tokens[start:stop], self.targets[start:stop], cut(self.positions), cut(self.documents))

    def pinned(self) -> Batch:
        """The same in page-locked memory, from which a copy to a graphics card does not wait (`to`)."""

        def pin(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.pin_memory()

        return Batch(self.tokens.pin_memory(), self.targets.pin_memory(), pin(self.positions), pin(self.documents))

    def to(self, device: Device) -> Batch:
        """The same on another device."""
        if device.name == "cpu":
            return self

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device.torch, non_blocking=True)

        tokens, targets = move(self.tokens), move(self.targets)
        assert isinstance(tokens, torch.Tensor)
        assert isinstance(targets, torch.Tensor)
        return Batch(tokens, targets, move(self.positions), move(self.documents))
