"""How large may the gradients be? Clipped by the joint norm of all (arXiv:1211.5063), also where they lie spread over
processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fabula.distributed.spread import whole


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> float:
    """Scale the gradients so that their joint norm is at most `most` (0: leave them); returns the norm before.

    A norm that is not finite leaves them as they are, so that it can be told which of them is to blame.
    """
    gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    spread = [g for g in gradients if hasattr(g, "device_mesh")]
    if spread:
        return _clip_spread(spread, [g for g in gradients if not hasattr(g, "device_mesh")], most)
    norm = torch.nn.utils.get_total_norm(gradients)
    found = float(norm)
    if most > 0 and math.isfinite(found):
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return found


def _clip_spread(spread: list[Any], others: list[Tensor], most: float) -> float:
    """The same where some gradients are spread over processes; torch takes no mixture of both."""
    norms = [torch.nn.utils.get_total_norm(part) for part in (spread, others) if part]
    found = float(torch.linalg.vector_norm(torch.stack([whole(norm) for norm in norms])))
    if most > 0 and math.isfinite(found):
        factor = min(1.0, most / (found + 1e-6))  # as torch's
        for gradient in (*spread, *others):
            gradient.mul_(factor)
    return found
