"""Single files: replaced in one step, appended to, cut back, read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fabula import faults
from fabula.config import Data, dump_json
from fabula.errors import DamagedError
from fabula.storage.disk import explained, in_use, make_folders, temporary_name


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by new content in one step."""
    with open_replacing(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Replace a UTF-8 text file in one step."""
    write_bytes(path, to_utf8(content))


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, dump_json(data))


def append_json_line(path: Path, record: Data) -> None:
    """Append one record to a JSONL file in a single write; readers tolerate a torn last line."""
    append_line(path, json.dumps(record, ensure_ascii=False, allow_nan=False))


def append_line(path: Path, line: str) -> None:
    """Append one line of text to a file in a single write."""
    with explained(path):
        make_folders(path.parent)
        with path.open("ab") as file:
            file.write(to_utf8(line + "\n"))
        faults.point("line.appended")


def cut_json_lines(path: Path, keep: Callable[[Data], bool]) -> None:
    """Cut a JSONL file back to the last record that is to be kept, from its end: what comes before is not read."""
    if not path.exists():
        return
    with explained(path), path.open("rb+") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end > 0 and not _keeps(line := _line_before(file, end), keep):
            end -= len(line)
        if end < size:
            file.truncate(end)
            in_use.disk.sync_file(file)


def last_json_lines(path: Path, count: int) -> list[Data]:
    """The last `count` records of a JSONL file at most, in their order, read from its end; a torn last line is none."""
    found: list[Data] = []
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0 and len(found) < count:
            line = _line_before(file, end)
            end -= len(line)
            with contextlib.suppress(ValueError, RecursionError):
                found.append(json.loads(line))
    return found[::-1]


def _keeps(line: bytes, keep: Callable[[Data], bool]) -> bool:
    """Whether a line is whole and holds a record that is to be kept."""
    try:
        return line.endswith(b"\n") and keep(json.loads(line))
    except (ValueError, RecursionError):
        return False


def _line_before(file: BinaryIO, end: int) -> bytes:
    """The line that ends at a position, with its line end (the last one may have none)."""
    block = b""
    while True:
        start = max(0, end - len(block) - 4096)
        file.seek(start)
        block = file.read(end - len(block) - start) + block
        cut = block.rfind(b"\n", 0, len(block) - 1) + 1
        if cut or start == 0:
            return block[cut:]


def sync(path: Path) -> None:
    """Flush a file that was appended to, and its name, if there is one."""
    with explained(path), contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        in_use.disk.sync_file(file)
        in_use.disk.sync_folder(path.parent)


def to_utf8(text: str) -> bytes:
    """UTF-8; a lone surrogate (from the name of a file that is not UTF-8) is written as JSON would escape it."""
    return text.encode("utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """The content of a JSON file; DamagedError when it is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DamagedError(f"{path}: missing; the folder is incomplete") from None
    except (ValueError, RecursionError) as error:  # a number of too many digits is a ValueError of its own
        raise DamagedError(f"{path}: not valid JSON ({error}); the file is damaged") from None


def read_json_lines(path: Path) -> list[Data]:
    """The records of a JSONL file; a torn last line (a killed writer) is left out. Empty when there is no file."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records: list[Data] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            raise DamagedError(f"{path}, line {number}: not valid JSON") from None
    return records


def write_json_lines(path: Path, records: list[Data]) -> None:
    """Replace a JSONL file in one step (used to cut it back to a checkpoint)."""
    write_text(path, "".join(json.dumps(r, ensure_ascii=False, allow_nan=False) + "\n" for r in records))


@contextlib.contextmanager
def open_replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that replaces `path` in one step when the block ends well; otherwise nothing changes."""
    with explained(path):
        make_folders(path.parent)
        with temporary_name(path) as temporary:
            faults.point("file.begun")
            with temporary.open("wb") as file:
                yield file
                file.flush()
                faults.point("file.written")
                in_use.disk.sync_file(file)
            faults.point("file.synced")
            in_use.disk.rename(temporary, path)
            faults.point("file.renamed")
        in_use.disk.sync_folder(path.parent)
        faults.point("file.published")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """As `open_replacing`, for libraries that write a file by its name: they are given one beside `path`."""
    with explained(path):
        make_folders(path.parent)
        with temporary_name(path) as temporary:
            faults.point("file.begun")
            yield temporary
            with temporary.open("rb+") as file:
                faults.point("file.written")
                in_use.disk.sync_file(file)
            faults.point("file.synced")
            in_use.disk.rename(temporary, path)
            faults.point("file.renamed")
        in_use.disk.sync_folder(path.parent)
        faults.point("file.published")


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_data(data: Any) -> str:
    """SHA-256 of plain data in a canonical JSON form, in hexadecimal: equal data, equal hash."""
    text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(to_utf8(text)).hexdigest()
