"""What is a decoder as operations of ggml?

The weights are taken once (`Graphs`) and laid side by side: as float32, which the model then shares, or in 8-bit
blocks. `build` makes the graph of a step for a number of texts, of new ids and of keys. Which texts these are, and
where their keys lie, is `compiled.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fabula.generate import ggml
from fabula.generate.arena import Arena
from fabula.generate.ggml import Context, Node
from fabula.model.attention import Attention, GroupedQueryAttention
from fabula.model.block import Block
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.ffn import (
    FFN,
    FFNConfig,
    GegluFFN,
    GeluFFN,
    GluFFN,
    ReluFFN,
    SquaredReluFFN,
    SwigluFFN,
)
from fabula.model.norms import LayerNormConfig, RMSNorm, RMSNormConfig
from fabula.model.positions import LearnedPositions, NoPositions, Rope, RopePosition, SinusoidalPositions

Weights = Literal["float32", "int8"]


def in_the_way(config: ModelConfig) -> list[str]:
    """The settings of a model that ggml's operations here do not cover; empty when it can be compiled."""
    problems = []
    if type(config.attention) is not GroupedQueryAttention:
        problems.append("attention.kind must be gqa")
    if type(config.ffn) not in (ReluFFN, SquaredReluFFN, GeluFFN, GluFFN, SwigluFFN, GegluFFN):
        problems.append("ffn.kind is a mixture of experts")
    if type(config.position) not in (NoPositions, LearnedPositions, SinusoidalPositions, Rope):
        problems.append("positions are told by a bias of the scores")
    if type(config.norm) not in (LayerNormConfig, RMSNormConfig):
        problems.append("norm.kind must be layernorm or rmsnorm")
    return problems


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Node
    bias: Node | None
    eps: float
    rms: bool


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Node
    bias: Node | None


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: _Norm
    ffn_norm: _Norm
    attention_out_norm: _Norm | None
    ffn_out_norm: _Norm | None
    qkv: _Linear
    qk_norm: _Norm | None
    out: _Linear
    up: _Linear  # gate and up in one where there is a gate
    down: _Linear
    local: bool


@dataclass(slots=True)
class Graph:
    """A step that can be computed: what it reads (filled before each time) and the logits that it writes."""

    context: Context
    tokens: np.ndarray[Any, Any]
    positions: np.ndarray[Any, Any]
    rows: np.ndarray[Any, Any]
    masks: dict[bool, np.ndarray[Any, Any]]
    logits: Tensor
    seen: int = -1  # of a graph of one id: the keys, from the first on, that its mask shows; -1: it says something else


