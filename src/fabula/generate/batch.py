"""Which request goes on next? Many requests side by side on one backend, a token each at a step.

A request waits, is read in chunks, and then gets a token at each step until it ends. Reading and writing mix: a step
reads at most `chunk` ids of those that wait and advances all that write. Ids in, ids out: text, stop sequences and
connections belong to the caller, who calls `step` from one thread, takes what came and cancels what is not wanted.

**A request does not change when others come.** Each has its own generator and its own chunks, cut at multiples of
`chunk` of its own ids. On a deterministic backend its ids and log-probabilities are the same to the bit, alone and in
company; on another one, logits may differ in their last bits, which rarely shows.

**An error of one request** (a model that gives NaN, a constraint that leaves nothing) ends that request alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from fabula.errors import InputError, PromptError
from fabula.generate import sampling as how
from fabula.generate.backend import Backend
from fabula.generate.config import Sampling
from fabula.generate.engine import Reason, Token, diverged, fits

Finish = Reason | Literal["cancelled", "error"]

# The fewest ids of a beginning for which it is worth to go on from another sequence's memory.
_WORTH = 8


class Constraint(Protocol):
    """What may follow, by the ids written so far: a regular expression or a schema (`constrained.py`)."""

    def allowed(self) -> Tensor:
        """Which of V ids may come next, boolean."""

    def advance(self, number: int) -> None:
        """An id was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is to be written. `ids` are the beginning; it must not be empty."""

    ids: tuple[int, ...]
    max_new_tokens: int = 200
    sampling: Sampling = field(default_factory=Sampling)
    ends: frozenset[int] = frozenset()  # ids that end the text; the one that comes is given, with the reason "end"
    top_logprobs: int = 0  # likeliest alternatives that are told with each token
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned: frozenset[int] = frozenset()  # ids that are never written
    forced: tuple[int, ...] = ()  # ids that the text begins with, whatever the model says
    constraint: Callable[[], Constraint] | None = None
    at_context_end: Literal["stop", "slide"] = "stop"  # end with "context", or go on with the last half of the text
    most_pending: int = 0  # tokens that may lie unread before the request pauses; 0: any number


class Handle:
    """A request on its way. `finish` says why it ended, once it has; `error` is what failed."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.ids = list(request.ids)
        self.finish: Finish | None = None
        self.error: Exception | None = None
        self.reused = 0  # ids that needed no reading, because another sequence had read them
        self._came: deque[Token] = deque()
        self._cancelled = False
        self._sequence: int | None = None
        self._read = 0  # of `ids`, from `_from` on, are in the backend's memory
        self._from = 0
        self._constraint: Constraint | None = None
        self._generator = torch.Generator().manual_seed(request.sampling.seed)

    @property
    def written(self) -> int:
        """Ids that were written so far."""
        return len(self.ids) - len(self.request.ids)

    def take(self) -> list[Token]:
        """The tokens that came since the last call."""
        came = list(self._came)
        self._came.clear()
        return came

    def cancel(self) -> None:
        """No more tokens, from the next step on. May be called at any time, also from another thread."""
        self._cancelled = True

    @property
    def paused(self) -> bool:
        """Whether it waits for its reader."""
        most = self.request.most_pending
        return most > 0 and len(self._came) >= most


@dataclass(slots=True)
class _Idle:
    """A sequence whose request has ended, kept because another may begin alike. The first `exact` ids were read in
    whole chunks, as every request would read them."""

    sequence: int
    ids: tuple[int, ...]
    exact: int


