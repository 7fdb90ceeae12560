"""Is everything of a run, a checkpoint, shards or a tokenizer what was written? Every byte is hashed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fabula import storage
from fabula.checkpoint import RunFolder
from fabula.config import Data
from fabula.errors import DamagedError, InputError


@dataclass(frozen=True, slots=True)
class Finding:
    """One file or folder that was examined, and what is wrong with it."""

    path: Path
    bytes: int
    problem: str | None


def examine(path: Path, progress: Callable[[int], None]) -> Iterator[Finding]:
    """Everything below a run, a checkpoint, a data or a tokenizer folder, hashed and compared with its manifest.

    InputError when the path is none of them. `progress` is told the bytes that were read.
    """
    for folder in folders_to_examine(path):
        problems = [p for _, p in storage.examine(folder, progress=progress) if p is not None]
        if not problems:
            yield Finding(folder, _size(storage.read_json(folder / storage.MANIFEST)), None)
        yield from (Finding(folder, 0, problem) for problem in problems)
    run = RunFolder(path)
    if run.recipe.exists():
        for file in (run.metrics, run.samples, run.unapplied):
            try:
                storage.read_json_lines(file)
            except DamagedError as error:
                yield Finding(file, 0, str(error))
        for file in (run.stages, run.summary, run.evaluation):
            try:
                if file.exists():
                    storage.read_json(file)
            except DamagedError as error:
                yield Finding(file, 0, str(error))


def folders_to_examine(path: Path) -> list[Path]:
    """The folders with a manifest at or below a path."""
    if (path / storage.MANIFEST).exists():
        return [path]
    run = RunFolder(path)
    parts = [run.tokenizer, run.data, *(sorted(run.checkpoints.glob("step-*")) if run.checkpoints.is_dir() else [])]
    found = [part for part in parts if part.is_dir()]
    if not found:
        raise InputError(f"{path}: nothing here to verify: no run, checkpoint, data or tokenizer folder")
    return found


def _size(manifest: Data) -> int:
    return sum(int(facts["bytes"]) for facts in manifest["files"].values())
