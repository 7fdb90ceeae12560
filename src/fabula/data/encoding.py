"""Who tokenizes: this process on all threads, or several processes of one thread each. The ids are the same.

A process that dies is replaced, and what it was working on is tried again, text by text. A text on which a process
dies twice, working on nothing else, is given up. There is no pickle and no fork between them: `worker.py` has the
protocol.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fabula.corpus.document import Document
from fabula.corpus.split import Split as SplitName
from fabula.data import worker
from fabula.data.worker import Failure
from fabula.errors import DamagedError, MachineError
from fabula.progress import Progress, StopFlag
from fabula.tokenizer.base import Tokenizer

DIED = "the tokenizer's process died on it twice"

# A process that says nothing for this long is taken for stuck, with time for the slowest tokenizing imaginable.
_PATIENCE_SECONDS = 60.0
_START_SECONDS = 60.0
_SLOWEST_BYTES_PER_SECOND = 100_000
_TRIES = 2
_STARTS = 5
_POLL_SECONDS = 0.2
# What is tokenized or waits for its turn to be written, in all processes together.
_IN_FLIGHT_BYTES = 64 << 20
_MOST_PROCESSES = 8

Encoded = Sequence[int] | NDArray[np.uint32] | Failure


@dataclass(frozen=True, slots=True)
class Item:
    """A document that is to be tokenized: its number in the corpus, its split, the bytes of its text."""

    number: int
    split: SplitName
    document: Document
    size: int


class Encoder(Protocol):
    """Somebody who tokenizes."""

    def encode(self, batches: Iterator[list[Item]], stop: StopFlag) -> Iterator[tuple[list[Item], list[Encoded]]]:
        """Each batch in its order with what became of its texts; Stopped when a signal comes."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_processes() -> int:
    """One for each core, within reason: each takes some 100 MB."""
    return min(_MOST_PROCESSES, cores())


