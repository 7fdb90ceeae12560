"""The loop: accumulate, clip, step, tell the callbacks. It knows objectives and callbacks, no model class and no file.

Where several processes train together, a `Spread` says which rows are this one's, adds up what all have computed and
brings them to the same decisions; alone it does nothing.

The number of steps is fixed before the first one; the schedule's horizon is that number. All sums are divided once, by
the number of predictions of the whole step, so that accumulation changes nothing but memory.

A step whose loss or gradient is not finite is not applied: weights and optimizer stay as they are, the counters and the
data move on. When memory runs out the rows computed at once are halved and the same step is taken again from where
it began, so the batch, the order of the data and the schedule are what they would have been.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fabula import faults
from fabula.config import Data
from fabula.data.batch import Batch
from fabula.data.pairs import PairBatch
from fabula.device import Device, free_memory_bytes, generators, is_out_of_memory, release_memory, set_generators
from fabula.distributed.spread import Spread, spread_as, whole
from fabula.errors import DamagedError, MachineError, Stopped
from fabula.progress import StopFlag
from fabula.train.clipping import clip_gradients
from fabula.train.objective import Objective
from fabula.train.precision import check_masters
from fabula.train.scaling import LossScale
from fabula.train.schedules import ScheduleConfig
from fabula.train.spikes import Spikes

# Gradients that are named when a step is not applied.
_NAMED = 20
# What a callback's tensors are named after in a checkpoint, before the name of its class.
_OF_A_CALLBACK = "callback."


class BatchSource(Protocol):
    """Where batches come from: an endless stream from a position, in rows; `waiting` is called while there is none."""

    def stream(self, position: int, rows: int, waiting: Callable[[], None]) -> Generator[Any]: ...


@runtime_checkable
class Estimating(Protocol):
    """An optimizer that now and then wants to see the gradient towards targets that the model draws (see `Sophia`)."""

    def wants_estimate(self) -> bool: ...

    def estimate(self, count: int) -> None: ...


@runtime_checkable
class Dealing(Protocol):
    """An optimizer whose work several processes may share out (see `Muon`)."""

    deal: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


@dataclass(frozen=True, slots=True)
class Unapplied:
    """Why a step was not applied, and on which rows. Norms are of the gradients before clipping."""

    reason: str
    first_row: int  # rows of the run, as the loader counts them
    rows: int
    in_row: int  # steps that were not finite in a row, this one included; 0 for a spike
    gradients: dict[str, float]  # the norms that are not finite, at most twenty
    bad_gradients: int
    bad_weights: int  # parameters that hold NaN or infinity


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one step did. `loss` is nats per token, NaN where nothing was predicted; `seconds` counts training."""

    step: int  # steps done, this one included
    tokens: int
    seconds: float
    loss: float
    lr: float  # multiplier of the peak rates
    grad_norm: float
    step_seconds: float
    unapplied: Unapplied | None = None


class Callback:
    """Hooks; each does nothing unless overridden."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this process."""

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        """After every step."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step of the run (not when it is stopped early)."""

    def on_stop(self, trainer: Trainer) -> None:
        """When a signal asked the run to stop."""

    def state(self) -> Data:
        """What of it belongs into a checkpoint, under the name of the class."""
        return {}

    def restore(self, state: Data) -> None:
        """Continue from what `state` returned."""

    def tensors(self) -> dict[str, Tensor]:
        """What of it belongs into a checkpoint as tensors, by any names of its own."""
        return {}

    def restore_tensors(self, trainer: Trainer, tensors: dict[str, Tensor]) -> None:
        """Continue from what `tensors` returned; weights and `restore` come before."""


