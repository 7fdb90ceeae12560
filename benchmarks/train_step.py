"""Training steps beside other houses: tokens per second, memory, and the share of what the processor can do at best.

    python benchmarks/train_step.py [--shape a,b,c] [--nanogpt CHECKOUT] [--nanochat CHECKOUT] [--litgpt FOLDER]
        [--compile]

All train on random ids in float32 with a forward and a backward pass, clipping as its own loop does it and its own
optimizer's step, each in a process of its own, in turn. `transformers` is always among them; what the folders are
stands in `peers.py`. "limit" is no model: products of 2,048 x 2,048 matrices into a buffer that is kept, as many as
make the operations of our step. "fabula" has the parts of the shape (GPT-2's or Llama's) and AdamW, as the peers have;
"fabula, default" is the default architecture of that width with its default optimizer, Muon. "of limit" counts each
model's own operations (6 for each number in its matrices, and attention at the full context). --compile adds ours and
nanoGPT's compiled by torch.

A ratio is the median of a system's steps beside that of the best peer's; the range is that of the rounds' own medians.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
from peers import Shape
from slices import System, alternate

SHAPES = {
    "a": (Shape("gpt2", 6, 8, 8, 256, 1024, 256, 8192), 16),
    "b": (Shape("llama", 12, 16, 8, 512, 1408, 512, 8192), 4),
    "c": (Shape("gpt2", 4, 4, 4, 128, 512, 128, 2048), 32),
}


class Steps:
    """Times steps on random ids."""

    flops: int  # of a token

    def __init__(self, shape: Shape, rows: int) -> None:
        import torch

        self.shape, self.rows = shape, rows
        self.generator = torch.Generator().manual_seed(0)
        self.advance(0.0)

    def ids(self) -> tuple[Any, Any]:
        import torch

        both = torch.randint(self.shape.vocabulary, (self.rows, self.shape.context + 1), generator=self.generator)
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()

    def step(self) -> None:
        raise NotImplementedError

    def advance(self, seconds: float) -> list[float]:
        times: list[float] = []
        started = time.perf_counter()
        # Two steps at least: the first one after a pause finds cold caches and is not counted.
        while len(times) < 2 or time.perf_counter() - started < seconds:
            begin = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - begin)
        return times[1:]

    def result(self) -> int:
        return self.flops


def parts(shape: Shape) -> dict[str, Any]:
    """A model section of ours with the parts of a family."""
    section: dict[str, Any] = {"d_model": shape.d_model, "n_layers": shape.n_layers}
    section |= {"context_length": shape.context, "vocab_size": shape.vocabulary, "tied": True}
    heads = {"n_heads": shape.n_heads, "n_kv_heads": shape.n_kv_heads, "head_dim": shape.d_model // shape.n_heads}
    section["attention"] = {**heads, "qk_norm": False}
    if shape.family == "llama":
        return section | {"ffn": {"kind": "swiglu", "d_ff": shape.d_ff}}
    section |= {"position": {"kind": "learned"}, "norm": {"kind": "layernorm", "bias": False}}
    return section | {"ffn": {"kind": "gelu", "d_ff": shape.d_ff, "tanh": False}}


def default(shape: Shape) -> dict[str, Any]:
    """The default architecture of a width."""
    section: dict[str, Any] = {"d_model": shape.d_model, "n_layers": shape.n_layers}
    section |= {"context_length": shape.context, "vocab_size": shape.vocabulary, "tied": True}
    section["attention"] = {"n_heads": shape.d_model // 64, "n_kv_heads": shape.d_model // 64, "head_dim": 64}
    return section | {"ffn": {"d_ff": (shape.d_model * 8 // 3 + 31) // 32 * 32}}


class Ours(Steps):
    """A model through the product's own Trainer."""

    def __init__(self, shape: Shape, rows: int, same: bool, compiled: bool = False, source: str = "") -> None:
        import torch

        if source:
            sys.path.insert(0, source)

        from fabula.device import choose
        from fabula.model.decoder import Decoder
        from fabula.model.presets import resolve
        from fabula.progress import StopFlag
        from fabula.train.objective import NextToken
        from fabula.train.optimizers import AdamWConfig, MuonConfig
        from fabula.train.schedules import WarmupStableDecay
        from fabula.train.trainer import Trainer

        with contextlib.suppress(ImportError):  # of a version before it
            from fabula.train.heap import keep_freed_memory

            keep_freed_memory()
        problems: list[str] = []
        section = parts(shape) if same else default(shape)
        _, config = resolve({"preset": "fabula-1m", **section}, problems)
        if config is None:
            raise SystemExit("\n".join(problems))
        model = Decoder(config)
        looked_up = [module.weight for module in model.position.modules() if isinstance(module, torch.nn.Embedding)]
        self.flops = 6 * peers.matrices(model, looked_up) + shape.attention_flops()
        self.trainer = Trainer(
            model=model,
            objective=NextToken(),
            optimizers=(AdamWConfig() if same else MuonConfig()).build(model),
            schedule=WarmupStableDecay(),
            source=self,  # type: ignore[arg-type]
            steps=1_000_000,
            batch_rows=rows,
            micro_rows=rows,
            clip=1.0,
            device=choose("cpu", torch.get_num_threads()),
            stop=StopFlag(),
        )
        if compiled:
            model.hidden = torch.compile(model.hidden)  # type: ignore[method-assign]
        super().__init__(shape, rows)

    def step(self) -> None:
        from fabula.data.batch import Batch

        self.trainer.take_step(Batch(*self.ids()))


