"""How fast is text turned into shards, in how much memory, and what does the loader take of a training step?

    python benchmarks/prepare.py [--sizes 100,1000] [--text FILE ...] [--peer] [--loader]

Makes a corpus of each size (MB) in a temporary folder, which is not counted: documents of the given texts (fables of
the generator without any) with their words moved about, so that no two are the same. Then, in a process of their own:

    fabula    `fabula data prepare`: reading, duplicates, split, tokenizing on --workers processes, near copies between
              the splits, hashes of all files. The tokenizer is learnt in the same command and its time told apart.
    peer      as nanoGPT prepares its data, with the same tokenizer.json: datasets.map over as many processes, then all
              ids into one memory-mapped file. No duplicates, no hashes, no report of near copies.

Printed are seconds, MB of text a second, and the most memory of all its processes together (resident pages, read every
20 ms; pages that processes share count for each). `--loader` prints the time of a batch of each packing beside a step
of fabula-1m on this machine.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

MARKER = "<|endoftext|>"
RECIPE = """
[corpus]
source = "{source}"
[tokenizer]
vocab_size = {vocabulary}
[data]
workers = {workers}
"""


# ---- the corpus --------------------------------------------------------------------------------------------


def texts(files: Sequence[Path]) -> list[list[str]]:
    """Documents of the files, or fables, as words; long ones in pieces of 600."""
    if files:
        found = [part for file in files for part in file.read_text(encoding="utf-8").split(MARKER)]
    else:
        from fabula.corpus.fables import Fables

        fables = Fables("es", 0)
        found = [fables[number].text for number in range(4000)]
    words = [text.strip().split(" ") for text in found]
    return [part[i : i + 600] for part in words for i in range(0, len(part), 600) if len(part) - i > 20]


def write_corpus(path: Path, megabytes: int, base: list[list[str]]) -> int:
    """A file of about that size; returns its bytes."""
    chosen, written = random.Random(0), 0
    with path.open("wb") as file:
        while written < megabytes * 1_000_000:
            words = list(base[chosen.randrange(len(base))])
            for place in range(0, len(words) - 1, 3):
                other = chosen.randrange(len(words))
                words[place], words[other] = words[other], words[place]
            written += file.write(f"{' '.join(words)}\n{MARKER}\n".encode())
    return written


# ---- one system --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One run of a system in a process of its own."""

    seconds: float
    memory: int  # bytes, all processes
    said: str


def measure(command: list[str]) -> Measured:
    """Run a command to its end, and watch the memory of it and of all that it starts."""
    began, most = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as log:
        running = psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while running.poll() is None:
            most = max(most, sum(resident(running)))
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        log.seek(0)
        said = log.read()
    if running.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {running.returncode}:\n{said[-2000:]}")
    return Measured(seconds, most, said)


def resident(process: psutil.Process) -> Iterator[int]:
    """Resident bytes of a process and of its children; some may end while they are asked."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    for member in family:
        try:
            yield member.memory_info().rss
        except psutil.Error:
            continue


def ours(corpus: Path, folder: Path, workers: int, vocabulary: int) -> Measured:
    """`fabula data prepare`."""
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(source=corpus, workers=workers, vocabulary=vocabulary), encoding="utf-8")
    return measure([sys.executable, "-m", "fabula", "data", "prepare", str(recipe), "--out", str(folder / "prepared")])


def peer(corpus: Path, folder: Path, workers: int) -> Measured:
    """datasets.map and one memory-mapped file."""
    tokenizer = folder / "prepared" / "tokenizer" / "tokenizer.json"
    command = [sys.executable, __file__, "--as-peer", str(corpus), str(tokenizer), str(folder / "peer"), str(workers)]
    return measure(command)


def as_peer(corpus: str, tokenizer_file: str, folder: str, workers: str) -> None:
    """What a process of the peer does, after nanoGPT's data/openwebtext/prepare.py."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=f"{folder}/cache", TOKENIZERS_PARALLELISM="false")
    import numpy as np
    from datasets import Dataset
    from tokenizers import Tokenizer

    def documents() -> Iterator[dict[str, str]]:
        lines: list[str] = []
        with open(corpus, encoding="utf-8") as file:
            for line in file:
                if line.startswith(MARKER):
                    yield {"text": "".join(lines).strip()}
                    lines.clear()
                else:
                    lines.append(line)

    tokenizer = Tokenizer.from_file(tokenizer_file)
    end = tokenizer.get_vocab_size() - 1

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]] | list[int]]:
        ids = [[*found.ids, end] for found in tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)]
        return {"ids": ids, "len": [len(row) for row in ids]}

    made = Dataset.from_generator(documents, cache_dir=f"{folder}/cache")
    made = made.map(encode, batched=True, remove_columns=["text"], num_proc=int(workers))
    file = np.memmap(Path(folder) / "train.bin", np.uint16, "w+", shape=(int(np.sum(made["len"], dtype=np.uint64)),))
    parts, place = 1024, 0
    for number in range(min(parts, len(made))):
        part = made.shard(min(parts, len(made)), number, contiguous=True).with_format("numpy")
        ids = np.concatenate(part["ids"])
        file[place : place + len(ids)] = ids
        place += len(ids)
    file.flush()


