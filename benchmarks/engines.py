"""Tokens a second and time to the first, one text at a time: ours compiled and not, beside transformers and runtimes.

    python benchmarks/engines.py [--shapes alexandria-9m,lillm-39m,gemma3-270m] [--new 200] [--rounds 5] [--seconds 3]
        [--only 'compiled|llama']

Batch 1, greedy, a prompt of 32 ids, float32 random weights (and 8-bit ones: ours int8, llama.cpp's q8_0 of the same
weights); whole calls, prompt included. Each system in a process of its own, in turn. llama.cpp runs with its own
defaults (16-bit keys, fused attention), called with the same loop as ours. It has no ReLU in GPT-2's class: there
alexandria-9m is measured with GELU. onnxruntime runs the graph of `onnx_step.py`, also with its 8-bit blocks of 32.
Needs the extras `generate` and `export`, and `onnx`, `onnxruntime` and `onnx_ir`.
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
# Positions that the runtimes have room for.
MOST = 256
OURS = ("ours, compiled, float32", "ours, compiled, int8", "ours, PyTorch")
OTHERS = ("transformers", "llama.cpp, float32", "llama.cpp, q8_0", "onnxruntime, float32", "onnxruntime, 8 bits")


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

    def __init__(self, name: str, shape: str, files: dict[str, Any], new: int, threads: int) -> None:
        self.new = new
        config = configuration(shape)
        self.prompt = [7 * i % config.vocab_size for i in range(PROMPT)]
        self.call: Callable[[], tuple[float, float]] = self.make(name, shape, config, files, threads)
        self.call()

    def make(self, name: str, shape: str, config: Any, files: dict[str, Any], threads: int) -> Any:

        if name == "transformers":
            return self.transformers(config)
        if name.startswith("llama.cpp"):
            from fabula.export.llama_cpp import Llama

            llama = Llama(files[name], MOST, threads, fused=True)
            return lambda: self.timed(llama.forget, llama.read)
        if name.startswith("onnxruntime"):
            import onnx_step

            session = onnx_step.Session(files[name], config.n_layers, *files["keys of onnxruntime"], MOST, threads)
            return lambda: self.timed(session.forget, session.read)
        model = decoder(config)
        if "compiled" in name:
            from fabula.generate.compiled import CompiledDecoder

            engine = CompiledDecoder(model, "int8" if name.endswith("int8") else "float32", threads)
            return self.ours(engine, engine.open())
        from fabula.device import choose
        from fabula.generate.decoding import DecoderBackend

        backend = DecoderBackend(model, choose("cpu", threads))
        return self.ours(backend, backend.open())

    def ours(self, backend: Any, sequence: int) -> Any:
        def read(ids: list[int]) -> Any:
            return backend.step([sequence], ids)[0] if len(ids) == 1 else backend.read(sequence, ids)

        return lambda: self.timed(lambda: backend.rewind(sequence, 0), read)

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
        from fabula.export.family import written as written_for

        family, _ = families.fitting(config)
        theirs = written_for(family, config)
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


def written(shape: str, folder: Path) -> dict[str, Any]:
    """The weights as GGUF files, with a vocabulary of made-up words, and as graphs of onnxruntime."""
    import onnx_step

    from fabula.export import families, gguf, hf
    from fabula.export.family import written as written_for
    from fabula.tokenizer.base import byte_of_letter

    config = configuration(shape, gelu=True)
    family, _ = families.fitting(config)
    theirs, model = written_for(family, config), decoder(config)
    # llama.cpp looks for the bytes, and for a merge.
    tokens = [*sorted(byte_of_letter()), *(f"t{i}" for i in range(config.vocab_size))][: config.vocab_size]
    words = gguf.Words("gpt-2", tokens, [1] * config.vocab_size, ["t 0"])
    special = SimpleNamespace(begin=0, end_of_document=0, padding=1, end_of_turn=2)
    tokenizer: Any = SimpleNamespace(special=special, chat_template=None)
    files: dict[str, Any] = {}
    for weights in ("float32", "q8_0"):
        file = files[f"llama.cpp, {weights}"] = folder / f"{shape}-{weights}.gguf"
        gguf.write(file, family, theirs, model, tokenizer, words, weights)  # type: ignore[arg-type]
    config = configuration(shape)
    theirs, model = written_for(family, config), decoder(config)
    whole = files["onnxruntime, float32"] = folder / f"{shape}-float32.onnx"
    eight = files["onnxruntime, 8 bits"] = folder / f"{shape}-8-bits.onnx"
    held = hf.tensors(family, theirs, model, "float32")
    files["keys of onnxruntime"] = onnx_step.written(whole, family.name, theirs, held, config.n_layers, MOST)
    onnx_step.quantized(whole, eight)
    return files


def measure(shape: str, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = written(shape, Path(folder))
        systems = [
            System(name, Calls, (name, shape, files, arguments.new, arguments.threads), arguments.threads)
            for name in (*OURS, *OTHERS)
            if any(part in name for part in arguments.only.split("|"))
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
    parser.add_argument("--only", default="", metavar="NAME|NAME", help="systems whose names have one of these")
    parser.add_argument("--new", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    for shape in arguments.shapes.split(","):
        measure(shape, arguments)


if __name__ == "__main__":
    main()
