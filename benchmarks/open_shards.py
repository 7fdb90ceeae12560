"""How long does it take to open a prepared data folder?

    .venv/bin/python benchmarks/open_shards.py [--gigabytes 1] [--times 21]

Makes shards of that size in a temporary folder (removed at the end), opens them again and again, and prints the median
and the slowest in milliseconds: all of `Shards` (the manifest, the sizes of all files, the maps), and np.memmap alone
on the same files, which is the least it can take. Nothing is hashed at open. Files are in the cache of the system, as
they are after preparing; with a cold cache the manifest is the only thing that is read from the disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fabula import storage
from fabula.config import Data
from fabula.data.shards import FORMAT, Shards, SplitWriter, dtype_for

VOCABULARY = 8192
DOCUMENT_IDS = 300


def make(folder: Path, n_bytes: int) -> None:
    """A data folder of about `n_bytes`, with an index entry every 300 ids as fables have."""
    dtype = dtype_for(VOCABULARY)
    facts: Data = {"format": FORMAT, "kind": "data", "tokenizer": "0" * 64, "vocab_size": VOCABULARY}
    facts |= {"dtype": dtype.str, "splits": {}}
    ids = np.random.default_rng(0).integers(1, VOCABULARY, DOCUMENT_IDS)
    each = (DOCUMENT_IDS + 1) * dtype.itemsize + 16
    with storage.publish(folder, facts) as building:
        for name, share in (("train", 0.95), ("validation", 0.05)):
            with SplitWriter(building, name, VOCABULARY, 0) as writer:
                for _ in range(int(n_bytes * share) // each):
                    writer.add(ids, 4 * DOCUMENT_IDS)
                facts["splits"][name] = writer.finish()


def milliseconds(work: Callable[[], object], times: int) -> tuple[float, float]:
    """The median and the slowest."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - began))
    return statistics.median(found), max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--times", type=int, default=21)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fabula-shards-") as made:
        folder = Path(made) / "data"
        make(folder, int(given.gigabytes * 1e9))
        paths = sorted(folder.glob("*.tokens"))
        total = sum(p.stat().st_size for p in folder.iterdir())
        print(f"{total:,} bytes in {len(list(folder.iterdir()))} files")
        for name, work in (
            ("Shards(folder)", lambda: Shards(folder)),
            ("np.memmap alone", lambda: [np.memmap(p, dtype="<u2", mode="r") for p in paths]),
        ):
            median, slowest = milliseconds(work, given.times)
            print(f"{name:<16} median {median:7.3f} ms, slowest {slowest:7.3f} ms, {given.times} times")


if __name__ == "__main__":
    main()
