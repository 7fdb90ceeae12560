"""How does the learning rate move over a run? Pure functions from a step to a multiplier of the peak rate.

The horizon is the run: the last step of the run is the last step of the schedule, whatever budget set it, and a
schedule is asked once per optimizer step. So none can end early, saw, rise, or never decay.
"""

from __future__ import annotations

import bisect
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

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} is a share of the run: at least 0 and below 1")

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

    @property
    def end(self) -> float:
        """The multiplier of the last step, and the least one after the warm-up."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Falling(ScheduleConfig):
    """A schedule that comes down to `final` at the last step; what is above 1 or below 0 is refused, so none rises."""

    final: float = setting(0.0, "multiplier that the last step reaches")

    def __post_init__(self) -> None:
        super(Falling, self).__post_init__()
        if not 0 <= self.final <= 1:
            raise ValueError(f"final={self.final} is a multiplier of the peak: between 0 and 1")

    def shape(self, progress: float) -> float:
        # Between end and peak, so that neither can be passed; at the end it is the end to the last bit.
        return self.final + (1.0 - self.final) * self.height(progress)

    def height(self, progress: float) -> float:
        """Where the rate stands between its end (0) and its peak (1)."""
        raise NotImplementedError

    @property
    def end(self) -> float:
        return self.final


@schedules.register("wsd")
@dataclass(frozen=True, kw_only=True, slots=True)
class WarmupStableDecay(Falling):
    """Warm-up, flat, a straight line down over its last part.

    arXiv:2405.18392.
    """

    decay: float = setting(0.5, "share of the run, after the warm-up, spent decaying")

    def __post_init__(self) -> None:
        super(WarmupStableDecay, self).__post_init__()
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay={self.decay} is a share of the run: above 0 and at most 1")

    def height(self, progress: float) -> float:
        return min(1.0, (1.0 - progress) / self.decay)


@schedules.register("cosine")
@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine(Falling):
    """Warm-up, then half a cosine down.

    arXiv:1608.03983, without restarts.
    """

    final: float = setting(0.1, "multiplier that the last step reaches")

    def height(self, progress: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * progress))


@schedules.register("cosine_restarts")
@dataclass(frozen=True, kw_only=True, slots=True)
class CosineRestarts(Falling):
    """Warm-up, then several half cosines, each from the peak.

    SGDR, arXiv:1608.03983; the last of them ends with the run.
    """

    cycles: int = setting(3, "how many times it comes down")
    growth: float = setting(2.0, "how much longer each cycle is than the one before")

    def __post_init__(self) -> None:
        super(CosineRestarts, self).__post_init__()
        if not 1 <= self.cycles <= 100:
            raise ValueError(f"cycles={self.cycles} must be from 1 to 100")
        if not 1 <= self.growth <= 10:
            raise ValueError(f"growth={self.growth} must be from 1 to 10")

    def starts(self) -> list[float]:
        """The progress at which each cycle begins, and 1."""
        lengths = [self.growth**i for i in range(self.cycles)]
        return [math.fsum(lengths[:i]) / math.fsum(lengths) for i in range(self.cycles)] + [1.0]

    def height(self, progress: float) -> float:
        starts = self.starts()
        cycle = min(bisect.bisect_right(starts, progress), self.cycles) - 1
        within = (progress - starts[cycle]) / (starts[cycle + 1] - starts[cycle])
        return 0.5 * (1.0 + math.cos(math.pi * within))


@schedules.register("linear")
@dataclass(frozen=True, kw_only=True, slots=True)
class Linear(Falling):
    """Warm-up, then a straight line down."""

    def height(self, progress: float) -> float:
        return 1.0 - progress


@schedules.register("inverse_sqrt")
@dataclass(frozen=True, kw_only=True, slots=True)
class InverseSquareRoot(Falling):
    """Warm-up, down with the root of the step, then straight.

    The root is that of arXiv:1706.03762, the end that of arXiv:2106.04560, since a root alone never arrives.
    """

    reach: float = setting(0.02, "share of the run, after the warm-up, in which the rate falls to 1/sqrt(2)")
    decay: float = setting(0.2, "share of the run, after the warm-up, spent on the straight line at its end")

    def __post_init__(self) -> None:
        super(InverseSquareRoot, self).__post_init__()
        if not 0 < self.reach <= 1:
            raise ValueError(f"reach={self.reach} is a share of the run: above 0 and at most 1")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay={self.decay} is a share of the run: above 0 and at most 1")

    def height(self, progress: float) -> float:
        turn = 1.0 - self.decay
        root = math.sqrt(self.reach / (self.reach + min(progress, turn)))
        return root * min(1.0, (1.0 - progress) / self.decay)


@schedules.register("constant")
@dataclass(frozen=True, kw_only=True, slots=True)
class Constant(ScheduleConfig):
    """Warm-up, then the peak to the end."""

    def shape(self, progress: float) -> float:
        return 1.0

    @property
    def end(self) -> float:
        return 1.0
