"""What a launcher says, and what a group of one does."""

from __future__ import annotations

import pytest
import torch

from fabula.distributed.group import ALONE, joined, same
from fabula.distributed.launch import Launch, cores
from fabula.distributed.spread import Replicated, Spread, spread
from fabula.errors import InputError
from fabula.progress import StopFlag

SAID = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


def test_the_place_of_a_process() -> None:
    found = Launch.read({**SAID, "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "3"})
    assert found is not None
    assert (found.rank, found.world, found.local_rank, found.port, found.attempt) == (1, 2, 1, 29500, 3)
    assert found.hosted
    assert found.one_machine
    assert not found.leads


def test_no_launcher() -> None:
    assert Launch.read({}) is None
    assert Launch.read({"WORLD_SIZE": "4"}) is None  # some clusters set it for everything
    assert Launch.read({**SAID, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}) is None


@pytest.mark.parametrize("wrong", [{"RANK": "2"}, {"RANK": "x"}, {"LOCAL_WORLD_SIZE": "3"}, {"MASTER_PORT": "-1"}])
def test_numbers_that_make_no_sense(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError):
        Launch.read({**SAID, **wrong})


@pytest.mark.parametrize("name", ["WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(InputError, match=name):
        Launch.read({n: v for n, v in SAID.items() if n != name})


def test_threads_are_shared_out() -> None:
    """torchrun's OMP_NUM_THREADS=1 is its guess; another number is somebody's wish."""
    for said, expected in (({}, max(1, cores() // 2)), ({"OMP_NUM_THREADS": "1"}, max(1, cores() // 2))):
        found = Launch.read({**SAID, **said})
        assert found is not None
        assert found.threads == expected
    wished = Launch.read({**SAID, "OMP_NUM_THREADS": "3"})
    assert wished is not None
    assert wished.threads == 0


def test_a_group_of_one_agrees_with_itself() -> None:
    with joined(None, 5.0, "cpu", StopFlag()) as group:
        assert group is ALONE
        assert group.sum([1.5, 2.0], "testing") == [1.5, 2.0]
        assert group.share({"a": 1}, "testing") == {"a": 1}
        assert group.gather("x", "testing") == ["x"]
        assert group.lead(lambda: 3, "testing") == 3
        tensor = torch.ones(2)
        group.add([tensor], "testing")
        assert tensor.tolist() == [1.0, 1.0]
        same(group, {"recipe": 1}, "recipe")
        for way in ("ddp", "fsdp", "tensor"):
            assert type(spread(way, group)) is Spread  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "world"), [(5, 2), (5, 4), (8, 3), (4, 4), (1000, 7)])
def test_rows_are_shared_out_whole_and_in_order(rows: int, world: int) -> None:
    """Every row once, in order, nobody with two more than another."""

    class Group(type(ALONE)):  # type: ignore[misc]
        def __init__(self, rank: int) -> None:
            self.rank, self.world = rank, world

    shares = [Replicated(Group(rank)).share(rows) for rank in range(world)]
    assert [row for first, end in shares for row in range(first, end)] == list(range(rows))
    sizes = [end - first for first, end in shares]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == Replicated(Group(0)).largest(rows)
    for rank in range(world):
        cuts = list(Replicated(Group(rank)).cuts(rows, 2))
        assert [row for cut in cuts for row in range(cut.start, cut.stop)] == list(range(*shares[rank]))
        assert [cut.last for cut in cuts] == [False] * (len(cuts) - 1) + [True]
