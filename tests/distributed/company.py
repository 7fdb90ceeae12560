"""Several processes of one run, as forks that torchrun might have started: each with its rank in its environment.

with CompanyServer() as server:
    company = Company(server, tmp_path, world=2)
    company.run("train", "tiny.toml")
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.faults.forks import Fork, serve
from tests.faults.forkserver import ForkServer, become, get_ready


class CompanyServer(ForkServer):
    """The process that forks; what torch needs for several processes is imported as well."""

    module = __name__

    def __init__(self) -> None:
        # A store lives as long as what it is for, whoever looks at that.
        self.stores: list[Any] = []


class Company:
    """`world` processes in one folder; the store in which they meet is kept here, as torchrun keeps it."""

    def __init__(self, server: CompanyServer, folder: Path, world: int = 2) -> None:
        self.server, self.folder, self.world = server, folder, world

    def start(
        self,
        *arguments: object,
        faults: Mapping[int, str] | None = None,
        more: Mapping[int, tuple[str, ...]] | None = None,
        hosted: bool = True,
    ) -> list[Fork]:
        """Start all of them; `faults` and `more` arguments by rank."""
        import torch.distributed as dist

        # A store of its own for every start, as after a restart; not `hosted`: rank 0 keeps it, at a port that is free.
        if hosted:
            self.server.stores.append(dist.TCPStore("127.0.0.1", 0, self.world, True, wait_for_workers=False))
        port = self.server.stores[-1].port if hosted else free_port()
        return [
            self.server.start(
                *arguments,
                *(more or {}).get(rank, ()),
                cwd=self.folder,
                faults=(faults or {}).get(rank, ""),
                env={
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(self.world),
                    "LOCAL_WORLD_SIZE": str(self.world),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "TORCHELASTIC_USE_AGENT_STORE": str(hosted),
                },
            )
            for rank in range(self.world)
        ]

    def run(self, *arguments: object, timeout: float = 60, **named: Any) -> list[Fork]:
        """The same, waited for; all must end well."""
        processes = self.start(*arguments, **named)
        for process in processes:
            assert process.wait(timeout) == 0, told(processes)
        return processes


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def told(processes: list[Fork]) -> str:
    """What all of them said."""
    return "\n".join(f"rank {rank} ({p.poll()}): {p.output[-1500:]}" for rank, p in enumerate(processes))


if __name__ == "__main__":
    get_ready()
    serve(become)
