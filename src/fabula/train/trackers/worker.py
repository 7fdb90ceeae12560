"""The process of one tracker: `python -m fabula.train.trackers.worker`, started by `mirror.py`.

It follows the files that the run writes anyway, as any reader may, and hands on what is new. So the queue between a run
and its tracker is on the disk: a tracker that is slow, or hangs, costs the run nothing, and nothing need be dropped.
How far it came is kept beside the run, so that a resumed run says every step once.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fabula import storage
from fabula.companion import GRACE, Parent, first_line, leave
from fabula.config import Data, load_toml
from fabula.errors import BusyError, FabulaError
from fabula.train.trackers.adapters import Place, Settings, Tracker
from fabula.train.trackers.config import trackers

# Seconds between two looks at the files.
_INTERVAL = 2.0

_TRAIN = ("loss", "bits_per_byte", "lr", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "memory_bytes")
_VALIDATION = ("loss", "bits_per_byte", "perplexity")


class Follower:
    """The lines of a JSONL file that were not read yet; a last line without its end is left for the next time."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, 0

    def lines(self) -> Iterator[Data]:
        try:
            with self.path.open("rb") as file:
                file.seek(self.place)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self.place += len(line)
                    with contextlib.suppress(ValueError):
                        record = json.loads(line)
                        if isinstance(record, dict):
                            yield record
        except FileNotFoundError:
            return


class Mirror:
    """Hands on what is new in a run's files to a tracker."""

    def __init__(self, tracker: Tracker, job: Mapping[str, Any], state: Data) -> None:
        self.tracker, self.state, self.rate = tracker, state, job["learning_rate"]
        self.metrics, self.samples = Follower(Path(job["metrics"])), Follower(Path(job["samples"]))
        self.checkpoints = Path(job["checkpoints"])
        self._at = (-1, 0)  # step and number of the sample that was read last

    def hand_on(self) -> int:
        """How many points, texts and names were new."""
        found = sum(self._new(record, self._metric) for record in self.metrics.lines())
        found += sum(self._new(record, self._sample) for record in self.samples.lines())
        found += self._checkpoints()
        if found:
            self.tracker.flush()
        return found

    def _new(self, record: Data, say: Callable[[int, Data], bool]) -> bool:
        step = record.get("step")
        return isinstance(step, int) and say(step, record)

    def _metric(self, step: int, record: Data) -> bool:
        kind = record.get("kind")
        if kind not in ("train", "evaluation") or step <= self.state["steps"].get(kind, -1):
            return False
        if kind == "train" and self.rate and isinstance(record.get("lr"), float):
            record["learning_rate"] = record["lr"] * self.rate
        names, group = (_TRAIN, "train") if kind == "train" else (_VALIDATION, "validation")
        values = {
            f"{group}/{name}": float(record[name]) for name in names if isinstance(record.get(name), (int, float))
        }
        self.tracker.numbers(step, values)
        self.state["steps"][kind] = step
        return True

    def _sample(self, step: int, record: Data) -> bool:
        # Several prompts have one step, so a sample is known by both.
        self._at = (step, self._at[1] + 1 if self._at[0] == step else 1)
        if self._at <= tuple(self.state["steps"].get("sample", (-1, 0))):
            return False
        between = "\n→ " if record.get("kind") == "translation" else ""
        text = f"{record.get('prompt', '')}{between}{record.get('text', '')}"
        self.tracker.text(step, f"sample-{self._at[1]}", text)
        self.state["steps"]["sample"] = list(self._at)
        return True

    def _checkpoints(self) -> int:
        """Names of checkpoints; one that came and went between two looks is not told."""
        try:
            names = sorted(p.name for p in self.checkpoints.iterdir() if p.name.startswith("step-"))
        except FileNotFoundError:
            return 0
        new = [name for name in names if name > self.state["checkpoint"]]
        for name in new:
            digits = name.removeprefix("step-")
            if digits.isdigit():
                self.tracker.text(int(digits), "checkpoint", name)
            self.state["checkpoint"] = name
        return len(new)


def main() -> None:
    """Follow a run until its end, then finish; the first thing that goes wrong is told and is the end as well."""
    parent = Parent()
    job = parent.next() or {"end": True}
    if job.get("end"):
        return
    try:
        follow(parent, job)
    except Exception as error:
        parent.say(error=first_line(error))
    leave()


def follow(parent: Parent, job: Data) -> None:
    """What the process does between its first message and its last."""
    with alone(Path(job["state"]).with_suffix("")):
        _follow(parent, job)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait for the process of a run that was killed, which may still be handing on what that had written."""
    until = time.monotonic() + GRACE
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(storage.lock(folder))
                break
            except BusyError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.5)
        yield


def _follow(parent: Parent, job: Data) -> None:
    file = Path(job["state"])
    state = read_state(file)
    settings = flat(job["recipe"])
    place = Place(job["project"], job["name"], Path(job["folder"]), job["online"], state["previous"])
    tracker = trackers.get(job["tracker"])(place)
    state["previous"] = tracker.start(settings)
    storage.write_json(file, state)
    parent.say(look=tracker.look())
    mirror = Mirror(tracker, job, state)

    def hand_on() -> None:
        if mirror.hand_on():
            storage.check_held(file.with_suffix(""))
            storage.write_json(file, state)
            parent.say(steps=state["steps"].get("train", 0))

    for _ in parent.messages(_INTERVAL, hand_on):
        pass
    hand_on()
    tracker.finish()
    parent.say(done=True, steps=state["steps"].get("train", 0))


def read_state(file: Path) -> Data:
    """How far a tracker came before; from the beginning where that cannot be told."""
    state: Data = {"previous": "", "steps": {}, "checkpoint": ""}
    with contextlib.suppress(FabulaError, OSError, ValueError):
        known = storage.read_json(file)
        if isinstance(known, dict) and known.keys() >= state.keys():
            return known
    return state


def flat(path: str) -> Settings:
    """The settings of a resolved recipe, by their dotted names."""

    def leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str | int | float | bool]]:
        for key, value in table.items():
            if isinstance(value, Mapping):
                yield from leaves(value, f"{prefix}{key}.")
            elif isinstance(value, (str, int, float, bool)):
                yield f"{prefix}{key}", value
            else:
                yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False, default=str)

    return dict(leaves({k: v for k, v in load_toml(Path(path)).items() if k != "rules"}, ""))


if __name__ == "__main__":
    main()
