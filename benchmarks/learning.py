"""What is learnt in the same time: held-out bits per byte after equal training, beside other houses' recipes.

    python benchmarks/learning.py CORPUS... [--seconds 180] [--seeds 0,1,2] [--results FILE]
        [--recipe RECIPE] [--nanogpt CHECKOUT] [--nanochat CHECKOUT] [--tokens ours,characters] [--also FILE]
    python benchmarks/learning.py --table [--results FILE]

A corpus is a text file. Its first 90 % are for training and the rest is held out: whole texts where `<|endoftext|>`
stands between them, characters of a single one, as nanoGPT's data/shakespeare_char does. All systems of a corpus and a
seed train in turn, in slices, each in a process of its own. What has ended is appended to the results, and not run
again.

    fabula         the product's own stages with a recipe: corpus, tokenizer, data, train; the budget is all it has for
                   training with the evaluation, samples and saves of a usual run (`--recipe none`: its defaults)
    nanoGPT        the processor recipe of its README (4 layers, width 128, context 64, batch 12, AdamW 1e-3 to 1e-4)
    nanochat       its model (4 layers, width 128, 2 heads, context 128, batch 16) with Muon and AdamW, all rates x 0.5;
                   its warm-up, warm-down over the last 65 %, momentum
    transformers   GPT-2's class (4 layers, width 128, context 128, batch 16, dropout 0.1), AdamW 3e-3, warm-up, cosine

The schedules of the others follow the time they have had, so that each ends when its time does; only training counts
for them, not compiling or scoring. They read our tokenizer's ids (`ours`), characters, or both. All are scored on the
same bytes: each held-out text from its beginning, with its end, in windows of the model's context that do not overlap.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peers
from peers import Peer, Shape
from slices import System, alternate

from fabula import config
from fabula.progress import StopFlag

if TYPE_CHECKING:
    from fabula.recipe import Recipe

MARKER = "<|endoftext|>"
RECIPE = Path(__file__).parent.parent / "recipes" / "shakespeare.toml"


def texts(path: str) -> list[str]:
    """The documents of a text file."""
    parts = Path(path).read_text(encoding="utf-8").split(MARKER)
    return [stripped for part in parts if (stripped := part.strip("\n"))] if len(parts) > 1 else parts


def halves(path: str) -> tuple[list[str], list[str]]:
    """Documents to train on, and held-out ones."""
    found = texts(path)
    cut = int(sum(map(len, found)) * 0.9)
    if len(found) == 1:
        return [found[0][:cut]], [found[0][cut:]]
    seen, number = 0, 0
    while seen < cut:
        seen += len(found[number])
        number += 1
    return found[:number], found[number:]


def recipe_for(given: str, overrides: list[tuple[str, str]], text: Path) -> Recipe:
    """Our recipe for a text: a given file, or what the product chooses by itself (which measures this machine)."""
    from fabula import pipeline
    from fabula import recipe as recipes

    if given == "none":
        return pipeline.load_or_choose(text, dict(overrides))
    return recipes.load(Path(given), [("corpus.source", str(text)), *overrides])


def prepared(corpus: str, given: str, overrides: list[tuple[str, str]], root: Path) -> Recipe:
    """Our recipe for the training part of a corpus; the text and the tokenizer are in the folder then."""
    from fabula.corpus.run import Corpus
    from fabula.tokenizer import run as tokenizers

    train, held_out = halves(corpus)
    whole = train[0] if len(train) == 1 else "".join(f"{text}\n{MARKER}\n" for text in train)
    (root / "train.txt").write_text(whole, encoding="utf-8")
    if len(train) == 1 and given != "none":
        # One document, as nanoGPT reads it. It has no part for validation: the held-out text, which chooses nothing.
        (root / "validation.txt").write_text(held_out[0], encoding="utf-8")
        validation = ("corpus.validation_source", str(root / "validation.txt"))
        overrides = [validation, ("corpus.split", "file"), *overrides]
    loaded = recipe_for(given, overrides, root / "train.txt")
    made = Corpus(loaded.corpus)
    sample = made.sample(loaded.tokenizer.sample_bytes)
    tokenizers.run(loaded.tokenizer, sample, made.training_bytes(), root / "tokenizer")
    return loaded


class Slices(StopFlag):
    """The stop flag of a run that works in slices: before a step it waits, once its slice is over."""

    def __init__(self) -> None:
        super().__init__()
        self.until = self.paused = 0.0
        self.go, self.rests = threading.Event(), threading.Event()

    def check(self, doing: str) -> None:
        super().check(doing)
        if doing == "training" and time.perf_counter() >= self.until:
            begin = time.perf_counter()
            self.rests.set()
            self.go.wait()
            self.go.clear()
            self.paused += time.perf_counter() - begin


class Ours:
    """A recipe of ours: the product's training stage in a thread, which rests between slices."""

    def __init__(self, corpus: str, stage: str, also: list[str], seed: int) -> None:
        from fabula import recipe as recipes
        from fabula.corpus.run import Corpus
        from fabula.data import run as data
        from fabula.progress import Silent
        from fabula.tokenizer.base import Tokenizer

        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.recipe = recipes.load(Path(stage) / "recipe.toml", [("seed", str(seed))])
        made, self.tokenizer = Corpus(self.recipe.corpus), Tokenizer.load(Path(stage) / "tokenizer")
        stored = data.run(
            recipes.data_config(self.recipe), made, self.tokenizer, self.root / "data", Silent(), StopFlag()
        )
        self.shards, (_, self.model) = stored, recipes.model_config(self.recipe, self.tokenizer.vocab_size)
        # What has a validation part of its own chooses its best state by it, as a user's run does.
        self.which = "best" if self.recipe.corpus.validation_source is None else "last"
        self.held_out = {"held-out": halves(corpus)[1], **{Path(p).name: texts(p) for p in also}}
        self.slices, self.thread = Slices(), threading.Thread(target=self._train, daemon=True)
        self.trained: Any = None
        self.error: BaseException | None = None
        self.wall = 0.0

    def _train(self) -> None:
        from fabula import recipe as recipes
        from fabula.progress import Silent
        from fabula.train import run as stage

        begin = time.perf_counter()
        try:
            self.trained = stage.run(
                self.recipe.train,
                self.model,
                self.tokenizer,
                self.shards,
                self.root,
                seed=self.recipe.seed,
                sampling=self.recipe.generate,
                facts={},
                progress=Silent(),
                stop=self.slices,
                feed=recipes.feed(self.recipe),
            )
        except BaseException as error:
            self.error = error
        self.wall = time.perf_counter() - begin - self.slices.paused
        self.slices.rests.set()

    def advance(self, seconds: float) -> list[float]:
        if self.error is not None:
            raise self.error
        if self.thread.ident is not None and not self.thread.is_alive():
            return []
        self.slices.until = time.perf_counter() + seconds
        self.slices.rests.clear()
        if self.thread.ident is None:
            self.thread.start()
        else:
            self.slices.go.set()
        self.slices.rests.wait()
        return [seconds]

    def result(self) -> dict[str, Any]:
        from fabula import checkpoint
        from fabula.device import choose
        from fabula.evaluate.intrinsic import score_documents

        if self.error is not None:
            raise self.error
        self.thread.join()
        model = checkpoint.load(self.root, self.which).model
        device, end = choose("cpu", self.recipe.train.threads), self.tokenizer.special.end_of_document
        bits = {}
        for name, documents in self.held_out.items():
            encoded = [(self.tokenizer.encode(text), len(text.encode("utf-8"))) for text in documents]
            bits[name] = score_documents(model, encoded, end, device, stride=model.config.context_length).bits_per_byte
        facts = self.trained.facts
        return {
            "bits_per_byte": bits.pop("held-out"),
            "also": bits,
            "steps": facts["steps"],
            "tokens": facts["tokens"],
            "trained_seconds": facts["seconds"],
            "wall_seconds": self.wall,
            "parameters": self.model.n_params(),
            "vocabulary": self.tokenizer.vocab_size,
        }


