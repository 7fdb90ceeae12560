"""How much electricity has this process used? What the machine can tell, and an estimate where it cannot.

    processor   the counters of Intel and AMD (RAPL) where they may be read: measured, of the whole machine;
                else the processor time of this process and those it started, times what a busy core takes
    memory      what this process holds, at 0.3725 W a GB (Lannelongue et al. 2021, arXiv:2007.07610)
    graphics    the cards' own counters or power (NVML), else what nvidia-smi says; measured, of the whole card

Reading is a few small files and a look at this process: below a millisecond, once in `INTERVAL` seconds. `nvidia-smi`,
where it is all there is, takes longer; it runs on the meter's own thread.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INTERVAL = 15.0
RAM_WATTS_PER_GB = 0.3725
_RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Used:
    """Electricity in kWh and the seconds it took."""

    seconds: float = 0.0
    cpu: float = 0.0
    gpu: float = 0.0
    ram: float = 0.0

    @property
    def kwh(self) -> float:
        return self.cpu + self.gpu + self.ram

    def __add__(self, other: Used) -> Used:
        return Used(self.seconds + other.seconds, self.cpu + other.cpu, self.gpu + other.gpu, self.ram + other.ram)

    def __sub__(self, other: Used) -> Used:
        return self + other.times(-1.0)

    def times(self, share: float) -> Used:
        """A part of it."""
        return Used(self.seconds * share, self.cpu * share, self.gpu * share, self.ram * share)


@dataclass(slots=True)
class Rapl:
    """The processor's energy counters, one for each package; they begin anew when they are full."""

    packages: list[Path]
    joules: float = 0.0
    before: dict[Path, int] = field(default_factory=dict)

    @classmethod
    def find(cls, folder: Path = _RAPL) -> Rapl | None:
        """The counters, if this process may read them."""
        found = [p for p in sorted(folder.glob("intel-rapl:*")) if p.name.count(":") == 1]
        try:
            made = cls(found)
            made.read()
        except (OSError, ValueError):
            return None
        return made if found else None

    def read(self) -> float:
        """Joules since the first reading."""
        for package in self.packages:
            now = int((package / "energy_uj").read_text())
            before = self.before.get(package, now)
            full = int((package / "max_energy_range_uj").read_text()) if now < before else 0
            self.joules += (now - before + full) / 1e6
            self.before[package] = now
        return self.joules


class Graphics:
    """NVIDIA's cards: joules since the first reading, summed from their power."""

    def __init__(self) -> None:
        self.joules, self._at, self._watts = 0.0, time.monotonic(), 0.0
        self.method = ""
        self._nvml: Any = None
        self._cards: list[Any] = []
        with contextlib.suppress(Exception):
            import pynvml

            pynvml.nvmlInit()
            self._nvml, self.method = pynvml, "measured by the cards (NVML)"
            self._cards = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in _visible(pynvml.nvmlDeviceGetCount())]
        if self._nvml is None and shutil.which("nvidia-smi"):
            self.method = "measured by the cards (nvidia-smi)"
        if self.method:
            self._watts = self._power()

    def read(self) -> float:
        """Joules so far: the mean of two readings of the power, times the time between them."""
        if self.method:
            now, watts = time.monotonic(), self._power()
            self.joules += (now - self._at) * (watts + self._watts) / 2
            self._at, self._watts = now, watts
        return self.joules

    def _power(self) -> float:
        try:
            if self._nvml is not None:
                return float(sum(self._nvml.nvmlDeviceGetPowerUsage(card) for card in self._cards)) / 1000
            asked = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
            said = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout
            lines = said.split()
            return sum(float(lines[i]) for i in _visible(len(lines)))
        except Exception:  # whatever a driver does, it is no concern of the run
            return self._watts


def _visible(count: int) -> list[int]:
    """The cards of a machine that this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return list(range(count))
    return [int(part) for part in given.split(",") if part.strip().isdigit() and int(part) < count]


class Meter:
    """Counts from when it is made until it is closed, on a thread of its own."""

    def __init__(self, core_watts: float, rapl: Path = _RAPL) -> None:
        import psutil

        self._process = psutil.Process()
        self._core_watts = core_watts
        self._cores = _cores_in_a_thread()
        self._rapl, self._graphics = Rapl.find(rapl), Graphics()
        self._lock, self._done = threading.Lock(), threading.Event()
        self._at, self._cpu_at = time.monotonic(), _cpu_seconds()
        self._joules_at = (self._rapl.read() if self._rapl else 0.0, 0.0)
        self._used = Used()
        # How many processes do the same work as this one, on how many machines.
        self.processes = self.machines = 1
        self._thread = threading.Thread(target=self._run, name="fabula-energy", daemon=True)
        self._thread.start()

    @property
    def methods(self) -> dict[str, str]:
        """How each part is found."""
        guess = f"estimated: processor time x {self._core_watts:g} W a core"
        return {
            "cpu": "measured by the processor (RAPL), the whole machine" if self._rapl else guess,
            "gpu": self._graphics.method or "none found",
            "ram": f"estimated: memory of this process x {RAM_WATTS_PER_GB:g} W a GB",
        }

    def read(self) -> Used:
        """What was used since the meter was made."""
        with self._lock:
            now = time.monotonic()
            seconds, self._at = now - self._at, now
            cpu = _cpu_seconds()
            estimated = (cpu - self._cpu_at) * self._cores * self._core_watts
            self._cpu_at = cpu
            joules = (self._rapl_joules(), self._graphics.read())
            measured = [after - before for after, before in zip(joules, self._joules_at, strict=True)]
            self._joules_at = joules
            memory = 0
            with contextlib.suppress(Exception):
                memory = self._process.memory_info().rss
            self._used += Used(
                seconds,
                (measured[0] * self.machines if self._rapl else estimated * self.processes) / 3.6e6,
                measured[1] * self.machines / 3.6e6,
                memory * self.processes / 1e9 * RAM_WATTS_PER_GB * seconds / 3.6e6,
            )
            return self._used

    def close(self) -> None:
        """Stop counting."""
        self._done.set()

    def _rapl_joules(self) -> float:
        if self._rapl is None:
            return 0.0
        try:
            return self._rapl.read()
        except (OSError, ValueError):
            self._rapl = None  # it may not be read any more: from here on it is estimated
            return self._joules_at[0]

    def _run(self) -> None:
        while not self._done.wait(INTERVAL):
            self.read()


def _cpu_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _cores_in_a_thread() -> float:
    """What part of a core a busy thread of the processor is."""
    import psutil

    threads, cores = psutil.cpu_count() or 1, psutil.cpu_count(logical=False)
    return min(1.0, (cores or threads) / threads)
