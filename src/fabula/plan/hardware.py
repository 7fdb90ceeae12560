"""What can this machine do? Its matrix-product peak, memory and free disk, measured rather than looked up."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from fabula.device import Device, free_memory_bytes, synchronize


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about the machine at hand. FLOP/s, bytes. Memory is what a process may have: free, or held by this one."""

    matmul_flops: float
    memory_bytes: int
    free_disk_bytes: int


def measure(device: Device, folder: Path, size: int = 1024, rounds: int = 5) -> Machine:
    """Time `rounds` products of two square matrices in the format that training uses; the best counts as the peak."""
    import torch

    dtype = torch.bfloat16 if device.dtype == "bfloat16" else torch.float32
    if device.name != "cpu":
        size *= 4
    a = torch.randn(size, size, device=device.torch, dtype=dtype)
    b = torch.randn(size, size, device=device.torch, dtype=dtype)
    out = a @ b
    best = float("inf")
    for _ in range(rounds):
        synchronize(device)
        begin = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return Machine(2 * size**3 / best, _memory_bytes(device), shutil.disk_usage(folder).free)


def _memory_bytes(device: Device) -> int:
    """Memory where the device computes that a run in the place of this process would find."""
    if device.name == "cuda":
        import torch

        return free_memory_bytes(device) + int(torch.cuda.memory_reserved())
    import psutil

    return free_memory_bytes(device) + int(psutil.Process().memory_info().rss)