class Theirs(Steps):
    def __init__(self, shape: Shape, rows: int, make: Callable[..., peers.Peer], arguments: tuple[Any, ...]) -> None:
        self.peer = make(shape, *arguments)
        self.flops = 6 * self.peer.weights + shape.attention_flops()
        super().__init__(shape, rows)

    def step(self) -> None:
        peers.train(self.peer, *self.ids())


class Limit(Steps):
    """The operations of a step of `flops` a token as plain products of matrices."""

    side = 2048

    def __init__(self, shape: Shape, rows: int, flops: int) -> None:
        import torch

        self.flops, self.total = flops, flops * rows * shape.context
        self.left, self.right, self.out = (torch.randn(self.side, self.side) for _ in range(3))
        super().__init__(shape, rows)

    def advance(self, seconds: float) -> list[float]:
        import torch

        times: list[float] = []
        started = time.perf_counter()
        while len(times) < 2 or time.perf_counter() - started < seconds:
            begin = time.perf_counter()
            for _ in range(4):
                torch.mm(self.left, self.right, out=self.out)
            times.append((time.perf_counter() - begin) / (4 * 2 * self.side**3) * self.total)
        return times[1:]


def measure(name: str, given: argparse.Namespace) -> None:
    shape, rows = SHAPES[name]
    flops = 6 * weights_of(shape) + shape.attention_flops()
    made: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "limit": (Limit, (shape, rows, flops)),
        "fabula": (Ours, (shape, rows, True)),
        "fabula, default": (Ours, (shape, rows, False)),
    }
    if given.before:
        source = str(given.before.resolve())
        made["fabula before"] = (Ours, (shape, rows, True, False, source))
        made["default before"] = (Ours, (shape, rows, False, False, source))
    rivals: dict[str, tuple[Callable[..., peers.Peer], tuple[Any, ...]]] = {"transformers": (peers.transformers, ())}
    if given.nanogpt:
        rivals["nanoGPT"] = (peers.nanogpt, (str(given.nanogpt),))
    if given.nanochat:
        rivals["nanochat"] = (peers.nanochat, (str(given.nanochat),))
    if given.litgpt:
        rivals["litgpt"] = (peers.litgpt, (str(given.litgpt),))
    if given.compile:
        made["fabula, compiled"] = (Ours, (shape, rows, True, True))
        if given.nanogpt:
            rivals["nanoGPT, compiled"] = (peers.nanogpt, (str(given.nanogpt), True))
    made |= {peer: (Theirs, (shape, rows, make, arguments)) for peer, (make, arguments) in rivals.items()}
    wanted = set(given.only.split(";")) if given.only else set(made)
    systems = [System(label, *how, given.threads) for label, how in made.items() if label in wanted]
    alternate(systems, given.rounds, given.seconds, given.most)
    report(name, shape, rows, given.threads, systems, set(rivals))


