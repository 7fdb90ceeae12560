"""A run's trackers, seen from the trainer: started with it, ended with it, and otherwise none of its business."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fabula.checkpoint import RunFolder
from fabula.companion import Companion
from fabula.config import Data
from fabula.train.trackers import worker
from fabula.train.trackers.config import TrackingConfig
from fabula.train.trainer import Callback, StepRecord, Trainer

# Seconds that the end of a run waits for all of its trackers; with a server on the other side.
_PATIENCE, _PATIENCE_ONLINE = 15.0, 60.0


class Trackers(Callback):
    """Starts a process for each tracker and tells in one line when one of them is lost.

    Its place is after the callbacks that write: what they cut back at the start of a resumed run is cut by then.
    """

    def __init__(
        self,
        names: Sequence[str],
        config: TrackingConfig,
        folder: RunFolder,
        learning_rate: float,
        note: Callable[[str], None],
    ) -> None:
        self.names, self.config, self.folder = names, config, folder
        self.learning_rate, self.note = learning_rate, note
        self._running: dict[str, Companion] = {}
        self._looks: dict[str, str] = {}
        self._steps: dict[str, int] = {}

    def on_start(self, trainer: Trainer) -> None:
        for name in self.names:
            self._running[name] = Companion(worker.__name__, self._job(name), {"OMP_NUM_THREADS": "1"})

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        for name in [n for n, companion in self._running.items() if not companion.alive]:
            self._hear(name)
            self._lose(name)

    def on_end(self, trainer: Trainer) -> None:
        self.finish()

    def on_stop(self, trainer: Trainer) -> None:
        self.finish()

    def finish(self) -> None:
        """Let all of them hand on what is left, for a limited time; then there are none."""
        until = time.monotonic() + (_PATIENCE_ONLINE if self.config.online else _PATIENCE)
        for companion in self._running.values():
            companion.tell({"end": True})
        for name in list(self._running):
            companion = self._running[name]
            done = companion.wait(until - time.monotonic())
            finished = self._hear(name)
            if finished:
                self.note(f"tracker {name}: {self._looks.get(name, '')}")
                self._running.pop(name).end()
            else:
                self._lose(name, "" if done else "did not finish in time and was ended")

    def close(self) -> None:
        """End at once what still runs: an error ended the run."""
        for companion in self._running.values():
            companion.end()
        self._running.clear()

    def _hear(self, name: str) -> bool:
        """Take in what a tracker's process has said; whether it said that it is done."""
        done = False
        for said in self._running[name].heard():
            self._looks[name] = said.get("look", self._looks.get(name, ""))
            self._steps[name] = said.get("steps", self._steps.get(name, 0))
            if "error" in said:
                self._running[name].problem = said["error"]
            done = done or said.get("done", False)
        return done

    def _lose(self, name: str, why: str = "") -> None:
        companion = self._running.pop(name)
        companion.end()
        self.note(
            f"tracker {name}: {why or companion.problem or 'ended by itself'}; it is switched off at step "
            f"{self._steps.get(name, 0):,}, {self.folder.metrics.name} goes on"
        )

    def _job(self, name: str) -> Data:
        root = self.folder.root.absolute()
        local = root / "trackers"
        given: dict[str, Any] = {
            "metrics": self.folder.metrics,
            "samples": self.folder.samples,
            "checkpoints": self.folder.checkpoints,
            "recipe": self.folder.recipe,
            "state": local / f"{name}.json",
            "folder": (Path(self.config.folder) if self.config.folder else local) / name,
        }
        return {
            **{key: str(path.absolute()) for key, path in given.items()},
            "tracker": name,
            "project": self.config.project,
            "name": self.config.name or root.name,
            "online": self.config.online,
            "learning_rate": self.learning_rate,
        }
