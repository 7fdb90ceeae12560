"""Pure functions from hidden states to numbers of nats.

The vocabulary head is where a small model spends its memory: 4,096 positions by 8,192 words are 134 MB of logits, and
as much again for their gradient. `linear_cross_entropy` computes head and loss in chunks of rows and, when gradients
are wanted, makes them in the same pass, so that only one chunk of logits ever exists. Its twin
`linear_cross_entropy_explicit` is the textbook form; a test holds them equal. Both return sums, never means: sums of
parts add up, means of means do not.

`logit_cap` bends logits to cap * tanh(logits / cap) (Gemma 2, arXiv:2408.00118); 0 leaves them.

Shapes: n rows (positions), D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE = -100

# Elements of one chunk of logits: 2 MB in float32, which stays in the cache of a core. With a large vocabulary that
# would be few rows, and each chunk adds to the gradient of the whole head: 128 rows then, as far as they take 32 MB
# (measured, docs/log.md).
_CHUNK_ELEMENTS, _ROWS, _MOST_ELEMENTS = 512 * 1024, 128, 8 * 1024 * 1024


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, logit_cap: float = 0.0
) -> Tensor:
    """Sum of -log p(target) in nats over the rows whose target is not IGNORE.

    hidden (n, D), weight (V, D), targets (n), bias (V) or None; returns a float32 scalar.
    """
    if not torch.is_grad_enabled():
        # A Function is told of requires_grad, not of no_grad: without this, gradients nobody asked for would be made.
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    place = hidden.device.type
    if torch.is_autocast_enabled(place):
        # Products in the format of the context, as a linear layer would; sums stay float32.
        hidden = hidden.to(torch.get_autocast_dtype(place))
    total: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, bias, logit_cap)  # type: ignore[no-untyped-call]
    return total


def linear_cross_entropy_explicit(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, logit_cap: float = 0.0
) -> Tensor:
    """The readable twin of `linear_cross_entropy`: all logits at once."""
    logits = F.linear(hidden, weight, bias).float()
    if logit_cap:
        logits = logit_cap * torch.tanh(logits / logit_cap)
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def token_nll(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, logit_cap: float = 0.0
) -> Tensor:
    """-log p(target) in nats for each row, 0 where the target is IGNORE; no gradient. Shape (n)."""
    with torch.no_grad():
        nats = torch.zeros(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for rows in _chunks(hidden.shape[0], weight.shape[0]):
            logits = F.linear(hidden[rows], weight, bias).float()
            if logit_cap:
                logits = logits.div_(logit_cap).tanh_().mul_(logit_cap)
            nats[rows] = F.cross_entropy(logits, targets[rows], ignore_index=IGNORE, reduction="none")
        return nats


def draw_targets(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chances: Tensor,
    bias: Tensor | None = None,
    logit_cap: float = 0.0,
) -> Tensor:
    """Targets that the model itself draws, one for each of `chances` (n), numbers from 0 up to 1. Shape (n).

    There is no gradient. Equal chances give equal draws, however rows are cut. What is IGNORE in `targets` stays so.
    """
    with torch.no_grad():
        drawn = torch.full_like(targets, IGNORE)
        for rows in _chunks(hidden.shape[0], weight.shape[0]):
            logits = F.linear(hidden[rows], weight.to(hidden.dtype)).float()
            if bias is not None:
                logits += bias
            if logit_cap:
                logits = logits.div_(logit_cap).tanh_().mul_(logit_cap)
            reached = logits.softmax(dim=-1).cumsum(dim=-1)
            # Relative to the last sum, which rounding keeps from being 1; none may lie beyond the last word.
            below = chances[rows].unsqueeze(1) * reached[:, -1:]
            words = torch.searchsorted(reached, below, right=True).squeeze(1)
            drawn[rows] = words.clamp_(max=weight.shape[0] - 1).masked_fill_(targets[rows] == IGNORE, IGNORE)
        return drawn


def _chunks(n: int, vocab_size: int) -> list[slice]:
    """Slices of rows whose logits fit one chunk."""
    rows = max(64, _CHUNK_ELEMENTS // vocab_size, min(_ROWS, _MOST_ELEMENTS // vocab_size))
    return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Head and loss in one pass over chunks of rows; the gradient of the sum is ready when the forward pass ends."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, logit_cap: float
    ) -> Tensor:
        # Products run in the format of the hidden states, sums in float32.
        dtype = hidden.dtype
        head = weight.to(dtype)
        wants_hidden, wants_weight, _, wants_bias, _ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias and bias is not None else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        slices = _chunks(hidden.shape[0], weight.shape[0])
        buffer = torch.empty((slices[0].stop if slices else 0, weight.shape[0]), dtype=dtype, device=hidden.device)
        for rows in slices:
            part, answers = hidden[rows], targets[rows]
            logits = torch.mm(part, head.t(), out=buffer[: part.shape[0]]).float()
            if bias is not None:
                logits += bias
            bent = None
            if logit_cap:
                bent = logits.div_(logit_cap).tanh_().clone()
                logits.mul_(logit_cap)
            counted = answers != IGNORE
            safe = answers.masked_fill(~counted, 0).unsqueeze(1)
            peak = logits.amax(dim=1, keepdim=True)
            chosen = logits.gather(1, safe) - peak
            probabilities = logits.sub_(peak).exp_()
            mass = probabilities.sum(dim=1, keepdim=True)
            total += ((mass.log() - chosen).squeeze(1) * counted).sum()
            if not (wants_hidden or wants_weight or wants_bias):
                continue
            # d(-log p_target)/d logits = softmax - one_hot(target), and nothing where the target is ignored.
            probabilities.mul_(counted.unsqueeze(1) / mass)
            probabilities.scatter_add_(1, safe, -counted.unsqueeze(1).to(probabilities.dtype))
            if bent is not None:
                # d(cap * tanh(x / cap))/dx = 1 - tanh(x / cap)^2
                probabilities.mul_(bent.square_().neg_().add_(1))
            slope = probabilities.to(dtype)
            if grad_hidden is not None:
                torch.mm(slope, head, out=grad_hidden[rows])
            if grad_weight is not None:
                if dtype == grad_weight.dtype:
                    grad_weight.addmm_(slope.t(), part)
                else:
                    grad_weight += torch.mm(slope.t(), part)
            if grad_bias is not None:
                grad_bias += probabilities.sum(dim=0)
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        scale = grad_outputs[0]
        if ctx.gradients is None:
            raise RuntimeError("linear_cross_entropy was differentiated twice: its gradients are kept for one backward")
        grad_hidden, grad_weight, grad_bias = ctx.gradients
        ctx.gradients = None
        return (
            None if grad_hidden is None else grad_hidden.mul_(scale.to(grad_hidden.dtype)),
            None if grad_weight is None else grad_weight.mul_(scale),
            None,
            None if grad_bias is None else grad_bias.mul_(scale),
            None,
        )