class Trainer:
    """Fits a model for a fixed number of steps."""

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: Objective,
        optimizers: Sequence[Optimizer],
        schedule: ScheduleConfig,
        source: BatchSource,
        steps: int,
        batch_rows: int,
        micro_rows: int,
        clip: float,
        device: Device,
        stop: StopFlag,
        callbacks: Sequence[Callback] = (),
        skip_spikes: float = 0.0,
        note: Callable[[str], None] | None = None,
        spread: Spread | None = None,
    ) -> None:
        self.spread = spread or Spread()
        self.spread.check(batch_rows)
        self.model, self.objective, self.optimizers, self.schedule = model, objective, list(optimizers), schedule
        self.source, self.steps, self.batch_rows, self.micro_rows = source, steps, batch_rows, micro_rows
        self.clip, self.device, self.stop, self.callbacks = clip, device, stop, list(callbacks)
        self.note = note or (lambda message: None)
        self.spikes = Spikes(skip_spikes)
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.unapplied_in_row = 0
        for optimizer in self.optimizers:
            if isinstance(optimizer, Dealing):
                optimizer.deal = self.spread.work_through
        self._peaks = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        check_masters((n, p) for n, p in model.named_parameters() if p.requires_grad)
        self.scale = LossScale(device.dtype)

    @property
    def position(self) -> int:
        """Rows consumed since the start of the run."""
        return self.step * self.batch_rows

    @property
    def at_once(self) -> int:
        """Rows that this process computes at once, at most."""
        return min(self.micro_rows, self.spread.largest(self.batch_rows))

    def readable(self) -> nn.Module:
        """The model as whoever scores, samples or saves it wants it: whole. Every process must ask."""
        return self.spread.whole(self.model)

    def fit(self) -> None:
        """Train from the current step to the last one; Stopped when a signal came, after the callbacks were told."""
        group = self.spread.group
        self.spread.meet("beginning")
        try:
            for callback in self.callbacks:
                group.busy(type(callback).__name__.lower())
                callback.on_start(self)
            faults.point("train.started")
            batches = self.source.stream(self.position, self.batch_rows, self._waiting)
            # Closed whatever happens: an error that somebody keeps would keep the thread that reads ahead.
            with contextlib.closing(batches):
                while self.step < self.steps:
                    self.spread.check_stop(self.stop, "training")
                    self.spread.forget()
                    group.at(self.step + 1)
                    faults.point("train.waiting")
                    record = self.take_step(next(batches))
                    faults.point("train.step")
                    self._tell(record)
            faults.point("train.finished")
            self.spread.check_stop(self.stop, "training")
        except Stopped:
            for callback in self.callbacks:
                group.busy(type(callback).__name__.lower())
                callback.on_stop(self)
            raise
        for callback in self.callbacks:
            group.busy(type(callback).__name__.lower())
            callback.on_end(self)

    def _waiting(self) -> None:
        """While there is no batch: one process alone may stop here, of several none may before the others."""
        if self.spread.group.world == 1:
            self.stop.check("training")

    def _tell(self, record: StepRecord) -> None:
        """Let the callbacks do their work after a step."""
        for callback in self.callbacks:
            self.spread.group.busy(type(callback).__name__.lower())
            try:
                callback.on_step(self, record)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                doing = type(callback).__name__.lower()
                raise self._too_little(f"after step {record.step}: out of memory ({doing})", error) from error

    def take_step(self, batch: Batch | PairBatch) -> StepRecord:
        """One optimizer step on one batch."""
        started = time.perf_counter()
        self.spread.begin(self.step + 1)
        multiplier = self.schedule.multiplier(self.step, self.steps)
        for optimizer, peaks in zip(self.optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * multiplier
        self.model.train()
        count = batch.n_targets
        total = self._gradients(batch, count)
        norm = clip_gradients(self._parameters, self.clip)
        # A mean over nothing is no loss of 0, which would look like the best step of the run.
        loss = total / count if count else math.nan
        unapplied = self._judge(loss, norm, count)
        if count:
            self.scale.follow(norm)
        if unapplied is None:
            self._estimate(batch, count)
            self._move()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += count
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        return StepRecord(
            step=self.step,
            tokens=self.tokens,
            seconds=self.seconds,
            loss=loss,
            lr=multiplier,
            grad_norm=norm,
            step_seconds=elapsed,
            unapplied=unapplied,
        )

    def _gradients(self, batch: Batch | PairBatch, count: int, chances: Tensor | None = None) -> float:
        """Accumulate the gradient of the mean over a batch's `count` predictions; returns the sum of nats.

        With `chances` it is the gradient towards targets that the model draws by them. When memory runs out it begins
        again with half the rows at once, from the same state of the generators.
        """
        before = generators(self.device)
        while True:
            told, total = "", 0.0
            try:
                total = self._accumulate(batch, count, chances)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.spread.in_step:
                    raise self._too_little(
                        f"step {self.step + 1}: out of memory with {self.at_once} rows at once, where no process can "
                        "take its step again alone (a smaller --train.micro_rows needs less)",
                        error,
                    ) from error
                told = _first_line(error)
            found = self.spread.gather(total, bool(told), self._parameters, self.stop)
            if not found.out_of_memory:
                self.scale.down(self._parameters)
                return found.nats
            # Outside of the handler, whose traceback would keep the tensors of the failed attempt alive.
            for parameter in self._parameters:
                parameter.grad = None
            release_memory(self.device)
            set_generators(self.device, before)
            self._fewer_rows(told or "in another process")

    def _accumulate(self, batch: Batch | PairBatch, count: int, chances: Tensor | None) -> float:
        total = 0.0
        if not count:
            return total
        for cut in self.spread.cuts(self.batch_rows, self.at_once):
            part = batch.rows(cut.start, cut.stop)
            if part.n_targets == 0 and not self.spread.in_step:
                # Nothing is predicted in these rows: they add nothing, and no mean over nothing.
                continue
            self.spread.before_backward(self.model, cut.last)
            with self.device.autocast():
                if chances is None:
                    loss = self.objective(self.model, part.to(self.device))
                else:
                    length = part.targets.shape[1]
                    own = chances[cut.start : cut.stop, :length].to(self.device.torch)
                    loss = self.objective.drawn(self.model, part.to(self.device), own)
            minimised = loss.total if loss.extra is None else loss.total + loss.extra
            (self.scale.up(minimised / count) if cut.counted else 0 * minimised).backward()
            total += loss.total.item() if cut.counted else 0.0
        return total

    def _estimate(self, batch: Batch | PairBatch, count: int) -> None:
        """Show the optimizers that ask for it the gradient towards drawn targets, on the rows of the present step.

        The usual gradient is put aside meanwhile. An estimate that is not finite is left out.
        """
        asking = [o for o in self.optimizers if isinstance(o, Estimating) and o.wants_estimate()]
        if not asking:
            return
        kept = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        self._gradients(batch, count, self._chances(batch))
        if math.isfinite(clip_gradients(self._parameters, 0.0)):
            for optimizer in asking:
                optimizer.estimate(count)
        for parameter, gradient in zip(self._parameters, kept, strict=True):
            parameter.grad = gradient

    def _chances(self, batch: Batch | PairBatch) -> Tensor:
        """A number for each target, from its row's number in the run alone: what is drawn by them is the same however
        the rows are cut, and in a run that was resumed."""
        rows, length = batch.targets.shape
        generators = (torch.Generator().manual_seed(self.position + row) for row in range(rows))
        return torch.stack([torch.rand(length, generator=generator) for generator in generators])

    def _move(self) -> None:
        """Let the optimizers move the weights. When memory runs out there is no way back: a part of them has moved."""
        try:
            for optimizer in self.optimizers:
                optimizer.step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise self._too_little(
                f"step {self.step + 1}: out of memory while the optimizer moved the weights", error
            ) from error

    def _too_little(self, what: str, error: BaseException) -> MachineError:
        """The error to raise where fewer rows at once would not help."""
        free = free_memory_bytes(self.device)
        size = sum(p.numel() * p.element_size() for p in self._parameters)
        held = sum(
            t.nbytes for o in self.optimizers for s in o.state.values() for t in s.values() if torch.is_tensor(t)
        )
        return MachineError(
            f"{what} ({_first_line(error)}). {free / 1e9:.2f} GB are free; weights and gradients alone take "
            f"{2 * size / 1e9:.2f} GB, the optimizer holds {held / 1e9:.2f} GB. The state in memory is given up; what "
            "is saved is whole, and `fabula resume` goes on from there when there is more memory"
        )

    def _fewer_rows(self, told: str) -> None:
        """Halve the rows computed at once; MachineError with the numbers when there is but one."""
        free = free_memory_bytes(self.device)
        if self.at_once == 1:
            size = sum(p.numel() * p.element_size() for p in self._parameters)
            raise MachineError(
                f"step {self.step + 1}: out of memory with a single row at once ({told}). "
                f"{free / 1e9:.2f} GB are free; weights and gradients alone take {2 * size / 1e9:.2f} GB. Use "
                "--train.recompute true, a smaller --model.context_length or a smaller model; what is saved is whole"
            )
        before = self.at_once
        self.micro_rows = max(1, before // 2)
        self.note(
            f"step {self.step + 1}: out of memory with {before} rows at once ({free / 1e9:.2f} GB free); going on with "
            f"{self.micro_rows}: the batch of {self.batch_rows} rows, its samples and the schedule stay as they were"
        )

    def _judge(self, loss: float, norm: float, count: int) -> Unapplied | None:
        """Whether a step is to be applied, by its loss and the norm of its gradient; why not, otherwise."""
        if not count:
            return Unapplied("none of its rows has anything to predict", self.position, self.batch_rows, 0, {}, 0, 0)
        if math.isfinite(loss) and math.isfinite(norm):
            self.unapplied_in_row = 0
            spike = self.spikes.judge(loss, norm)
            return None if spike is None else Unapplied(spike, self.position, self.batch_rows, 0, {}, 0, 0)
        if self.scale.blames(loss, norm):
            # Ordinary in float16: the scale is found by going too far. With a scale of 1 it counts like any other.
            told = f"a gradient is beyond float16 with the loss scaled by {self.scale.value:,.0f}, which is halved"
            return Unapplied(told, self.position, self.batch_rows, 0, {}, 0, 0)
        self.unapplied_in_row += 1
        norms = {n: float(whole(p.grad).norm()) for n, p in self.model.named_parameters() if p.grad is not None}
        bad = {name: value for name, value in norms.items() if not math.isfinite(value)}
        weights = sum(not bool(whole(p.detach()).isfinite().all()) for p in self._parameters)
        which = "the loss" if not math.isfinite(loss) else "the norm of the gradient"
        return Unapplied(
            f"{which} is not finite (loss {loss:.4g}, norm {norm:.4g})",
            self.position,
            self.batch_rows,
            self.unapplied_in_row,
            dict(list(bad.items())[:_NAMED]),
            len(bad),
            weights,
        )

    def state(self) -> tuple[Data, dict[str, Tensor]]:
        """All that a resumed run needs besides the weights: counters and generators, and the optimizers' tensors.

        Every process must ask; the first one's answer is whole.
        """
        names = {id(p): n for n, p in self.model.named_parameters()}
        tensors: dict[str, Tensor] = {"rng.torch": torch.get_rng_state()}
        if self.device.name == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        group = self.spread.group
        if self.spread.own_generators():
            for kind in ("rng.torch", "rng.cuda"):
                for rank, drawn in enumerate(group.gather_tensor(tensors[kind], "saving") if kind in tensors else []):
                    tensors[f"{kind}.{rank}" if rank else kind] = drawn

        def keep(name: str, value: Tensor) -> None:
            """Those of a spread model are gathered one by one, and are whole in the first process alone."""
            entire = whole(value)
            if group.leads:
                tensors[name] = entire.cpu() if self.spread.in_step else entire

        for index, optimizer in enumerate(self.optimizers):
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    keep(f"{index}.{names[id(parameter)]}.{key}", torch.as_tensor(value))
        for callback in self.callbacks:
            for name, value in callback.tensors().items():
                keep(f"{_OF_A_CALLBACK}{type(callback).__name__}.{name}", value)
        kind, keys, place, has_gauss, gauss = np.random.get_state()
        version, internal, following = random.getstate()
        data: Data = {
            "step": self.step,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "position": self.position,
            "micro_rows": self.micro_rows,
            "unapplied_in_row": self.unapplied_in_row,
            "spikes": self.spikes.state(),
            "scale": self.scale.state(),
            "callbacks": {type(c).__name__: state for c in self.callbacks if (state := c.state())},
            "rng": {
                "python": [version, list(internal), following],
                "numpy": [kind, [int(k) for k in keys], place, has_gauss, gauss],
            },
            "threads": self.device.threads,
            "processes": group.world,
        }
        return data, tensors

    def restore(self, data: Data, tensors: dict[str, Tensor]) -> None:
        """Continue from what `state` returned; the weights are restored by whoever loads them."""
        self.step, self.tokens, self.seconds = int(data["step"]), int(data["tokens"]), float(data["seconds"])
        self.micro_rows = min(self.micro_rows, int(data["micro_rows"]))
        self.unapplied_in_row = int(data["unapplied_in_row"])
        self.spikes.restore(data["spikes"])
        self.scale.restore(data.get("scale", {}))
        for callback in self.callbacks:
            callback.restore(data["callbacks"].get(type(callback).__name__, {}))
        names = dict(self.model.named_parameters())
        # Fused optimizers count their steps where the parameters are, the others on the CPU.
        fused = {id(p) for o in self.optimizers for g in o.param_groups if g.get("fused") for p in g["params"]}
        for key, value in tensors.items():
            if key.startswith(("rng.", _OF_A_CALLBACK)):
                continue
            index, _, rest = key.partition(".")
            name, _, field = rest.rpartition(".")
            if name not in names or not int(index) < len(self.optimizers):
                raise DamagedError(f"the optimizer's state names {name}, which this model does not have")
            parameter = names[name]
            scalar = value.ndim == 0 and id(parameter) not in fused
            held = value if scalar else spread_as(parameter, value.to(parameter.device))
            self.optimizers[int(index)].state[parameter][field] = held
        for callback in self.callbacks:
            owner = f"{_OF_A_CALLBACK}{type(callback).__name__}."
            own = {key.removeprefix(owner): value for key, value in tensors.items() if key.startswith(owner)}
            callback.restore_tensors(self, own)
        # Of as many processes as before each goes on with its own generator, of others only the first does.
        rank = self.spread.group.rank if self.spread.own_generators() else 0
        ours = f".{rank}" if rank else ""
        if not rank or (data.get("processes") == self.spread.group.world and f"rng.torch{ours}" in tensors):
            torch.set_rng_state(tensors[f"rng.torch{ours}"])
            if f"rng.cuda{ours}" in tensors and self.device.name == "cuda":
                torch.cuda.set_rng_state(tensors[f"rng.cuda{ours}"])
        else:
            torch.manual_seed(self.step * self.spread.group.world + rank)
        version, internal, following = data["rng"]["python"]
        random.setstate((version, tuple(internal), following))
        kind, keys, place, has_gauss, gauss = data["rng"]["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), place, has_gauss, gauss))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
