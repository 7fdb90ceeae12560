"""How do positions exchange information? Multi-head and grouped-query attention (arXiv:1706.03762, arXiv:2305.13245).

Two roads to one answer: `attend_explicit` writes the scores and the mask out, `attend_fused` hands them to torch's
`scaled_dot_product_attention`. They are tested equal; `Attention.path` chooses.

Shapes: x (B, T, D); queries (B, N, T, H); keys and values (B, K, S, H); mask (B or 1, 1, T, S); None is
plain causal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fabula.config import setting
from fabula.model.cache import LayerCache
from fabula.model.norms import RMSNorm
from fabula.model.positions import Tables, rotate
from fabula.registry import Registry

mixers: Registry[type[MixerConfig]] = Registry("attention")

Path = Literal["fused", "explicit"]


class Mixer(nn.Module):
    """Maps (B, T, D) to (B, T, D), looking only backwards."""

    def forward(self, x: Tensor, tables: Tables | None, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        raise NotImplementedError

    def output_projections(self) -> list[nn.Linear]:
        """The linears that write into the residual stream (initialisation treats them apart)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class MixerConfig:
    """What every mixer answers: its price and its module."""

    variants: ClassVar[Registry[type[MixerConfig]]] = mixers

    def rotary_width(self) -> int:
        """The width that a rotary position scheme turns, in numbers."""
        raise NotImplementedError

    def n_params(self, d_model: int) -> int:
        raise NotImplementedError

    def flops_per_token(self, d_model: int, context: int) -> int:
        """Forward FLOPs for one token at a context of that many keys; the causal half is not subtracted."""
        raise NotImplementedError

    def cache_bytes(self, context: int, bytes_per_number: int) -> int:
        raise NotImplementedError

    def build(self, d_model: int) -> Mixer:
        raise NotImplementedError


@mixers.register("gqa")
@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedQueryAttention(MixerConfig):
    """Softmax attention whose query heads share keys and values in groups; equal head counts are multi-head."""

    n_heads: int = setting(doc="query heads")
    n_kv_heads: int = setting(doc="key/value heads; n_heads is a multiple")
    head_dim: int = setting(doc="width of one head; n_heads * head_dim need not be d_model")
    qk_norm: bool = setting(False, "RMSNorm on each query and key head (arXiv:2010.04245)")
    qkv_bias: bool = setting(False, "bias of the query, key and value projections")
    out_bias: bool = setting(False, "bias of the output projection")

    def __post_init__(self) -> None:
        for name in ("n_heads", "n_kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.n_heads % self.n_kv_heads:
            fits = [str(k) for k in range(self.n_heads, 0, -1) if self.n_heads % k == 0]
            raise ValueError(
                f"n_heads={self.n_heads} must be a multiple of n_kv_heads={self.n_kv_heads}; "
                f"try n_kv_heads = {', '.join(fits)}"
            )

    def rotary_width(self) -> int:
        return self.head_dim

    def n_params(self, d_model: int) -> int:
        queries, shared = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        weights = d_model * (2 * queries + 2 * shared)
        biases = (queries + 2 * shared) * self.qkv_bias + d_model * self.out_bias
        return weights + biases + 2 * self.head_dim * self.qk_norm

    def flops_per_token(self, d_model: int, context: int) -> int:
        queries, shared = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        projections = 2 * d_model * (2 * queries + 2 * shared)
        scores_and_sum = 2 * 2 * queries * context
        return projections + scores_and_sum

    def cache_bytes(self, context: int, bytes_per_number: int) -> int:
        return 2 * self.n_kv_heads * self.head_dim * context * bytes_per_number

    def build(self, d_model: int) -> Mixer:
        return Attention(self, d_model)


class Attention(Mixer):
    def __init__(self, config: GroupedQueryAttention, d_model: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = config.n_heads, config.n_kv_heads, config.head_dim
        queries, shared = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        self.q_proj = nn.Linear(d_model, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(d_model, shared, bias=config.qkv_bias)
        self.v_proj = nn.Linear(d_model, shared, bias=config.qkv_bias)
        self.out_proj = nn.Linear(queries, d_model, bias=config.out_bias)
        self.q_norm = RMSNorm(self.head_dim, 1e-6) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, 1e-6) if config.qk_norm else nn.Identity()
        self.path: Path = "fused"

    def output_projections(self) -> list[nn.Linear]:
        return [self.out_proj]

    def forward(self, x: Tensor, tables: Tables | None, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(batch, length, self.n_heads, self.head_dim))
        k = self.k_norm(self.k_proj(x).view(batch, length, self.n_kv_heads, self.head_dim))
        v = self.v_proj(x).view(batch, length, self.n_kv_heads, self.head_dim)
        if tables is not None:
            q, k = rotate(q, tables), rotate(k, tables)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(k, v)
        attend = attend_fused if self.path == "fused" else attend_explicit
        mixed = attend(q, k, v, mask)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


def attend_explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(H)) v with the mask written out; returns (B, N, T, H)."""
    from fabula.model.masks import causal

    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if mask is None:
        mask = causal(q.shape[2], k.shape[2], q.device)
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return weights.to(v.dtype) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same through torch's fused kernel, which never holds a (T, S) matrix of scores."""
    grouped = q.shape[1] != k.shape[1]
    if mask is None and q.shape[2] == k.shape[2]:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    if mask is None and q.shape[2] > 1:
        from fabula.model.masks import causal

        mask = causal(q.shape[2], k.shape[2], q.device)
    # One query after a cache sees everything that is in it: no mask at all.
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)


def set_path(model: nn.Module, path: Path) -> None:
    """Send every attention of a model down one road."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.path = path


__all__ = [
    "Attention", "GroupedQueryAttention", "Mixer", "MixerConfig", "Path", "attend_explicit", "attend_fused", "mixers",
    "set_path",
]  # fmt: skip