class Graphs:
    """A decoder's weights as ggml holds them, and the graphs over them. After `free` none may be computed."""

    def __init__(self, model: Decoder, weights: Weights) -> None:
        problems = in_the_way(model.config)
        if problems:
            raise ValueError(f"cannot be compiled: {'; '.join(problems)}")
        assert isinstance(model.config.attention, GroupedQueryAttention)
        self.config, self.weights, self._attention = model.config, weights, model.config.attention
        self.width = self._attention.n_kv_heads * self._attention.head_dim  # of a token's keys in a layer
        self._constants, self._arena = Context(64 + 24 * model.config.n_layers), Arena()
        self._take(model)
        del self._arena  # what it still had to give

    def free(self) -> None:
        self._constants.free()

    def build(
        self,
        memory: Sequence[tuple[Node, Node]],
        room: int,
        batch: int,
        length: int,
        n_keys: int,
        first: int,
        every: bool,
    ) -> Graph:
        """A step of `length` new ids for each of `batch` slots that lie side by side from `first` on; it sees `n_keys`.

        `memory` has the keys and values of each layer, with `room` positions a slot. Logits are of the last id, or of
        `every` one.
        """
        config, count = self.config, batch * length
        g = Context(64 + 64 * config.n_layers, graph=True)
        tokens, positions = torch.zeros(count, dtype=torch.int32), torch.zeros(count, dtype=torch.int32)
        rows = torch.zeros(count, dtype=torch.int64)
        masks = {
            local: torch.zeros(batch, 1, length, n_keys, dtype=torch.float16)
            for local in {layer.local for layer in self._layers}
        }
        tokens_in, positions_in, rows_in = g.over(tokens), g.over(positions), g.over(rows)
        masks_in = {local: g.over(mask) for local, mask in masks.items()}
        x = g.get_rows(self._embedding, tokens_in)
        if config.embedding_factor() != 1:
            x = g.scale(x, config.embedding_factor())
        if self._places is not None:
            x = g.add(x, g.get_rows(self._places, positions_in))
        view = _View(batch, length, n_keys, first * room, room)
        for layer, held in zip(self._layers, memory, strict=True):

            def attend(y: Node, layer: _Layer = layer, held: tuple[Node, Node] = held) -> Node:
                return self._attend(g, layer, held, y, positions_in, rows_in, masks_in[layer.local], view)

            if config.placement == "post":
                x = _normalise(g, layer.attention_norm, g.add(x, attend(x)))
                x = _normalise(g, layer.ffn_norm, g.add(x, self._feed(g, layer, x, count)))
                continue
            y = attend(_normalise(g, layer.attention_norm, x))
            x = g.add(x, y if layer.attention_out_norm is None else _normalise(g, layer.attention_out_norm, y))
            y = self._feed(g, layer, _normalise(g, layer.ffn_norm, x), count)
            x = g.add(x, y if layer.ffn_out_norm is None else _normalise(g, layer.ffn_out_norm, y))
        kept = count if every else 1
        if kept < count:
            stride = 4 * config.d_model
            x = g.view_2d(x, config.d_model, 1, stride, (count - 1) * stride)
        if self._norm is not None:
            x = _normalise(g, self._norm, x)
        logits = _apply(g, self._head, x)
        if config.logit_cap:
            logits = g.scale(g.tanh(g.scale(logits, 1 / config.logit_cap)), config.logit_cap)
        out = g.finish(logits, (kept, config.vocab_size))
        return Graph(g, tokens.numpy(), positions.numpy(), rows.numpy(), {k: m.numpy() for k, m in masks.items()}, out)

    def _attend(
        self,
        g: Context,
        layer: _Layer,
        memory: tuple[Node, Node],
        x: Node,
        positions: Node,
        rows: Node,
        mask: Node,
        view: _View,
    ) -> Node:
        attention, width = self._attention, self.width
        head, turned = 4 * attention.head_dim, attention.n_heads + attention.n_kv_heads
        queries, count = attention.n_heads * attention.head_dim, view.batch * view.length
        qkv = _apply(g, layer.qkv, x)
        row = 4 * (queries + 2 * width)
        v = g.view_2d(qkv, width, count, row, 4 * (queries + width))
        # Queries and keys together: heads of the same width, one after the other.
        qk, start = qkv, 0
        if layer.qk_norm is not None or self._turns:
            qk = g.view_3d(qkv, attention.head_dim, turned, count, head, row, start)
            row = head * turned
        if layer.qk_norm is not None:
            qk = _normalise(g, layer.qk_norm, qk)
        if self._turns:
            wavelengths, scale = self._turns[layer.local]
            qk = g.rope(qk, positions, wavelengths, attention.head_dim, scale)
        k = g.view_2d(qk, width, count, row, 4 * queries)
        q = g.view_4d(
            qk, attention.head_dim, view.length, attention.n_heads, view.batch, row, head, row * view.length, 0
        )
        seen = []
        for held, new in zip(memory, (k, v), strict=True):
            g.compute_before(g.set_rows(held, new, rows))
            token = 4 * width
            seen.append(
                g.view_4d(
                    held, attention.head_dim, view.n_keys, attention.n_kv_heads, view.batch,
                    token, head, token * view.room, token * view.first,
                )
            )  # fmt: skip
        mixed = g.flash_attn_ext(q, seen[0], seen[1], mask, attention.score_scale(), 0.0, attention.logit_cap)
        return _apply(g, layer.out, g.reshape_2d(mixed, queries, count))

    def _feed(self, g: Context, layer: _Layer, x: Node, count: int) -> Node:
        config = self.config.ffn
        up = _apply(g, layer.up, x)
        if config.n_matrices() == 2:
            return _apply(g, layer.down, _activate(g, config, up))
        return _apply(g, layer.down, _gate(g, config, up, count))

    # ---- weights ----

    def _take(self, model: Decoder) -> None:
        config, position = model.config, model.position
        self._embedding = self._matrix(model.embedding.weight)
        head = self._embedding if model.head is None else self._matrix(model.head.weight)
        self._head = _Linear(head, self._vector(model.head_bias))
        learned = isinstance(config.position, LearnedPositions | SinusoidalPositions)
        table = getattr(position, "table", None)
        table = table.weight if isinstance(table, nn.Embedding) else table
        self._places = (
            self._constants.over(table.detach().float().contiguous()) if learned and table is not None else None
        )
        self._turns: dict[bool, tuple[Node, float]] = {}
        if isinstance(position, RopePosition):
            for local in (False, True):
                frequency, scale = position.frequencies(torch.device("cpu"), local)
                self._turns[local] = self._constants.over((1 / frequency).contiguous()), scale
        self._norm = self._norm_of(model.norm) if config.final_norm else None
        self._layers = [
            self._layer(block, kind == "L")
            for block, kind in zip(model.blocks, model.kinds, strict=True)
            if isinstance(block, Block)
        ]

    def _layer(self, block: Block, local: bool) -> _Layer:
        attention, ffn = block.attention, block.ffn
        assert isinstance(attention, Attention)
        qkv = self._linear(attention.q_proj, attention.k_proj, attention.v_proj)
        qk_norm = None
        if isinstance(attention.q_norm, RMSNorm) and isinstance(attention.k_norm, RMSNorm):
            heads = [_scale_of(attention.q_norm).expand(attention.n_heads, -1)]
            heads.append(_scale_of(attention.k_norm).expand(attention.n_kv_heads, -1))
            weight = self._constants.over(torch.cat(heads).contiguous())
            qk_norm = _Norm(weight, None, attention.q_norm.eps, True)
        gated = [part for part in (getattr(ffn, "gate", None), ffn.up) if isinstance(part, nn.Linear)]
        outer = self.config.placement == "sandwich"
        return _Layer(
            self._norm_of(block.attention_norm),
            self._norm_of(block.ffn_norm),
            self._norm_of(block.attention_out_norm) if outer else None,
            self._norm_of(block.ffn_out_norm) if outer else None,
            qkv,
            qk_norm,
            self._linear(attention.out_proj),
            self._linear(*gated),
            self._linear(_down(ffn)),
            local,
        )

    def _linear(self, *parts: nn.Linear) -> _Linear:
        """Linears that read the same, as one."""
        biases = [torch.zeros(part.out_features) if part.bias is None else part.bias.detach() for part in parts]
        has_bias = any(part.bias is not None for part in parts)
        matrix = self._matrix(*[part.weight for part in parts])
        return _Linear(matrix, self._vector(torch.cat(biases)) if has_bias else None)

    def _matrix(self, *weights: Tensor) -> Node:
        """Matrices with as many columns, one below the other."""
        if self.weights == "int8" and weights[0].shape[1] % ggml.BLOCK == 0:
            parts = [weight.detach().float() for weight in weights]
            made = parts[0] if len(parts) == 1 else torch.cat(parts)
            blocks = self._arena.take(ggml.q8_0_bytes(*made.shape))
            ggml.quantize(made, blocks)
            return self._constants.over(blocks, tuple(made.shape), ggml.Q8_0)
        return self._constants.over(self._arena.settle(weights))

    def _vector(self, values: Tensor | None) -> Node | None:
        return None if values is None else self._constants.over(values.detach().float().contiguous())

    def _norm_of(self, norm: nn.Module) -> _Norm:
        if isinstance(norm, RMSNorm):
            return _Norm(self._constants.over(_scale_of(norm).contiguous()), None, norm.eps, True)
        assert isinstance(norm, nn.LayerNorm)
        weight = self._vector(norm.weight)
        assert weight is not None
        return _Norm(weight, self._vector(norm.bias), norm.eps, False)


