"""How things look in a terminal. Messages, progress and errors go to stderr, results to stdout.

With a terminal a task is a bar with rate and time left; without one it is a plain line every few seconds.

Texts, prompts and names of files come from anywhere and may hold control characters: a terminal would obey them (move
the cursor, change its title, answer as if typed). So a terminal, and every message wherever it goes, is shown them as
escapes (`\\x1b`), all but the line end and the tab. A result that goes to a pipe or a file is content and goes out as
it is, except in JSON, which can say every character in letters.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from fabula.errors import MachineError
from fabula.progress import Task

# C0 without tab and line end, DEL, C1; and the bytes of C1 in a name of a file that is not UTF-8 (surrogateescape).
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\udc80-\udc9f]")


def shown(text: str) -> str:
    r"""A text with its control characters as visible escapes.

    >>> shown("uno\tdos\n\x1b[31mtres\x9b")
    'uno\tdos\n\\x1b[31mtres\\x9b'
    """
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)


def out(text: str, end: str = "\n", own: bool = False) -> None:
    """A result, on stdout, at once; a terminal is never sent control characters, except `own` ones (colours).

    MachineError when the disk is full.
    """
    if sys.stdout is None:  # the caller closed it
        return
    try:
        sys.stdout.write((shown(text) if sys.stdout.isatty() and not own else text) + end)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence(sys.stdout)
        raise MachineError(f"the output cannot be written ({error.strerror or error})") from None


def coloured() -> bool:
    """Whether results are seen in a terminal that shows colours, and nobody asked for none (NO_COLOR)."""
    seen = sys.stdout is not None and sys.stdout.isatty()
    return seen and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def out_json(data: Any) -> None:
    """The one JSON document of a command with --json; control characters are written as JSON's own escapes."""
    text = json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False)
    out(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def out_json_line(data: Any) -> None:
    """One of many JSON documents, on a line of its own (JSONL)."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    # Some readers end lines at these, too.
    out(re.sub("[\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text))


def speak_utf8() -> None:
    """Write UTF-8 whatever the locale: accents are content. Names of files that are not UTF-8 keep their bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def typed(text: str) -> str:
    """A text as it was typed: where the locale is not UTF-8, Python hands its bytes on as lone surrogates."""
    try:
        return os.fsencode(text).decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError):
        return text


def say(text: str) -> None:
    """A message, on stderr; it may quote anything, so control characters are shown."""
    _tell(shown(text) + "\n")


def _tell(text: str) -> None:
    """Write on stderr. Work that nobody hears of (it is closed, or its disk is full) goes on."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        raise
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Send a stream that fails to nowhere, also what it still holds: Python would try that again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Watcher:
    """Progress for a person: implements `fabula.progress.Progress`."""

    @contextlib.contextmanager
    def task(self, name: str, total: float | None, unit: str) -> Iterator[Task]:
        seen = sys.stderr is not None and sys.stderr.isatty()
        made = _Bar(name, total, unit) if seen else _Lines(name, total, unit)
        try:
            yield made
        finally:
            made.close()

    def note(self, message: str) -> None:
        say(f"  {message}")


class _Counted:
    """Amount, rate and time left of a task."""

    def __init__(self, name: str, total: float | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.note = 0.0, ""
        self.started = time.monotonic()
        self._first: tuple[float, float] | None = None

    def advance(self, amount: float = 1, note: str = "") -> None:
        if self._first is None:
            # What a resumed task brings along says nothing about its rate.
            self._first = (time.monotonic(), self.done + amount)
        self.done += amount
        if note:
            self.note = note
        self.show()

    def resize(self, total: float) -> None:
        self.total = total
        self.show()

    def show(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def rate(self) -> float:
        """Units a second since the first advance; 0 while unknown."""
        if self._first is None:
            return 0.0
        since, base = self._first
        elapsed = time.monotonic() - since
        return (self.done - base) / elapsed if elapsed > 0 else 0.0

    def words(self) -> str:
        """Amount, rate and time left."""
        if self.total is None:
            return clock(time.monotonic() - self.started)
        rate = self.rate()
        shown = f"{amount(self.done, self.unit)} of {amount(self.total, self.unit)}"
        if rate:
            left = max(0.0, self.total - self.done) / rate
            shown += f", {amount(rate, self.unit)}/s, {clock(left)} left"
        return shown + (f", {self.note}" if self.note else "")


class _Bar(_Counted):
    """A bar that is redrawn in place."""

    def __init__(self, name: str, total: float | None, unit: str) -> None:
        super().__init__(name, total, unit)
        self._drawn = 0.0
        self._draw()

    def show(self) -> None:
        if time.monotonic() - self._drawn >= 0.1:
            self._draw()

    def close(self) -> None:
        self._draw()
        _tell("\n")

    def _draw(self) -> None:
        import shutil

        self._drawn = time.monotonic()
        columns = shutil.get_terminal_size().columns
        bar = ""
        if self.total:
            filled = min(20, int(20 * self.done / self.total))
            bar = "█" * filled + "░" * (20 - filled) + " "
        _tell("\r\x1b[K" + shown(f"{self.name} {bar}{self.words()}")[: columns - 1])


class _Lines(_Counted):
    """A line when a task begins, every ten seconds, and at its end."""

    def __init__(self, name: str, total: float | None, unit: str) -> None:
        super().__init__(name, total, unit)
        self._said = time.monotonic()
        say(f"{name} ...")

    def show(self) -> None:
        if time.monotonic() - self._said >= 10:
            self._said = time.monotonic()
            say(f"{self.name}: {self.words()}")

    def close(self) -> None:
        took = clock(time.monotonic() - self.started)
        done = "" if self.total is None else f"{amount(self.done, self.unit)}, "
        say(f"{self.name}: {done}{took}" + (f", {self.note}" if self.note else ""))


def amount(value: float, unit: str) -> str:
    """A number with its unit, for people.

    >>> amount(2_094_824, "bytes")
    '2.1 MB'
    >>> amount(1200, "steps")
    '1,200 steps'
    """
    if unit == "bytes":
        return n_bytes(value)
    shown = f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"
    return f"{shown} {unit}".strip()


def n_bytes(value: float) -> str:
    """Bytes for people, in powers of ten.

    >>> n_bytes(12_345_678)
    '12.3 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def quantity(value: float) -> str:
    """A large number for people.

    >>> quantity(39_596_544)
    '39.6 M'
    """
    for unit in ("", " k", " M", " G", " T", " P"):
        if abs(value) < 1000:
            return f"{value:.0f}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f} E"


def clock(seconds: float) -> str:
    """A duration for people.

    >>> clock(192)
    '3 min 12 s'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None, right: Sequence[int] = ()) -> str:
    """Rows in aligned columns; the columns in `right` are aligned to the right."""
    everything = [list(header)] if header else []
    everything += [list(row) for row in rows]
    widths = [max(len(row[i]) for row in everything) for i in range(len(everything[0]))] if everything else []
    lines = []
    for number, row in enumerate(everything):
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
        if header and number == 0:
            lines.append("  ".join("─" * w for w in widths))
    return "\n".join(lines)
