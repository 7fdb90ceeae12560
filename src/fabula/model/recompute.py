"""What need not be kept between forward and backward? Whatever is quickly made again from what is kept anyway.

A feed-forward network would keep four tensors of its hidden width for the backward pass: gate, up, the activated gate
and their product. Two are enough. The same holds for a normalised activation, of which the norm keeps the input and
each projection behind it the output. Both are element by element and cost a few percent of the products around them
(the idea of activation checkpointing, arXiv:1604.06174, where it is nearly free).

The numbers are the same to the bit: what is made again is made by the same operations from the same tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

Recipe = Callable[[], Tensor]


@contextmanager
def made_again(tensor: Tensor, recipe: Recipe) -> Iterator[None]:
    """Inside it, whoever saves `tensor` for the backward pass saves the recipe instead.

    `recipe` must return the same numbers in the same shape, and must hold nothing that would not be held otherwise.
    Inside of hooks that are not ours, as those of `torch.utils.checkpoint`, nothing is done.
    """
    if not torch.is_grad_enabled() or not tensor.requires_grad or torch.compiler.is_compiling():
        yield
        return
    if kept_by_another():
        yield
        return
    place, size, promise = tensor.data_ptr(), tensor.numel(), _Promise(recipe)

    def pack(saved: Tensor) -> Tensor | tuple[_Promise, torch.Size]:
        # Linear layers save a view with the batch flattened.
        if saved.data_ptr() != place or saved.numel() != size or not saved.is_contiguous():
            # Detached: an operation that saves its own output would hold itself, and a forward pass without a backward
            # pass (memory ran out) would never be let go.
            return saved.detach()
        promise.owed += 1
        return promise, saved.shape

    _OURS.add(pack)

    def unpack(packed: Tensor | tuple[_Promise, torch.Size]) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed[0].keep().view(packed[1])

    try:
        with saved_tensors_hooks(pack, unpack):
            yield
    finally:
        _OURS.discard(pack)


# The hooks of ours that are in force.
_OURS: set[Any] = set()


def kept_by_another() -> bool:
    """Whether somebody else's hooks see to what is kept (checkpointing, offloading): torch asks the innermost only."""
    outer = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return outer is not None and outer[0] not in _OURS


class _Promise:
    """A tensor that is made when it is first asked for and let go when all who were promised it have had it."""

    def __init__(self, recipe: Recipe) -> None:
        self.owed = 0
        self._asked = 0
        self._recipe = recipe
        self._made: Tensor | None = None

    def keep(self) -> Tensor:
        with torch.no_grad():
            made = self._recipe() if self._made is None else self._made
        self._asked += 1
        # A graph that is kept for a second backward pass asks anew.
        self._made = made if self._asked % self.owed else None
        return made


def elementwise(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), of which the backward pass keeps the inputs alone. Operations element by element only."""
    if torch.compiler.is_compiling():
        return function(*inputs)
    out: Tensor = _Elementwise.apply(function, *inputs)  # type: ignore[no-untyped-call]
    return out


class _Elementwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        kept = ctx.saved_tensors  # once: what checkpointing computes anew may be asked for once only
        if len(kept) == 1:
            slope = torch.empty_like(kept[0])
            _backward(ctx.function, grad_outputs[0], kept[0], out=slope)
            return None, slope
        with torch.enable_grad():
            inputs = [saved.detach().requires_grad_() for saved in kept]
            again = ctx.function(*inputs)
        return None, *torch.autograd.grad(again, inputs, grad_outputs[0])


def gated(activation: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor) -> Tensor:
    """activation(gate) * up, of which the backward pass keeps gate and up alone."""
    if torch.compiler.is_compiling():
        return activation(gate) * up
    out: Tensor = _Gated.apply(activation, gate, up)  # type: ignore[no-untyped-call]
    return out


class _Gated(torch.autograd.Function):
    """As `elementwise`, without the product that its backward pass would make in vain."""

    @staticmethod
    def forward(ctx: Any, activation: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(gate, up)
        return activation(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad,) = grad_outputs
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = gate.new_empty(gate.shape), up.new_empty(up.shape)
        # Some rows at a time: this is where the memory of a training step is at its highest.
        for g, u, slope, to_gate, to_up in zip(
            *(_in_parts(tensor) for tensor in (gate, up, grad, grad_gate, grad_up)), strict=True
        ):
            torch.mul(slope, u, out=to_gate)
            _backward(ctx.activation, to_gate, g, out=to_gate)
            torch.mul(ctx.activation(g), slope, out=to_up)
        return None, grad_gate, grad_up


def _backward(function: Callable[..., Tensor], grad: Tensor, x: Tensor, out: Tensor) -> None:
    """Writes the gradient of function(x) into `out`, which may be `grad`.

    By the kernel that autograd would call, without computing the function once more as autograd would.
    """
    if function is F.silu:
        torch.ops.aten.silu_backward(grad, x, grad_input=out)
    elif isinstance(function, functools.partial) and function.func is F.gelu and not function.args:
        torch.ops.aten.gelu_backward(grad, x, **function.keywords, grad_input=out)
    else:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            out.copy_(torch.autograd.grad(function(x), x, grad)[0])


# Numbers in a part: 1 MB in float32, which stays in the cache of a core and leaves few holes in the memory around it.
_PART = 256 * 1024


def _in_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows.split(max(1, _PART // tensor.shape[-1]))
