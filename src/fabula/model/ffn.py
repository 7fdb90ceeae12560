"""What happens at each position by itself? Two-layer networks, plain (ReLU, GELU, ReLU²) and gated (GLU and kin), and
mixtures of them.

Shapes: (B, T, D) to (B, T, D) through a hidden width F.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fabula.config import setting
from fabula.model.recompute import elementwise, gated, made_again
from fabula.registry import Registry

Activation = Callable[[Tensor], Tensor]

ffns: Registry[type[FFNConfig]] = Registry("ffn")


class FFN(nn.Module):
    # What training adds to the loss for the last forward pass, in nats a token; only mixtures have any.
    auxiliary: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy is of the model, not of its last forward pass.
        return {**self.__dict__, "auxiliary": None}

    def output_projections(self) -> list[nn.Linear]:
        """The linears that write into the residual stream."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class FFNConfig:
    """What every feed-forward network answers."""

    variants: ClassVar[Registry[type[FFNConfig]]] = ffns

    d_ff: int = setting(doc="hidden width")
    bias: bool = setting(False, "biases in its linears")

    def __post_init__(self) -> None:
        if self.d_ff < 1:
            raise ValueError(f"d_ff={self.d_ff} must be at least 1")

    def n_matrices(self) -> int:
        """Weight matrices of d_model x d_ff."""
        return 2

    def n_params(self, d_model: int) -> int:
        matrices = self.n_matrices()
        return matrices * d_model * self.d_ff + self.bias * ((matrices - 1) * self.d_ff + d_model)

    def n_active_params(self, d_model: int) -> int:
        """Parameters that one token meets."""
        return self.n_params(d_model)

    def flops_per_token(self, d_model: int) -> int:
        """Forward FLOPs of the matrix products for one token."""
        return 2 * self.n_matrices() * d_model * self.d_ff

    def build(self, d_model: int) -> FFN:
        raise NotImplementedError


@ffns.register("relu")
@dataclass(frozen=True, kw_only=True, slots=True)
class ReluFFN(FFNConfig):
    """down(relu(up(x))) (arXiv:1706.03762)."""

    def build(self, d_model: int) -> FFN:
        return Plain(d_model, self.d_ff, self.bias, F.relu)


@ffns.register("gelu")
@dataclass(frozen=True, kw_only=True, slots=True)
class GeluFFN(FFNConfig):
    """down(gelu(up(x))) (arXiv:1606.08415); the tanh approximation is GPT-2's."""

    tanh: bool = setting(True, "the tanh approximation instead of the exact form")

    def build(self, d_model: int) -> FFN:
        return Plain(d_model, self.d_ff, self.bias, _gelu(self.tanh))


@ffns.register("relu2")
@dataclass(frozen=True, kw_only=True, slots=True)
class SquaredReluFFN(FFNConfig):
    """down(relu(up(x))²) (arXiv:2109.08668)."""

    def build(self, d_model: int) -> FFN:
        return Plain(d_model, self.d_ff, self.bias, squared_relu)


@ffns.register("glu")
@dataclass(frozen=True, kw_only=True, slots=True)
class GluFFN(FFNConfig):
    """down(sigmoid(gate(x)) * up(x)) (arXiv:1612.08083, as a network in arXiv:2002.05202)."""

    def n_matrices(self) -> int:
        return 3

    def build(self, d_model: int) -> FFN:
        return Gated(d_model, self.d_ff, self.bias, torch.sigmoid)


@ffns.register("swiglu")
@dataclass(frozen=True, kw_only=True, slots=True)
class SwigluFFN(FFNConfig):
    """down(silu(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def n_matrices(self) -> int:
        return 3

    def build(self, d_model: int) -> FFN:
        return Gated(d_model, self.d_ff, self.bias, F.silu)


@ffns.register("geglu")
@dataclass(frozen=True, kw_only=True, slots=True)
class GegluFFN(FFNConfig):
    """down(gelu(gate(x)) * up(x)) (arXiv:2002.05202); the tanh approximation is Gemma's."""

    tanh: bool = setting(True, "the tanh approximation instead of the exact form")

    def n_matrices(self) -> int:
        return 3

    def build(self, d_model: int) -> FFN:
        return Gated(d_model, self.d_ff, self.bias, _gelu(self.tanh))


