"""The readers of tables: CSV, TSV and Parquet. Rows in, documents out, a row or a batch of rows at a time.

CSV is parsed here and not with the csv module, which has one process-wide limit on the size of a cell,
refuses a lone carriage return outside quotes, and cannot say at which byte a row starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from fabula.corpus.document import (
    MAX_DOCUMENT_BYTES,
    NOT_UTF8,
    Quarantined,
    Reject,
    decode,
    excerpt,
    too_long,
)
from fabula.corpus.readers import Reading, kind_of
from fabula.corpus.records import FIELDS, Record, Useless, record_of
from fabula.corpus.streams import TextFile, lines
from fabula.errors import SourceError, nearest, require_extra

_BATCH_ROWS = 256
_FIRST_ROW = "its first row, which must name the columns,"
_UP_TO_CLOSING_QUOTE = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
_WHOLLY_QUOTED = re.compile(rb'"((?:[^"]|"")*+)"')


class _Row(NamedTuple):
    """A row of a table: where it starts, its bytes (None: above the size limit), its cells."""

    line: int
    byte: int
    raw: bytes | None
    cells: list[bytes]


def read_csv(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Record]:
    """Comma-separated values (RFC 4180) with a header row; what stands between quotes is kept as it is.

    Cells separated by semicolons, as spreadsheets write them in many countries, are known by a first row that
    has semicolons and no comma. Raises SourceError for a quote that never closes: nothing after it can be
    told apart.
    """
    return _documents(file, reading, reject, _quoted_rows(file))


def read_tsv(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Record]:
    """Tab-separated values with a header row: a line is a row, and quotes are content unless they hold a
    whole cell.

    Unlike in CSV a quote never joins lines: in most such files quotes are just text, and one that happens to
    open a cell would swallow the rows up to the next.
    """
    return _documents(file, reading, reject, _tabbed_rows(file))


def columns(file: TextFile) -> list[str]:
    """The names of a table's columns."""
    if file.path.suffix.lower() == ".parquet":
        pyarrow, parquet = _pyarrow()
        with _readable(str(file.path), pyarrow), parquet.ParquetFile(str(file.path)) as table:
            return list(table.schema_arrow.names)
    tabbed = kind_of(file.path) == ".tsv"
    first = next(_tabbed_rows(file) if tabbed else _quoted_rows(file), None)
    return _names(first) if first is not None else []


def _documents(file: TextFile, reading: Reading, reject: Reject, rows: Iterator[_Row]) -> Iterator[Record]:
    path = str(file.path)
    first = next(rows, None)
    if first is None:
        return
    numbered = reading.pair is not None and reading.pair[0].isdecimal()
    columns = _numbered(path, first, reading) if numbered else _named(path, first, reading)
    width, what = len(first.cells), "the first row" if numbered else "the header"
    for line, byte, raw, cells in chain([first], rows) if numbered else rows:
        if raw is None:
            reject(too_long(path, line, byte))
            continue
        whole = decode(raw, path, line, byte)
        if isinstance(whole, Quarantined):
            reject(whole)
        elif len(cells) != width:
            reject(Quarantined(path, line, byte, f"{len(cells)} cells, {what} has {width}", excerpt(raw)))
        else:
            values = {name: cells[column].decode("utf-8") for name, column in columns.items()}
            made = record_of(values, reading, f"{file.name}, line {line}")
            if isinstance(made, str):
                reject(Quarantined(path, line, byte, made, excerpt(raw), isinstance(made, Useless)))
            else:
                yield made


def _names(header: _Row) -> list[str]:
    return [c.decode("utf-8", "backslashreplace").strip() for c in header.cells]


def _named(path: str, header: _Row, reading: Reading) -> dict[str, int]:
    """Where the columns stand that a header row names; SourceError for one that it does not."""
    names = _names(header)
    return {name: names.index(name) for name in wanted(path, names, reading)}