class Here:
    """Tokenizes in this process, on all threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, batches: Iterator[list[Item]], stop: StopFlag) -> Iterator[tuple[list[Item], list[Encoded]]]:
        for batch in batches:
            stop.check("tokenizing")
            yield batch, [*worker.encode_each(self.tokenizer, [item.document.text for item in batch])]


class Processes:
    """Tokenizes in `count` processes; a context in which they live.

    `folder` is where their copy of the tokenizer is written.
    """

    def __init__(self, tokenizer: Tokenizer, folder: Path, count: int, progress: Progress) -> None:
        tokenizer.save(folder)
        self.progress = progress
        self._sayings: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._processes = [_Process(folder, tokenizer.fingerprint, self._sayings) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        # A thread does nothing but write to its process and wait for the answer.
        self._threads = ThreadPoolExecutor(count, "fabula-tokenizing")

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.end()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.bury()

    def encode(self, batches: Iterator[list[Item]], stop: StopFlag) -> Iterator[tuple[list[Item], list[Encoded]]]:
        pending: deque[tuple[list[Item], int, Future[list[Encoded]]]] = deque()
        in_flight, more = 0, True
        while True:
            while more and len(pending) < 2 * len(self._processes) and in_flight < _IN_FLIGHT_BYTES:
                batch = next(batches, None)
                if batch is None:
                    more = False
                    break
                size = sum(item.size for item in batch)
                in_flight += size
                pending.append((batch, size, self._threads.submit(self._encode, batch)))
            if not pending:
                return
            batch, size, future = pending.popleft()
            self._wait(future, stop)
            in_flight -= size
            yield batch, future.result()

    def _wait(self, future: Future[list[Encoded]], stop: StopFlag) -> None:
        """Wait for a batch, with an eye on signals and on processes that are stuck."""
        while True:
            stop.check("tokenizing")
            wait([future], timeout=_POLL_SECONDS)
            while not self._sayings.empty():
                self.progress.note(self._sayings.get())
            if future.done():
                return
            for process in self._processes:
                process.end_if_stuck()

    def _encode(self, batch: list[Item]) -> list[Encoded]:
        """What becomes of a batch, in one of the threads."""
        process = self._idle.get()
        try:
            texts = [item.document.text for item in batch]
            with contextlib.suppress(_Died):
                return process.ask(texts)
            return [_alone(process, text) for text in texts]
        finally:
            self._idle.put(process)


def _alone(process: _Process, text: str) -> Encoded:
    for _ in range(_TRIES):
        with contextlib.suppress(_Died):
            return process.ask([text])[0]
    return Failure(DIED)


class _Died(Exception):
    """A process ended before it had answered."""


class _Process:
    """One process and its successors. All but `end` and `end_if_stuck` is called by one thread at a time."""

    def __init__(self, folder: Path, fingerprint: str, sayings: queue.SimpleQueue[str]) -> None:
        self.folder, self.fingerprint, self.sayings = folder, fingerprint, sayings
        self._running: subprocess.Popen[bytes] | None = None
        self._deadline = math.inf
        self._ended = False
        self._lock = threading.Lock()

    def ask(self, texts: Sequence[str]) -> list[Encoded]:
        """The ids of texts; _Died when there was no answer."""
        running = self._running or self._start()
        frame = worker.pack_texts(texts)
        reply = self._answer(running, frame)
        if reply is None:
            self._say(f"a process that tokenizes {self.bury()}; another one takes its place")
            raise _Died
        return [r if isinstance(r, Failure) else np.frombuffer(r, "<u4") for r in worker.unpack_results(reply)]

    def end(self) -> None:
        """Let it end, for good."""
        with self._lock:
            self._ended = True
            if self._running is not None:
                self._running.kill()

    def end_if_stuck(self) -> None:
        """Let it end when it has not answered for too long: its thread sees it as any other death."""
        with self._lock:
            if self._running is not None and time.monotonic() > self._deadline:
                self._running.kill()

    def bury(self) -> str:
        """Free what a process that is dead or to die still holds; returns how it ended, in words."""
        running = self._running
        if running is None:
            return "did not start"
        running.kill()
        code = running.wait()
        with self._lock:
            self._running = None
        for pipe in (running.stdin, running.stdout):
            with contextlib.suppress(OSError):
                _there(pipe).close()
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def _start(self) -> subprocess.Popen[bytes]:
        """A process that is ready. One that dies before it is ready has not died of a text."""
        how = ""
        for attempt in range(_STARTS):
            time.sleep(0.2 * attempt)
            with self._lock:
                if self._ended:
                    raise _Died
                running = self._running = _launch(self.folder)
            reply = self._answer(running)
            if reply is not None:
                facts = json.loads(reply)
                if facts.get("fingerprint") == self.fingerprint:
                    return running
                self.bury()
                raise DamagedError(facts.get("error") or f"{self.folder}: the tokenizer there is another one")
            how = self.bury()
        raise MachineError(
            f"the processes that tokenize do not start: {_STARTS} times one {how} at once. To see why: "
            f"{' '.join(command(self.folder))}"
        )

    def _answer(self, running: subprocess.Popen[bytes], frame: bytes = b"") -> bytes | None:
        """The next reply, to `frame` if there is one; None when none comes."""
        patience = _PATIENCE_SECONDS + len(frame) / _SLOWEST_BYTES_PER_SECOND if frame else _START_SECONDS
        self._deadline = time.monotonic() + patience
        try:
            if frame:
                worker.write_frame(_there(running.stdin), frame)
            return worker.read_frame(_there(running.stdout))
        except OSError:
            return None
        finally:
            self._deadline = math.inf

    def _say(self, sentence: str) -> None:
        if not self._ended:
            self.sayings.put(sentence)


def command(folder: Path) -> list[str]:
    """The words that start a process with the tokenizer in a folder."""
    # -P: a file of a known name in the current folder is not ours to run.
    return [sys.executable, "-P", "-m", worker.__name__, str(folder)]


def _launch(folder: Path) -> subprocess.Popen[bytes]:
    # One thread each, since there is one process for each core.
    single = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    try:
        return subprocess.Popen(
            command(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **single},
        )
    except OSError as error:
        raise MachineError(
            f"a process that tokenizes could not be started ({error}); --data.workers 1 needs only one"
        ) from error


def _there(pipe: Any) -> Any:
    """A pipe that was asked for."""
    assert pipe is not None
    return pipe
