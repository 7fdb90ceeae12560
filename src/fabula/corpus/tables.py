"""The readers of tables: CSV, TSV and Parquet. Rows in, documents out, a row or a batch of rows at a time.

CSV is parsed here and not with the csv module, which has one process-wide limit on the size of a cell,
refuses a lone carriage return outside quotes, and cannot say at which byte a row starts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from fabula.corpus.document import (
    MAX_DOCUMENT_BYTES,
    Document,
    Quarantined,
    Reject,
    decode,
    excerpt,
    too_long,
)
from fabula.corpus.readers import Reading, TextFile
from fabula.corpus.streams import lines
from fabula.errors import SourceError, require_extra

_BATCH_ROWS = 256
_UP_TO_CLOSING_QUOTE = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')
_WHOLLY_QUOTED = re.compile(rb'"((?:[^"]|"")*+)"')


class _Row(NamedTuple):
    """A row of a table: where it starts, its bytes (None: above the size limit), its cells."""

    line: int
    byte: int
    raw: bytes | None
    cells: list[bytes]


def read_csv(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Document]:
    """Comma-separated values (RFC 4180) with a header row; what stands between quotes is kept as it is.

    Cells separated by semicolons, as spreadsheets write them in many countries, are known by a first row that
    has semicolons and no comma. Raises SourceError for a quote that never closes: nothing after it can be
    told apart.
    """
    return _documents(file, reading, reject, _quoted_rows(file))


def read_tsv(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Document]:
    """Tab-separated values with a header row: a line is a row, and quotes are content unless they hold a
    whole cell.

    Unlike in CSV a quote never joins lines: in most such files quotes are just text, and one that happens to
    open a cell would swallow the rows up to the next.
    """
    return _documents(file, reading, reject, _tabbed_rows(file))


def _documents(file: TextFile, reading: Reading, reject: Reject, rows: Iterator[_Row]) -> Iterator[Document]:
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
            text, *target = [cells[column].decode("utf-8") for column in columns]
            yield Document(text, f"{file.name}, line {line}", target=target[0] if target else None)


def _named(path: str, header: _Row, reading: Reading) -> list[int]:
    """Where the columns stand that a header row names; SourceError for one that it does not."""
    names = [c.decode("utf-8", "backslashreplace").strip() for c in header.cells]
    wanted = reading.pair or (reading.text_field,)
    for name in wanted:
        if name not in names:
            raise _no_column(path, names, name, reading)
    return [names.index(name) for name in wanted]


def _numbered(path: str, first: _Row, reading: Reading) -> list[int]:
    """The columns that are given as numbers from 1; every row is a record. SourceError for one that is not there."""
    assert reading.pair is not None
    columns = [int(number) - 1 for number in reading.pair]
    # A first row above the size limit has no cells; it is rejected with the others.
    if first.raw is not None and not all(0 <= column < len(first.cells) for column in columns):
        raise SourceError(
            f"{path}: there is no column {max(columns) + 1 if min(columns) >= 0 else 0}; its first row has "
            f"{len(first.cells)}, counted from 1 (--corpus.source_field, --corpus.target_field)"
        )
    return columns


def _no_column(path: str, names: list[str], wanted: str, reading: Reading) -> SourceError:
    shown = ", ".join(f'"{n[:40]}"' for n in names[:20])
    ways = "one with --corpus.text_field NAME"
    if reading.pair is not None:
        ways = "two with --corpus.source_field and --corpus.target_field; numbers from 1 if it has no row of names"
    return SourceError(
        f'{path}: no column "{wanted}"; its first row, which must name the columns, is {shown}. Choose {ways}'
    )


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


def read_parquet(file: TextFile, reading: Reading, reject: Reject) -> Iterator[Document]:
    """A column of a Parquet file, or two. `Quarantined.line` is the row; there are no byte positions.

    Raises MachineError without pyarrow, SourceError for a damaged file or a column that holds no text.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise require_extra("pyarrow", "corpus", "reading Parquet files") from None
    path = str(file.path)
    fields = reading.pair or (reading.text_field,)
    for row, values in enumerate(_rows(path, reading, fields, pyarrow, parquet), start=1):
        texts = [_cell(value, field, path, row) for field, value in zip(fields, values, strict=True)]
        bad = next((text for text in texts if isinstance(text, Quarantined)), None)
        if bad is not None:
            reject(bad)
        else:
            text, *target = [str(text) for text in texts]
            yield Document(text, f"{file.name}, row {row}", target=target[0] if target else None)


def _cell(value: bytes | None, field: str, path: str, row: int) -> str | Quarantined:
    """The text of a cell, or why it has none."""
    if value is None:
        return Quarantined(path, row, None, f'the field "{field}" holds null, not text', "")
    if len(value) > MAX_DOCUMENT_BYTES:
        return too_long(path, row, None, value[:64])
    text = decode(value, path, row, 0)
    return dataclasses.replace(text, line=row, byte=None) if isinstance(text, Quarantined) else text


# pyarrow has no type information, hence Any.
def _rows(
    path: str, reading: Reading, fields: Sequence[str], pyarrow: Any, parquet: Any
) -> Iterator[tuple[bytes | None, ...]]:
    """The values of some columns as bytes, so that invalid UTF-8 reaches our own check."""
    field = fields[0]
    try:
        # With a buffer a column of a large row group is read in pieces, not whole.
        with parquet.ParquetFile(path, buffer_size=1 << 20) as table:
            names = table.schema_arrow.names
            for field in fields:
                if field not in names:
                    raise _no_column(path, names, field, reading)
            for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=list(fields)):
                columns = []
                for field in fields:
                    column = batch.column(batch.schema.names.index(field))
                    if pyarrow.types.is_dictionary(column.type):
                        column = column.dictionary_decode()
                    columns.append(column.cast(pyarrow.large_binary()).to_pylist())
                yield from zip(*columns, strict=True)
    except (pyarrow.ArrowNotImplementedError, pyarrow.ArrowTypeError):
        setting = "source_field and target_field" if reading.pair else "text_field NAME"
        raise SourceError(
            f'{path}: the column "{field}" holds no text; choose another with --corpus.{setting}'
        ) from None
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a readable Parquet file ({error}); make or fetch it again") from None
