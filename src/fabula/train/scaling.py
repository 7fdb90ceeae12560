"""How are small gradients kept from vanishing in float16? The loss is scaled up, the gradients are scaled down again.

float16 has nothing below 6e-8, and gradients are often smaller. The backward pass of a loss that is 65,536 times as
large makes gradients that are, too (arXiv:1710.03740). What overflows is not applied, and the scale is halved; after
`GROWTH_STEPS` steps without an overflow it is doubled. These are the rules and numbers of torch's GradScaler, which
judges each optimizer for itself: here all optimizers move or none, and gradients are true before anything looks at
them, so clipping, logging and judging know of no scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fabula.config import Data

FIRST, GROWTH_STEPS, MOST = 65536.0, 2000, 2.0**24


class LossScale:
    """A scale that follows the gradients; of a format that needs none it is 1 for ever."""

    def __init__(self, dtype: str) -> None:
        self.moves = dtype == "float16"
        self.value = FIRST if self.moves else 1.0
        self._steps = 0  # since it last changed

    def up(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        return loss * self.value if self.moves else loss

    def down(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gradients of the scaled loss to gradients of the loss, in place."""
        gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
        if self.moves and gradients:
            torch._foreach_mul_(gradients, 1.0 / self.value)

    def blames(self, loss: float, norm: float) -> bool:
        """Whether a gradient that is not finite may be the scale's doing: the loss is finite, and it can be lower."""
        return self.moves and self.value > 1 and math.isfinite(loss) and not math.isfinite(norm)

    def follow(self, norm: float) -> None:
        """After the gradients of a step, whose norm (unscaled) says whether one overflowed."""
        if not self.moves:
            return
        if not math.isfinite(norm):
            self.value, self._steps = max(1.0, self.value / 2), 0
            return
        self._steps += 1
        if self._steps == GROWTH_STEPS:
            self.value, self._steps = min(MOST, self.value * 2), 0

    def state(self) -> Data:
        """For a checkpoint."""
        return {"value": self.value, "steps": self._steps} if self.moves else {}

    def restore(self, state: Data) -> None:
        """Continue from what `state` returned; of a run in another format, begin anew."""
        if self.moves and state:
            self.value, self._steps = float(state["value"]), int(state["steps"])
