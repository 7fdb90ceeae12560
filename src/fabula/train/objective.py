"""What is being minimised? An objective turns a model and a batch into a sum of nats and a count, never a mean.

Sums and counts add up over micro-batches and processes; means of means do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor, nn

from fabula.data.batch import Batch
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
    """(model, batch) to loss."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss: ...


class CausalModel(Protocol):
    """What next-token prediction asks of a model."""

    head_bias: Tensor | None
    logit_cap: float

    @property
    def head_weight(self) -> Tensor: ...

    def hidden(self, tokens: Tensor, positions: Tensor | None, documents: Tensor | None) -> Tensor: ...

    def auxiliary(self) -> Tensor | None: ...


class NextToken:
    """-log p(next token), the language-modelling objective."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        causal = cast(CausalModel, model)
        hidden = causal.hidden(batch.tokens, batch.positions, batch.documents)
        total = linear_cross_entropy(
            hidden.flatten(0, 1), causal.head_weight, batch.targets.flatten(), causal.head_bias, causal.logit_cap
        )
        auxiliary, count = causal.auxiliary(), batch.n_targets
        return Loss(total, count, None if auxiliary is None else auxiliary * count)
