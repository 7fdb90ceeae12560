"""One reader per kind of file, registered by suffix: a file in, a stream of documents out.

A reader is a function `(file, reading, reject) -> Iterator[Document]`. It hands records it cannot read
exactly to `reject` and goes on; it raises SourceError for what makes the whole file useless. To add a kind,
register a function. Every reader streams: it holds one document (or one Parquet batch) at a time. The one
exception is a JSON list, which has no records before its last bracket; it is refused above
`MAX_JSON_LIST_BYTES`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fabula.corpus.document import (
    MAX_DOCUMENT_BYTES,
    SPACE,
    SPACE_BYTES,
    Document,
    Quarantined,
    Reject,
    decode,
    excerpt,
    too_long,
)
from fabula.corpus.streams import BLOCK_BYTES, UTF8_MARK, head, lines, opened
from fabula.errors import SourceError
from fabula.registry import Registry

Mode = Literal["file", "marker", "blank", "line"]

MAX_JSON_LIST_BYTES = 256 << 20

_PARQUET_ROWS = 256


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file to read: where it is, and the name that its documents carry as their origin."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read: where plain text is cut, and which field of a record holds the text, or which two hold a pair."""

    split: Mode = "blank"
    marker: str = "<|endoftext|>"
    document_bytes: int = 4096
    text_field: str = "text"
    pair: tuple[str, str] | None = None  # fields of source and target


Reader = Callable[[TextFile, Reading, Reject], Iterator[Document]]

READERS: Registry[Reader] = Registry("kind of text file")
PLAIN = (".txt", ".md", ".markdown")
# Lazily, since few need them.
READERS.add(".csv", "fabula.corpus.tables:read_csv")
READERS.add(".tsv", "fabula.corpus.tables:read_tsv")
READERS.add(".parquet", "fabula.corpus.tables:read_parquet")


# ---- plain text --------------------------------------------------------------------------------------------


@READERS.register(".txt")
@READERS.register(".md")
@READERS.register(".markdown")
def read_plain(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Document]:
    """Plain text, cut at a marker, at lines, or not at all. Space around a document is taken off."""
    if reading.split in ("blank", "line"):
        return _at_lines(file, reading.document_bytes, reading.split == "blank", reject)
    return _at_marker(file, reading.marker.encode() if reading.split == "marker" else None, reject)


def _at_marker(file: TextFile, marker: bytes | None, reject: Reject) -> Iterator[Document]:
    """The pieces between markers; the whole file without one.

    Two markers in a row enclose an empty document; nothing before the first or after the last one is no
    document.
    """
    buffer = bytearray()
    searched = 0  # nothing is found before this position
    line = 1
    long: Quarantined | None = None  # the piece being read is above the limit
    pieces = 0
    with opened(file.path) as (stream, byte):
        while block := stream.read(BLOCK_BYTES):
            buffer += block
            begin = 0
            while marker and (end := buffer.find(marker, searched)) >= 0:
                raw = bytes(buffer[begin:end])
                if long is not None:
                    reject(long)
                elif pieces or raw.strip(SPACE_BYTES):
                    yield from _document(file, raw, line, byte, reject)
                pieces += 1
                long = None
                line += raw.count(b"\n")
                byte += len(raw) + len(marker)
                begin = searched = end + len(marker)
            del buffer[:begin]
            searched = max(0, len(buffer) - len(marker) + 1) if marker else 0
            if len(buffer) > MAX_DOCUMENT_BYTES:
                long = long or too_long(str(file.path), line, byte, bytes(buffer[:64]))
                gone = searched if marker else len(buffer)
                line += buffer.count(b"\n", 0, gone)
                byte += gone
                del buffer[:gone]
                searched = 0
        if long is not None:
            reject(long)
        elif buffer.strip(SPACE_BYTES):
            yield from _document(file, bytes(buffer), line, byte, reject)


def _at_lines(file: TextFile, at_least: int, only_blank: bool, reject: Reject) -> Iterator[Document]:
    """Lines, joined until a document has `at_least` bytes; it ends at a line end, or only at a blank line."""
    held = bytearray()
    # Counted with LF line ends, so that the cuts are the same whatever the line ends are. It includes the
    # last one, which is no part of the document: hence `>` below.
    size = 0
    line = byte = 0
    long: Quarantined | None = None
    for number, at, raw in lines(file.path):
        blank = raw is not None and not raw.strip(SPACE_BYTES)
        if not blank:
            if not held and long is None:
                line, byte = number, at
            if raw is None or len(held) + len(raw) > MAX_DOCUMENT_BYTES:
                long = long or too_long(str(file.path), line, byte, bytes(held[:64]))
                held.clear()
            elif long is None:
                held += raw
                size += len(raw) - raw.endswith(b"\r\n")
        if (blank or not only_blank) and (size > at_least or long is not None):
            if long is not None:
                reject(long)
            else:
                yield from _document(file, bytes(held), line, byte, reject)
            held.clear()
            size, long = 0, None
        elif blank and held and raw is not None:
            held += raw
            size += len(raw) - raw.endswith(b"\r\n")
    if long is not None:
        reject(long)
    elif held:
        yield from _document(file, bytes(held), line, byte, reject)


def _document(file: TextFile, raw: bytes, line: int, byte: int, reject: Reject) -> Iterator[Document]:
    """The document in a stretch of a file that starts at a line and byte."""
    text = decode(raw, str(file.path), line, byte)
    if isinstance(text, Quarantined):
        reject(text)
        return
    lead = len(raw) - len(raw.lstrip(SPACE_BYTES))
    line += raw.count(b"\n", 0, lead)
    yield Document(text.replace("\r\n", "\n").strip(SPACE), f"{file.name}, line {line}")


