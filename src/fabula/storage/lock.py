"""One process writes one folder: a lock of the system that goes with the process, however that ends.

The lock is `flock` on a file of the folder (on Windows a locked byte), in which the holder's host, process and start
are written. Network file systems may keep such locks to one machine; so the holder also touches the file, and a file
of another host that was touched within the last minute counts as held.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fabula.errors import BusyError
from fabula.storage.disk import explained, make_folders

LOCK = "run.lock"
_TOUCHED_EVERY = 15.0
_DEAD_AFTER = 60.0
# Seconds that a lock is asked for again: whoever only looks who has it (`holder`) has it for an instant.
_PATIENCE = 0.2

# The files that this process has locked, by folder, as they were then: device and inode.
_held: dict[Path, tuple[int, int]] = {}


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a folder."""

    host: str
    process: int
    started: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (since {self.started})"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be; BusyError at once, naming the holder, when another process does."""
    folder = folder.absolute()
    made = not folder.exists()
    with explained(folder):
        make_folders(folder)
        descriptor = _open(folder / LOCK)
    if descriptor is None:
        raise _busy(folder, _read(folder / LOCK))
    try:
        foreign = _alive_elsewhere(folder / LOCK)
        if foreign is not None:
            raise _busy(folder, foreign)
        with explained(folder):
            _write(
                descriptor, Holder(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"))
            )
        _held[folder] = _identity(os.fstat(descriptor))
        done = threading.Event()
        threading.Thread(target=_touch, args=(folder / LOCK, done), name="fabula-lock", daemon=True).start()
        try:
            yield
        finally:
            done.set()
            ours = _is_there(folder, _held.pop(folder))
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            if made and ours and [p.name for p in folder.iterdir()] == [LOCK]:
                # Nothing came of it: leave no trace.
                (folder / LOCK).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    folder.rmdir()
    finally:
        os.close(descriptor)


def check_held(folder: Path) -> None:
    """BusyError when a folder that this process holds was removed or replaced: what it writes would be another's."""
    folder = folder.absolute()
    if folder in _held and not _is_there(folder, _held[folder]):
        raise BusyError(
            f"{folder}: the folder or its {LOCK} was removed or replaced while process {os.getpid()} was writing here; "
            "nothing more is written, so that another process may use the name"
        )


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _is_there(folder: Path, identity: tuple[int, int]) -> bool:
    """Whether the lock file of a folder is still the one that was locked."""
    try:
        return _identity((folder / LOCK).stat()) == identity
    except OSError:
        return False


def holder(folder: Path) -> Holder | None:
    """Who holds a folder now, without waiting or taking it; None when nobody does."""
    path = folder / LOCK
    if not path.exists():
        return None
    try:
        descriptor = _open(path)
    except OSError:
        return None
    if descriptor is None:
        return _read(path)
    os.close(descriptor)
    return _alive_elsewhere(path)


def refuse_if_held(folder: Path) -> None:
    """BusyError when another process holds a folder: what long start-ups ask first."""
    found = holder(folder)
    if found is not None:
        raise _busy(folder, found)


def _busy(folder: Path, by: Holder) -> BusyError:
    return BusyError(
        f"{folder}: {by} is writing here; wait until it ends, stop it (kill {by.process}), or choose another --name"
    )


def _open(path: Path) -> int | None:
    """A descriptor of the locked file; None when another has the lock."""
    until = time.monotonic() + _PATIENCE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not _take(descriptor):
                if time.monotonic() > until:
                    os.close(descriptor)
                    return None
                time.sleep(0.02)
            # Somebody may have removed the file between opening and locking: then it is another's.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    if os.name == "nt":
        import msvcrt

        try:
            # Beyond the text, so that others can read who it is.
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(descriptor: int, by: Holder) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    text = json.dumps({"host": by.host, "process": by.process, "started": by.started})
    os.write(descriptor, text.encode("utf-8", errors="backslashreplace"))


def _read(path: Path) -> Holder:
    """Who wrote the file; a holder may be between locking and writing."""
    for _ in range(10):
        try:
            found = json.loads(path.read_bytes())
            return Holder(str(found["host"]), int(found["process"]), str(found["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(0.02)
    return Holder("a host that has not said its name", 0, "just now")


def _alive_elsewhere(path: Path) -> Holder | None:
    """The holder on another host, if it touched the file lately."""
    try:
        if not path.stat().st_size or time.time() - path.stat().st_mtime > _DEAD_AFTER:
            return None
    except OSError:
        return None
    found = _read(path)
    return None if found.host == socket.gethostname() else found


def _touch(path: Path, done: threading.Event) -> None:
    while not done.wait(_TOUCHED_EVERY):
        with contextlib.suppress(OSError):
            os.utime(path)
