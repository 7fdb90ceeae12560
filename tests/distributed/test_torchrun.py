"""The commands of docs/distributed.md, with torchrun itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fabula import checkpoint, storage
from tests import tiny

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def torchrun(*words: object) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *map(str, words)]


def environment(**changes: str) -> dict[str, str]:
    """Without the audit: torchrun's own processes speak pickle with each other. Its variables are its own to set."""
    kept = {n: v for n, v in os.environ.items() if n not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **changes}


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in storage.read_json_lines(run / "metrics.jsonl") if line["kind"] == "train"]


def test_torchrun_trains_what_one_process_trains(tmp_path: Path, tiny_run: Path) -> None:
    tiny.write_recipe(tmp_path)
    words = ("--nproc-per-node", 2, "-m", "fabula", "run", "tiny.toml", "--json")
    made = subprocess.run(
        torchrun(*words), cwd=tmp_path, env=environment(), capture_output=True, timeout=120, check=False
    )
    assert made.returncode == 0, tiny.tail(made.stderr, 40)
    # One of them tells the result, once.
    assert json.loads(made.stdout)["summary"]["train"]["steps"] == tiny.STEPS
    assert made.stderr.decode().count("training ...") == 1
    pairs = list(zip(losses(tiny_run), losses(tmp_path / "runs" / "tiny"), strict=True))
    assert max(abs(a - b) / a for a, b in pairs) < 1e-5


@pytest.mark.slow
def test_torchrun_begins_again(tmp_path: Path, tiny_run: Path) -> None:
    """Every life of the processes ends at its ninth step, by kill -9; torchrun restarts them until fewer are left."""
    tiny.write_recipe(tmp_path)
    words = ("--nproc-per-node", 2, "--max-restarts", 3, "-m", "fabula", "run", "tiny.toml")
    killed = environment(FABULA_FAULTS="train.step=kill@9")
    made = subprocess.run(torchrun(*words), cwd=tmp_path, env=killed, capture_output=True, timeout=400, check=False)
    assert made.returncode == 0, tiny.tail(made.stderr, 40)
    pairs = list(zip(losses(tiny_run), losses(tmp_path / "runs" / "tiny"), strict=True))
    assert max(abs(a - b) / a for a, b in pairs) < 1e-5


@pytest.mark.slow
def test_sigterm_to_torchrun(tmp_path: Path) -> None:
    """All stop, one checkpoint is there, nobody is left."""
    import psutil

    tiny.write_recipe(tmp_path)
    words = ("--nproc-per-node", 2, "-m", "fabula", "run", "tiny.toml", "--train.budget", "2000steps")
    process = subprocess.Popen(torchrun(*words), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < until:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode, said
    assert said.count("fabula: stopped while training") == 1, said
    newest = checkpoint.last(tmp_path / "runs" / "tiny")
    assert newest is not None
    assert newest.step == storage.read_json_lines(metrics)[-1]["step"]
    assert not [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
