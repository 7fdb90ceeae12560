"""Which token comes next? Pure functions from logits to an id.

The order is that of the field: penalties, temperature, top-k, top-p, min-p, then a draw. Temperature 0 is greedy. Each
filter leaves at least one token. Shapes: logits (V), float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fabula.generate.config import Sampling

# Dividing by a temperature below this could overflow float32; the draw would be greedy all the same.
_GREEDY_BELOW = 1e-30


def choose(logits: Tensor, seen: Sequence[int], sampling: Sampling, generator: torch.Generator) -> int:
    """The next id. `seen` are the ids so far, for the repetition penalty."""
    if sampling.repetition_penalty != 1.0 and seen:
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.temperature < _GREEDY_BELOW:
        return int(logits.argmax())
    logits = logits / sampling.temperature
    if sampling.top_k:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1.0:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p > 0.0:
        logits = keep_min_p(logits, sampling.min_p)
    return int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))


def penalise_repetition(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of ids already seen (CTRL, arXiv:1909.05858, section 4.1)."""
    index = torch.tensor(sorted(set(seen)), device=logits.device)
    chosen = logits[index]
    return logits.index_copy(0, index, torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest logits, -inf elsewhere; exactly k also among equals."""
    kept = logits.topk(min(k, logits.shape[-1])).indices
    return torch.full_like(logits, float("-inf")).index_copy(0, kept, logits[kept])


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The smallest set of likeliest tokens whose probability reaches p, -inf elsewhere."""
    ordered, index = logits.sort(descending=True)
    probability = ordered.softmax(dim=-1)
    # A token is out when those before it already reach p; the first never is.
    out = probability.cumsum(dim=-1) - probability >= p
    out[0] = False  # a p below the smallest float32 is 0 there
    return torch.empty_like(logits).index_copy(0, index, ordered.masked_fill(out, float("-inf")))


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Tokens with at least `share` of the likeliest one's probability, -inf elsewhere."""
    probability = logits.softmax(dim=-1)
    return logits.masked_fill(probability < share * probability.max(), float("-inf"))
