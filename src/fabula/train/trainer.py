"""The loop: accumulate, clip, step, tell the callbacks. It knows objectives and callbacks, no model class and no file.

The number of steps is fixed before the first one; the schedule's horizon is that number. All sums are divided once, by
the number of predictions of the whole step, so that accumulation changes nothing but memory.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fabula.config import Data
from fabula.data.batch import Batch
from fabula.device import Device
from fabula.errors import DamagedError, FabulaError
from fabula.progress import StopFlag
from fabula.train.objective import Objective
from fabula.train.schedules import ScheduleConfig


class BatchSource(Protocol):
    """Where batches come from: an endless stream from a position, in rows."""

    def stream(self, position: int, rows: int) -> Iterator[Batch]: ...


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one step did. `loss` is nats per token; `seconds` counts training since the start of the run."""

    step: int  # steps done, this one included
    tokens: int
    seconds: float
    loss: float
    lr: float  # multiplier of the peak rates
    grad_norm: float
    step_seconds: float


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
    ) -> None:
        self.model, self.objective, self.optimizers, self.schedule = model, objective, list(optimizers), schedule
        self.source, self.steps, self.batch_rows, self.micro_rows = source, steps, batch_rows, micro_rows
        self.clip, self.device, self.stop, self.callbacks = clip, device, stop, list(callbacks)
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self._peaks = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    @property
    def position(self) -> int:
        """Rows consumed since the start of the run."""
        return self.step * self.batch_rows

    def fit(self) -> None:
        """Train from the current step to the last one."""
        for callback in self.callbacks:
            callback.on_start(self)
        batches = self.source.stream(self.position, self.batch_rows)
        while self.step < self.steps:
            if self.stop:
                for callback in self.callbacks:
                    callback.on_stop(self)
                self.stop.check("training")
            record = self.take_step(next(batches))
            for callback in self.callbacks:
                callback.on_step(self, record)
        for callback in self.callbacks:
            callback.on_end(self)

    def take_step(self, batch: Batch) -> StepRecord:
        """One optimizer step on one batch."""
        started = time.perf_counter()
        multiplier = self.schedule.multiplier(self.step, self.steps)
        for optimizer, peaks in zip(self.optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * multiplier
        self.model.train()
        total = 0.0
        for start in range(0, self.batch_rows, self.micro_rows):
            part = batch.rows(start, min(start + self.micro_rows, self.batch_rows)).to(self.device)
            with self.device.autocast():
                loss = self.objective(self.model, part)
            (loss.total / batch.n_targets).backward()
            total += loss.total.item()
        norm = clip_gradients(self._parameters, self.clip)
        if not np.isfinite(total) or not np.isfinite(norm):
            raise FabulaError(
                f"step {self.step + 1}: the loss or its gradient is not finite (loss {total / batch.n_targets:.4g}, "
                f"gradient norm {norm:.4g}); the step was not applied. Lower the learning rate and resume"
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += batch.n_targets
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        return StepRecord(
            step=self.step,
            tokens=self.tokens,
            seconds=self.seconds,
            loss=total / batch.n_targets,
            lr=multiplier,
            grad_norm=norm,
            step_seconds=elapsed,
        )

    def state(self) -> tuple[Data, dict[str, Tensor]]:
        """All that a resumed run needs besides the weights: counters and generators, and the optimizers' tensors."""
        names = {id(p): n for n, p in self.model.named_parameters()}
        tensors: dict[str, Tensor] = {"rng.torch": torch.get_rng_state()}
        if self.device.name == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        for index, optimizer in enumerate(self.optimizers):
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    tensors[f"{index}.{names[id(parameter)]}.{key}"] = torch.as_tensor(value)
        kind, keys, place, has_gauss, gauss = np.random.get_state()
        version, internal, following = random.getstate()
        data: Data = {
            "step": self.step,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "position": self.position,
            "rng": {
                "python": [version, list(internal), following],
                "numpy": [kind, [int(k) for k in keys], place, has_gauss, gauss],
            },
            "threads": self.device.threads,
        }
        return data, tensors

    def restore(self, data: Data, tensors: dict[str, Tensor]) -> None:
        """Continue from what `state` returned; the weights are restored by whoever loads them."""
        self.step, self.tokens, self.seconds = data["step"], data["tokens"], data["seconds"]
        names = dict(self.model.named_parameters())
        for key, value in tensors.items():
            if key.startswith("rng."):
                continue
            index, _, rest = key.partition(".")
            name, _, field = rest.rpartition(".")
            if name not in names or not int(index) < len(self.optimizers):
                raise DamagedError(f"the optimizer's state names {name}, which this model does not have")
            parameter = names[name]
            scalar = value.ndim == 0
            held = value if scalar else value.to(parameter.device)
            self.optimizers[int(index)].state[parameter][field] = held
        torch.set_rng_state(tensors["rng.torch"])
        if "rng.cuda" in tensors and self.device.name == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        version, internal, following = data["rng"]["python"]
        random.setstate((version, tuple(internal), following))
        kind, keys, place, has_gauss, gauss = data["rng"]["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), place, has_gauss, gauss))


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> float:
    """Scale the gradients so that their joint norm is at most `most` (0: leave them); returns the norm before."""
    gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if most > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return float(norm)