# ---- the loader --------------------------------------------------------------------------------------------


def loader_share(rounds: int) -> None:
    """Print what a batch of each packing takes of a step of fabula-1m, made in the same thread."""
    from typing import get_args

    import torch

    from fabula.corpus.run import Corpus, CorpusConfig
    from fabula.data.loader import Loader
    from fabula.data.mixture import Feed
    from fabula.data.packing import Packing
    from fabula.data.run import DataConfig, run
    from fabula.device import choose
    from fabula.model.decoder import Decoder
    from fabula.model.presets import presets
    from fabula.progress import Silent, StopFlag
    from fabula.tokenizer.bpe import train_bpe
    from fabula.train.config import TrainConfig
    from fabula.train.material import step_rows
    from fabula.train.objective import NextToken
    from fabula.train.trainer import Trainer

    corpus = Corpus(CorpusConfig(source="fables:es", documents=4000))
    tokenizer = train_bpe(list(corpus.sample(1_000_000)), 2048)
    config, train = presets.get("fabula-1m").config, TrainConfig()
    device = choose("auto", 0)
    with tempfile.TemporaryDirectory() as folder:
        shards = run(DataConfig(), corpus, tokenizer, Path(folder) / "data", Silent(), StopFlag())
        for packing in get_args(Packing):
            began = time.perf_counter()
            loader = Loader(shards.train, config.context_length, 0, train.isolate_documents, Feed(packing))
            opened = time.perf_counter() - began
            rows = step_rows(train, loader.row_tokens)
            torch.manual_seed(0)
            model = Decoder(config).to(device.torch)
            trainer = Trainer(
                model=model, objective=NextToken(), optimizers=train.optimizer.build(model), schedule=train.schedule,
                source=loader, steps=1_000_000, batch_rows=rows, micro_rows=rows, clip=train.clip, device=device,
                stop=StopFlag(), callbacks=[],
            )  # fmt: skip
            batches, steps = [], []
            for number in range(rounds + 2):
                began = time.perf_counter()
                batch = loader.batch(number * rows, rows)
                made = time.perf_counter()
                trainer.take_step(batch)
                batches.append(made - began)
                steps.append(time.perf_counter() - made)
            batch_s, step_s = statistics.median(batches[2:]), statistics.median(steps[2:])
            print(
                f"loader    {packing:<9} {rows:>3} rows of {config.context_length}: batch {batch_s * 1e3:6.2f} ms, "
                f"step {step_s * 1e3:7.1f} ms: {batch_s / step_s:.2%}; opened in {opened * 1e3:.1f} ms",
                flush=True,
            )


# ---- all of it ---------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="100,1000", help="MB of text, separated by commas; empty: none")
    parser.add_argument("--text", nargs="*", type=Path, default=[], help="texts whose documents are mixed")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--peer", action="store_true", help="also as nanoGPT does it, with datasets")
    parser.add_argument("--loader", action="store_true", help="also the loader beside a training step")
    parser.add_argument("--rounds", type=int, default=40, help="steps for the loader's share")
    parser.add_argument("--as-peer", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_peer:
        as_peer(*given.as_peer)
        return
    memory = []
    for size in [int(size) for size in given.sizes.split(",") if size]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            corpus = folder / "corpus.txt"
            n_bytes = write_corpus(corpus, size, texts(given.text))
            found = ours(corpus, folder, given.workers, given.vocabulary)
            memory.append(found.memory)
            print(row("fabula", n_bytes, found), flush=True)
            for line in found.said.splitlines():
                if line.startswith(("learning", "tokenizing:", "looking")) and not line.endswith("..."):
                    print(f"            {line}", flush=True)
            if given.peer:
                print(row("peer", n_bytes, peer(corpus, folder, given.workers)), flush=True)
    if len(memory) > 1:
        print(f"fabula's memory, largest corpus over smallest: {memory[-1] / memory[0]:.3f}")
    if given.loader:
        loader_share(given.rounds)


def row(system: str, n_bytes: int, found: Measured) -> str:
    speed = n_bytes / 1e6 / found.seconds
    return (
        f"{system:<9} {n_bytes / 1e6:>7,.0f} MB in {found.seconds:7.1f} s: {speed:6.2f} MB/s, "
        f"at most {found.memory / 1e6:7,.0f} MB of memory"
    )


if __name__ == "__main__":
    main()
