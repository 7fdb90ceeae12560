"""Who computes, and who waits? One thread a model runs all its texts; the event loop only hands over and hears.

    routes ─submit─► inbox ─► Batch.step, again and again ─► bytes to text ─► a text's buffer ─► routes

A text that nobody reads fast enough pauses: its buffer holds a few dozen pieces and no more, its slot idles, the others
go on. A text that nobody wants is gone after the step that runs. The queue is bounded: what does not fit is refused at
once, and told when to come back.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from fabula.device import let_threads_go
from fabula.generate.backend import Backend
from fabula.generate.batch import Batch, Finish, Handle, Request
from fabula.generate.engine import Token
from fabula.generate.text import TextStream
from fabula.serve.metrics import Metrics
from fabula.serve.refusal import Refusal
from fabula.tokenizer.base import Tokenizer

# Pieces that lie in a text's buffer before it pauses.
MOST_UNREAD = 32
# Other work of a model (vectors of texts) that may wait.
MOST_TASKS = 64

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """The text that became certain with some tokens; it may be empty."""

    text: str
    tokens: tuple[Token, ...]


class Group:
    """The texts of one HTTP request, which is woken when any of them has something new."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self._news = loop, asyncio.Event()
        self.arrived = time.monotonic()

    def wake(self) -> None:
        """Called in the event loop."""
        self._news.set()

    async def news(self) -> None:
        """Wait until there is something."""
        await self._news.wait()
        self._news.clear()


class Writer:
    """One text on its way. The engine's thread puts pieces in, the event loop takes them out."""

    def __init__(self, engine: Engine, group: Group, request: Request, stops: Sequence[str]) -> None:
        self.engine, self.group, self.request = engine, group, request
        self.finish: Finish | None = None
        self.error: Exception | None = None
        self.written = 0
        self._text = TextStream(stops)
        self._handle: Handle | None = None
        self._pieces: deque[Piece] = deque()
        self._cancelled = False

    def take(self) -> list[Piece]:
        """What came since the last call."""
        full, taken = self.full, []
        while self._pieces:
            taken.append(self._pieces.popleft())
        if full:
            self.engine.poke()
        return taken

    @property
    def full(self) -> bool:
        """Whether its reader is behind."""
        return len(self._pieces) >= MOST_UNREAD

    @property
    def done(self) -> bool:
        """Whether it has ended and everything of it was taken."""
        return self.finish is not None and not self._pieces

    @property
    def has_begun(self) -> bool:
        """Whether there is something of it to take, or it has ended."""
        return bool(self._pieces) or self.finish is not None

    def cancel(self) -> None:
        """No more of it; from any thread."""
        self._cancelled = True
        if self.finish is None:
            if self._handle is not None:
                self._handle.cancel()
            self.engine.poke()

    # ---- the engine's side -----------------------------------------------------------------------------------

    def deliver(self, tokenizer: Tokenizer) -> bool:
        """Turn the tokens that came into text; whether there is news."""
        handle = self._handle
        assert handle is not None
        if self._cancelled:
            # Nobody reads on: what lies there unread does not hold it back.
            handle.cancel()
            self._pieces.clear()
            self.finish = "cancelled"
            return True
        if self.full:
            return False
        came = handle.take()
        tokens: list[Token] = []
        parts: list[str] = []
        reason: Finish | None = None
        for token in came:
            tokens.append(token)
            if token.finish == "end":
                # What ends a text is no part of it.
                parts.append(self._text.finish())
            else:
                parts.append(self._text.feed(tokenizer.decode_bytes([token.id])))
                if token.finish is not None and not self._text.stopped:
                    parts.append(self._text.finish())
            self.written += 1
            reason = "stop" if self._text.stopped else token.finish
            if reason is not None:
                break
        if tokens:
            self._pieces.append(Piece("".join(parts), tuple(tokens)))
        if reason == "stop":
            handle.cancel()
        elif reason is None and handle.finish in ("cancelled", "error"):
            reason, self.error = handle.finish, handle.error
        self.finish = reason
        return bool(tokens) or reason is not None

    def has_news(self) -> bool:
        """Whether `deliver` would find something."""
        if self._cancelled:
            return True
        if self.full:
            return False
        handle = self._handle
        return handle is None or handle.finish is not None or handle.paused

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        self.finish, self.error = "error", error


