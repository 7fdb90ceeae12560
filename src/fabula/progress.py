"""What long work tells whoever watches, without printing: the rooms speak to a `Progress`, `cli/` decides how it looks.

`check_stop` is how every loop learns that a signal asked it to end: handlers only set a flag.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

from fabula.errors import Stopped


class Task(Protocol):
    """One piece of work with a bar."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """`amount` more is done; `note` replaces the text beside the bar."""

    def resize(self, total: float) -> None:
        """There is another amount to do than was said."""


class Progress(Protocol):
    """A watcher of long work."""

    def task(self, name: str, total: float | None, unit: str) -> contextlib.AbstractContextManager[Task]:
        """A bar of `total` units (None: unknown)."""

    def note(self, message: str) -> None:
        """A sentence worth keeping."""


class _SilentTask:
    def advance(self, amount: float = 1, note: str = "") -> None:
        pass

    def resize(self, total: float) -> None:
        pass


class Silent:
    """A watcher that looks away; the default of the Python API."""

    @contextlib.contextmanager
    def task(self, name: str, total: float | None, unit: str) -> Iterator[Task]:
        yield _SilentTask()

    def note(self, message: str) -> None:
        pass


class StopFlag:
    """Set by a signal, read by every loop."""

    def __init__(self) -> None:
        self.signal_number = 0

    def __bool__(self) -> bool:
        return self.signal_number != 0

    def check(self, doing: str) -> None:
        """Raise Stopped if a signal came."""
        if self.signal_number:
            raise Stopped(f"stopped while {doing}", self.signal_number)


# Signals that ask us to stop and the one whose number the exit code tells: cluster managers send SIGUSR1 ahead of the
# end of a job's time. Windows has only the first two.
_SIGNALS = {
    number: told
    for name, told in (("SIGINT", signal.SIGINT), ("SIGTERM", signal.SIGTERM), ("SIGUSR1", signal.SIGTERM))
    if (number := getattr(signal, name, None)) is not None
}

# The flag that the handlers of this process set now: signals belong to the process, so there is one at a time.
_heard: list[StopFlag] = []


def check_stop(doing: str) -> None:
    """Raise Stopped if a signal came, for work that was handed no flag: the one that is heard now."""
    if _heard:
        _heard[-1].check(doing)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """SIGINT, SIGTERM and SIGUSR1 set the flag; a second SIGINT interrupts at once. Only possible in the main thread.

    Inside another such block the flag is that block's: what came before is not forgotten.
    """
    if _heard:
        yield _heard[-1]
        return
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.signal_number = _SIGNALS[signal.Signals(number)]

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    _heard.append(flag)
    try:
        yield flag
    finally:
        _heard.pop()
        for number, old in before.items():
            signal.signal(number, old)
