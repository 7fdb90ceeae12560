"""How much memory does a step take, by rows at once and by number format? Tried on this machine, beside the prediction.

Each trial is a process of its own, so that its peak is its own and its end is no more than that. It is watched while it
runs: what would fill the machine is ended before it does, what takes too long is ended as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from fabula.companion import Companion
from fabula.config import Data
from fabula.device import Device, free_memory_bytes
from fabula.progress import StopFlag

Outcome = Literal["measured", "too large", "not tried", "too slow", "failed"]

# Seconds of one trial at most, and between two looks at its memory.
SECONDS, _LOOK = 90.0, 0.02
# Of the memory that is free, what is left to others: at least so many bytes, and such a share.
_SPARED_BYTES, _SPARED = 500_000_000, 0.1
# More rows at once than the recipe's batch are tried up to so many times it.
_BEYOND = 4


@dataclass(frozen=True, slots=True)
class Trial:
    """One line of the table. Bytes; `limit_bytes` is where it would have been ended."""

    rows: int
    dtype: str
    predicted_bytes: int
    limit_bytes: int
    outcome: Outcome = "not tried"
    measured_bytes: int | None = None
    tokens_per_second: float | None = None
    why: str = ""

    def to_data(self) -> Data:
        return {
            "rows": self.rows,
            "dtype": self.dtype,
            "predicted_bytes": self.predicted_bytes,
            "measured_bytes": self.measured_bytes,
            "tokens_per_second": self.tokens_per_second,
            "limit_bytes": self.limit_bytes,
            "outcome": self.outcome,
            "why": self.why,
        }


def sizes(batch_rows: int) -> list[int]:
    """Rows at once that are worth trying: powers of two up to a few batches, and the batch itself.

    >>> sizes(12)
    [1, 2, 4, 8, 12, 16, 32]
    """
    powers = [2**n for n in range(64) if 2**n <= _BEYOND * batch_rows]
    return sorted({*powers[-7:], *powers[:1], batch_rows})


def dtypes(device: Device) -> dict[str, str]:
    """Number formats, each with why it is not worth trying on this device (empty: it is)."""
    import torch

    if device.name == "cuda":
        there = torch.cuda.is_bf16_supported()
    else:
        there = device.name == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    slow = "no bfloat16 units here: a product takes up to a hundred times as long as in float32 (docs/log.md)"
    return {"float32": "", "bfloat16": "" if there else slow}


def count(batch_rows: int, device: Device) -> int:
    """How many lines the table has."""
    return sum(1 if unfit else len(sizes(batch_rows)) for unfit in dtypes(device).values())


def run(
    module: str,
    job: Data,
    batch_rows: int,
    device: Device,
    predict: Callable[[int, str], int],
    stop: StopFlag,
    seconds: float = SECONDS,
) -> Iterator[Trial]:
    """The trials, as they end. `module` is the process that takes real steps, `job` what it is told beside the trial.

    `predict` gives the bytes of so many rows at once in a format. Rows grow; once they do not fit, more are not tried.
    """
    for dtype, unfit in dtypes(device).items():
        larger = unfit
        for rows in sizes(batch_rows):
            free = free_memory_bytes(device)
            limit = int(free - max(_SPARED_BYTES, _SPARED * free))
            trial = Trial(rows, dtype, predict(rows, dtype), limit)
            if not larger and trial.predicted_bytes > 2 * limit:
                larger = f"predicted to need {trial.predicted_bytes / 1e9:.1f} GB, {limit / 1e9:.1f} GB may be used"
            if larger:
                yield replace(trial, why=larger)
                if unfit:
                    break  # one line says it for all sizes
                continue
            stop.check("measuring memory")
            trial = _try(module, {**job, "rows": rows, "dtype": dtype}, trial, seconds, stop)
            if trial.outcome in ("too large", "too slow"):
                larger = f"{rows} rows were {trial.outcome} already"
            yield trial


def _try(module: str, job: Data, trial: Trial, seconds: float, stop: StopFlag) -> Trial:
    """Run one trial; it is over when this returns."""
    companion = Companion(module, job)
    until = time.monotonic() + seconds
    highest = 0
    try:
        while not companion.wait(_LOOK):
            stop.check("measuring memory")
            highest = max(highest, _memory(companion.pid))
            if highest > trial.limit_bytes:
                why = f"ended at {highest / 1e9:.2f} GB, before it filled the machine"
                return replace(trial, outcome="too large", why=why)
            if time.monotonic() > until:
                return replace(trial, outcome="too slow", why=f"ended after {seconds:.0f} s")
        said: Data = {key: value for message in companion.heard() for key, value in message.items()}
    finally:
        companion.end()
    if "error" in said:
        return replace(trial, outcome="failed", why=said["error"])
    if said.get("did_not_fit"):
        return replace(trial, outcome="too large", why="the allocator had no memory left")
    if "measured_bytes" not in said:
        return replace(trial, outcome="failed", why=companion.problem or f"ended by itself at {highest / 1e9:.2f} GB")
    return replace(
        trial,
        outcome="measured",
        measured_bytes=said["measured_bytes"],
        tokens_per_second=said["tokens_per_second"],
    )


def _memory(pid: int) -> int:
    """What a process holds of the machine's memory now; 0 when it has gone."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
