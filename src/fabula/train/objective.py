"""What is being minimised? An objective turns a model and a batch into a sum of nats and a count, never a mean.

Sums and counts add up over micro-batches and processes; means of means do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor, nn

from fabula.data.batch import Batch
from fabula.data.pairs import PairBatch
from fabula.losses import draw_targets, linear_cross_entropy


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

    def drawn(self, model: nn.Module, batch: Any, chances: Tensor) -> Loss:
        """The loss towards targets that the model draws itself, for optimizers that estimate curvature by it.

        `chances` are numbers from 0 up to 1, one for each of the batch's targets: they decide what is drawn.
        """
        ...


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
        total = _nats(causal, self._hidden(causal, batch), batch.targets.flatten())
        return Loss(total, batch.n_targets, _extra(causal.auxiliary(), batch.n_targets))

    def drawn(self, model: nn.Module, batch: Batch, chances: Tensor) -> Loss:
        causal = cast(CausalModel, model)
        hidden = self._hidden(causal, batch)
        return Loss(_nats(causal, hidden, _drawn(causal, hidden, batch.targets, chances)), batch.n_targets)

    def _hidden(self, model: CausalModel, batch: Batch) -> Tensor:
        return model.hidden(batch.tokens, batch.positions, batch.documents).flatten(0, 1)


class SequenceToSequence:
    """-log p(next target token | source, target tokens before it), the true ones (teacher forcing).

    Padding counts nowhere: sources are masked by their lengths, targets that are padding are ignored.
    """

    def __call__(self, model: nn.Module, batch: PairBatch) -> Loss:
        translating = cast(TranslatingModel, model)
        total = _nats(translating, self._hidden(translating, batch), batch.targets.flatten())
        return Loss(total, batch.n_targets, _extra(translating.auxiliary(), batch.n_targets))

    def drawn(self, model: nn.Module, batch: PairBatch, chances: Tensor) -> Loss:
        translating = cast(TranslatingModel, model)
        hidden = self._hidden(translating, batch)
        return Loss(_nats(translating, hidden, _drawn(translating, hidden, batch.targets, chances)), batch.n_targets)

    def _hidden(self, model: TranslatingModel, batch: PairBatch) -> Tensor:
        return model.hidden(batch.source, batch.source_lengths, batch.tokens).flatten(0, 1)


def _nats(model: CausalModel | TranslatingModel, hidden: Tensor, targets: Tensor) -> Tensor:
    return linear_cross_entropy(hidden, model.head_weight, targets, model.head_bias, model.logit_cap)


def _drawn(model: CausalModel | TranslatingModel, hidden: Tensor, targets: Tensor, chances: Tensor) -> Tensor:
    return draw_targets(
        hidden.detach(), model.head_weight, targets.flatten(), chances.flatten(), model.head_bias, model.logit_cap
    )


def _extra(auxiliary: Tensor | None, count: int) -> Tensor | None:
    """A mean a prediction as the sum over `count` of them."""
    return None if auxiliary is None else auxiliary * count
