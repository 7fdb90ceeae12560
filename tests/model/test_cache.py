"""The cache: blocks, growth, rewinding."""

from __future__ import annotations

import pytest
import torch

from fabula.model.cache import Cache, LayerCache


def numbered(start: int, n: int) -> torch.Tensor:
    """(2, 3, n, 4) whose entries are their position."""
    return torch.arange(start, start + n).float().view(1, 1, n, 1).expand(2, 3, n, 4)


@pytest.mark.parametrize("pieces", [[1] * 130, [64, 64], [63, 2, 64], [200, 1], [130]], ids=str)
def test_what_was_added_comes_back_in_order(pieces: list[int]) -> None:
    cache, done = LayerCache(), 0
    for n in pieces:
        keys, values = cache.append(numbered(done, n), -numbered(done, n))
        done += n
        assert cache.length == done
        assert torch.equal(keys, numbered(0, done))
        assert torch.equal(values, -numbered(0, done))
        blocks = -(-done // 64) * 64
        assert cache.n_bytes() == 2 * (2 * 3 * blocks * 4) * 4, "no more than one block is held in advance"


def test_rewinding_overwrites_what_came_after() -> None:
    cache = LayerCache()
    cache.append(numbered(0, 70), numbered(0, 70))
    cache.rewind(65)
    keys, _ = cache.append(numbered(500, 2), numbered(500, 2))
    assert keys[0, 0, :, 0].tolist() == [*range(65), 500, 501]
    cache.rewind(0)
    keys, _ = cache.append(numbered(7, 1), numbered(7, 1))
    assert keys[0, 0, :, 0].tolist() == [7]


@pytest.mark.parametrize("length", [-1, 6])
def test_a_cache_cannot_be_rewound_forwards(length: int) -> None:
    cache = LayerCache()
    cache.append(numbered(0, 5), numbered(0, 5))
    with pytest.raises(ValueError, match="holds 5 positions"):
        cache.rewind(length)
    assert cache.length == 5


def test_the_cache_of_all_layers() -> None:
    cache = Cache([None] * 3)
    assert (cache.length, cache.n_bytes()) == (0, 0)
    for layer in cache.layers:
        layer.append(numbered(0, 5), numbered(0, 5))
    assert cache.length == 5
    assert cache.n_bytes() == 3 * cache.layers[0].n_bytes()
    cache.rewind(2)
    assert [layer.length for layer in cache.layers] == [2, 2, 2]


def test_the_format_is_that_of_what_is_kept() -> None:
    cache = LayerCache()
    keys, _ = cache.append(numbered(0, 3).bfloat16(), numbered(0, 3).bfloat16())
    assert keys.dtype == torch.bfloat16
    assert cache.n_bytes() == 2 * (2 * 3 * 64 * 4) * 2
