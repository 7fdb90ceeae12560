"""What every write goes through: the calls that change names or flush, temporary names, errors in words.

All such calls go through `in_use.disk`, so that tests can fail each one, record their order, or stand in for a disk
that loses what was not flushed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fabula.errors import InputError, MachineError

_TEMPORARY = ".writing-"
# .writing-NAME-PID-RANDOM, and .writing-NAME-PID-old-RANDOM for a folder that stepped aside.
LEFTOVER = re.compile(r"\.writing-(?P<name>.+)-(?P<pid>\d+)-(?P<aside>old-)?[0-9a-f]{8}", re.DOTALL)

# What this process itself is writing now; any other leftover with our process id is of an earlier process.
_writing: set[Path] = set()


class Disk:
    """The calls by which names change and bytes become durable."""

    def sync_file(self, file: BinaryIO) -> None:
        """Flush a file that is open."""
        file.flush()
        os.fsync(file.fileno())

    def sync_folder(self, folder: Path) -> None:
        """Flush a folder's names, where the system can."""
        if os.name == "nt":
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_folder(self, folder: Path) -> None:
        """Make one folder in an existing one."""
        folder.mkdir()

    def rename(self, old: Path, new: Path) -> None:
        """Rename; a file (not a folder) of the new name is replaced."""
        old.replace(new)

    def link(self, old: Path, new: Path) -> None:
        """A second name for a file, or a copy where the file system has no such names."""
        try:
            os.link(old, new)
        except OSError:
            shutil.copyfile(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file; content when there is none."""
        path.unlink(missing_ok=True)

    def remove_folder(self, folder: Path) -> None:
        """Remove a folder with everything in it, as far as possible."""
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class InUse:
    """The disk that is written to; tests put another one in its place."""

    disk: Disk


in_use = InUse(Disk())


def make_folders(folder: Path) -> None:
    """Make a folder and its parents; each new name is durable."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for path in reversed(missing):
        try:
            in_use.disk.make_folder(path)
        except FileExistsError:
            if not path.is_dir():
                raise
        in_use.disk.sync_folder(path.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


@contextlib.contextmanager
def temporary_name(final: Path, aside: bool = False) -> Iterator[Path]:
    """A name beside `final` to write under; whatever has it when the block ends is removed.

    `aside` is for an older `final` that waits until its successor is durable: it is removed only if there is one.
    """
    name = f"{_TEMPORARY}{final.name}-{os.getpid()}-{'old-' if aside else ''}{uuid.uuid4().hex[:8]}"
    temporary = final.with_name(name)
    _writing.add(temporary)
    try:
        yield temporary
    finally:
        try:
            if temporary.is_dir():
                if not aside or final.exists():
                    in_use.disk.remove_folder(temporary)
            else:
                # An error on the way out must not hide the one that led here.
                with contextlib.suppress(OSError):
                    in_use.disk.unlink(temporary)
        finally:
            _writing.discard(temporary)


def being_written(path: Path, process: int) -> bool:
    """Whether the process that began to write a leftover still runs; ids are given again, in containers always."""
    if process == os.getpid():
        return path in _writing
    import psutil

    try:
        return bool(psutil.Process(process).create_time() <= path.stat().st_mtime + 1)
    except (psutil.NoSuchProcess, FileNotFoundError, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


def free_bytes(folder: Path) -> int:
    """Bytes that can be written where a folder is or will be."""
    return shutil.disk_usage(_existing(folder.absolute())).free


def require_space(folder: Path, n_bytes: int, what: str) -> None:
    """MachineError when `n_bytes` do not fit where a folder is or will be, before anything is written."""
    free = free_bytes(folder)
    if free < n_bytes:
        raise MachineError(
            f"{folder}: {what} needs {n_bytes:,} bytes, {free:,} are free; free some space, nothing was touched"
        )


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
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
            raise MachineError(
                f"{path}: the disk is full ({free_bytes(path):,} bytes free); free some space, "
                "nothing older was touched"
            ) from error
        if number == errno.EIO:
            raise MachineError(
                f"{path}: the disk reports an error of its own (input/output error); nothing older was touched. "
                "Look at its health, and use another one"
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
