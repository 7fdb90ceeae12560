"""The first losses of one small run, pinned: whoever changes them on purpose writes the new ones down.

python -m tests.golden.test_losses        writes losses.json anew
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fabula.data.batch import Batch
from fabula.device import Device
from fabula.model.decoder import Decoder
from fabula.progress import StopFlag
from fabula.train.objective import NextToken
from fabula.train.optimizers import AdamWConfig, MuonConfig, OptimizerConfig
from fabula.train.schedules import Cosine, WarmupStableDecay
from fabula.train.trainer import Callback, StepRecord, Trainer
from tests import tiny

LOSSES = Path(__file__).with_name("losses.json")

# Everything is written out: defaults and presets may be tuned without touching this.
OPTIMIZERS: dict[str, OptimizerConfig] = {
    "adamw": AdamWConfig(lr=3e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1),
    "muon": MuonConfig(
        **dict(lr=0.02, momentum=0.95, ns_steps=5, weight_decay=0.1, table_lr=6e-3, vector_lr=6e-3),
        **dict(beta1=0.9, beta2=0.95, eps=1e-8),
    ),
}
SCHEDULES = {
    "adamw": Cosine(warmup=0.1, final=0.1),
    "muon": WarmupStableDecay(warmup=0.1, final=0.0, decay=0.5),
}


class Made:
    """Batches of a text's bytes: no tokenizer, no generator of fables may move these losses."""

    def __init__(self, text: bytes) -> None:
        self.ids = torch.tensor(list(text))

    def stream(self, position: int, rows: int, waiting):  # type: ignore[no-untyped-def]
        n, width = len(self.ids) - tiny.CONTEXT - 1, tiny.CONTEXT
        while True:
            starts = [(position + i) * 7919 % n for i in range(rows)]
            position += rows
            ids = torch.stack([self.ids[s : s + width + 1] for s in starts])
            documents = (ids[:, :-1] == 46).cumsum(1)
            yield Batch(ids[:, :-1], ids[:, 1:], torch.arange(width).repeat(rows, 1), documents)


TEXT = (
    "En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un hidalgo de los de "
    "lanza en astillero, adarga antigua, rocín flaco y galgo corredor. Una olla de algo más vaca que carnero, salpicón "
    "las más noches, duelos y quebrantos los sábados, lentejas los viernes, algún palomino de añadidura los domingos, "
    "consumían las tres partes de su hacienda."
).encode()


class Losses(Callback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        self.found.append(record.loss)


def losses(name: str) -> list[float]:
    """Twenty losses in nats per token."""
    torch.manual_seed(0)
    model = Decoder(tiny.model_config())
    found = Losses()
    Trainer(
        model=model,
        objective=NextToken(),
        optimizers=OPTIMIZERS[name].build(model),
        schedule=SCHEDULES[name],
        source=Made(TEXT),
        steps=20,
        batch_rows=4,
        micro_rows=2,
        clip=1.0,
        device=Device("cpu", "float32", 1, "a test"),
        stop=StopFlag(),
        callbacks=[found],
    ).fit()
    return found.found


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_first_losses_are_what_they_were(name: str) -> None:
    assert losses(name) == pytest.approx(json.loads(LOSSES.read_text())[name], abs=1e-4)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_two_runs_are_equal_to_the_last_bit(name: str) -> None:
    assert tiny.same(losses(name), losses(name))


if __name__ == "__main__":
    torch.set_num_threads(1)
    LOSSES.write_text(json.dumps({name: losses(name) for name in OPTIMIZERS}, indent=2) + "\n")
