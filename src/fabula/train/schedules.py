"""How does the learning rate move over a run? Pure functions from a step to a multiplier of the peak rate.

The horizon is the run: the last step of the run is the last step of the schedule, whatever budget set it, and a
schedule is asked once per optimizer step. So none can end early, saw, rise, or never decay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fabula.config import setting
from fabula.registry import Registry

schedules: Registry[type[ScheduleConfig]] = Registry("schedule")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """What every schedule answers."""

    variants: ClassVar[Registry[type[ScheduleConfig]]] = schedules

    warmup: float = setting(0.02, "share of the run during which the rate rises from 0")
    final: float = setting(0.0, "multiplier that the last step reaches")

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} is a share of the run: at least 0 and below 1")
        if not 0 <= self.final <= 1:
            raise ValueError(f"final={self.final} is a multiplier of the peak: between 0 and 1")

    def multiplier(self, step: int, steps: int) -> float:
        """The factor of the peak rate for step `step` (0 .. steps - 1) of a run of `steps`."""
        if not 0 <= step < steps:
            raise ValueError(f"step {step} is outside a run of {steps} steps")
        rising = min(round(self.warmup * steps), steps - 1)  # the last step is never part of the warm-up
        if step < rising:
            return (step + 1) / (rising + 1)
        # Progress after the warm-up: 0 at its end, 1 at the last step of the run.
        span = steps - 1 - rising
        return self.shape((step - rising) / span if span else 1.0)

    def shape(self, progress: float) -> float:
        """The multiplier after the warm-up, for progress 0 to 1."""
        raise NotImplementedError


@schedules.register("wsd")
@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupStableDecay(ScheduleConfig):
    """Warm-up, flat, then a straight line down over the last `decay` of the run (arXiv:2405.18392)."""

    decay: float = setting(0.5, "share of the run, after the warm-up, spent decaying")

    def __post_init__(self) -> None:
        super(WarmupStableDecay, self).__post_init__()
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay={self.decay} is a share of the run: above 0 and at most 1")

    def shape(self, progress: float) -> float:
        left = min(1.0, (1.0 - progress) / self.decay)
        return self.final + (1.0 - self.final) * left


@schedules.register("cosine")
@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine(ScheduleConfig):
    """Warm-up, then half a cosine down (arXiv:1608.03983, without restarts)."""

    final: float = setting(0.1, "multiplier that the last step reaches")

    def shape(self, progress: float) -> float:
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * progress))
