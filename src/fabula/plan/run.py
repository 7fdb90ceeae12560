"""Stage: a model, a budget and measured speeds to a plan."""

from __future__ import annotations

from dataclasses import dataclass

from fabula.config import Data
from fabula.model.kinds import AnyConfig
from fabula.plan.estimate import Estimate, advice, estimate
from fabula.plan.hardware import Machine


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """What a plan is about. Times in seconds, measured on this machine."""

    model: AnyConfig
    optimizer: str
    steps: int
    batch_rows: int
    micro_rows: int = 0  # rows that are computed at once
    row_tokens: float = 0.0  # predictions in a row; 0: context_length
    epoch_tokens: int  # tokens of one pass over the training text
    step_seconds: float
    overhead_seconds: float
    kept_checkpoints: int
    data_bytes: int  # size of the shards
    peak_memory_bytes: int = 0  # of real steps and saves, measured; 0: not measured
    averaged: bool = False  # a mean of the weights is kept
    patience: int = 0  # evaluations without a better one that end the run; 0: none


@dataclass(frozen=True, slots=True)
class Plan:
    """The estimate, what the run needs of disk and memory, and advice."""

    estimate: Estimate
    disk_bytes: int
    peak_memory_bytes: int
    machine: Machine
    advice: list[str]

    def to_data(self) -> Data:
        return {
            "estimate": self.estimate.to_data(),
            "disk_bytes": self.disk_bytes,
            "free_disk_bytes": self.machine.free_disk_bytes,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory_bytes": self.machine.memory_bytes,
            "advice": self.advice,
        }


def run(config: PlanConfig, machine: Machine) -> Plan:
    """Price the run and say what should be different."""
    made = estimate(
        config.model,
        optimizer=config.optimizer,
        steps=config.steps,
        batch_rows=config.batch_rows,
        epoch_tokens=config.epoch_tokens,
        step_seconds=config.step_seconds,
        overhead_seconds=config.overhead_seconds,
        peak_flops=machine.matmul_flops,
        row_tokens=config.row_tokens,
        averaged=config.averaged,
    )
    # The best one, the newest ones, and one that is being written.
    disk = config.data_bytes + (config.kept_checkpoints + 2) * made.checkpoint_bytes
    found = advice(made)
    if config.patience:
        found.append(
            f"time and tokens are those of the whole run; --train.patience {config.patience} may end it earlier"
        )
    if disk > machine.free_disk_bytes:
        free = machine.free_disk_bytes
        found.append(f"the run needs {disk / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free; lower --train.keep")
    have = f"{machine.memory_bytes / 1e9:.1f} GB are free"
    if made.state_bytes > machine.memory_bytes:
        needs = f"weights, gradients and moments need {made.state_bytes / 1e9:.1f} GB"
        found.append(f"{needs}, {have}; choose a smaller model")
    elif config.peak_memory_bytes > machine.memory_bytes:
        found.append(
            f"the run needs {config.peak_memory_bytes / 1e9:.1f} GB of memory, {have}; compute fewer rows at once "
            f"(--train.micro_rows {max(1, config.micro_rows // 2)}; the batch stays the same), keep less of them "
            "(--train.recompute true), or choose a smaller model"
        )
    return Plan(made, disk, config.peak_memory_bytes, machine, found)