@dataclass(frozen=True, slots=True)
class _View:
    """The part of the memory that a graph sees: B neighbouring slots, and of each the first `n_keys`."""

    batch: int
    length: int
    n_keys: int
    first: int
    room: int


def _scale_of(norm: RMSNorm) -> Tensor:
    weight = norm.weight.detach().float()
    return 1 + weight if norm.centred else weight


def _down(ffn: FFN) -> nn.Linear:
    (linear,) = ffn.output_projections()
    return linear


def _apply(g: Context, linear: _Linear, x: Node) -> Node:
    y = g.mul_mat(linear.weight, x)
    return y if linear.bias is None else g.add(y, linear.bias)


def _normalise(g: Context, norm: _Norm, x: Node) -> Node:
    y = g.mul(g.rms_norm(x, norm.eps) if norm.rms else g.norm(x, norm.eps), norm.weight)
    return y if norm.bias is None else g.add(y, norm.bias)


def _activate(g: Context, config: FFNConfig, x: Node) -> Node:
    """The activation of a network; where ggml's own rounds to 16 bits (tanh-GELU) it is composed of others."""
    if isinstance(config, ReluFFN):
        return g.relu(x)
    if isinstance(config, SquaredReluFFN):
        return g.sqr(g.relu(x))
    if isinstance(config, GluFFN):
        return g.sigmoid(x)
    assert isinstance(config, GeluFFN | GegluFFN)
    if not config.tanh:
        return g.gelu_erf(x)
    # 0.5 x (1 + tanh u) = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
    double = 2 * math.sqrt(2 / math.pi)
    return g.mul(x, g.sigmoid(g.mul(x, g.scale_bias(g.sqr(x), 0.044715 * double, double))))


def _gate(g: Context, config: FFNConfig, both: Node, count: int) -> Node:
    """act(gate) * up from both in one row."""
    if isinstance(config, SwigluFFN):
        return g.swiglu(both)
    d_ff = config.d_ff
    gate, up = (g.cont(g.view_2d(both, d_ff, count, 8 * d_ff, start)) for start in (0, 4 * d_ff))
    return g.mul(_activate(g, config, gate), up)
