"""How does the model know where a token stands? Each scheme may act in three places, and is the identity elsewhere:

- `embed(x, positions)`: on the embeddings (learned, sinusoidal);
- `tables(positions)` and `rotate(x, tables)`: on queries and keys (RoPE);
- `bias(distance)`: on the scores (relative, ALiBi).

Shapes: x (B, T, D) in `embed`; positions (B, T) or (1, T), whole numbers from 0; queries and keys (B, T, heads, H);
distance (T, S), from query back to key, to a bias (N, T, S).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fabula.config import setting
from fabula.registry import Registry

Tables = tuple[Tensor, Tensor]  # cosine and signed sine, each (B or 1, T, 1, H); `rotate` reads them


positions: Registry[type[PositionConfig]] = Registry("position")


class Shape(NamedTuple):
    """What of a model a position scheme depends on."""

    d_model: int
    context_length: int
    n_heads: int
    head_dim: int


class Position(nn.Module):
    """The three hooks, all identities."""

    biased = False  # whether `bias` gives any

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        return x

    def tables(self, positions: Tensor, local: bool = False) -> Tables | None:
        """For layers that see everything, or for the local ones."""
        return None

    def bias(self, distance: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionConfig:
    """What every position scheme answers."""

    variants: ClassVar[Registry[type[PositionConfig]]] = positions

    def n_params(self, shape: Shape) -> int:
        return 0

    def check(self, shape: Shape) -> None:
        """ValueError when the scheme does not fit the model."""

    def build(self, shape: Shape, both_ways: bool = False) -> Position:
        """The module; `both_ways` for encoders, which also look forward."""
        raise NotImplementedError


@positions.register("none")
@dataclass(frozen=True, kw_only=True, slots=True)
class NoPositions(PositionConfig):
    """Nothing: a causal model can tell places by what it has seen (arXiv:2305.19466)."""

    def build(self, shape: Shape, both_ways: bool = False) -> Position:
        return Position()


@positions.register("learned")
@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedPositions(PositionConfig):
    """One trained vector a position, added to the embedding (GPT-2)."""

    def n_params(self, shape: Shape) -> int:
        return shape.d_model * shape.context_length

    def build(self, shape: Shape, both_ways: bool = False) -> Position:
        return LearnedPosition(shape.d_model, shape.context_length)


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

    Their amplitude is 1: as in the paper, embeddings should meet it (`embedding_scale = "sqrt_width"`).
    """

    def check(self, shape: Shape) -> None:
        if shape.d_model % 2:
            raise ValueError(f"sinusoidal positions need an even d_model, got {shape.d_model}")

    def build(self, shape: Shape, both_ways: bool = False) -> Position:
        return SinusoidalPosition(shape.d_model, shape.context_length)


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


Scaling = Literal["none", "linear", "ntk", "yarn", "llama3"]


