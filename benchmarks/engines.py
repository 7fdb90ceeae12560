"""Tokens a second and time to the first, one text at a time: ours compiled and not, beside transformers and llama.cpp.

    python benchmarks/engines.py [--shapes alexandria-9m,lillm-39m,gemma3-270m] [--new 200] [--rounds 5] [--seconds 3]

Batch 1, greedy, a prompt of 32 ids, float32 random weights (and 8-bit ones: ours int8, llama.cpp's q8_0 of the same
weights); whole calls, prompt included. Each system in a process of its own, in turn. llama.cpp runs with its own
defaults (16-bit keys, fused attention), called with the same loop as ours. It has no ReLU in GPT-2's class: there
alexandria-9m is measured with GELU. Needs the extras `generate` and `export`.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from slices import System, alternate

PROMPT = 32
OURS = ("ours, compiled, float32", "ours, compiled, int8", "ours, PyTorch")
OTHERS = ("transformers", "llama.cpp, float32", "llama.cpp, q8_0")


def configuration(shape: str, gelu: bool = False) -> Any:
    from fabula.model.ffn import GeluFFN, ReluFFN
    from fabula.model.presets import presets

    config: Any = presets.get(shape).config
    if gelu and isinstance(config.ffn, ReluFFN):
        return dataclasses.replace(config, ffn=GeluFFN(d_ff=config.ffn.d_ff, bias=True, tanh=True))
    return config


def decoder(config: Any) -> Any:
    import torch

    from fabula.model.decoder import Decoder

    torch.manual_seed(0)
    return Decoder(config).eval()


class Calls:
    """Whole calls: seconds to the first id and to the last."""

    def __init__(self, name: str, shape: str, files: dict[str, Path], new: int, threads: int) -> None:
        self.new = new
        config = configuration(shape)
        self.prompt = [7 * i % config.vocab_size for i in range(PROMPT)]
        self.call: Callable[[], tuple[float, float]] = self.make(name, shape, config, files, threads)
        self.call()

    def make(self, name: str, shape: str, config: Any, files: dict[str, Path], threads: int) -> Any:
        import torch

        if name == "transformers":
            return self.transformers(config)
        if name.startswith("llama.cpp"):
            from fabula.export.llama_cpp import Llama

            llama = Llama(files[name.split(", ")[1]], 256, threads, fused=True)
            return lambda: self.timed(llama.forget, llama.read)
        model = decoder(config)
        if "compiled" in name:
            from fabula.generate.compiled import CompiledDecoder

            engine = CompiledDecoder(model, "int8" if name.endswith("int8") else "float32", threads)
            slot = engine.open()
            return lambda: self.timed(lambda: engine.rewind(slot, 0), lambda ids: engine.read(slot, ids))
        held: list[Any] = []

        def read(ids: list[int]) -> Any:
            with torch.inference_mode():
                return model.logits(model.hidden(torch.tensor([ids]), cache=held[0])[:, -1])[0]

        return lambda: self.timed(lambda: held.__setitem__(slice(None), [model.new_cache()]), read)

    def timed(self, begin: Callable[[], Any], read: Callable[[list[int]], Any]) -> tuple[float, float]:
        begin()
        started = time.perf_counter()
        ids, first = self.prompt, 0.0
        for _ in range(self.new):
            ids = [int(read(ids).argmax())]
            first = first or time.perf_counter() - started
        return first, time.perf_counter() - started

    def transformers(self, config: Any) -> Any:
        import torch
        import transformers

        from fabula.export import families

        family, _ = families.fitting(config)
        theirs = families.written(family, config)
        kind = getattr(transformers, family.architecture)
        keys = {k: v for k, v in theirs.items() if k not in ("architectures", "model_type")}
        model = kind(kind.config_class(**keys)).eval()
        ids = torch.tensor([self.prompt])

        def run(n: int) -> float:
            started = time.perf_counter()
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=n,
                max_new_tokens=n, pad_token_id=0,
            )  # fmt: skip
            return time.perf_counter() - started

        return lambda: (run(1), run(self.new))

    def advance(self, seconds: float) -> list[tuple[float, float]]:
        started, found = time.perf_counter(), []
        while not found or time.perf_counter() - started < seconds:
            found.append(self.call())
        return found

    def result(self) -> None:
        return None


def written(shape: str, folder: Path) -> dict[str, Path]:
    """The weights as GGUF files, with a vocabulary of made-up words."""
    from fabula.export import families, gguf
    from fabula.tokenizer.base import byte_of_letter

    config = configuration(shape, gelu=True)
    family, _ = families.fitting(config)
    theirs, model = families.written(family, config), decoder(config)
    # llama.cpp looks for the bytes, and for a merge.
    tokens = [*sorted(byte_of_letter()), *(f"t{i}" for i in range(config.vocab_size))][: config.vocab_size]
    words = gguf.Words("gpt-2", tokens, [1] * config.vocab_size, ["t 0"])
    special = SimpleNamespace(begin=0, end_of_document=0, padding=1, end_of_turn=2)
    tokenizer: Any = SimpleNamespace(special=special, chat_template=None)
    files = {}
    for weights in ("float32", "q8_0"):
        files[weights] = folder / f"{shape}-{weights}.gguf"
        gguf.write(files[weights], family, theirs, model, tokenizer, words, weights)  # type: ignore[arg-type]
    return files


def measure(shape: str, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = written(shape, Path(folder))
        systems = [
            System(name, Calls, (name, shape, files, arguments.new, arguments.threads), arguments.threads)
            for name in (*OURS, *OTHERS)
        ]
        alternate(systems, arguments.rounds, arguments.seconds)
        print(f"\n{shape}, {arguments.new} new ids\n")
        print("| system | tokens/s | lowest, highest | first id, ms | MB |")
        print("|---|---|---|---|---|")
        for system in systems:
            _, peak = system.close()
            rates = [arguments.new / whole for _, whole in system.records]
            first = statistics.median(first for first, _ in system.records) * 1e3
            spread = f"{min(rates):,.1f}, {max(rates):,.1f}"
            print(f"| {system.name} | {statistics.median(rates):,.1f} | {spread} | {first:.1f} | {peak / 1e6:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="alexandria-9m,lillm-39m,gemma3-270m")
    parser.add_argument("--new", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    for shape in arguments.shapes.split(","):
        measure(shape, arguments)


if __name__ == "__main__":
    main()
