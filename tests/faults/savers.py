"""A server like that of forkserver.py whose forks call one function of these tests, and the small things they save.

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
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from fabula import checkpoint, faults, storage
from fabula.errors import FabulaError
from fabula.model.attention import GroupedQueryAttention
from fabula.model.decoder import Decoder
from fabula.model.ffn import SwigluFFN
from fabula.tokenizer.base import FILE, Tokenizer
from fabula.tokenizer.bpe import train_bpe
from tests import tiny
from tests.faults.forkserver import ForkServer, Process


class Savers(ForkServer):
    """The server; its forks cost hundredths of a second."""

    def __enter__(self) -> Savers:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.savers"],
            cwd=Path(__file__).parents[2],
            env=tiny.environment(TOKENIZERS_PARALLELISM="false"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._count = 0
        return self

    def call(
        self,
        function: str,
        *arguments: object,
        cwd: Path,
        faults: str = "",
        largest_file: int | None = None,
        memory: int | None = None,
        go: Path | None = None,
    ) -> Process:
        """Fork a process that calls `module:function`; with `go` it makes `go`-ready, and waits until `go` is there."""
        self._count += 1
        log = cwd / f"output-{self._count}.txt"
        request: dict[str, object] = {
            "start": function,
            "arguments": [a if isinstance(a, (int, float)) else str(a) for a in arguments],
            "log": str(log),
            "faults": faults,
            "largest_file": largest_file,
            "memory": memory,
            "go": str(go) if go else None,
        }
        return Process(self, self.ask(request)["pid"], log)


def _become(request: dict[str, Any]) -> None:
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(log, number)
    code = 70
    try:
        module, _, name = request["start"].partition(":")
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
        function(*request["arguments"])
        code = 0
    except FabulaError as error:
        print(error)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _memory() -> int:
    """The address space of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def serve() -> None:
    """Read requests until there are no more, then kill what still runs."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        # Saved and loaded once, so that what is imported late is there before the first fork.
        save(Path(folder), 1, train_bpe(["el conejo y la zorra " * 50], 270))
        checkpoint.trainer_state(checkpoint.load(Path(folder), "last", print).checkpoint)
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            importlib.import_module(request["start"].partition(":")[0])  # once for all forks
            pid = os.fork()
            if pid == 0:
                _become(request)
            running.add(pid)
            answer: dict[str, int | None] = {"pid": pid}
        else:
            done, status = os.waitpid(request["poll"], os.WNOHANG)
            if done:
                running.discard(done)
            answer = {"code": os.waitstatus_to_exitcode(status) if done else None}
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


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
    serve()
