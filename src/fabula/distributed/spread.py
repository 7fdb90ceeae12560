"""How does a model lie over the processes that train it? Applied to a finished model from outside.

    ddp      every process has the whole model and computes some of the rows
    fsdp     every process keeps a part of each weight, gathers a block when it is needed, and computes some of the rows
    tensor   every process keeps some outputs of each linear layer and computes them for all rows

In each the gradient is that of the sum over all rows of the batch, so that the number of processes changes only how
sums are rounded. What is read of the model (scores, samples, checkpoints) is read of a whole one: `whole`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from fabula.distributed.group import ALONE, Group
from fabula.errors import InputError, Stopped
from fabula.progress import StopFlag

M = TypeVar("M", bound=nn.Module)

Way = Literal["ddp", "fsdp", "tensor"]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What an attempt at a step came to over all processes."""

    nats: float
    out_of_memory: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows that are computed at once. What is not `counted` is computed to keep the other processes company."""

    start: int
    stop: int
    counted: bool
    last: bool


class Spread:
    """One process with the whole model: the twin of the others."""

    # Whether all processes must pass through the model in step, because it takes all of them to do so.
    in_step = False

    def __init__(self, group: Group = ALONE) -> None:
        self.group = group

    def fresh(self) -> Spread:
        """The same for another model."""
        return type(self)(self.group)

    def wrap(self, model: M) -> M:
        """The model, spread over the processes."""
        return model

    def check(self, rows: int) -> None:
        """InputError when a batch of so many rows cannot be shared out."""

    def share(self, rows: int) -> tuple[int, int]:
        """The rows of a batch that this process computes: from, up to."""
        return 0, rows

    def largest(self, rows: int) -> int:
        """The most rows of a batch that any process computes."""
        return rows

    def cuts(self, rows: int, at_once: int) -> Iterator[Cut]:
        """This process's rows of a batch, so many at a time."""
        first, end = self.share(rows)
        starts = range(first, end, at_once)
        for start in starts:
            yield Cut(start, min(start + at_once, end), True, start == starts[-1])

    def before_backward(self, model: nn.Module, last: bool) -> None:
        """A backward pass of an accumulated step comes; after the `last` one the gradient is wanted."""

    def meet(self, doing: str) -> None:
        """Wait until all are here, and set the clock."""

    def begin(self, step: int) -> None:
        """A step is about to be computed."""

    def gather(self, nats: float, out_of_memory: bool, parameters: Sequence[nn.Parameter], stop: StopFlag) -> Gathered:
        """Add up what all processes have computed; the gradients afterwards are those of all rows."""
        return Gathered(nats, out_of_memory)

    def now(self) -> float:
        """Seconds, by one clock for all processes."""
        return time.monotonic()

    def check_stop(self, stop: StopFlag, doing: str) -> None:
        """Stopped, in all processes at the same step, when a signal came to one of them."""
        stop.check(doing)

    def agree_to_stop(self, stop: StopFlag, doing: str) -> None:
        """The same at a place between two steps to which all processes come."""
        stop.check(doing)

    def agreed(self, decision: bool, doing: str) -> bool:
        """The first process's decision."""
        return decision

    def deal(self, parts: int) -> tuple[range, int]:
        """Which of so many parts of work this process does, and in how many turns all of them are done."""
        return range(parts), parts

    def sum(self, values: Sequence[float], doing: str) -> list[float]:
        """Sums over what the processes were dealt."""
        return list(values)

    def work_through(self, batch: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
        """What `work` makes of a batch that all processes have, of things that do not know of each other."""
        return work(batch)

    def whole(self, model: M) -> M:
        """A model to read: its weights are whole, and no other process is needed to use it."""
        return model

    def forget(self) -> None:
        """What `whole` gave is not used any more."""

    def own_generators(self) -> bool:
        """Whether each process draws its own random numbers (dropout)."""
        return False


class _Together(Spread):
    """What all ways of several processes have."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self._now, self._stop = 0.0, 0

    def meet(self, doing: str) -> None:
        self._now = self.group.sum([time.monotonic() if self.group.leads else 0.0], doing)[0]

    def begin(self, step: int) -> None:
        if self.in_step:
            # From here on torch waits for the others with its own patience, so all of them must be there.
            self.group.sum([0.0], "beginning a step")

    def gather(self, nats: float, out_of_memory: bool, parameters: Sequence[nn.Parameter], stop: StopFlag) -> Gathered:
        mine = [
            nats,
            float(out_of_memory),
            time.monotonic() if self.group.leads else 0.0,
            float(stop.signal_number == 2),
            float(stop.signal_number not in (0, 2)),
        ]
        there = [float(p.grad is not None) for p in parameters]
        found = self.group.sum(mine + there, "adding up the gradients")
        nats, memory, self._now, interrupted, terminated = found[: len(mine)]
        self._stop = 15 if terminated else 2 if interrupted else 0
        if memory:
            return Gathered(nats, True)
        self.add_gradients([p for p, n in zip(parameters, found[len(mine) :], strict=True) if n])
        return Gathered(nats, False)

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up gradients that lie in each process by itself; `parameters` have one in some process."""

    def now(self) -> float:
        return self._now

    def check_stop(self, stop: StopFlag, doing: str) -> None:
        if self._stop:
            found = Stopped(f"stopped while {doing}", self._stop)
            found.told = not self.group.leads
            raise found

    def agree_to_stop(self, stop: StopFlag, doing: str) -> None:
        number = stop.signal_number
        interrupted, terminated = self.group.sum([float(number == 2), float(number not in (0, 2))], doing)
        self._stop = 15 if terminated else 2 if interrupted else 0
        self.check_stop(stop, doing)

    def agreed(self, decision: bool, doing: str) -> bool:
        return bool(self.group.sum([float(decision and self.group.leads)], doing)[0])

    def deal(self, parts: int) -> tuple[range, int]:
        return range(self.group.rank, parts, self.group.world), -(-parts // self.group.world)

    def sum(self, values: Sequence[float], doing: str) -> list[float]:
        return self.group.sum(values, doing)

    def work_through(self, batch: Tensor, work: Callable[[Tensor], Tensor]) -> Tensor:
        if len(batch) < self.group.world:
            return work(batch)
        # Each does its own and adds nothing to those of others.
        mine = slice(self.group.rank, None, self.group.world)
        made = torch.zeros_like(batch)
        made[mine] = work(batch[mine])
        self.group.add([made], "sharing out the optimizer's work")
        return made


class _ByRows(_Together):
    """Each process computes some of the rows."""

    def check(self, rows: int) -> None:
        if rows < self.group.world:
            raise InputError(
                f"a step of {rows:,} rows cannot be shared out to {self.group.world} processes: raise "
                "--train.batch_tokens, or start fewer"
            )

    def share(self, rows: int) -> tuple[int, int]:
        # Those that come first have one more where it does not divide.
        each, more = divmod(rows, self.group.world)
        first = self.group.rank * each + min(self.group.rank, more)
        return first, first + each + (self.group.rank < more)

    def largest(self, rows: int) -> int:
        return -(-rows // self.group.world)

    def own_generators(self) -> bool:
        return True


class Replicated(_ByRows):
    """ddp: whole models, whose gradients are added up once a step, whatever was accumulated.

    torch's DistributedDataParallel hooks into `forward`, means over processes and wants the same parameters used in
    all of them; here the objective decides what is called, sums are sums, and rows may be shared out unevenly
    (decision 0024).
    """

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = parameter.new_zeros(parameter.shape)
        self.group.add([p.grad for p in parameters if p.grad is not None], "adding up the gradients")


class _Whole:
    """A model beside the spread one, whose weights are there only while they are wanted."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        self.forget()

    def fill(self, spread: nn.Module) -> None:
        """Give it the weights of the spread model; every process must take part."""
        weights = dict(spread.named_parameters())
        for name, parameter in self.model.named_parameters():
            parameter.data = whole(weights[name].detach())
        self.model.train(spread.training)

    def forget(self) -> None:
        """Give the memory back."""
        for parameter in self.model.parameters():
            parameter.data = parameter.data.new_empty(0)


class _Cutting(_Together):
    """What the ways have in which no process holds all weights."""

    in_step = True

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self._whole: _Whole | None = None

    def whole(self, model: M) -> M:
        assert self._whole is not None
        # From here on torch waits for the others with its own patience, so all of them must be there.
        self.group.sum([0.0], "gathering the weights")
        self._whole.fill(model)
        found: M = self._whole.model  # type: ignore[assignment]
        return found

    def forget(self) -> None:
        if self._whole is not None:
            self._whole.forget()


class Sharded(_Cutting, _ByRows):
    """fsdp: torch's fully_shard (FSDP2) on every block and on the rest."""

    def wrap(self, model: M) -> M:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

        self._whole = _Whole(model)
        kind = next(model.parameters()).device.type
        mesh = init_device_mesh(kind, (self.group.world,))
        for block in _blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        # What objectives call is not `forward`.
        register_fsdp_forward_method(model, "hidden")
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # Sums, not means: they are divided once, by the predictions of all rows.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        return model

    def cuts(self, rows: int, at_once: int) -> Iterator[Cut]:
        first, end = self.share(rows)
        turns = -(-self.largest(rows) // at_once)
        for turn in range(turns):
            start = first + turn * at_once
            stop = min(start + at_once, end)
            # One that has no rows left computes its first again, and counts it for nothing.
            yield Cut(start, stop, True, turn == turns - 1) if start < stop else Cut(first, first + 1, False, True)

    def before_backward(self, model: nn.Module, last: bool) -> None:
        # Until the last pass gradients add up where they are.
        model.set_requires_gradient_sync(last)  # type: ignore[operator]


class TensorParallel(_Cutting):
    """tensor: the outputs of every linear layer inside the blocks are shared out (torch's ColwiseParallel)."""

    def wrap(self, model: M) -> M:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Replicate
        from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, parallelize_module

        self._whole = _Whole(model)
        kind = next(model.parameters()).device.type
        mesh = init_device_mesh(kind, (self.group.world,))
        for block in _blocks(model):
            plan: dict[str, ParallelStyle] = {
                name: ColwiseParallel(output_layouts=Replicate())
                for name, module in block.named_modules()
                if isinstance(module, nn.Linear)
            }
            if plan:
                parallelize_module(block, mesh, plan)
        return model

    def gather(self, nats: float, out_of_memory: bool, parameters: Sequence[nn.Parameter], stop: StopFlag) -> Gathered:
        # All of them have computed all rows.
        return super().gather(nats if self.group.leads else 0.0, out_of_memory, parameters, stop)


_WAYS: dict[str, type[Spread]] = {"ddp": Replicated, "fsdp": Sharded, "tensor": TensorParallel}


def spread(way: Way, group: Group) -> Spread:
    """How models lie over a group; of one process there is one way."""
    return Spread(group) if group.world == 1 else _WAYS[way](group)


def whole(tensor: Tensor) -> Tensor:
    """A whole tensor, whether it is spread over processes or not; every process must ask."""
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def spread_as(like: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor that all processes have, spread as `like` is where its shape is the same; else whole in each."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import Replicate, distribute_tensor

    mesh: Any = like.device_mesh
    placements: Any = like.placements if tensor.shape == like.shape else [Replicate()] * mesh.ndim  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(like.device), mesh, placements, src_data_rank=None)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The layers of a model: what stands in its lists of modules, outermost ones."""
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                found.extend(child)
            else:
                look(child)

    look(model)
    return found
