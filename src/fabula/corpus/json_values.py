"""How does a JSON file become a stream of values, each with its place, in bounded memory?

A file is one value a line, or a list, or one object. A list is read element by element; of an object either its columns
are rows ({"text": ["a", "b"]}), or the one list in it holds the values ({"data": [...]}), or it is a value itself. Only
an object is held whole, and refused above `MAX_JSON_OBJECT_BYTES`.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from fabula.corpus.document import (
    MAX_DOCUMENT_BYTES,
    NOT_UTF8,
    SPACE_BYTES,
    Quarantined,
    Reject,
    decode,
    excerpt,
    too_long,
)
from fabula.corpus.streams import BLOCK_BYTES, UTF8_MARK, TextFile, head, lines, opened
from fabula.errors import SourceError

MAX_JSON_OBJECT_BYTES = 256 << 20
# A string can be written with six bytes for each of its own; documents are measured once they are decoded.
_MAX_ELEMENT_CHARACTERS = 2 * MAX_DOCUMENT_BYTES
# So near the end of what was read, broken JSON may just be JSON that goes on.
_PERHAPS_CUT = 16

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_AFTER_NUMBER = re.compile(r"[ \t\r\n,\]]")
_COMMA = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_JSON_SPACE = re.compile(r"[ \t\r\n]*")


class Value(NamedTuple):
    """A value with the place where it starts, a "line" or a "record"; `raw` is how it begins in the file."""

    place: str
    line: int
    byte: int | None
    value: Any
    raw: bytes


def of_lines(file: TextFile, reject: Reject) -> Iterator[Value]:
    """One value a line; empty lines are none."""
    path = str(file.path)
    for number, byte, raw in lines(file.path):
        if raw is None:
            reject(too_long(path, number, byte))
            continue
        if not raw.strip():
            continue
        line = decode(raw, path, number, byte)
        if isinstance(line, Quarantined):
            reject(line)
            continue
        try:
            # Without the line end a string that never closes is called just that.
            value = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            at = len(line[: error.pos].encode("utf-8"))
            reason = f"broken JSON: {error.msg} at column {error.colno}"
            reject(Quarantined(path, number, byte + at, reason, excerpt(raw, at)))
            continue
        except (ValueError, RecursionError) as error:
            # Numbers of thousands of digits, or thousands of nested brackets.
            reject(Quarantined(path, number, byte, f"JSON that cannot be read: {error}", excerpt(raw)))
            continue
        yield Value("line", number, byte, value, raw)


def of_file(file: TextFile, names: Sequence[str], reject: Reject) -> Iterator[Value]:
    """A list, an object or one value a line, whichever it is. `names` are fields that a record may have."""
    start = head(file.path, BLOCK_BYTES).removeprefix(UTF8_MARK).lstrip(SPACE_BYTES)
    if start.startswith(b"["):
        yield from _of_list(file, reject)
    elif start.startswith(b"{") and not _has_lines(start):
        yield from _of_object(file, start, names, reject)
    else:
        yield from of_lines(file, reject)


def _has_lines(start: bytes) -> bool:
    """Whether the first line is a value by itself and others follow."""
    first, _, rest = start.partition(b"\n")
    if not rest.strip(SPACE_BYTES):
        return False
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        # A broken record among others, rather than the first line of an object that goes on?
        return rest.lstrip(SPACE_BYTES).startswith(b"{")
    return True


# ---- one object ----------------------------------------------------------------------------------------------


def _of_object(file: TextFile, start: bytes, names: Sequence[str], reject: Reject) -> Iterator[Value]:
    path = str(file.path)
    with opened(file.path) as (stream, _):
        raw = stream.read(MAX_JSON_OBJECT_BYTES + 1)
    if len(raw) > MAX_JSON_OBJECT_BYTES:
        if b"\n" not in start:  # the first of several long lines
            yield from of_lines(file, reject)
            return
        raise SourceError(
            f"{path}: a JSON object above {MAX_JSON_OBJECT_BYTES >> 20} MiB cannot be read piece by piece; "
            "make it one record a line with: jq -c '.NAME[]' OLD.json > NEW.jsonl"
        )
    try:
        found = json.loads(raw)
    except json.JSONDecodeError as error:
        if raw.strip(SPACE_BYTES).count(b"\n") == 0 or b"\n" not in start:
            yield from of_lines(file, reject)
            return
        raise SourceError(
            f"{path}, line {error.lineno:,}, column {error.colno}: broken JSON ({error.msg}); mend it, or convert it "
            "to one record a line (.jsonl)"
        ) from None
    except UnicodeDecodeError as error:
        if raw.strip(SPACE_BYTES).count(b"\n") == 0:
            yield from of_lines(file, reject)
            return
        raise SourceError(
            f"{path}, byte {error.start:,}: not UTF-8 ({error.reason}), in the middle of one JSON object; mend it"
        ) from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: JSON that cannot be read ({error}); one record a line (.jsonl) is read") from None
    del raw
    for number, value in enumerate(_values_in(found, names, path), start=1):
        yield Value(
            "record",
            number,
            None,
            value,
            json.dumps(value, ensure_ascii=False)[:200].encode("utf-8", "replace"),
        )


def _values_in(found: dict[str, Any], names: Sequence[str], path: str) -> list[Any]:
    """The values that an object stands for."""
    named = [name for name in names if name in found]
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    if named and all(_of_strings(found[name]) for name in named):
        columns = {name: value for name, value in lists.items() if len(value) == len(found[named[0]])}
        uneven = [name for name in named if name not in columns]
        if uneven:
            raise SourceError(
                f'{path}: the lists "{named[0]}" and "{uneven[0]}" are columns of a table, but have '
                f"{len(found[named[0]]):,} and {len(found[uneven[0]]):,} elements"
            )
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if named:
        return [found]
    holding = [name for name, value in lists.items() if value and isinstance(value[0], (dict, str))]
    if len(holding) > 1:
        raise SourceError(
            f"{path}: one object with several lists ({', '.join(holding[:8])}); take one of them with: "
            f"jq -c '.{holding[0]}[]' OLD.json > NEW.jsonl"
        )
    return lists[holding[0]] if holding else [found]


def _of_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(element, str) for element in value)


# ---- a list --------------------------------------------------------------------------------------------------


def _of_list(file: TextFile, reject: Reject) -> Iterator[Value]:
    """The elements of a list. Bad bytes are lone surrogates at first, only so that the good elements around them can
    still be told apart."""
    path = str(file.path)
    with opened(file.path) as (stream, byte):
        elements = _Elements(stream, byte, path)
        for line, at, source, value in elements:
            bad = _ESCAPED_BYTE.search(source)
            if bad:
                where = bad.start()
                reason = f"{NOT_UTF8}: byte 0x{ord(bad[0]) - 0xDC00:02x}"
                before = utf8_bytes(source[:where])
                shown = excerpt(source.encode("utf-8", "surrogateescape"), before)
                reject(Quarantined(path, line + source.count("\n", 0, where), at + before, reason, shown))
                continue
            yield Value("line", line, at, value, source[:100].encode())


class _Elements:
    """The elements of a JSON list as (line, byte, source, value), read as far ahead as the present one is long.

    SourceError where the list is broken: what comes after that cannot be told apart.
    """

    def __init__(self, stream: BinaryIO, byte: int, path: str) -> None:
        self._stream, self._path = stream, path
        self._decoder = json.JSONDecoder()
        self._text = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._held = ""
        self._at = 0  # what is held was dealt with up to here
        self._done = False
        # Where in the file that is.
        self._line, self._column, self._byte = 1, 0, byte

    def __iter__(self) -> Iterator[tuple[int, int, str, Any]]:
        self._skip()
        self._advance(self._at + 1)  # the bracket
        self._skip()
        while not self._is("]"):
            value, end = self._decode()
            yield self._line, self._byte, self._held[self._at : end], value
            between = _COMMA.match(self._held, end)
            if between is not None and between.end() < len(self._held):
                self._advance(between.end())
                continue
            self._advance(end)
            self._skip()
            if self._is(","):
                self._advance(self._at + 1)
                self._skip()
            elif not self._is("]"):
                raise self._broken("Expecting ',' or ']'", self._at)
        self._advance(self._at + 1)
        self._skip()
        if self._at < len(self._held):
            raise self._broken("Extra data after the list", self._at)

    def _is(self, character: str) -> bool:
        return self._held.startswith(character, self._at)

    def _decode(self) -> tuple[Any, int]:
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._held) - _PERHAPS_CUT
                if self._done or not cut:
                    raise self._broken(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                why = "JSON nested too deeply" if isinstance(error, RecursionError) else str(error)
                raise SourceError(
                    f"{self._path}, line {self._line:,}: {why}; one record a line (.jsonl) is read"
                ) from None
            else:
                # A number has no end of its own: near where the reading ended, it may go on.
                if not isinstance(value, (int, float)) or _AFTER_NUMBER.match(self._held, end):
                    return value, end
                if self._done or end < len(self._held) - _PERHAPS_CUT:
                    raise self._broken("Expecting ',' or ']'", end)
            size = len(self._held) - self._at
            if size > _MAX_ELEMENT_CHARACTERS:
                raise SourceError(
                    f"{self._path}, line {self._line:,}: an element of the list does not end within "
                    f"{_MAX_ELEMENT_CHARACTERS >> 20} Mi characters; mend it, or convert it to one record a line "
                    "(.jsonl)"
                )
            # As much again as is held, so that a long element is not decoded too often.
            self._more(size)

    def _more(self, at_least: int) -> None:
        """Read on, and let go of what was dealt with."""
        raw = self._stream.read(max(BLOCK_BYTES, at_least))
        self._done = not raw
        self._held = self._held[self._at :] + self._text.decode(raw, final=self._done)
        self._at = 0

    def _skip(self) -> None:
        """Go past white space, reading on until something else is held or the file ends."""
        while True:
            match = _JSON_SPACE.match(self._held, self._at)
            self._advance(match.end() if match else self._at)
            if self._at < len(self._held) or self._done:
                return
            self._more(0)

    def _advance(self, to: int) -> None:
        gone = self._held[self._at : to]
        self._line += gone.count("\n")
        self._column = self._column + len(gone) if "\n" not in gone else len(gone) - gone.rfind("\n") - 1
        self._byte += utf8_bytes(gone)
        self._at = to

    def _broken(self, why: str, at: int) -> SourceError:
        before = self._held[self._at : at]
        line = self._line + before.count("\n")
        column = self._column + at - self._at if "\n" not in before else len(before) - before.rfind("\n") - 1
        return SourceError(
            f"{self._path}, line {line:,}, column {column + 1}: broken JSON ({why}); the rest of a list "
            "cannot be told apart after that. Mend it, or convert it to one record a line (.jsonl)"
        )


def utf8_bytes(text: str) -> int:
    """The size of a text, in which lone surrogates stand for single bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