class Ids:
    """A corpus as ids, with an id that ends and begins every document."""

    def __init__(self, corpus: str, also: list[str], tokenizer: str) -> None:
        import torch

        train, held_out = halves(corpus)
        groups = {"train": train, "held-out": held_out, **{Path(p).name: texts(p) for p in also}}
        if tokenizer:
            from fabula.tokenizer.base import Tokenizer

            ours = Tokenizer.load(Path(tokenizer))
            encode, self.end, self.vocabulary = ours.encode, ours.special.end_of_document, ours.vocab_size
        else:
            letters = sorted({c for found in groups.values() for text in found for c in text})
            number = {c: i for i, c in enumerate(letters)}
            self.end, self.vocabulary = len(letters), len(letters) + 1

            def encode(text: str) -> list[int]:
                return [number[c] for c in text]

        found = {name: [(encode(text), len(text.encode("utf-8"))) for text in group] for name, group in groups.items()}
        stream = [self.end]
        for ids, _ in found.pop("train"):
            stream += [*ids, self.end]
        self.train, self.held_out = torch.tensor(stream), found

    def windows(self, name: str, context: int) -> tuple[list[tuple[list[int], list[int]]], int]:
        """(inputs, targets) of a group of texts, and its bytes."""
        made, size = [], 0
        for ids, n_bytes in self.held_out[name]:
            whole, size = [self.end, *ids, self.end], size + n_bytes
            for start in range(0, len(whole) - 1, context):
                y = whole[start + 1 : start + 1 + context]
                made.append((whole[start : start + len(y)], y))
        return made, size


