"""Sophia: steps that are short where the loss is curved, and nowhere longer than the rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from fabula.train.decay import decay


class Sophia(Optimizer):
    """Sophia-G (Liu et al., 2023; arXiv:2305.14342, algorithms 2 and 3).

    A weight moves by lr x clip(m / max(gamma h, eps), 1), m the mean of gradients, h that of estimates of the diagonal
    of the Gauss-Newton matrix. An estimate is the gradient towards labels that are drawn from the model, squared, times
    the number of predictions. Whoever trains asks `wants_estimate` before each step and, when it does, puts that
    gradient in place of the usual one and calls `estimate`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        beta1: float,
        beta2: float,
        gamma: float,
        every: int,
        eps: float,
        lr: float = 0.0,
        weight_decay: float = 0.0,
        cautious: bool = False,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "beta1": beta1, "beta2": beta2, "gamma": gamma}
        super().__init__(params, {**defaults, "every": every, "eps": eps, "cautious": cautious})

    def wants_estimate(self) -> bool:
        """Whether the step that comes next wants a new estimate of the curvature: the first one, and every so many."""
        for group in self.param_groups:
            for p in group["params"]:
                if "step" in self.state[p]:
                    return int(self.state[p]["step"]) % int(group["every"]) == 0
        return True

    @torch.no_grad()
    def estimate(self, count: int) -> None:
        """Take the gradients that are there as those of the mean loss over `count` predictions of drawn labels."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    curvature = self._state(p)["hessian"]
                    curvature.mul_(group["beta2"]).addcmul_(p.grad, p.grad, value=(1 - group["beta2"]) * count)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of everything that has a gradient."""
        for group in self.param_groups:
            rate = group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self._state(p)
                mean = state["exp_avg"].lerp_(p.grad, 1 - group["beta1"])
                update = (mean / (group["gamma"] * state["hessian"]).clamp_(min=group["eps"])).clamp_(-1, 1)
                decay(p, update, rate * group["weight_decay"], group["cautious"])
                p.sub_(update, alpha=rate)
                state["step"] += 1

    def _state(self, p: torch.Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[p]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["hessian"] = torch.zeros_like(p), torch.zeros_like(p)
        return state
