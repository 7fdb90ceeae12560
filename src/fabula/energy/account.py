"""A run's electricity and CO2 by stage, in `emissions.json`: added up over all the processes that the run took.

Every stage is metered by `meter.py`, and by codecarbon where that is installed. Where codecarbon has measured, its
figures stand; for the time that it has not (it takes some seconds to begin), the meter's do. So the seconds of the two
methods add up to the time of the stage, and a run without codecarbon has an account as well.

Nothing here fails a run: what cannot be written or measured is left out, with one line where that is worth one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fabula import storage
from fabula.companion import Companion
from fabula.config import Data
from fabula.energy import worker
from fabula.energy.config import EnergyConfig
from fabula.energy.everyday import equivalents, sentence
from fabula.energy.meter import Meter, Used
from fabula.errors import FabulaError

FILE = "emissions.json"

# Seconds between two accounts of a long stage, and those that the end of a run waits for codecarbon's last figures.
_KEEP, _PATIENCE = 60.0, 3.0


@dataclass(slots=True)
class _Stage:
    """What a stage took in this process: by the meter, and by codecarbon."""

    metered: Used = field(default_factory=Used)
    codecarbon: Used = field(default_factory=Used)

    @property
    def used(self) -> Used:
        """codecarbon's figures for its seconds, the meter's for the others."""
        ours, theirs = self.metered.seconds, self.codecarbon.seconds
        if not theirs or not ours:
            return self.metered
        # codecarbon hears of a stage's end a little late: what it measured beyond the stage is not the stage's.
        return self.codecarbon.times(min(1.0, ours / theirs)) + self.metered.times(max(0.0, 1 - theirs / ours))


class Account:
    """The account of one process of a run. `close` it: what is open would be lost."""

    def __init__(self, folder: Path, config: EnergyConfig, note: Callable[[str], None]) -> None:
        self.path, self.config, self.note = folder / FILE, config, note
        self._earlier = _read(self.path)
        self._meter = Meter(config.core_watts)
        self._stages: dict[str, _Stage] = {}
        self._running: tuple[str, Used] | None = None
        self._codecarbon: Companion | None = None
        self._version = ""
        self._lock, self._done = threading.RLock(), threading.Event()
        if config.codecarbon and importlib.util.find_spec("codecarbon") is not None:
            self._codecarbon = Companion(worker.__name__, {"country": config.country}, {"OMP_NUM_THREADS": "1"})
        threading.Thread(target=self._keep, name="fabula-account", daemon=True).start()

    @contextlib.contextmanager
    def stage(self, name: str, processes: int = 1, machines: int = 1) -> Iterator[None]:
        """What is done inside is booked under `name`.

        So many `processes` do the same on so many `machines`: what is measured here stands for a machine, what is
        estimated for a process.
        """
        with self._lock:
            self._running = (name, self._meter.read())
            self._meter.processes, self._meter.machines = processes, machines
        self._tell({"stage": name})
        try:
            yield
        finally:
            self._tell({"stage": ""})
            with self._lock:
                self._book()
                self._running = None
                self._meter.processes = self._meter.machines = 1

    def write(self) -> None:
        """Bring the file up to date."""
        with self._lock:
            self._book()
            self._hear()
            with contextlib.suppress(FabulaError, OSError):
                storage.check_held(self.path.parent)
                storage.write_json(self.path, self.to_data())

    def settle(self, write: bool = True) -> None:
        """Wait, shortly, for what codecarbon has still to tell, and write the file."""
        if self._codecarbon is not None:
            self._hear()
            if self._version:
                self._codecarbon.tell({"end": True})
                self._codecarbon.wait(_PATIENCE)
            self._hear()
            self._codecarbon.end()
            if self._codecarbon.problem:
                self.note(f"codecarbon: {self._codecarbon.problem}; {FILE} has our own estimate")
            self._codecarbon = None
        if write:
            self.write()

    def close(self, write: bool = True) -> None:
        """Stop counting; nothing is left running."""
        self.settle(write)
        self._done.set()
        self._meter.close()

    def to_data(self) -> Data:
        """Stages and total, how they were found, and what they are in everyday things."""
        grid = self.config.grid()
        stages: Data = {name: dict(entry) for name, entry in self._earlier.items()}
        for name, stage in self._stages.items():
            new = _entry(stage.used, min(stage.codecarbon.seconds, stage.metered.seconds), grid.g_per_kwh)
            before = stages.get(name)
            stages[name] = new if before is None else {key: before[key] + value for key, value in new.items()}
        total = {key: sum(entry[key] for entry in stages.values()) for key in _entry(Used(), 0.0, 0.0)}
        methods = self._meter.methods
        if self._version:
            methods = {"codecarbon": f"codecarbon {self._version}, offline, the whole machine"} | methods
        return {
            "estimate": True,
            "total": total,
            "stages": stages,
            "methods": methods,
            "country": self.config.country,
            "grid": {"place": grid.place, "g_per_kwh": grid.g_per_kwh, "year": grid.year, "source": grid.source},
            "everyday": equivalents(total["kwh"], total["kg_co2e"]),
        }

    def summary(self) -> Data:
        """The account in short, for the run's summary."""
        data = self.to_data()
        return {
            **{name: data["total"][name] for name in ("kwh", "cpu_kwh", "gpu_kwh", "ram_kwh", "kg_co2e")},
            "place": data["grid"]["place"],
            "sentence": sentence(data["total"]["kwh"], data["total"]["kg_co2e"]),
        }

    def _book(self) -> None:
        """Add what the running stage has used since it was last booked."""
        if self._running is None:
            return
        name, before = self._running
        now = self._meter.read()
        self._stages.setdefault(name, _Stage()).metered += now - before
        self._running = (name, now)

    def _tell(self, message: Data) -> None:
        if self._codecarbon is not None:
            self._codecarbon.tell(message)

    def _hear(self) -> None:
        for said in [] if self._codecarbon is None else self._codecarbon.heard():
            self._version = said.get("version", self._version)
            if "stage" in said:
                stage = self._stages.setdefault(said["stage"], _Stage())
                stage.codecarbon += Used(said["seconds"], said["cpu"], said["gpu"], said["ram"])
            if "error" in said and self._codecarbon is not None:
                self._codecarbon.problem = said["error"]

    def _keep(self) -> None:
        while not self._done.wait(_KEEP):
            self.write()


def _entry(used: Used, codecarbon_seconds: float, g_per_kwh: float) -> dict[str, float]:
    return {
        "seconds": used.seconds,
        "kwh": used.kwh,
        "cpu_kwh": used.cpu,
        "gpu_kwh": used.gpu,
        "ram_kwh": used.ram,
        "kg_co2e": used.kwh * g_per_kwh / 1000,
        "codecarbon_seconds": codecarbon_seconds,
        "estimated_seconds": used.seconds - codecarbon_seconds,
    }


def _read(path: Path) -> dict[str, dict[str, float]]:
    """The stages of an account that an earlier process of the run has left; none where it cannot be read."""
    with contextlib.suppress(FabulaError, OSError, ValueError, AttributeError):
        stages = storage.read_json(path).get("stages")
        wanted = _entry(Used(), 0.0, 0.0).keys()
        return {
            name: {key: float(entry[key]) for key in wanted}
            for name, entry in stages.items()
            if wanted <= entry.keys() and all(isinstance(entry[key], (int, float)) for key in wanted)
        }
    return {}
