"""A few real steps in a process of their own: `python -m fabula.train.rehearsal`, started by `plan/measure.py`.

It is told the settings of the run, how many rows are computed at once and in which format, and answers with the peak of
its memory and its speed. Every step accumulates over two parts, as the steps of a run with a larger batch do.
"""

from __future__ import annotations

import dataclasses
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
from fabula.model.kinds import AnyConfig, build_model
from fabula.progress import StopFlag
from fabula.train.averaging import with_room
from fabula.train.config import TrainConfig
from fabula.train.speed import objective_of
from fabula.train.trainer import Trainer

# The first step makes what the optimizer keeps, the second has it from its beginning.
_STEPS = 2


def main() -> None:
    """Take the steps that are asked for."""
    parent = Parent(behind=False, grace=0.0)
    job = parent.next() or {"end": True}
    if job.get("end"):
        return
    try:
        parent.say(**rehearse(job))
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
    torch.manual_seed(0)
    model = build_model(model_config).to(device.torch)
    model.choose_path(device.name, config.isolate_documents)
    trainer = Trainer(
        model=model,
        objective=objective_of(model_config),
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
    paces = []
    for _ in range(_STEPS):
        begin = time.perf_counter()
        trainer.take_step(batch)
        synchronize(device)
        paces.append(time.perf_counter() - begin)
    return peak_memory_bytes(device), batch.n_targets / min(paces), trainer.micro_rows == micro_rows


class _Nothing:
    """A source that is never asked: the steps are given their batch."""

    def stream(self, position: int, rows: int, waiting: Callable[[], None]) -> Generator[Batch | PairBatch]:
        raise NotImplementedError


def made_up(model: AnyConfig, rows: int, widths: tuple[int, int], train: TrainConfig) -> Batch | PairBatch:
    """Rows of made-up ids: of texts as long as the context, or of pairs of `widths` tokens each."""
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
        places = torch.arange(context).repeat(rows, 1)
        return Batch(ids[:, :-1], ids[:, 1:], places, torch.zeros(rows, context).long())
    return Batch(ids[:, :-1], ids[:, 1:])


if __name__ == "__main__":
    main()