# ---- records -----------------------------------------------------------------------------------------------


@READERS.register(".jsonl")
@READERS.register(".ndjson")
def read_json_lines(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Document]:
    """One JSON object (or string) a line."""
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
            record = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            at = len(line[: error.pos].encode("utf-8"))
            reason = f"broken JSON: {error.msg} at column {error.colno}"
            reject(Quarantined(path, number, byte + at, reason, excerpt(raw, at)))
            continue
        except (ValueError, RecursionError) as error:
            # Numbers of thousands of digits, or thousands of nested brackets.
            reject(Quarantined(path, number, byte, f"JSON that cannot be read: {error}", excerpt(raw)))
            continue
        made = _document_of(record, reading, f"{file.name}, line {number}")
        if isinstance(made, str):
            reject(Quarantined(path, number, byte, made, excerpt(raw)))
        else:
            yield made


@READERS.register(".json")
def read_json(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Document]:
    """A list of objects or strings; anything else is taken for one record a line."""
    start = head(file.path, BLOCK_BYTES).removeprefix(UTF8_MARK).lstrip(SPACE_BYTES)
    if not start.startswith(b"["):
        yield from read_json_lines(file, reading, reject)
        return
    path = str(file.path)
    with opened(file.path) as (stream, byte):
        raw = stream.read(MAX_JSON_LIST_BYTES + 1)
    if len(raw) > MAX_JSON_LIST_BYTES:
        raise SourceError(
            f"{path}: a JSON list above {MAX_JSON_LIST_BYTES >> 20} MiB cannot be read piece by piece; "
            "make it one record a line with: jq -c '.[]' OLD.json > NEW.jsonl"
        )
    # Bad bytes become lone surrogates here, only so that the good elements around them can still be told
    # apart.
    content = raw.decode("utf-8", "surrogateescape")
    del raw
    line = 1
    counted = 0
    for begin, end, record in _elements(content, path):
        between = content[counted:begin]
        line, byte, counted = line + between.count("\n"), byte + _utf8_bytes(between), begin
        source = content[begin:end]
        bad = _ESCAPED_BYTE.search(source)
        if bad:
            at = bad.start()
            reason = f"not UTF-8: byte 0x{ord(bad[0]) - 0xDC00:02x}"
            shown = excerpt(source.encode("utf-8", "surrogateescape"), _utf8_bytes(source[:at]))
            place = (line + source.count("\n", 0, at), byte + _utf8_bytes(source[:at]))
            reject(Quarantined(path, *place, reason, shown))
            continue
        made = _document_of(record, reading, f"{file.name}, line {line}")
        if isinstance(made, str):
            reject(Quarantined(path, line, byte, made, excerpt(source[:100].encode())))
        elif any(len(t) * 4 > MAX_DOCUMENT_BYTES and _utf8_bytes(t) > MAX_DOCUMENT_BYTES for t in made.texts):
            reject(too_long(path, line, byte, source[:100].encode()))
        else:
            yield made


_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_JSON_SPACE = re.compile(r"[ \t\r\n]*")


def _elements(content: str, path: str) -> Iterator[tuple[int, int, Any]]:
    """The elements of a JSON list as (begin, end, value); SourceError where the list is broken."""
    decoder = json.JSONDecoder()

    def skip(at: int) -> int:
        match = _JSON_SPACE.match(content, at)
        return match.end() if match else at

    at = skip(skip(0) + 1)
    try:
        while content[at : at + 1] != "]":
            record, end = decoder.raw_decode(content, at)
            yield at, end, record
            at = skip(end)
            if content[at : at + 1] == ",":
                at = skip(at + 1)
            elif content[at : at + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' or ']'", content, at)
        if skip(at + 1) != len(content):
            raise json.JSONDecodeError("Extra data after the list", content, at + 1)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"{path}, line {error.lineno:,}, column {error.colno}: broken JSON ({error.msg}); the rest of a list "
            "cannot be told apart after that. Mend it, or convert it to one record a line (.jsonl)"
        ) from None
    except RecursionError:
        raise SourceError(f"{path}: JSON nested too deeply; one record a line (.jsonl) is read") from None


def _document_of(record: Any, reading: Reading, origin: str) -> Document | str:
    """The document in a record, or the reason why there is none."""
    if reading.pair is None:
        text, problem = _text_of(record, reading.text_field)
        return problem or Document(text, origin)
    if not isinstance(record, dict):
        return f"expected an object with a source and a target, got {_kind(record)}"
    source, problem = _text_of(record, reading.pair[0])
    target, also = _text_of(record, reading.pair[1])
    return problem or also or Document(source, origin, target=target)


def _text_of(record: Any, field: str) -> tuple[str, str]:
    """The text of a record and "", or "" and the reason why it has none. "a.b" is the field b of the object in a."""
    if isinstance(record, str):
        text: Any = record
    elif not isinstance(record, dict):
        return "", f"expected an object or a string, got {_kind(record)}"
    elif field not in record:
        outer, _, inner = field.partition(".")
        if inner and isinstance(record.get(outer), dict):
            return _text_of(record[outer], inner)
        has = ", ".join(str(k) for k in list(record)[:8]) or "nothing"
        return "", f'no field "{field}"; the record has: {has}'
    else:
        text = record[field]
    if not isinstance(text, str):
        return "", f'the field "{field}" holds {_kind(text)}, not text'
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            bad = f"U+{ord(text[error.start]):04X}"
            return "", f"lone surrogate {bad} at character {error.start:,} of the text"
    return text, ""


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "text"}
    return names.get(type(value), "a number")


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
