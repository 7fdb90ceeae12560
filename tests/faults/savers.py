"""Forks that call one function of these tests, and the small things they save.

    with Savers() as server:
        process = server.call("tests.faults.savers:save_again", run, faults="folder.renamed=kill", cwd=tmp_path)
        process.wait()

A fork exits with 0, or with the exit code of the error that it met, which it prints.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import tempfile
import time
from itertools import count
from pathlib import Path

import torch

from fabula import checkpoint, faults, storage
from fabula.errors import FabulaError
from fabula.model.attention import GroupedQueryAttention
from fabula.model.decoder import Decoder
from fabula.model.ffn import SwigluFFN
from fabula.tokenizer.base import FILE, Tokenizer
from fabula.tokenizer.bpe import train_bpe
from tests import tiny
from tests.faults.forks import Fork, Forks, Request, serve


class Savers(Forks):
    """The server."""

    module = __name__

    def __enter__(self) -> Savers:
        self._numbers = count(1)
        return super().__enter__()

    def call(
        self,
        function: str,
        *arguments: object,
        cwd: Path,
        faults: str = "",
        largest_file: int | None = None,
        memory: int | None = None,
        go: Path | None = None,
    ) -> Fork:
        """Fork a process that calls `module:function`; with `go` it makes `go`-ready, and waits until `go` is there."""
        request: Request = {
            "function": function,
            "arguments": [a if isinstance(a, (int, float)) else str(a) for a in arguments],
            "faults": faults,
            "largest_file": largest_file,
            "memory": memory,
            "go": str(go) if go else None,
        }
        return self.fork(request, cwd / f"output-{next(self._numbers)}.txt")


def import_once(request: Request) -> None:
    """Import a function's module for all forks."""
    importlib.import_module(request["function"].partition(":")[0])


def become(request: Request) -> int:
    """Call the function; the exit code."""
    module, _, name = request["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    if request["go"]:
        Path(request["go"] + "-ready").touch()
        while not os.path.exists(request["go"]):
            time.sleep(0.002)
    if request["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    if request["memory"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (_memory() + request["memory"],) * 2)
    faults.arm(request["faults"])
    try:
        function(*request["arguments"])
    except FabulaError as error:
        print(error)
        return error.exit_code
    return 0


def _memory() -> int:
    """The address space of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def get_ready() -> None:
    """Save and load once, so that what is imported late is there before the first fork."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), 1, train_bpe(["el conejo y la zorra " * 50], 270))
        checkpoint.trainer_state(checkpoint.load(Path(folder), "last", print).checkpoint)


# ---- what is saved -----------------------------------------------------------------------------------------


def small_model(seed: int = 0, **changes: object) -> Decoder:
    """One layer of width 8: ten kilobytes or so."""
    torch.manual_seed(seed)
    settings: dict[str, object] = dict(
        d_model=8,
        n_layers=1,
        attention=GroupedQueryAttention(n_heads=1, n_kv_heads=1, head_dim=8, qk_norm=True),
        ffn=SwigluFFN(d_ff=8),
    )
    return Decoder(tiny.model_config(**{**settings, **changes}))


def save(run: Path, step: int, tokenizer: Tokenizer, seed: int = 0, bits: float | None = None) -> checkpoint.Checkpoint:
    """A checkpoint of a small model; equal arguments, equal bytes."""
    tensors = {"momentum": torch.arange(20.0) + seed, "generator": torch.arange(16, dtype=torch.uint8)}
    trainer = {"step": step, "seed": seed}
    folder = checkpoint.RunFolder(run).checkpoints
    return checkpoint.save(folder, step, small_model(seed), tokenizer, trainer, tensors, {"bits_per_byte": bits})


# The states of `save_again`, as it announces them.
STAGES = ("new", "pruned", "again", "file")


def save_again(run: str) -> None:
    """Go on with a run of the steps 1 to 3: save 4, prune, save 4 anew, replace a file; says what is done."""
    folder = Path(run)
    tokenizer = Tokenizer.load(folder / FILE)

    def done(what: str) -> None:
        os.write(1, f"{what}\n".encode())

    save(folder, 4, tokenizer, seed=4)
    done("new")
    checkpoint.prune(folder, 2)
    done("pruned")
    save(folder, 4, tokenizer, seed=40)
    done("again")
    storage.write_json(folder / "stages.json", {"done": 2})
    done("file")


def count_points(run: str) -> None:
    """The same; the last line says how often each point was passed."""
    faults.arm(",".join(f"{name}=sleep:0@*" for name in faults.POINTS))
    save_again(run)
    passed = {name: planned.passed for name, planned in faults._planned.items() if planned.passed}
    os.write(1, json.dumps(passed).encode())


def save_one(run: str, step: int, seed: int) -> None:
    """One checkpoint."""
    save(Path(run), step, Tokenizer.load(Path(run) / FILE), seed)


if __name__ == "__main__":
    get_ready()
    serve(become, import_once)