def weights_of(shape: Shape) -> int:
    """Numbers that a token meets in the matrices of a family's model."""
    attention = 2 * shape.d_model**2 + 2 * shape.d_model * shape.d_model // shape.n_heads * shape.n_kv_heads
    network = (3 if shape.family == "llama" else 2) * shape.d_model * shape.d_ff
    return shape.n_layers * (attention + network) + shape.vocabulary * shape.d_model


def report(name: str, shape: Shape, rows: int, threads: int, systems: list[System], rivals: set[str]) -> None:
    tokens = rows * shape.context
    found = [(s.name, s.records, [statistics.median(part) for part in s.slices if part], *s.close()) for s in systems]
    medians = {system: statistics.median(times) for system, times, *_ in found}
    peaks = {system: peak for system, *_, peak in found}
    rates = {system: flops * tokens / medians[system] for system, _, _, flops, _ in found}
    best = min((system for system in medians if system in rivals), key=medians.__getitem__, default=None)
    by_round = {system: rounds for system, _, rounds, _, _ in found}
    print(
        f"\n{name}: {shape.n_layers} x {shape.d_model}, {shape.family}'s parts, context {shape.context}, vocabulary "
        f"{shape.vocabulary:,}, {rows} rows, {threads} threads; best peer: {best}"
    )
    header = ("system", "tokens/s", "ms/step", "q25..q75", "steps", "ratio", "of rounds", "peak MB", "memory")
    print("{:18} {:>9} {:>8} {:>13} {:>6} {:>6} {:>12} {:>8} {:>7} {:>8} {:>8}".format(*header, "GFLOP/s", "of limit"))
    for system, times, rounds, _, peak in found:
        low, _, high = statistics.quantiles(times, n=4) if len(times) > 1 else (times[0],) * 3
        ratio = span = memory = share = ""
        if best is not None and system != "limit":
            beside = [theirs / own for own, theirs in zip(rounds, by_round[best], strict=True)]
            ratio, span = f"{medians[best] / medians[system]:.2f}", f"{min(beside):.2f}..{max(beside):.2f}"
            memory = f"{peak / peaks[best]:.2f}"
        if "limit" in rates:
            share = f"{rates[system] / rates['limit']:.2f}"
        print(
            f"{system:18} {tokens / medians[system]:9,.0f} {medians[system] * 1e3:8.0f} "
            f"{f'{low * 1e3:.0f}..{high * 1e3:.0f}':>13} {len(times):6} {ratio:>6} {span:>12} {peak / 1e6:8,.0f} "
            f"{memory:>7} {rates[system] / 1e9:8.0f} {share:>8}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="a,b,c", help="of a, b, c, with commas")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--nanochat", type=Path, help="a checkout of nanochat")
    parser.add_argument("--litgpt", type=Path, help="a folder that holds the package litgpt and what it imports")
    parser.add_argument("--compile", action="store_true", help="ours and nanoGPT's compiled as well")
    parser.add_argument("--only", default="", help="these systems alone, with semicolons: 'limit;fabula;nanoGPT'")
    parser.add_argument("--before", type=Path, help="src/ of another version of fabula, which is measured as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one slice")
    parser.add_argument("--most", type=float, default=math.inf, help="seconds after which no round begins")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    for name in given.shape.split(","):
        measure(name, given)


if __name__ == "__main__":
    main()
