"""What the tests of faults share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.savers import Savers


@pytest.fixture(scope="module")
def savers() -> Iterator[Savers]:
    """A server whose forks save small checkpoints."""
    with Savers() as server:
        yield server


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is one: what only dies, and keeps its power, does not need a disk."""
    place = Path("/dev/shm")
    if not os.access(place, os.W_OK):
        yield tmp_path_factory.mktemp("memory")
        return
    with tempfile.TemporaryDirectory(prefix="fabula-test-", dir=place) as folder:
        yield Path(folder)
