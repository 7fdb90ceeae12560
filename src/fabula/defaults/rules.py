"""Which settings suit a text, a budget and a machine? Pure: facts in, choices out, each with its reason.

What each number rests on stands in docs/log.md ("Defaults by size and budget"): short runs of about a million weights.
All else is extrapolation, so everything is bounded and nothing turns back: a larger budget or a faster machine never
gets a smaller model, more text never a smaller vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fabula.model.config import ModelConfig
from fabula.model.presets import presets, resolve
from fabula.plan.estimate import state_bytes, training_bytes
from fabula.tokenizer.run import bytes_per_token
from fabula.train.budget import Budget

# Of a time budget, what goes to evaluation, samples and saving.
_SET_ASIDE = 0.1

# The size that learns most from so many FLOPs of training, in weights beside the vocabulary. The power is that of a
# number of tokens a weight that grows slowly, from about five here to twenty for 10^19 FLOPs (arXiv:2203.15556).
_BEST_WEIGHTS, _BEST_FLOPS, _BEST_POWER = 0.85e6, 2.1e13, 0.45

# More weights than so many for a byte of text learn it by heart, whatever else is done.
_WEIGHTS_PER_BYTE = 10.0

# A vocabulary by the bytes of the text, and the most of the work that its head may be.
_VOCABULARIES = ((0, 1024), (400e3, 2048), (2e6, 4096), (20e6, 8192), (400e6, 16_384), (4e9, 32_768))
_LEAST, _HEAD_SHARE = 1024, 0.45

# Bytes of a token, about, where it matters little.
_TOKEN_BYTES = 3.2

_LEAST_CONTEXT = 64

# Tokens of a step at so many tokens of training, and how they grow with them (arXiv:2505.13738 has such a power).
_BATCH, _BATCH_TOKENS, _BATCH_POWER = 2048, 2e6, 0.4
_LEAST_BATCH, _MOST_BATCH = 1024, 1 << 19

# Dropout from so many passes over the text.
_DROPOUTS = ((4.0, 0.1), (12.0, 0.2), (40.0, 0.3))

# What Muon adds to a step of AdamW: so much times width^2 / tokens of the step (8 % at width 128, 16 % at 192 and 47 %
# at 320, with 2,048 tokens); and how much its steps are worth.
_MUON_COST, _MUON_WORTH = 0.0095, 0.3

# The width for which AdamW's rate was found.
_WIDTH = 128

# Settings that decide the tokenizer: then there is nothing to choose.
_TOKENIZERS = ("tokenizer.vocab_size", "tokenizer.most_tokens", "tokenizer.path", "tokenizer.kind", "model.vocab_size")

# Of the memory that is free, what the run may take.
_MEMORY_SHARE = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known before anything is chosen."""

    text_bytes: int  # of the training documents
    document_bytes: float  # half of the text stands in documents of at least this size
    budget: Budget
    flops_per_second: float  # of training, measured here
    memory_bytes: int  # free where the model is trained
    cpu: bool = True
    # What the user decided, by dotted name, each of its type: it is not chosen again, and the rest is chosen around it.
    given: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)  # the same, as a recipe's section


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting, its value, and why."""

    name: str
    value: Any
    reason: str


def choose(facts: Facts) -> list[Choice]:
    """Choices for everything that is not given, in the order in which they follow from each other."""
    made: list[Choice] = []

    def settle(name: str, value: Any, reason: str) -> Any:
        if name in facts.given:
            return facts.given[name]
        made.append(Choice(name, value, reason))
        return value

    best, why = _best(facts)
    preset = settle("model.preset", *_preset(facts, best, why))
    model = _model(preset, facts.model)
    if model is None:
        return made  # a model of another kind; the recipe says what is wrong with that
    whole, (layers, why) = model, _layers(model, best)
    if layers < model.n_layers and "model.preset" not in facts.given:
        model = dataclasses.replace(model, n_layers=settle("model.n_layers", layers, why))
    if facts.given.keys().isdisjoint(_TOKENIZERS):
        # Fewer layers make the head dearer, but what is saved on a vocabulary loses more (docs/log.md).
        size, why = _vocabulary(facts, whole, model)
        model = dataclasses.replace(model, vocab_size=settle("tokenizer.most_tokens", size, why))
    elif isinstance(facts.given.get("tokenizer.vocab_size"), int):
        model = dataclasses.replace(model, vocab_size=facts.given["tokenizer.vocab_size"])
    model = dataclasses.replace(model, context_length=settle("model.context_length", *_context(facts, model)))
    tokens = _tokens(facts, model)
    batch = settle("train.batch_tokens", *_batch(facts, model, tokens))
    passes = tokens / _text_tokens(facts, model.vocab_size)
    settle("model.dropout", *_dropout(passes))
    optimizer = settle("train.optimizer.kind", *_optimizer(model, batch))
    if optimizer in ("muon", "adamw") and not any(name.startswith("train.optimizer.") for name in facts.given):
        settle("train.optimizer.lr", *_rate(optimizer))
        if optimizer == "adamw":
            settle("train.optimizer.base_width", _WIDTH, "the width that the rate is for")
    if not any(name.startswith("train.schedule.") for name in facts.given):
        settle("train.schedule.kind", "wsd", "flat, then half of the run straight down to 0")
    return made


def usual_document(sizes: Sequence[int]) -> float:
    """The size for which half of the text stands in documents that are at least as large; bytes.

    >>> usual_document([1, 1, 1, 1, 10, 20])
    20.0
    """
    total, seen = sum(sizes), 0
    for size in sorted(sizes, reverse=True):
        seen += size
        if 2 * seen >= total:
            return float(size)
    return 1.0


def _model(preset: str, section: Mapping[str, Any]) -> ModelConfig | None:
    """The preset with what the user changes of it; None where that is no decoder."""
    problems: list[str] = []
    _, made = resolve({**section, "preset": preset}, problems)
    return made if isinstance(made, ModelConfig) else None


# ---- the rules ---------------------------------------------------------------------------------------------


def _flops(facts: Facts) -> float | None:
    """FLOPs that a time budget pays for; None where the budget is no time."""
    if facts.budget.unit != "seconds":
        return None
    return facts.budget.amount * (1 - _SET_ASIDE) * facts.flops_per_second


def best_weights(flops: float) -> float:
    """Weights beside the vocabulary that learn most from so many FLOPs of training."""
    return float(_BEST_WEIGHTS * (flops / _BEST_FLOPS) ** _BEST_POWER)


def _best_weights_of_tokens(tokens: float) -> float:
    """The same where tokens are given: the size whose own FLOPs on them are those that it is best for."""
    # N = n (6 N D / f)^p, solved for N.
    factor = _BEST_WEIGHTS * (6 * tokens / _BEST_FLOPS) ** _BEST_POWER
    return float(factor ** (1 / (1 - _BEST_POWER)))


@cache
def ladder() -> list[tuple[str, ModelConfig]]:
    """The presets that are chosen from, smallest first."""
    own = [(name, presets.get(name).config) for name in presets if name.startswith("fabula-")]
    sizes = [(name, config) for name, config in own if isinstance(config, ModelConfig)]
    return sorted(sizes, key=lambda row: _weights(row[1]))


def _weights(model: ModelConfig) -> int:
    """Weights beside the vocabulary."""
    return model.n_params() - model.parts()["embedding"] - model.parts()["head"]


def _best(facts: Facts) -> tuple[float, str]:
    """Weights beside the vocabulary that learn most, and why."""
    flops, tokens = _flops(facts), _given_tokens(facts)
    if flops is not None:
        best = best_weights(flops)
        seconds, pace = facts.budget.amount * (1 - _SET_ASIDE), f"{facts.flops_per_second / 1e9:,.0f} GFLOP/s"
        why = f"about {_short(best)} learn most in {seconds:,.0f} s of steps at {pace}, measured here"
    else:
        best = _best_weights_of_tokens(tokens)
        why = f"about {_short(best)} learn most from {_short(tokens)} tokens"
    most = _WEIGHTS_PER_BYTE * facts.text_bytes
    if most < best:
        best, why = most, f"more than {_short(most)} learn {_size(facts.text_bytes)} of text by heart"
    return best, why


def _apart(model: ModelConfig, best: float) -> float:
    """How far a model's size is from one that learns most, by ratio."""
    return abs(math.log(_weights(model) / max(1.0, best)))


