"""When is a checkpoint made? At milestones, every so many minutes or steps, and when the run is stopped."""

from __future__ import annotations

import time
from collections.abc import Container

from torch import Tensor, nn

from fabula import checkpoint as checkpoints
from fabula import faults, storage
from fabula.config import Data
from fabula.errors import MachineError
from fabula.model.decoder import Decoder
from fabula.model.encdec import EncoderDecoder
from fabula.progress import Progress
from fabula.tokenizer.base import Tokenizer
from fabula.train.averaging import Average
from fabula.train.callbacks import Latest
from fabula.train.config import TrainConfig
from fabula.train.trainer import Callback, StepRecord, Trainer


class Save(Callback):
    """Publishes a checkpoint at given steps, every so many minutes or steps, and when the run is stopped.

    The minutes are stretched so that what saving takes stays below two hundredths of the run.
    """

    share = 0.02

    def __init__(
        self,
        steps: Container[int],
        run: checkpoints.RunFolder,
        tokenizer: Tokenizer,
        config: TrainConfig,
        facts: Data,
        latest: Latest,
        progress: Progress,
        plan: Data,
        average: Average | None = None,
    ) -> None:
        self.average = average or Average()
        self.plan = plan  # stored with the state, so that a resumed run is the same run
        self.steps, self.run, self.tokenizer, self.config = steps, run, tokenizer, config
        self.facts, self.latest, self.progress = facts, latest, progress
        self.seconds = self._longest = 0.0
        self._saved_at, self._saved_step = 0.0, 0
        self._known = storage.Known()

    def on_start(self, trainer: Trainer) -> None:
        self._saved_at, self._saved_step = trainer.spread.now(), trainer.step
        newest = checkpoints.last(self.run.root)
        measured = self.latest.score_step == trainer.step
        known = newest is not None and newest.step == trainer.step and newest.bits_per_byte is None and measured
        if trainer.spread.agreed(known, "beginning"):
            # The evaluation that a stop had cut off was made up for: the checkpoint now knows its quality.
            self.save(trainer)

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        if record.step in self.steps or self._due(record.step, trainer.spread.now()):
            self.save(trainer)

    def on_stop(self, trainer: Trainer) -> None:
        newest = checkpoints.last(self.run.root)
        if trainer.spread.agreed(trainer.step > 0 and (newest is None or newest.step < trainer.step), "stopping"):
            saved = self.save(trainer)
            if saved is not None:
                self.progress.note(f"saved {saved.path}")

    def _due(self, step: int, now: float) -> bool:
        if self.config.save_steps and step - self._saved_step >= self.config.save_steps:
            return True
        wait = max(60 * self.config.save_minutes, self._longest / self.share)
        return now - self._saved_at >= wait

    def save(self, trainer: Trainer) -> checkpoints.Checkpoint | None:
        """Publish the present state; None when that failed and the run is to go on all the same.

        Of several processes all bring together what there is, and the first one writes.
        """
        faults.point("train.saving")
        # Where a mean of weights is kept, it is the model of the checkpoint; the weights are then kept beside it.
        with self.average.shown(trainer):
            return self._publish(trainer)

    def _publish(self, trainer: Trainer) -> checkpoints.Checkpoint | None:
        began, now = time.monotonic(), trainer.spread.now()
        model = trainer.readable()
        data, tensors = trainer.state()
        trainer.spread.group.busy("saving")
        saved = self._write(trainer, model, data, tensors) if trainer.spread.group.leads else None
        took = trainer.spread.sum([time.monotonic() - began if trainer.spread.group.leads else 0.0], "saving")[0]
        self.seconds += took
        self._longest = max(self._longest, took)
        self._saved_at, self._saved_step = now + took, trainer.step
        return saved

    def _write(
        self, trainer: Trainer, model: nn.Module, data: Data, tensors: dict[str, Tensor]
    ) -> checkpoints.Checkpoint | None:
        storage.check_held(self.run.root)
        data["plan"] = self.plan
        data["latest"] = self.latest.to_data()
        measured = self.latest.score if self.latest.score_step == trainer.step else None
        facts = {**self.facts, "bits_per_byte": measured.bits_per_byte if measured else None}
        if self.average.config.keeps:
            facts["weights"] = self.average.weights
        assert isinstance(model, (Decoder, EncoderDecoder))
        try:
            # What the checkpoint's step has told must be as durable as the checkpoint itself.
            for path in (self.run.metrics, self.run.samples, self.run.unapplied):
                storage.sync(path)
            saved = checkpoints.save(self.run.checkpoints, trainer.step, model, self.tokenizer, data, tensors, facts)
            self._known.learn(saved.path)
            checkpoints.prune(self.run.root, self.config.keep, self._known)
            return saved
        except MachineError as error:
            if self.config.failed_save == "stop":
                raise
            self.progress.note(f"{error}; going on without this checkpoint (train.failed_save)")
            return None