def wanted(path: str, names: Sequence[str], reading: Reading, what: str = _FIRST_ROW) -> list[str]:
    """The columns that make up a record; SourceError for one that is not there."""
    if reading.records in ("conversations", "preferences"):
        there = [name for name in FIELDS if name in names]
        if not there:
            raise _no_column(path, names, "messages", reading, what)
        return there
    asked = list(reading.pair or (reading.text_field,))
    if reading.title_field and reading.pair is None:
        asked.append(reading.title_field)
    for name in asked:
        if name not in names:
            raise _no_column(path, names, name, reading, what)
    return asked


def _numbered(path: str, first: _Row, reading: Reading) -> dict[str, int]:
    """The columns that are given as numbers from 1; every row is a record. SourceError for one that is not there."""
    assert reading.pair is not None
    columns = {number: int(number) - 1 for number in reading.pair}
    highest, least = max(columns.values()), min(columns.values())
    # A first row above the size limit has no cells; it is rejected with the others.
    if first.raw is not None and not 0 <= least <= highest < len(first.cells):
        raise SourceError(
            f"{path}: there is no column {highest + 1 if least >= 0 else 0}; its first row has "
            f"{len(first.cells)}, counted from 1 (--corpus.source_field, --corpus.target_field)"
        )
    return columns


def _no_column(path: str, names: Sequence[str], name: str, reading: Reading, what: str) -> SourceError:
    """The error of a table that has no such column: with those it has, and the nearest."""
    shown = ", ".join(f'"{n[:40]}"' for n in names[:20])
    ways = "one with --corpus.text_field NAME"
    if reading.pair is not None:
        ways = "two with --corpus.source_field and --corpus.target_field; numbers from 1 if it has no row of names"
    elif reading.records in ("conversations", "preferences"):
        ways = f"other records with --corpus.records; {reading.records} have fields such as {', '.join(FIELDS[:5])}"
    near = nearest(name, names)
    hint = f"; {near}" if near.startswith("did") else "."
    return SourceError(f'{path}: no column "{name}"; {what} is {shown}{hint} Choose {ways}')


def _tabbed_rows(file: TextFile) -> Iterator[_Row]:
    for number, byte, raw in lines(file.path):
        if raw is None:
            yield _Row(number, byte, None, [])
            continue
        body = raw[: _without_end(raw)]
        if body:
            yield _Row(number, byte, raw, [_unquoted(cell) for cell in body.split(b"\t")])


def _unquoted(cell: bytes) -> bytes:
    match = _WHOLLY_QUOTED.fullmatch(cell) if cell[:1] == b'"' else None
    return match[1].replace(b'""', b'"') if match else cell


def _quoted_rows(file: TextFile) -> Iterator[_Row]:
    """Rows of a CSV file; a quoted cell may hold line ends, and then a row is several lines."""
    separator = b""
    line = byte = 0
    row = bytearray()
    cells: list[bytes] = []
    cell: list[bytes] | None = None  # the lines of a quoted cell that is still open
    for number, at, raw in lines(file.path):
        if cell is None:
            if raw is None:
                yield _Row(number, at, None, [])
                continue
            if not raw.strip(b"\r\n"):
                continue
            line, byte, cells = number, at, []
            row.clear()
            separator = separator or (b";" if b";" in raw and b"," not in raw else b",")
        if raw is None or len(row) + len(raw) > MAX_DOCUMENT_BYTES:
            raise _never_closed(file, line, f"within {MAX_DOCUMENT_BYTES >> 20} MiB")
        row += raw
        cell = _split_cells(raw, separator, cells, cell)
        if cell is None:
            yield _Row(line, byte, bytes(row), cells)
    if cell is not None:
        raise _never_closed(file, line, "before the end of the file")


def _split_cells(raw: bytes, separator: bytes, cells: list[bytes], opened: list[bytes] | None) -> list[bytes] | None:
    """Add the cells of a line to a row; what there is of a cell that goes on in the next line, else None."""
    stop = _without_end(raw)
    at = 0
    while True:
        value = b""
        if opened is None and raw[at : at + 1] == b'"':
            opened, at = [], at + 1
        if opened is not None:
            match = _UP_TO_CLOSING_QUOTE.match(raw, at)
            if match is None:
                opened.append(raw[at:])
                return opened
            opened.append(raw[at : match.end() - 1])
            value, at, opened = b"".join(opened).replace(b'""', b'"'), match.end(), None
        end = raw.find(separator, at, stop)
        cells.append(value + raw[at : end if end >= 0 else stop])
        if end < 0:
            return None
        at = end + 1