@ffns.register("moe")
@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureOfExperts(FFNConfig):
    """A router sends each token to the best few of many SwiGLU experts (arXiv:1701.06538).

    The chosen experts' outputs are weighted by the softmax over their scores (Mixtral, arXiv:2401.04088). No expert has
    a capacity, so no token is dropped. A loss keeps the experts equally busy (arXiv:2101.03961, equation 4).
    """

    n_experts: int = setting(8, "experts in a layer")
    n_active: int = setting(2, "experts that a token is sent to")
    balance: float = setting(0.01, "weight of the loss that keeps the experts equally busy; 0: none")

    def __post_init__(self) -> None:
        FFNConfig.__post_init__(self)
        for name in ("n_experts", "n_active"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.n_active > self.n_experts:
            raise ValueError(f"n_active={self.n_active} must be at most n_experts={self.n_experts}")
        if not 0 <= self.balance < float("inf"):
            raise ValueError(f"balance={self.balance} must be at least 0")

    def _expert(self) -> SwigluFFN:
        return SwigluFFN(d_ff=self.d_ff, bias=self.bias)

    def n_params(self, d_model: int) -> int:
        return self.n_experts * (self._expert().n_params(d_model) + d_model)

    def n_active_params(self, d_model: int) -> int:
        return self.n_active * self._expert().n_params(d_model) + self.n_experts * d_model

    def flops_per_token(self, d_model: int) -> int:
        return self.n_active * self._expert().flops_per_token(d_model) + 2 * self.n_experts * d_model

    def build(self, d_model: int) -> FFN:
        return Mixture(self, d_model)


def squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _gelu(tanh: bool) -> Activation:
    return functools.partial(F.gelu, approximate="tanh" if tanh else "none")


class Plain(FFN):
    def __init__(self, d_model: int, d_ff: int, bias: bool, activation: Activation) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.activation = activation
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        if self.activation is F.relu:
            out: Tensor = self.down(self.activation(up))  # keeps its output alone, which `down` keeps as well
            return out
        active, kept = elementwise(self.activation, up), up.detach()
        with made_again(active, lambda: self.activation(kept)):
            out = self.down(active)
        return out

    def output_projections(self) -> list[nn.Linear]:
        return [self.down]


class Gated(FFN):
    def __init__(self, d_model: int, d_ff: int, bias: bool, activation: Activation) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.activation = activation
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x), self.up(x)
        product, kept = gated(self.activation, gate, up), (gate.detach(), up.detach())
        with made_again(product, lambda: self.activation(kept[0]).mul_(kept[1])):
            out: Tensor = self.down(product)
        return out

    def output_projections(self) -> list[nn.Linear]:
        return [self.down]


class Mixture(FFN):
    def __init__(self, config: MixtureOfExperts, d_model: int) -> None:
        super().__init__()
        self.n_active, self.balance = config.n_active, config.balance
        self.router = nn.Linear(d_model, config.n_experts, bias=False)
        self.experts = nn.ModuleList(Gated(d_model, config.d_ff, config.bias, F.silu) for _ in range(config.n_experts))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        scores = self.router(tokens).float()
        best, chosen = scores.topk(self.n_active, dim=-1)
        # Among several the chosen ones share all the weight. A single one keeps its probability among all experts, as
        # in the Switch Transformer: of a constant 1 the router could learn nothing.
        weights = (best.softmax(dim=-1) if self.n_active > 1 else (best - scores.logsumexp(-1, True)).exp()).to(x.dtype)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, rank = (chosen == number).nonzero(as_tuple=True)
            # One that nobody was sent to runs on no rows, so that it takes part in every backward pass.
            given = expert(tokens[rows]) * weights[rows, rank].unsqueeze(1)
            out = out.index_add(0, rows, given.to(out.dtype))
        if self.training and self.balance:
            self.auxiliary = self.balance * balance_loss(scores, chosen)
        return out.view(x.shape)

    def output_projections(self) -> list[nn.Linear]:
        return [expert.down for expert in self.experts if isinstance(expert, Gated)]


def balance_loss(scores: Tensor, chosen: Tensor) -> Tensor:
    """E * sum over experts of (share of tokens sent to it) * (mean probability of it); 1 when all are equally busy.

    scores (n, E), chosen (n, k).
    """
    n_experts = scores.shape[1]
    share = torch.bincount(chosen.flatten(), minlength=n_experts).float() / chosen.numel()
    return n_experts * (share * scores.softmax(dim=-1).mean(dim=0)).sum()