class Batch:
    """Runs requests on a backend. At most `most` write at a time (default: the backend's capacity); the others wait in
    the order in which they came. `chunk` ids are read at a step; `prefixes` ended sequences are kept for reuse."""

    def __init__(self, backend: Backend, *, most: int = 0, chunk: int = 256, prefixes: int = 0) -> None:
        self.backend, self.chunk = backend, chunk
        self.most = min(most or backend.capacity, backend.capacity)
        self.prefixes = min(prefixes, backend.capacity)
        self.waiting: deque[Handle] = deque()
        self.running: list[Handle] = []
        self._idle: list[_Idle] = []

    def submit(self, request: Request) -> Handle:
        """Queue a request; PromptError or InputError when it cannot be run."""
        fits(len(request.ids), self.backend.context_length)
        vocabulary = self.backend.vocab_size
        named = [*request.ids, *request.logit_bias, *request.banned, *request.forced]
        outside = next((n for n in named if not 0 <= n < vocabulary), None)
        if outside is not None:
            raise PromptError(f"id {outside} is outside the vocabulary of {vocabulary:,}")
        if request.max_new_tokens < 1:
            raise InputError(f"max_new_tokens={request.max_new_tokens} must be at least 1")
        if not 0 <= request.top_logprobs <= vocabulary:
            raise InputError(f"top_logprobs={request.top_logprobs} must be from 0 to {vocabulary:,}")
        handle = Handle(request)
        self.waiting.append(handle)
        return handle

    def step(self) -> bool:
        """Advance every request by a token, and read on; whether anything is left to do."""
        for handle in [*self.running, *self.waiting]:
            if handle._cancelled:
                self._end(handle, "cancelled")
        writing = [h for h in self.running if h._read == len(h.ids) - h._from - 1 and h.written and not h.paused]
        if writing:
            self._write(writing)
        self._admit()
        self._read()
        return bool(self.running or self.waiting)

    def close(self) -> None:
        """End all requests and forget all sequences."""
        for handle in [*self.running, *self.waiting]:
            self._end(handle, "cancelled")
        for idle in self._idle:
            self.backend.close(idle.sequence)
        self._idle = []

    # ---- reading ---------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.most:
            handle = self.waiting.popleft()
            try:
                self._begin(handle)
                handle._constraint = None if handle.request.constraint is None else handle.request.constraint()
            except Exception as error:
                self._fail(handle, error)
                continue
            self.running.append(handle)

    def _begin(self, handle: Handle) -> None:
        """Give a request a sequence, if possible one that has read how it begins."""
        found = self._alike(handle)
        if found is None:
            handle._sequence = self._open()
            return
        sequence, length, idle = found
        if idle is not None and (length == len(idle.ids) or self._full()):
            # It goes on where that one ended, or takes its place.
            self._idle.remove(idle)
            self.backend.rewind(sequence, length)
            handle._sequence = sequence
        else:
            if idle is not None:
                self._idle.append(self._idle.pop(self._idle.index(idle)))  # used last
            self._room()
            handle._sequence = self.backend.copy(sequence, length)
        handle._read = handle.reused = length

    def _alike(self, handle: Handle) -> tuple[int, int, _Idle | None] | None:
        """The sequence that shares the longest beginning, and its length."""
        if not self.prefixes:
            return None
        wanted, best = handle.ids, None
        others = [(i.sequence, i.ids, i.exact, i) for i in self._idle]
        others += [
            (h._sequence, tuple(h.ids[: h._read]), h._read - h._read % self.chunk, None)  # type: ignore[misc]
            for h in self.running
            if h._sequence is not None and not h._from and not h.written
        ]
        for sequence, ids, exact, idle in others:
            shared = 0
            for one, other in zip(wanted[:-1], ids, strict=False):
                if one != other:
                    break
                shared += 1
            if self.backend.deterministic:
                # What was read in other chunks, or written, has other last bits.
                shared = min(shared, exact) // self.chunk * self.chunk
            if shared >= _WORTH and (best is None or shared > best[1]):
                best = (sequence, shared, idle)
        return best

    def _open(self) -> int:
        self._room()
        return self.backend.open()

    def _room(self) -> None:
        """Forget the sequence that was of use longest ago, when all are taken."""
        if self._full() and self._idle:
            self.backend.close(self._idle.pop(0).sequence)

    def _full(self) -> bool:
        return len(self._idle) + sum(h._sequence is not None for h in self.running) >= self.backend.capacity

    def _read(self) -> None:
        left = self.chunk
        for handle in list(self.running):
            while left > 0 and handle.finish is None and not self._is_read(handle):
                ids = handle.ids[handle._from :]
                stop = min((handle._read // self.chunk + 1) * self.chunk, len(ids))
                last = stop == len(ids)
                left -= stop - handle._read
                try:
                    assert handle._sequence is not None
                    logits = self.backend.read(handle._sequence, ids[handle._read : stop], "last" if last else "none")
                    handle._read = stop
                    if logits is not None:
                        self._choose(handle, logits)
                except Exception as error:
                    self._fail(handle, error)

    @staticmethod
    def _is_read(handle: Handle) -> bool:
        """Whether all but the id written last is in the memory."""
        held = len(handle.ids) - handle._from
        return handle._read >= held or (handle.written > 0 and handle._read == held - 1)

    # ---- writing ---------------------------------------------------------------------------------------------

    def _write(self, handles: Sequence[Handle]) -> None:
        sequences = [h._sequence for h in handles if h._sequence is not None]
        newest = [h.ids[-1] for h in handles]
        try:
            rows = list(self.backend.step(sequences, newest))
        except Exception:
            rows = self._apart(handles)
        for handle, logits in zip(handles, rows, strict=True):
            if handle.finish is not None:
                continue
            handle._read += 1
            try:
                self._choose(handle, logits)
            except Exception as error:
                self._fail(handle, error)

    def _apart(self, handles: Sequence[Handle]) -> list[Tensor]:
        """The same one by one, so that an error finds the request that it belongs to."""
        rows = []
        for handle in handles:
            try:
                assert handle._sequence is not None
                self.backend.rewind(handle._sequence, handle._read)
                rows.append(self.backend.step([handle._sequence], handle.ids[-1:])[0])
            except Exception as error:
                self._fail(handle, error)
                rows.append(torch.empty(0))
        return rows

    def _choose(self, handle: Handle, logits: Tensor) -> None:
        request = handle.request
        total = logits.logsumexp(dim=-1)
        if not bool(total.isfinite()):
            raise diverged(len(handle.ids))
        number = self._next(handle, logits)
        finish: Reason | None = None
        handle.ids.append(number)
        if number in request.ends:
            finish = "end"
        elif handle.written >= request.max_new_tokens:
            finish = "length"
        elif len(handle.ids) - handle._from > self.backend.context_length:
            if request.at_context_end == "stop":
                finish = "context"
            else:
                self._slide(handle)
        if handle._constraint is not None and finish is None:
            handle._constraint.advance(number)
        top: tuple[tuple[int, float], ...] = ()
        if request.top_logprobs:
            best = logits.topk(request.top_logprobs)
            top = tuple(zip(best.indices.tolist(), (best.values - total).tolist(), strict=True))
        handle._came.append(Token(number, float(logits[number] - total), finish, top))
        if finish is not None:
            self._end(handle, finish)

    def _next(self, handle: Handle, logits: Tensor) -> int:
        request = handle.request
        if handle.written < len(request.forced):
            return request.forced[handle.written]
        logits = how.shaped(logits, handle.ids, request.sampling, len(request.ids))
        logits = how.without(how.biased(logits, request.logit_bias), request.banned)
        if handle._constraint is not None:
            logits = how.only(logits, handle._constraint.allowed())
        return how.pick(logits, request.sampling, handle._generator)

    def _slide(self, handle: Handle) -> None:
        """Go on with the last half of the text, read anew: positions begin at 0 again, as in training."""
        assert handle._sequence is not None
        self.backend.rewind(handle._sequence, 0)
        handle._from = len(handle.ids) - max(1, self.backend.context_length // 2)
        handle._read = 0

    # ---- ends ------------------------------------------------------------------------------------------------

    def _fail(self, handle: Handle, error: Exception) -> None:
        handle.error = error
        self._end(handle, "error")

    def _end(self, handle: Handle, finish: Finish) -> None:
        handle.finish = finish
        if handle in self.running:
            self.running.remove(handle)
        elif handle in self.waiting:
            self.waiting.remove(handle)
        sequence, handle._sequence = handle._sequence, None
        if sequence is None:
            return
        if self.prefixes and finish != "error" and not handle._from and handle._read:
            whole = len(handle.request.ids) // self.chunk * self.chunk
            self._idle.append(_Idle(sequence, tuple(handle.ids[: handle._read]), min(whole, handle._read)))
            if len(self._idle) > self.prefixes:
                self.backend.close(self._idle.pop(0).sequence)
        else:
            self.backend.close(sequence)