def _without_end(raw: bytes) -> int:
    """The length of a line without its end: LF, and one CR before it."""
    return len(raw) - (2 if raw.endswith(b"\r\n") else raw.endswith(b"\n"))


def _never_closed(file: TextFile, line: int, where: str) -> SourceError:
    return SourceError(
        f"{file.path}, line {line:,}: a quote opens in this row and does not close {where}; "
        "close it, or write quotes inside a cell twice"
    )


# ---- Parquet -------------------------------------------------------------------------------------------------


def read_parquet(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Record]:
    """The columns of a Parquet file that make up records. `Quarantined.line` is the row; there are no byte positions.

    Raises MachineError without pyarrow, SourceError for a damaged file or a column that holds no text.
    """
    pyarrow, parquet = _pyarrow()
    path = str(file.path)
    for row, values in enumerate(_rows(path, reading, pyarrow, parquet), start=1):
        checked: dict[str, Any] = {name: _cell(value, name, path, row) for name, value in values.items()}
        bad = next((value for value in checked.values() if isinstance(value, Quarantined)), None)
        made = record_of(checked, reading, f"{file.name}, row {row}") if bad is None else bad
        if isinstance(made, Quarantined):
            reject(made)
        elif isinstance(made, str):
            reject(Quarantined(path, row, None, made, "", isinstance(made, Useless)))
        else:
            yield made


def _cell(value: Any, field: str, path: str, row: int) -> Any:
    """The text of a cell that is bytes, or why it has none; other values as they are."""
    if isinstance(value, _Broken):
        return Quarantined(path, row, None, value.reason, "")
    if not isinstance(value, bytes):
        return value
    if len(value) > MAX_DOCUMENT_BYTES:
        return too_long(path, row, None, value[:64])
    text = decode(value, path, row, 0)
    return dataclasses.replace(text, line=row, byte=None) if isinstance(text, Quarantined) else text


class _Broken(NamedTuple):
    """Stands for a value that could not be taken out of a table."""

    reason: str


# pyarrow has no type information, hence Any.
def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise require_extra("pyarrow", "corpus", "reading Parquet files") from None
    return pyarrow, parquet


@contextlib.contextmanager
def _readable(path: str, pyarrow: Any) -> Iterator[None]:
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a readable Parquet file ({error}); make or fetch it again") from None


def _rows(path: str, reading: Reading, pyarrow: Any, parquet: Any) -> Iterator[dict[str, Any]]:
    """Some columns of each row; texts as bytes, so that invalid UTF-8 reaches our own check."""
    # With a buffer a column of a large row group is read in pieces, not whole.
    with _readable(path, pyarrow), parquet.ParquetFile(path, buffer_size=1 << 20) as table:
        names = wanted(path, table.schema_arrow.names, reading)
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=names):
            columns = [_values(batch.column(batch.schema.names.index(n)), n, path, reading, pyarrow) for n in names]
            for values in zip(*columns, strict=True):
                yield dict(zip(names, values, strict=True))


def _values(column: Any, field: str, path: str, reading: Reading, pyarrow: Any) -> list[Any]:
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pyarrow.types.is_nested(column.type) and reading.records in ("conversations", "preferences"):
        return [_nested(column, row) for row in range(len(column))]
    try:
        values: list[Any] = column.cast(pyarrow.large_binary()).to_pylist()
        return values
    except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowTypeError):
        setting = "source_field and target_field" if reading.pair else "text_field NAME"
        raise SourceError(
            f'{path}: the column "{field}" holds no text; choose another with --corpus.{setting}'
        ) from None


def _nested(column: Any, row: int) -> Any:
    try:
        return column[row].as_py()
    except UnicodeDecodeError as error:
        return _Broken(f"{NOT_UTF8}: byte 0x{error.object[error.start]:02x} ({error.reason})")
