"""Are the others alive, and where are they? Each process says it once a second in the store that all of them can read.

A process that died or was frozen is silent; one that hangs goes on to say that it is at the same place. So whoever has
waited too long can name who it waits for. What a process was asked by a signal, and that it ends, is said there too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fabula.errors import FabulaError, LostError, Stopped
from fabula.progress import StopFlag

# Seconds between two signs of life, at most.
_BEAT = 1.0


@dataclass(slots=True)
class _Heard:
    """The last sign of life of another process and when it was seen here."""

    said: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)


class Life:
    """Signs of life of this process, on a thread of its own, and what is known of the others.

    `connect` makes connections to the store: one that waits would keep a shared one from everybody else. A place that
    is `busy` is work that the others do not share, as writing a checkpoint: they wait for as long as there are signs of
    life.
    """

    def __init__(self, connect: Callable[[], Any], rank: int, world: int, timeout: float, stop: StopFlag) -> None:
        self.rank, self.world, self.timeout, self.stop = rank, world, timeout, stop
        self.interval = min(_BEAT, timeout / 5)
        self.step, self.doing, self.busy, self.count = 0, "starting", True, 0
        self._store, self._own = connect(), connect()
        self._heard = {other: _Heard() for other in range(world) if other != rank}
        self._looked = 0.0
        self._done = threading.Event()
        self._beat(0)
        self._thread = threading.Thread(target=self._keep, name="fabula-life", daemon=True)
        self._thread.start()

    def meet(self) -> None:
        """Wait until every process has come; LostError naming those that have not in time."""
        until = time.monotonic() + self.timeout
        missing = list(self._heard)
        while missing:
            self.stop.check("waiting for the other processes")
            self._look_for_ends()
            missing = [other for other in missing if not self._store.check([f"beat/{other}"])]
            if missing and time.monotonic() > until:
                names = ", ".join(map(str, missing))
                raise LostError(f"rank {names} of {self.world} did not come in {self.timeout:g} s; were all started?")
            if missing:
                time.sleep(0.02)
        for heard in self._heard.values():
            heard.at = time.monotonic()

    def look(self, waited: float) -> None:
        """LostError, naming rank, step and place, when somebody whom this process waits for will not come."""
        self._look_for_ends()
        now = time.monotonic()
        if now - self._looked < self.timeout / 6:
            return  # many processes would keep the store busy with asking
        self._looked = now
        for other, heard in self._heard.items():
            self._read(other, heard)
            if now - heard.at > self.timeout:
                raise LostError(f"{self._named(other)} was not heard of for {now - heard.at:.0f} s; {self._here()}")
        if waited > self.timeout:
            # What is busy is not there yet, and is known to be at work.
            late = {o: h for o, h in self._heard.items() if h.said.get("count", 0) < self.count}
            hanging = [other for other, heard in late.items() if not heard.said.get("busy")]
            if hanging:
                names = "; ".join(self._named(other) for other in hanging)
                raise LostError(f"{names} did not go on for {waited:.0f} s; {self._here()}")
            if not late and waited > 2 * self.timeout:
                raise LostError(f"all processes came, and nothing came of it in {waited:.0f} s; {self._here()}")

    def lost(self, error: BaseException) -> FabulaError:
        """The error to raise when a connection broke: who is gone is found out first, for a few seconds."""
        until = time.monotonic() + max(4 * self.interval, 1.0)
        before: dict[int, int] = {}
        while time.monotonic() < until:
            try:
                self._look_for_ends()
                for other, heard in self._heard.items():
                    self._read(other, heard)
                    before.setdefault(other, heard.said.get("n", -1))
            except FabulaError as found:
                return found
            time.sleep(self.interval / 4)
        silent = [other for other, heard in self._heard.items() if heard.said.get("n", -1) == before[other]]
        if silent:
            return LostError(f"{'; '.join(self._named(other) for other in silent)} is gone; {self._here()}")
        told = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        late = min(self._heard, key=lambda o: self._heard[o].said.get("count", 0))
        return LostError(
            f"the connection to another process broke ({told}), perhaps {self._named(late)}; {self._here()}"
        )

    def end(self, error: BaseException | None) -> None:
        """No more signs of life; an error is told to the others, who would wait."""
        self._done.set()
        if error is not None:
            code = error.exit_code if isinstance(error, FabulaError) else 1
            silent = isinstance(error, FabulaError) and error.told
            told = str(error).strip() or type(error).__name__
            with contextlib.suppress(RuntimeError, OSError):
                self._store.set(
                    f"ended/{self.rank}",
                    json.dumps(
                        {"message": told, "code": code, "stopped": isinstance(error, Stopped), "told": not silent}
                    ),
                )
                self._store.add("ended", 1)
        self._thread.join(timeout=2 * self.interval)

    def _look_for_ends(self) -> None:
        """What another process ended with, raised here."""
        if not self._ask(self._store.add, "ended", 0):
            return
        for other in self._heard:
            name = f"ended/{other}"
            if self._ask(self._store.check, [name]):
                said = json.loads(self._ask(self._store.get, name))
                found: FabulaError
                if said["stopped"]:
                    found = Stopped(said["message"], said["code"] - 128)
                else:
                    found = LostError(f"rank {other} ended: {said['message']}")
                    found.exit_code = said["code"]
                found.told = said["told"]
                raise found

    def _read(self, other: int, heard: _Heard) -> None:
        name = f"beat/{other}"
        if not self._ask(self._store.check, [name]):
            return
        said = json.loads(self._ask(self._store.get, name))
        if said.get("n") != heard.said.get("n"):
            heard.said, heard.at = said, time.monotonic()

    def _ask(self, question: Callable[..., Any], *about: Any) -> Any:
        try:
            return question(*about)
        except (RuntimeError, OSError) as error:
            told = str(error).strip().splitlines()[0][:120]
            raise LostError(
                f"the store that rank 0 or its launcher keeps does not answer ({told}): rank 0 is gone or hangs; "
                f"{self._here()}"
            ) from None

    def _named(self, other: int) -> str:
        said = self._heard[other].said
        who = f"process {said['process']} on {said['host']}, " if said else ""
        return f"rank {other} ({who}last at step {said.get('step', 0):,}, {said.get('doing', 'starting')})"

    def _here(self) -> str:
        return (
            f"rank {self.rank} waited at step {self.step:,}, {self.doing}. What is saved is whole: the same command "
            "goes on from the newest checkpoint, and torchrun --max-restarts does so by itself"
        )

    def _beat(self, number: int) -> None:
        said = {
            "n": number,
            "count": self.count,
            "step": self.step,
            "doing": self.doing,
            "busy": self.busy,
            "process": os.getpid(),
            "host": socket.gethostname(),
        }
        self._own.set(f"beat/{self.rank}", json.dumps(said))
        # A signal to one is a signal to all.
        if self.stop.signal_number:
            self._own.set("stop", str(self.stop.signal_number))
        elif self._own.check(["stop"]):
            self.stop.signal_number = int(self._own.get("stop"))

    def _keep(self) -> None:
        number = 0
        while not self._done.wait(self.interval):
            number += 1
            try:
                self._beat(number)
            except (RuntimeError, OSError):
                # The store is gone, and with it whoever kept it: a launcher that was killed must not leave orphans.
                if not self._done.is_set():
                    self.stop.signal_number = self.stop.signal_number or signal.SIGTERM
                return
