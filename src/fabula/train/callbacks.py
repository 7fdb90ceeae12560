"""What happens around the steps: metrics, evaluation, samples, checkpoints. Each is small and knows one thing.

Their order in the trainer's list is the order of their work at a step: evaluation before samples before saving, so
that a checkpoint knows its own quality.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabula import checkpoint as checkpoints
from fabula import storage
from fabula.config import Data
from fabula.data.loader import Loader
from fabula.device import Device, peak_memory_bytes
from fabula.evaluate.intrinsic import Score, score_rows
from fabula.generate.config import GenerateConfig
from fabula.generate.run import run
from fabula.model.decoder import Decoder
from fabula.progress import Progress, StopFlag, Task
from fabula.tokenizer.base import Tokenizer
from fabula.train.trainer import Callback, StepRecord, Trainer


def milestones(steps: int, count: int) -> list[int]:
    """`count` steps spread evenly over a run, the last one its end.

    >>> milestones(10, 4)
    [2, 5, 8, 10]
    """
    return sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)})


@dataclass(slots=True)
class Latest:
    """What the callbacks of a run share: the newest evaluation and the best one."""

    score: Score | None = None
    score_step: int = 0
    best_step: int = 0
    best_bits_per_byte: float = math.inf


class Metrics(Callback):
    """Lines of metrics.jsonl, averaged over the steps between them; cut back to the step a run resumes from."""

    def __init__(self, path: Path, every: int, bits_per_token_byte: float) -> None:
        self.path, self.every = path, max(1, every)
        # A loss in nats a token times this is bits a byte: 1 / ln 2 / (bytes per token of the training split).
        self.bits_per_token_byte = bits_per_token_byte
        self._waiting: list[StepRecord] = []

    def on_start(self, trainer: Trainer) -> None:
        kept = [r for r in storage.read_json_lines(self.path) if r.get("step", 0) <= trainer.step]
        storage.write_json_lines(self.path, kept)

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        self._waiting.append(record)
        if record.step % self.every == 0 or record.step in (1, trainer.steps):
            self.write(trainer)

    def on_stop(self, trainer: Trainer) -> None:
        self.write(trainer)

    def write(self, trainer: Trainer) -> None:
        """Write what was gathered since the last line."""
        if not self._waiting:
            return
        steps, last = self._waiting, self._waiting[-1]
        loss = sum(r.loss for r in steps) / len(steps)
        tokens = len(steps) * (last.tokens / last.step)
        storage.append_json_line(
            self.path,
            {
                "kind": "train",
                "step": last.step,
                "tokens": last.tokens,
                "seconds": last.seconds,
                "loss": loss,
                "bits_per_byte": loss * self.bits_per_token_byte,
                "lr": last.lr,
                "grad_norm": last.grad_norm,
                "tokens_per_second": tokens / sum(r.step_seconds for r in steps),
            },
        )
        self._waiting = []


class Settle(Callback):
    """Fixes the number of steps of a time budget from the run's own first steps, once.

    What was measured before the run may have met a busy moment of the machine. After `share` of the time (a minute at
    most) the steps that fit the time left are counted again, at the median pace so far. `apply` is told the steps and
    the seconds of one: those of the plan when they are less than `tolerance` apart. Then the number stays.
    """

    share, most, tolerance = 0.15, 60.0, 0.1

    def __init__(self, seconds: float, planned: float, apply: Callable[[int, float], None]) -> None:
        self.seconds, self.planned, self.apply = seconds, planned, apply
        self._began = self._before = 0.0
        self._paces: list[float] = []
        self._settled = False

    def on_start(self, trainer: Trainer) -> None:
        self._began = self._before = time.perf_counter()

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        if self._settled:
            return
        now = time.perf_counter()
        self._paces.append(now - self._before)
        self._before = now
        elapsed = now - self._began
        last = record.step == trainer.steps
        if not last and (elapsed < min(self.share * self.seconds, self.most) or len(self._paces) < 3):
            return
        self._settled = True
        pace = statistics.median(self._paces)
        steps = record.step + max(1, int((self.seconds - elapsed) / pace))
        if abs(steps / trainer.steps - 1) <= self.tolerance:
            steps, pace = trainer.steps, self.planned
        trainer.steps = steps
        self.apply(steps, pace)


class Evaluate(Callback):
    """Scores a fixed set of validation rows at given steps, the last of them the end of the run."""

    def __init__(
        self,
        steps: Container[int],
        loader: Loader,
        starts: NDArray[np.int64],
        batch_rows: int,
        byte_lengths: NDArray[np.int64],
        path: Path,
        latest: Latest,
        stop: StopFlag,
    ) -> None:
        self.steps, self.loader, self.starts, self.batch_rows = steps, loader, starts, batch_rows
        self.byte_lengths, self.path, self.latest, self.stop = byte_lengths, path, latest, stop
        self.seconds = 0.0

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        # The final weights are scored even when a signal comes during the last step: nothing would make up for it.
        if record.step in self.steps and (not self.stop or record.step == trainer.steps):
            self.evaluate(trainer, record)

    def evaluate(self, trainer: Trainer, record: StepRecord) -> None:
        """Score the rows and write a line of metrics."""
        started = time.perf_counter()
        score = self.score(trainer.model, trainer.device)
        self.seconds += time.perf_counter() - started
        self.latest.score, self.latest.score_step = score, record.step
        if score.bits_per_byte < self.latest.best_bits_per_byte:
            self.latest.best_bits_per_byte, self.latest.best_step = score.bits_per_byte, record.step
        storage.append_json_line(
            self.path,
            {
                "kind": "evaluation",
                "step": record.step,
                "tokens": record.tokens,
                "seconds": record.seconds,
                "loss": score.loss,
                "bits_per_byte": score.bits_per_byte,
                "perplexity": score.perplexity,
                "scored_tokens": score.tokens,
                "bytes": score.bytes,
            },
        )

    def score(self, model: Any, device: Device) -> Score:
        """The score of the fixed rows."""
        size = self.batch_rows
        parts = (self.loader.rows_at(self.starts[i : i + size]) for i in range(0, len(self.starts), size))
        return score_rows(model, parts, self.byte_lengths, device)


class Samples(Callback):
    """Continues the same prompts at given steps and writes the texts down."""

    def __init__(
        self, steps: Container[int], tokenizer: Tokenizer, config: GenerateConfig, path: Path, stop: StopFlag
    ) -> None:
        self.steps, self.tokenizer, self.config, self.path, self.stop = steps, tokenizer, config, path, stop
        self.newest: list[Data] = []

    def on_start(self, trainer: Trainer) -> None:
        kept = [r for r in storage.read_json_lines(self.path) if r.get("step", 0) <= trainer.step]
        storage.write_json_lines(self.path, kept)

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        if record.step not in self.steps or self.stop:
            return
        assert isinstance(trainer.model, Decoder)
        self.newest = []
        for prompt in self.config.prompts or ("",):
            made = run(trainer.model, self.tokenizer, prompt, self.config, trainer.device)
            line = {
                "step": record.step,
                "tokens": record.tokens,
                "prompt": prompt,
                "text": made.text,
                "finish_reason": made.finish_reason,
                "temperature": self.config.temperature,
                "seed": self.config.seed,
            }
            self.newest.append(line)
            storage.append_json_line(self.path, line)


class Save(Callback):
    """Publishes a checkpoint at given steps and when the run is stopped, and removes old ones."""

    def __init__(
        self,
        steps: Container[int],
        run_folder: Path,
        tokenizer: Tokenizer,
        keep: int,
        facts: Data,
        latest: Latest,
        progress: Progress,
        plan: Data,
    ) -> None:
        self.plan = plan  # stored with the state, so that a resumed run is the same run
        self.steps, self.run_folder, self.tokenizer, self.keep = steps, run_folder, tokenizer, keep
        self.facts, self.latest, self.progress = facts, latest, progress

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        if record.step in self.steps:
            self.save(trainer)

    def on_stop(self, trainer: Trainer) -> None:
        newest = checkpoints.last(self.run_folder)
        if trainer.step and (newest is None or newest.step < trainer.step):
            saved = self.save(trainer)
            self.progress.note(f"saved {saved.path}")

    def save(self, trainer: Trainer) -> checkpoints.Checkpoint:
        """Publish the present state."""
        data, tensors = trainer.state()
        data["plan"] = self.plan
        data["latest"] = {
            "best_step": self.latest.best_step,
            "best_bits_per_byte": self.latest.best_bits_per_byte if self.latest.best_step else None,
        }
        measured = self.latest.score if self.latest.score_step == trainer.step else None
        facts = {**self.facts, "bits_per_byte": measured.bits_per_byte if measured else None}
        assert isinstance(trainer.model, Decoder)
        folder = checkpoints.RunFolder(self.run_folder).checkpoints
        saved = checkpoints.save(folder, trainer.step, trainer.model, self.tokenizer, data, tensors, facts)
        checkpoints.prune(self.run_folder, self.keep)
        return saved


class Bar(Callback):
    """Tells the watcher of every step."""

    def __init__(self, task: Task, latest: Latest, bits_per_token_byte: float) -> None:
        self.task, self.latest, self.factor = task, latest, bits_per_token_byte
        self._smooth: float | None = None

    def on_start(self, trainer: Trainer) -> None:
        self.task.advance(trainer.step)

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        loss = record.loss * self.factor
        self._smooth = loss if self._smooth is None else 0.95 * self._smooth + 0.05 * loss
        note = f"train {self._smooth:.3f}"
        if self.latest.score is not None:
            note += f", validation {self.latest.score.bits_per_byte:.3f}"
        self.task.advance(1, f"{note} bits/byte")


@dataclass(slots=True)
class Watch(Callback):
    """Remembers facts about the run for its summary."""

    facts: Data = field(default_factory=dict)

    def on_start(self, trainer: Trainer) -> None:
        # A run that was killed after its last checkpoint has no step left to take.
        self.remember(trainer)

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        self.remember(trainer)

    def remember(self, trainer: Trainer) -> None:
        """The present state as facts."""
        self.facts = {
            "steps": trainer.step,
            "planned_steps": trainer.steps,
            "tokens": trainer.tokens,
            "seconds": trainer.seconds,
            "tokens_per_second": trainer.tokens / trainer.seconds if trainer.seconds else 0.0,
            "peak_memory_bytes": peak_memory_bytes(),
        }
