"""What can this machine do? Its matrix-product peak, memory and free disk, measured rather than looked up."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fabula.device import Device, free_memory_bytes, synchronize

# Dense matrix products in FLOP/s by part of a card's name, the first that fits: the makers' data sheets (without
# sparsity; bfloat16 with float32 sums, float16 for the two that have no bfloat16 units). What a data sheet promises is
# what utilisation is commonly measured against; a product of two matrices reaches 60 to 80 % of it.
_DATA_SHEETS = (
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("RTX 5090", 209.5e12),
    ("RTX 4090", 165.2e12),
    ("V100", 125e12),
    ("T4", 65e12),
)


@dataclass(frozen=True, slots=True)
class Peak:
    """What one device could do at most, FLOP/s, and where that number is from."""

    flops_per_second: float
    source: str


def peak(device: Device) -> Peak:
    """The peak of one device: its data sheet's where its name is known, else measured here."""
    if device.name == "cuda" and device.dtype != "float32":
        import torch

        found = of_name(torch.cuda.get_device_name())
        if found is not None:
            return found
    return _measured(device.name, _of_products(device.dtype), device.threads)


def of_name(name: str) -> Peak | None:
    """What the data sheet of a card says, in the format that it trains in."""
    return next((Peak(flops, f"data sheet, {part}") for part, flops in _DATA_SHEETS if part in name), None)


@cache
def _measured(name: str, dtype: str, threads: int) -> Peak:
    made = matmul_flops(Device(name, dtype, threads, ""), rounds=3)
    return Peak(made, f"matrix products of {dtype} measured here, {threads} threads")


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about the machine at hand. FLOP/s, bytes. Memory is what a process may have: free, or held by this one."""

    matmul_flops: float
    memory_bytes: int
    free_disk_bytes: int


def measure(device: Device, folder: Path, size: int = 1024, rounds: int = 5) -> Machine:
    """Facts about this machine, the peak of its matrix products measured."""
    flops = matmul_flops(device, size, rounds)
    return Machine(flops, _memory_bytes(device), shutil.disk_usage(folder).free)


def matmul_flops(device: Device, size: int = 1024, rounds: int = 5) -> float:
    """Time `rounds` products of two square matrices in the format that training uses; FLOP/s of the best."""
    import torch

    dtype: torch.dtype = getattr(torch, _of_products(device.dtype))
    if device.name != "cpu":
        size *= 4
    # Of a generator of their own: those of the run that measures are where its resume will look for them.
    own = torch.Generator(device.torch)
    a = torch.randn(size, size, device=device.torch, dtype=dtype, generator=own)
    b = torch.randn(size, size, device=device.torch, dtype=dtype, generator=own)
    out = a @ b
    best = float("inf")
    for _ in range(rounds):
        synchronize(device)
        begin = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def _of_products(dtype: str) -> str:
    """The format of plain products: float8 needs scales, which only layers made for it have."""
    return "bfloat16" if dtype == "float8" else dtype


@cache
def relative_time(name: str, dtype: str, threads: int) -> float:
    """How long a product of two matrices takes in a format, as a multiple of its time in float32, on this machine.

    Measured once a process, in some milliseconds; where a format has no units it takes a hundred times as long.
    """
    size, rounds = (256, 3) if name == "cpu" else (1024, 10)
    each = {format: Device(name, format, threads, "") for format in ("float32", dtype)}
    best = dict.fromkeys(each, 0.0)
    # In turn, so that a busy moment of the machine meets both.
    for _ in range(2):
        for format, device in each.items():
            best[format] = max(best[format], matmul_flops(device, size, rounds))
    return best["float32"] / best[dtype]


def _memory_bytes(device: Device) -> int:
    """Memory where the device computes that a run in the place of this process would find."""
    if device.name == "cuda":
        import torch

        return free_memory_bytes(device) + int(torch.cuda.memory_reserved())
    import psutil

    return free_memory_bytes(device) + int(psutil.Process().memory_info().rss)
