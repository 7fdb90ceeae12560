"""A disk that writes down what is done to a folder, so that a loss of power at any moment can be played afterwards.

The calls are really made, but for the flushing. Before and after each of them the folder is looked at, since files are
also written by `open` and by libraries; what was found goes into a journal. From a journal and a moment
`PowerLoss` builds the states that a loss of power may leave, by these rules:

- A file has the bytes that it had when it was last flushed. Of what was written to it later each block of 512 bytes
  may be there, be missing (the older bytes, or zeros), or be garbage, and the file may end anywhere between what is
  common to both and the longer one's end. Bytes that were flushed and not written to again are never lost.
- A name that was made, changed or removed in a folder is durable once that folder was flushed afterwards. Of the
  changes that came later any selection may be there, in which nothing is without what it presupposes: a change
  presupposes those before it that concern the same names of the same folder. So changes of different folders, and of
  different names in one folder, come in any order; a rename is whole or absent.
- What a folder holds is reached only if its own name is there. That a file or folder was flushed does not make its
  name durable: POSIX does not promise it, though many file systems do it.

That is more than a journaling file system would do to us, and less than a disk that lies about having flushed. The idea
is that of ALICE (Pillai et al., All File Systems Are Not Created Equal, OSDI 2014) and LazyFS (Ramos et al., 2024).

The disks at the end are worse than that on purpose: what checks the states must find them out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fabula.storage.disk import Disk, in_use

Tree = dict[str, bytes]
_BLOCK = 512


def content_of(path: Path) -> Tree | bytes | None:
    """The bytes of a file, those of every file of a folder by name, or None when there is neither."""
    if path.is_dir():
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    return path.read_bytes() if path.exists() else None


@dataclass(slots=True)
class Claim:
    """Somebody began to make a path something else; `returned` is the moment at which that was called done."""

    path: str
    gone: bool = False  # the path is being removed
    began: int = 0
    returned: int | None = None
    contents: list[Tree | bytes] = field(default_factory=list)  # what was given that name meanwhile


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: to a name (`link`, `unlink`, `rename`), to bytes (`write`), a flush, or to a claim."""

    kind: str
    node: int = 0  # the folder of the name, or what was written or flushed
    name: str = ""
    child: int = 0
    new_name: str = ""
    content: bytes = b""
    claim: Claim | None = None


