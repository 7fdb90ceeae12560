"""Fair timing on a noisy machine: every system in a process of its own, given slices of time in turn (A B A B ...).

A system is a class with `advance(seconds)`, which works for about that long and returns a list of records, and
`result()`, asked once at the end. Its process does nothing between slices: only one system uses the machine.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def worker(make: Callable[..., Any], arguments: tuple[Any, ...], threads: int, pipe: Connection) -> None:
    import torch

    from fabula.device import peak_memory_bytes

    torch.set_num_threads(threads)
    system = make(*arguments)
    pipe.send("ready")
    while True:
        order = pipe.recv()
        if order is None:
            pipe.send((system.result(), peak_memory_bytes()))
            return
        pipe.send(system.advance(order))


class System:
    """A system in its own process."""

    def __init__(self, name: str, make: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=worker, args=(make, arguments, threads, other), daemon=True)
        self._process.start()
        self._answer()
        self.records: list[Any] = []
        self.slices: list[list[Any]] = []  # the same, slice by slice
        self.finished = False

    def advance(self, seconds: float) -> None:
        """Give it a slice."""
        self._pipe.send(seconds)
        records = self._answer()
        self.records += records
        self.slices.append(records)
        self.finished = not records

    def close(self) -> tuple[Any, int]:
        """Its result and its peak resident memory in bytes."""
        self._pipe.send(None)
        answer: tuple[Any, int] = self._answer()
        self._process.join(timeout=30)
        return answer

    def _answer(self) -> Any:
        # Bounded: a system that hangs must not hang the benchmark.
        if not self._pipe.poll(1800):
            raise TimeoutError(f"{self.name} did not answer within 30 minutes")
        return self._pipe.recv()


def alternate(systems: list[System], rounds: int, seconds: float, most: float = math.inf) -> None:
    """Slices in turn; the order turns round at every round, so that none always goes first.

    No round begins later than `most` seconds after the first one.
    """
    started = time.monotonic()
    for number in range(rounds):
        if time.monotonic() - started > most:
            return
        for system in systems if number % 2 == 0 else reversed(systems):
            if not system.finished:
                system.advance(seconds)
        print(f"round {number + 1} of {rounds}, {time.strftime('%H:%M:%S')}", file=sys.stderr, flush=True)
