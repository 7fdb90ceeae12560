"""Which of torch's two libraries multiplies a few rows by a matrix sooner on this processor?

PyTorch gives float32 products to MKL. Where MKL does not know the processor well, oneDNN, which PyTorch brings along
for its compiler, reads the same weights in half the time; elsewhere it gains nothing. So it is measured.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Matrices that no cache holds together, as those of a model aren't held from one token to the next: 46 MB.
_MATRICES, _SHAPE = 16, (1408, 512)
# oneDNN is taken when it needs less than this share of the time, in each of so many rounds.
_CLEARLY, _ROUNDS = 0.85, 3


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same as `F.linear`, by oneDNN; AttributeError or RuntimeError where this PyTorch has no such operation."""
    operations: Any = torch.ops.mkldnn
    out: Tensor = operations._linear_pointwise(x, weight, bias, "none", [], "")
    return out


@functools.cache
@torch.inference_mode()
def quickest(threads: int) -> Linear:
    """`F.linear` for float32 rows on the CPU, by the library that is quicker with so many threads; tried once.

    oneDNN has to win every round clearly: what a seed gives shall not change because the machine was busy for a moment.
    """
    weights = [torch.ones(_SHAPE) for _ in range(_MATRICES)]
    row = torch.ones(1, _SHAPE[1])
    try:
        by_onednn(row, weights[0])
    except (AttributeError, RuntimeError):
        return F.linear

    def seconds(linear: Linear) -> float:
        begin = time.perf_counter()
        for weight in weights:
            linear(row, weight, None)
        return time.perf_counter() - begin

    won = all(seconds(by_onednn) < _CLEARLY * seconds(F.linear) for _ in range(_ROUNDS))
    return by_onednn if won else F.linear
