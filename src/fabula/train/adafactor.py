"""Adafactor: Adam's division without Adam's memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fabula.train.decay import decay

# Added to squares, so that a gradient of 0 divides 0 by something (epsilon 1 of the paper).
_NOTHING = 1e-30


class Adafactor(Optimizer):
    """Squared gradients of a matrix kept as means of rows and columns (Shazeer and Stern, 2018; arXiv:1804.04235).

    Updates are clipped by their root mean square and made relative to that of the weights; there is no momentum. The
    rate is the schedule's alone. torch's own Adafactor is this one as long as the rate is below 1 / sqrt(step) (a test
    holds them equal), and caps it there: beyond 400 steps at 0.05 no schedule of ours would be followed.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        decay_power: float,
        least: float,
        largest: float,
        lr: float = 0.0,
        weight_decay: float = 0.0,
        cautious: bool = False,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "cautious": cautious}
        super().__init__(params, {**defaults, "decay_power": decay_power, "least": least, "largest": largest})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of everything that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
        state["step"] += 1
        forgotten = float(state["step"]) ** -group["decay_power"]
        squares = _factored(state, gradient, forgotten) if gradient.ndim > 1 else _whole(state, gradient, forgotten)
        update = squares.rsqrt_().mul_(gradient)
        update.div_((_root_mean_square(update) / group["largest"]).clamp(min=1.0))
        size = _root_mean_square(p).clamp(min=group["least"])
        decay(p, update, group["lr"] * group["weight_decay"], group["cautious"])
        p.sub_(update.mul_(size), alpha=group["lr"])


def _factored(state: dict[str, Any], gradient: Tensor, forgotten: float) -> Tensor:
    """The estimate of squared gradients from their means over columns (…, R, 1) and over rows (…, 1, C)."""
    if "row_var" not in state:
        state["row_var"] = gradient.new_zeros((*gradient.shape[:-1], 1))
        state["col_var"] = gradient.new_zeros((*gradient.shape[:-2], 1, gradient.shape[-1]))
    rows, columns = state["row_var"], state["col_var"]
    squares = gradient.square().add_(_NOTHING)
    rows.lerp_(squares.mean(dim=-1, keepdim=True), forgotten)
    columns.lerp_(squares.mean(dim=-2, keepdim=True), forgotten)
    return (rows / rows.mean(dim=-2, keepdim=True)) * columns


def _whole(state: dict[str, Any], gradient: Tensor, forgotten: float) -> Tensor:
    if "variance" not in state:
        state["variance"] = torch.zeros_like(gradient)
    variance: Tensor = state["variance"]
    return variance.lerp_(gradient.square().add_(_NOTHING), forgotten).clone()


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()
