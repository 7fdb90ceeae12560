"""Layers that see only what is near: who sees whom, pieces, rings, and what they cost."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fabula.model import attention
from fabula.model.attention import attend_explicit, attend_flex, attend_fused, set_path, usual_path
from fabula.model.cache import LayerCache, positions_held
from fabula.model.masks import Sight
from fabula.model.positions import Alibi, RelativePositions, Shape
from fabula.model.spans import Blocks, Full, Sliding, SpanConfig
from tests.contracts.variants import build, config, tokens


def show(sight: Sight) -> list[str]:
    return ["".join(str(int(x)) for x in row) for row in sight.allowed()[0, 0]]


def test_a_sliding_window_counts_the_token_itself() -> None:
    assert show(Sight(5, 5, span=Sliding(window=2))) == ["10000", "11000", "01100", "00110", "00011"]
    assert show(Sight(3, 3, span=Sliding(window=1))) == ["100", "010", "001"]
    assert show(Sight(3, 3, span=Sliding(window=9))) == ["100", "110", "111"]


def test_blocks() -> None:
    assert show(Sight(6, 6, span=Blocks(size=2, before=0))) == [
        "100000", "110000", "001000", "001100", "000010", "000011",
    ]  # fmt: skip
    assert show(Sight(6, 6, span=Blocks(size=2, before=1))) == [
        "100000", "110000", "111000", "111100", "001110", "001111",
    ]  # fmt: skip


def test_queries_after_a_cache_see_what_they_would_see_alone() -> None:
    for span in (Sliding(window=3), Blocks(size=2)):
        whole = Sight(7, 7, span=span).allowed()
        later = Sight(2, 7, span=span, positions=torch.tensor([[5, 6]])).allowed()
        assert torch.equal(later[0, 0], whole[0, 0, 5:])


def test_blocks_begin_anew_in_each_document() -> None:
    numbers, places = torch.tensor([[0, 0, 0, 1, 1, 1]]), torch.tensor([[0, 1, 2, 0, 1, 2]])
    sight = Sight(6, 6, span=Blocks(size=2, before=0), positions=places, documents=numbers)
    assert show(sight) == ["100000", "110000", "001000", "000100", "000110", "000001"]


@pytest.mark.parametrize("wrong", [0, -4])
def test_impossible_spans(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"window={wrong} must be at least 1; for no limit use kind = full"):
        Sliding(window=wrong)
    with pytest.raises(ValueError, match=f"size={wrong}"):
        Blocks(size=wrong)
    with pytest.raises(ValueError, match="causal"):
        Sight(3, 3, causal=False, span=Sliding(window=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "LG"}, "give local.kind"),
        ({"local": Sliding(window=3), "pattern": "G"}, "put an L into the pattern"),
        ({"pattern": "GLX", "local": Sliding(window=3)}, "made of G"),
        ({"pattern": "", "local": Sliding(window=3)}, "made of G"),
        ({"pattern": "LLLLLG", "local": Sliding(window=3)}, "names 6 layers, n_layers=2"),
    ],
)
def test_patterns_that_contradict_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_a_pattern_is_repeated() -> None:
    made = config(n_layers=8, pattern="LLG", local=Sliding(window=3))
    assert made.kinds() == "LLGLLGLL"
    assert made.reaches() == [2, 2, None, 2, 2, None, 2, 2]


LONG = {
    "window 1": Sight(700, 700, span=Sliding(window=1)),
    "window 100": Sight(700, 700, span=Sliding(window=100)),
    "window 300": Sight(700, 700, span=Sliding(window=300)),
    "blocks": Sight(700, 700, span=Blocks(size=70)),
    "after a cache": Sight(300, 700, span=Sliding(window=100)),
    "everything after a cache": Sight(300, 700),
    "documents": Sight(700, 700, documents=torch.arange(700).div(90, rounding_mode="floor").unsqueeze(0)),
    "window and documents": Sight(
        700,
        700,
        span=Sliding(window=100),
        documents=torch.stack([torch.arange(700) // n for n in (90, 400)]),
    ),
    "alibi": Sight(700, 700, bias=Alibi().build(Shape(8, 9, 4, 6)).bias),
    "alibi in a window": Sight(700, 700, span=Sliding(window=90), bias=Alibi().build(Shape(8, 9, 4, 6)).bias),
}


@pytest.mark.parametrize("cap", [0.0, 1.5], ids=["", "capped"])
@pytest.mark.parametrize("sight", LONG.values(), ids=LONG)
def test_pieces_together_are_the_whole(sight: Sight, cap: float) -> None:
    assert len(sight.pieces(torch.float32)) > 1
    results = []
    slope = torch.randn(2, 4, sight.n_queries, 6)
    for attend in (attend_fused, attend_explicit):
        generator = torch.Generator().manual_seed(0)
        q = torch.randn(2, 4, sight.n_queries, 6, generator=generator).requires_grad_()
        k, v = (torch.randn(2, 2, sight.n_keys, 6, generator=generator).requires_grad_() for _ in range(2))
        out = attend(q, k, v, sight, 0.7, cap)
        (out * slope).sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(attend(q, k, v, sight, 0.7, cap), out.detach(), rtol=1e-5, atol=1e-5)
        results.append((out, q.grad, k.grad, v.grad))
    for fused, explicit in zip(*results, strict=True):
        torch.testing.assert_close(fused, explicit, rtol=1e-4, atol=1e-4)


def test_a_trained_bias_learns_through_pieces() -> None:
    position = RelativePositions(n_buckets=8, max_distance=20).build(Shape(8, 9, 4, 6))
    gradients = []
    for attend in (attend_fused, attend_explicit):
        position.zero_grad()
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, 4, 600, 6, generator=generator).requires_grad_() for _ in range(3))
        out = attend(q, k, v, Sight(600, 600, span=Sliding(window=50), bias=position.bias), 0.5)
        out.square().sum().backward()
        gradients.append([t.grad.clone() for t in (position.table.weight, q, k, v) if t.grad is not None])
    for fused, explicit in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, explicit, rtol=1e-4, atol=1e-4)


def test_pieces_can_be_gone_back_through_twice() -> None:
    q, k, v = (torch.randn(1, 1, 300, 4, requires_grad=True) for _ in range(3))
    out = attend_fused(q, k, v, Sight(300, 300, span=Sliding(window=9)), 0.5).sum()
    out.backward(retain_graph=True)
    once = [t.grad.clone() for t in (q, k, v) if t.grad is not None]
    out.backward()
    for t, first in zip((q, k, v), once, strict=True):
        assert t.grad is not None
        torch.testing.assert_close(t.grad, 2 * first)


def test_one_document_a_row_is_told_apart_from_nothing() -> None:
    numbers = torch.tensor([[4] * 900, [7] * 900])
    assert [piece.causal for piece in Sight(900, 900, documents=numbers).pieces(torch.float32)] == [True]


def test_padding_of_a_source_is_one_row_of_a_mask() -> None:
    seen = torch.arange(500).unsqueeze(0) < torch.tensor([[300], [500]])
    (piece,) = Sight(400, 500, causal=False, seen=seen).pieces(torch.float32)
    assert piece.mask is not None
    assert piece.mask.shape == (2, 1, 1, 500)


FLEXIBLE = {
    "window": Sight(40, 40, span=Sliding(window=5)),
    "blocks": Sight(40, 40, span=Blocks(size=8)),
    "documents": Sight(40, 40, documents=torch.stack([torch.arange(40) // n for n in (9, 30)])),
    "after a cache": Sight(17, 40, span=Sliding(window=5)),
    "padded, both ways": Sight(40, 40, causal=False, seen=torch.arange(40).unsqueeze(0) < torch.tensor([[30], [40]])),
}


@pytest.mark.parametrize("cap", [0.0, 1.5], ids=["", "capped"])
@pytest.mark.parametrize("sight", FLEXIBLE.values(), ids=FLEXIBLE)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_is_the_explicit_one(sight: Sight, cap: float) -> None:
    """Forwards, which is all that torch runs on a CPU."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, sight.n_queries, 16, generator=generator)
    k, v = (torch.randn(2, 2, sight.n_keys, 16, generator=generator) for _ in range(2))
    out = attend_flex(q, k, v, sight, 0.3, cap)
    torch.testing.assert_close(out, attend_explicit(q, k, v, sight, 0.3, cap), rtol=1e-4, atol=1e-4)


