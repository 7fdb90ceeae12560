"""What happens at each position by itself? Two-layer networks, plain (ReLU, GELU, ReLU²) and gated (GLU and kin).

Shapes: (B, T, D) to (B, T, D) through a hidden width F.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from fabula.config import setting
from fabula.registry import Registry

ffns: Registry[type[FFNConfig]] = Registry("ffn")


class FFN(nn.Module):
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
        return Plain(d_model, self.d_ff, self.bias, nn.ReLU())


@ffns.register("gelu")
@dataclass(frozen=True, kw_only=True, slots=True)
class GeluFFN(FFNConfig):
    """down(gelu(up(x))) (arXiv:1606.08415); the tanh approximation is GPT-2's."""

    tanh: bool = setting(True, "the tanh approximation instead of the exact form")

    def build(self, d_model: int) -> FFN:
        return Plain(d_model, self.d_ff, self.bias, nn.GELU(approximate="tanh" if self.tanh else "none"))


@ffns.register("relu2")
@dataclass(frozen=True, kw_only=True, slots=True)
class SquaredReluFFN(FFNConfig):
    """down(relu(up(x))²) (arXiv:2109.08668)."""

    def build(self, d_model: int) -> FFN:
        return Plain(d_model, self.d_ff, self.bias, SquaredReLU())


@ffns.register("glu")
@dataclass(frozen=True, kw_only=True, slots=True)
class GluFFN(FFNConfig):
    """down(sigmoid(gate(x)) * up(x)) (arXiv:1612.08083, as a network in arXiv:2002.05202)."""

    def n_matrices(self) -> int:
        return 3

    def build(self, d_model: int) -> FFN:
        return Gated(d_model, self.d_ff, self.bias, nn.Sigmoid())


@ffns.register("swiglu")
@dataclass(frozen=True, kw_only=True, slots=True)
class SwigluFFN(FFNConfig):
    """down(silu(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def n_matrices(self) -> int:
        return 3

    def build(self, d_model: int) -> FFN:
        return Gated(d_model, self.d_ff, self.bias, nn.SiLU())


@ffns.register("geglu")
@dataclass(frozen=True, kw_only=True, slots=True)
class GegluFFN(FFNConfig):
    """down(gelu(gate(x)) * up(x)) (arXiv:2002.05202); the tanh approximation is Gemma's."""

    tanh: bool = setting(True, "the tanh approximation instead of the exact form")

    def n_matrices(self) -> int:
        return 3

    def build(self, d_model: int) -> FFN:
        return Gated(d_model, self.d_ff, self.bias, nn.GELU(approximate="tanh" if self.tanh else "none"))


class SquaredReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


class Plain(FFN):
    def __init__(self, d_model: int, d_ff: int, bias: bool, activation: nn.Module) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.activation = activation
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.activation(self.up(x)))
        return out

    def output_projections(self) -> list[nn.Linear]:
        return [self.down]


class Gated(FFN):
    def __init__(self, d_model: int, d_ff: int, bias: bool, activation: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.activation = activation
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.activation(self.gate(x)) * self.up(x))
        return out

    def output_projections(self) -> list[nn.Linear]:
        return [self.down]
