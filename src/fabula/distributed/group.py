"""What do processes that train one model tell each other? Sums, plain data as JSON, and gradients; never pickle.

`Group` is its own single-process twin: everything in it is true of one process alone. `Processes` says the same through
torch.distributed: gloo for what is small or lies in memory, NCCL for what lies on a graphics card.

Every exchange is waited for in slices, and between two of them `Life` is asked whether the others can still come.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fabula.distributed.launch import Launch
from fabula.distributed.life import Life
from fabula.errors import FabulaError, InputError, LostError, MachineError, Stopped
from fabula.progress import StopFlag

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# Seconds between two looks at the others while this process waits for them.
_LOOK = 0.5
# How long the exchanges of small things may take for torch: as long as the others are alive, which we look after.
_ENDLESS = timedelta(days=30)
# Numbers that are added up at once: 32 MB, so that gradients are not copied whole.
_BUCKET = 8 * 1024 * 1024


class Group:
    """One process."""

    rank, world, threads = 0, 1, 0
    machines = 1

    @property
    def leads(self) -> bool:
        """Whether this process prints, writes and decides."""
        return self.rank == 0

    def at(self, step: int) -> None:
        """A step begins, to which the others come as well: who does not in time hangs."""

    def busy(self, doing: str) -> None:
        """This process begins work that the others do not share; they wait until the next exchange."""

    def sum(self, values: Sequence[float], doing: str) -> list[float]:
        """The sums over all processes, in float64."""
        return list(values)

    def share(self, data: Any, doing: str) -> Any:
        """The first process's data, in all of them."""
        return data

    def gather(self, data: Any, doing: str) -> list[Any]:
        """Everybody's data, by rank."""
        return [data]

    def gather_tensor(self, tensor: Tensor, doing: str) -> list[Tensor]:
        """Everybody's tensor, by rank; all of one shape."""
        return [tensor]

    def add(self, tensors: Sequence[Tensor], doing: str) -> None:
        """Replace tensors by their sums over all processes."""

    def lead(self, work: Callable[[], T], doing: str) -> T | None:
        """Let the first process do something, for which the others wait and return None; Stopped is raised in all."""
        return work()

    def leave(self, error: BaseException | None = None) -> None:
        """The end: of an error the others hear."""


ALONE = Group()


class Processes(Group):
    """This process and the others that a launcher has started."""

    def __init__(self, launch: Launch, timeout: float, device: str, stop: StopFlag) -> None:
        import torch
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore

        self.rank, self.world, self.threads = launch.rank, launch.world, launch.threads
        self.machines = max(1, round(launch.world / launch.local_world))
        self.launch, self._dist, self._torch = launch, dist, torch
        if not dist.is_available():
            raise MachineError("this build of torch has no torch.distributed: it trains in one process only")
        if launch.one_machine:
            _stay_on_this_machine()
        self._kept = None if launch.hosted or not launch.leads else _host(launch)
        prefix = f"fabula/{launch.attempt}"

        def connect() -> Any:
            store = _store(launch, False, timeout=timedelta(seconds=timeout))
            return PrefixStore(prefix, store)

        try:
            self._life = Life(connect, launch.rank, launch.world, timeout, stop)
        except (RuntimeError, OSError) as error:
            told = str(error).strip().splitlines()[0][:160]
            raise LostError(
                f"rank {self.rank}: nobody answers at {launch.address}:{launch.port} ({told}); was rank 0 started?"
            ) from None
        try:
            self._life.meet()
            card = device == "cuda" or (device == "auto" and torch.cuda.is_available())
            if card:
                torch.cuda.set_device(launch.local_rank)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if card else "gloo",
                store=PrefixStore("group", connect()),
                rank=launch.rank,
                world_size=launch.world,
                timeout=timedelta(seconds=timeout),
            )
            self._small = dist.new_group(backend="gloo", timeout=_ENDLESS)
        except FabulaError as error:
            self._life.end(error)
            raise
        except (RuntimeError, ValueError) as error:
            found = self._life.lost(error)
            self._life.end(found)
            raise found from None

    def at(self, step: int) -> None:
        self._life.step, self._life.doing, self._life.busy = step, "computing", False

    def busy(self, doing: str) -> None:
        self._life.doing, self._life.busy = doing, True

    def sum(self, values: Sequence[float], doing: str) -> list[float]:
        numbers = self._torch.tensor(values, dtype=self._torch.float64)
        self._wait(lambda: self._dist.all_reduce(numbers, group=self._small, async_op=True), doing)
        return cast("list[float]", numbers.tolist())

    def share(self, data: Any, doing: str) -> Any:
        said = self._bytes(data) if self.leads else self._torch.empty(0, dtype=self._torch.uint8)
        size = int(self.sum([len(said)], doing)[0])
        if not self.leads:
            said = self._torch.empty(size, dtype=self._torch.uint8)
        self._wait(lambda: self._dist.broadcast(said, 0, group=self._small, async_op=True), doing)
        return json.loads(bytes(said.numpy()))

    def gather(self, data: Any, doing: str) -> list[Any]:
        own = self._bytes(data)
        sizes = [int(n) for n in self.sum([len(own) * (r == self.rank) for r in range(self.world)], doing)]
        padded = self._torch.zeros(max(sizes), dtype=self._torch.uint8)
        padded[: len(own)] = own
        found = self.gather_tensor(padded, doing)
        return [json.loads(bytes(said[:size].numpy())) for said, size in zip(found, sizes, strict=True)]

    def gather_tensor(self, tensor: Tensor, doing: str) -> list[Tensor]:
        found = [self._torch.empty_like(tensor) for _ in range(self.world)]
        self._wait(lambda: self._dist.all_gather(found, tensor, group=self._small, async_op=True), doing)
        return found

    def add(self, tensors: Sequence[Tensor], doing: str) -> None:
        for bucket in _buckets(tensors):
            flat = self._torch.cat([tensor.reshape(-1) for tensor in bucket])
            if flat.device.type not in ("cpu", "cuda"):
                flat = flat.cpu()  # gloo and NCCL know no other place
            self._wait(functools.partial(self._dist.all_reduce, flat, async_op=True), doing)
            for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def lead(self, work: Callable[[], T], doing: str) -> T | None:
        if not self.leads:
            stopped = self.share(None, doing)
            if stopped:
                found = Stopped(stopped[0], stopped[1] - 128)
                found.told = True
                raise found
            return None
        self.busy(doing)
        try:
            result = work()
        except Stopped as error:
            self.share([str(error), error.exit_code], doing)
            raise
        self.share(None, doing)
        return result

    def leave(self, error: BaseException | None = None) -> None:
        self._life.end(error)
        # After an error an exchange may still hang in torch, which would be waited for: the end of the process ends it.
        if error is None and self._dist.is_initialized():
            self._dist.destroy_process_group()

    def _bytes(self, data: Any) -> Tensor:
        said = bytearray(json.dumps(data, ensure_ascii=False, default=str).encode())
        return self._torch.frombuffer(said, dtype=self._torch.uint8)

    def _wait(self, start: Callable[[], Any], doing: str) -> None:
        """Begin an exchange and wait for it, for as long as the others can still come."""
        life = self._life
        life.doing, life.busy = doing, False
        life.count += 1
        began = time.monotonic()
        try:
            work = start()
        except RuntimeError as error:
            raise life.lost(error) from None
        while True:
            slice_began = time.monotonic()
            try:
                work.wait(timedelta(seconds=_LOOK))
                return
            except RuntimeError as error:
                # What is not the end of a slice is that of a connection.
                if work.is_completed() or time.monotonic() - slice_began < 0.5 * _LOOK:
                    raise life.lost(error) from None
            life.look(time.monotonic() - began)


