"""Two roads to one answer, and textbook cases that can be checked by eye."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fabula.model.attention import Attention, GroupedQueryAttention, attend_explicit, attend_fused, set_path
from fabula.model.cache import LayerCache
from fabula.model.masks import Sight
from fabula.model.positions import Rope, Shape
from fabula.model.spans import Blocks, Sliding
from tests.contracts.variants import build, config

HEADS = pytest.mark.parametrize("n_kv_heads", [4, 2, 1], ids=["multi_head", "grouped", "one_shared"])


def heads(n_kv_heads: int, queries: int, keys: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 4, queries, 6), (2, n_kv_heads, keys, 6), (2, n_kv_heads, keys, 6)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def attention(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, sight: Sight | None = None) -> Tensor:
    return attend(q, k, v, sight or Sight(q.shape[2], k.shape[2]), q.shape[-1] ** -0.5)


def of_documents(rows: list[list[int]]) -> Sight:
    return Sight(7, 7, documents=torch.tensor(rows))


SIGHTS = {
    "causal": Sight(7, 7),
    "one document": of_documents([[0] * 7]),
    "documents": of_documents([[0, 0, 1, 1, 1, 2, 2], [5, 5, 5, 5, 5, 5, 6]]),
    "numbers that come back": of_documents([[3, 3, 1, 1, 3, 3, 0]]),
    "each alone": of_documents([list(range(7))]),
    "both ways": Sight(7, 7, causal=False),
    "both ways, padded": Sight(7, 7, causal=False, seen=torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1] * 7]).bool()),
    "window": Sight(7, 7, span=Sliding(window=3)),
    "blocks": Sight(7, 7, span=Blocks(size=2, before=1)),
}


@HEADS
@pytest.mark.parametrize("sight", SIGHTS.values(), ids=SIGHTS)
def test_fused_is_explicit_forward_and_backward(n_kv_heads: int, sight: Sight) -> None:
    results = []
    weights = torch.randn(2, 4, 7, 6)
    for attend in (attend_fused, attend_explicit):
        q, k, v = heads(n_kv_heads, 7, 7)
        out = attention(attend, q, k, v, sight)
        assert out.shape == (2, 4, 7, 6)
        (out * weights).sum().backward()
        results.append((out, q.grad, k.grad, v.grad))
    for fused, explicit in zip(*results, strict=True):
        torch.testing.assert_close(fused, explicit, rtol=1e-5, atol=1e-5)


@HEADS
@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (3, 9), (9, 9), (1, 1), (2, 3)])
def test_fused_is_explicit_after_a_cache(n_kv_heads: int, queries: int, keys: int) -> None:
    q, k, v = heads(n_kv_heads, queries, keys)
    torch.testing.assert_close(
        attention(attend_fused, q, k, v), attention(attend_explicit, q, k, v), rtol=1e-5, atol=1e-5
    )


@HEADS
def test_the_last_queries_of_all_are_the_queries_after_a_cache(n_kv_heads: int) -> None:
    q, k, v = heads(n_kv_heads, 9, 9)
    whole = attention(attend_explicit, q, k, v)
    for attend, n in itertools.product((attend_explicit, attend_fused), (1, 4)):
        torch.testing.assert_close(attention(attend, q[:, :, -n:], k, v), whole[:, :, -n:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attend", [attend_fused, attend_explicit])
def test_equal_scores_give_the_mean_of_what_is_seen(attend: Callable[..., Tensor]) -> None:
    q, k = torch.zeros(1, 1, 4, 2), torch.randn(1, 1, 4, 2)
    v = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 0.0], [7.0, 4.0]]).view(1, 1, 4, 2)
    expected = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 1.0]]).view(1, 1, 4, 2)
    torch.testing.assert_close(attention(attend, q, k, v), expected)


@pytest.mark.parametrize("attend", [attend_fused, attend_explicit])
def test_grouped_queries_share_neighbouring_heads(attend: Callable[..., Tensor]) -> None:
    """Query heads 0 and 1 read key head 0, query heads 2 and 3 key head 1 (Llama's order, not interleaved)."""
    q, k = torch.zeros(1, 4, 1, 1), torch.zeros(1, 2, 1, 1)
    v = torch.tensor([10.0, 20.0]).view(1, 2, 1, 1)
    out = attention(attend, q, k, v)
    assert out.flatten().tolist() == [10.0, 10.0, 20.0, 20.0]


@pytest.mark.parametrize("attend", [attend_fused, attend_explicit])
def test_large_scores_do_not_overflow(attend: Callable[..., Tensor]) -> None:
    q, k, v = (t.detach() * 1e4 for t in heads(2, 5, 5))
    assert attention(attend, q, k, v).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_formats_stay_near(dtype: torch.dtype) -> None:
    q, k, v = (t.detach().to(dtype) for t in heads(2, 6, 6))
    exact = attention(attend_explicit, q.float(), k.float(), v.float())
    for attend in (attend_fused, attend_explicit):
        out = attention(attend, q, k, v)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), exact, rtol=3e-2, atol=3e-2)