class CrashingDisk(Disk):
    """Does everything for real, in one folder, and writes it down."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []
        self.claims: list[Claim] = []
        self._names: dict[int, dict[str, int]] = {0: {}}  # of each folder
        self._content: dict[int, bytes] = {}
        self._inode = {0: root.stat().st_ino}
        self._open: list[Claim] = []
        self.look()
        # What is there at the start is durable.
        for node in [*self._names, *self._content]:
            self.events.append(Event("sync", node))
        self.began = len(self.events)

    # -- the calls

    def sync_file(self, file: BinaryIO) -> None:
        file.flush()
        self.look()
        self.flushed(self._node_of(os.fstat(file.fileno()).st_ino))

    def sync_folder(self, folder: Path) -> None:
        self.look()
        self.flushed(self._at(folder))

    def flushed(self, node: int) -> None:
        self.events.append(Event("sync", node))

    def make_folder(self, folder: Path) -> None:
        self.look()
        super().make_folder(folder)
        self.look()

    def rename(self, old: Path, new: Path) -> None:
        self.look()
        assert old.parent == new.parent, "renames over folders are not part of the model"
        name = new.relative_to(self.root).as_posix()
        content = content_of(old)
        assert content is not None
        super().rename(old, new)
        folder = self._at(old.parent)
        child = self._names[folder].pop(old.name)
        self._names[folder][new.name] = child
        for claim in self._open:
            if claim.path == name:
                claim.contents.append(content)
        self.events.append(Event("rename", folder, old.name, child, new.name))

    def unlink(self, path: Path) -> None:
        self.look()
        super().unlink(path)
        self.look()

    def remove_folder(self, folder: Path) -> None:
        self.look()
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                self.remove_folder(path)
            else:
                path.unlink()
                self.look()
        folder.rmdir()
        self.look()

    # -- what is claimed

    @contextlib.contextmanager
    def claiming(self, *claims: Claim) -> Iterator[None]:
        """What the block makes; when it ends well it is announced."""
        self.look()
        for claim in claims:
            claim.began = len(self.events)
            self.claims.append(claim)
            self._open.append(claim)
        try:
            yield
            self.look()
            for claim in claims:
                found = content_of(self.root / claim.path)
                assert found == (claim.contents[-1] if claim.contents else None), claim.path
                claim.returned = len(self.events)
                # An announcement is a moment of its own: power may go right after it.
                self.events.append(Event("claim", claim=claim))
        finally:
            for claim in claims:
                self._open.remove(claim)

    # -- looking

    def look(self) -> None:
        """Write down what changed since the last look."""
        self._look(0, self.root)

    def _look(self, folder: int, path: Path) -> None:
        names = self._names[folder]
        with os.scandir(path) as found:
            now = {entry.name: entry for entry in found}
        for name in [n for n in names if n not in now or self._inode[names[n]] != now[n].inode()]:
            self.events.append(Event("unlink", folder, name, names.pop(name)))
        for name, entry in sorted(now.items()):
            if name not in names:
                node = names[name] = len(self._inode)
                self._inode[node] = entry.inode()
                if entry.is_dir():
                    self._names[node] = {}
                else:
                    self._content[node] = b""
                self.events.append(Event("link", folder, name, node))
            node = names[name]
            if entry.is_dir():
                self._look(node, path / name)
                continue
            content = Path(entry.path).read_bytes()
            if content != self._content[node]:
                self._content[node] = content
                self.events.append(Event("write", node, content=content))

    def _at(self, path: Path) -> int:
        node = 0
        for part in path.relative_to(self.root).parts:
            node = self._names[node][part]
        return node

    def _node_of(self, inode: int) -> int:
        """The newest with this number of the system, which gives numbers again."""
        return max(node for node, number in self._inode.items() if number == inode)


@contextlib.contextmanager
def used(disk: Disk) -> Iterator[None]:
    """Write to this disk."""
    before, in_use.disk = in_use.disk, disk
    try:
        yield
    finally:
        in_use.disk = before


class PowerLoss:
    """The state of a journal at a moment, from which what a loss of power may leave is drawn."""

    def __init__(self, disk: CrashingDisk, moment: int) -> None:
        self.disk, self.moment = disk, moment
        self.names: dict[int, dict[str, int]] = {0: {}}  # durable
        self.changes: dict[int, list[Event]] = {0: []}  # of names, not durable yet
        self.bytes: dict[int, bytes] = {}  # durable
        self.written: dict[int, list[bytes]] = {}  # not durable yet
        for event in disk.events[:moment]:
            self._happen(event)

    def _happen(self, event: Event) -> None:
        node = event.node
        if event.kind == "write":
            self.written.setdefault(node, []).append(event.content)
        elif event.kind == "sync" and node in self.changes:
            for change in self.changes[node]:
                _apply(change, self.names[node])
            self.changes[node] = []
        elif event.kind == "sync":
            later = self.written.pop(node, None)
            if later:
                self.bytes[node] = later[-1]
        elif event.kind != "claim":
            self.changes[node].append(event)
            if event.kind == "link" and event.child in self.disk._names:
                self.names.setdefault(event.child, {})
                self.changes.setdefault(event.child, [])

    def draw(self, chance: random.Random, target: Path) -> None:
        """Make one of the states that are possible, in a folder that does not exist yet."""
        self._chance = chance
        # Sometimes nothing, sometimes everything of what was not flushed has reached the disk.
        self._names_kept = chance.choice([0.0, 0.3, 0.7, 1.0])
        self._bytes_kept = chance.choice([0.0, 0.5, 1.0])
        self._write(0, target)

    def everything(self, target: Path) -> None:
        """Make the state that a process sees that dies at the moment, while the power stays on."""
        self._names_kept = self._bytes_kept = 1.0
        self._chance = random.Random(0)
        self._write(0, target)

    def _write(self, folder: int, path: Path) -> None:
        path.mkdir()
        for name, child in self._names_of(folder).items():
            if child in self.names:
                self._write(child, path / name)
            else:
                (path / name).write_bytes(self._bytes_of(child))

    def _names_of(self, folder: int) -> dict[str, int]:
        names = dict(self.names[folder])
        missing: set[str] = set()  # names whose last change is not there: nothing that builds on it can be
        for change in self.changes[folder]:
            concerned = {change.name, change.new_name} - {""}
            if concerned & missing or self._chance.random() >= self._names_kept:
                missing |= concerned
            else:
                _apply(change, names)
        return names

    def _bytes_of(self, file: int) -> bytes:
        old, later = self.bytes.get(file, b""), self.written.get(file)
        chance = self._chance
        if not later or (self._bytes_kept < 1 and chance.random() < 0.3):
            return old
        if self._bytes_kept == 1:
            return later[-1]
        new = chance.choice([later[-1], later[-1], *later])
        common = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        end = chance.choice([len(new), chance.randint(common, max(len(old), len(new)))])
        made = bytearray(new[:common])
        whole = chance.choice([common, common, chance.randint(common, len(new))])  # a prefix is there in any case
        while len(made) < end:
            start = len(made)
            stop = min(end, (start // _BLOCK + 1) * _BLOCK)
            if start >= len(new):
                made += old[start:stop].ljust(stop - start, b"\x00")
            elif stop <= whole or chance.random() < self._bytes_kept:
                made += new[start : min(stop, len(new))]
            else:
                stop = min(stop, len(new))
                kind = chance.randrange(3)
                zeros = bytes(stop - start)
                made += [old[start:stop].ljust(stop - start, b"\x00"), zeros, chance.randbytes(stop - start)][kind]
        return bytes(made)


def _apply(change: Event, names: dict[str, int]) -> None:
    if change.kind == "link":
        names[change.name] = change.child
    elif change.kind == "unlink":
        names.pop(change.name)
    else:
        names[change.new_name] = names.pop(change.name)


# ---- disks that are worse ----------------------------------------------------------------------------------


class FailingDisk(Disk):
    """Refuses one call, as the system would: the `at`-th (from 0), with this error."""

    def __init__(self, at: int | None = None, number: int = errno.EIO, inner: Disk | None = None) -> None:
        self.at, self.number, self.inner = at, number, inner or Disk()
        self.calls: list[str] = []

    def _pass(self, name: str, path: Path | str) -> None:
        self.calls.append(f"{name} {path}")
        if len(self.calls) - 1 == self.at:
            raise OSError(self.number, os.strerror(self.number), str(path))

    def sync_file(self, file: BinaryIO) -> None:
        self._pass("sync_file", file.name)
        self.inner.sync_file(file)

    def sync_folder(self, folder: Path) -> None:
        self._pass("sync_folder", folder)
        self.inner.sync_folder(folder)

    def make_folder(self, folder: Path) -> None:
        self._pass("make_folder", folder)
        self.inner.make_folder(folder)

    def rename(self, old: Path, new: Path) -> None:
        self._pass("rename", new)
        self.inner.rename(old, new)

    def unlink(self, path: Path) -> None:
        self._pass("unlink", path)
        self.inner.unlink(path)

    def remove_folder(self, folder: Path) -> None:
        # The real one never raises: it leaves what it cannot remove.
        with contextlib.suppress(OSError):
            self._pass("remove_folder", folder)
            self.inner.remove_folder(folder)


class QuickDisk(Disk):
    """Flushes nothing: for tests in which the power stays on."""

    def sync_file(self, file: BinaryIO) -> None:
        file.flush()

    def sync_folder(self, folder: Path) -> None:
        pass


class ForgetsFiles(CrashingDisk):
    """Flushing a file does nothing."""

    def sync_file(self, file: BinaryIO) -> None:
        file.flush()
        self.look()


class ForgetsFolders(CrashingDisk):
    """Flushing a folder does nothing."""

    def sync_folder(self, folder: Path) -> None:
        self.look()


class RenamesFirst(CrashingDisk):
    """Flushes a file only after it, or the folder that holds it, was renamed: what `seal` must not do."""

    def __init__(self, root: Path) -> None:
        self._waiting: set[int] = set()
        super().__init__(root)

    def sync_file(self, file: BinaryIO) -> None:
        file.flush()
        self.look()
        self._waiting.add(self._node_of(os.fstat(file.fileno()).st_ino))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        renamed = self._at(new)
        ready = self._waiting if renamed in self._names else self._waiting & {renamed}
        for node in sorted(ready):
            self.flushed(node)
        self._waiting = self._waiting - ready
