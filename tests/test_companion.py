"""A process beside ours can neither speak out of turn, nor prompt, nor stay behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fabula.companion import Companion

ROOT = Path(__file__).parents[1]
PATHS = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])])}
MODULE = "tests.a_companion"


@pytest.fixture
def start() -> Iterator[list[Companion]]:
    started: list[Companion] = []
    yield started
    for companion in started:
        companion.end()


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends within so many seconds (a zombie has ended)."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def first(companion: Companion, seconds: float = 20.0) -> dict[str, object]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        heard = companion.heard()
        if heard:
            return heard[0]
        time.sleep(0.02)
    raise AssertionError("nothing was heard")


def test_it_answers_and_ends(start: list[Companion]) -> None:
    companion = Companion(MODULE, {"do": "answer"}, PATHS)
    start.append(companion)
    for value in (1, "dos"):
        companion.tell({"value": value})
    companion.tell({"end": True})
    assert companion.wait(20)
    assert companion.heard() == [{"answer": 1}, {"answer": "dos"}, {"done": True}]
    assert not companion.alive


@pytest.mark.skipif(os.name != "posix", reason="needs a controlling terminal to be without")
def test_a_library_in_it_cannot_speak_or_ask(start: list[Companion]) -> None:
    companion = Companion(MODULE, {"do": "talk"}, PATHS)
    start.append(companion)
    companion.tell({"end": True})
    assert companion.wait(20)
    assert companion.heard() == [{"asked": "EOFError: EOF when reading a line"}, {"terminal": False}, {"done": True}]


def test_one_that_dies_is_noticed(start: list[Companion]) -> None:
    companion = Companion(MODULE, {"do": "die"}, PATHS)
    start.append(companion)
    assert companion.wait(20)
    assert companion.heard() == []
    companion.tell({"value": 1})  # and speaking to it harms nobody


def test_one_that_hangs_is_ended_with_what_it_started(start: list[Companion]) -> None:
    companion = Companion(MODULE, {"do": "hang"}, PATHS)
    start.append(companion)
    child = first(companion)["child"]
    assert isinstance(child, int)
    assert not companion.wait(0.1)
    companion.end()
    assert gone(companion.pid)
    assert gone(child)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_it_does_not_outlive_a_parent_that_was_killed() -> None:
    code = (
        "import time; from fabula.companion import Companion; "
        f"c = Companion({MODULE!r}, {{'do': 'hang'}}); print(c.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, **PATHS})
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.5)  # it listens by then, or its pipe is closed before it does: both end it
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def test_what_cannot_be_started_is_a_problem_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    companion = Companion(MODULE, {})
    assert "could not be started" in companion.problem
    assert companion.wait(0)
    companion.tell({"end": True})
    companion.end()
