"""A decoder on ggml, for CPUs: the numbers of the PyTorch model, sooner, a token at a time.

A step is a graph of ggml's operations, made once for a number of texts, of new ids and of keys, and computed again and
again on memory of torch's. Every text has a slot of the memory of keys and values; those that are stepped together lie
side by side. Weights are float32, or 8-bit blocks (q8_0): products of whole numbers, a quarter of the memory to read,
and a little less exact. What is in a graph stands in `graphs.py`.

The twin is `model.decoder.Decoder` itself: tests hold logits to 1e-4 and greedy tokens equal.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from fabula.errors import MachineError
from fabula.generate import ggml
from fabula.generate.backend import Wanted
from fabula.generate.ggml import Context, Node
from fabula.generate.graphs import Graph, Graphs, Weights
from fabula.model.decoder import Decoder

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
        self._model = Graphs(model, weights)
        self.config, self.weights = model.config, weights
        self.context_length, self.capacity = model.config.context_length, capacity
        self.vocab_size = min(n_ids or model.config.vocab_size, model.config.vocab_size)
        self._turn = threading.RLock()
        self._processor = ggml.Processor(threads or torch.get_num_threads())
        self._room = min(_ROOM, model.config.context_length)
        self._keys = torch.zeros(model.config.n_layers, 1, self._room, self._model.width)
        self._values = torch.zeros_like(self._keys)
        self._memory = Context(0)
        self._nodes: list[tuple[Node, Node]] = []
        self._graphs: OrderedDict[tuple[int, int, int, int, bool], Graph] = OrderedDict()
        self._slots: list[Slot] = []
        self._open: dict[int, Slot] = {}
        self._opened = 0
        self._lay_out()

    def release(self) -> None:
        """Give the memory of ggml back; done by itself when nobody holds the object any more."""
        self._forget_graphs()
        for part in (self._memory, self._model, self._processor):
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
        """One text alone, which is most of what is asked. Little is done between two steps: whatever it needs, the
        weights have driven out of every cache."""
        self._check(slot, 1)
        graph = self._graph(1, 1, self._keys_for(slot.length + 1), slot.index, False)
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
        keys = torch.zeros(self.config.n_layers, n_slots, room, self._model.width)
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

    # ---- steps ----

    def _compute(self, slots: Sequence[Slot], tokens: np.ndarray[Any, Any], every: bool) -> Tensor:
        """Logits after the last (or, with `every`, each) of (B, T) new ids of B neighbouring slots. Overwritten by the
        next call."""
        batch, length = tokens.shape
        n_keys = self._keys_for(max(slot.length for slot in slots) + length)
        graph = self._graph(batch, length, n_keys, slots[0].index, every)
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

    def _tell(self, graph: Graph, slots: Sequence[Slot], tokens: np.ndarray[Any, Any]) -> None:
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
        graph.seen = -1

    def _tell_one(self, graph: Graph, slot: Slot, number: int) -> None:
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

    def _graph(self, batch: int, length: int, n_keys: int, first: int, every: bool) -> Graph:
        key = (batch, length, n_keys, first, every)
        if length > _KEPT:
            return self._model.build(self._nodes, self._room, *key)
        found = self._graphs.get(key)
        if found is None:
            found = self._graphs[key] = self._model.build(self._nodes, self._room, *key)
            while len(self._graphs) > _GRAPHS:
                self._graphs.popitem(last=False)[1].context.free()
        self._graphs.move_to_end(key)
        return found
