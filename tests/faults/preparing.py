"""Processes that prepare data and that tests kill: forks of one that has imported everything but torch, so that one
costs a hundredth of a second. They keep what is done after every few documents.

    with Server() as server:
        child = server.start({"source": ..., "tokenizer": ..., "out": ..., "workers": 2, "faults": ""}, log)

With "poison" the text POISON does what it says to whoever tokenizes it: "kill", "hang", "panic".
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from fabula.data import worker
from tests.faults.forks import Fork, Forks, Request, serve

POISON = "VENENO"


class Panic(BaseException):
    """What tokenizers raises when its Rust side panics: no Exception."""


def poisoned(encode: Callable[..., Any], how: str) -> Callable[..., Any]:
    """An `encode_batch` for which some text is poison."""

    def encode_batch(self: Any, texts: Sequence[str]) -> Any:
        if any(POISON in text for text in texts):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "hang":
                time.sleep(3600)
            else:
                raise Panic("index out of bounds\nnote: run with RUST_BACKTRACE=1")
        return encode(self, texts)

    return encode_batch


def poison(how: str) -> None:
    """Poison this process's tokenizers."""
    from fabula.tokenizer.base import Tokenizer

    Tokenizer.encode_batch = poisoned(Tokenizer.encode_batch, how)  # type: ignore[method-assign]


def poisoned_command(how: str) -> Callable[[Path], list[str]]:
    """What starts a process that tokenizes for which some text is poison."""
    return lambda folder: [sys.executable, "-m", "tests.faults.preparing", "worker", how, str(folder)]


class Server(Forks):
    """The process that forks."""

    module = __name__

    def start(self, settings: Request, log: Path) -> Fork:
        """Fork a process that prepares data."""
        return self.fork({"settings": settings}, log)


def workers_of(fork: Fork) -> list[psutil.Process]:
    """The processes that tokenize for one."""
    try:
        return [p for p in psutil.Process(fork.pid).children() if p.status() != "zombie"]
    except psutil.NoSuchProcess:
        return []


def is_ready(process: psutil.Process) -> bool:
    """Whether a process that tokenizes has said that it is ready: it writes nothing before."""
    try:
        return bool(process.io_counters().write_chars)
    except (psutil.NoSuchProcess, psutil.AccessDenied, AttributeError):  # the last: not a system that counts
        return False


def get_ready() -> None:
    """Import what the forks need; torch is not among it."""
    import tokenizers  # noqa: F401

    import fabula.data.run  # noqa: F401

    assert "torch" not in sys.modules


def prepare(settings: dict[str, Any]) -> int:
    """Prepare data; the exit code."""
    from fabula import faults
    from fabula.corpus.run import Corpus, CorpusConfig
    from fabula.data import encoding, filling
    from fabula.data.run import DataConfig, run
    from fabula.errors import Stopped
    from fabula.progress import Silent, stop_on_signals
    from fabula.tokenizer.base import Tokenizer

    class Watcher(Silent):
        def note(self, message: str) -> None:
            print(message, flush=True)

    faults.arm(settings.get("faults", ""))
    filling._KEEP_BYTES = settings.get("keep_bytes", 20_000)
    how = settings.get("poison")
    if how:
        encoding.command = poisoned_command(how)
        if not settings.get("workers"):
            poison(how)
    corpus = Corpus(CorpusConfig(source=settings["source"], validation=0.2, max_quarantined=0.1))
    config = DataConfig(batch_documents=settings.get("batch_documents", 10), workers=settings.get("workers", 0))
    tokenizer = Tokenizer.load(Path(settings["tokenizer"]))
    with stop_on_signals() as stop:
        try:
            run(config, corpus, tokenizer, Path(settings["out"]), Watcher(), stop)
        except Stopped as error:
            return error.exit_code
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        get_ready()
        serve(lambda request: prepare(request["settings"]))
    else:
        poison(sys.argv[2])
        worker.main(Path(sys.argv[3]))
