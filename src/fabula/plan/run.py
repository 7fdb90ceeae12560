"""Stage: a model, a budget and measured speeds to a plan."""

from __future__ import annotations

from dataclasses import dataclass

from fabula.config import Data
from fabula.model.config import ModelConfig
from fabula.plan.estimate import Estimate, advice, estimate
from fabula.plan.hardware import Machine


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """What a plan is about. Times in seconds, measured on this machine."""

    model: ModelConfig
    optimizer: str
    steps: int
    batch_rows: int
    epoch_tokens: int  # tokens of one pass over the training text
    step_seconds: float
    overhead_seconds: float
    kept_checkpoints: int
    data_bytes: int  # size of the shards


@dataclass(frozen=True, slots=True)
class Plan:
    """The estimate, what it means for disk, and advice."""

    estimate: Estimate
    disk_bytes: int
    machine: Machine
    advice: list[str]

    def to_data(self) -> Data:
        return {
            "estimate": self.estimate.to_data(),
            "disk_bytes": self.disk_bytes,
            "free_disk_bytes": self.machine.free_disk_bytes,
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
    )
    # The best one, the newest ones, and one that is being written.
    disk = config.data_bytes + (config.kept_checkpoints + 2) * made.checkpoint_bytes
    found = advice(made)
    if disk > machine.free_disk_bytes:
        free = machine.free_disk_bytes
        found.append(f"the run needs {disk / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free; lower --train.keep")
    if made.state_bytes > machine.memory_bytes:
        found.append(
            f"weights, gradients and moments need {made.state_bytes / 1e9:.1f} GB, {machine.memory_bytes / 1e9:.1f} GB "
            "are free; choose a smaller model"
        )
    return Plan(made, disk, machine, found)
