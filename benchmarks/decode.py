"""Decoding speed side by side: ours and `transformers.generate`, in turn, each in a process of its own.

    python benchmarks/decode.py [--shape 9m|39m] [--rounds 6] [--streams 32]

Batch 1, greedy, a prompt of 32 tokens and 200 new ones, random weights, 2 threads; tokens a second of the whole call.
With `--streams` also so many requests side by side, in a batch and in a deterministic one. Prints a row a system: the
median of its slices, the quartiles, and the ratio to the first one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from slices import System, alternate

PROMPT, NEW = 32, 200
PRESETS = {"9m": "alexandria-9m", "39m": "lillm-39m"}


def model_of(shape: str) -> Any:
    """A preset with random weights, the same in every process."""
    import torch

    from fabula.model.decoder import Decoder
    from fabula.model.presets import presets

    torch.manual_seed(0)
    return Decoder(presets.get(PRESETS[shape]).config).eval()


class Ours:
    """`Engine`, one text after the other."""

    def __init__(self, shape: str) -> None:
        from fabula.device import choose
        from fabula.generate.config import Sampling
        from fabula.generate.engine import Engine

        self.engine, self.greedy = Engine(model_of(shape), 10**9, choose("cpu")), Sampling(temperature=0.0)
        self.prompt = list(range(1, PROMPT + 1))
        self.advance(0.0)

    def advance(self, seconds: float) -> list[float]:
        speeds = []
        begin = time.perf_counter()
        while not speeds or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            made = len(list(self.engine.stream(self.prompt, NEW, self.greedy)))
            speeds.append(made / (time.perf_counter() - start))
        return speeds

    def result(self) -> list[int]:
        return [token.id for token in self.engine.stream(self.prompt, NEW, self.greedy)]


class Together:
    """`Batch`, many texts side by side; tokens a second of all of them."""

    def __init__(self, shape: str, streams: int, deterministic: bool) -> None:
        from fabula.device import choose
        from fabula.generate.decoding import DecoderBackend

        self.backend = DecoderBackend(model_of(shape), choose("cpu"), capacity=streams, deterministic=deterministic)
        self.streams = streams

    def advance(self, seconds: float) -> list[float]:
        from fabula.generate.batch import Batch, Request
        from fabula.generate.config import Sampling

        speeds = []
        begin = time.perf_counter()
        while not speeds or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            batch = Batch(self.backend)
            for n in range(self.streams):
                ids = tuple(range(n + 1, n + PROMPT + 1))
                batch.submit(Request(ids=ids, max_new_tokens=NEW, sampling=Sampling(temperature=0.0)))
            while batch.step():
                pass
            speeds.append(self.streams * NEW / (time.perf_counter() - start))
        return speeds

    def result(self) -> None: ...


class Transformers:
    """The class of transformers for the shape, with its cache, under inference mode."""

    def __init__(self, shape: str) -> None:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        if shape == "9m":
            self.model: Any = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=8259, n_positions=256, n_embd=256, n_layer=6, n_head=8, n_inner=1024,
                    activation_function="relu", tie_word_embeddings=False,
                )
            )  # fmt: skip
        else:
            self.model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=8192, max_position_embeddings=512, hidden_size=512, num_hidden_layers=12,
                    num_attention_heads=16, num_key_value_heads=8, head_dim=32, intermediate_size=1408,
                    tie_word_embeddings=True,
                )
            )  # fmt: skip
        self.model.eval()
        self.prompt = torch.arange(1, PROMPT + 1).unsqueeze(0)
        self.advance(0.0)

    def advance(self, seconds: float) -> list[float]:
        import torch

        speeds = []
        begin = time.perf_counter()
        while not speeds or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            with torch.inference_mode():
                made = self.model.generate(
                    self.prompt, attention_mask=torch.ones_like(self.prompt), max_new_tokens=NEW, min_new_tokens=NEW,
                    do_sample=False, use_cache=True, pad_token_id=0,
                )  # fmt: skip
            speeds.append((made.shape[1] - PROMPT) / (time.perf_counter() - start))
        return speeds

    def result(self) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=PRESETS, default="9m")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", type=int, default=0)
    given = parser.parse_args()
    systems = [
        System("transformers", Transformers, (given.shape,), given.threads),
        System("fabula", Ours, (given.shape,), given.threads),
    ]
    if given.streams:
        for name, exact in ((f"{given.streams} streams", False), (f"{given.streams} deterministic", True)):
            systems.append(System(f"fabula, {name}", Together, (given.shape, given.streams, exact), given.threads))
    alternate(systems, given.rounds, given.seconds)
    base = statistics.median(systems[0].records)
    print(f"{'system':<28}{'tokens/s':>10}{'quartiles':>18}{'ratio':>8}")
    for system in systems:
        low, middle, high = statistics.quantiles(system.records, n=4)
        print(f"{system.name:<28}{middle:>10.1f}{low:>9.1f}{high:>9.1f}{middle / base:>8.2f}")
        system.close()


if __name__ == "__main__":
    main()
