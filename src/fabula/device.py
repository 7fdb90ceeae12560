"""Which device, which number format, how many threads, each with its reason; seeds and memory.

Nothing here runs at import. What is said here of number formats is what using a model takes; training chooses its own
by measuring (`train/precision.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabula.errors import InputError, MachineError, nearest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Device:
    """A place to compute. `reason` says why it was chosen."""

    name: str  # "cpu", "cuda", "mps"
    # The format of the products inside the model: "float32", "bfloat16", "float16", or "float8" (the blocks' products;
    # the others are then bfloat16). Weights are always float32.
    dtype: str
    threads: int
    reason: str
    dtype_reason: str = ""

    @property
    def torch(self) -> torch.device:
        import torch

        return torch.device(self.name)

    @property
    def bytes_per_number(self) -> int:
        """Of what is inside the model between two products."""
        return 4 if self.dtype == "float32" else 2

    def autocast(self) -> Any:
        """A context in which matrix products run in `dtype`; a no-op in float32.

        Products of float8 are made by the layers themselves; what is around them is bfloat16.
        """
        import torch

        dtype = torch.float16 if self.dtype == "float16" else torch.bfloat16
        return torch.autocast(self.name, dtype=dtype, enabled=self.dtype != "float32")


def choose(name: str = "auto", threads: int = 0) -> Device:
    """The device called `name`, or the best one here; MachineError when it is not there.

    `threads` above 0 sets torch's thread count; 0 leaves it as it is: every core, or what OMP_NUM_THREADS says.
    """
    import torch

    if threads:
        use_threads(threads)
    if name == "auto":
        name, reason = _best(torch)
    else:
        if name not in ("cpu", "cuda", "mps"):
            raise InputError(f'unknown device "{name}": {nearest(name, ("auto", "cpu", "cuda", "mps"))}')
        reason = "asked for"
        missing = (name == "cuda" and not torch.cuda.is_available()) or (
            name == "mps" and not torch.backends.mps.is_available()
        )
        if missing:
            raise MachineError(f'device "{name}" is not available here; use --train.device auto or cpu')
    # Where torch would only emulate it, it is slower than float32.
    there = name == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = "bfloat16" if there else "float32"
    return Device(name=name, dtype=dtype, threads=torch.get_num_threads(), reason=reason)


def _best(torch: Any) -> tuple[str, str]:
    if torch.cuda.is_available():
        return "cuda", f"{torch.cuda.get_device_name()} found"
    if torch.backends.mps.is_available():
        return "mps", "Apple GPU found"
    return "cpu", "no GPU found"


def use_threads(count: int) -> int:
    """Let torch compute with so many threads; returns the number."""
    import torch

    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
    return count


@contextlib.contextmanager
def threads_restored() -> Iterator[None]:
    """What a run does with torch's threads ends with it: the next one of the process begins with as many."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        use_threads(before)


def let_threads_go() -> bool:
    """End the threads that OpenMP keeps for the calling thread; it gets new ones when it computes again.

    Before another thread computes. OpenMP counts the threads of both, and where there are more than cores they wait for
    each other asleep instead of ready, at every operation: a small model then writes a fifth as fast (docs/log.md).
    Whether there was one to be asked: packages bring copies of it along, and all of them are.
    """
    try:
        loaded = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return False
    asked = False
    # Five columns, then the path, which may have spaces.
    for library in {line.split(maxsplit=5)[5] for line in loaded if "libgomp" in line}:
        with contextlib.suppress(OSError, AttributeError):
            # 1: omp_pause_soft, as OpenMP 5.0 has it.
            asked = int(ctypes.CDLL(library).omp_pause_resource_all(1)) == 0 or asked
    return asked


def cores() -> int:
    """Physical cores that this process may use."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def threads_are_given() -> bool:
    """Whether somebody outside has said how many threads to use: the user, or who started several processes."""
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "1")
    return several or any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))


def seed_everything(seed: int) -> None:
    """Seed the generators of python, numpy and torch."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def synchronize(device: Device) -> None:
    """Wait until the device has done what it was given, so that clocks tell the truth."""
    import torch

    if device.name == "cuda":
        torch.cuda.synchronize()
    elif device.name == "mps":
        torch.mps.synchronize()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that memory is short; the CPU's allocator tells it only in words."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error).lower()
    told = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")
    return isinstance(error, RuntimeError) and any(part in words for part in told)


def release_memory(device: Device) -> None:
    """Give back what the allocator holds without using it."""
    import gc

    import torch

    gc.collect()
    if device.name == "cuda":
        torch.cuda.empty_cache()
    elif device.name == "mps":
        torch.mps.empty_cache()


def free_memory_bytes(device: Device) -> int:
    """Memory that is free where the device computes, in bytes."""
    if device.name == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)


def generators(device: Device) -> list[torch.Tensor]:
    """The state of torch's generators, to go back to with `set_generators`."""
    import torch

    states = [torch.get_rng_state()]
    if device.name == "cuda":
        states.append(torch.cuda.get_rng_state())
    return states


def set_generators(device: Device, states: list[torch.Tensor]) -> None:
    """Put torch's generators back into a state that `generators` returned."""
    import torch

    torch.set_rng_state(states[0])
    if device.name == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1])


def peak_memory_bytes(device: Device | None = None) -> int:
    """The most memory that this process has used so far, in bytes: the graphics card's if `device` is one, else RAM."""
    if device is not None and device.name == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    # On Linux what getrusage says begins with the peak of the process that started this one.
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def count_devices() -> int:
    """How many processes train together, each on a device of its own; 1 when this one is alone."""
    import torch.distributed as group

    return int(group.get_world_size()) if group.is_available() and group.is_initialized() else 1


def versions() -> dict[str, str]:
    """What the processes of one run must have in common: versions, and a hash of this package's own source."""
    import hashlib
    from importlib.metadata import version

    import torch

    package = Path(__file__).parent
    code = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        code.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return {
        "fabula": version("fabula"),
        "fabula's source": code.hexdigest()[:16],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def environment(device: Device) -> dict[str, Any]:
    """What a result depends on besides its recipe: versions, processor, threads."""
    from importlib.metadata import version

    import torch

    return {
        "fabula": version("fabula"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _processor(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": device.threads,
        "processes": count_devices(),
        "device": device.name,
        "device_reason": device.reason,
        "dtype": device.dtype,
        "dtype_reason": device.dtype_reason,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