@contextlib.contextmanager
def joined(launch: Launch | None, timeout: float, device: str, stop: StopFlag) -> Iterator[Group]:
    """The group of the processes that a launcher has started; alone without one. However it ends, the others hear."""
    if launch is None:
        yield ALONE
        return
    group = Processes(launch, timeout, device, stop)
    try:
        yield group
    except BaseException as error:
        group.leave(error)
        raise
    group.leave()


def same(group: Group, facts: dict[str, Any], what: str) -> None:
    """InputError in every process, naming ranks and values, unless all of them have the same facts."""
    everybody = group.gather(facts, f"comparing {what}")
    first = everybody[0]
    wrong = []
    for rank, theirs in enumerate(everybody[1:], start=1):
        for name in [*first, *(n for n in theirs if n not in first)]:
            if first.get(name) != theirs.get(name):
                wrong.append(f"{name} is {theirs.get(name)} in rank {rank}, {first.get(name)} in rank 0")
    if wrong:
        more = f"; and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        error = InputError(f"the processes of this run differ in {what}: {'; '.join(wrong[:6])}{more}")
        error.told = not group.leads
        group.sum([0.0], f"comparing {what}")  # all have seen it before the first one leaves
        raise error


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors in their order, as many together as are added up at once."""
    made: list[list[Tensor]] = []
    size = _BUCKET
    for tensor in tensors:
        if size + tensor.numel() > _BUCKET or tensor.dtype != made[-1][0].dtype:
            made.append([])
            size = 0
        made[-1].append(tensor)
        size += tensor.numel()
    return made


def _host(launch: Launch) -> Any:
    """The store, where no launcher keeps it: heard on the loopback alone when all processes are on this machine."""
    family = socket.AF_INET6 if ":" in launch.address else socket.AF_INET
    here = launch.address if launch.one_machine else ""
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((here, launch.port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise MachineError(
            f"port {launch.port} of {launch.address}: {error.strerror or error}; choose another MASTER_PORT, or let "
            "torchrun choose"
        ) from None
    return _store(launch, True, master_listen_fd=listening.detach())


def _store(launch: Launch, keeps: bool, **more: Any) -> Any:
    """A connection to the store, or the store itself."""
    import torch.distributed as dist

    made: Any = dist.TCPStore  # type: ignore[attr-defined]  # it is public, and not exported
    return made(launch.address, launch.port, launch.world, keeps, wait_for_workers=False, **more)


def _stay_on_this_machine() -> None:
    """Let gloo and NCCL listen on the loopback: they have no other switch for it than variables of the process."""
    names = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") else []
    loopback = next((name for name in ("lo", "lo0") if name in names), None)
    if loopback is not None and sys.platform != "win32":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
