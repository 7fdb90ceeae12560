"""What did a launcher say? The place of this process among those that it started, from variables as torchrun sets them.

Nothing here imports torch, and nothing reads the environment by itself: `cli` hands it in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from fabula.errors import InputError

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOOPBACK = ("localhost", "::1")


@dataclass(frozen=True, slots=True)
class Launch:
    """One of `world` processes; `local_world` of them are on this machine."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str
    port: int
    attempt: int = 0  # how often the launcher has begun again
    hosted: bool = False  # whether the launcher keeps the store at address:port; else the first process does
    threads: int = 0  # processor threads for each; 0: as OMP_NUM_THREADS says

    @property
    def leads(self) -> bool:
        """Whether this is the process that prints, writes and decides."""
        return self.rank == 0

    @property
    def one_machine(self) -> bool:
        """Whether all processes are on this machine."""
        return self.world == self.local_world

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Launch | None:
        """The place that a launcher gave to this process; None when there is none or it is alone.

        InputError when the variables are not all there, or make no sense.
        """
        if "RANK" not in environment:
            return None
        missing = [name for name in _NEEDED if not environment.get(name)]
        if missing:
            raise InputError(
                f"RANK is set, as by a launcher of several processes, but not {', '.join(missing)}; start them with "
                "torchrun --nproc-per-node N -m fabula train RECIPE, or unset RANK"
            )

        def number(name: str, otherwise: int) -> int:
            text = environment.get(name, "") or str(otherwise)
            if not text.isdigit():
                raise InputError(f'{name}="{text}" is not a number; torchrun sets it')
            return int(text)

        rank, world = number("RANK", 0), number("WORLD_SIZE", 1)
        local = environment["MASTER_ADDR"] in _LOOPBACK or environment["MASTER_ADDR"].startswith("127.")
        local_world = number("LOCAL_WORLD_SIZE", world if local else 1)
        local_rank = number("LOCAL_RANK", rank if local else 0)
        if not (rank < world and local_rank < local_world <= world):
            raise InputError(
                f"RANK={rank} of WORLD_SIZE={world}, LOCAL_RANK={local_rank} of LOCAL_WORLD_SIZE={local_world}: "
                "ranks count from 0 and stay below the size"
            )
        if world == 1:
            return None
        # torchrun says 1 where the user said nothing, which would leave most of a processor idle.
        said = environment.get("OMP_NUM_THREADS", "")
        return cls(
            rank,
            world,
            local_rank,
            local_world,
            environment["MASTER_ADDR"],
            number("MASTER_PORT", 0),
            number("TORCHELASTIC_RESTART_COUNT", 0),
            environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            0 if said not in ("", "1") else max(1, cores() // local_world),
        )


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
