"""The mean of a run's weights, kept beside them, and the two changing places.

What is scored, sampled and saved as the model is the mean, as soon as there is one; the steps go on from the weights
themselves. While the two have changed places the model holds the mean and this holds the weights, to the last bit, and
so does a checkpoint: an exact resume changes them back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fabula.config import Data
from fabula.distributed.spread import spread_as
from fabula.train.averages import AverageConfig, NoAverage
from fabula.train.trainer import Callback, StepRecord, Trainer

# How metrics and manifests call the weights.
AVERAGED, RAW = "averaged", "raw"


class Average(Callback):
    """Takes the weights of every step into a mean; first of the callbacks, so that the others find it up to date."""

    def __init__(self, config: AverageConfig | None = None) -> None:
        self.config = config or NoAverage()
        self.held = 0  # weights in the mean
        self.raw_is_better = False  # measured at the end of the run: the mean is not shown any more
        self._kept: dict[str, Tensor] = {}
        self._swapped = False

    @property
    def in_use(self) -> bool:
        """Whether there is a mean that is to be shown."""
        return bool(self._kept) and not self.raw_is_better

    @property
    def weights(self) -> str:
        """Which weights are shown."""
        return AVERAGED if self.in_use else RAW

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        share = self.config.newest(record.step, trainer.steps, self.held)
        if share > 0:
            self.take(trainer.model, share)

    def take(self, model: nn.Module, share: float) -> None:
        """Move the mean towards a model's weights by `share` of the way; the first weights are the mean."""
        with torch.no_grad():
            for name, parameter in _trained(model):
                if self.held:
                    self._kept[name].lerp_(parameter, share)
                else:
                    self._kept[name] = parameter.detach().clone()
        self.held += 1

    @contextlib.contextmanager
    def shown(self, trainer: Trainer) -> Iterator[None]:
        """Inside, the trainer's model has the mean for weights, where there is one that is to be shown."""
        if not self.in_use:
            yield
            return
        self._swap(trainer.model)
        try:
            yield
        finally:
            self._swap(trainer.model)

    def _swap(self, model: nn.Module) -> None:
        """The model's weights and what is kept change places, one tensor at a time: no third copy of the model."""
        with torch.no_grad():
            for name, parameter in _trained(model):
                between = parameter.detach().clone()
                parameter.copy_(self._kept[name])
                self._kept[name].copy_(between)
        self._swapped = not self._swapped

    def state(self) -> Data:
        if not self._kept:
            return {}
        return {"held": self.held, "raw_is_better": self.raw_is_better, "swapped": self._swapped}

    def tensors(self) -> dict[str, Tensor]:
        return self._kept

    def restore(self, state: Data) -> None:
        if state:
            self.held, self.raw_is_better = int(state["held"]), bool(state["raw_is_better"])
            self._swapped = bool(state["swapped"])

    def restore_tensors(self, trainer: Trainer, tensors: dict[str, Tensor]) -> None:
        if not self.held:
            return
        self._kept = {
            name: spread_as(parameter, tensors[name].to(parameter.device))
            for name, parameter in _trained(trainer.model)
        }
        if self._swapped:
            self._swap(trainer.model)


def with_room(config: AverageConfig, model: nn.Module) -> Average:
    """A mean that is there already if the run will keep one: for steps that are timed and whose memory is measured."""
    made = Average(config)
    if config.keeps:
        made.take(model, 1.0)
    return made


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
