"""How did the model become what it is? The same beginning, gone on with by every checkpoint that a run has kept.

The checkpoints are loaded one after the other, in a thread beside the engine's, so memory holds one more model and no
more. One evolution runs at a time.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

from fabula import checkpoint as checkpoints
from fabula.device import Device
from fabula.errors import FabulaError
from fabula.generate import run as generating
from fabula.generate.config import GenerateConfig
from fabula.serve.answers import finite
from fabula.serve.refusal import Refusal

# Points of a curve that are told, and bytes of the file that are looked at.
MOST_POINTS = 600
_MOST_BYTES = 64 << 20
# Seconds that an evolution waits for one that was left to end.
_PATIENCE = 5.0


def history(run: Path) -> dict[str, Any]:
    """The checkpoints of a run, and its losses by step (thinned out)."""
    kept = [
        {"name": c.path.name, "step": c.step, "bits_per_byte": c.bits_per_byte} for c in checkpoints.checkpoints(run)
    ]
    return {"checkpoints": kept, "curve": _curve(checkpoints.RunFolder(run).metrics)}


def _curve(path: Path) -> list[dict[str, Any]]:
    found: dict[tuple[str, int], dict[str, Any]] = {}
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)
    except OSError:
        return []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict):
            continue
        kind, step = record.get("kind"), record.get("step")
        if kind in ("train", "evaluation") and isinstance(step, int):
            loss, bits = _number(record.get("loss")), _number(record.get("bits_per_byte"))
            # What a resumed run wrote again replaces what it wrote before.
            found[kind, step] = {"step": step, "kind": kind, "loss": loss, "bits_per_byte": bits}
    made = []
    for kind in ("train", "evaluation"):
        points = sorted((p for p in found.values() if p["kind"] == kind), key=lambda p: p["step"])
        made += _thinned(points)
    return made


def _thinned(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most so many points, evenly, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return points
    return [points[round(i * (len(points) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


class Evolution:
    """Tells one at a time."""

    def __init__(self) -> None:
        self._busy = threading.Lock()
        self._last: Telling | None = None

    def _last_is_left(self) -> bool:
        return self._last is not None and self._last.left

    async def start(self, run: Path, prompt: str, config: GenerateConfig, device: Device) -> Telling:
        """Begin in a thread; Refusal (429) while another one runs."""
        ends = time.monotonic() + _PATIENCE
        while not self._busy.acquire(blocking=False):
            # One that nobody listens to any more is about to end.
            if not self._last_is_left() or time.monotonic() > ends:
                raise Refusal(429, "another evolution runs; one at a time is told", code="queue_full", retry=5)
            await asyncio.sleep(0.02)
        telling = self._last = Telling(asyncio.get_running_loop())

        def work() -> None:
            try:
                _evolve(run, prompt, config, device, telling)
            except Exception as error:
                telling.tell(Refusal(500, f"the evolution failed ({type(error).__name__})"))
            finally:
                self._busy.release()
                telling.tell(None)

        try:
            threading.Thread(target=work, name="fabula-evolution", daemon=True).start()
        except RuntimeError:
            self._busy.release()
            raise
        return telling


class Telling:
    """What an evolution tells, in the order in which it becomes known; an error that ends it is a Refusal."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._left = loop, threading.Event()
        self._told: asyncio.Queue[dict[str, Any] | Refusal | None] = asyncio.Queue(maxsize=16)

    def leave(self) -> None:
        """Nobody listens any more. Called in the event loop."""
        self._left.set()
        if self._told.empty():
            self._told.put_nowait(None)  # for whoever waits for the next one

    @property
    def left(self) -> bool:
        """Whether nobody listens any more."""
        return self._left.is_set()

    def tell(self, data: dict[str, Any] | Refusal | None) -> None:
        """Called in the thread; waits while the reader is behind."""
        if self.left or self._loop.is_closed():
            return
        putting = asyncio.run_coroutine_threadsafe(self._told.put(data), self._loop)
        while not self.left:
            try:
                return putting.result(0.2)
            except TimeoutError:
                continue
        putting.cancel()

    def __aiter__(self) -> Telling:
        return self

    async def __anext__(self) -> dict[str, Any] | Refusal:
        data = await self._told.get()
        if data is None or self.left:
            raise StopAsyncIteration
        return data


def _evolve(
    run: Path,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    telling: Telling,
) -> None:
    kept = checkpoints.checkpoints(run)
    telling.tell({"kind": "begin", "checkpoints": len(kept)})
    for checkpoint in kept:
        if telling.left:
            return
        about = {"step": checkpoint.step, "bits_per_byte": checkpoint.bits_per_byte, "name": checkpoint.path.name}
        telling.tell({"kind": "checkpoint", **about})
        try:
            _write(checkpoint.path, prompt, config, device, telling)
        except FabulaError as error:
            # One that is damaged, or whose weights have diverged, does not end the others.
            telling.tell({"kind": "failed", "step": checkpoint.step, "message": str(error)})


def _write(
    path: Path,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    telling: Telling,
) -> None:
    loaded = checkpoints.load(path)
    model, step = loaded.model.to(device.torch), loaded.checkpoint.step
    for piece in generating.stream(model, loaded.tokenizer, prompt, config, device):
        if telling.left:
            return
        logprobs = [finite(value) for value in piece.logprobs]
        told = {"kind": "text", "step": step, "text": piece.text, "ids": list(piece.ids), "logprobs": logprobs}
        telling.tell({**told, "finish_reason": piece.finish_reason})
