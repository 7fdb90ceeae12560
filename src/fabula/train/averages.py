"""Which weights leave a run: those of the last step, or a mean over many? Pure functions from a step to a share.

Weights jump about a valley whose floor is better than where they stand; a mean over the way lies nearer to it
(arXiv:1803.05407). How many steps it reaches over follows the run: a length in steps that suits ten thousand would
average a run of a thousand over its beginnings. torch is imported by `averaging.py`, so that help stays quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fabula.config import setting
from fabula.registry import Registry

averages: Registry[type[AverageConfig]] = Registry("average")

# How fast the memory of an exponential mean grows at its beginning: after n weights it reaches over about n / 9.
_WARMUP = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class AverageConfig:
    """What every average answers."""

    variants: ClassVar[Registry[type[AverageConfig]]] = averages

    def newest(self, step: int, steps: int, held: int) -> float:
        """The share that the weights after `step` of `steps` steps take in the mean, which holds `held` weights so far.

        0: they are not taken; 1: the mean is these weights.
        """
        raise NotImplementedError

    @property
    def keeps(self) -> bool:
        """Whether a mean is kept at all: four bytes a parameter, in memory and in each checkpoint."""
        return True


@averages.register("none")
@dataclass(frozen=True, kw_only=True, slots=True)
class NoAverage(AverageConfig):
    """The weights of the last step."""

    def newest(self, step: int, steps: int, held: int) -> float:
        return 0.0

    @property
    def keeps(self) -> bool:
        return False


@averages.register("ema")
@dataclass(frozen=True, kw_only=True, slots=True)
class Exponential(AverageConfig):
    """A mean that forgets: from the first step on, each step's weights count less and less.

    Polyak and Juditsky (1992) with a memory that fades. Its length grows with the steps taken until it is `length` of
    the run, so that no mean reaches back to the random beginning.
    """

    length: float = setting(0.05, "steps that the mean reaches over, as a share of the run")

    def __post_init__(self) -> None:
        if not 0 < self.length <= 1:
            raise ValueError(f"length={self.length} is a share of the run: above 0 and at most 1")

    def newest(self, step: int, steps: int, held: int) -> float:
        return max(min(1.0, 1.0 / (self.length * steps)), _WARMUP / (_WARMUP + held))


@averages.register("tail")
@dataclass(frozen=True, kw_only=True, slots=True)
class Tail(AverageConfig):
    """The plain mean of the weights of the last part of the run.

    arXiv:1803.05407 (stochastic weight averaging), every step of that part. Before it there is no mean.
    """

    share: float = setting(0.1, "the last part of the run that is averaged")

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} is a share of the run: above 0 and at most 1")

    def newest(self, step: int, steps: int, held: int) -> float:
        # What it holds counts, not where it began: a time budget's number of steps is settled after the first minute.
        return 1.0 / (1 + held) if held or step > steps - max(1, round(self.share * steps)) else 0.0
