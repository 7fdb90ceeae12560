"""Forward and backward through whole models, beside the `transformers` class of the same shape (eager and SDPA).

    python benchmarks/models.py [--shapes lillm-39m,alexandria-9m,gemma3-tinystories]
    python benchmarks/models.py --window        a window of 512 against full attention as the context grows

Random ids, float32, uncompiled, loss of the next token, no optimizer; each system in a process of its own, in turn.
Ours is what training runs: hidden states and the chunked loss. Theirs is `model(ids, labels=ids).loss`, as their
trainer runs it. "extra MB" is the peak of the process less what it held before the model was built: weights, gradients,
activations and logits. alexandria-9m is beside GPT-2's class, which also has biases on queries, keys and values.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from slices import System, alternate

# preset: rows, tokens in a row
SHAPES = {"lillm-39m": (4, 512), "alexandria-9m": (16, 256), "gemma3-tinystories": (1, 1024)}


def resident() -> int:
    """Memory that this process holds now, in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


class Steps:
    """Times forward and backward on random ids."""

    def __init__(self, vocabulary: int, rows: int, length: int, before: int) -> None:
        import torch

        self.before, self.shape, self.vocabulary = before, (rows, length), vocabulary
        self.generator = torch.Generator().manual_seed(0)
        self.advance(0.0)

    def loss(self, ids: Any) -> Any:
        raise NotImplementedError

    def advance(self, seconds: float) -> list[float]:
        import torch

        times: list[float] = []
        started = time.perf_counter()
        # Two steps at least: the first one after a pause finds cold caches and is not counted.
        while len(times) < 2 or time.perf_counter() - started < seconds:
            ids = torch.randint(self.vocabulary, self.shape, generator=self.generator)
            begin = time.perf_counter()
            self.loss(ids).backward()
            times.append(time.perf_counter() - begin)
            self.model.zero_grad(set_to_none=True)
        return times[1:]

    def result(self) -> int:
        return self.before


class Ours(Steps):
    def __init__(self, preset: str, rows: int, length: int, changes: dict[str, Any]) -> None:
        import torch

        from fabula.model.decoder import Decoder
        from fabula.model.presets import resolve
        from fabula.train.objective import NextToken

        problems: list[str] = []
        _, config = resolve({"preset": preset, **changes}, problems)
        if config is None:
            raise SystemExit("\n".join(problems))
        before = resident()
        torch.manual_seed(0)
        self.model, self.objective = Decoder(config).train(), NextToken()
        super().__init__(config.vocab_size, rows, length, before)

    def loss(self, ids: Any) -> Any:
        import torch

        from fabula.data.batch import Batch
        from fabula.losses import IGNORE

        targets = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=IGNORE)
        loss = self.objective(self.model, Batch(ids, targets))
        return loss.total / loss.count


class Theirs(Steps):
    def __init__(self, preset: str, rows: int, length: int, attention: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.models.gemma3 import modeling_gemma3
        from transformers.models.gpt2 import modeling_gpt2
        from transformers.models.llama import modeling_llama

        _ = modeling_gemma3, modeling_gpt2, modeling_llama  # imported before memory is looked at
        config = their_config(preset)
        before = resident()
        torch.manual_seed(0)
        self.model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
        self.model.train()
        super().__init__(config.vocab_size, rows, length, before)

    def loss(self, ids: Any) -> Any:
        return self.model(input_ids=ids, labels=ids, use_cache=False).loss


def their_config(preset: str) -> Any:
    """The same shape as a configuration of `transformers`, without dropout."""
    from transformers import Gemma3TextConfig, GPT2Config, LlamaConfig

    if preset == "lillm-39m":
        return LlamaConfig(
            vocab_size=8192,
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=12,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=32,
            max_position_embeddings=512,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
        )
    if preset == "alexandria-9m":
        return GPT2Config(
            vocab_size=8259,
            n_positions=256,
            n_embd=256,
            n_layer=6,
            n_head=8,
            n_inner=1024,
            activation_function="relu",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=False,
        )
    return Gemma3TextConfig(
        vocab_size=50257,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        max_position_embeddings=32768,
        sliding_window=512,
        query_pre_attn_scalar=256,
        tie_word_embeddings=False,
    )


def report(title: str, systems: list[System], tokens: int) -> None:
    """A table; ratios are of the first system to each of the others: above 1 it is faster, below 1 it takes less."""
    print(f"\n{title}")
    header = ("system", "tokens/s", "ms", "q25..q75 ms", "steps", "peak MB", "extra MB", "speed", "memory")
    print("{:26} {:>9} {:>7} {:>15} {:>6} {:>8} {:>9} {:>6} {:>7}".format(*header))
    rows = [(s.name, s.records, *s.close()) for s in systems]
    own_time, own_extra = statistics.median(rows[0][1]), rows[0][3] - rows[0][2]
    for name, times, before, peak in rows:
        median = statistics.median(times)
        low, _, high = statistics.quantiles(times, n=4)
        print(
            f"{name:26} {tokens / median:9,.0f} {median * 1e3:7,.0f} {low * 1e3:7,.0f}..{high * 1e3:<6,.0f} "
            f"{len(times):6} {peak / 1e6:8,.0f} {(peak - before) / 1e6:9,.0f} {median / own_time:6.2f} "
            f"{own_extra / (peak - before):7.2f}",
            flush=True,
        )


def models(names: list[str], rounds: int, seconds: float, threads: int) -> None:
    for preset in names:
        rows, length = SHAPES[preset]
        systems = [System("fabula", Ours, (preset, rows, length, {}), threads)]
        systems += [
            System(f"transformers, {attention}", Theirs, (preset, rows, length, attention), threads)
            for attention in ("sdpa", "eager")
        ]
        alternate(systems, rounds, seconds)
        report(f"{preset}, {rows} x {length}, {threads} threads", systems, rows * length)


def window(rounds: int, seconds: float, threads: int) -> None:
    """One row through four layers of width 256 with a small vocabulary: what is left is attention."""
    small = {"vocab_size": 256, "n_layers": 4, "d_model": 256, "context_length": 8192}
    spans = {"pattern": "L", "local": {"kind": "sliding", "window": 512}}
    for length in (2048, 4096, 8192):
        systems = [
            System("window of 512", Ours, ("fabula-3m", 1, length, small | spans), threads),
            System("everything", Ours, ("fabula-3m", 1, length, small), threads),
        ]
        alternate(systems, rounds, seconds)
        report(f"1 x {length:,}, 4 layers of width 256, {threads} threads", systems, length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--window", action="store_true")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one slice")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.window:
        window(given.rounds, given.seconds, given.threads)
    else:
        models(given.shapes.split(","), given.rounds, given.seconds, given.threads)


if __name__ == "__main__":
    main()