def _preset(facts: Facts, best: float, why: str) -> tuple[str, str]:
    steps = ladder()
    place = min(range(len(steps)), key=lambda i: _apart(steps[i][1], best))
    fits = [i for i in range(place + 1) if _fits(steps[i][1], facts)] or [0]
    if fits[-1] < place:
        place, why = fits[-1], f"the largest that {_size(facts.memory_bytes)} of free memory hold in training"
    name, config = steps[place]
    return name, f"{_short(_weights(config))} weights beside the vocabulary; {why}"


def _layers(model: ModelConfig, best: float) -> tuple[int, str]:
    """Below the smallest preset there are its own first layers."""
    if _weights(model) > _weights(ladder()[0][1]):
        return model.n_layers, "as the preset has them"
    sizes = {n: dataclasses.replace(model, n_layers=n) for n in range(1, model.n_layers + 1)}
    count = min(sizes, key=lambda n: _apart(sizes[n], best))
    return count, f"{_short(_weights(sizes[count]))} weights beside the vocabulary: the nearest to that"


def _fits(model: ModelConfig, facts: Facts) -> bool:
    """Whether a row at a time can be trained in the memory there is."""
    limit = _MEMORY_SHARE * facts.memory_bytes
    width = 4 if facts.cpu else 2
    row = training_bytes(model, "muon", 1, (0, model.context_length), width, facts.cpu)
    return max(row, state_bytes(model, "muon")) <= limit


