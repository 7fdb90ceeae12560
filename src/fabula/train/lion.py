"""Lion: every weight moves by the same amount, in the direction of a momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from fabula.train.decay import decay


class Lion(Optimizer):
    """The sign of momentum and gradient mixed (Chen et al., 2023; arXiv:2302.06675, algorithm 2).

    The momentum that is kept forgets more slowly than the one that is used. One moment is all its state.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        beta1: float,
        beta2: float,
        lr: float = 0.0,
        weight_decay: float = 0.0,
        cautious: bool = False,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "beta1": beta1, "beta2": beta2, "cautious": cautious}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of everything that has a gradient."""
        for group in self.param_groups:
            rate = group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(p)
                mean = state["exp_avg"]
                update = mean.lerp(p.grad, 1 - group["beta1"]).sign_()
                decay(p, update, rate * group["weight_decay"], group["cautious"])
                p.sub_(update, alpha=rate)
                mean.lerp_(p.grad, 1 - group["beta2"])
