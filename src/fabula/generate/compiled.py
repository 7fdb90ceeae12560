"""A decoder on ggml, for CPUs: the numbers of the PyTorch model, sooner, a token at a time.

A step is a graph of ggml's operations, made once for a number of texts, of new ids and of keys, and computed again and
again on memory of torch's. Every text has a slot of the memory of keys and values; those that are stepped together lie
side by side. Weights are the model's own float32 (shared where they are read as they stand), or 8-bit blocks (q8_0):
products of whole numbers, a quarter of the memory to read, and a little less exact.

The twin is `model.decoder.Decoder` itself: tests hold logits to 1e-4 and greedy tokens equal.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fabula.errors import MachineError
from fabula.generate import ggml
from fabula.generate.backend import Wanted
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

# Ids read in one graph; longer prompts are read in parts.
_PART = 512
# Keys are looked at in steps of this many: a graph serves all lengths up to the next multiple.
_KEYS = 64
# Positions a slot has room for at first; it doubles.
_ROOM = 256
# Of a mask: a key that is not seen.
_HIDDEN = np.float16(-np.inf)
# Graphs that are kept, and the most ids of a text that a kept one reads: prompts differ, and theirs are large.
_GRAPHS, _KEPT = 64, 16


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
class _Graph:
    context: Context
    n_keys: int
    tokens: np.ndarray[Any, Any]
    positions: np.ndarray[Any, Any]
    rows: np.ndarray[Any, Any]
    masks: dict[bool, np.ndarray[Any, Any]]
    logits: Tensor
    seen: int = -1  # of a graph of one id: the keys, from the first on, that its mask shows; -1: it says something else


class Slot:
    """Where a text's keys and values lie, and how many tokens have come."""

    __slots__ = ("index", "length", "number")

    def __init__(self, number: int, index: int) -> None:
        self.number, self.index, self.length = number, index, 0


_P = ParamSpec("_P")
_R = TypeVar("_R")


