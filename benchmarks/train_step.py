"""Training steps per second, beside nanoGPT's model on the same shapes.

    python benchmarks/train_step.py --nanogpt CHECKOUT

CHECKOUT is a clone of github.com/karpathy/nanoGPT; without it only our rows are printed. Both sides train on random ids
in float32, uncompiled, with gradient clipping at 1 and their own AdamW. "same" is our decoder with nanoGPT's parts
(learned positions, LayerNorm, GELU, tied head, no biases); "fabula" is the default architecture of that width, with the
default optimizer.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from slices import System, alternate

# name: layers, heads, width, context, vocabulary, rows
SHAPES = {
    "1M: 4 x 128, context 128, vocabulary 2,048, batch 32": (4, 4, 128, 128, 2048, 32),
    "7M: 6 x 256, context 256, vocabulary 8,192, batch 16": (6, 8, 256, 256, 8192, 16),
}


class Steps:
    """Times steps on random ids."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        import torch

        _, _, _, self.context, self.vocabulary, self.rows = shape
        self.generator = torch.Generator().manual_seed(0)
        self.advance(0.0)

    def ids(self) -> Any:
        import torch

        return torch.randint(self.vocabulary, (self.rows, self.context + 1), generator=self.generator)

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

    def result(self) -> None:
        return None


class Ours(Steps):
    def __init__(self, shape: tuple[int, ...], same: bool) -> None:
        from fabula.device import choose
        from fabula.model.decoder import Decoder
        from fabula.model.presets import resolve
        from fabula.progress import StopFlag
        from fabula.train.objective import NextToken
        from fabula.train.optimizers import AdamWConfig, MuonConfig
        from fabula.train.schedules import WarmupStableDecay
        from fabula.train.trainer import Trainer

        layers, heads, width, context, vocabulary, rows = shape
        section: dict[str, Any] = {"d_model": width, "n_layers": layers}
        section |= {"context_length": context, "vocab_size": vocabulary, "tied": True}
        if same:
            section["attention"] = {"n_heads": heads, "n_kv_heads": heads, "head_dim": width // heads, "qk_norm": False}
            section |= {"position": {"kind": "learned"}, "norm": {"kind": "layernorm", "bias": False}}
            section["ffn"] = {"kind": "gelu", "d_ff": 4 * width, "tanh": False}
        else:
            section["attention"] = {"n_heads": width // 64, "n_kv_heads": width // 64, "head_dim": 64}
            section["ffn"] = {"d_ff": (width * 8 // 3 + 31) // 32 * 32}
        problems: list[str] = []
        _, config = resolve({"preset": "fabula-1m", **section}, problems)
        if config is None:
            raise SystemExit("\n".join(problems))
        model = Decoder(config)
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
            device=choose("cpu", 2),
            stop=StopFlag(),
        )
        super().__init__(shape)

    def step(self) -> None:
        from fabula.data.batch import Batch

        ids = self.ids()
        self.trainer.take_step(Batch(ids[:, :-1], ids[:, 1:]))


class NanoGPT(Steps):
    def __init__(self, shape: tuple[int, ...], checkout: str) -> None:
        sys.path.insert(0, checkout)
        from model import GPT, GPTConfig

        layers, heads, width, context, vocabulary, _ = shape
        with contextlib.redirect_stdout(io.StringIO()):
            self.model = GPT(
                GPTConfig(
                    block_size=context,
                    vocab_size=vocabulary,
                    n_layer=layers,
                    n_head=heads,
                    n_embd=width,
                    dropout=0.0,
                    bias=False,
                )
            )
            self.optimizer = self.model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
        super().__init__(shape)

    def step(self) -> None:
        import torch

        ids = self.ids()
        _, loss = self.model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=6.0, help="of one slice")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    for name, shape in SHAPES.items():
        systems = [
            System("ours, same parts", Ours, (shape, True), given.threads),
            System("ours, fabula + Muon", Ours, (shape, False), given.threads),
        ]
        if given.nanogpt is not None:
            systems.append(System("nanoGPT", NanoGPT, (shape, str(given.nanogpt)), given.threads))
        alternate(systems, given.rounds, given.seconds)
        tokens = shape[3] * shape[5]
        print(f"\n{name}, {given.threads} threads")
        header = ("system", "ms/step", "tokens/s", "q25..q75 ms", "steps", "peak MB", "ratio")
        print("{:22} {:>8} {:>9} {:>13} {:>6} {:>8} {:>6}".format(*header))
        rows = [(s.name, s.records, s.close()[1]) for s in systems]
        peer = next((statistics.median(r) for n, r, _ in rows if n == "nanoGPT"), None)
        for system, times, memory in rows:
            median = statistics.median(times)
            low, _, high = statistics.quantiles(times, n=4)
            ratio = "" if peer is None else f"{peer / median:.2f}"
            print(
                f"{system:22} {median * 1e3:8.0f} {tokens / median:9,.0f} {low * 1e3:6.0f}..{high * 1e3:<5.0f} "
                f"{len(times):6} {memory / 1e6:8.0f} {ratio:>6}",
                flush=True,
            )


if __name__ == "__main__":
    main()
