"""Forks that take a few steps together, with something wrong in one of them, and write down what came of it.

with Steppers() as server:
    found = server.steps(tmp_path, data, world=2, wrong={"rank": 1, "what": "nan", "at": 3})
"""

from __future__ import annotations

import hashlib
import json
from itertools import count
from pathlib import Path
from typing import Any

from tests import tiny
from tests.faults.forks import Forks, Request, serve

ROWS, STEPS = 5, 8


class Steppers(Forks):
    module = __name__

    def steps(self, folder: Path, data: Path, world: int = 2, **how: Any) -> list[dict[str, Any]]:
        """What each process found: losses, steps not applied, rows it computed, a hash of its weights."""
        import torch.distributed as dist

        self._numbers = getattr(self, "_numbers", count())
        name = f"steps-{next(self._numbers)}"
        store: Any = dist.TCPStore("127.0.0.1", 0, world, True, wait_for_workers=False)
        request = {"data": str(data), "port": store.port, "world": world, **how}
        outs = [folder / f"{name}-{rank}.json" for rank in range(world)]
        forks = [
            self.fork({**request, "rank": rank, "out": str(out)}, folder / f"{name}-{rank}.txt")
            for rank, out in enumerate(outs)
        ]
        for fork in forks:
            assert fork.wait() == 0, "\n".join(f.output[-2000:] for f in forks)
        return [json.loads(out.read_text()) for out in outs]


def together(found: list[dict[str, Any]]) -> list[list[Any]]:
    """The rows that all of them computed, step by step, in the order of the processes."""
    return [row for step in range(1, STEPS + 1) for one in found for row in one["rows"] if row[0] == step]


def become(request: Request) -> int:
    """Take the steps."""
    import torch

    from fabula.data.batch import Batch
    from fabula.data.loader import Loader
    from fabula.data.shards import Shards
    from fabula.device import choose
    from fabula.distributed.group import joined
    from fabula.distributed.launch import Launch
    from fabula.distributed.spread import spread, whole
    from fabula.model.decoder import Decoder
    from fabula.progress import StopFlag
    from fabula.train.objective import Loss, NextToken
    from fabula.train.optimizers import MuonConfig, optimizers
    from fabula.train.schedules import WarmupStableDecay
    from fabula.train.trainer import Trainer

    rank, world, wrong = request["rank"], request["world"], request.get("wrong", {})
    launch = None
    if world > 1:
        launch = Launch(rank, world, rank, world, "127.0.0.1", request["port"], hosted=True)
    stop = StopFlag()
    rows: list[tuple[int, str]] = []

    class Objective(NextToken):
        def __call__(self, model: Any, batch: Batch) -> Loss:
            step = trainer.step + 1
            loss = super().__call__(model, batch)
            if wrong.get("rank") == rank:
                if wrong["what"] == "memory" and batch.tokens.shape[0] > wrong["above"]:
                    raise torch.OutOfMemoryError("CUDA out of memory (not really)")
                if wrong["what"] == "nan" and step in wrong["at"]:
                    return Loss(loss.total * float("nan"), loss.count)
            # Written down when it counted: a step that was taken again counts once.
            rows.extend((step, hashlib.sha256(row.numpy().tobytes()).hexdigest()) for row in batch.tokens)
            return loss

    with joined(launch, 10.0, "cpu", stop) as group:
        over = spread(request.get("way", "ddp"), group)
        torch.manual_seed(0)
        model = over.wrap(Decoder(tiny.model_config(dropout=request.get("dropout", 0.0))))
        kind = request.get("optimizer")
        config = MuonConfig() if kind is None else optimizers.get(kind)()
        shards = Shards(Path(request["data"]))
        notes: list[str] = []
        trainer = Trainer(
            model=model,
            objective=Objective(),
            optimizers=config.build(model),
            schedule=WarmupStableDecay(),
            source=Loader(shards.train, tiny.CONTEXT, 0, True),
            steps=STEPS,
            batch_rows=request.get("rows", ROWS),
            micro_rows=request.get("micro_rows", 8),
            clip=1.0,
            device=choose("cpu"),
            stop=stop,
            note=notes.append,
            spread=over,
        )
        losses, unapplied = [], []
        batches = trainer.source.stream(0, trainer.batch_rows, lambda: None)
        for _ in range(STEPS):
            before = len(rows)
            taken = trainer.at_once
            record = trainer.take_step(next(batches))
            if trainer.at_once != taken:
                # The attempt for which there was no memory did not count.
                mine = over.share(trainer.batch_rows)
                del rows[before : len(rows) - (mine[1] - mine[0])]
            losses.append(record.loss)
            if record.unapplied is not None:
                unapplied.append(record.step)
        batches.close()
        weights = hashlib.sha256()
        for parameter in model.parameters():
            weights.update(whole(parameter.detach()).contiguous().numpy().tobytes())
        found = {
            "losses": losses,
            "unapplied": unapplied,
            "rows": rows,
            "at_once": trainer.at_once,
            "weights": weights.hexdigest(),
            "notes": notes,
        }
    Path(request["out"]).write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    import torch
    import torch.distributed.fsdp
    import torch.distributed.tensor.parallel

    torch.set_num_threads(1)
    serve(become)
