"""Runs `fabula` in forks of a process that has already imported everything.

Each runs the command's `main` with its arguments as the shell would; only the imports are shared, and the machine is
measured for an instant.

    with ForkServer() as server:
        process = server.start("run", "tiny.toml", cwd=tmp_path, faults="train.step=kill@7")
        process.wait()
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from tests import tiny
from tests.faults.forks import Fork, Forks, Request, serve


class ForkServer(Forks):
    """The process that forks."""

    module = __name__

    def __enter__(self) -> ForkServer:
        self._numbers = count(1)
        return super().__enter__()

    def start(self, *arguments: object, cwd: Path, faults: str = "", env: dict[str, str] | None = None) -> Fork:
        """Fork a process that runs `fabula` with these arguments; `env` comes on top of the environment."""
        request = {"arguments": [str(a) for a in arguments], "cwd": str(cwd), "faults": faults, "env": env or {}}
        return self.fork(request, cwd / f"output-{next(self._numbers)}.txt")

    def run(self, *arguments: object, cwd: Path, faults: str = "", timeout: float = 60) -> Fork:
        """The same, waited for."""
        process = self.start(*arguments, cwd=cwd, faults=faults)
        process.wait(timeout)
        return process


def become(request: Request) -> int:
    """Run the command."""
    from fabula.cli.main import main

    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    os.environ["FABULA_FAULTS"] = request["faults"]
    main(request["arguments"])
    return 0


def get_ready() -> None:
    """Import everything, and plan with one speed: what two runs are to do must not differ if they are compared."""
    import torch

    import fabula.cli.main
    import fabula.cli.recipes
    import fabula.pipeline
    from fabula.train import speed

    torch.set_num_threads(1)
    speed._SECONDS = (0.0, 0.02)
    measure = speed.measure

    def measured(*arguments: Any, **named: Any) -> speed.Speed:
        found = measure(*arguments, **named)
        return replace(found, step=0.1, evaluation_row=0.01, sampled_token=0.001, save=0.05)

    speed.measure = measured
    with tempfile.TemporaryDirectory() as folder:
        # A whole run, so that what is imported late is there before the first fork.
        fabula.pipeline.run(tiny.write_recipe(Path(folder)), {"train.budget": "2steps"}, runs=folder)


if __name__ == "__main__":
    get_ready()
    serve(become)
