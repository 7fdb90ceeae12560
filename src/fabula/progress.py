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


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """SIGINT and SIGTERM set the flag; a second SIGINT interrupts at once. Only possible in the main thread."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.signal_number and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.signal_number = number

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, old in before.items():
            signal.signal(number, old)
