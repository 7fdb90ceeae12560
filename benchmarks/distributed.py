"""What several processes cost: a training step of one batch, by one process and shared out to several on this machine.

    python benchmarks/distributed.py --processes 1,2 --ways ddp,fsdp,tensor

Every configuration is started by torchrun, its processes share the cores of the machine, and takes steps on the same
random ids. "ideal" is the step of one process that has all the cores; overhead is what comes on top of it. "waiting" is
the time between the end of a process's own gradient and that of the exchange.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

# name: preset, rows of a batch
SHAPES = {"1M": ("fabula-1m", 8), "10M": ("fabula-10m", 8)}


def worker(shape: str, way: str, seconds: float) -> None:
    """One process: steps for about so many seconds; the first one prints what it saw."""
    import torch

    from fabula.device import choose
    from fabula.distributed.group import joined
    from fabula.distributed.launch import Launch, cores
    from fabula.distributed.spread import spread
    from fabula.model.decoder import Decoder
    from fabula.model.presets import presets
    from fabula.progress import StopFlag
    from fabula.train.config import TrainConfig
    from fabula.train.rehearsal import made_up
    from fabula.train.speed import objective_of
    from fabula.train.trainer import Trainer

    name, rows = SHAPES[shape]
    launch = Launch.read(os.environ)
    stop, config = StopFlag(), TrainConfig()
    with joined(launch, 60.0, "cpu", stop) as group:
        device = choose("cpu", group.threads or cores())
        torch.manual_seed(0)
        settings = presets.get(name).config
        over = spread(way, group)  # type: ignore[arg-type]
        model = over.wrap(Decoder(settings))
        model.choose_path("cpu", True)
        batch = made_up(settings, rows, (0, settings.context_length), config)
        trainer = Trainer(
            model=model,
            objective=objective_of(settings),
            optimizers=config.optimizer.build(model),
            schedule=config.schedule,
            source=None,  # type: ignore[arg-type]  # the batch is given
            steps=1_000_000,
            batch_rows=rows,
            micro_rows=rows,
            clip=1.0,
            device=device,
            stop=stop,
            spread=over,
        )
        waits: list[float] = []
        gather = over.gather

        def timed(*arguments: Any) -> Any:
            begin = time.perf_counter()
            found = gather(*arguments)
            waits.append(time.perf_counter() - begin)
            return found

        over.gather = timed  # type: ignore[method-assign]
        times: list[float] = []
        started = time.perf_counter()
        while over.agreed(len(times) < 4 or time.perf_counter() - started < seconds, "measuring"):
            begin = time.perf_counter()
            trainer.take_step(batch)
            times.append(time.perf_counter() - begin)
        if group.leads:
            found = {"step": statistics.median(times[1:]), "waiting": statistics.median(waits[1:]), "steps": len(times)}
            print(json.dumps({**found, "threads": device.threads, "tokens": batch.n_targets}), flush=True)


def start(processes: int, shape: str, way: str, seconds: float) -> dict[str, Any]:
    """What the processes of one configuration saw."""
    own = [__file__, "--worker", shape, "--ways", way, "--seconds", str(seconds)]
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *own]
    made = subprocess.run(
        words if processes > 1 else [sys.executable, *own], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise SystemExit(made.stderr[-2000:])
    found: dict[str, Any] = json.loads(made.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--ways", default="ddp")
    parser.add_argument("--shapes", default="1M")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", metavar="SHAPE")
    given = parser.parse_args()
    if given.worker:
        worker(given.worker, given.ways, given.seconds)
        return
    print(
        f"{'shape':6} {'processes':>9} {'way':7} {'threads':>7} {'ms/step':>8} {'tokens/s':>9} {'waiting':>8} overhead"
    )
    for shape in given.shapes.split(","):
        combinations = [(1, "ddp")] if "1" in given.processes.split(",") else []
        combinations += [
            (n, way) for n in map(int, given.processes.split(",")) if n > 1 for way in given.ways.split(",")
        ]
        seen: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for _ in range(given.rounds):
            for processes, way in combinations:
                seen.setdefault((processes, way), []).append(start(processes, shape, way, given.seconds))
        ideal = 0.0
        for (processes, way), found in seen.items():
            step = statistics.median(f["step"] for f in found)
            ideal = ideal or step
            waiting = statistics.median(f["waiting"] for f in found)
            print(
                f"{shape:6} {processes:9} {way if processes > 1 else '-':7} {found[0]['threads']:7} {step * 1e3:8.1f} "
                f"{found[0]['tokens'] / step:9,.0f} {waiting * 1e3:6.1f}ms {step / ideal - 1:+.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
