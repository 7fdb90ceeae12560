"""An endless, exactly resumable stream of batches.

The data position is one integer: the number of rows consumed since the start of the run. Row number n belongs to
epoch n // rows and is that epoch's n % rows-th row of a keyed permutation, so the order depends on the seed alone:
not on prefetch, batch size or how often the run was stopped. What a row is, `rows.py` knows.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Generator
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from fabula.config import Data
from fabula.data.batch import Batch
from fabula.data.mixture import Feed, Schedule, Shares, shares
from fabula.data.rows import make_rows
from fabula.data.shards import Split
from fabula.errors import MachineError

Ids = NDArray[np.int64]
_U64 = np.uint64

# Seconds: how long a batch may take before its thread is given up, and between two looks. Attempts beyond the first.
_PATIENCE, _LOOK, _ATTEMPTS = 10.0, 0.2, 3


class Pinnable(Protocol):
    """What a loader makes."""

    def pinned(self) -> Self: ...


B = TypeVar("B", bound=Pinnable)


class Batches(Generic[B]):
    """Batches that are a function of their position, and the stream of them."""

    name: str  # of the split
    pinned = False  # whether batches are made in memory that a graphics card reads while others compute

    def batch(self, position: int, rows: int) -> B:
        """The rows `position` .. `position + rows` of the run."""
        raise NotImplementedError

    def stream(
        self, position: int, rows: int, waiting: Callable[[], None] | None = None, ahead: int = 2
    ) -> Generator[B]:
        """Batches of `rows` from `position` on, without end, made `ahead` of time by a thread.

        `waiting` is called a few times a second while there is none (where a stop is noticed). A thread that has made
        none for ten seconds, or that met an error of the system, is given up, and another one begins at the same place:
        a batch is a function of its position, so none is lost or repeated. Each gets twice the time of the one before,
        so that a disk that is only slow is waited for. MachineError when that has not helped three times.
        """
        place, failed, patience = position, 0, _PATIENCE
        worker = _Ahead(self, place, rows, ahead)
        try:
            while True:
                began = time.monotonic()
                item, told = None, f"did not answer in {patience:,.0f} s"
                while item is None and time.monotonic() - began < patience:
                    try:
                        item = worker.get(_LOOK)
                    except OSError as error:
                        told = f"reported an error ({error})"
                        break
                    if item is None and waiting is not None:
                        waiting()
                if item is None:
                    failed += 1
                    if failed > _ATTEMPTS:
                        raise MachineError(
                            f"no batch of the {self.name} split came, {failed} times in a row: the disk that "
                            f"holds the data {told}. What is saved is whole, resume when the disk is back"
                        )
                    worker.abandon()
                    worker, patience = _Ahead(self, place, rows, ahead), 2 * patience
                    continue
                place, failed, patience = place + rows, 0, max(_PATIENCE, 2 * (time.monotonic() - began))
                yield item
        finally:
            worker.abandon()


class Loader(Batches[Batch]):
    """Batches of the rows of a split in a fixed pseudo-random order; of a mixture in its shares.

    `n_rows` are the rows of an epoch. Of a mixture that is a matter of definition (see `mixture.py`), and each
    component is passed over in its own time: `passes` counts.
    """

    def __init__(
        self, split: Split, context: int, seed: int, isolate_documents: bool, feed: Feed | None = None, padding: int = 0
    ) -> None:
        feed = feed or Feed()
        self.split, self.context, self.seed, self.name = split, context, seed, split.name
        parts = [split.component(name) for name in feed.mixture] or [split.whole]
        self.rows = rows = make_rows(split, context, isolate_documents, feed.packing, padding, parts)
        self._seeds = [seed if part == 0 else mix(seed, part) for part in range(len(parts))]
        each = [predictions / n for predictions, n in zip(rows.predictions, rows.n_rows, strict=True)]
        made = Shares((1.0,), rows.n_rows[0])
        if feed.mixture:
            made = shares(list(feed.mixture.values()), rows.n_rows, each)
        self._schedule = Schedule(made.rows, [mix(s, 1 << 32) / (1 << 64) for s in self._seeds])
        self.n_rows = made.epoch
        # Predictions of a row, on average; exact where all have the same.
        mean = math.fsum(share * tokens for share, tokens in zip(made.rows, each, strict=True))
        self.row_tokens = each[0] if len(set(each)) == 1 else mean
        # Of the predictions, not of the rows.
        self.shares = {
            part.name: share * tokens / self.row_tokens
            for part, share, tokens in zip(parts, made.rows, each, strict=True)
        }

    @property
    def token_bytes(self) -> float:
        """Bytes of text behind a token, on average."""
        if len(self.shares) == 1:
            return self.split.n_bytes / self.split.n_tokens
        return math.fsum(self.shares[part.name] * part.bytes / part.tokens for part in self.rows.parts)

    def batch(self, position: int, rows: int) -> Batch:
        """The rows `position` .. `position + rows` of the run."""
        return self.rows_at(self._keys(position, rows)[1])

    def places(self, position: int, rows: int) -> tuple[list[int], list[int]]:
        """Of the rows `position` .. `position + rows` of the run: their passes, and where they begin in the split."""
        passes, keys = self._keys(position, rows)
        return passes.tolist(), self.rows.starts(keys).tolist()

    def figures(self) -> Data:
        """What the packing does to the documents of the split."""
        return self.rows.figures()

    def passes(self, position: int) -> dict[str, float]:
        """How often each component was read after so many rows."""
        counts = self._schedule.counts(position)
        names = [part.name for part in self.rows.parts]
        return {name: count / n for name, count, n in zip(names, counts, self.rows.n_rows, strict=True)}

    def rows_at(self, keys: Ids) -> Batch:
        """The rows of some keys."""
        return self.rows.batch(keys)

    def fixed(self, most: int | None = None) -> Ids:
        """The keys of a fixed set of rows for validation: all of them, or `most` spread evenly over the split.

        No two share a target, so no byte is counted twice. What of a stream fills no row is left to `evaluate`, which
        scores every byte.
        """
        return self.rows.fixed(most)

    def _keys(self, position: int, rows: int) -> tuple[Ids, Ids]:
        parts, numbers = self._schedule.of(np.arange(position, position + rows))
        passes, keys = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64)
        for part in np.unique(parts):
            n_rows, seed = self.rows.n_rows[part], self._seeds[part]
            passes[parts == part] = numbers[parts == part] // n_rows
            for number in np.unique(passes[parts == part]):
                here = (parts == part) & (passes == number)
                order = permute(numbers[here] % n_rows, n_rows, mix(seed, int(number)))
                keys[here] = self.rows.keys(int(part), order, mix(seed + 1, int(number)))
        return passes, keys


class _Ahead(Generic[B]):
    """A thread that makes batches ahead of time."""

    def __init__(self, loader: Batches[B], place: int, rows: int, ahead: int) -> None:
        self._ready: queue.Queue[B | BaseException] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._worker = threading.Thread(
            target=self._fill, args=(loader, place, rows), name="fabula-loader", daemon=True
        )
        self._worker.start()

    def get(self, timeout: float) -> B | None:
        """The next batch, or None when it takes longer; an error of the thread is raised here."""
        try:
            item = self._ready.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        return item

    def abandon(self) -> None:
        """Let the thread end when it can."""
        self._stop.set()
        # One that waits for room is let go at once.
        with contextlib.suppress(queue.Empty):
            while True:
                self._ready.get_nowait()
        self._worker.join(timeout=_LOOK)

    def _fill(self, loader: Batches[B], place: int, rows: int) -> None:
        try:
            while not self._stop.is_set():
                batch = loader.batch(place, rows)
                self._put(batch.pinned() if loader.pinned else batch)
                place += rows
        except BaseException as error:  # handed to the consumer: a thread must not die in silence
            self._put(error)

    def _put(self, item: B | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue


def permute(index: Ids, n: int, key: int) -> Ids:
    """A keyed permutation of 0 .. n-1 applied to some of its places, without a table.

    A Feistel network of four rounds over the smallest even number of bits that holds n; a result outside 0 .. n-1 is
    sent through again (cycle walking), which keeps it a permutation (Black and Rogaway, 2002).
    """
    half = max(1, ((max(n - 1, 1)).bit_length() + 1) // 2)
    mask = _U64((1 << half) - 1)
    result = index.astype(np.uint64)
    todo = np.ones(len(result), dtype=bool)
    while todo.any():
        left, right = result[todo] >> _U64(half), result[todo] & mask
        for turn in range(4):
            left, right = right, left ^ (_scramble(right, mix(key, turn)) & mask)
        walked = (left << _U64(half)) | right
        result[todo] = walked
        todo[todo] = walked >= _U64(n)
    return result.astype(np.int64)


def _scramble(x: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """splitmix64's finalizer: every bit of the result depends on every bit of x and key."""
    with np.errstate(over="ignore"):
        z = x + _U64(key)
        z = (z ^ (z >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> _U64(27))) * _U64(0x94D049BB133111EB)
        return z ^ (z >> _U64(31))


def mix(a: int, b: int) -> int:
    """A 64-bit number from two."""
    seeds = np.array([(a * 0x9E3779B97F4A7C15 + b) % (1 << 64)], dtype=np.uint64)
    return int(_scramble(seeds, 0x9E3779B97F4A7C15)[0])
