"""What is being minimised? An objective turns a model and a batch into a sum of nats and a count, never a mean.

Sums and counts add up over micro-batches and processes; means of means do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor, nn

from fabula.data.batch import Batch
from fabula.data.pairs import PairBatch
from fabula.losses import linear_cross_entropy


@dataclass(frozen=True, slots=True)
class Loss:
    """A sum in nats (differentiable) over `count` predictions.

    `extra` is minimised with it and not reported: what keeps a model in order, as the balance of experts.
    """

    total: Tensor
    count: int
    extra: Tensor | None = None


class Objective(Protocol):
    """(model, batch) to loss. An objective knows the kind of batch that its loader makes."""

    def __call__(self, model: nn.Module, batch: Any) -> Loss: ...


class CausalModel(Protocol):
    """What next-token prediction asks of a model."""

    head_bias: Tensor | None
    logit_cap: float

    @property
    def head_weight(self) -> Tensor: ...

    def hidden(self, tokens: Tensor, positions: Tensor | None, documents: Tensor | None) -> Tensor: ...

    def auxiliary(self) -> Tensor | None: ...


class TranslatingModel(Protocol):
    """What sequence to sequence asks of a model."""

    head_bias: Tensor | None
    logit_cap: float

    @property
    def head_weight(self) -> Tensor: ...

    def hidden(self, source: Tensor, source_lengths: Tensor, tokens: Tensor) -> Tensor: ...

    def auxiliary(self) -> Tensor | None: ...


class NextToken:
    """-log p(next token), the language-modelling objective."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        causal = cast(CausalModel, model)
        hidden = causal.hidden(batch.tokens, batch.positions, batch.documents)
        total = linear_cross_entropy(
            hidden.flatten(0, 1), causal.head_weight, batch.targets.flatten(), causal.head_bias, causal.logit_cap
        )
        return Loss(total, batch.n_targets, _extra(causal.auxiliary(), batch.n_targets))


class SequenceToSequence:
    """-log p(next target token | source, target tokens before it), the true ones (teacher forcing).

    Padding counts nowhere: sources are masked by their lengths, targets that are padding are ignored.
    """

    def __call__(self, model: nn.Module, batch: PairBatch) -> Loss:
        translating = cast(TranslatingModel, model)
        hidden = translating.hidden(batch.source, batch.source_lengths, batch.tokens)
        total = linear_cross_entropy(
            hidden.flatten(0, 1),
            translating.head_weight,
            batch.targets.flatten(),
            translating.head_bias,
            translating.logit_cap,
        )
        return Loss(total, batch.n_targets, _extra(translating.auxiliary(), batch.n_targets))


def _extra(auxiliary: Tensor | None, count: int) -> Tensor | None:
    """A mean a prediction as the sum over `count` of them."""
    return None if auxiliary is None else auxiliary * count
