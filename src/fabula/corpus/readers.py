"""One reader per kind of file, registered by suffix: a file in, a stream of documents out.

A reader is a function `(file, reading, reject) -> Iterator[Record]`. It hands records it cannot read
exactly to `reject` and goes on; it raises SourceError for what makes the whole file useless. To add a kind,
register a function. Every reader streams: it holds one document (or one Parquet batch) at a time. The one
exception is a single JSON object, see `json_values`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from fabula.corpus import json_values
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
from fabula.corpus.json_values import Value, utf8_bytes
from fabula.corpus.records import FIELDS, Kind, Record, Useless, record_of
from fabula.corpus.streams import BLOCK_BYTES, COMPRESSED, TextFile, head, lines, opened
from fabula.errors import SourceError
from fabula.registry import Registry

Mode = Literal["file", "marker", "blank", "line"]

_FIRST_OBJECTS = 20
_WIKIPEDIA = re.compile(r"wiki_\d+")


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read: where plain text is cut, and which field of a record holds the text, or which two hold a pair."""

    split: Mode = "blank"
    marker: str = "<|endoftext|>"
    document_bytes: int = 4096
    text_field: str = "text"
    pair: tuple[str, str] | None = None  # fields of source and target
    records: Kind = "auto"  # what is still "auto" when a file is read is documents, or pairs
    title_field: str = ""

    # Whether a record is the text of one field and nothing more; kept, since it is asked for every record.
    plain: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        plain = self.pair is None and not self.title_field and self.records in ("auto", "documents")
        object.__setattr__(self, "plain", plain)

    @property
    def names(self) -> tuple[str, ...]:
        """Fields that a record may be known by."""
        return (*(self.pair or (self.text_field,)), *FIELDS)


Reader = Callable[[TextFile, Reading, Reject], Iterator[Record]]

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
def read_json_lines(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Record]:
    """One JSON object (or string) a line."""
    return _records(file, json_values.of_lines(file, reject), reading, reject)


@READERS.register(".json")
def read_json(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Record]:
    """A list of objects or strings, an object that holds one, a table by columns, or one record a line."""
    return _records(file, json_values.of_file(file, reading.names, reject), reading, reject, long=True)


@READERS.register("wiki_00")
def read_wikipedia(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Record]:
    """The articles of a Wikipedia dump as WikiExtractor writes them with --json: files without a suffix."""
    if head(file.path, BLOCK_BYTES).lstrip(SPACE_BYTES).startswith(b"<doc "):
        raise SourceError(f"{file.path}: articles between <doc> tags; run WikiExtractor with --json")
    return read_json_lines(file, reading, reject)


def _records(
    file: TextFile, values: Iterator[Value], reading: Reading, reject: Reject, long: bool = False
) -> Iterator[Record]:
    """The records in values; those of a list may be `long`er than a document, lines were measured already."""
    path = str(file.path)
    for place, line, byte, value, raw in values:
        made = record_of(value, reading, f"{file.name}, {place} {line}")
        if isinstance(made, str):
            reject(Quarantined(path, line, byte, made, excerpt(raw), isinstance(made, Useless)))
        elif long and any(len(t) * 4 > MAX_DOCUMENT_BYTES and utf8_bytes(t) > MAX_DOCUMENT_BYTES for t in made.texts):
            reject(too_long(path, line, byte, raw))
        else:
            yield made


def first_fields(file: TextFile, reading: Reading) -> list[list[str]]:
    """The names of the fields of a file's first objects, of a table its columns; [] where there are none.

    Of several, since the first one may be the one that is broken.
    """
    kind = kind_of(file.path)
    if kind in (".csv", ".tsv", ".parquet"):
        from fabula.corpus import tables

        return [tables.columns(file)]
    if kind in PLAIN:
        return []
    ignore: Reject = lambda _: None  # noqa: E731
    values = json_values.of_file(file, reading.names, ignore) if kind == ".json" else json_values.of_lines(file, ignore)
    return [list(value.value) for value in islice(values, _FIRST_OBJECTS) if isinstance(value.value, dict)]


# ---- kinds of files ----------------------------------------------------------------------------------------


def kind_of(path: Path) -> str:
    """The suffix that names a file's reader, without the compression; "" when there is none."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        if name.endswith(suffix):
            inner = _kind(name.removesuffix(suffix))
            # Parquet compresses its own columns and is read from both ends: no stream.
            return "" if inner == ".parquet" else inner
    return _kind(name)


def _kind(name: str) -> str:
    if _WIKIPEDIA.fullmatch(name):
        return "wiki_00"
    suffix = Path(name).suffix
    return suffix if suffix in READERS else ""


def is_plain(path: Path) -> bool:
    """Whether a file is plain text, that is: has no records of its own."""
    return kind_of(path) in PLAIN
