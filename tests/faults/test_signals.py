"""A signal in any phase: what is done is saved, the exit code tells which signal, the run goes on exactly (row R6)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabula import checkpoint, storage
from fabula.train.compiling import compiler
from tests import tiny
from tests.faults.alike import assert_alike
from tests.faults.forks import Fork
from tests.faults.forkserver import ForkServer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and POSIX signals")

RUN = ("run", "tiny.toml", "--train.budget", "40steps", "--train.log_every", "3")

# Phase: the points at which the signal comes, with the passing.
PHASES = {
    "tokenizer": ["tokenizer.learning@1", "tokenizer.learning@20", "tokenizer.learning@40"],
    "data": ["data.encoded@1", "data.kept@1", "data.finished@1"],
    "before step 1": ["train.measuring@1", "train.started@1", "train.waiting@1"],
    "step": ["train.step@1", "train.step@17", "train.step@40"],
    "waiting for data": ["train.waiting@2", "train.waiting@20", "train.waiting@40"],
    "evaluation": ["train.evaluating@1", "train.evaluating@9", "train.evaluating@20"],
    "samples": ["train.sampling@1", "train.sampling@10", "train.sampling@30"],
    "save": ["train.saving@2", "checkpoint.weights@1", "folder.described@3"],
    "last evaluation": ["evaluate.scoring@1", "evaluate.scoring@2", "train.finished@1"],
}
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as made:
        yield made


@pytest.fixture(scope="module")
def straight(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    tiny.write_recipe(folder)
    process = server.run(*RUN, cwd=folder)
    assert process.code == 0, process.output
    return folder / "runs" / "tiny"


def check_left(process: Fork, code: int) -> None:
    """It left in order: the right exit code, the way to go on, no traceback."""
    assert process.code == code, process.output
    last = process.output.splitlines()[-1]
    assert last.startswith("fabula: stopped while "), process.output
    assert "fabula resume runs/tiny" in last
    assert "Traceback" not in process.output


@pytest.mark.row("R6", cases=1, nightly=3)
@pytest.mark.parametrize("number", sorted(CODES))
@pytest.mark.parametrize("phase", sorted(PHASES))
def test_a_signal_in_every_phase(
    server: ForkServer, straight: Path, tmp_path: Path, phase: str, number: str, cases: int
) -> None:
    # Per change each signal takes another of the phase's three moments; `make faults` takes all of them.
    first = sorted(CODES).index(number)
    for turn in range(cases):
        folder = tmp_path / str(turn)
        folder.mkdir()
        tiny.write_recipe(folder)
        point, _, at = PHASES[phase][(first + turn) % 3].partition("@")
        process = server.run(*RUN, cwd=folder, faults=f"{point}=signal:{number}@{at}")
        check_left(process, CODES[number])
        run = folder / "runs" / "tiny"
        assert not list(run.rglob(".writing-*"))
        if phase not in ("tokenizer", "data", "before step 1"):
            newest = checkpoint.last(run)
            assert newest is not None
            storage.verify(newest.path)
        process = server.run("resume", "runs/tiny", cwd=folder)
        assert process.code == 0, process.output
        assert_alike(straight, run, f"{number} at {point}@{at}")


@pytest.mark.row("R6", cases=1)
@pytest.mark.parametrize("point", ["train.step@9", "train.saving@2", "checkpoint.weights@1", "train.evaluating@3"])
def test_a_second_interrupt_leaves_at_once_and_harms_nothing(
    server: ForkServer, straight: Path, tmp_path: Path, point: str, cases: int
) -> None:
    tiny.write_recipe(tmp_path)
    name, _, at = point.partition("@")
    process = server.start(*RUN, cwd=tmp_path, faults=f"{name}=sleep:30@{at}")
    metrics = tmp_path / "runs" / "tiny" / "metrics.jsonl"
    _wait(lambda: metrics.exists() and not _grows(metrics), process)
    process.send(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None, "the first one waits for the end of what is being done"
    began = time.monotonic()
    process.send(signal.SIGINT)
    assert process.wait(10) == 130, process.output
    assert time.monotonic() - began < 5
    assert process.output.splitlines()[-1] == "fabula: interrupted"
    process = server.run("resume", "runs/tiny", cwd=tmp_path)
    assert process.code == 0, process.output
    assert_alike(straight, tmp_path / "runs" / "tiny", point)


@pytest.mark.row("R6", cases=3)
def test_a_signal_while_everything_is_still_being_imported(tmp_path: Path, cases: int) -> None:
    """A real process, from its first moments on: it stops in order, or dies of the signal with nothing made."""
    import subprocess

    tiny.write_recipe(tmp_path)
    for turn in range(cases):
        process = subprocess.Popen(
            tiny.command(*RUN),
            cwd=tmp_path,
            env=tiny.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=tiny.on_one_core,
        )
        time.sleep(0.1 + 0.5 * turn)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert process.returncode in (143, -signal.SIGTERM), tiny.tail(err)
        assert b"Traceback" not in err, tiny.tail(err, 20)


@pytest.mark.row("R6", cases=1)
@pytest.mark.skipif(compiler("cpu") is None, reason="there is no C++ compiler")
def test_a_signal_while_the_model_is_compiled(server: ForkServer, straight: Path, tmp_path: Path, cases: int) -> None:
    """Compiling is done by a process of its own, which is not waited for."""
    tiny.write_recipe(tmp_path)
    process = server.run(*RUN, "--train.compile", "on", cwd=tmp_path, faults="train.compiling=signal:SIGTERM@3")
    check_left(process, 143)
    process = server.run("resume", "runs/tiny", "--train.compile", "off", cwd=tmp_path)
    assert process.code == 0, process.output
    # All but the reason that stands in the plan: this one was asked not to compile.
    newest = [checkpoint.last(run) for run in (straight, tmp_path / "runs" / "tiny")]
    for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):
        assert len({c.manifest["files"][name]["sha256"] for c in newest if c is not None}) == 1, name


def _wait(ready, process: Fork, timeout: float = 40) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + timeout
    while not ready():
        assert process.poll() is None, process.output
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def _grows(path: Path) -> bool:
    size = path.stat().st_size
    time.sleep(0.7)
    return path.stat().st_size != size
