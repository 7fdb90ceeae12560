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
from torch import nn
from torch.utils.checkpoint import checkpoint

from fabula.model.block import Block
from fabula.model.encdec import DecoderBlock


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
    return checkpoint(forward, *inputs, use_reentrant=False)
