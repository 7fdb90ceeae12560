"""Tokenizers beside their peers: how long learning and encoding take, and what memory they need.

python benchmarks/tokens.py TEXT... [--only learn encode across] [--vocab-size 32768] [--mb 7] [--rounds 5]

TEXT are files; documents end at `<|endoftext|>`, and of all files together so many MB are taken. Every system runs in a
process of its own and they take turns. Printed are medians, their ratio to the first system of a section (below 1 is
faster), and how far the peak of memory rose above what the process had with the text read.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slices import System, alternate

_MARK = "<|endoftext|>"

# What is done, timed as a whole, and what is said of its result.
Work = tuple[Callable[[], Any], Callable[[Any], str]]


def documents(paths: list[str], most: int) -> list[str]:
    """The documents of the files up to so many bytes in all; the last one may be cut."""
    found: list[str] = []
    for path in paths:
        for text in Path(path).read_text(encoding="utf-8").split(_MARK):
            if text.strip() and most > 0:
                raw = text.encode("utf-8")[:most]
                found.append(raw.decode("utf-8", errors="ignore"))
                most -= len(raw)
    return found


class Timed:
    """Does one thing again and again; a record is the seconds that one time took."""

    def __init__(self, section: str, name: str, paths: list[str], most: int, settings: dict[str, int]) -> None:
        self._work, self._say = SECTIONS[section][name](documents(paths, most), settings)
        self._before, self._made = _peak(), None

    def advance(self, seconds: float) -> list[float]:
        """At least once, and until that long has passed."""
        records: list[float] = []
        while sum(records) < seconds:
            started = time.perf_counter()
            self._made = self._work()
            records.append(time.perf_counter() - started)
        return records

    def result(self) -> tuple[str, int]:
        """What is said of the last result, and by how many bytes the peak of memory rose."""
        return self._say(self._made), _peak() - self._before


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---- learning ----------------------------------------------------------------------------------------------


def _learns(boundary: str) -> Callable[[list[str], dict[str, int]], Work]:
    def prepare(texts: list[str], settings: dict[str, int]) -> Work:
        from fabula.tokenizer.bpe import train_bpe

        def work() -> Any:
            return train_bpe(texts, settings["vocab_size"], exact=False, boundary=boundary)  # type: ignore[arg-type]

        return work, lambda made: f"{made.vocab_size:,} tokens"

    return prepare


def _rustbpe_learns(texts: list[str], settings: dict[str, int]) -> Work:
    import rustbpe

    from fabula.tokenizer.cuts import GPT2

    def work() -> Any:
        made = rustbpe.Tokenizer()
        made.train_from_iterator(iter(texts), settings["vocab_size"], pattern=GPT2)
        return made

    return work, lambda made: f"{made.vocab_size:,} tokens"


def _tokenizers_learns(texts: list[str], settings: dict[str, int]) -> Work:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    def work() -> Any:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=settings["vocab_size"], min_frequency=2, initial_alphabet=alphabet, show_progress=False
        )
        made.train_from_iterator(texts, trainer=trainer)
        return made

    return work, lambda made: f"{made.get_vocab_size():,} tokens"


# ---- encoding ----------------------------------------------------------------------------------------------


def _learnt(texts: list[str], settings: dict[str, int]) -> Any:
    from fabula.tokenizer.bpe import train_bpe

    return train_bpe(texts, settings["vocab_size"], exact=False)


def _encodes(texts: list[str], settings: dict[str, int]) -> Work:
    tokenizer = _learnt(texts, settings)
    tokenizer.threads = settings["threads"]
    tokenizer.encode_batch(texts)  # makes its encoder, once
    return lambda: tokenizer.encode_batch(texts), _tokens


def _tiktoken_encodes(texts: list[str], settings: dict[str, int]) -> Work:
    from tiktoken import Encoding

    from fabula.tokenizer.cuts import GPT2

    tokenizer = _learnt(texts, settings)
    special = set(tokenizer.special.ids())
    ranks = {tokenizer.decode_bytes([i]): i for i in range(tokenizer.vocab_size) if i not in special}
    encoding = Encoding("benchmark", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})
    return lambda: encoding.encode_ordinary_batch(texts, num_threads=settings["threads"]), _tokens


def _rustbpe_encodes(texts: list[str], settings: dict[str, int]) -> Work:
    work, _ = _rustbpe_learns(texts, settings)
    made = work()
    return lambda: made.batch_encode(texts), _tokens


def _tokenizers_encodes(texts: list[str], settings: dict[str, int]) -> Work:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(_learnt(texts, settings).to_json())
    backend.encode_special_tokens = True
    return lambda: [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)], _tokens


def _tokens(ids: list[list[int]]) -> str:
    return f"{sum(map(len, ids)):,} tokens"


Prepare = Callable[[list[str], dict[str, int]], Work]

SECTIONS: dict[str, dict[str, Prepare]] = {
    "learn": {"rustbpe": _rustbpe_learns, "fabula": _learns("word"), "tokenizers": _tokenizers_learns},
    "encode": {
        "tiktoken": _tiktoken_encodes,
        "fabula": _encodes,
        "rustbpe": _rustbpe_encodes,
        "tokenizers": _tokenizers_encodes,
    },
    "across": {"none": _learns("none"), "superword": _learns("superword")},
}


def measure(section: str, paths: list[str], most: int, settings: dict[str, int], rounds: int, seconds: float) -> None:
    """One section's table: every system's median time, the ratio to the first, its memory and its result."""
    size = sum(len(text.encode("utf-8")) for text in documents(paths, most))
    systems = [
        System(name, Timed, (section, name, paths, most, settings), settings["threads"]) for name in SECTIONS[section]
    ]
    alternate(systems, rounds, seconds)
    print(f"\n{section}: {size / 1e6:.2f} MB, {settings['vocab_size']:,} tokens, {settings['threads']} threads")
    first = statistics.median(systems[0].records)
    for system in systems:
        took = statistics.median(system.records)
        (said, memory), _ = system.close()
        print(
            f"  {system.name:<11} {took:7.3f} s ({min(system.records):.3f} to {max(system.records):.3f}, "
            f"{len(system.records)} times)  {size / took / 1e6:6.2f} MB/s  ratio {took / first:5.2f}  "
            f"memory +{memory / 1e6:,.0f} MB  {said}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="*", help="files of text")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--across-vocab-size", type=int, default=8192)
    parser.add_argument("--mb", type=float, default=7.0, help="of text, for learn and encode")
    parser.add_argument("--across-mb", type=float, default=5.0, help="of text, where merges cross words")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one system's slice")
    given = parser.parse_args()
    if not given.text:
        parser.error("name files of text")
    for section in given.only:
        across = section == "across"
        settings = {"vocab_size": given.across_vocab_size if across else given.vocab_size, "threads": given.threads}
        most = int((given.across_mb if across else given.mb) * 1e6)
        measure(section, given.text, most, settings, 1 if across else given.rounds, given.seconds)


if __name__ == "__main__":
    main()
