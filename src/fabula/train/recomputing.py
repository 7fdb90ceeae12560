"""Less memory for more time: of each block its input is kept, the rest is computed again in the backward pass.

Activation checkpointing (arXiv:1604.06174): what a step keeps falls from everything a block computes to its input, and
every block is computed twice, about a third of the work more. Dropout draws the same the second time, since the state
of the generators is kept with the input; the gradients are those without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fabula.model.block import Block
from fabula.model.encdec import DecoderBlock
from fabula.model.masks import Sight


def recompute_blocks(model: nn.Module) -> int:
    """Compute the blocks of a model again instead of keeping what they make; returns how many there are.

    The model keeps its structure, names and weights. Without gradients a block runs as before.
    """
    blocks = [module for module in model.modules() if isinstance(module, (Block, DecoderBlock))]
    for block in blocks:
        block.forward = functools.partial(_again, block.forward)  # type: ignore[method-assign]
    return len(blocks)


def _again(forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    for sight in inputs:
        if isinstance(sight, Sight) and sight.bias is not None:
            # Layers share these pieces and the weights behind them: made inside of the first layer they would be a part
            # of what is computed again, where they are there already.
            sight.pieces(_format_of_products(inputs[0]))
    return checkpoint(forward, *inputs, use_reentrant=False)


def _format_of_products(x: Tensor) -> torch.dtype:
    place = x.device.type
    return torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else x.dtype