@HEADS
@pytest.mark.parametrize("path", ["fused", "explicit"])
@torch.no_grad()
def test_the_module_with_a_cache_is_the_module_without(n_kv_heads: int, path: str) -> None:
    torch.manual_seed(0)
    made = GroupedQueryAttention(n_heads=4, n_kv_heads=n_kv_heads, head_dim=6, qk_norm=True, q_bias=True)
    module = made.build(10)
    assert isinstance(module, Attention)
    set_path(module, path)  # type: ignore[arg-type]
    assert module.path == path
    x = torch.randn(2, 70, 10)
    tables = Rope().build(Shape(10, 99, 4, 6)).tables(torch.arange(70).unsqueeze(0))
    assert tables is not None
    whole, cache = module(x, tables, None, None), LayerCache()
    for start, stop in ((0, 3), (3, 4), (4, 70)):
        cut = (tables[0][:, start:stop], tables[1][:, start:stop])
        torch.testing.assert_close(
            module(x[:, start:stop], cut, None, cache), whole[:, start:stop], rtol=1e-5, atol=1e-5
        )


def test_normalised_queries_and_keys_do_not_depend_on_their_scale() -> None:
    module = GroupedQueryAttention(n_heads=2, n_kv_heads=1, head_dim=4, qk_norm=True).build(8)
    x = torch.randn(1, 5, 8)
    before = module(x, None, None, None)
    with torch.no_grad():
        module.q_proj.weight.mul_(100)
        module.k_proj.weight.mul_(0.5)
    torch.testing.assert_close(module(x, None, None, None), before, rtol=1e-3, atol=1e-4)


def test_set_path_reaches_every_layer() -> None:
    model = build(config(n_layers=3))
    set_path(model, "explicit")
    assert [block.attention.path for block in model.blocks] == ["explicit"] * 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((6, 4, 8), "n_heads=6 must be a multiple of n_kv_heads=4; try n_kv_heads = 6, 3, 2, 1"),
        ((2, 4, 8), "n_heads=2 must be a multiple of n_kv_heads=4; try n_kv_heads = 2, 1"),
        ((0, 1, 8), "n_heads=0 must be at least 1"),
        ((4, -2, 8), "n_kv_heads=-2 must be at least 1"),
        ((4, 2, 0), "head_dim=0 must be at least 1"),
    ],
)
def test_refusals_name_value_rule_and_way_out(settings: tuple[int, int, int], message: str) -> None:
    n_heads, n_kv_heads, head_dim = settings
    with pytest.raises(ValueError) as error:
        GroupedQueryAttention(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim)
    assert str(error.value) == message


def test_the_price_of_a_shared_head() -> None:
    """By hand: D=8, 4 query heads and 1 key head of 3: 8*12 + 2*8*3 + 12*8 weights."""
    made = GroupedQueryAttention(n_heads=4, n_kv_heads=1, head_dim=3)
    assert made.n_params(8) == 96 + 48 + 96
    assert made.flops_per_token(8, 10) == 2 * 240 + 2 * 2 * 12 * 10
    assert made.cache_bytes(10, 2) == 2 * 3 * 10 * 2
