"""Which stages of a run are done, and what was said on the way: `stages.json` and `log.txt` of a run folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fabula import storage
from fabula.checkpoint import RunFolder
from fabula.config import Data
from fabula.errors import DamagedError
from fabula.progress import Progress, Task


@dataclass(slots=True)
class Stages:
    """Which stages are done with which key; times for the summary."""

    folder: RunFolder
    done: Data = field(default_factory=dict)
    rows: list[Data] = field(default_factory=list)

    @classmethod
    def of(cls, folder: RunFolder) -> Stages:
        done = storage.read_json(folder.stages) if folder.stages.exists() else {}
        if not isinstance(done, dict) or not all(isinstance(facts, dict) for facts in done.values()):
            raise DamagedError(f"{folder.stages}: damaged; remove it, then: fabula resume {folder.root}")
        return cls(folder, done)

    def is_done(self, stage: str, key: str) -> bool:
        return bool(self.done.get(stage, {}).get("key") == key)

    def record(self, stage: str, key: str, seconds: float, detail: str) -> None:
        """A stage was done now."""
        self.rows.append({"stage": stage, "seconds": seconds, "skipped": False, "detail": detail})
        self.mark(stage, key, seconds)

    def mark(self, stage: str, key: str, seconds: float) -> None:
        """A stage is done, in so many seconds, here or by another run whose work was taken over."""
        self.done[stage] = {"key": key, "seconds": seconds}
        storage.write_json(self.folder.stages, self.done)

    def skip(self, stage: str, detail: str) -> None:
        """A stage is up to date; its time is the one it took when it was done."""
        self.rows.append({"stage": stage, "seconds": self.done[stage]["seconds"], "skipped": True, "detail": detail})


class Logged:
    """A watcher that also writes sentences into the run's log.txt."""

    def __init__(self, inner: Progress, path: Path) -> None:
        self._inner, self._path = inner, path

    @contextlib.contextmanager
    def task(self, name: str, total: float | None, unit: str) -> Iterator[Task]:
        storage.append_line(self._path, f"{now()} {name}")
        with self._inner.task(name, total, unit) as task:
            yield task

    def note(self, message: str) -> None:
        storage.append_line(self._path, f"{now()} {message}")
        self._inner.note(message)


def now() -> str:
    """The present time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
