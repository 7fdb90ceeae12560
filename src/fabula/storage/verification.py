"""Is what is on the disk what was written? Manifests of sizes and SHA-256."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fabula.config import Data
from fabula.errors import DamagedError, MachineError
from fabula.storage.files import hash_data, hash_file, read_json, write_json

MANIFEST = "manifest.json"
_SEAL, _KIND = "sealed", "sha256:"


def sealed(manifest: Data) -> Data:
    """A manifest with a SHA-256 of all that it says, so that damage to itself is found too."""
    said = {key: value for key, value in manifest.items() if key != _SEAL}
    return {**said, _SEAL: _KIND + hash_data(said)}


@dataclass(slots=True)
class Known:
    """Files whose SHA-256 was once computed, told again by size, time of change and place on the disk.

    A file that is the same in all three is not read again. `path` is where this is kept between processes, if at all.
    """

    path: Path | None = None
    files: dict[str, list[int | str]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Known:
        """What a file says; nothing when it is missing or damaged."""
        try:
            files = read_json(path)
        except DamagedError:
            return cls(path)
        sound = isinstance(files, dict) and all(isinstance(v, list) and len(v) == 4 for v in files.values())
        return cls(path, files if sound else {})

    def hash(self, file: Path) -> str:
        """The SHA-256 of a file, computed if it is not known."""
        status = file.stat()
        identity: list[int | str] = [status.st_size, status.st_mtime_ns, status.st_ino]
        name = file.absolute().as_posix()
        held = self.files.get(name)
        if held is not None and held[:3] == identity:
            return str(held[3])
        found = hash_file(file)
        self.files[name] = [*identity, found]
        return found

    def learn(self, folder: Path) -> None:
        """Take the hashes of a manifest for those of its files: this process has just written both."""
        for name, facts in read_json(folder / MANIFEST)["files"].items():
            status = (folder / name).stat()
            self.files[(folder / name).absolute().as_posix()] = [
                *(status.st_size, status.st_mtime_ns, status.st_ino),
                facts["sha256"],
            ]

    def save(self) -> None:
        """Keep this for the next process; content when the disk does not let it."""
        if self.path is not None:
            with contextlib.suppress(MachineError):
                write_json(self.path, self.files)


def verify(
    folder: Path, hashes: bool = True, progress: Callable[[int], None] | None = None, known: Known | None = None
) -> Data:
    """The manifest of a folder whose files agree with it; DamagedError naming the first file that does not.

    With `hashes` false only presence and sizes are compared (quick); files that are `known` are not read again.
    `progress` is told the bytes of each file.
    """
    manifest: Data = {}
    for described, problem in examine(folder, hashes, progress, known):
        if problem is not None:
            raise DamagedError(problem)
        manifest = described
    return manifest


def examine(
    folder: Path, hashes: bool = True, progress: Callable[[int], None] | None = None, known: Known | None = None
) -> Iterator[tuple[Data, str | None]]:
    """Each file of a manifest, with what is wrong with it or None; a manifest that is none comes as one problem."""
    path = folder / MANIFEST
    if not path.exists():
        yield {}, f"{folder}: no {MANIFEST}; the folder is incomplete"
        return
    try:
        manifest: Data = read_json(path)
    except DamagedError as error:
        yield {}, str(error)
        return
    problem = _problem(manifest)
    if problem is not None:
        yield {}, f"{path}: {problem}"
        return
    yield manifest, None
    for name, facts in manifest["files"].items():
        if not _describes(facts):
            yield manifest, f"{path}: not a manifest (nothing is said about {name})"
            continue
        if not _is_inside(folder, name):
            yield manifest, f"{path}: not a manifest ({name!r} is no name of a file in this folder)"
            continue
        file = folder / name
        if not _is_file(file):
            yield manifest, f"{file}: missing, but listed in {MANIFEST}"
            continue
        size = file.stat().st_size
        if size != facts["bytes"]:
            yield (
                manifest,
                f"{file}: {size:,} bytes, the manifest says {facts['bytes']:,}; the file is damaged",
            )
        elif hashes and (known.hash(file) if known else hash_file(file)) != facts["sha256"]:
            yield manifest, f"{file}: its SHA-256 differs from the manifest; the file is damaged"
        else:
            yield manifest, None
        if progress is not None:
            progress(size)


def _problem(manifest: Any) -> str | None:
    """What makes data no manifest, or one that was changed."""
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return "not a manifest"
    # Found by its value as well as by its name: a damaged name must not make it a manifest of before there were seals.
    seals = [k for k, v in manifest.items() if k == _SEAL or (isinstance(v, str) and v.startswith(_KIND))]
    try:
        if seals and (seals != [_SEAL] or sealed(manifest)[_SEAL] != manifest[_SEAL]):
            return "what it says was changed after it was sealed; the file is damaged"
    except ValueError:
        return "not a manifest (NaN or infinity in it)"
    return None


def _describes(facts: Any) -> bool:
    """Whether a manifest's entry says how long a file is and what its hash is."""
    return (
        isinstance(facts, dict)
        and isinstance(facts.get("bytes"), int)
        and isinstance(facts.get("sha256"), str)
        and not isinstance(facts["bytes"], bool)
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file
        return False


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a manifest's name leads to a place in its folder, whatever links there are."""
    try:
        if name == Path(name).name and not (folder / name).is_symlink():
            return True
        return (folder / name).resolve().is_relative_to(folder.resolve()) and ".." not in Path(name).parts
    except (ValueError, OSError, RuntimeError):  # a zero byte, links in a circle
        return False