def test_the_road_is_chosen_with_a_reason() -> None:
    plain = {"documents": False, "spans": False, "capped": False, "biased": False}
    assert usual_path("cpu", **(plain | {"spans": True}))[0] == "fused"
    assert "no backward pass on cpu" in usual_path("cpu", **plain)[1]
    assert usual_path("cuda", **plain)[0] == "fused"
    assert usual_path("cuda", **(plain | {"documents": True, "biased": True}))[0] == "fused"
    chosen, why = usual_path("cuda", **(plain | {"documents": True, "spans": True}))
    assert (chosen == "flex") == ("skips what documents and spans hide" in why)


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation makes, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("span", [Full(), Sliding(window=64), Blocks(size=32)], ids=["full", "sliding", "blocks"])
def test_no_mask_of_all_by_all_is_made(span: SpanConfig) -> None:
    """At 4,096 tokens one head's scores would be 16.8 million numbers."""
    q, k, v = (torch.randn(1, 1, 4096, 4, requires_grad=True) for _ in range(3))
    with _Largest() as largest:
        attend_fused(q, k, v, Sight(4096, 4096, span=span), 0.5).sum().backward()
    assert largest.elements <= 4096 * 8


def test_the_cost_of_a_window_is_in_proportion_to_it() -> None:
    """Scores computed, which is time: doubling the length doubles it, and little more than the window is computed."""

    def scores(length: int, window: int) -> int:
        sight = Sight(length, length, span=Sliding(window=window))
        return sum(
            (p.queries.stop - p.queries.start) * (p.keys.stop - p.keys.start) for p in sight.pieces(torch.float32)
        )

    assert scores(8192, 512) < 1.25 * 8192 * 512
    assert scores(8192, 512) < 2.1 * scores(4096, 512)
    assert scores(8192, 512) < 2.1 * scores(8192, 256)


