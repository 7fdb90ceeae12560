"""Steps of several processes are steps of one: the same rows, losses and weights, also when one has trouble."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fabula.data.shards import Shards
from fabula.train.optimizers import optimizers
from tests.distributed.steps import STEPS, Steppers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork")


@pytest.fixture(scope="module")
def server() -> Iterator[Steppers]:
    with Steppers() as made:
        yield made


@pytest.fixture(scope="module")
def data(tiny_data: Shards) -> Path:
    return tiny_data.folder


def close(one: list[float], other: list[float], most: float = 1e-5) -> bool:
    return len(one) == len(other) == STEPS and all(abs(a - b) < most for a, b in zip(one, other, strict=True))


def together(found: list[dict[str, Any]]) -> list[list[Any]]:
    """The rows that all of them computed, step by step, in the order of the processes."""
    return [row for step in range(1, STEPS + 1) for one in found for row in one["rows"] if row[0] == step]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_rows_are_those_of_one_process(server: Steppers, data: Path, tmp_path: Path, world: int) -> None:
    """Five rows a step on two, three and four processes: each row once, in the same order."""
    (alone,) = server.steps(tmp_path, data, 1)
    found = server.steps(tmp_path, data, world)
    assert together(found) == alone["rows"]
    assert all(close(alone["losses"], one["losses"]) for one in found)
    assert len({one["weights"] for one in found}) == 1


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "muon" else pytest.mark.slow) for kind in sorted(optimizers)]
)
@pytest.mark.parametrize("way", ["ddp", "fsdp", "tensor"])
def test_every_optimizer_in_every_way(server: Steppers, data: Path, tmp_path: Path, way: str, kind: str) -> None:
    """Whole and spread weights move alike, rows a few at a time or all at once."""
    (alone,) = server.steps(tmp_path, data, 1, optimizer=kind)
    found = server.steps(tmp_path, data, 2, way=way, optimizer=kind, micro_rows=2)
    assert all(close(alone["losses"], one["losses"], 2e-5) for one in found), (alone["losses"], found[0]["losses"])
    assert len({one["weights"] for one in found}) == 1


@pytest.mark.row("P4", cases=3)
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_nan_in_one_process(server: Steppers, data: Path, tmp_path: Path, way: str) -> None:
    """All pass over the step, and hold equal weights after it."""
    (alone,) = server.steps(tmp_path, data, 1, wrong={"rank": 0, "what": "nan", "at": [3, 6]})
    for rank, world in ((0, 2), (1, 2), (3, 4)):
        found = server.steps(tmp_path, data, world, way=way, wrong={"rank": rank, "what": "nan", "at": [3, 6]})
        assert [one["unapplied"] for one in found] == [[3, 6]] * world
        assert len({one["weights"] for one in found}) == 1
        assert abs(alone["losses"][-1] - found[0]["losses"][-1]) < 1e-5


@pytest.mark.row("P4", cases=2)
def test_no_memory_in_one_process(server: Steppers, data: Path, tmp_path: Path) -> None:
    """All halve their rows, the step is taken again, and nothing else changes."""
    (alone,) = server.steps(tmp_path, data, 1)
    for rank in (0, 1):
        found = server.steps(tmp_path, data, 2, wrong={"rank": rank, "what": "memory", "above": 1})
        assert [one["at_once"] for one in found] == [1, 1]
        assert all("out of memory" in one["notes"][0] for one in found)
        assert together(found) == alone["rows"]
        assert close(alone["losses"], found[0]["losses"])
        assert len({one["weights"] for one in found}) == 1
