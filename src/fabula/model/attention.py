"""How do positions exchange information? Multi-head and grouped-query attention (arXiv:1706.03762, arXiv:2305.13245).

Three roads to one answer. `attend_explicit` writes scores and mask out; it is the readable twin that the others are
tested against. `attend_fused` hands pieces of the attention (`masks.Sight`) to torch's `scaled_dot_product_attention`,
on any device. `attend_flex` is FlexAttention (arXiv:2412.05496), for windows, documents and caps on a GPU.
`usual_path` chooses.

Shapes: x (B, T, D); queries (B, N, T, H); keys and values (B, K, S, H).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fabula.config import setting
from fabula.model.cache import LayerCache
from fabula.model.masks import Piece, Sight
from fabula.model.norms import RMSNorm
from fabula.model.positions import Tables, rotate
from fabula.model.recompute import kept_by_another
from fabula.registry import Registry

mixers: Registry[type[MixerConfig]] = Registry("attention")

Path = Literal["fused", "explicit", "flex"]


class Mixer(nn.Module):
    """Maps (B, T, D) to (B, T, D). `sight` says who sees whom; None is plain causal attention."""

    def forward(self, x: Tensor, tables: Tables | None, sight: Sight | None, cache: LayerCache | None) -> Tensor:
        raise NotImplementedError

    def output_projections(self) -> list[nn.Linear]:
        """The linears that write into the residual stream (initialisation treats them apart)."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class MixerConfig:
    """What every mixer answers: its price and its module."""

    variants: ClassVar[Registry[type[MixerConfig]]] = mixers

    def heads(self) -> tuple[int, int]:
        """Query heads and the width of one: what position schemes depend on."""
        raise NotImplementedError

    def capped(self) -> bool:
        """Whether scores are bent, for which there are fewer kernels."""
        return False

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
    scale: float = setting(0.0, "what products of queries and keys are multiplied by; 0: 1/sqrt(head_dim)")
    logit_cap: float = setting(0.0, "scores are bent to stay within this, by tanh (Gemma 2); 0: as they are")
    qk_norm: bool = setting(False, "RMSNorm on each query and key head (arXiv:2010.04245)")
    qk_norm_eps: float = setting(1e-6, "added under the root of that norm")
    qk_norm_centred: bool = setting(False, "that norm scales by 1 + weight (Gemma)")
    q_bias: bool = setting(False, "bias of the query projection")
    k_bias: bool = setting(False, "bias of the key projection")
    v_bias: bool = setting(False, "bias of the value projection")
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
        for name in ("scale", "logit_cap"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        if not self.qk_norm_eps > 0:
            raise ValueError(f"qk_norm_eps={self.qk_norm_eps} must be above 0")

    def capped(self) -> bool:
        return self.logit_cap > 0

    def score_scale(self) -> float:
        """What products of queries and keys are multiplied by."""
        return self.scale or self.head_dim**-0.5

    def heads(self) -> tuple[int, int]:
        return self.n_heads, self.head_dim

    def n_params(self, d_model: int) -> int:
        queries, shared = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        weights = d_model * (2 * queries + 2 * shared)
        biases = queries * self.q_bias + shared * (self.k_bias + self.v_bias) + d_model * self.out_bias
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
        self.scale, self.logit_cap = config.score_scale(), config.logit_cap
        queries, shared = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        self.q_proj = nn.Linear(d_model, queries, bias=config.q_bias)
        self.k_proj = nn.Linear(d_model, shared, bias=config.k_bias)
        self.v_proj = nn.Linear(d_model, shared, bias=config.v_bias)
        self.out_proj = nn.Linear(queries, d_model, bias=config.out_bias)
        self.q_norm, self.k_norm = (
            RMSNorm(self.head_dim, config.qk_norm_eps, config.qk_norm_centred) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )
        self.path: Path = "fused"

    def output_projections(self) -> list[nn.Linear]:
        return [self.out_proj]

    def queries(self, x: Tensor) -> Tensor:
        """(B, T, N, H)."""
        q: Tensor = self.q_norm(self.q_proj(x).view(*x.shape[:2], self.n_heads, self.head_dim))
        return q

    def keys(self, x: Tensor) -> Tensor:
        """(B, S, K, H)."""
        k: Tensor = self.k_norm(self.k_proj(x).view(*x.shape[:2], self.n_kv_heads, self.head_dim))
        return k

    def values(self, x: Tensor) -> Tensor:
        """(B, K, S, H)."""
        v: Tensor = self.v_proj(x).view(*x.shape[:2], self.n_kv_heads, self.head_dim).transpose(1, 2)
        return v

    def forward(self, x: Tensor, tables: Tables | None, sight: Sight | None, cache: LayerCache | None) -> Tensor:
        q, k, v = self.queries(x), self.keys(x), self.values(x)
        if tables is not None:
            q, k = rotate(q, tables), rotate(k, tables)
        q, k = q.transpose(1, 2), k.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.mix(q, k, v, sight or Sight(q.shape[2], k.shape[2], x.device))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> Tensor:
        """Attention and the output projection: (B, T, D)."""
        mixed = _ROADS[self.path](q, k, v, sight, self.scale, self.logit_cap)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class CrossAttention(Attention):
    """Queries from one text, keys and values from another of any length (arXiv:1706.03762, section 3.2.3)."""

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K, S, H) of a memory (B, S, D): once for a source, whatever is made of it."""
        return self.keys(memory).transpose(1, 2), self.values(memory)

    def attend(self, x: Tensor, keys_values: tuple[Tensor, Tensor], seen: Tensor | None) -> Tensor:
        """(B, T, D) from x (B, T, D); `seen` (B, S) is false for keys that nobody sees (padding)."""
        k, v = keys_values
        q = self.queries(x).transpose(1, 2)
        return self.mix(q, k, v, Sight(q.shape[2], k.shape[2], x.device, causal=False, seen=seen))


def attend_explicit(q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float, logit_cap: float = 0.0) -> Tensor:
    """softmax(q k^T * scale) v with scores and mask written out; returns (B, N, T, H)."""
    bias = None if sight.bias is None else sight.bias(sight.distance(slice(0, q.shape[2]), slice(0, k.shape[2])))
    return _written_out(q, k, v, sight.allowed(), bias, scale, logit_cap)


def _written_out(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, bias: Tensor | None, scale: float, logit_cap: float
) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q @ k.transpose(-1, -2)).float() * scale
    if logit_cap:
        scores = logit_cap * torch.tanh(scores / logit_cap)
    if bias is not None:
        scores = scores + bias.float()
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float, logit_cap: float = 0.0) -> Tensor:
    """The same, piece by piece, through torch's fused kernel, which never holds a matrix of scores.

    There is no fused kernel for capped scores: their pieces are written out.
    """
    pieces = sight.pieces(q.dtype)
    kernel = functools.partial(_capped, logit_cap=logit_cap) if logit_cap else _fused
    if len(pieces) == 1:
        return kernel(q[:, :, pieces[0].queries], k[:, :, pieces[0].keys], v[:, :, pieces[0].keys], pieces[0], scale)
    by_hand = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
    trained_bias = any(piece.mask is not None and piece.mask.requires_grad for piece in pieces)
    if by_hand and not trained_bias and not torch.compiler.is_compiling():
        out: Tensor = _Pieces.apply(q, k, v, pieces, scale, kernel)  # type: ignore[no-untyped-call]
        return out
    parts = [kernel(q[:, :, p.queries], k[:, :, p.keys], v[:, :, p.keys], p, scale) for p in pieces]
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)


Kernel = Callable[[Tensor, Tensor, Tensor, Piece, float], Tensor]


def _fused(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=piece.mask, is_causal=piece.causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def _capped(q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float, logit_cap: float) -> Tensor:
    mask = piece.mask
    if piece.causal:
        mask = torch.full((q.shape[2], k.shape[2]), float("-inf"), device=q.device).triu(1)
    return _written_out(q, k, v, None, mask, scale, logit_cap)


def attend_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, logit_cap: float = 0.0) -> Tensor:
    """The next token of each of R texts: queries (R, N, H), keys and values (R, K, S, H), to (R, N, H).

    `mask` (R, 1 or N, S) is added to the scores (-inf: not seen). A group's queries take the place of several tokens,
    so that no key is repeated.
    """
    rows, shared, (n_keys, width) = q.shape[0], k.shape[1], k.shape[2:]
    if mask is not None:
        by_head = mask.shape[1] > 1
        mask = mask.view(rows, shared, -1, n_keys) if by_head else mask.view(rows, 1, 1, n_keys)
    piece = Piece(slice(0, 1), slice(0, n_keys), False, mask)
    q = q.view(rows, shared, -1, width)
    mixed = _capped(q, k, v, piece, scale, logit_cap) if logit_cap else _fused(q, k, v, piece, scale)
    return mixed.reshape(rows, -1, width)


class _Pieces(torch.autograd.Function):
    """Pieces of queries, each with a view of the keys; the gradients of a key's pieces are summed in place.

    Left to itself, autograd would fill a tensor of the size of all keys for each piece: time and memory that grow with
    the square of the length.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, pieces: list[Piece], scale: float, kernel: Kernel) -> Tensor:
        # Laid out (B, T, N, H), as the projection after it reads it.
        out = q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3])
        # Under checkpointing what the pieces keep would escape its hooks: they are computed again instead.
        again = kept_by_another()
        graphs = []
        for piece in pieces:
            leaves, part = _piece_of(q, k, v, piece, scale, kernel, keep=not again)
            out[:, piece.queries] = part.detach().transpose(1, 2)
            graphs.append((leaves, part))
        ctx.pieces, ctx.scale, ctx.kernel = pieces, scale, kernel
        ctx.graphs = None if again else graphs
        ctx.save_for_backward(q, k, v)
        return out.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad,) = grad_outputs
        q, k, v = ctx.saved_tensors
        grad_q = grad.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3])
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        graphs, ctx.graphs = ctx.graphs, None
        for number, piece in enumerate(ctx.pieces):
            # A graph that is kept for a second backward pass has none of its pieces left.
            leaves, part = graphs[number] if graphs else _piece_of(q, k, v, piece, ctx.scale, ctx.kernel, keep=True)
            parts = torch.autograd.grad(part, leaves, grad[:, :, piece.queries])
            grad_q[:, piece.queries] = parts[0].transpose(1, 2)
            grad_k[:, :, piece.keys] += parts[1]
            grad_v[:, :, piece.keys] += parts[2]
        return grad_q.transpose(1, 2), grad_k, grad_v, None, None, None


