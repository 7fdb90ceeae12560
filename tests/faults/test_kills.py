"""kill -9 at any moment costs at most the steps since the last checkpoint, and nothing else (row R7)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabula.faults import POINTS
from tests import tiny
from tests.faults.alike import assert_alike
from tests.faults.forkserver import ForkServer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")

# Checkpoints at steps that no milestone has, metrics of several steps a line, and enough steps to die in.
RUN = ("run", "tiny.toml", "--train.budget", "60steps", "--train.save_steps", "7", "--train.log_every", "4")

# Points that a run of the tiny recipe passes, each with the passings at which a process dies there.
PASSED = {
    name: (1, 3) if name.startswith(("file.", "folder.", "checkpoint.", "train.", "line.")) else (1,)
    for name in POINTS
    # An older folder of the same name is there only when something is made again, and nothing is compiled in so short a
    # run (test_signals.py has one that asks for it).
    if name not in ("folder.aside", "train.compiling")
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as made:
        yield made


@pytest.fixture(scope="module")
def straight(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nothing happened to, and how long it took."""
    folder = tmp_path_factory.mktemp("straight")
    tiny.write_recipe(folder)
    server.run("model", "list", cwd=folder)  # the server has come up
    began = time.monotonic()
    process = server.run(*RUN, cwd=folder)
    assert process.code == 0, process.output
    return folder / "runs" / "tiny", time.monotonic() - began


def finish(server: ForkServer, folder: Path) -> None:
    """The same command again: no hand edits."""
    process = server.run(*RUN, cwd=folder)
    assert process.code == 0, process.output
    for name in folder.glob("output-*.txt"):
        name.unlink()


@pytest.mark.row("R7", cases=1)
@pytest.mark.parametrize("point", sorted(PASSED))
def test_killed_at_a_named_point(
    server: ForkServer, straight: tuple[Path, float], tmp_path: Path, point: str, cases: int
) -> None:
    tiny.write_recipe(tmp_path)
    died = 0
    for at in PASSED[point]:
        process = server.run(*RUN, cwd=tmp_path, faults=f"{point}=kill@{at}")
        died += process.code == -signal.SIGKILL
        assert process.code in (-signal.SIGKILL, 0), process.output
    assert died, f"no process ever came to {point}"
    finish(server, tmp_path)
    assert_alike(straight[0], tmp_path / "runs" / "tiny", point)


@pytest.mark.row("R7", cases=2, nightly=50)
@pytest.mark.parametrize("part", range(10))
def test_killed_at_random_moments(
    server: ForkServer, straight: tuple[Path, float], tmp_path: Path, part: int, cases: int
) -> None:
    """One to five kills a run, each at some moment of a process's life; and it ends as if it had never been."""
    chance = random.Random(part)
    killed = runs = 0
    while killed < cases:
        folder = tmp_path / f"run-{runs}"
        folder.mkdir()
        tiny.write_recipe(folder)
        for _ in range(min(chance.randint(1, 5), cases - killed)):
            process = server.start(*RUN, cwd=folder)
            time.sleep(chance.uniform(0.02, straight[1]))
            process.send(signal.SIGKILL)
            if process.wait() == 0:
                break  # it had ended by itself
            assert process.code == -signal.SIGKILL, process.output
            killed += 1
        finish(server, folder)
        assert_alike(straight[0], folder / "runs" / "tiny", f"part {part}, run {runs}, after {killed} kills")
        shutil.rmtree(folder)
        runs += 1


@pytest.mark.row("R7", cases=5, nightly=25)
def test_killed_while_a_resumed_run_was_killed(
    server: ForkServer, straight: tuple[Path, float], tmp_path: Path, cases: int
) -> None:
    """`fabula resume`, from the first moment at which there is something to resume."""
    tiny.write_recipe(tmp_path)
    chance = random.Random(4)
    process = server.run(*RUN, cwd=tmp_path, faults="train.step=kill@9")
    assert process.code == -signal.SIGKILL, process.output
    for _ in range(cases):
        process = server.start("resume", "runs/tiny", cwd=tmp_path)
        time.sleep(chance.uniform(0.01, 0.7 * straight[1]))
        process.send(signal.SIGKILL)
        process.wait()
    process = server.run("resume", "runs/tiny", cwd=tmp_path)
    assert process.code == 0, process.output
    assert_alike(straight[0], tmp_path / "runs" / "tiny")