def _vocabulary(facts: Facts, whole: ModelConfig, model: ModelConfig) -> tuple[int, str]:
    """Bounded by what the head would be of the whole preset."""
    wanted = max(size for least, size in _VOCABULARIES if facts.text_bytes >= least)
    affordable = max(size for _, size in _VOCABULARIES if _head_share(whole, size) <= _HEAD_SHARE or size == _LEAST)
    if affordable < wanted:
        share = _head_share(whole, 2 * affordable)
        return affordable, f"with {2 * affordable:,} the head would be {share:.0%} of the work in a model of this width"
    share = _head_share(model, wanted)
    return wanted, f"what {_size(facts.text_bytes)} of text can teach; the head is {share:.0%} of the work"


def _head_share(model: ModelConfig, vocabulary: int) -> float:
    """The head's part of the matrix products of a token, in short rows."""
    sized = dataclasses.replace(model, vocab_size=vocabulary)
    return 2 * sized.d_model * vocabulary / sized.flops_per_token(128)


def _context(facts: Facts, model: ModelConfig) -> tuple[int, str]:
    document = 1 + facts.document_bytes / _TOKEN_BYTES
    length = min(model.context_length, max(_LEAST_CONTEXT, 1 << math.ceil(math.log2(document))))
    part = f"half of the text is in documents of some {_short(document)} tokens or more"
    return length, f"{part}, which a model of this size does not use" if length < document else part


def _text_tokens(facts: Facts, vocabulary: int) -> float:
    return max(1.0, facts.text_bytes / bytes_per_token(vocabulary))


def _given_tokens(facts: Facts) -> float:
    """Tokens of a budget that is no time; of steps at the usual batch, of passes at the usual vocabulary."""
    budget = facts.budget
    if budget.unit == "steps":
        return budget.amount * _BATCH
    if budget.unit == "epochs":
        return budget.amount * _text_tokens(facts, 4096)
    return budget.amount


def _tokens(facts: Facts, model: ModelConfig) -> float:
    """Tokens that the budget trains this model on."""
    flops = _flops(facts)
    if flops is not None:
        return flops / model.training_flops_per_token()
    if facts.budget.unit == "epochs":
        return facts.budget.amount * _text_tokens(facts, model.vocab_size)
    return _given_tokens(facts)


def _batch(facts: Facts, model: ModelConfig, tokens: float) -> tuple[int, str]:
    if facts.budget.unit == "steps":
        size, why = _BATCH, "the usual; the number of steps is given"
    else:
        wanted = _BATCH * (tokens / _BATCH_TOKENS) ** _BATCH_POWER
        size = 1 << round(math.log2(min(max(wanted, _LEAST_BATCH), _MOST_BATCH)))
        why = f"about {max(1.0, tokens / size):,.0f} steps of the {_short(tokens)} tokens that the budget pays for"
    if size < model.context_length:
        return model.context_length, "one row; fewer would be less than the context"
    return size, why


def _dropout(passes: float) -> tuple[float, str]:
    share = max((share for least, share in _DROPOUTS if passes >= least), default=0.0)
    read = f"the text is read about {passes:,.1f} times"
    return share, f"{read}, which invites learning it by heart" if share else f"{read}, too few to learn it by heart"


def _optimizer(model: ModelConfig, batch: int) -> tuple[str, str]:
    cost = _MUON_COST * model.d_model**2 / batch
    if cost > _MUON_WORTH:
        return "adamw", f"in a model of this width Muon would make a step of {batch:,} tokens {cost:.0%} longer"
    return "muon", f"learns more from a step than AdamW, and makes it {max(0.01, cost):.0%} longer"


def _rate(optimizer: str) -> tuple[float, str]:
    if optimizer == "adamw":
        return 3e-3, f"at width {_WIDTH}, less in wider models (muP)"
    return 0.02, "of the matrices; good from 0.01 to 0.04, at any width"


# ---- words -------------------------------------------------------------------------------------------------


def _short(amount: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if amount >= limit:
            return f"{amount / limit:.3g}{unit}"
    return f"{amount:.0f}"


def _size(n_bytes: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= limit:
            return f"{n_bytes / limit:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"
