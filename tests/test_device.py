"""Which device, which format, how many threads; what a result depends on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fabula import device
from fabula.config import dump_json
from fabula.errors import InputError, MachineError


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def without(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [
        (False, False, ("cpu", "float32", "no GPU found")),
        (True, True, ("cuda", "bfloat16", "H200 found")),
        (False, True, ("mps", "float32", "Apple GPU found")),
    ],
)
def test_the_best_device_is_taken_and_the_reason_said(
    cuda: bool, mps: bool, expected: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, cuda, mps)
    chosen = device.choose("auto", 1)
    assert (chosen.name, chosen.dtype, chosen.reason) == expected
    assert device.choose("cpu", 1) == device.Device("cpu", "float32", 1, "asked for")


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, False, False)
    for name in ("cuda", "mps"):
        with pytest.raises(MachineError, match=f'device "{name}" is not available here'):
            device.choose(name, 1)
    with pytest.raises(InputError, match='unknown device "cdua": did you mean "cuda"'):
        device.choose("cdua", 1)


def test_threads() -> None:
    before = torch.get_num_threads()
    try:
        assert device.choose("cpu", 2).threads == torch.get_num_threads() == 2
        assert device.choose("cpu").threads == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_given_from_outside_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not device.threads_are_given()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not device.threads_are_given()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert device.threads_are_given(), "who starts several processes shares out the cores"
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert device.threads_are_given()
    assert device.cores() >= 1


def test_autocast_is_on_for_short_formats_alone() -> None:
    x = torch.ones(2, 2)
    formats = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "float8": torch.bfloat16,
    }
    for dtype, expected in formats.items():
        with device.Device("cpu", dtype, 1, "").autocast():
            assert (x @ x).dtype == expected


def test_a_seed_reaches_every_generator() -> None:
    import random

    import numpy

    def numbers() -> tuple[float, float, float]:
        device.seed_everything(2**40 + 1)
        return random.random(), float(numpy.random.rand()), float(torch.rand(()))

    assert numbers() == numbers()


def test_the_environment_is_plain_data() -> None:
    facts = device.environment(device.Device("cpu", "float32", 1, "test"))
    dump_json(facts)
    assert facts["torch"] == torch.__version__
    assert facts["device_reason"] == "test"
    assert device.peak_memory_bytes() > 10_000_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a process begins with a peak of its own")
def test_the_peak_is_of_this_process_not_of_the_one_that_started_it() -> None:
    held = bytearray(b"x" * 600_000_000)
    code = "from fabula.device import peak_memory_bytes; print(peak_memory_bytes())"
    child = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout) < 300_000_000 < len(held)


def test_threads_that_are_let_go_come_again() -> None:
    pytest.importorskip("sklearn.cluster")  # has loaded a copy of OpenMP of its own, which is asked as well
    tasks = Path("/proc/self/task")
    torch.set_num_threads(2)
    left = torch.rand(600, 600)
    expected = left @ left
    before = set(tasks.iterdir()) if tasks.exists() else set()
    if device.let_threads_go():
        deadline = time.monotonic() + 10
        while not before - set(tasks.iterdir()):
            assert time.monotonic() < deadline, "none of the threads has ended"
            time.sleep(0.01)
    assert torch.equal(left @ left, expected)
