"""What ends a run that must not go on: steps that were not applied, too many in a row; a folder that is not its own."""

from __future__ import annotations

import math
from pathlib import Path

from fabula import checkpoint as checkpoints
from fabula import storage
from fabula.data.loader import Loader
from fabula.data.pairs import PairLoader
from fabula.errors import DivergedError
from fabula.progress import Progress
from fabula.train.trainer import Callback, StepRecord, Trainer


class Holding(Callback):
    """Ends the run when its folder was removed or replaced: another process may be writing there by now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        storage.check_held(self.folder)


class Guard(Callback):
    """Writes down every step that was not applied; too many in a row that are not finite end the run."""

    def __init__(self, path: Path, most: int, loader: Loader | PairLoader, progress: Progress) -> None:
        self.path, self.most, self.loader, self.progress = path, most, loader, progress

    def on_start(self, trainer: Trainer) -> None:
        storage.cut_json_lines(self.path, lambda record: record["step"] <= trainer.step)

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        found = record.unapplied
        if found is None:
            return
        epochs, starts = self.loader.places(found.first_row, found.rows)
        storage.append_json_line(
            self.path,
            {
                "step": record.step,
                "reason": found.reason,
                "loss": _told(record.loss),
                "grad_norm": _told(record.grad_norm),
                "lr": record.lr,
                "rows": [found.first_row, found.first_row + found.rows],
                "epochs": epochs,
                "token_positions": starts,
                "bad_gradients": found.bad_gradients,
                "gradients": {name: _told(norm) for name, norm in found.gradients.items()},
                "bad_weights": found.bad_weights,
                "in_a_row": found.in_row,
            },
        )
        self.progress.note(f"step {record.step:,} was not applied: {found.reason}; see {self.path.name}")
        if found.in_row >= self.most:
            newest = checkpoints.last(self.path.parent)
            kept = f"the newest checkpoint is of step {newest.step:,}" if newest else "there is no checkpoint yet"
            where = "weights hold NaN or infinity" if found.bad_weights else "weights are still finite"
            raise DivergedError(
                f"step {record.step:,}: {found.reason}, in {found.in_row} steps in a row; none was applied, the "
                f"{where}, and {kept}. What happened stands in {self.path}. The same run would come here again: begin "
                "another with half the learning rate (--train.optimizer.lr) and another --name, or look at its rows"
            )


def _told(value: float) -> float | str:
    """A number as JSON has it: what is not finite becomes its name."""
    return value if math.isfinite(value) else str(value)
