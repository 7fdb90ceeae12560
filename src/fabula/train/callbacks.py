"""What happens around the steps: metrics, evaluation, samples, checkpoints. Each is small and knows one thing.

Their order in the trainer's list is the order of their work at a step: evaluation before samples before saving, so
that a checkpoint knows its own quality.

Where several processes train together, those that write (`Metrics`, `Bar`) are the first one's alone. All have the
others: scores are shared out, and what takes one process only is waited for.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fabula import faults, storage
from fabula.config import Data
from fabula.data.loader import Loader
from fabula.data.pairs import PairLoader
from fabula.device import Device, peak_memory_bytes
from fabula.distributed.spread import Spread
from fabula.evaluate.intrinsic import Score, score_rows
from fabula.generate.config import GenerateConfig
from fabula.generate.run import stream
from fabula.model.decoder import Decoder
from fabula.model.encdec import EncoderDecoder
from fabula.progress import StopFlag, Task
from fabula.tokenizer.base import Tokenizer
from fabula.train.averaging import Average
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

    def to_data(self) -> Data:
        """Everything as plain data; best values are None before there is one."""
        score = self.score
        return {
            "score": None if score is None else [score.nats, score.tokens, score.bytes, score.documents],
            "score_step": self.score_step,
            "best_step": self.best_step,
            "best_bits_per_byte": self.best_bits_per_byte if self.best_step else None,
        }

    def restore(self, data: Data) -> None:
        """Continue from what `to_data` returned."""
        self.score = None if data["score"] is None else Score(*data["score"])
        self.score_step, self.best_step = data["score_step"], data["best_step"]
        self.best_bits_per_byte = math.inf if data["best_bits_per_byte"] is None else data["best_bits_per_byte"]


class Metrics(Callback):
    """Lines of metrics.jsonl, averaged over the steps between them; cut back to the step a run resumes from.

    Steps that no line tells of yet go into the checkpoint, so that a resumed run writes the lines of one that was never
    stopped. A step that was not applied counts in time and tokens, not in loss and norm.
    """

    def __init__(
        self,
        path: Path,
        every: int,
        bits_per_token_byte: float,
        steps: int = 0,
        more: Callable[[float], Data] = lambda tokens_per_second: {},
        also: Container[int] = (),
    ) -> None:
        # 0: about 500 lines in the run's `steps`, as they were planned at its very start.
        self.path, self.given, self.every = path, every, every or max(1, steps // 500)
        # A loss in nats a token times this is bits a byte: 1 / ln 2 / (bytes per token of the training split).
        self.bits_per_token_byte = bits_per_token_byte
        self.more = more  # what else a line says, from the tokens a second
        self.also = also  # steps at which there is a line in any case: the run may end there
        self._losses: list[float] = []
        self._steps, self._seconds, self._since = 0, 0.0, 0  # since: tokens before the first waiting step

    def on_start(self, trainer: Trainer) -> None:
        storage.cut_json_lines(self.path, lambda record: record["step"] <= trainer.step)

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        if record.unapplied is None:
            self._losses.append(record.loss)
        self._steps += 1
        self._seconds += record.step_seconds
        if record.step % self.every == 0 or record.step in (1, trainer.steps) or record.step in self.also:
            self.write(record)

    def state(self) -> Data:
        return {
            "every": self.every,
            "losses": self._losses,
            "steps": self._steps,
            "seconds": self._seconds,
            "since": self._since,
        }

    def restore(self, state: Data) -> None:
        if state:
            self.every = self.given or state["every"]
            self._losses, self._steps = list(state["losses"]), state["steps"]
            self._seconds, self._since = state["seconds"], state["since"]

    def write(self, last: StepRecord) -> None:
        """Write what was gathered since the last line."""
        if self._losses:
            loss = math.fsum(self._losses) / len(self._losses)
            rate = (last.tokens - self._since) / self._seconds
            line = {
                "kind": "train",
                "step": last.step,
                "tokens": last.tokens,
                "seconds": last.seconds,
                "loss": loss,
                "bits_per_byte": loss * self.bits_per_token_byte,
                "lr": last.lr,
                "grad_norm": last.grad_norm if math.isfinite(last.grad_norm) else None,
                "tokens_per_second": rate,
                **self.more(rate),
            }
            if self._steps > len(self._losses):
                line["unapplied"] = self._steps - len(self._losses)
            storage.append_json_line(self.path, line)
        self._losses, self._steps, self._seconds, self._since = [], 0, 0.0, last.tokens


class Settle(Callback):
    """Fixes the number of steps of a time budget from the run's own first steps, once.

    What was measured before the run may have met a busy moment of the machine. After `share` of the time (a minute at
    most) the steps that fit the time left are counted again, at the median pace so far. `apply` is told the steps and
    the seconds of one: those of the plan where it would end at most `early` or `late` parts of it before or after its
    time. Then the number stays.
    """

    share, most, early, late = 0.15, 60.0, 0.1, 0.02

    def __init__(self, seconds: float, planned: float, apply: Callable[[int, float], None], extra: float = 0.0) -> None:
        # `extra`: what now and then comes on top of the usual step, as a share of its time.
        self.seconds, self.planned, self.apply, self.extra = seconds, planned, apply, extra
        self._began = self._before = 0.0
        self._paces: list[float] = []
        self._settled = False

    def on_start(self, trainer: Trainer) -> None:
        self._began = self._before = trainer.spread.now()

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        if self._settled:
            return
        now = trainer.spread.now()
        self._paces.append(now - self._before)
        self._before = now
        elapsed = now - self._began
        last = record.step == trainer.steps
        if not last and (elapsed < min(self.share * self.seconds, self.most) or len(self._paces) < 3):
            return
        self._settled = True
        pace = statistics.median(self._paces) * (1 + self.extra)
        steps = record.step + max(1, int((self.seconds - elapsed) / pace))
        if -self.late <= steps / trainer.steps - 1 <= self.early:
            steps, pace = trainer.steps, self.planned
        trainer.steps = steps
        self.apply(steps, pace)


class Evaluate(Callback):
    """Scores a fixed set of validation rows at given steps, the last of them the end of the run.

    Where a mean of weights is kept, it is what is scored; at the end of the run the weights of the last step are scored
    as well, and the better of the two are the model from then on.
    """

    def __init__(
        self,
        steps: Container[int],
        loader: Loader | PairLoader,
        starts: NDArray[np.int64],
        batch_rows: int,
        byte_lengths: NDArray[np.int64],
        path: Path,
        latest: Latest,
        stop: StopFlag,
        average: Average | None = None,
        judge: Callable[[Trainer, Score], None] = lambda trainer, score: None,
        note: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.steps, self.loader, self.starts, self.batch_rows = steps, loader, starts, batch_rows
        self.byte_lengths, self.path, self.latest, self.stop = byte_lengths, path, latest, stop
        self.average, self.judge, self.note = average or Average(), judge, note
        self.seconds = 0.0

    def on_start(self, trainer: Trainer) -> None:
        # A run that was stopped at a milestone has its evaluation before it.
        if trainer.step in self.steps and trainer.spread.agreed(not self._written(trainer.step), "evaluating"):
            self.evaluate(trainer)

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        if record.step in self.steps:
            self.evaluate(trainer)

    def _written(self, step: int) -> bool:
        last = storage.last_json_lines(self.path, 2)
        return any(r["kind"] == "evaluation" and r["step"] == step for r in last)

    def evaluate(self, trainer: Trainer) -> None:
        """Score the rows and write a line of metrics; Stopped between two batches when a signal came."""
        started = time.perf_counter()
        with self.average.shown(trainer):
            score = self._scored(trainer)
        self.judge(trainer, score)
        told: Data = {"weights": self.average.weights} if self.average.config.keeps else {}
        if trainer.step == trainer.steps and self.average.in_use:
            score, compared = self._better(trainer, score)
            told |= compared
        self.seconds += time.perf_counter() - started
        self.latest.score, self.latest.score_step = score, trainer.step
        if score.bits_per_byte < self.latest.best_bits_per_byte:
            self.latest.best_bits_per_byte, self.latest.best_step = score.bits_per_byte, trainer.step
        if not trainer.spread.group.leads:
            return
        storage.append_json_line(
            self.path,
            {
                "kind": "evaluation",
                "step": trainer.step,
                "tokens": trainer.tokens,
                "seconds": trainer.seconds,
                "loss": score.loss,
                "bits_per_byte": score.bits_per_byte,
                "perplexity": score.perplexity,
                "scored_tokens": score.tokens,
                "bytes": score.bytes,
                **told,
            },
        )

    def _scored(self, trainer: Trainer) -> Score:
        return self.score(trainer.readable(), trainer.device, trainer.at_once, trainer.spread)

    def _better(self, trainer: Trainer, averaged: Score) -> tuple[Score, Data]:
        """The better score at the end of the run, of the mean or of the last step's weights, which is kept from now on;
        and both for the line of metrics."""
        raw = self._scored(trainer)
        self.average.raw_is_better = not averaged.bits_per_byte < raw.bits_per_byte
        kept = "the last step's weights are" if self.average.raw_is_better else "the averaged weights are"
        self.note(
            f"step {trainer.step:,}: averaged weights {averaged.bits_per_byte:.4f} bits per byte, those of the last "
            f"step {raw.bits_per_byte:.4f}: {kept} what this checkpoint holds"
        )
        both = {"averaged_bits_per_byte": averaged.bits_per_byte, "raw_bits_per_byte": raw.bits_per_byte}
        return raw if self.average.raw_is_better else averaged, {"weights": self.average.weights, **both}

    def score(self, model: Any, device: Device, size: int, spread: Spread | None = None) -> Score:
        """The score of the fixed rows, `size` of them at once; of several processes each does a part."""
        spread = spread or Spread()
        mine, turns = spread.deal(-(-len(self.starts) // size))

        def each(rows: int) -> None:
            faults.point("train.evaluating")
            spread.agree_to_stop(self.stop, "evaluating")

        parts = (self.loader.rows_at(self.starts[i * size : (i + 1) * size]) for i in mine)
        score = score_rows(model, parts, self.byte_lengths, device, each)
        for _ in range(turns - len(mine)):
            spread.agree_to_stop(self.stop, "evaluating")
        nats, tokens, n_bytes = spread.sum([score.nats, score.tokens, score.bytes], "evaluating")
        return Score(nats, int(tokens), int(n_bytes), score.documents)


class Samples(Callback):
    """Continues the same prompts at given steps and writes the texts down.

    An encoder-decoder's prompts are sources; without any in the recipe it is given `examples`, sources of the
    validation split whose references stand beside what it writes.
    """

    def __init__(
        self,
        steps: Container[int],
        tokenizer: Tokenizer,
        config: GenerateConfig,
        path: Path,
        stop: StopFlag,
        examples: Sequence[tuple[str, list[str]]] = (),
        average: Average | None = None,
    ) -> None:
        self.steps, self.tokenizer, self.config, self.path, self.stop = steps, tokenizer, config, path, stop
        self.average = average or Average()
        self.references = {} if config.prompts else dict(examples)
        self.prompts = config.prompts or tuple(self.references) or ("",)
        self.newest: list[Data] = []

    def on_start(self, trainer: Trainer) -> None:
        with self.average.shown(trainer):
            model = trainer.readable()
            trainer.spread.group.lead(lambda: self._begin(trainer, model), "drawing samples")

    def _begin(self, trainer: Trainer, model: nn.Module) -> None:
        step = trainer.step
        storage.cut_json_lines(self.path, lambda record: record["step"] <= step)
        self.newest = [r for r in storage.last_json_lines(self.path, len(self.prompts)) if r["step"] == step]
        if step in self.steps and len(self.newest) < len(self.prompts):
            # Stopped between two samples: all of them again.
            storage.cut_json_lines(self.path, lambda record: record["step"] < step)
            self.draw(trainer, model)

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        if record.step in self.steps:
            with self.average.shown(trainer):
                model = trainer.readable()
                trainer.spread.group.lead(lambda: self.draw(trainer, model), "drawing samples")

    def draw(self, trainer: Trainer, model: nn.Module) -> None:
        """Continue every prompt; Stopped between two tokens when a signal came."""
        assert isinstance(model, (Decoder, EncoderDecoder))
        self.newest = []
        for prompt in self.prompts:
            pieces = []
            for piece in stream(model, self.tokenizer, prompt, self.config, trainer.device):
                faults.point("train.sampling")
                self.stop.check("drawing samples")
                pieces.append(piece)
            line = {
                "step": trainer.step,
                "tokens": trainer.tokens,
                "prompt": prompt,
                "text": "".join(piece.text for piece in pieces),
                "finish_reason": pieces[-1].finish_reason,
                "temperature": self.config.temperature,
                "seed": self.config.seed,
            }
            if prompt in self.references:
                line["references"] = self.references[prompt]
            if isinstance(model, EncoderDecoder):
                line["kind"] = "translation"
            self.newest.append(line)
            storage.append_json_line(self.path, line)


class Bar(Callback):
    """Tells the watcher of every step."""

    def __init__(self, task: Task, latest: Latest, bits_per_token_byte: float) -> None:
        self.task, self.latest, self.factor = task, latest, bits_per_token_byte
        self._smooth: float | None = None

    def on_start(self, trainer: Trainer) -> None:
        self.task.advance(trainer.step)

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        if record.unapplied is None:
            loss = record.loss * self.factor
            self._smooth = loss if self._smooth is None else 0.95 * self._smooth + 0.05 * loss
        note = f"train {self._smooth or math.nan:.3f}"
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
            "peak_memory_bytes": peak_memory_bytes(trainer.device),
        }
