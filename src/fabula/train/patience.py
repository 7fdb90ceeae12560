"""When does a run end before its time? After so many evaluations in a row without a better one."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from fabula.evaluate.intrinsic import Score
from fabula.train.callbacks import Latest
from fabula.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Patience:
    """Ends a run after `most` evaluations without a better one (0: never), by telling `end`.

    It keeps nothing: what it counts follows from the best step, which every checkpoint holds. The evaluated rows are
    the same each time, so an evaluation that is worse is no matter of other rows.
    """

    most: int
    marks: Set[int]  # the steps that are evaluated
    latest: Latest
    end: Callable[[Trainer], None]

    def judge(self, trainer: Trainer, score: Score) -> None:
        """After an evaluation, before it counts as the newest; the best weights are on disk since their own."""
        best = self.latest
        if not self.most or trainer.step >= trainer.steps or score.bits_per_byte < best.best_bits_per_byte:
            return
        if sum(best.best_step < mark <= trainer.step for mark in self.marks) >= self.most:
            self.end(trainer)
