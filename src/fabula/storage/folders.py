"""Folders that appear whole: built under another name, described by a manifest, renamed once; removed, set aside."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fabula import faults
from fabula.config import Data
from fabula.errors import DamagedError, InputError
from fabula.storage.disk import LEFTOVER, being_written, explained, in_use, make_folders, temporary_name
from fabula.storage.files import hash_file, read_json, write_json
from fabula.storage.verification import MANIFEST, sealed, verify

_UNFINISHED = ".unfinished-"
ACCOUNT = "account.json"


@contextlib.contextmanager
def publish(final: Path, manifest: Data | None = None) -> Iterator[Path]:
    """Build a folder under a temporary name; on success it appears as `final` with a manifest, in one rename.

    The manifest holds `manifest` plus {"files": {name: {"bytes", "sha256"}}}. An older `final` is replaced only once
    the new folder is durable. On any error nothing is left behind and an older `final` stays as it was.
    """
    final = Path(os.path.abspath(final))  # "." and "x/.." have no name to build beside
    with explained(final):
        _refuse_a_file(final)
        make_folders(final.parent)
        with temporary_name(final) as building:
            in_use.disk.make_folder(building)
            faults.point("folder.begun")
            yield building
            faults.point("folder.filled")
            seal(building, manifest or {})
            _swap(building, final)


def share(source: Path, final: Path) -> None:
    """Publish a finished folder once more as `final`: its files under second names, which take no room on the disk.

    What is published is never written to again, only replaced or removed, so neither folder can change the other.
    DamagedError when `source` is not what its manifest says.
    """
    manifest = verify(source)
    facts = {key: value for key, value in manifest.items() if key != "files"}
    with publish(final, facts) as building:
        for name in manifest["files"]:
            make_folders((building / name).parent)
            in_use.disk.link(source / name, building / name)


@dataclass(slots=True)
class Unfinished:
    """A folder that is built over several lives of a process: what is in it, and how far it is.

    `account` is plain data that says how much of the files is good; `keep` makes both durable. A process that finds
    the folder again goes on from the last account and cuts off what came after it.
    """

    folder: Path
    key: str
    account: Data = field(default_factory=dict)

    def keep(self, account: Data) -> None:
        """Remember how far the folder is. The files must have been flushed by their writers."""
        write_json(self.folder / ACCOUNT, {"key": self.key, **account})
        self.account = account
        faults.point("data.kept")


@contextlib.contextmanager
def publish_in_lives(final: Path, key: str, manifest: Data) -> Iterator[Unfinished]:
    """`publish` for a folder that takes long to fill: what is kept outlives the process.

    The folder is built as `.unfinished-NAME` beside `final`. It is found again by a later call with the same `key` (a
    hash of all that its content depends on); with another one it is begun anew. Only one process at a time may build
    it: whoever calls holds a lock. An error leaves it where it is.
    """
    final = Path(os.path.abspath(final))
    building = final.with_name(_UNFINISHED + final.name)
    with explained(final):
        _refuse_a_file(final)
        make_folders(final.parent)
        account: Data = {}
        if building.is_dir():
            with contextlib.suppress(DamagedError):
                account = read_json(building / ACCOUNT)
            if not isinstance(account, dict) or account.pop("key", None) != key:
                account = {}
                remove(building)
        if not building.is_dir():
            in_use.disk.make_folder(building)
            in_use.disk.sync_folder(building.parent)  # what `keep` makes durable is found again by this name
        sweep(building)
        faults.point("folder.begun")
        yield Unfinished(building, key, account)
        faults.point("folder.filled")
        seal(building, manifest)
        # Only now: whoever dies while hashing goes on from here.
        in_use.disk.unlink(building / ACCOUNT)
        in_use.disk.sync_folder(building)
        _swap(building, final)


def _refuse_a_file(final: Path) -> None:
    if final.exists() and not final.is_dir():
        raise InputError(f"{final}: a file stands where a folder is needed")


def seal(folder: Path, manifest: Data) -> None:
    """Flush every file of a folder and write its manifest last."""
    files: Data = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, ACCOUNT)):
        with path.open("rb+") as file:
            in_use.disk.sync_file(file)
        faults.point("folder.synced")
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    write_json(folder / MANIFEST, sealed({**manifest, "files": files}))
    faults.point("folder.described")
    for path in (p for p in folder.rglob("*") if p.is_dir()):
        in_use.disk.sync_folder(path)
    in_use.disk.sync_folder(folder)
    faults.point("folder.sealed")


def _swap(building: Path, final: Path) -> None:
    """Rename `building` to `final`; an existing folder steps aside first and is removed once the new one is durable."""
    if not final.exists():
        try:
            _rename_durably(building, final)
        except BaseException:
            _take_back(final, building)
            raise
        return
    # One that stepped aside before must neither be there nor come back: `sweep` could not tell it from this one.
    sweep(final.parent)
    in_use.disk.sync_folder(final.parent)
    with temporary_name(final, aside=True) as aside:
        in_use.disk.rename(final, aside)
        try:
            faults.point("folder.aside")
            _rename_durably(building, final)
        except BaseException:
            # Until the new folder is known to be durable the old one is not given up.
            _take_back(final, building)
            in_use.disk.rename(aside, final)
            _sync_if_possible(final.parent)
            raise
    # Or a loss of power could bring the older one back, half removed.
    _sync_if_possible(final.parent)


def _rename_durably(building: Path, final: Path) -> None:
    in_use.disk.rename(building, final)
    faults.point("folder.renamed")
    in_use.disk.sync_folder(final.parent)
    faults.point("folder.published")


def _take_back(final: Path, building: Path) -> None:
    """Undo the rename of a folder, durably if the disk lets us: it is emptied next, which must not show as `final`."""
    if final.exists():
        in_use.disk.rename(final, building)
        _sync_if_possible(final.parent)


def _sync_if_possible(folder: Path) -> None:
    # An error on the way out must not hide the one that led here, nor undo what is done.
    with contextlib.suppress(OSError):
        in_use.disk.sync_folder(folder)


def remove(path: Path) -> None:
    """Delete a file or folder that we own."""
    with explained(path):
        if LEFTOVER.fullmatch(path.name) and path.is_dir():
            in_use.disk.remove_folder(path)
        elif path.is_dir():
            # A folder loses its name first: a death half-way leaves something that cannot be taken for valid, and that
            # `sweep` removes. The name goes durably, or a loss of power could bring it back with half of its files.
            with temporary_name(path) as going:
                in_use.disk.rename(path, going)
                in_use.disk.sync_folder(path.parent)
                faults.point("folder.removing")
            faults.point("folder.removed")
        else:
            in_use.disk.unlink(path)


def set_aside(path: Path) -> Path:
    """Rename a damaged folder out of the way, for whoever wants to look at it; an older one of that name goes."""
    aside = path.with_name(f"damaged-{path.name}")
    remove(aside)
    with explained(path):
        in_use.disk.rename(path, aside)
    return aside


def sweep(folder: Path) -> list[Path]:
    """Remove what dead processes left half-written in a folder; returns what was removed.

    A folder that had stepped aside when its writer died goes back to its place if nothing has taken it.
    """
    removed = []
    if folder.is_dir():
        for path in list(folder.iterdir()):
            found = LEFTOVER.fullmatch(path.name)
            if found is None or being_written(path, int(found["pid"])):
                continue
            if found["aside"] and not (folder / found["name"]).exists():
                with explained(path):
                    in_use.disk.rename(path, folder / found["name"])
                continue
            remove(path)
            removed.append(path)
        if removed:
            _sync_if_possible(folder)
    return removed
