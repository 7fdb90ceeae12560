"""Where do weights shrink? Decoupled decay (arXiv:1711.05101), everywhere or cautiously (arXiv:2510.12402).

Cautious decay acts only where it pulls in the direction of the update. What the update wants to grow is left alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def decay(weight: Tensor, update: Tensor, amount: float, cautious: bool) -> None:
    """Shrink `weight` by `amount` of itself in place. The step that follows subtracts a positive multiple of `update`.

    `amount` is rate x decay; 0 does nothing.
    """
    if not amount:
        return
    if cautious:
        agrees = update * weight > 0
        weight.sub_(weight * agrees, alpha=amount)
    else:
        weight.mul_(1 - amount)


@torch.no_grad()
def decay_cautiously(optimizer: Optimizer, arguments: Any, keywords: Any) -> None:
    """A hook before each step of torch's AdamW, whose update has the sign of the mean of gradients after this one."""
    for group in optimizer.param_groups:
        amount, beta1 = group["lr"] * group["cautious_decay"], group["betas"][0]
        for p in group["params"] if amount else ():
            if p.grad is None:
                continue
            mean = optimizer.state[p].get("exp_avg")
            decay(p, p.grad if mean is None else mean.lerp(p.grad, 1 - beta1), amount, cautious=True)
