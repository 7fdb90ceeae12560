"""Processes that prepare data and that tests kill: forks of one that has imported everything but torch, so that one
costs a hundredth of a second. They keep what is done after every few documents.

    with Server() as server:
        child = server.start({"source": ..., "tokenizer": ..., "out": ..., "workers": 2, "faults": ""}, log)

With "poison" the text POISON does what it says to whoever tokenizes it: "kill", "hang", "panic".
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from fabula.data import worker

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


class Child:
    """A fork that prepares data; `output` is what it said."""

    def __init__(self, server: Server, pid: int, log: Path) -> None:
        self.server, self.pid, self.log = server, pid, log
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code, -N for a death by signal N, or None while it runs."""
        if self.code is None:
            self.code = self.server.ask({"poll": self.pid})["code"]
        return self.code

    def wait(self, timeout: float = 60) -> int:
        """The exit code, when it ends."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < end, f"did not end in {timeout} s: {self.output}"
            time.sleep(0.005)
        return code

    def send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def workers(self) -> list[psutil.Process]:
        """The processes that tokenize for it."""
        try:
            return [p for p in psutil.Process(self.pid).children() if p.status() != "zombie"]
        except psutil.NoSuchProcess:
            return []

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""


class Server:
    """The process that forks."""

    def __enter__(self) -> Server:
        from tests import tiny  # not above: it imports torch, which costs every process here

        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__, "serve"],
            cwd=Path(__file__).parents[2],
            env=tiny.environment(TOKENIZERS_PARALLELISM="false"),  # threads do not outlive a fork
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=tiny.on_one_core,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()

    def start(self, settings: dict[str, Any], log: Path) -> Child:
        """Fork a process that prepares data."""
        log.parent.mkdir(parents=True, exist_ok=True)
        return Child(self, self.ask({"start": settings, "log": str(log)})["pid"], log)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One question, one answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer


def serve() -> None:
    """Read requests until there are no more, then kill what still runs."""
    import tokenizers  # noqa: F401

    import fabula.data.run  # noqa: F401

    assert "torch" not in sys.modules
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                _become(request)
            running.add(pid)
            answer: dict[str, int | None] = {"pid": pid}
        else:
            done, status = os.waitpid(request["poll"], os.WNOHANG)
            running.discard(done)
            answer = {"code": os.waitstatus_to_exitcode(status) if done else None}
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _become(request: dict[str, Any]) -> None:
    """Be the process that was asked for; never returns."""
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in ((0, nothing), (1, log), (2, log)):
        os.dup2(descriptor, number)
    code = 70
    try:
        code = prepare(request["start"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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
        serve()
    else:
        poison(sys.argv[2])
        worker.main(Path(sys.argv[3]))