class Theirs:
    """Another house's recipe; its schedule follows the time that it has had."""

    context, rows, ignore = 128, 16, -100

    def __init__(self, corpus: str, also: list[str], tokenizer: str, seconds: float, checkout: str, seed: int) -> None:
        import torch

        self.ids, self.budget, self.checkout, self.seed = Ids(corpus, also, tokenizer), seconds, checkout, seed
        shape = (4, self.heads, self.heads, 128, 512, self.context, self.ids.vocabulary)
        self.shape = Shape("gpt2", *shape)
        self.seconds, self.done = 0.0, 0
        # Warm first: kernels are compiled, memory is there. Then from the beginning.
        for _ in range(2):
            torch.manual_seed(1337 + seed)
            self.peer = self.build()
            self.rates = [group["lr"] for group in self.peer.optimizer.param_groups]
            if not self.done:
                for _ in range(5):
                    self.step()
        self.seconds, self.done = 0.0, 0

    heads = 4

    def build(self) -> Peer:
        raise NotImplementedError

    def rate(self, progress: float) -> float:
        """What the peak rates are multiplied by when that share of the time has passed."""
        raise NotImplementedError

    def set_rates(self, progress: float) -> None:
        factor = self.rate(progress)
        for group, peak in zip(self.peer.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = peak * factor

    def step(self) -> None:
        import torch

        begin = time.perf_counter()
        self.set_rates(min(1.0, self.seconds / self.budget))
        starts = torch.randint(len(self.ids.train) - self.context, (self.rows,))
        x = torch.stack([self.ids.train[i : i + self.context] for i in starts])
        y = torch.stack([self.ids.train[i + 1 : i + 1 + self.context] for i in starts])
        peers.train(self.peer, x, y)
        self.done += 1
        self.seconds += time.perf_counter() - begin

    def advance(self, seconds: float) -> list[int]:
        begin, before = time.perf_counter(), self.done
        while self.seconds < self.budget and time.perf_counter() - begin < seconds:
            self.step()
        return [] if self.done == before else [self.done]

    def score(self, name: str) -> float:
        """Bits per byte of a group of texts."""
        import torch

        windows, size = self.ids.windows(name, self.context)
        nats = 0.0
        for start in range(0, len(windows), 32):
            part = windows[start : start + 32]
            x = torch.zeros(len(part), self.context, dtype=torch.long)
            y = torch.full((len(part), self.context), self.ignore)
            for row, (given, wanted) in enumerate(part):
                x[row, : len(given)], y[row, : len(wanted)] = torch.tensor(given), torch.tensor(wanted)
            with torch.no_grad():
                nats += float(self.peer.loss(x, y)) * int((y != self.ignore).sum())
        return nats / math.log(2) / size

    def result(self) -> dict[str, Any]:
        self.peer.model.eval()
        bits = {name: self.score(name) for name in self.ids.held_out}
        return {
            "bits_per_byte": bits.pop("held-out"),
            "also": bits,
            "steps": self.done,
            "tokens": self.done * self.rows * self.context,
            "trained_seconds": self.seconds,
            "wall_seconds": self.seconds,
            "parameters": sum(p.numel() for p in self.peer.model.parameters()),
            "vocabulary": self.ids.vocabulary,
        }


class NanoGPT(Theirs):
    context, rows, ignore = 64, 12, -1

    def build(self) -> Peer:
        return peers.nanogpt(self.shape, self.checkout)

    def rate(self, progress: float) -> float:
        if self.done < 100:
            return (self.done + 1) / 101
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


class Nanochat(Theirs):
    heads, ignore = 2, -1

    def build(self) -> Peer:
        return peers.nanochat(self.shape, self.checkout, 0.5)

    def rate(self, progress: float) -> float:
        if self.done < 40:
            return (self.done + 1) / 40
        return min(1.0, 0.05 + 0.95 * (1 - progress) / 0.65)

    def set_rates(self, progress: float) -> None:
        super().set_rates(progress)
        momentum = 0.85 + 0.12 * min(1.0, self.done / 400)
        if self.done >= 400 and progress > 0.35:
            momentum = 0.97 - 0.07 * (progress - 0.35) / 0.65
        for group in self.peer.optimizer.param_groups:
            if group["kind"] == "muon":
                group["momentum"] = momentum


class Transformers(Theirs):
    def build(self) -> Peer:
        return peers.transformers(self.shape, 3e-3, dropout=0.1)

    def rate(self, progress: float) -> float:
        if self.done < 100:
            return (self.done + 1) / 101
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


# ---- results -----------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two runs the same."""
    return tuple(record[name] for name in ("sha256", "system", "seed", "seconds", "threads"))


def systems(
    corpus: str, given: argparse.Namespace, seed: int, stage: Path
) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """(name, class, arguments) of everything that is to be compared; `stage` has our recipe and tokenizer."""
    also = [str(path.resolve()) for path in given.also]
    called = "defaults" if given.recipe == "none" else Path(given.recipe).stem
    if not given.peers_only:
        yield " ".join([f"fabula, {called}", *given.set]), Ours, (corpus, str(stage), also, seed)
    for tokens in given.tokens.split(","):
        suffix, tokenizer = ("", str(stage / "tokenizer")) if tokens == "ours" else (", characters", "")
        for name, make, checkout in (
            ("nanoGPT", NanoGPT, given.nanogpt),
            ("nanochat", Nanochat, given.nanochat),
            ("transformers", Transformers, ""),
        ):
            if checkout is not None and not given.ours_only:
                yield name + suffix, make, (corpus, also, tokenizer, given.seconds, str(checkout), seed)


def compare(path: Path, given: argparse.Namespace, seed: int, stage: Path) -> None:
    """All systems on a corpus with a seed, but for those whose result is known."""
    corpus = str(path.resolve())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = {key(record) for record in read(given.results)}
    about = {"corpus": path.name, "sha256": digest, "seed": seed, "seconds": given.seconds, "threads": given.threads}
    wanted = [s for s in systems(corpus, given, seed, stage) if key({**about, "system": s[0]}) not in known]
    if not wanted:
        return
    # The product settles its steps in the first 15 % of the time, a minute at most, and must not be halted meanwhile.
    piece = max(given.slice, min(0.2 * given.seconds, 75.0) + 5)
    working = [System(name, make, arguments, given.threads) for name, make, arguments in wanted]
    for _ in range(math.ceil(2 * given.seconds / piece) + 2):
        if all(system.finished for system in working):
            break
        alternate(working, 1, piece)
    for system in working:
        result, peak = system.close()
        record = {**about, "system": system.name, **result, "peak_bytes": peak, "when": time.strftime("%Y-%m-%d %H:%M")}
        with given.results.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{path.name}, seed {seed}: {system.name} {result['bits_per_byte']:.4f} bits per byte", flush=True)


def table(records: list[dict[str, Any]]) -> None:
    """Mean and spread by corpus, time and system, the best first."""
    groups: dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        place = (record["corpus"], record["sha256"][:8], record["seconds"], record["threads"])
        groups.setdefault(place, {}).setdefault(record["system"], []).append(record)

    def mean(found: list[dict[str, Any]], name: str) -> float:
        return statistics.mean(record[name] for record in found)

    for (corpus, digest, seconds, threads), found in groups.items():
        print(f"\n{corpus} ({digest}), {seconds:g} s of training each, {threads} threads\n")
        header = ("system", "bits/byte", "lowest..highest", "seeds", "also", "parameters", "vocabulary", "steps")
        print(f"| {' | '.join((*header, 'tokens', 'peak MB'))} |\n|{'---|' * (len(header) + 2)}")
        for system, runs in sorted(found.items(), key=lambda item: mean(item[1], "bits_per_byte")):
            bits = [run["bits_per_byte"] for run in runs]
            other = {name: statistics.mean(run["also"][name] for run in runs) for name in runs[0]["also"]}
            told = ", ".join(f"{name} {value:.4f}" for name, value in other.items())
            print(
                f"| {system} | {statistics.mean(bits):.4f} | {min(bits):.4f}..{max(bits):.4f} | {len(bits)} | {told} | "
                f"{mean(runs, 'parameters'):,.0f} | {mean(runs, 'vocabulary'):,.0f} | {mean(runs, 'steps'):,.0f} | "
                f"{mean(runs, 'tokens'):,.0f} | {mean(runs, 'peak_bytes') / 1e6:,.0f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="*", type=Path, metavar="CORPUS")
    parser.add_argument("--recipe", default=str(RECIPE), help="of ours; none: what the product chooses by itself")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, a setting of our recipe")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--nanochat", type=Path, help="a checkout of nanochat")
    parser.add_argument("--tokens", default="ours", help="what the others read: ours, characters, or both with a comma")
    parser.add_argument("--also", action="append", default=[], type=Path, help="a text that is scored as well")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--slice", type=float, default=10.0, help="least seconds of a slice")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--peers-only", action="store_true")
    parser.add_argument("--results", type=Path, default=Path("learning.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what the results say")
    given = parser.parse_args()
    for path in given.corpora:
        with tempfile.TemporaryDirectory() as folder:
            stage = Path(folder)
            overrides = [(name, value) for name, _, value in (text.partition("=") for text in given.set)]
            overrides += [("train.budget", f"{given.seconds:g}s"), ("train.threads", str(given.threads))]
            chosen = prepared(str(path.resolve()), given.recipe, overrides, stage)
            (stage / "recipe.toml").write_text(config.dump_toml(config.to_data(chosen)), encoding="utf-8")
            for seed in map(int, given.seeds.split(",")):
                compare(path, given, seed, stage)
    if given.table or given.corpora:
        table(read(given.results))


if __name__ == "__main__":
    main()
