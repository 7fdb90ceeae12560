"""Runs `fabula` in processes that cost a tenth of a second: forks of one that has already imported everything.

Each fork is a process of its own with its own signals, files and locks, running the command's `main` with its arguments
as the shell would; only the imports are shared, and the machine is measured for an instant. Ends with its maker.

    with ForkServer() as server:
        process = server.start("run", "tiny.toml", cwd=tmp_path, faults="train.step=kill@7")
        process.wait()
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from tests import tiny


class Process:
    """One fork. `output` is what it wrote to stdout and stderr together."""

    def __init__(self, server: ForkServer, pid: int, log: Path) -> None:
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
                raise AssertionError(f"did not end in {timeout} s: {tiny.tail(self.output, 8)}")
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


class ForkServer:
    """The process that forks."""

    def __enter__(self) -> ForkServer:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forkserver"],
            cwd=Path(__file__).parents[2],
            env=tiny.environment(TOKENIZERS_PARALLELISM="false"),  # threads do not outlive a fork
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._count = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()

    def start(self, *arguments: object, cwd: Path, faults: str = "") -> Process:
        """Fork a process that runs `fabula` with these arguments."""
        self._count += 1
        log = cwd / f"output-{self._count}.txt"
        words = [str(a) for a in arguments]
        made = self.ask({"start": words, "cwd": str(cwd), "log": str(log), "faults": faults})
        return Process(self, made["pid"], log)

    def run(self, *arguments: object, cwd: Path, faults: str = "", timeout: float = 60) -> Process:
        """The same, waited for."""
        process = self.start(*arguments, cwd=cwd, faults=faults)
        process.wait(timeout)
        return process

    def ask(self, request: dict[str, object]) -> dict[str, int]:
        """One question, one answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer: dict[str, int] = json.loads(self._server.stdout.readline())
        return answer


def _become(request: dict[str, object]) -> None:
    """Be the process that was asked for; never returns."""
    os.setsid()
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in ((0, nothing), (1, log), (2, log)):
        os.dup2(descriptor, number)
    os.chdir(str(request["cwd"]))
    os.environ["FABULA_FAULTS"] = str(request["faults"])
    code = 70
    try:
        from fabula.cli.main import main

        main([str(word) for word in request["start"]])  # type: ignore[attr-defined]
    except SystemExit as exit:
        code = int(exit.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Read requests until there are no more, then kill what still runs."""
    import torch

    import fabula.cli.main
    import fabula.cli.recipes
    import fabula.pipeline
    from fabula.train import run as training
    from fabula.train import speed

    torch.set_num_threads(1)
    speed._SECONDS = (0.0, 0.02)
    measure = training.measure

    def measured(*arguments: Any, **named: Any) -> speed.Speed:
        """Measure, but plan with one speed: what two runs are planned to do must not differ if they are compared."""
        found = measure(*arguments, **named)
        return replace(found, step=0.1, evaluation_row=0.01, sampled_token=0.001, save=0.05)

    training.measure = measured
    with tempfile.TemporaryDirectory() as folder:
        # A whole run, so that what is imported late is there before the first fork.
        fabula.pipeline.run(tiny.write_recipe(Path(folder)), {"train.budget": "2steps"}, runs=folder)
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
            if done:
                running.discard(done)
            answer = {"code": os.waitstatus_to_exitcode(status) if done else None}
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