class Engine:
    """The thread of one model."""

    def __init__(
        self,
        name: str,
        backend: Backend,
        tokenizer: Tokenizer,
        metrics: Metrics,
        *,
        slots: int,
        queue: int,
        prefixes: int,
        note: Callable[[str], None],
    ) -> None:
        self._note = note
        self.name, self.backend, self.tokenizer, self.metrics = name, backend, tokenizer, metrics
        self.slots, self.most = min(slots, backend.capacity), min(slots, backend.capacity) + queue
        self._new_batch: Callable[[], Batch] = lambda: Batch(backend, most=slots, prefixes=prefixes)
        self._batch = self._new_batch()
        self._lock = threading.Condition()
        self._inbox: deque[Writer] = deque()
        self._tasks: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._active: list[Writer] = []
        self._ends: Exception | None = None
        self._seconds = 1.0  # of a text, from its slot to its end, on the average
        self._poked = False
        let_threads_go()  # of the caller, who has loaded and checked the model
        self._thread = threading.Thread(target=self._run, name=f"fabula-engine-{name}", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def running(self) -> int:
        """Texts that have a slot."""
        return len(self._batch.running)

    @property
    def outstanding(self) -> int:
        """Texts that were taken on and have not ended."""
        return len(self._active) + len(self._inbox)

    @property
    def waiting(self) -> int:
        """Texts that have no slot yet."""
        return max(0, self.outstanding - self.running)

    def submit(self, group: Group, requests: Sequence[Request], stops: Sequence[str]) -> list[Writer]:
        """Take texts on, all or none; Refusal (429, 503) when there is no room or the server ends."""
        with self._lock:
            self.check_room(len(requests))
            made = [Writer(self, group, request, stops) for request in requests]
            self._inbox.extend(made)
            self._poke()
        return made

    def check_room(self, count: int) -> None:
        """Refusal (429, 503) when so many texts would not be taken on: told before anything is done for them."""
        # With the lock (whoever submits has it): a text that gets its slot stands in two lists for a moment.
        with self._lock:
            if self._ends is not None:
                raise Refusal(503, "the server stops", retry=5, close=True)
            if self.outstanding + count > self.most:
                self.metrics.count("fabula_refused_total", count, model=self.name)
                raise Refusal(
                    429,
                    f"the queue is full: {self.outstanding} texts are written or wait, at most {self.most} may",
                    code="queue_full",
                    retry=self._patience(),
                )

    def _patience(self) -> int:
        """Seconds after which a slot is likely to be free."""
        return max(1, min(60, math.ceil(self._seconds * (1 + self.waiting / self.slots))))

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Do something with the model between two steps; Refusal when too much waits."""
        future: Future[T] = Future()
        with self._lock:
            if self._ends is not None:
                raise Refusal(503, "the server stops", retry=5, close=True)
            if len(self._tasks) >= MOST_TASKS:
                raise Refusal(429, f"{MOST_TASKS} other requests wait already", code="queue_full", retry=1)
            self._tasks.append((work, future))
            self._poke()
        return future

    def poke(self) -> None:
        """Something changed that the thread may wait for."""
        with self._lock:
            self._poke()

    def _poke(self) -> None:
        self._poked = True
        self._lock.notify()

    def end(self, why: Exception) -> None:
        """Take nothing on any more and end what runs with an error."""
        with self._lock:
            self._ends = why
            self._poke()

    def join(self, seconds: float = 10.0) -> None:
        """Wait for the thread to end."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    # ---- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._poked and not self._work_to_do():
                    self._lock.wait()
                self._poked = False
                ends, tasks = self._ends, [self._tasks.popleft()] if self._tasks else []
                new = list(self._inbox)
                self._active += new
                self._inbox.clear()
            if ends is not None:
                self._give_up(ends)
                return
            for writer in new:
                self._begin(writer)
            for work, future in tasks:
                _done(work, future)
            if self._active or self._batch.running:
                self._step()

    def _work_to_do(self) -> bool:
        """Whether a step would do something; when all readers are behind it would not."""
        if self._inbox or self._tasks or self._ends is not None:
            return True
        batch = self._batch
        if batch.waiting and len(batch.running) < batch.most:
            return True
        return any(not h.paused for h in batch.running) or any(w.has_news() for w in self._active)

    def _begin(self, writer: Writer) -> None:
        if writer._cancelled:
            writer.finish = "cancelled"
            return
        try:
            writer._handle = self._batch.submit(writer.request)
        except Exception as error:
            writer.fail(error)
            return
        if writer._cancelled:  # meanwhile
            writer._handle.cancel()

    def _step(self) -> None:
        began = time.monotonic()
        try:
            self._batch.step()
        except Exception as error:
            # A fault of ours: the texts that it met end, the next ones find a new batch.
            where = "".join(traceback.format_exception(error, limit=-4))
            self._note(f"the engine of {self.name} failed, a fault of the server\n{where}")
            for writer in self._active:
                writer.fail(error)
            self._renew()
        now = time.monotonic()
        self.metrics.observe("fabula_step_seconds", now - began, model=self.name)
        woken: dict[Group, None] = {}
        written = 0
        for writer in self._active:
            before = writer.written
            if writer.finish is not None or writer.deliver(self.tokenizer):
                woken[writer.group] = None
            written += writer.written - before
            if not before and writer.written:
                self.metrics.observe("fabula_first_token_seconds", now - writer.group.arrived, model=self.name)
                self.metrics.count("fabula_tokens_total", len(writer.request.ids), model=self.name, kind="read")
        if written:
            self.metrics.count("fabula_tokens_total", written, model=self.name, kind="written")
        self._sort_out(now)
        _wake(list(woken))

    def _sort_out(self, now: float) -> None:
        ended = [writer for writer in self._active if writer.finish is not None]
        if not ended:
            return
        for writer in ended:
            self.metrics.count("fabula_texts_total", model=self.name, reason=str(writer.finish))
            self._seconds += 0.1 * (now - writer.group.arrived - self._seconds)
        with self._lock:
            self._active = [writer for writer in self._active if writer.finish is None]

    def _renew(self) -> None:
        try:
            self._batch.close()
        except Exception as error:
            self._note(f"the engine of {self.name} could not be tidied up ({error!r})")
        self._batch = self._new_batch()

    def _give_up(self, why: Exception) -> None:
        with self._lock:
            writers, self._active = [*self._active, *self._inbox], []
            self._inbox.clear()
            tasks = list(self._tasks)
            self._tasks.clear()
        for writer in writers:
            if writer.finish is None:
                writer.fail(why)
        for _, future in tasks:
            future.set_exception(why)
        self._renew()
        _wake(list({writer.group: None for writer in writers}))


def _done(work: Callable[[], T], future: Future[T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)


def _wake(groups: Sequence[Group]) -> None:
    """Tell the event loops, once each."""
    for loop in {group.loop: None for group in groups}:
        mine = [group for group in groups if group.loop is loop]
        try:
            loop.call_soon_threadsafe(_wake_all, mine)
        except RuntimeError:
            continue  # the loop is closed: nobody waits


def _wake_all(groups: Sequence[Group]) -> None:
    for group in groups:
        group.wake()