def _piece_of(
    q: Tensor, k: Tensor, v: Tensor, piece: Piece, scale: float, kernel: Kernel, keep: bool
) -> tuple[list[Tensor], Tensor]:
    """One piece of attention and the views that it was computed from, as the leaves of a graph of its own."""
    views = (q[:, :, piece.queries], k[:, :, piece.keys], v[:, :, piece.keys])
    with torch.set_grad_enabled(keep):
        leaves = [view.detach().requires_grad_(keep) for view in views]
        return leaves, kernel(leaves[0], leaves[1], leaves[2], piece, scale)


# With fewer queries a block mask costs more than it saves: decoding takes the fused road.
_FLEX_QUERIES = 16


def attend_flex(q: Tensor, k: Tensor, v: Tensor, sight: Sight, scale: float, logit_cap: float = 0.0) -> Tensor:
    """The same through FlexAttention: blocks that nobody may see are never computed. Made for GPUs; on a CPU torch runs
    it forwards only."""
    if sight.bias is not None or (sight.plain and not logit_cap) or sight.n_queries < _FLEX_QUERIES:
        return attend_fused(q, k, v, sight, scale, logit_cap)
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

    before = sight.n_keys - sight.n_queries
    most, reach, documents, of_keys = sight.most, sight.reach, sight.documents, sight.key_documents
    look_ahead, seen = not sight.causal, sight.seen

    def may(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = query + before - key
        found = (distance >= 0) | look_ahead
        if reach is not None:
            found = found & (distance <= (reach[batch, query] if reach.shape[0] > 1 else reach[0, query]))
        elif most is not None:
            found = found & (distance <= most)
        if documents is not None and of_keys is not None:
            found = found & (documents[batch, query] == of_keys[batch, key])
        if seen is not None:
            found = found & seen[batch, key]
        return found

    def bend(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return logit_cap * torch.tanh(score / logit_cap)

    if sight.block_mask is None:
        per_row = any(t is not None and t.shape[0] > 1 for t in (reach, documents, seen))
        sight.block_mask = create_block_mask(
            may, q.shape[0] if per_row else None, None, sight.n_queries, sight.n_keys, device=q.device
        )
    assert isinstance(sight.block_mask, BlockMask)
    run: Any = _compiled() if q.device.type == "cuda" else flex_attention
    out: Tensor = run(
        q,
        k,
        v,
        score_mod=bend if logit_cap else None,
        block_mask=sight.block_mask,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out


@functools.cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    # Without compilation FlexAttention computes every score and saves nothing.
    return torch.compile(flex_attention, dynamic=False)


_ROADS: dict[Path, Callable[..., Tensor]] = {
    "fused": attend_fused,
    "explicit": attend_explicit,
    "flex": attend_flex,
}


def usual_path(device: str, *, documents: bool, spans: bool, capped: bool, biased: bool) -> tuple[Path, str]:
    """The road for training on a device, and why. The arguments say what the attention is made of: packed documents,
    layers that see only what is near, capped scores, a bias of positions."""
    needed = [n for n, there in (("documents", documents), ("spans", spans), ("capped scores", capped)) if there]
    if device != "cuda":
        return "fused", f"attention: fused; FlexAttention has no backward pass on {device}"
    if biased:
        return "fused", "attention: fused; scores have a bias of positions"
    if not needed:
        return "fused", "attention: fused; plain causal attention has a kernel of its own"
    if importlib.util.find_spec("triton") is None:
        return "fused", "attention: fused; FlexAttention needs triton, which is not installed"
    return "flex", f"attention: FlexAttention, which skips what {' and '.join(needed)} hide"


def set_path(model: nn.Module, path: Path) -> None:
    """Send every attention of a model down one road."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.path = path


__all__ = [
    "Attention", "CrossAttention", "GroupedQueryAttention", "Mixer", "MixerConfig", "Path", "attend_explicit",
    "attend_flex", "attend_fused", "attend_rows", "mixers", "set_path", "usual_path",
]  # fmt: skip
