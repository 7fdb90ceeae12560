"""Steps of several processes are steps of one: the same rows, losses and weights, whoever computes which."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabula.data.shards import Shards
from fabula.train.optimizers import optimizers
from tests.distributed.steps import STEPS, Steppers, together

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
