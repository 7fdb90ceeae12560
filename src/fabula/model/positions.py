"""How does the model know where a token stands? Each scheme may act in three places, and is the identity elsewhere:

- `embed(x, positions)`: on the embeddings (learned, sinusoidal);
- `tables(positions)` and `rotate(x, tables)`: on queries and keys (RoPE).

Shapes: x (B, T, D) in `embed`; positions (B, T) or (1, T), whole numbers from 0; queries and keys (B, T, heads, H).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fabula.config import setting
from fabula.registry import Registry

Tables = tuple[Tensor, Tensor]  # cosine and signed sine, each (B or 1, T, 1, H); `rotate` reads them


positions: Registry[type[PositionConfig]] = Registry("position")


class Position(nn.Module):
    """The three hooks, all identities."""

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x

    def tables(self, positions: Tensor) -> Tables | None:
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionConfig:
    """What every position scheme answers."""

    variants: ClassVar[Registry[type[PositionConfig]]] = positions

    def n_params(self, d_model: int, context_length: int) -> int:
        return 0

    def check(self, d_model: int, head_dim: int) -> None:
        """ValueError when the scheme does not fit the model."""

    def build(self, d_model: int, context_length: int, head_dim: int) -> Position:
        raise NotImplementedError


@positions.register("learned")
@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedPositions(PositionConfig):
    """One trained vector a position, added to the embedding (GPT-2)."""

    def n_params(self, d_model: int, context_length: int) -> int:
        return d_model * context_length

    def build(self, d_model: int, context_length: int, head_dim: int) -> Position:
        return LearnedPosition(d_model, context_length)


class LearnedPosition(Position):
    def __init__(self, d_model: int, context_length: int) -> None:
        super().__init__()
        self.table = nn.Embedding(context_length, d_model)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        added: Tensor = x + self.table(positions)
        return added


@positions.register("sinusoidal")
@dataclass(frozen=True, kw_only=True, slots=True)
class SinusoidalPositions(PositionConfig):
    """Fixed sines and cosines of falling frequency, added to the embedding (arXiv:1706.03762, section 3.5).

    The paper scales embeddings up to meet the amplitude of 1; here `init.embedding_std` decides (0.02 is far below it).
    """

    def check(self, d_model: int, head_dim: int) -> None:
        if d_model % 2:
            raise ValueError(f"sinusoidal positions need an even d_model, got {d_model}")

    def build(self, d_model: int, context_length: int, head_dim: int) -> Position:
        return SinusoidalPosition(d_model, context_length)


class SinusoidalPosition(Position):
    table: Tensor

    def __init__(self, d_model: int, context_length: int) -> None:
        super().__init__()
        frequency = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        angle = torch.arange(context_length).unsqueeze(1) * frequency
        # Sine and cosine alternate along the width, as in the paper.
        self.register_buffer("table", torch.stack((angle.sin(), angle.cos()), -1).flatten(1), persistent=False)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + self.table[positions]


@positions.register("rope")
@dataclass(frozen=True, kw_only=True, slots=True)
class Rope(PositionConfig):
    """Queries and keys turned by an angle that grows with the position (arXiv:2104.09864).

    The half-split layout (first half of a head pairs with its second half), as Llama's and Qwen's checkpoints have it.
    """

    theta: float = setting(10_000.0, "base of the angles' wavelengths")

    def __post_init__(self) -> None:
        if not self.theta > 1:
            raise ValueError(f"theta={self.theta} must be above 1")

    def check(self, d_model: int, head_dim: int) -> None:
        if head_dim % 2:
            raise ValueError(f"RoPE turns pairs of numbers: head_dim={head_dim} must be even")

    def build(self, d_model: int, context_length: int, head_dim: int) -> Position:
        return RopePosition(head_dim, self.theta)


class RopePosition(Position):
    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.head_dim, self.theta = head_dim, theta

    def tables(self, positions: Tensor) -> Tables | None:
        # Computed anew and not kept in a buffer: a cast of the model (`model.bfloat16()`) would round the frequencies.
        exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=positions.device) / self.head_dim
        angle = positions.unsqueeze(-1).float() * self.theta**-exponent
        cosine, sine = angle.cos().unsqueeze(2), angle.sin().unsqueeze(2)
        return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)


def rotate(x: Tensor, tables: Tables) -> Tensor:
    """Turn each pair (x_i, x_{i + H/2}) by its position's angle; x (B, T, heads, H). Computed in float32."""
    turned: Tensor = _Rotation.apply(x.float(), *tables)  # type: ignore[no-untyped-call]
    return turned.to(x.dtype)


def rotate_explicit(x: Tensor, tables: Tables) -> Tensor:
    """The readable twin of `rotate`: the two halves of a head as the two coordinates of a turning point."""
    half = x.shape[-1] // 2
    cosine, sine = tables[0][..., :half], tables[1][..., half:]
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class _Rotation(torch.autograd.Function):
    """The gradient of a rotation is the opposite rotation: nothing but the tables needs to be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return torch.addcmul(x * cosine, _swap_halves(x), sine)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad,) = grad_outputs
        cosine, sine = ctx.saved_tensors
        return torch.addcmul(grad * cosine, _swap_halves(grad), sine, value=-1), None, None


def _swap_halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), dim=-1)
