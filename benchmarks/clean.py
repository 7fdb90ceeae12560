"""How fast is each step of cleaning, and does its memory grow with the corpus?

    .venv/bin/python benchmarks/clean.py FILE [--megabytes 20]
    .venv/bin/python benchmarks/clean.py FILE --memory

Reads documents of a corpus (over and over, each time with other words between, until there are so many megabytes) and
prints for every step megabytes a second of processor time on one core; for near copies also those of rensa, signatures
alone, where it is installed. With `--memory` it prints the peak memory of a pass with repeated lines and near copies
switched on, over so many megabytes and over ten times as many.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fabula.corpus.clean.config import PRESETS, CleanConfig
from fabula.corpus.clean.run import Cleaner
from fabula.corpus.clean.shingles import NearCopies, signature
from fabula.corpus.run import Corpus, CorpusConfig, Funnel
from fabula.corpus.words import words


def texts(source: str, n_bytes: int) -> Iterator[str]:
    """Documents of a corpus, and again with a word in every line that makes them others."""
    found = [d.text for _, d in Corpus(CorpusConfig(source=source)).documents(Funnel(), both=False)]
    done = turn = 0
    while done < n_bytes:
        for number, text in enumerate(found):
            other = text if not turn else text.replace(" ", f" w{turn}x{number} ", 1 + len(text) // 40)
            yield other
            done += len(other.encode("utf-8"))
            if done >= n_bytes:
                return
        turn += 1


def speed(name: str, n_bytes: int, work: Callable[[], object]) -> None:
    began = time.process_time()
    work()
    print(f"{name:<28} {n_bytes / 1e6 / (time.process_time() - began):8.1f} MB/s")


def speeds(source: str, n_bytes: int) -> None:
    held = list(texts(source, n_bytes))
    size = sum(len(text.encode("utf-8")) for text in held)
    print(f"{len(held):,} documents, {size:,} bytes")
    settings = {**PRESETS["web"], "unicode": "forms", "gutenberg": True, "languages": ("en", "es"), "least_words": 5}
    settings["quality"] = ("gopher", "repetition", "fineweb", "c4")
    for step in Cleaner(CleanConfig(**settings), lambda: [])._steps(None):
        speed(step.name, size, lambda step=step: [step.judge(text) for text in held])  # type: ignore[misc]
    split = [words(text) for text in held]
    speed("words", size, lambda: [words(text) for text in held])
    speed("signatures", size, lambda: [signature(found) for found in split])

    def near() -> None:
        with NearCopies(0.8) as seen:
            for found in split:
                seen.copy_of(found, "")

    speed("signatures and their index", size, near)
    try:
        import rensa
    except ImportError:
        return

    def peer() -> None:
        for found in split:
            made = rensa.RMinHash(128, 42)
            made.update([" ".join(found[i : i + 5]) for i in range(len(found) - 4)])
            made.digest()

    speed("signatures by rensa", size, peer)


MEASURED = """
import resource, sys
from fabula.corpus.clean.config import CleanConfig
from fabula.corpus.run import Corpus, CorpusConfig, Funnel
clean = CleanConfig(repeated_lines=10, near_duplicates=0.8)
for _ in Corpus(CorpusConfig(source=sys.argv[1], clean=clean)).documents(Funnel(), both=False):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory(source: str, n_bytes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="fabula-clean-") as made:
        for size in (n_bytes, 10 * n_bytes):
            path = Path(made) / f"{size}.txt"
            with path.open("w", encoding="utf-8") as file:
                for text in texts(source, size):
                    file.write(f"{text}\n<|endoftext|>\n")
            done = subprocess.run(
                [sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True
            )
            print(f"{size:,} bytes: {int(done.stdout) / 1024:,.0f} MiB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--memory", action="store_true")
    given = parser.parse_args()
    (memory if given.memory else speeds)(given.source, int(given.megabytes * 1e6))


if __name__ == "__main__":
    main()
