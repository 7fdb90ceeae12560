"""How does PyTorch go on with several texts of different lengths at once? The backend of decoder-only models.

Keys and values of all sequences lie in one memory a layer, (sequences, positions, K, H), that grows in blocks. A step
computes the products of all rows together and the attention of each row over its own length. What a model is made of
is read off its modules when the backend is made; their weights are used where they are, so nothing is held twice and
nothing goes stale. A model with modules that are not known here (quantized, with hooks) goes on row by row through its
own `forward`, as every model does with `fast=False`: the readable twin, which tests hold the fast road to.

**Deterministic**: matrix products on a CPU give a row other last bits in batches of other sizes (docs/decisions/0020).
So rows are computed in groups of exactly eight, filled up with rows that nobody reads: every product has one shape,
alone and in company. Functions element by element work in vectors and have other last bits in what is left over behind
the last one, so where a group's numbers do not fill vectors they are computed row by row. Then a row's numbers depend
on nothing but itself.

Shapes: R rows of a step; x (R, D); keys and values (R, K, S, H).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fabula.device import Device
from fabula.errors import MachineError
from fabula.generate.backend import Wanted
from fabula.generate.products import Linear, quickest
from fabula.model.attention import Attention, attend_rows
from fabula.model.block import Block
from fabula.model.cache import Cache, LayerCache
from fabula.model.decoder import Decoder
from fabula.model.ffn import FFN, Gated, Plain
from fabula.model.norms import RMSNorm
from fabula.model.positions import Tables, rotate

# Positions that the memory grows by, and of which a row's keys are padded to a multiple.
_BLOCK = 64
# Rows of a group: with eight a product costs about what one row costs, whose time goes into reading the weights.
_GROUP = 8

Step = Callable[[Tensor], Tensor]


class DecoderBackend:
    """A `Backend` on a Decoder. With `n_ids` the logits end before that id: models may have more rows than their
    tokenizer has tokens."""

    def __init__(
        self,
        model: Decoder,
        device: Device,
        *,
        capacity: int = 1,
        deterministic: bool = False,
        n_ids: int | None = None,
        fast: bool = True,
    ) -> None:
        self.model, self.device, self.capacity, self.deterministic = model, device, capacity, deterministic
        self.context_length = model.config.context_length
        self.vocab_size = min(n_ids or model.config.vocab_size, model.config.vocab_size)
        self._memory = _Memory(model, capacity)
        self._lengths: dict[int, int] = {}
        # In company rows must have the numbers that they have alone: that is known of one library only.
        plain = deterministic or device.torch.type != "cpu" or device.dtype != "float32"
        self._linear = F.linear if plain else quickest(torch.get_num_threads())
        self._layers = _layers(model, deterministic, self._linear) if fast else None

    def open(self) -> int:
        number = next((n for n in range(self.capacity) if n not in self._lengths), None)
        if number is None:
            raise MachineError(f"all {self.capacity} sequences are in use")
        self._lengths[number] = 0
        return number

    def length(self, sequence: int) -> int:
        return self._lengths[sequence]

    def read(self, sequence: int, ids: Sequence[int], wanted: Wanted = "last") -> Tensor | None:
        start = self._lengths[sequence]
        self._check(start, len(ids))
        with self._running():
            tokens = torch.tensor([list(ids)], device=self.device.torch)
            hidden = self.model.hidden(tokens, cache=self._memory.view(sequence, start))[0]
            self._lengths[sequence] = start + len(ids)
            if wanted == "none":
                return None
            return self._logits(hidden[-1:])[0] if wanted == "last" else self._logits(hidden)

    def step(self, sequences: Sequence[int], ids: Sequence[int]) -> Tensor:
        for sequence in sequences:
            self._check(self._lengths[sequence], 1)
        with self._running():
            if self._layers is None:
                found = [self._alone(sequence, number) for sequence, number in zip(sequences, ids, strict=True)]
                return torch.stack(found)
            if not self.deterministic:
                logits = self._together(self._layers, sequences, ids)
            else:
                groups = range(0, len(sequences), _GROUP)
                parts = [self._together(self._layers, sequences[g : g + _GROUP], ids[g : g + _GROUP]) for g in groups]
                logits = parts[0] if len(parts) == 1 else torch.cat(parts)
        for sequence in sequences:
            self._lengths[sequence] += 1
        return logits

    def rewind(self, sequence: int, length: int) -> None:
        if not 0 <= length <= self._lengths[sequence]:
            raise ValueError(f"cannot rewind to {length}: the sequence has {self._lengths[sequence]} ids")
        self._lengths[sequence] = length

    def copy(self, sequence: int, length: int) -> int:
        if not 0 <= length <= self._lengths[sequence]:
            raise ValueError(f"cannot copy {length} ids: the sequence has {self._lengths[sequence]}")
        made = self.open()
        with torch.inference_mode():
            self._memory.copy(sequence, made, length)
        self._lengths[made] = length
        return made

    def close(self, sequence: int) -> None:
        with torch.inference_mode():
            self._memory.clear(sequence, self._lengths.pop(sequence))

    def n_bytes(self) -> int:
        """Memory held for keys and values, in bytes."""
        return self._memory.n_bytes()

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """The model computes: no dropout, no gradients, the device's format."""
        was_training = self.model.training
        if was_training:
            self.model.eval()
        try:
            with torch.inference_mode():
                if self.device.dtype == "float32":
                    yield
                else:
                    with self.device.autocast():
                        yield
        finally:
            if was_training:
                self.model.train()

    def _check(self, start: int, n_new: int) -> None:
        if n_new < 1:
            raise ValueError("no ids: there is nothing to read")
        if start + n_new > self.context_length:
            raise ValueError(f"{start + n_new:,} ids are more than the context of {self.context_length:,}")

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.model.logits(hidden, self._linear)[..., : self.vocab_size].float().cpu()

    def _alone(self, sequence: int, number: int) -> Tensor:
        logits = self.read(sequence, [number])
        assert logits is not None
        return logits

    def _together(self, layers: Sequence[_Layer], sequences: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Logits (R, V) of one id for each sequence, in the order given."""
        order = sorted(range(len(sequences)), key=lambda n: sequences[n])
        slots = [sequences[n] for n in order]
        starts = [self._lengths[slot] for slot in slots]
        width = _GROUP if self.deterministic else len(order)
        idle = [0] * (width - len(order))
        place = self.device.torch
        tokens = torch.tensor([ids[n] for n in order] + idle, device=place)
        positions = torch.tensor(starts + idle, device=place).unsqueeze(1)
        rows = _Rows(self.model, self._memory, slots, starts, positions, pad=self.deterministic)
        x = self._embed(tokens, positions)
        for layer in layers:
            x = layer(x, rows)
        x = self.model.norm(x)
        if self.model.logit_cap and self.deterministic and not _even(self.model.config.vocab_size):
            logits = torch.cat([self._logits(x[n : n + 1].clone()) for n in range(width)])
        else:
            logits = self._logits(x)
        if order == list(range(len(order))) and not idle:
            return logits
        back = [0] * len(order)
        for row, n in enumerate(order):
            back[n] = row
        return logits[back]

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        model = self.model
        x = F.embedding(tokens, model.embedding.weight)
        if model.embedding_factor != 1:
            x = x * model.embedding_factor
        embedded: Tensor = model.position.embed(x.unsqueeze(1), positions)
        return embedded.squeeze(1)


# ---- memory --------------------------------------------------------------------------------------------------


class _Memory:
    """Keys and values of all sequences in each layer: (sequences, positions, K, H), grown in blocks."""

    def __init__(self, model: Decoder, capacity: int) -> None:
        self.reaches = model.config.reaches()
        self.most, self.capacity = model.config.context_length, capacity
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * len(self.reaches)

    def write(self, layer: int, slot: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Keys and values (T, K, H) of a sequence from a position on."""
        held = self.of(layer, start + keys.shape[0], keys, slot + 1)
        for memory, new in zip(held, (keys, values), strict=True):
            memory[slot, start : start + keys.shape[0]] = new

    def of(self, layer: int, positions: int, like: Tensor, sequences: int) -> tuple[Tensor, Tensor]:
        """Both memories of a layer, with room for so many positions of so many sequences."""
        held = self._held[layer]
        if held is not None and held[0].shape[1] >= positions and held[0].shape[0] >= sequences:
            return held
        had = (0, 0) if held is None else held[0].shape[:2]
        # By half and whole blocks: growing by one block would copy a long text once a block.
        room = max(had[1], min(self.most, max(positions, had[1] * 3 // 2) if positions > had[1] else had[1]))
        room = -(-room // _BLOCK) * _BLOCK
        texts = had[0] if sequences <= had[0] else min(self.capacity, max(sequences, had[0] * 2))
        grown = []
        for old in held or (None, None):
            # Zeros, because what lies behind a text's end is multiplied by a weight of nought.
            new = like.new_zeros((texts, room, *like.shape[-2:]))
            if old is not None:
                new[: had[0], : had[1]] = old
            grown.append(new)
        made = (grown[0], grown[1])
        self._held[layer] = made
        return made

    def copy(self, source: int, target: int, length: int) -> None:
        for layer, held in enumerate(self._held):
            if held is not None and length:
                keys, values = (memory[source, :length] for memory in held)
                self.write(layer, target, 0, keys, values)

    def clear(self, slot: int, length: int) -> None:
        """Zeros where a sequence was: a NaN of its would spread to the next one, whose weights of nought it meets."""
        for held in self._held:
            for memory in held or ():
                memory[slot, :length] = 0

    def view(self, slot: int, length: int) -> Cache:
        """One sequence's memory as a model's own cache."""
        return _View(self, slot, length)

    def n_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for held in self._held if held is not None for t in held)


class _View(Cache):
    """A sequence's rows of the memory, as the model's `forward` reads and writes them."""

    def __init__(self, memory: _Memory, slot: int, length: int) -> None:
        super().__init__(memory.reaches)
        self.layers = [_LayerView(memory, n, slot, length) for n in range(len(memory.reaches))]


class _LayerView(LayerCache):
    def __init__(self, memory: _Memory, layer: int, slot: int, length: int) -> None:
        super().__init__(memory.reaches[layer])
        self._memory, self._layer, self._slot = memory, layer, slot
        self.length = length

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        n_new = keys.shape[2]
        self._memory.write(self._layer, self._slot, self.length, keys[0].transpose(0, 1), values[0].transpose(0, 1))
        seen = slice(self.length + n_new - self.n_keys(n_new), self.length + n_new)
        self.length += n_new
        k, v = self._memory.of(self._layer, self.length, keys, self._slot + 1)
        return tuple(t[self._slot : self._slot + 1, seen].transpose(1, 2) for t in (k, v))  # type: ignore[return-value]


# ---- a step of many rows -------------------------------------------------------------------------------------


class _Rows:
    """What the layers of one step share: where each row stands and what it sees. Made once a step."""

    def __init__(
        self, model: Decoder, memory: _Memory, slots: list[int], starts: list[int], positions: Tensor, pad: bool
    ) -> None:
        self.memory, self.slots, self.starts, self.positions, self.pad = memory, slots, starts, positions, pad
        self.model = model
        # Products of numbers that begin off the borders of vectors have other last bits: such rows stay by themselves.
        heads, head_dim = model.config.attention.heads()
        self.aligned = heads * head_dim % 16 == 0
        together = not pad or _even(head_dim // 2)
        self.tables: dict[str, Tables | None] = {kind: self._tables(kind == "L", together) for kind in set(model.kinds)}
        self._runs: dict[str, list[_Run]] = {}

    def _tables(self, local: bool, together: bool) -> Tables | None:
        parts = [self.positions] if together else self.positions.split(1)
        made = [found for part in parts if (found := self.model.position.tables(part, local=local)) is not None]
        if len(made) < 2:
            return made[0] if made else None
        return torch.cat([cosine for cosine, _ in made]), torch.cat([sine for _, sine in made])

    def runs(self, kind: str) -> list[_Run]:
        """Rows that lie side by side in the memory, with the keys that they look at."""
        if kind not in self._runs:
            self._runs[kind] = self._cut(kind)
        return self._runs[kind]

    def _cut(self, kind: str) -> list[_Run]:
        found: list[_Run] = []
        begin = 0
        width = [self._keys(start) for start in self.starts]
        for row in range(1, len(self.slots) + 1):
            here = row < len(self.slots)
            joined = here and self.slots[row] == self.slots[row - 1] + 1
            # In company a row looks at as many keys as alone.
            if joined and (not self.pad or (self.aligned and width[row] == width[row - 1])):
                continue
            found.append(self._run(kind, slice(begin, row), max(width[begin:row])))
            begin = row
        return found

    def _keys(self, start: int) -> int:
        return -(-(start + 1) // _BLOCK) * _BLOCK if self.pad else start + 1

    def _run(self, kind: str, rows: slice, n_keys: int) -> _Run:
        model, starts = self.model, self.starts[rows]
        span = model.config.local if kind == "L" else None
        most = None if span is None else span.most()
        slots = slice(self.slots[rows.start], self.slots[rows.stop - 1] + 1)
        first = 0
        if most is not None:
            first = max(0, min(starts) - most)
            if self.pad:
                first -= first % _BLOCK
        reach = None if span is None else span.reach(self.positions[rows])
        whole = all(start + 1 == n_keys for start in starts)
        exact = whole and reach is None and (most is None or n_keys - first <= most + 1)
        if exact and not model.position.biased:
            return _Run(rows, slots, slice(first, n_keys), None)
        place = self.positions.device
        distance = self.positions[rows] - torch.arange(first, n_keys, device=place)
        hidden = distance < 0
        if reach is not None:
            hidden = hidden | (distance > reach)
        elif most is not None:
            hidden = hidden | (distance > most)
        mask = torch.zeros(distance.shape, device=place).masked_fill_(hidden, float("-inf")).unsqueeze(1)
        if model.position.biased:
            # The bias of a distance does not depend on the query: rows stand where queries of one text would.
            mask = mask + model.position.bias(distance).transpose(0, 1).float()
        return _Run(rows, slots, slice(first, n_keys), mask)


class _Run:
    """Some rows, where their sequences lie, the positions they look at, and a mask (R, 1 or N, S) on the scores."""

    def __init__(self, rows: slice, slots: slice, keys: slice, mask: Tensor | None) -> None:
        self.rows, self.slots, self.keys, self.mask = rows, slots, keys, mask


class _Layer:
    """A block and its attention, as functions of rows."""

    def __init__(self, index: int, kind: str, block: Block, attention: Attention, alone: bool, linear: Linear) -> None:
        self.index, self.kind, self.block, self.attention = index, kind, block, attention
        self.post = block.placement == "post"
        self.norms = [
            _norm(n) for n in (block.attention_norm, block.attention_out_norm, block.ffn_norm, block.ffn_out_norm)
        ]
        self.q_norm, self.k_norm = _norm(attention.q_norm), _norm(attention.k_norm)
        self.q, self.k, self.v, self.out = (
            _product(module, linear)
            for module in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
        )
        self.ffn = _network(block.ffn, alone, linear)

    def __call__(self, x: Tensor, rows: _Rows) -> Tensor:
        before, after, before_ffn, after_ffn = self.norms
        if self.post:
            x = before(x + self._attend(x, rows))
            return before_ffn(x + self.ffn(x))
        x = x + after(self._attend(before(x), rows))
        return x + after_ffn(self.ffn(before_ffn(x)))

    def _attend(self, x: Tensor, rows: _Rows) -> Tensor:
        made = self.attention
        q = self.q_norm(self.q(x).view(-1, made.n_heads, made.head_dim))
        k = self.k_norm(self.k(x).view(-1, made.n_kv_heads, made.head_dim))
        v = self.v(x).view(-1, made.n_kv_heads, made.head_dim)
        tables = rows.tables[self.kind]
        if tables is not None:
            q, k = _turned(q, tables), _turned(k, tables)
        keys, values = self._remember(k, v, rows)
        mixed = torch.zeros_like(q) if len(rows.slots) < q.shape[0] else torch.empty_like(q)
        for run in rows.runs(self.kind):
            part = attend_rows(
                q[run.rows] if rows.aligned else q[run.rows].clone(),
                keys[run.slots, run.keys].transpose(1, 2),
                values[run.slots, run.keys].transpose(1, 2),
                None if run.mask is None else run.mask.to(q.dtype),
                made.scale,
                made.logit_cap,
            )
            if run.rows.stop - run.rows.start == q.shape[0]:
                mixed = part
            else:
                mixed[run.rows] = part
        return self.out(mixed.flatten(1))

    def _remember(self, k: Tensor, v: Tensor, rows: _Rows) -> tuple[Tensor, Tensor]:
        """Write the rows' keys and values behind those that are there; returns the memories of this layer."""
        n, longest = len(rows.slots), max(rows.starts) + 1
        # Room for the keys that rows are padded to.
        keys, values = rows.memory.of(self.index, -(-longest // _BLOCK) * _BLOCK, k, max(rows.slots) + 1)
        if n == 1:
            keys[rows.slots[0], rows.starts[0]] = k[0]
            values[rows.slots[0], rows.starts[0]] = v[0]
        else:
            keys[rows.slots, rows.starts] = k[:n]
            values[rows.slots, rows.starts] = v[:n]
        return keys, values


def _layers(model: Decoder, alone: bool, linear: Linear) -> list[_Layer] | None:
    """The layers of a model; None when it has modules whose work is not known here, or that someone listens to."""
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return None
    made = []
    for index, (kind, block) in enumerate(zip(model.kinds, model.blocks, strict=True)):
        if type(block) is not Block or type(block.attention) is not Attention:
            return None
        made.append(_Layer(index, kind, block, block.attention, alone, linear))
    return made


def _product(module: nn.Module, linear: Linear) -> Step:
    if type(module) is nn.Linear:
        return lambda x: linear(x, module.weight, module.bias)
    return module


def _norm(module: nn.Module) -> Step:
    if type(module) is nn.Identity:
        return _same
    if type(module) is nn.LayerNorm:
        shape, eps = module.normalized_shape, module.eps
        return lambda x: F.layer_norm(x, shape, module.weight, module.bias, eps)
    if type(module) is RMSNorm:
        return lambda x: _rms_norm(x, module)
    return module


def _same(x: Tensor) -> Tensor:
    return x


def _rms_norm(x: Tensor, module: RMSNorm) -> Tensor:
    """As `RMSNorm.forward`, without what the backward pass needs."""
    weight = 1 + module.weight.float() if module.centred else module.weight
    wide = x.float()
    square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    return (wide * square.div_(x.shape[-1]).add_(module.eps).rsqrt_()).mul_(weight).to(x.dtype)


def _network(ffn: FFN, alone: bool, linear: Linear) -> Step:
    """A feed-forward network; `alone`: a row's numbers do not depend on the others."""
    if type(ffn) is Plain:
        act = _activation(ffn.activation, ffn.up, alone)
        up, down = _product(ffn.up, linear), _product(ffn.down, linear)
        return lambda x: down(act(up(x)))
    if type(ffn) is Gated:
        act = _activation(ffn.activation, ffn.gate, alone)
        gate, up, down = (_product(module, linear) for module in (ffn.gate, ffn.up, ffn.down))
        return lambda x: down(act(gate(x)).mul_(up(x)))
    # A mixture sends rows to experts in numbers that depend on their company: row by row they stay alone.
    return lambda x: torch.cat([ffn(row.clone().unsqueeze(0).unsqueeze(0))[0] for row in x])


def _activation(function: Step, before: nn.Module, alone: bool) -> Step:
    width = before.out_features if isinstance(before, nn.Linear) else 1
    if not alone or function is F.relu or _even(width):
        return function
    return lambda x: torch.stack([function(row.clone()) for row in x])


def _even(width: int) -> bool:
    """Whether a group of rows of that width fills whole vectors, in one piece of work for one core."""
    return width * _GROUP % 32 == 0 and width * _GROUP < 32_768


def _turned(x: Tensor, tables: Tables) -> Tensor:
    """`rotate` for rows (R, heads, H)."""
    cosine, sine = tables[0].squeeze(1), tables[1].squeeze(1)
    if x.dtype != torch.float32:
        return rotate(x.unsqueeze(1), tables).squeeze(1)
    first, second = x.chunk(2, dim=-1)
    return (x * cosine).addcmul_(torch.cat((second, first), dim=-1), sine)
