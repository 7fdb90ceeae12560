"""A process beside ours, for work that must never block, prompt, crash or outlive what we do: libraries of others.

It is started as `python -m MODULE`, hears JSON lines and answers in JSON lines, over pipes that a library in it cannot
reach: what that prints goes nowhere, what it asks is answered by an end of file. It is in a session of its own (no
terminal to prompt on, no Ctrl-C), and ends when its input does, so it does not stay behind a parent that was killed.

    first line      the job, whatever the module needs to know
    further lines   messages; {"end": true} is the last one, after which it may take a little time to finish
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

Message = dict[str, Any]

# Seconds that a companion whose parent is gone may still take to leave things in order.
GRACE = 20.0


class Companion:
    """The parent's side. Nothing here waits, but `wait`, for as long as it is told."""

    def __init__(self, module: str, job: Message, environment: Mapping[str, str] | None = None) -> None:
        self._heard: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.problem = ""  # why there is no process, or how it ended
        self._running: subprocess.Popen[bytes] | None = None
        own: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {"creationflags": 0x200}
        try:
            self._running = subprocess.Popen(
                # -P: a file of a known name in the current folder is not ours to run.
                [sys.executable, "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
                **own,
            )
        except OSError as error:
            self.problem = f"could not be started ({error})"
            return
        self._listener = threading.Thread(target=self._listen, args=(self._running,), daemon=True)
        self._listener.start()
        self.tell(job)

    @property
    def pid(self) -> int:
        """Its number; 0 where there is none."""
        return 0 if self._running is None else self._running.pid

    @property
    def alive(self) -> bool:
        """Whether more may be heard from it."""
        return self._running is not None and self._listener.is_alive()

    def tell(self, message: Message) -> None:
        """Send a line. Few and short ones, so that the pipe takes them whatever the other side does."""
        if self._running is None or self._running.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self._running.stdin.write(json.dumps(message).encode() + b"\n")
            self._running.stdin.flush()

    def heard(self) -> list[Message]:
        """What it has said since the last time."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._heard.get_nowait())
        return found

    def wait(self, seconds: float) -> bool:
        """Whether it ended by itself within so many seconds."""
        if self._running is None:
            return True
        self._listener.join(max(0.0, seconds))
        if self._listener.is_alive():
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.wait(1.0)
        return self._running.poll() is not None

    def end(self) -> None:
        """End it and all that it has started, now."""
        if self._running is None:
            return
        for process in _family(self._running.pid):
            with contextlib.suppress(OSError):
                os.kill(process, getattr(signal, "SIGKILL", signal.SIGTERM))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.wait(5.0)
        self._listener.join(1.0)
        for pipe in (self._running.stdin, self._running.stdout):
            if pipe is not None and not self._listener.is_alive():
                with contextlib.suppress(OSError):
                    pipe.close()

    def _listen(self, running: subprocess.Popen[bytes]) -> None:
        assert running.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            for line in running.stdout:
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    if isinstance(said, dict):
                        self._heard.put(said)


def _family(pid: int) -> list[int]:
    """A process and its descendants, the youngest first, so that none is left without a parent to be found by."""
    import psutil

    try:
        return [p.pid for p in reversed(psutil.Process(pid).children(recursive=True))] + [pid]
    except psutil.Error:
        return [pid]


# ---- in the companion --------------------------------------------------------------------------------------


class Parent:
    """The companion's side: what it is told, and its answers. `behind`: it gets what its parent leaves of the cores.

    When the parent is gone it has `grace` seconds to leave things in order.
    """

    def __init__(self, behind: bool = True, grace: float = GRACE) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if behind and hasattr(os, "nice"):
            os.nice(10)  # what has a core to itself is the work that it is beside
        commands, answers = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        self._commands: IO[bytes] = os.fdopen(commands, "rb")
        self._answers, self._grace = answers, grace
        self._told: queue.SimpleQueue[Message] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def next(self, seconds: float | None = None) -> Message | None:
        """The next message; None when none came within so many seconds."""
        try:
            return self._told.get(timeout=seconds)
        except queue.Empty:
            return None

    def messages(self, seconds: float, otherwise: Callable[[], None]) -> Iterator[Message]:
        """Messages until the last one; `otherwise` is called whenever none came for so many seconds."""
        while True:
            message = self.next(seconds)
            if message is None:
                otherwise()
                continue
            if message.get("end"):
                return
            yield message

    def say(self, **answer: Any) -> None:
        """Answer with a line."""
        with contextlib.suppress(OSError):
            os.write(self._answers, json.dumps(answer).encode() + b"\n")

    def _listen(self) -> None:
        """Hand on what comes; when the parent has gone, see to it that this process ends."""
        with contextlib.suppress(OSError, ValueError):
            for line in self._commands:
                message = json.loads(line)
                self._told.put(message)
        self._told.put({"end": True})
        time.sleep(self._grace)
        leave()


def leave() -> None:
    """End this process at once, whatever threads a library has left behind."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def first_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0][:200]}"