@positions.register("rope")
@dataclass(frozen=True, kw_only=True, slots=True)
class Rope(PositionConfig):
    """Queries and keys turned by an angle that grows with the position (arXiv:2104.09864).

    The half-split layout (first half of a head pairs with its second half), as Llama's and Qwen's checkpoints have it.
    Local layers may have a base of their own. `scaling` lets a model read `factor` times the context it was trained
    on; local layers are never scaled, since their distances stay what they were.

    linear   every angle divided by the factor (arXiv:2306.15595)
    ntk      a larger base: the slowest angle divided by the factor, the fastest left alone (arXiv:2309.00071, 3.1)
    yarn     by wavelength: fast angles left alone, slow ones divided, between them a ramp; scores a little sharper
             (arXiv:2309.00071)
    llama3   by wavelength with Llama 3.1's limits (arXiv:2407.21783)
    """

    theta: float = setting(10_000.0, "base of the angles' wavelengths")
    local_theta: float = setting(0.0, "base of the local layers; 0: the same as the others'")
    scaling: Scaling = setting("none", "how the angles are made to fit a longer context")
    factor: float = setting(1.0, "how many times longer the context is than the one trained on")
    original_context: int = setting(0, "tokens of the context trained on; yarn and llama3 need it")
    beta_fast: float = setting(32.0, "yarn: turns within the original context above which an angle is left alone")
    beta_slow: float = setting(1.0, "yarn: turns below which an angle is divided by the whole factor")
    attention_factor: float = setting(0.0, "yarn: what queries and keys are multiplied by; 0: 0.1 ln(factor) + 1")
    low_freq_factor: float = setting(1.0, "llama3: turns below which an angle is divided by the whole factor")
    high_freq_factor: float = setting(4.0, "llama3: turns above which an angle is left alone")

    def __post_init__(self) -> None:
        if not 1 < self.theta < math.inf:
            raise ValueError(f"theta={self.theta} must be above 1")
        if self.local_theta and not 1 < self.local_theta < math.inf:
            raise ValueError(f"local_theta={self.local_theta} must be above 1, or 0 for the same base as theta")
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"factor={self.factor} must be at least 1")
        if self.scaling == "none" and self.factor != 1:
            raise ValueError(f"factor={self.factor} does nothing without a scaling: linear, ntk, yarn or llama3")
        if self.original_context < 0:
            raise ValueError(f"original_context={self.original_context} must be at least 0")
        if self.scaling in ("yarn", "llama3") and not self.original_context:
            raise ValueError(f"original_context=0: {self.scaling} needs the tokens of the context trained on")
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(f"beta_slow={self.beta_slow} must be above 0 and below beta_fast={self.beta_fast}")
        if not self.attention_factor >= 0:
            raise ValueError(f"attention_factor={self.attention_factor} must be at least 0")
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor} must be above 0 and below "
                f"high_freq_factor={self.high_freq_factor}"
            )

    def check(self, shape: Shape) -> None:
        if shape.head_dim % 2:
            raise ValueError(f"RoPE turns pairs of numbers: head_dim={shape.head_dim} must be even")

    def build(self, shape: Shape, both_ways: bool = False) -> Position:
        return RopePosition(self, shape.head_dim)


