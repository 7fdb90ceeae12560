"""How fast is this machine at this run? Times steps, scored rows, generated tokens and a save on a throw-away model."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fabula import storage
from fabula.data.batch import Batch
from fabula.data.pairs import PairBatch
from fabula.device import Device, peak_memory_bytes, synchronize
from fabula.distributed.spread import Spread
from fabula.evaluate.intrinsic import score_rows
from fabula.generate.config import GenerateConfig, Sampling
from fabula.generate.engine import Engine
from fabula.generate.steps import TranslationSteps
from fabula.model.encdec import EncoderDecoder, EncoderDecoderConfig
from fabula.model.kinds import AnyConfig, AnyModel
from fabula.progress import StopFlag
from fabula.train.averaging import with_room
from fabula.train.budget import parse_budget
from fabula.train.config import TrainConfig
from fabula.train.heap import keep_freed_memory
from fabula.train.objective import NextToken, Objective, SequenceToSequence
from fabula.train.prepared import prepared
from fabula.train.trainer import Trainer

# How long the steps are timed, in seconds: at least, and at most.
_SECONDS = (1.0, 6.0)


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds that the parts of a run take on this machine."""

    step: float
    evaluation_row: float
    sampled_token: float
    save: float
    micro_rows: int = 0  # rows that fit into memory at once; 0: as many as were asked for
    peak_memory_bytes: int = 0  # of the process, after real steps and the rest

    def pause(self, sampling: GenerateConfig, context: int) -> float:
        """Seconds that samples and a save take at a milestone."""
        prompts = max(1, len(sampling.prompts))
        return prompts * min(sampling.max_new_tokens, context) * self.sampled_token + self.save

    def overhead(self, n_milestones: int, evaluation_rows: int, sampling: GenerateConfig, context: int) -> float:
        """Seconds that evaluation, samples and saves take beside the steps of a whole run."""
        return n_milestones * (self.pause(sampling, context) + evaluation_rows * self.evaluation_row)


def objective_of(config: AnyConfig) -> Objective:
    """What a model of that kind minimises."""
    return SequenceToSequence() if isinstance(config, EncoderDecoderConfig) else NextToken()


class _Same:
    """The same batch again and again."""

    def __init__(self, batch: Batch | PairBatch) -> None:
        self.batch = batch

    def stream(self, position: int, rows: int, waiting: Callable[[], None]) -> Generator[Batch | PairBatch]:
        while True:
            yield self.batch


def speed_of(
    config: TrainConfig,
    model_config: AnyConfig,
    batch: Batch | PairBatch,
    scored: Batch | PairBatch,
    lengths: NDArray[np.int64],
    device: Device,
    stop: StopFlag,
    over: Spread | None = None,
) -> Speed:
    """What `measure` says of a run with these settings: a thirtieth of a time budget at most goes into it."""
    budget = parse_budget(config.budget)
    seconds = 0.03 * budget.amount if budget.unit == "seconds" else 0.0
    rows = batch.tokens.shape[0]
    micro_rows = min(rows, config.micro_rows or rows)
    over = (over or Spread()).fresh()
    return measure(config, model_config, batch, scored, lengths, micro_rows, device, seconds, stop, over)


def measure(
    config: TrainConfig,
    model_config: AnyConfig,
    batch: Batch | PairBatch,
    scored: Batch | PairBatch,
    byte_lengths: NDArray[np.int64],
    micro_rows: int,
    device: Device,
    seconds: float,
    stop: StopFlag,
    spread: Spread | None = None,
) -> Speed:
    """Time steps on one batch of a run for about `seconds` (at least three steps), and the other parts once."""
    keep_freed_memory()
    limit = min(max(seconds, _SECONDS[0]), _SECONDS[1])
    spread = spread or Spread()
    stepper = Stepper(config, model_config, batch, micro_rows, device, stop, spread)
    trainer, model = stepper.trainer, stepper.model
    times: list[float] = []
    started = time.perf_counter()
    while spread.agreed(len(times) < 3 or time.perf_counter() - started < limit, "measuring this machine"):
        times.append(stepper.seconds())
    begin = time.perf_counter()
    # As many at once as steps compute: all of them need not fit.
    model = spread.whole(model)
    at_once = trainer.at_once
    parts = [scored.rows(i, i + at_once) for i in range(0, scored.tokens.shape[0], at_once)]
    score_rows(model, parts, byte_lengths, device)
    # Of several processes each scores a part.
    evaluation_row = (time.perf_counter() - begin) / scored.tokens.shape[0] / spread.group.world
    n_sampled = min(16, model_config.context_length - 1)
    paces = [time.perf_counter()]
    for _ in _sampled(model, device, n_sampled):
        paces.append(time.perf_counter())
    sampled_token = statistics.median(after - before for before, after in pairwise(paces))
    spread.forget()
    # The first step also pays for allocations; the median of the others is what the run will see.
    return Speed(
        step=statistics.median(times[1:]) * (1 + config.optimizer.extra_work),
        evaluation_row=evaluation_row,
        sampled_token=sampled_token,
        save=_save_seconds(model_config),
        micro_rows=trainer.micro_rows,
        peak_memory_bytes=peak_memory_bytes(device),
    )


class Stepper:
    """Steps on one batch of a run, on a throw-away model, one by one."""

    def __init__(
        self,
        config: TrainConfig,
        model_config: AnyConfig,
        batch: Batch | PairBatch,
        micro_rows: int,
        device: Device,
        stop: StopFlag,
        spread: Spread | None = None,
    ) -> None:
        spread = spread or Spread()
        self.model = model = spread.wrap(prepared(config, model_config, device)[0])
        self.batch, self.device, self.stop = batch, device, stop
        self.trainer = Trainer(
            model=model,
            objective=objective_of(model_config),
            optimizers=config.optimizer.build(model),
            schedule=config.schedule,
            source=_Same(batch),
            steps=1_000_000,
            batch_rows=batch.tokens.shape[0],
            micro_rows=micro_rows,
            clip=config.clip,
            device=device,
            stop=stop,
            callbacks=[with_room(config.average, model)],
            spread=spread,
        )

    def seconds(self) -> float:
        """Take a step; how long it took. Stopped when a signal came."""
        self.trainer.spread.check_stop(self.stop, "measuring this machine")
        begin = time.perf_counter()
        self.trainer.take_step(self.batch)
        synchronize(self.device)
        return time.perf_counter() - begin


def _sampled(model: AnyModel, device: Device, count: int) -> Iterator[None]:
    """Make `count` tokens of any text, one by one."""
    if isinstance(model, EncoderDecoder):
        one = torch.zeros(1, 1, dtype=torch.long, device=device.torch)
        with torch.inference_mode():
            steps = TranslationSteps(model, one, one[0] + 1, device)
            for _ in range(count):
                steps.ahead(one)
                yield
        return
    for _ in Engine(model, -1, device).stream([0], count, Sampling(seed=0)):
        yield


def _save_seconds(config: AnyConfig) -> float:
    """Time to write a checkpoint, from that of a small file: weights and two moments, 12 bytes a parameter."""
    probe = bytes(min(8 * config.n_params(), 4_000_000))
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        storage.write_bytes(Path(folder) / "probe", probe)
        return (time.perf_counter() - begin) * 12 * config.n_params() / len(probe)
