"""How long does a checkpoint of ten million parameters take, weights and optimizer, until it is durable?

    python benchmarks/save.py [--preset fabula-10m] [--rounds 9] [--folder .]

Beside it, alternately in the same run: `torch.save` of the same tensors into one file, as nanoGPT and most trainers do
it (nothing is flushed to the disk, so a power cut loses it), and the same with a flush. Ours writes safetensors and
JSON, flushes every file, hashes every byte, and publishes the folder by one rename. Seconds, median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fabula import checkpoint
from fabula.data.batch import Batch
from fabula.device import choose
from fabula.model.decoder import Decoder
from fabula.model.presets import presets
from fabula.progress import StopFlag
from fabula.tokenizer.bpe import train_bpe
from fabula.train.config import TrainConfig
from fabula.train.objective import NextToken
from fabula.train.optimizers import AdamWConfig
from fabula.train.trainer import Trainer


def trainer_of(preset: str, threads: int) -> Trainer:
    """A trainer that has taken one step of AdamW, so that both moments are there: the largest state there is."""
    config = presets.get(preset).config
    model = Decoder(config)
    rows = 1
    ids = torch.randint(config.vocab_size, (rows, 33))
    settings = TrainConfig(optimizer=AdamWConfig())
    trainer = Trainer(
        model=model,
        objective=NextToken(),
        optimizers=settings.optimizer.build(model),
        schedule=settings.schedule,
        source=None,  # type: ignore[arg-type]
        steps=10,
        batch_rows=rows,
        micro_rows=rows,
        clip=1.0,
        device=choose("cpu", threads),
        stop=StopFlag(),
    )
    trainer.take_step(Batch(ids[:, :-1], ids[:, 1:]))
    return trainer


def timed(work: Callable[[], None]) -> float:
    """Seconds that it takes, after what was written before has reached the disk."""
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="fabula-10m")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(), help="a folder on the disk to be measured")
    given = parser.parse_args()
    trainer = trainer_of(given.preset, given.threads)
    tokenizer = train_bpe(["una fábula y otra fábula " * 50], 270)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)

        def ours() -> None:
            data, tensors = trainer.state()
            checkpoint.save(folder, 1, trainer.model, tokenizer, data, tensors, {})  # type: ignore[arg-type]

        def peer() -> None:
            state = {"model": trainer.model.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
            torch.save(state, folder / "ckpt.pt")

        def peer_flushed() -> None:
            peer()
            with (folder / "ckpt.pt").open("rb+") as file:
                os.fsync(file.fileno())

        ways = {"ours, durable and hashed": ours, "torch.save": peer, "torch.save and fsync": peer_flushed}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(given.rounds + 1):
            for way, work in ways.items():
                taken = timed(work)
                if turn:  # the first round warms up
                    times[way].append(taken)
        size = sum(f.stat().st_size for f in (folder / "step-000001").iterdir())
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(f"{given.preset}: {parameters:,} parameters, a checkpoint of {size / 1e6:.1f} MB")
    for way, taken in times.items():
        middle = statistics.median(taken)
        print(
            f"{way:26} {middle:.3f} s  (best {min(taken):.3f}, worst {max(taken):.3f})  {size / middle / 1e6:,.0f} MB/s"
        )
    ratio = statistics.median(times["torch.save and fsync"]) / statistics.median(times["ours, durable and hashed"])
    print(f"torch.save and fsync / ours: {ratio:.2f}")


if __name__ == "__main__":
    main()
