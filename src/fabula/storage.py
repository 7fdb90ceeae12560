"""The only module that writes artefacts.

A file is written under a temporary name, flushed to the disk, and renamed to its final name; the folder that holds the
name is flushed too. A folder (checkpoint, shards, tokenizer) is built under a temporary name with a manifest of sizes
and SHA-256, and appears under its final name in one rename: complete or absent, never half. What it costs: one fsync a
file (milliseconds here). Folders of processes that died are told apart by their process id and removed by `sweep`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fabula.config import Data, dump_json
from fabula.errors import DamagedError, InputError, MachineError

MANIFEST = "manifest.json"
_TEMPORARY = ".writing-"
# .writing-NAME-PID-RANDOM, and .writing-NAME-PID-old-RANDOM for a folder that stepped aside.
_LEFTOVER = re.compile(r"\.writing-(?P<name>.+)-(?P<pid>\d+)-(?P<aside>old-)?[0-9a-f]{8}", re.DOTALL)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by new content in one step."""
    with open_replacing(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Replace a UTF-8 text file in one step."""
    write_bytes(path, _utf8(content))


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, dump_json(data))


def append_json_line(path: Path, record: Data) -> None:
    """Append one record to a JSONL file in a single write; readers tolerate a torn last line."""
    append_line(path, json.dumps(record, ensure_ascii=False, allow_nan=False))


def append_line(path: Path, line: str) -> None:
    """Append one line of text to a file in a single write."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(_utf8(line + "\n"))


def _utf8(text: str) -> bytes:
    """UTF-8; a lone surrogate (from the name of a file that is not UTF-8) is written as JSON would escape it."""
    return text.encode("utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """The content of a JSON file; DamagedError when it is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DamagedError(f"{path}: missing; the folder is incomplete") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
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
        except (UnicodeDecodeError, json.JSONDecodeError):
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
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                _sync_file(file)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def publish(final: Path, manifest: Data | None = None) -> Iterator[Path]:
    """Build a folder under a temporary name; on success it appears as `final` with a manifest, in one rename.

    The manifest holds `manifest` plus {"files": {name: {"bytes", "sha256"}}}. An older `final` is replaced only once
    the new folder is durable. On any error nothing is left behind and an older `final` stays as it was.
    """
    final = Path(os.path.abspath(final))  # "." and "x/.." have no name to build beside
    temporary = final.with_name(f"{_TEMPORARY}{final.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    with _explained(final):
        if final.exists() and not final.is_dir():
            raise InputError(f"{final}: a file stands where a folder is needed")
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            seal(temporary, manifest or {})
            _swap(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def seal(folder: Path, manifest: Data) -> None:
    """Flush every file of a folder and write its manifest last."""
    files: Data = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    write_json(folder / MANIFEST, {**manifest, "files": files})
    for path in (p for p in folder.rglob("*") if p.is_dir()):
        sync_folder(path)
    sync_folder(folder)


def _swap(temporary: Path, final: Path) -> None:
    """Rename `temporary` to `final`; an existing folder steps aside first and is removed afterwards."""
    aside: Path | None = None
    if final.exists():
        aside = final.with_name(f"{_TEMPORARY}{final.name}-{os.getpid()}-old-{uuid.uuid4().hex[:8]}")
        final.rename(aside)
    try:
        temporary.rename(final)
    except BaseException:
        if aside is not None:
            aside.rename(final)
        raise
    sync_folder(final.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def verify(folder: Path, hashes: bool = True, progress: Callable[[int], None] | None = None) -> Data:
    """The manifest of a folder whose files agree with it; DamagedError naming the first file that does not.

    With `hashes` false only presence and sizes are compared (quick). `progress` is told the bytes of each file.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise DamagedError(f"{folder}: no {MANIFEST}; the folder is incomplete")
    manifest: Data = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DamagedError(f"{path}: not a manifest")
    for name, facts in manifest["files"].items():
        if not isinstance(facts, dict) or not {"bytes", "sha256"} <= facts.keys():
            raise DamagedError(f"{path}: not a manifest (nothing is said about {name})")
        file = folder / name
        if not file.is_file():
            raise DamagedError(f"{file}: missing, but listed in {MANIFEST}")
        size = file.stat().st_size
        if size != facts["bytes"]:
            raise DamagedError(f"{file}: {size:,} bytes, the manifest says {facts['bytes']:,}; the file is damaged")
        if hashes and hash_file(file) != facts["sha256"]:
            raise DamagedError(f"{file}: its SHA-256 differs from the manifest; the file is damaged")
        if progress is not None:
            progress(size)
    return manifest


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_data(data: Any) -> str:
    """SHA-256 of plain data in a canonical JSON form, in hexadecimal: equal data, equal hash."""
    text = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(_utf8(text)).hexdigest()


def remove(path: Path) -> None:
    """Delete a file or folder that we own."""
    if path.is_dir():
        # A folder loses its manifest first, so that a death half-way leaves something that cannot be taken for valid.
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged folder out of the way, for whoever wants to look at it; an older one of that name goes."""
    aside = path.with_name(f"damaged-{path.name}")
    remove(aside)
    return path.rename(aside)


def sweep(folder: Path) -> list[Path]:
    """Remove what dead processes left half-written in a folder; returns what was removed.

    A folder that had stepped aside when its writer died goes back to its place if nothing has taken it.
    """
    removed = []
    if folder.is_dir():
        for path in list(folder.iterdir()):
            found = _LEFTOVER.fullmatch(path.name)
            if found is None or _alive(int(found["pid"])):
                continue
            if found["aside"] and not (folder / found["name"]).exists():
                path.rename(folder / found["name"])
                continue
            remove(path)
            removed.append(path)
    return removed


def _alive(process: int) -> bool:
    """Whether a process with that id runs."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Flush a folder's names to the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's errors into ours: which path, why, what to do."""
    try:
        yield
    except Exception as error:
        number = _system_error(error)
        if number == errno.EFBIG:
            raise MachineError(
                f"{path}: larger than this system lets a file be (ulimit -f); nothing older was touched"
            ) from error
        if number in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(path)).free
            raise MachineError(
                f"{path}: the disk is full ({free:,} bytes free); free some space, nothing older was touched"
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MachineError(f"{path}: no permission to write here; choose another folder") from error
        if number in (errno.ENOTDIR, errno.EEXIST):
            raise InputError(f"{path}: a file stands where a folder is needed") from error
        if number == errno.EISDIR:
            raise InputError(f"{path}: a folder stands where a file is needed") from error
        if number == errno.ENAMETOOLONG:
            raise InputError(f"{path}: the name is too long for this disk; choose a shorter one") from error
        raise


def _system_error(error: Exception) -> int | None:
    """The system's number of an error; the libraries written in Rust tell it only in the text of their own errors."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _existing(path: Path) -> Path:
    """The nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path
