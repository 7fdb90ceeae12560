"""Conversations to ids: what does a chat template make of messages, and which ids is the assistant to learn?

Ids are made here, not text that is searched for markers: only characters that stand in the template itself can become a
control id, whatever a message says (`origin.py`). Everything between two control ids is encoded together, with specials
off, so benign conversations get the ids that `transformers` gives them.

Templates are programs. Ours runs in this process; one that others wrote runs in a process of its own, in a sandbox,
with limits on memory and output, and is killed when it takes longer than a second (`sandbox.py`).
"""

from __future__ import annotations

import bisect
import contextlib
import datetime
import json
import queue
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol

from fabula.errors import InputError, MachineError
from fabula.tokenizer import sandbox
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.conversation import DEFAULT
from fabula.tokenizer.origin import GENERATED, TEMPLATE, Run

# How long a template may take, for each conversation and to be read; and a process to start, on a busy machine.
SECONDS = 1.0
_START_SECONDS = 60.0
_MOST_SOURCE = 1 << 20

Message = Mapping[str, Any]
_Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as ids. `mask` is 1 where the assistant is to produce the id; `text` is for the eye."""

    ids: list[int]
    mask: list[int]
    text: str


class _Runs(Protocol):
    """Something that runs a template."""

    marks: bool

    def render(self, variables: dict[str, Any], owned: list[str]) -> tuple[str, Sequence[Run]]: ...


class ChatTemplate:
    """A chat template and the tokenizer that it is for.

    `date` is what `strftime_now` answers; without one the template is told that there is no such function.
    InputError when the template cannot be read.
    """

    def __init__(
        self, source: str, tokenizer: Tokenizer, date: datetime.date | None = None, seconds: float = SECONDS
    ) -> None:
        if len(source) > _MOST_SOURCE:
            raise InputError(f"the chat template is longer than {_MOST_SOURCE:,} characters")
        self.tokenizer = tokenizer
        self._runs: _Runs = _Here(source) if source == DEFAULT else _Apart(source, date, seconds)
        special = tokenizer.special
        controls = _controls(tokenizer)
        texts = {control.id: control.text for control in controls.values()}
        self._own = {
            name: texts[number]
            for name, number in (
                ("bos_token", special.begin),
                ("eos_token", special.end_of_document),
                ("pad_token", special.padding),
            )
            if number is not None
        }
        self._controls = controls
        # The longest first: where two begin at one place, the library takes the longest.
        names = sorted(map(re.escape, controls), key=len, reverse=True)
        self._any_control = re.compile("|".join(names)) if names else None

    @staticmethod
    def of(tokenizer: Tokenizer) -> ChatTemplate:
        """The template that a tokenizer comes with; InputError when it has none."""
        if tokenizer.chat_template is None:
            raise InputError("this tokenizer has no chat template, so it does not say how a conversation is written")
        return ChatTemplate(tokenizer.chat_template, tokenizer)

    @property
    def marks(self) -> bool:
        """Whether the template says itself, by {% generation %}, what the assistant is to produce."""
        return self._runs.marks

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> Rendered:
        """The ids of a conversation; InputError when the template refuses it, fails, or takes too long.

        Without {% generation %} in the template, what the assistant is to produce is: from the first to the last
        character of a message of the assistant's that the template wrote, then what stands in the template up to the
        next control token, and that token, when nothing but white space stands between.
        """
        given: dict[str, Any] = {
            **self._own,
            "messages": _checked(messages),
            "tools": None if tools is None else list(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **variables,
        }
        own = [name for name in self._own if name not in variables]
        text, runs = self._runs.render(given, own)
        _encodable(text)
        trained = _generated(runs) if self.marks else self._said(text, runs)
        ids, mask = [], []
        for number, start, stop in self._tokens(text, runs):
            ids.append(number)
            mask.append(int(any(start < end and stop > begin for begin, end in _near(trained, start, stop))))
        return Rendered(ids, mask, text)

    def _tokens(self, text: str, runs: Sequence[Run]) -> Iterator[tuple[int, int, int]]:
        """Each id with the characters that it stands for."""
        done = 0
        for start, stop, number in self._found(text, runs):
            yield from self._encoded(text, done, start)
            yield number, start, stop
            done = stop
        yield from self._encoded(text, done, len(text))

    def _encoded(self, text: str, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        if start < stop:
            ids, spans = encode_with_spans(self.tokenizer, text[start:stop])
            for number, (begin, end) in zip(ids, spans, strict=True):
                yield number, start + begin, start + end

    def _found(self, text: str, runs: Sequence[Run]) -> list[tuple[int, int, int]]:
        """The control tokens of a text: start, stop and id. They stand in the template alone."""
        found: list[tuple[int, int, int]] = []
        if self._any_control is None:
            return found
        for begin, end in _stretches(runs, lambda flags: bool(flags & TEMPLATE)):
            for match in self._any_control.finditer(text, begin, end):
                control = self._controls[match[0]]
                if control.single_word and (_is_word(text, match.start() - 1) or _is_word(text, match.end())):
                    continue
                if control.id >= self.tokenizer.vocab_size:
                    raise InputError(f"the chat template writes {control.text!r}, which the model has no id for")
                start, stop = match.span()
                least = found[-1][1] if found else 0
                while control.lstrip and start > least and text[start - 1].isspace():
                    start -= 1
                while control.rstrip and stop < len(text) and text[stop].isspace():
                    stop += 1
                found.append((max(start, least), stop, control.id))
        return found

    def _said(self, text: str, runs: Sequence[Run]) -> list[_Span]:
        """What the assistant says, by the origin of the characters."""
        spans: dict[int, _Span] = {}
        place = 0
        for count, _, message in runs:
            if message >= 0:
                spans[message] = (spans.get(message, (place, 0))[0], place + count)
            place += count
        controls = self._found(text, runs)
        made = []
        for begin, end in sorted(spans.values()):
            follows = next((found for found in controls if found[0] >= end), None)
            if follows is not None and not text[end : follows[0]].strip():
                end = follows[1]
            made.append((begin, end))
        return made


def _encodable(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"a message or the template holds a lone surrogate (U+{ord(text[error.start]):04X}), which is no character "
            "of Unicode"
        ) from None


def encode_with_spans(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[_Span]]:
    """The ids of a text as `tokenizer.encode` gives them, each with the characters that it stands for."""
    encoding = tokenizer._backend.encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets


@dataclass(frozen=True, slots=True)
class _Control:
    """A control token, and whether it takes the white space beside it along."""

    text: str
    id: int
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


def _controls(tokenizer: Tokenizer) -> dict[str, _Control]:
    added = tokenizer.shown().get_added_tokens_decoder()
    found = {}
    for text, number in tokenizer.control_texts().items():
        token = added.get(number)
        flags = (token.lstrip, token.rstrip, token.single_word) if token is not None else ()
        found[text] = _Control(text, number, *flags)
    return found


def _is_word(text: str, place: int) -> bool:
    return 0 <= place < len(text) and (text[place].isalnum() or text[place] == "_")


def _checked(messages: Sequence[Message]) -> list[dict[str, Any]]:
    if not isinstance(messages, (list, tuple)) or not messages:
        raise InputError("a conversation is a list of messages with at least one in it")
    for place, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f'message {place} is not {{"role": ..., "content": ...}}')
    return [dict(message) for message in messages]


# ---- spans of characters ---------------------------------------------------------------------------------------


def _stretches(runs: Sequence[Run], wanted: Any) -> Iterator[_Span]:
    """The longest stretches whose flags are wanted."""
    place, begin = 0, -1
    for count, flags, _ in runs:
        if wanted(flags):
            begin = place if begin < 0 else begin
        elif begin >= 0:
            yield begin, place
            begin = -1
        place += count
    if begin >= 0:
        yield begin, place


def _generated(runs: Sequence[Run]) -> list[_Span]:
    return list(_stretches(runs, lambda flags: bool(flags & GENERATED)))


def _near(spans: list[_Span], start: int, stop: int) -> Iterator[_Span]:
    """The spans that may meet the characters from start to stop (spans stand in order and apart)."""
    first = max(0, bisect.bisect_right(spans, (start, sys.maxsize)) - 1)
    for span in spans[first:]:
        if span[0] >= stop:
            return
        yield span


class _Here:
    """Our own template, in this process."""

    def __init__(self, source: str) -> None:
        self._rendering = sandbox.Rendering(source)
        self.marks = self._rendering.marks

    def render(self, variables: dict[str, Any], owned: list[str]) -> tuple[str, Sequence[Run]]:
        try:
            return self._rendering.render(variables, owned)
        except sandbox.Refused as error:
            raise _refused(str(error)) from None
        except sandbox.Broken as error:
            raise _broken(str(error)) from None


def _refused(why: str) -> InputError:
    return InputError(f"the chat template refuses this conversation: {why}")


def _broken(why: str) -> InputError:
    return InputError(f"the chat template does not work: {why}")


# ---- templates of others ---------------------------------------------------------------------------------------


class _Apart:
    """A template in a process of its own, which is killed when it takes too long."""

    def __init__(self, source: str, date: datetime.date | None, seconds: float) -> None:
        self._source, self._seconds = source, seconds
        self._date = None if date is None else [date.year, date.month, date.day]
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self.marks = False
        with self._lock:
            self._start()

    def render(self, variables: dict[str, Any], owned: list[str]) -> tuple[str, Sequence[Run]]:
        try:
            request = json.dumps({"variables": variables, "own": owned}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"a message holds what is not plain data ({error})") from None
        with self._lock:
            if self._process is None:
                self._start()
            answer = self._ask(request)
        if "refused" in answer:
            raise _refused(answer["refused"])
        return answer["text"], [(count, flags, message) for count, flags, message in answer["runs"]]

    def _start(self) -> None:
        self._process = _Process()
        if self._process.answer(_START_SECONDS) is None:
            self._end()
            raise MachineError("the process that runs chat templates does not start")
        self.marks = self._ask(json.dumps({"source": self._source, "date": self._date}))["marks"]

    def _ask(self, request: str) -> dict[str, Any]:
        assert self._process is not None
        self._process.send(request)
        answer = self._process.answer(self._seconds)
        if answer is None:
            self._end()
            raise InputError(f"the chat template takes longer than {self._seconds:g} s, or ended its process; stopped")
        if "problem" in answer:
            raise _broken(answer["problem"])
        return answer

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


class _Process:
    """`python -m fabula.tokenizer.sandbox`, with a thread that reads what it writes."""

    def __init__(self) -> None:
        try:
            # -P: a file of a known name in the current folder is not ours to run.
            self._running = subprocess.Popen(
                [sys.executable, "-P", "-m", sandbox.__name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="ascii",
                start_new_session=True,  # a Ctrl-C in the terminal is meant for us
            )
        except OSError as error:
            raise MachineError(f"a process for chat templates could not be started ({error})") from error
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert self._running.stdout is not None
        threading.Thread(target=_read, args=(self._running.stdout, self._answers), daemon=True).start()
        self.kill = weakref.finalize(self, _bury, self._running)

    def send(self, line: str) -> None:
        assert self._running.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: there will be no answer
            self._running.stdin.write(line + "\n")
            self._running.stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """What it writes next; None when nothing comes in time or it has ended."""
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            return None
        return json.loads(line) if line.endswith("\n") else None


def _read(pipe: IO[str], answers: queue.SimpleQueue[str]) -> None:
    with pipe:
        for line in pipe:
            answers.put(line)
    answers.put("")


def _bury(running: subprocess.Popen[str]) -> None:
    running.kill()
    running.wait()
    if running.stdin is not None:
        with contextlib.suppress(OSError):
            running.stdin.close()
