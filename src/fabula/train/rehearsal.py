"""A few real steps in a process of their own: `python -m fabula.train.rehearsal`, started by `plan/measure.py`.

It is told the settings of the run, how many rows are computed at once and in which format, and answers with the peak of
its memory and its speed. Every step accumulates over two parts, as the steps of a run with a larger batch do. Or it is
to compile: then it takes the steps of the run, compiled and as they are in turn, and answers with the time of both
(`compiling.py`).
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Generator

import torch

from fabula import config as configs
from fabula.companion import Parent, first_line, leave
from fabula.config import Data
from fabula.data.batch import Batch
from fabula.data.pairs import PairBatch
from fabula.device import Device, choose, is_out_of_memory, peak_memory_bytes, synchronize
from fabula.model import kinds
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.kinds import AnyConfig
from fabula.progress import StopFlag
from fabula.train.averaging import with_room
from fabula.train.compiling import Compiled
from fabula.train.config import TrainConfig
from fabula.train.objective import Objective
from fabula.train.prepared import prepared
from fabula.train.speed import objective_of
from fabula.train.trainer import Trainer

# The first step makes what the optimizer keeps, the second has it from its beginning.
_STEPS = 2
# Steps of each kind that are timed where compiling is tried, at least.
_TIMED = 4


def main() -> None:
    """Take the steps that are asked for."""
    parent = Parent(behind=False, grace=0.0)
    job = parent.next() or {"end": True}
    if job.get("end"):
        return
    try:
        parent.say(**(compiled_and_not(job) if job.get("compile") else rehearse(job)))
    except Exception as error:
        parent.say(did_not_fit=True) if is_out_of_memory(error) else parent.say(error=first_line(error))
    leave()


def rehearse(job: Data) -> Data:
    """Peak memory in bytes, and tokens a second of the fastest step."""
    train = configs.build(TrainConfig, job["train"], "train")
    model_config = kinds.read(job["model"], "model")
    device = dataclasses.replace(choose(train.device, train.threads), dtype=job["dtype"])
    rows = int(job["rows"])
    batch = made_up(model_config, 2 * rows, (int(job["source_tokens"]), int(job["target_tokens"])), train)
    peak, pace, fitted = peak_of_steps(train, model_config, batch, rows, device)
    return {"measured_bytes": peak, "tokens_per_second": pace} if fitted else {"did_not_fit": True}


def peak_of_steps(
    config: TrainConfig, model_config: AnyConfig, batch: Batch | PairBatch, micro_rows: int, device: Device
) -> tuple[int, float, bool]:
    """The process's peak in bytes after steps on a batch, tokens a second, and whether `micro_rows` fitted."""
    trainer = _trainer(config, model_config, batch, micro_rows, device, objective_of(model_config))
    paces = []
    for _ in range(_STEPS):
        begin = time.perf_counter()
        trainer.take_step(batch)
        synchronize(device)
        paces.append(time.perf_counter() - begin)
    return peak_memory_bytes(device), batch.n_targets / min(paces), trainer.micro_rows == micro_rows


def compiled_and_not(job: Data) -> Data:
    """Seconds of a step compiled and as it is, medians of steps in turn, and seconds that compiling took."""
    train = configs.build(TrainConfig, job["train"], "train")
    model_config = kinds.read(job["model"], "model")
    device = dataclasses.replace(choose(train.device, int(job["threads"])), dtype=job["dtype"])
    rows, micro_rows = int(job["batch_rows"]), int(job["rows"])
    batch = made_up(model_config, rows, (0, model_config.context_length), train, float(job["document_tokens"]))
    told: list[str] = []
    compiled = Compiled(told.append)
    trainers = [
        _trainer(train, model_config, batch, micro_rows, device, objective)
        for objective in (compiled, objective_of(model_config))
    ]
    began = time.perf_counter()
    compiled.warm(trainers[0].model, batch.rows(0, micro_rows), device)
    synchronize(device)
    compile_seconds = time.perf_counter() - began
    times: list[list[float]] = [[], []]
    began = time.perf_counter()
    while len(times[0]) < 1 + _TIMED or time.perf_counter() - began < float(job["seconds"]):
        for trainer, found in zip(trainers, times, strict=True):
            begin = time.perf_counter()
            trainer.take_step(batch)
            synchronize(device)
            found.append(time.perf_counter() - begin)
    if compiled.failed:
        return {"error": told[0]}
    medians = [statistics.median(found[1:]) for found in times]
    return {"compiled_seconds": medians[0], "eager_seconds": medians[1], "compile_seconds": compile_seconds}


def _trainer(
    config: TrainConfig,
    model_config: AnyConfig,
    batch: Batch | PairBatch,
    micro_rows: int,
    device: Device,
    objective: Objective,
) -> Trainer:
    torch.manual_seed(0)
    model = prepared(config, model_config, device)[0]
    return Trainer(
        model=model,
        objective=objective,
        optimizers=config.optimizer.build(model),
        schedule=config.schedule,
        source=_Nothing(),
        steps=1_000_000,
        batch_rows=batch.tokens.shape[0],
        micro_rows=micro_rows,
        clip=config.clip,
        device=device,
        stop=StopFlag(),
        callbacks=[with_room(config.average, model)],
    )


class _Nothing:
    """A source that is never asked: the steps are given their batch."""

    def stream(self, position: int, rows: int, waiting: Callable[[], None]) -> Generator[Batch | PairBatch]:
        raise NotImplementedError


def made_up(
    model: AnyConfig, rows: int, widths: tuple[int, int], train: TrainConfig, document_tokens: float = 0.0
) -> Batch | PairBatch:
    """Rows of made-up ids: of texts as long as the context, or of pairs of `widths` tokens each.

    Texts of `document_tokens` each where they are kept apart in a row; 0: one text a row.
    """
    generator, context = torch.Generator().manual_seed(0), model.context_length
    if isinstance(model, EncoderDecoderConfig):
        vocabularies = (model.source_vocabulary, model.vocab_size)
        source, target = (
            torch.randint(size, (rows, width), generator=generator)
            for size, width in zip(vocabularies, widths, strict=True)
        )
        return PairBatch(source, torch.full((rows,), widths[0]), target, target)
    ids = torch.randint(model.vocab_size, (rows, context + 1), generator=generator)
    if train.isolate_documents:
        size = max(1, min(context, round(document_tokens or context)))
        # Each row begins in the midst of a text, another one in each.
        places = torch.arange(context) + torch.randint(size, (rows, 1), generator=generator) * bool(document_tokens)
        return Batch(ids[:, :-1], ids[:, 1:], places % size, places // size)
    return Batch(ids[:, :-1], ids[:, 1:])


if __name__ == "__main__":
    main()
