"""Processes that cost a hundredth of a second: forks of one that has already imported what they need.

Each fork is a process of its own with its own signals, files and locks. A module that serves says what its forks do:

    class Runners(Forks):
        module = "tests.faults.runners"

        def start(self, *arguments, cwd) -> Fork:
            return self.fork({"arguments": arguments}, log)

    if __name__ == "__main__":
        serve(become)              # become(request) -> exit code, in the fork

The server ends with its maker, and kills what still runs. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

Request = dict[str, Any]


class Fork:
    """One fork. `output` is what it wrote to stdout and stderr together."""

    def __init__(self, server: Forks, pid: int, log: Path) -> None:
        self.server, self.pid, self.log = server, pid, log
        self.code: int | None = None

    def poll(self) -> int | None:
        """The exit code, -N for a death by signal N, or None while it runs."""
        if self.code is None:
            self.code = self.server.ask({"poll": self.pid})["code"]
        return self.code

    def wait(self, timeout: float = 60) -> int:
        """The exit code; AssertionError, after killing it, when it takes too long."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise AssertionError(f"did not end in {timeout} s: {self.output[-800:]}")
            time.sleep(0.005)
        return code

    def send(self, number: int) -> bool:
        """Send a signal; whether the process was still there."""
        if self.poll() is not None:
            return False
        os.kill(self.pid, number)
        return True

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class Forks:
    """The process that forks; `module` is run as a program and calls `serve`."""

    module: ClassVar[str]

    def __enter__(self) -> Self:
        from tests import tiny  # not above: it imports torch

        self._server = subprocess.Popen(
            [sys.executable, "-m", self.module, "serve"],
            cwd=Path(__file__).parents[2],
            env=tiny.environment(TOKENIZERS_PARALLELISM="false"),  # threads do not outlive a fork
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()

    def fork(self, request: Request, log: Path) -> Fork:
        """Fork a process for a request; what it says goes into `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        return Fork(self, self.ask({**request, "log": str(log)})["pid"], log)

    def ask(self, request: Request) -> dict[str, Any]:
        """One question, one answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer


def serve(become: Callable[[Request], int], prepare: Callable[[Request], None] = lambda request: None) -> None:
    """Read requests until there are no more, then kill what still runs.

    A fork calls `become` and ends with its exit code; `prepare` is called before, in the server itself.
    """
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            done, status = os.waitpid(request["poll"], os.WNOHANG)
            running.discard(done)
            answer: dict[str, int | None] = {"code": os.waitstatus_to_exitcode(status) if done else None}
        else:
            prepare(request)
            pid = os.fork()
            if pid == 0:
                _become(become, request)
            running.add(pid)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _become(become: Callable[[Request], int], request: Request) -> None:
    """Be the process that was asked for; never returns."""
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in ((0, nothing), (1, log), (2, log)):
        os.dup2(descriptor, number)
    code = 70
    try:
        code = become(request)
    except SystemExit as exit:
        code = int(exit.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