def numbered(start: int, n: int) -> Tensor:
    return torch.arange(start, start + n).float().view(1, 1, n, 1).expand(2, 3, n, 4)


@pytest.mark.parametrize("most", [0, 4, 63, 64, 200])
@pytest.mark.parametrize("chunks", [[1] * 500, [7] * 70, [300, 1, 1, 150], [1, 499]], ids=["1", "7", "long", "late"])
def test_a_ring_returns_what_can_be_seen_and_holds_little_more(most: int, chunks: list[int]) -> None:
    cache, done = LayerCache(most), 0
    for n in chunks:
        expected = n + min(done, most)
        assert cache.n_keys(n) == expected
        keys, values = cache.append(numbered(done, n), -numbered(done, n))
        done += n
        assert torch.equal(keys, numbered(done - expected, expected))
        assert torch.equal(values, -keys)
        assert cache.n_bytes() == 2 * (2 * 3 * positions_held(done, most) * 4) * 4
    assert cache.n_bytes() <= 2 * (2 * 3 * (most + 192) * 4) * 4


@torch.no_grad()
@pytest.mark.parametrize("local", [Sliding(window=5), Blocks(size=4)], ids=["sliding", "blocks"])
def test_cached_is_uncached_far_past_the_edge_of_the_window(local: SpanConfig) -> None:
    """500 tokens: the ring of a window of 5 has dropped what is old several times."""
    model, ids = build(config(context_length=600, local=local)), tokens(2, 500)
    whole, cache, parts = model(ids), model.new_cache(), []
    for size in [1] * 150 + [130, 1, 1, 68] + [1] * 150:
        start = cache.length
        parts.append(model(ids[:, start : start + size], cache=cache))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=2e-5, atol=2e-5)
    assert cache.layers[0].n_bytes() < cache.layers[1].n_bytes() / 2
    for back in (499, 470, 441):  # within the reserve
        cache.rewind(back)
        again = model(ids[:, back:], cache=cache)
        torch.testing.assert_close(again, whole[:, back:], rtol=2e-5, atol=2e-5)
    lengths = [layer.length for layer in cache.layers]
    with pytest.raises(ValueError, match="cannot rewind to 200: a layer that looks back"):
        cache.rewind(200)
    assert [layer.length for layer in cache.layers] == lengths, "nothing was changed"
    torch.testing.assert_close(
        model(ids[:, :1], positions=torch.tensor([[500]]), cache=cache).isfinite().all(), torch.tensor(True)
    )
    cache.rewind(0)
    torch.testing.assert_close(model(ids, cache=cache), whole, rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_the_price_of_local_layers() -> None:
    made = config(context_length=4096, local=Sliding(window=5))
    everywhere = dataclasses.replace(made, pattern="G", local=Full())
    assert made.flops_per_token(5) == everywhere.flops_per_token(5)
    # One of two layers sees 5 keys of 1,000: 4 heads of width 6, a product for scores and one for the sum.
    assert everywhere.flops_per_token(1000) - made.flops_per_token(1000) == 2 * 2 * 24 * 995
    model, cache = build(made), None
    cache = model.new_cache()
    model(tokens(1, 640), cache=cache)
    assert cache.n_bytes() == made.cache_bytes(640)
    assert made.cache_bytes() < 0.6 * everywhere.cache_bytes()


def test_all_roads_are_known() -> None:
    model = build(config())
    for path in ("explicit", "flex", "fused"):
        set_path(model, path)  # type: ignore[arg-type]
        assert set(attention._ROADS) == {"explicit", "flex", "fused"}
        assert model(tokens(1, 5)).isfinite().all()
