"""Where does each character of a text come from: from the template itself, or from what it was given?

`Traced` is a `str` that knows it. The operations that templates use keep track; every other one gives a plain `str`,
which counts as given from outside. So a mistake here can only take a mark away, never make a control token out of what
somebody wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

# What is known of a character. A control token is looked for in characters of the template only.
TEMPLATE = 1
GENERATED = 2  # inside {% generation %}

# A stretch of characters: how many, the flags above, and the number of the message of the assistant's (or -1).
Run = tuple[int, int, int]
OUTSIDE = (0, -1)


class Traced(str):
    """A text and the origin of its characters; by itself, all of it comes from outside."""

    __slots__ = ("_runs",)
    _runs: tuple[Run, ...]

    def __new__(cls, text: str = "", runs: Iterable[Run] | None = None) -> Traced:
        made = super().__new__(cls, text)
        size = len(text)
        if runs is None:
            made._runs = ((size, *OUTSIDE),) if size else ()
            return made
        joined: list[Run] = []
        for count, flags, message in runs:
            if not count:
                continue
            if joined and joined[-1][1:] == (flags, message):
                joined[-1] = (joined[-1][0] + count, flags, message)
            else:
                joined.append((count, flags, message))
        if sum(run[0] for run in joined) != size:
            raise ValueError("the runs are not those of the text")
        made._runs = tuple(joined)
        return made

    def __str__(self) -> str:
        return self

    # ---- parts -------------------------------------------------------------------------------------------------

    def _part(self, start: int, stop: int) -> Traced:
        """The characters from start to stop (0 <= start <= stop <= length)."""
        runs, place = [], 0
        for count, flags, message in self._runs:
            here = min(stop, place + count) - max(start, place)
            if here > 0:
                runs.append((here, flags, message))
            place += count
        return Traced(str.__getitem__(self, slice(start, stop)), runs)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return self._part(start, max(start, stop)) if step == 1 else str.__getitem__(self, key)
        plain = str.__getitem__(self, key)
        place = key.__index__()
        place += len(self) if place < 0 else 0
        return self._part(place, place + 1) if plain else plain

    def __iter__(self) -> Iterator[str]:
        return (self._part(place, place + 1) for place in range(len(self)))

    def _located(self, parts: Iterable[str]) -> list[str]:
        """Parts of this text that stand one behind the other in it."""
        found: list[str] = []
        place = 0
        for part in parts:
            place = str.find(self, part, place)
            found.append(self._part(place, place + len(part)))
            place += len(part)
        return found

    def strip(self, chars: str | None = None, /) -> str:
        return self._located([str.strip(self, chars)])[0]

    def lstrip(self, chars: str | None = None, /) -> str:
        start = len(self) - len(str.lstrip(self, chars))
        return self._part(start, len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return self._part(0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        return self._part(len(prefix) if prefix and str.startswith(self, prefix) else 0, len(self))

    def removesuffix(self, suffix: str, /) -> str:
        return self._part(0, len(self) - (len(suffix) if suffix and str.endswith(self, suffix) else 0))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._between(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._between(str.rsplit(self, sep, maxsplit), sep)

    def _between(self, parts: list[str], sep: str | None) -> list[str]:
        if sep is None:
            return self._located(parts)
        made: list[str] = []
        place = 0
        for part in parts:
            made.append(self._part(place, place + len(part)))
            place += len(part) + len(sep)
        return made

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        first, middle, _ = str.partition(self, sep)
        end = len(first) + len(middle)
        return self._part(0, len(first)), self._part(len(first), end), self._part(end, len(self))

    # ---- wholes ------------------------------------------------------------------------------------------------

    def __add__(self, other: str) -> str:
        return joined([self, other]) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> str:
        return joined([other, self]) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> str:
        plain = str.__mul__(self, times)
        return Traced(plain, self._runs * (len(plain) // len(self))) if self else plain

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:
        """`"%s and %s" % (a, b)`; with any other conversion the result counts as given from outside."""
        plain = str.__mod__(self, values)
        pieces = self.split("%s")
        given = values if isinstance(values, tuple) else (values,)
        if any("%" in piece for piece in pieces) or len(pieces) != len(given) + 1:
            return plain
        parts = [pieces[0]]
        for value, piece in zip(given, pieces[1:], strict=True):
            parts += [str(value), piece]
        made = joined(parts)
        return made if made == plain else plain

    def join(self, parts: Iterable[str], /) -> str:
        between: list[str] = []
        for part in parts:
            if not isinstance(part, str):
                raise TypeError(f"a text is expected, not {type(part).__name__}")
            between += [self, part] if between else [part]
        return joined(between)

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        left = count.__index__()
        if not old:
            return str.replace(self, old, new, left)
        parts: list[str] = []
        place = 0
        while left != 0 and (found := str.find(self, old, place)) >= 0:
            parts += [self._part(place, found), new]
            place, left = found + len(old), left - 1
        return joined([*parts, self._part(place, len(self))])

    def upper(self) -> str:
        return self._mapped(str.upper)

    def lower(self) -> str:
        return self._mapped(str.lower)

    def _mapped(self, change: Callable[[str], str]) -> str:
        """The text changed letter by letter; a plain text where neighbours matter (the last sigma of a word)."""
        plain, runs, place = change(self), [], 0
        pieces = []
        for count, flags, message in self._runs:
            piece = change(str.__getitem__(self, slice(place, place + count)))
            pieces.append(piece)
            runs.append((len(piece), flags, message))
            place += count
        return Traced(plain, runs) if "".join(pieces) == plain else plain


def joined(parts: Iterable[Any]) -> Traced:
    """Texts one behind the other, each with its origins."""
    texts = [part if isinstance(part, str) else str(part) for part in parts]
    return Traced("".join(texts), [run for text in texts for run in runs_of(text)])


def runs_of(text: str) -> tuple[Run, ...]:
    """The origins of a text's characters; all from outside when it does not know."""
    if isinstance(text, Traced):
        return text._runs
    return ((len(text), *OUTSIDE),) if text else ()


def own(text: str) -> Traced:
    """A text of the template itself."""
    return Traced(text, [(len(text), TEMPLATE, -1)])


def said_by(text: str, message: int) -> Traced:
    """A text from outside that the assistant says in a message."""
    return Traced(text, [(len(text), 0, message)])


def generated(text: str) -> Traced:
    """A text inside {% generation %}: what the assistant is to produce."""
    return Traced(text, [(count, flags | GENERATED, message) for count, flags, message in runs_of(text)])