class RopePosition(Position):
    def __init__(self, config: Rope, head_dim: int) -> None:
        super().__init__()
        self.config, self.head_dim = config, head_dim

    def tables(self, positions: Tensor, local: bool = False) -> Tables | None:
        # Computed anew and not kept in a buffer: a cast of the model (`model.bfloat16()`) would round the frequencies.
        frequency, scale = self.frequencies(positions.device, local)
        angle = positions.unsqueeze(-1).float() * frequency
        cosine, sine = angle.cos().unsqueeze(2), angle.sin().unsqueeze(2)
        if scale != 1:
            cosine, sine = cosine * scale, sine * scale
        return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)

    def frequencies(self, device: torch.device, local: bool = False) -> tuple[Tensor, float]:
        """Radians a token for each pair, (H / 2), and what the rotated queries and keys are multiplied by."""
        config = self.config
        if local and config.local_theta:
            return self._frequencies(config.local_theta, device), 1.0
        if local or config.scaling == "none":
            return self._frequencies(config.theta, device), 1.0
        return self._scaled(device)

    def _frequencies(self, theta: float, device: torch.device) -> Tensor:
        """Radians a token for each pair, (H / 2), fastest first."""
        exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=device) / self.head_dim
        return 1.0 / theta**exponent

    def _scaled(self, device: torch.device) -> tuple[Tensor, float]:
        """Frequencies for a longer context, and what the rotated queries and keys are multiplied by."""
        config, size = self.config, self.head_dim
        if config.scaling == "ntk":
            return self._frequencies(config.theta * config.factor ** (size / max(size - 2, 1)), device), 1.0
        frequency = self._frequencies(config.theta, device)
        slow = frequency / config.factor
        if config.scaling == "linear":
            return slow, 1.0
        turns = config.original_context * frequency / (2 * math.pi)
        if config.scaling == "llama3":
            low, high = config.low_freq_factor, config.high_freq_factor
            keep = ((turns - low) / (high - low)).clamp(0, 1)
            return slow * (1 - keep) + frequency * keep, 1.0
        # YaRN's ramp is over the pairs' numbers, between those that make beta_fast and beta_slow turns.
        first, last = (self._pair_with(turns) for turns in (config.beta_fast, config.beta_slow))
        first, last = max(math.floor(first), 0), min(math.ceil(last), size - 1)
        pair = torch.arange(size // 2, dtype=torch.float32, device=device)
        divide = ((pair - first) / max(last - first, 0.001)).clamp(0, 1)
        factor = config.attention_factor or (0.1 * math.log(config.factor) + 1 if config.factor > 1 else 1.0)
        return slow * divide + frequency * (1 - divide), factor

    def _pair_with(self, turns: float) -> float:
        """The number of the pair that turns that often within the original context."""
        longest = self.config.original_context / (turns * 2 * math.pi)
        return self.head_dim * math.log(longest) / (2 * math.log(self.config.theta))


@positions.register("relative")
@dataclass(frozen=True, kw_only=True, slots=True)
class RelativePositions(PositionConfig):
    """A trained number for each head and bucket of distances, added to the scores (T5, arXiv:1910.10683, section 2.1).

    Near distances have a bucket each, farther ones share theirs by logarithm, beyond `max_distance` all are one. One
    table serves all layers.
    """

    n_buckets: int = setting(32, "buckets of distances; for both directions half of them each")
    max_distance: int = setting(128, "tokens from which on all distances are alike")

    def __post_init__(self) -> None:
        for name in ("n_buckets", "max_distance"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.n_buckets < 4 or self.n_buckets % 4:
            raise ValueError(f"n_buckets={self.n_buckets} must be a multiple of 4")
        if self.max_distance <= self.n_buckets // 2:
            raise ValueError(f"max_distance={self.max_distance} must be above half of n_buckets={self.n_buckets}")

    def n_params(self, shape: Shape) -> int:
        return self.n_buckets * shape.n_heads

    def build(self, shape: Shape, both_ways: bool = False) -> Position:
        return RelativePosition(self, shape.n_heads, both_ways)


class RelativePosition(Position):
    biased = True

    def __init__(self, config: RelativePositions, n_heads: int, both_ways: bool) -> None:
        super().__init__()
        self.config, self.both_ways = config, both_ways
        self.table = nn.Embedding(config.n_buckets, n_heads)

    def bias(self, distance: Tensor) -> Tensor:
        added: Tensor = self.table(self.buckets(distance)).permute(2, 0, 1)
        return added

    def buckets(self, distance: Tensor) -> Tensor:
        """The bucket of each distance (T, S); positive distances lie before the query."""
        n = self.config.n_buckets
        offset = torch.zeros_like(distance)
        if self.both_ways:
            n //= 2
            offset = (distance < 0) * n
            distance = distance.abs()
        distance = distance.clamp(min=0)
        exact = n // 2
        ratio = (distance.clamp(min=1).float() / exact).log() / math.log(self.config.max_distance / exact)
        far = (exact + (ratio * (n - exact)).long()).clamp(max=n - 1)
        return offset + torch.where(distance < exact, distance, far)


@positions.register("alibi")
@dataclass(frozen=True, kw_only=True, slots=True)
class Alibi(PositionConfig):
    """Scores fall with the distance, in each head at another slope (arXiv:2108.12409)."""

    def build(self, shape: Shape, both_ways: bool = False) -> Position:
        return AlibiPosition(shape.n_heads)


class AlibiPosition(Position):
    biased = True

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        # Plain numbers and not a buffer: a cast of the model would round them.
        self.slopes = alibi_slopes(n_heads)

    def bias(self, distance: Tensor) -> Tensor:
        slopes = torch.tensor(self.slopes, dtype=torch.float32, device=distance.device)
        return -slopes.view(-1, 1, 1) * distance.abs().float()


def alibi_slopes(n_heads: int) -> list[float]:
    """A geometric sequence from 2^(-8/N); heads beyond a power of two take every other slope of the next one's.

    >>> alibi_slopes(4)
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    power = 1 << (n_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    return slopes + [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(n_heads - power)]


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
        # In the memory of the swapped halves: one tensor instead of three.
        return _swap_halves(x).mul_(sine).addcmul_(x, cosine)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad,) = grad_outputs
        cosine, sine = ctx.saved_tensors
        return _swap_halves(grad).mul_(-sine).addcmul_(grad, cosine), None, None


def _swap_halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), dim=-1)
