"""Which token comes next? Pure functions from logits to an id.

    logits ─► penalties ─► what may not be ─► temperature ─► top-k, top-p, min-p, typical ─► a draw

The order is that of the field. Temperature 0 is greedy. Each filter leaves at least one token.

A draw takes one uniform number from the generator and finds the token at whose place it falls (inversion). So the n-th
token of a text depends on the n-th number alone, however its logits came about: drafts that are verified (speculative
decoding) give the very text that is written without them, also where it is drawn.

Shapes: logits (V), float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fabula.errors import InputError
from fabula.generate.config import Sampling

# Dividing by a temperature below this could overflow float32; the draw would be greedy all the same.
_GREEDY_BELOW = 1e-30


def choose(
    logits: Tensor, seen: Sequence[int], sampling: Sampling, generator: torch.Generator, n_prompt: int = 0
) -> int:
    """The next id. `seen` are the ids so far, of which the first `n_prompt` were given and not written."""
    return pick(shaped(logits, seen, sampling, n_prompt), sampling, generator)


def shaped(logits: Tensor, seen: Sequence[int], sampling: Sampling, n_prompt: int = 0) -> Tensor:
    """Logits after the penalties, which depend on what was read and written."""
    if sampling.repetition_penalty != 1.0 and seen:
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.presence_penalty or sampling.frequency_penalty:
        logits = penalise_written(logits, seen[n_prompt:], sampling.presence_penalty, sampling.frequency_penalty)
    if sampling.no_repeat_ngram:
        logits = without(logits, repeats(seen, sampling.no_repeat_ngram))
    return logits


def pick(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The id that is likeliest, or one that is drawn."""
    if greedy(sampling):
        return int(logits.argmax())
    return draw(distribution(logits, sampling), generator)


def greedy(sampling: Sampling) -> bool:
    """Whether nothing is drawn."""
    return sampling.temperature < _GREEDY_BELOW


def distribution(logits: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities (V) that are drawn from."""
    logits = logits / sampling.temperature
    if sampling.top_k:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1.0:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p > 0.0:
        logits = keep_min_p(logits, sampling.min_p)
    if sampling.typical_p < 1.0:
        logits = keep_typical(logits, sampling.typical_p)
    return logits.softmax(dim=-1)


def draw(probabilities: Tensor, generator: torch.Generator) -> int:
    """An id with its probability, from one number of the generator."""
    ends = probabilities.cumsum(dim=-1, dtype=torch.float64)
    point = torch.rand(1, generator=generator, dtype=torch.float64) * ends[-1]
    # The first token whose end lies beyond the point: one of probability 0 has no width and is never met.
    place = int(torch.searchsorted(ends, point, right=True))
    return min(place, int(probabilities.nonzero()[-1])) if place >= len(ends) else place


# ---- penalties -------------------------------------------------------------------------------------------------


def penalise_repetition(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of ids already seen (CTRL, arXiv:1909.05858, section 4.1)."""
    index = torch.tensor(sorted(set(seen)), device=logits.device)
    index = index[index < logits.shape[-1]]
    chosen = logits[index]
    return logits.index_copy(0, index, torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def penalise_written(logits: Tensor, written: Sequence[int], presence: float, frequency: float) -> Tensor:
    """Take `presence` off the logits of ids that were written, and `frequency` for each time that they were."""
    counts = {number: count for number, count in Counter(written).items() if number < logits.shape[-1]}
    if not counts:
        return logits
    index = torch.tensor(list(counts), device=logits.device)
    taken = torch.tensor([presence + frequency * count for count in counts.values()], device=logits.device)
    return logits.index_add(0, index, -taken)


def repeats(seen: Sequence[int], size: int) -> set[int]:
    """The ids that would complete a sequence of `size` ids that has come before (arXiv:1705.04304, section 2.5)."""
    if size == 1:
        return set(seen)
    last = tuple(seen[len(seen) - size + 1 :]) if len(seen) >= size else None
    if last is None:
        return set()
    places = range(len(seen) - size + 1)
    return {seen[place + size - 1] for place in places if tuple(seen[place : place + size - 1]) == last}


# ---- what may not be -------------------------------------------------------------------------------------------


def biased(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Numbers added to the logits of some ids; -inf bans one."""
    if not bias:
        return logits
    index = torch.tensor(list(bias), device=logits.device)
    return logits.index_add(0, index, torch.tensor(list(bias.values()), device=logits.device))


def without(logits: Tensor, banned: Iterable[int]) -> Tensor:
    """-inf for some ids. Where nothing would be left, all stay: a text cannot go on with no token."""
    index = [number for number in banned if number < logits.shape[-1]]
    if not index:
        return logits
    left = logits.index_fill(0, torch.tensor(index, device=logits.device), float("-inf"))
    return left if bool((left > float("-inf")).any()) else logits


def only(logits: Tensor, allowed: Tensor) -> Tensor:
    """-inf for all ids but those that `allowed` (V, boolean) has; InputError when none is left."""
    left = logits.masked_fill(~allowed, float("-inf"))
    if not bool((left > float("-inf")).any()):
        raise InputError("no token is allowed here: what is asked for contradicts itself")
    return left


# ---- filters ---------------------------------------------------------------------------------------------------


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest logits, -inf elsewhere; exactly k also among equals."""
    kept = logits.topk(min(k, logits.shape[-1])).indices
    return torch.full_like(logits, float("-inf")).index_copy(0, kept, logits[kept])


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The smallest set of likeliest tokens whose probability reaches p, -inf elsewhere."""
    ordered, index = logits.sort(descending=True)
    return _until(ordered.softmax(dim=-1), ordered, index, p)


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Tokens with at least `share` of the likeliest one's probability, -inf elsewhere."""
    probability = logits.softmax(dim=-1)
    return logits.masked_fill(probability < share * probability.max(), float("-inf"))


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """The tokens whose surprise is nearest the entropy, until their probability reaches p (arXiv:2202.00666)."""
    chances = logits.log_softmax(dim=-1)
    probability = chances.exp()
    entropy = -(probability * chances.clamp(min=torch.finfo(chances.dtype).min)).sum()
    index = (-chances - entropy).abs().sort(stable=True).indices
    return _until(probability[index], logits[index], index, p)


def _until(probability: Tensor, ordered: Tensor, index: Tensor, p: float) -> Tensor:
    """Logits of tokens in an order, until their probability reaches p; -inf for the rest."""
    # A token is out when those before it already reach p; the first never is.
    out = probability.cumsum(dim=-1) - probability >= p
    out[0] = False  # a p below the smallest float32 is 0 there
    return torch.empty_like(ordered).index_copy(0, index, ordered.masked_fill(out, float("-inf")))
