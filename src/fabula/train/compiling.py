"""Is it worth compiling this run, and how is it done? `torch.compile` on the way from ids to hidden states.

Compiling takes half a minute to a minute before the first step and pays with each step after it, or never. So short
runs are not compiled, and for long ones it is tried: in a process of its own, which a signal ends at once and whose
failure ends nothing, on the run's own shapes, compiled and eager steps in turn. The run then compiles for itself, which
takes as long again: torch's caches would save that, and are pickles. What was decided stays with the plan, so that a
resumed run computes the same.

The loss stays as it is: it is products in chunks, which compiling does not make faster. Evaluation and generation,
whose shapes change from call to call, run the model as it is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fabula import faults
from fabula.companion import Companion
from fabula.config import Data
from fabula.data.batch import Batch
from fabula.data.pairs import PairBatch
from fabula.device import Device, generators, is_out_of_memory, set_generators
from fabula.errors import MachineError
from fabula.progress import StopFlag
from fabula.train.objective import CausalModel, NextToken

# Seconds that compiling and trying take, roughly: before they are known.
COST = 60.0
# The part of a run that compiling may be hoped to save: measured from nothing to a fifth (docs/log.md).
HOPED = 0.1
# A trial is worth its time where what is hoped for is so many times what it costs.
_TIMES = 2.0
# A smaller gain than this is noise.
_GAIN = 0.03
# Seconds after which a trial is given up.
_PATIENCE = 600.0

# The companion that tries it.
REHEARSAL = "fabula.train.rehearsal"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the run is compiled, the sentence that says why, and what finding out took."""

    compiled: bool
    reason: str
    step_seconds: float | None = None  # of a compiled step, measured
    seconds: float = 0.0  # that the trial took, and that compiling will take again


def compiler(device: str) -> str | None:
    """The compiler that torch.compile would use for a device; None where there is none."""
    if device == "cuda":
        return "triton" if importlib.util.find_spec("triton") is not None else None
    named = os.environ.get("CXX", "")
    return next((found for name in (named, "g++", "clang++", "cl") if name and (found := shutil.which(name))), None)


def decide(
    asked: Literal["auto", "on", "off"],
    device: Device,
    *,
    pairs: bool,
    steps: int,
    step_seconds: float,
    trial: Callable[[], Data],
) -> Decision:
    """Whether a run of so many steps is compiled. `trial()` tries it and says what it found (see `try_it`).

    MachineError when it is asked for and cannot be done.
    """
    if asked == "off":
        return Decision(False, "off: asked for")
    missing = None
    if compiler(device.name) is None:
        missing = "triton, which is not installed" if device.name == "cuda" else "a C++ compiler, and there is none"
    if asked == "on":
        if missing:
            raise MachineError(f"train.compile: it needs {missing}; use --train.compile auto")
        return _on(trial)
    run_seconds = steps * step_seconds
    hoped = HOPED * run_seconds
    if pairs:
        return Decision(False, "off: batches of pairs have many widths, each of which would be compiled")
    if device.name == "mps":
        return Decision(False, "off: torch compiles little for mps")
    if hoped < _TIMES * COST:
        return Decision(
            False,
            f"off: {run_seconds:,.0f} s of steps might become {hoped:,.0f} s less, and trying takes about {COST:.0f} s",
        )
    if missing:
        return Decision(False, f"off: it needs {missing}")
    began = time.monotonic()
    found = trial()
    took = time.monotonic() - began
    if "error" in found:
        return Decision(False, f"off: it failed ({found['error']})", seconds=took)
    eager, compiled = found["eager_seconds"], found["compiled_seconds"]
    told = f"a step takes {compiled * 1e3:,.1f} ms compiled, {eager * 1e3:,.1f} ms as it is"
    told += f"; compiling took {found['compile_seconds']:,.0f} s"
    saved = (1 - compiled / eager) * run_seconds
    if compiled > (1 - _GAIN) * eager or saved < found["compile_seconds"]:
        return Decision(False, f"off: {told}", seconds=took)
    return Decision(True, f"on: {told}", step_seconds * compiled / eager, took + found["compile_seconds"])


def _on(trial: Callable[[], Data]) -> Decision:
    began = time.monotonic()
    found = trial()
    took = time.monotonic() - began
    if "error" in found:
        raise MachineError(
            f"train.compile: the model could not be compiled ({found['error']}); use --train.compile off"
        )
    return Decision(
        True, f"on: asked for; compiling took {found['compile_seconds']:,.0f} s", None, took + found["compile_seconds"]
    )


def try_it(job: Data, stop: StopFlag, patience: float = _PATIENCE) -> Data:
    """Compile in a process of its own and time it: `eager_seconds`, `compiled_seconds` of a step, `compile_seconds`.

    `error` instead where that failed. Stopped at once when a signal came.
    """
    companion = Companion(REHEARSAL, {**job, "compile": True})
    until = time.monotonic() + patience
    try:
        while not companion.wait(0.05):
            faults.point("train.compiling")
            stop.check("compiling")
            if time.monotonic() > until:
                return {"error": f"not done after {patience:,.0f} s"}
        said: Data = {key: value for message in companion.heard() for key, value in message.items()}
    finally:
        companion.end()
    if said.get("did_not_fit"):
        return {"error": "it did not fit into memory"}
    if "compiled_seconds" not in said:
        said.setdefault("error", companion.problem or "its process ended without an answer")
    return said


class Compiled(NextToken):
    """`NextToken` through compiled code. Where compiling fails it goes on without, and says so."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self._run: Callable[..., Tensor] | None = None
        self.failed = False

    def warm(self, model: nn.Module, batch: Batch | PairBatch, device: Device) -> None:
        """Compile now, forwards and backwards, for batches of that shape; gradients and generators stay as they are."""
        before = generators(device)
        kept = [p.grad for p in model.parameters()]
        with device.autocast():
            loss = self(model, batch.to(device))  # type: ignore[arg-type]
        (loss.total if loss.extra is None else loss.total + loss.extra).backward()
        for parameter, gradient in zip(model.parameters(), kept, strict=True):
            parameter.grad = gradient
        set_generators(device, before)

    def _hidden(self, model: CausalModel, batch: Batch) -> Tensor:
        if self.failed:
            return super()._hidden(model, batch)
        try:
            with _without_pickles():
                if self._run is None:
                    self._run = torch.compile(model.hidden, dynamic=False, options=_INDUCTOR)
                return self._run(batch.tokens, batch.positions, batch.documents).flatten(0, 1)
        except Exception as error:
            if is_out_of_memory(error) or not _of_the_compiler(error):
                raise
            self.failed = True
            self.note(f"train.compile: compiling failed, going on without ({_first_line(error)})")
            return super()._hidden(model, batch)


# torch's caches of graphs are pickles, which nothing here reads or writes. Its pool of workers would speak in pickles,
# too.
_INDUCTOR: dict[str, Any] = {"fx_graph_cache": False, "compile_threads": 1}
_FUNCTORCH: dict[str, Any] = {"enable_autograd_cache": False}


@contextlib.contextmanager
def _without_pickles() -> Iterator[None]:
    """Inside it these settings hold also where torch only reads them when it is imported."""
    from torch._functorch import config as functorch
    from torch._inductor import config as inductor

    with inductor.patch(_INDUCTOR), functorch.patch(_FUNCTORCH):
        yield


def _of_the_compiler(error: BaseException) -> bool:
    """Whether torch.compile failed, and not the model."""
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0][:200]}"
