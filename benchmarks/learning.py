"""What is learnt in the same time: held-out bits per byte after equal training, beside nanoGPT's published CPU recipe.

    python benchmarks/learning.py CORPUS --nanogpt CHECKOUT [--seconds 180]

CORPUS is one text file; its first 90 % of characters are for training, the rest is held out, as nanoGPT's
data/shakespeare_char does. Both sides get `--seconds` of training each, in slices in turn, with `--threads` threads.
Each measures its own step first and plans its schedule for that many steps; evaluation is not counted. Both are scored
on all of the held-out text, every byte once, in windows of their own context that do not overlap.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from slices import System, alternate


def halves(corpus: str) -> tuple[str, str]:
    text = Path(corpus).read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    return text[:cut], text[cut:]


class Learner:
    """Trains for a planned number of steps, slice by slice."""

    steps: int

    def __init__(self, seconds: float) -> None:
        times = []
        for _ in range(12):
            begin = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - begin)
        # The first steps are slow; the median of the others plans the run.
        self.steps = int(seconds / sorted(times[2:])[len(times[2:]) // 2])
        self.done, self.seconds = 0, 0.0
        self.reset()

    def step(self) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        """Back to untrained weights; `steps` is known now."""
        raise NotImplementedError

    def score(self) -> tuple[float, int]:
        """Nats and bytes of the held-out text."""
        raise NotImplementedError

    def advance(self, seconds: float) -> list[int]:
        begin = time.perf_counter()
        before = self.done
        while self.done < self.steps and time.perf_counter() - begin < seconds:
            self.step()
            self.done += 1
        self.seconds += time.perf_counter() - begin
        return [] if self.done == before else [self.done]

    def result(self) -> dict[str, Any]:
        nats, size = self.score()
        return {
            "bits_per_byte": nats / math.log(2) / size,
            "bytes": size,
            "steps": self.steps,
            "seconds": self.seconds,
            "tokens": self.done * self.tokens_per_step,
            "parameters": self.parameters,
        }

    tokens_per_step: int
    parameters: int


class Ours(Learner):
    """A recipe of ours, through the product's own stages; only the loop is driven from outside, for the slices."""

    def __init__(self, corpus: str, recipe: str, overrides: list[tuple[str, str]], seed: int, seconds: float) -> None:
        from fabula import recipe as recipes
        from fabula.corpus.run import Corpus
        from fabula.data import run as data
        from fabula.data.loader import Loader
        from fabula.device import choose
        from fabula.progress import Silent, StopFlag
        from fabula.tokenizer import run as tokenizers

        self.folder = tempfile.TemporaryDirectory()
        root = Path(self.folder.name)
        train, self.held_out = halves(corpus)
        (root / "train.txt").write_text(train, encoding="utf-8")
        (root / "validation.txt").write_text(self.held_out, encoding="utf-8")
        where = [("corpus.source", str(root / "train.txt")), ("corpus.validation_source", str(root / "validation.txt"))]
        # One document, as nanoGPT reads it.
        self.recipe = recipes.load(Path(recipe), [*where, ("corpus.split", "file"), *overrides])
        made = Corpus(self.recipe.corpus)
        sample = made.sample(self.recipe.tokenizer.sample_bytes)
        learnt = tokenizers.run(self.recipe.tokenizer, sample, made.training_bytes(), root / "tokenizer")
        self.tokenizer = learnt.tokenizer
        shards = data.run(self.recipe.data, made, self.tokenizer, root / "data", Silent(), StopFlag())
        _, self.model_config = recipes.model_config(self.recipe, self.tokenizer.vocab_size)
        context = self.model_config.context_length
        self.loader = Loader(shards.train, context, seed, self.recipe.train.isolate_documents)
        self.seed, self.device, self.steps = seed, choose("cpu", 2), 1_000_000
        self.rows = max(1, self.recipe.train.batch_tokens // context)
        self.tokens_per_step, self.parameters = self.rows * context, self.model_config.n_params()
        self.reset()
        super().__init__(seconds)

    def reset(self) -> None:
        from fabula.device import seed_everything
        from fabula.model.decoder import Decoder
        from fabula.progress import StopFlag
        from fabula.train.objective import NextToken
        from fabula.train.trainer import Trainer

        seed_everything(self.seed)
        self.model = Decoder(self.model_config)
        settings = self.recipe.train
        self.trainer = Trainer(
            model=self.model,
            objective=NextToken(),
            optimizers=settings.optimizer.build(self.model),
            schedule=settings.schedule,
            source=self.loader,
            steps=self.steps,
            batch_rows=self.rows,
            micro_rows=self.rows,
            clip=settings.clip,
            device=self.device,
            stop=StopFlag(),
        )

    def step(self) -> None:
        self.trainer.take_step(self.loader.batch(self.trainer.position, self.rows))

    def score(self) -> tuple[float, int]:
        from fabula.evaluate.intrinsic import score_documents

        ids, size = self.tokenizer.encode(self.held_out), len(self.held_out.encode("utf-8"))
        context = self.model_config.context_length
        end = self.tokenizer.special.end_of_document
        made = score_documents(self.model, [(ids, size)], end, self.device, stride=context)
        return made.nats, made.bytes


class NanoGPT(Learner):
    """config/train_shakespeare_char.py with the CPU settings of the README, its schedule stretched to the budget."""

    def __init__(self, corpus: str, checkout: str, seed: int, seconds: float) -> None:
        import torch

        sys.path.insert(0, checkout)
        train, held_out = halves(corpus)
        letters = sorted(set(train + held_out))
        number = {c: i for i, c in enumerate(letters)}
        self.train = torch.tensor([number[c] for c in train])
        self.held_out, self.size = torch.tensor([number[c] for c in held_out]), len(held_out.encode("utf-8"))
        self.n_letters, self.seed, self.steps = len(letters), seed, 1_000_000
        self.context, self.rows = 64, 12
        self.tokens_per_step = self.context * self.rows
        self.reset()
        super().__init__(seconds)

    def reset(self) -> None:
        import torch

        from model import GPT, GPTConfig

        torch.manual_seed(1337 + self.seed)
        with contextlib.redirect_stdout(io.StringIO()):
            self.model = GPT(
                GPTConfig(
                    block_size=self.context,
                    vocab_size=self.n_letters,
                    n_layer=4,
                    n_head=4,
                    n_embd=128,
                    dropout=0.0,
                    bias=False,
                )
            )
            self.optimizer = self.model.configure_optimizers(1e-1, 1e-3, (0.9, 0.99), "cpu")
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.number = 0

    def step(self) -> None:
        import torch

        warmup, most, least = 100, 1e-3, 1e-4
        if self.number < warmup:
            rate = most * (self.number + 1) / (warmup + 1)
        else:
            progress = min(1.0, (self.number - warmup) / max(1, self.steps - warmup))
            rate = least + 0.5 * (1 + math.cos(math.pi * progress)) * (most - least)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(self.train) - self.context, (self.rows,))
        x = torch.stack([self.train[i : i + self.context] for i in starts])
        y = torch.stack([self.train[i + 1 : i + 1 + self.context] for i in starts])
        _, loss = self.model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.number += 1

    def score(self) -> tuple[float, int]:
        import torch

        self.model.eval()
        # Nothing precedes the first character: it is charged as one of all letters.
        nats = math.log(self.n_letters)
        text = self.held_out
        with torch.no_grad():
            for start in range(0, len(text) - 1, self.context):
                x, y = text[start : start + self.context], text[start + 1 : start + 1 + self.context]
                _, loss = self.model(x[: len(y)][None], y[None])
                nats += float(loss) * len(y)
        return nats, self.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).parent.parent / "recipes" / "shakespeare.toml")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT; without it only ours is trained")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--slice", type=float, default=10.0, help="seconds of a slice")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, a setting of our recipe")
    given = parser.parse_args()
    overrides = [(name, value) for name, _, value in (text.partition("=") for text in given.set)]
    corpus = str(given.corpus.resolve())
    systems = [System("ours", Ours, (corpus, str(given.recipe), overrides, given.seed, given.seconds), given.threads)]
    if given.nanogpt is not None:
        arguments = (corpus, str(given.nanogpt), given.seed, given.seconds)
        systems.append(System("nanoGPT", NanoGPT, arguments, given.threads))
    # Twice the rounds that the plan needs: a machine that became slower is given the time to finish its steps.
    rounds = math.ceil(2 * given.seconds / given.slice)
    for _ in range(rounds):
        if all(system.finished for system in systems):
            break
        alternate(systems, 1, given.slice)
    print(f"\n{given.corpus.name}, {given.seconds:.0f} s of training each, {given.threads} threads, seed {given.seed}")
    header = ("system", "parameters", "steps", "tokens", "seconds", "bits/byte", "peak MB")
    print("{:10} {:>11} {:>6} {:>11} {:>8} {:>10} {:>8}".format(*header))
    for system in systems:
        made, memory = system.close()
        print(
            f"{system.name:10} {made['parameters']:11,} {made['steps']:6,} {made['tokens']:11,} {made['seconds']:8.1f} "
            f"{made['bits_per_byte']:10.4f} {memory / 1e6:8.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