def _in_turn(method: Callable[Concatenate[CompiledDecoder, _P], _R]) -> Callable[Concatenate[CompiledDecoder, _P], _R]:
    def alone(self: CompiledDecoder, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        # Memory that grew inside a caller's inference mode may be written only in one.
        with self._turn, torch.inference_mode():
            return method(self, *args, **kwargs)

    wrapped: Any = functools.wraps(method)(alone)
    return wrapped


class CompiledDecoder:
    """A decoder's weights and the memory of its texts in ggml, as a `Backend`. Threads take turns, call by call."""

    deterministic = False  # sums are made in another order for one text than for several

    def __init__(
        self,
        model: Decoder,
        weights: Weights = "float32",
        threads: int | None = None,
        capacity: int = 64,
        n_ids: int | None = None,
    ) -> None:
        problems = in_the_way(model.config)
        if problems:
            raise ValueError(f"cannot be compiled: {'; '.join(problems)}")
        self.config, self.weights = model.config, weights
        self.context_length, self.capacity = model.config.context_length, capacity
        self.vocab_size = min(n_ids or model.config.vocab_size, model.config.vocab_size)
        self._turn = threading.RLock()
        assert isinstance(model.config.attention, GroupedQueryAttention)
        self._attention = model.config.attention
        self._processor = ggml.Processor(threads or torch.get_num_threads())
        self._constants = Context(64 + 24 * model.config.n_layers)
        self._take(model)
        self._width = self._attention.n_kv_heads * self._attention.head_dim
        self._room = min(_ROOM, model.config.context_length)
        self._keys = torch.zeros(model.config.n_layers, 1, self._room, self._width)
        self._values = torch.zeros_like(self._keys)
        self._memory = Context(0)
        self._nodes: list[tuple[Node, Node]] = []
        self._graphs: OrderedDict[tuple[int, int, int, int, bool], _Graph] = OrderedDict()
        self._last: dict[int, _Graph] = {}  # of the text that was stepped alone, by its place
        self._slots: list[Slot] = []
        self._open: dict[int, Slot] = {}
        self._opened = 0
        self._lay_out()

    def release(self) -> None:
        """Give the memory of ggml back; done by itself when nobody holds the object any more."""
        self._forget_graphs()
        for part in (self._memory, self._constants, self._processor):
            part.free()

    def __del__(self) -> None:
        if "_slots" in self.__dict__:
            self.release()

    # ---- texts ----

    @_in_turn
    def open(self) -> int:
        """The number of a new sequence without ids; MachineError when `capacity` are open."""
        if len(self._slots) == self.capacity:
            raise MachineError(f"{self.capacity} texts are open: the engine has memory for no more")
        return self._new().number

    def length(self, sequence: int) -> int:
        """Ids that a sequence has read."""
        return self._open[sequence].length

    @_in_turn
    def read(self, sequence: int, ids: Sequence[int], wanted: Wanted = "last") -> Tensor | None:
        """Read ids on; returns what may follow the last of them (V), or each of them (n, V), float32.

        ValueError, and nothing read, when they do not fit the context.
        """
        slot = self._open[sequence]
        self._check(slot, len(ids))
        found = []
        for start in range(0, len(ids), _PART):
            part = ids[start : start + _PART]
            last = start + len(part) == len(ids)
            logits = self._compute([slot], np.array([part], dtype=np.int32), wanted == "all")
            if wanted == "all" or (wanted == "last" and last):
                found.append(logits[:, : self.vocab_size].clone())
        if wanted == "all":
            return torch.cat(found)
        return found[0][0] if found else None

    @_in_turn
    def step(self, sequences: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Logits (R, V) of what follows one new id for each of R sequences of any lengths."""
        if len(sequences) == 1:
            return self._step_one(self._open[sequences[0]], ids[0])
        slots = [self._open[sequence] for sequence in sequences]
        for slot in slots:
            self._check(slot, 1)
        for slot in slots:
            # Those that are stepped lie first, in any order.
            if slot.index >= len(slots):
                self._swap(slot, next(s for s in self._slots[: len(slots)] if s not in slots))
        order = [slot.index for slot in slots]
        tokens = np.empty((len(slots), 1), dtype=np.int32)
        tokens[order, 0] = ids
        logits = self._compute(self._slots[: len(slots)], tokens, every=True)[:, : self.vocab_size]
        return logits[order]

    def _step_one(self, slot: Slot, number: int) -> Tensor:
        """One text alone, which is most of what is asked. What is looked up between two steps lies far away: the
        weights have driven it out of every cache."""
        self._check(slot, 1)
        graph = self._last.get(slot.index)
        if graph is None or not graph.n_keys - _KEYS <= slot.length < graph.n_keys:
            graph = self._graph(1, 1, self._keys_for(slot.length + 1), slot.index, False)
            self._last = {slot.index: graph}
        self._tell_one(graph, slot, number)
        self._processor.compute(graph.context)
        slot.length += 1
        return graph.logits[:, : self.vocab_size].clone()

    @_in_turn
    def rewind(self, sequence: int, length: int) -> None:
        """Forget all but the first `length` ids."""
        slot = self._open[sequence]
        if not 0 <= length <= slot.length:
            raise ValueError(f"cannot rewind to {length}: {slot.length} ids were read")
        slot.length = length

    @_in_turn
    def copy(self, sequence: int, length: int) -> int:
        """The number of a new sequence that has read the first `length` ids of another; both go on apart."""
        slot = self._open[sequence]
        if not 0 <= length <= slot.length:
            raise ValueError(f"cannot copy {length} ids: {slot.length} were read")
        number = self.open()
        made = self._open[number]
        made.length = length
        for held in (self._keys, self._values):
            held[:, made.index, :length] = held[:, slot.index, :length]
        return number

    @_in_turn
    def close(self, sequence: int) -> None:
        """Forget a sequence; the last one takes its place in memory."""
        self._swap(self._open.pop(sequence), self._slots[-1])
        self._slots.pop()

    def _new(self) -> Slot:
        if len(self._slots) == self._keys.shape[1]:
            self._grow(2 * len(self._slots), self._room)
        self._opened += 1
        slot = Slot(self._opened, len(self._slots))
        self._slots.append(slot)
        self._open[slot.number] = slot
        return slot

    def _check(self, slot: Slot, n_new: int) -> None:
        if n_new < 1 or slot.length + n_new > self.context_length:
            raise ValueError(f"{n_new} new tokens after {slot.length}: the context_length is {self.context_length}")

    # ---- memory ----

    def _swap(self, a: Slot, b: Slot) -> None:
        if a is b:
            return
        most = max(a.length, b.length)
        for held in (self._keys, self._values):
            kept = held[:, a.index, :most].clone()
            held[:, a.index, :most] = held[:, b.index, :most]
            held[:, b.index, :most] = kept
        a.index, b.index = b.index, a.index
        self._slots[a.index], self._slots[b.index] = a, b

    def _grow(self, n_slots: int, room: int) -> None:
        keys = torch.zeros(self.config.n_layers, n_slots, room, self._width)
        values = torch.zeros_like(keys)
        for slot in self._slots:
            keys[:, slot.index, : slot.length] = self._keys[:, slot.index, : slot.length]
            values[:, slot.index, : slot.length] = self._values[:, slot.index, : slot.length]
        self._keys, self._values, self._room = keys, values, room
        self._lay_out()

    def _lay_out(self) -> None:
        self._forget_graphs()
        self._memory.free()
        self._memory = Context(2 * self.config.n_layers)
        self._nodes = [
            (self._memory.over(k.flatten(0, 1)), self._memory.over(v.flatten(0, 1)))
            for k, v in zip(self._keys, self._values, strict=True)
        ]

    def _forget_graphs(self) -> None:
        for graph in self._graphs.values():
            graph.context.free()
        self._graphs.clear()
        self._last = {}

    # ---- weights ----

    def _take(self, model: Decoder) -> None:
        config, position = model.config, model.position
        embedding = model.embedding.weight.detach().float()
        self._embedding = self._matrix(embedding)
        tied = model.head is None
        self._head = _Linear(
            self._embedding if tied else self._matrix(model.head_weight), self._vector(model.head_bias)
        )
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
        weight = parts[0].weight if len(parts) == 1 else torch.cat([part.weight.detach() for part in parts])
        biases = [torch.zeros(part.out_features) if part.bias is None else part.bias.detach() for part in parts]
        has_bias = any(part.bias is not None for part in parts)
        return _Linear(self._matrix(weight), self._vector(torch.cat(biases)) if has_bias else None)

    def _matrix(self, weight: Tensor) -> Node:
        made = weight.detach().float().contiguous()
        if self.weights == "int8" and made.shape[1] % ggml.BLOCK == 0:
            return self._constants.over(ggml.quantize(made), tuple(made.shape), ggml.Q8_0)
        return self._constants.over(made)

    def _vector(self, values: Tensor | None) -> Node | None:
        return None if values is None else self._constants.over(values.detach().float().contiguous())

    def _norm_of(self, norm: nn.Module) -> _Norm:
        if isinstance(norm, RMSNorm):
            return _Norm(self._constants.over(_scale_of(norm).contiguous()), None, norm.eps, True)
        assert isinstance(norm, nn.LayerNorm)
        weight = self._vector(norm.weight)
        assert weight is not None
        return _Norm(weight, self._vector(norm.bias), norm.eps, False)

    # ---- steps ----

    def _compute(self, slots: Sequence[Slot], tokens: np.ndarray[Any, Any], every: bool) -> Tensor:
        """Logits after the last (or, with `every`, each) of (B, T) new ids of B neighbouring slots. Overwritten by the
        next call."""
        batch, length = tokens.shape
        n_keys = self._keys_for(max(slot.length for slot in slots) + length)
        graph = self._graph(batch, length, n_keys, slots[0].index, every)
        if batch == length == 1:
            self._tell_one(graph, slots[0], int(tokens[0, 0]))
        else:
            self._tell(graph, slots, tokens)
        self._processor.compute(graph.context)
        for slot in slots:
            slot.length += length
        if length <= _KEPT:
            return graph.logits
        logits = graph.logits.clone()
        graph.context.free()
        return logits

    def _keys_for(self, longest: int) -> int:
        """How many keys a graph looks at for texts of up to so many ids; makes room for them."""
        if longest > self._room:
            room = min(self.config.context_length, 2 ** math.ceil(math.log2(longest)))
            self._grow(self._keys.shape[1], room)
        return min(-(-longest // _KEYS) * _KEYS, self._room)

    def _tell(self, graph: _Graph, slots: Sequence[Slot], tokens: np.ndarray[Any, Any]) -> None:
        """Fill what a graph reads: ids, their positions, where their keys go, and which keys each sees."""
        starts = np.array([[slot.length] for slot in slots], dtype=np.int64)
        positions = starts + np.arange(tokens.shape[1])
        graph.tokens[:] = tokens.reshape(-1)
        graph.positions[:] = positions.reshape(-1)
        indices = np.array([[slot.index] for slot in slots], dtype=np.int64)
        graph.rows[:] = (indices * self._room + positions).reshape(-1)
        for local, mask in graph.masks.items():
            distance = positions[:, :, None] - np.arange(mask.shape[-1])
            hidden = distance < 0
            if local:
                hidden |= distance > self._reach(positions)
            mask[:] = np.where(hidden, _HIDDEN, np.float16(0)).reshape(mask.shape)

    def _tell_one(self, graph: _Graph, slot: Slot, number: int) -> None:
        """The same for one id of one text."""
        position = slot.length
        graph.tokens[0], graph.positions[0] = number, position
        graph.rows[0] = slot.index * self._room + position
        for local, mask in graph.masks.items():
            seen = mask.reshape(-1)
            if graph.seen == position and not local:
                seen[position] = 0
                continue
            seen[: position + 1] = 0
            seen[position + 1 :] = _HIDDEN
            if local:
                seen[: max(0, position - int(np.max(self._reach(np.array([[position]])))))] = _HIDDEN
        graph.seen = position + 1

    def _reach(self, positions: np.ndarray[Any, Any]) -> Any:
        reach = self.config.local.reach(torch.from_numpy(positions))
        return self.config.local.most() if reach is None else reach.numpy()[:, :, None]

    def _graph(self, batch: int, length: int, n_keys: int, first: int, every: bool) -> _Graph:
        key = (batch, length, n_keys, first, every)
        if length > _KEPT:
            return self._build(*key)
        found = self._graphs.get(key)
        if found is None:
            found = self._graphs[key] = self._build(*key)
            while len(self._graphs) > _GRAPHS:
                self._graphs.popitem(last=False)[1].context.free()
                self._last = {}
        self._graphs.move_to_end(key)
        return found

    def _build(self, batch: int, length: int, n_keys: int, first: int, every: bool) -> _Graph:
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
        view = _View(batch, length, n_keys, first * self._room, self._room)
        for layer, memory in zip(self._layers, self._nodes, strict=True):

            def attend(y: Node, layer: _Layer = layer, memory: tuple[Node, Node] = memory) -> Node:
                return self._attend(g, layer, memory, y, positions_in, rows_in, masks_in[layer.local], view)

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
        return _Graph(
            g, n_keys, tokens.numpy(), positions.numpy(), rows.numpy(), {k: m.numpy() for k, m in masks.items()}, out
        )

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
        attention, width = self._attention, self._width
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
