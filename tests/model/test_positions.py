"""Positions: against twins, tables by hand, and the property that makes each scheme what it is."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fabula.model.positions import (
    Alibi,
    LearnedPosition,
    LearnedPositions,
    RelativePosition,
    RelativePositions,
    Rope,
    RopePosition,
    Shape,
    SinusoidalPosition,
    SinusoidalPositions,
    _Rotation,
    alibi_slopes,
    rotate,
    rotate_explicit,
)
from tests.contracts.variants import build, config, tokens


def rope(head_dim: int = 8, theta: float = 10_000.0) -> RopePosition:
    return RopePosition(Rope(theta=theta), head_dim)


def places(*numbers: int) -> torch.Tensor:
    return torch.tensor([numbers])


def test_rotation_is_its_explicit_twin() -> None:
    torch.manual_seed(0)
    tables = rope().tables(torch.stack((torch.arange(5), torch.arange(7, 12))))
    assert tables is not None
    assert tables[0].shape == (2, 5, 1, 8)
    slope, results = torch.randn(2, 5, 3, 8), []
    for turn in (rotate, rotate_explicit):
        x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = turn(x, tables)
        (out * slope).sum().backward()
        results.append((out, x.grad))
    for fast, explicit in zip(*results, strict=True):
        torch.testing.assert_close(fast, explicit)


def test_rotation_gradient_is_that_of_finite_differences() -> None:
    tables = rope(4, 10.0).tables(torch.arange(3).unsqueeze(0))
    assert tables is not None
    cosine, sine = (t.double() for t in tables)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: _Rotation.apply(a, cosine, sine), (x,))


def test_rotation_by_hand() -> None:
    """Width 4, theta 100: angles p and p / 10; pairs are (0, 2) and (1, 3)."""
    tables = rope(4, 100.0).tables(places(2))
    assert tables is not None
    x = torch.tensor([1.0, 0.0, 0.0, 5.0]).view(1, 1, 1, 4)
    expected = [math.cos(2), -5 * math.sin(0.2), math.sin(2), 5 * math.cos(0.2)]
    torch.testing.assert_close(rotate(x, tables).flatten(), torch.tensor(expected))


def test_position_zero_turns_nothing_and_no_position_changes_a_length() -> None:
    x = torch.randn(1, 3, 2, 8)
    tables = rope().tables(places(0, 1, 5000))
    assert tables is not None
    turned = rotate(x, tables)
    assert torch.equal(turned[:, 0], x[:, 0])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_scores_depend_on_distance_alone(query: int, key: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(query)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=generator)

    def score(a: int, b: int) -> float:
        tables = rope().tables(places(a)), rope().tables(places(b))
        assert tables[0] is not None
        assert tables[1] is not None
        return float((rotate(q, tables[0]) * rotate(k, tables[1])).sum())

    assert score(query, key) == pytest.approx(score(query + shift, key + shift), abs=1e-3)


@torch.no_grad()
def test_a_rope_model_sees_distances_only() -> None:
    model, ids = build(config()), tokens(1, 9)
    moved = model(ids, positions=torch.arange(40, 49).unsqueeze(0))
    torch.testing.assert_close(model(ids), moved, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_of_the_model_leaves_the_tables(dtype: torch.dtype) -> None:
    """In bfloat16 the angle of position 1,000 would be off by whole radians."""
    position, where = rope(64), torch.arange(2000).unsqueeze(0)
    before, after = position.tables(where), position.to(dtype).tables(where)
    assert before is not None
    assert after is not None
    for one, other in zip(before, after, strict=True):
        assert other.dtype == torch.float32
        assert torch.equal(one, other)


def test_rotation_keeps_the_format_of_its_input() -> None:
    tables = rope().tables(places(3))
    assert tables is not None
    assert rotate(torch.ones(1, 1, 1, 8, dtype=torch.bfloat16), tables).dtype == torch.bfloat16


def test_sinusoidal_table_by_hand() -> None:
    """Width 4: sin p, cos p, sin p/100, cos p/100."""
    table = SinusoidalPosition(4, 3).table
    expected = [[math.sin(p), math.cos(p), math.sin(p / 100), math.cos(p / 100)] for p in range(3)]
    torch.testing.assert_close(table, torch.tensor(expected))
    x = torch.ones(1, 2, 4)
    added = SinusoidalPositions().build(Shape(4, 3, 2, 2)).embed(x, places(2, 0))
    torch.testing.assert_close(added[0], 1 + torch.tensor(expected)[[2, 0]])


def test_learned_positions_are_added() -> None:
    position = LearnedPositions().build(Shape(3, 5, 1, 2))
    assert isinstance(position, LearnedPosition)
    x = torch.randn(2, 2, 3)
    added = position.embed(x, places(4, 1))
    torch.testing.assert_close(added, x + position.table.weight[[4, 1]])
    assert position.tables(places(0)) is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="head_dim=5 must be even"):
        Rope().check(Shape(16, 9, 3, 5))
    with pytest.raises(ValueError, match="even d_model, got 7"):
        SinusoidalPositions().check(Shape(7, 9, 1, 4))
    for theta in (1.0, 0.0, -3.0):
        with pytest.raises(ValueError, match="must be above 1"):
            Rope(theta=theta)


def test_alibi_by_hand() -> None:
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(3) == [2.0**-4, 2.0**-8, 2.0**-2]
    bias = Alibi().build(Shape(8, 9, 2, 4)).bias(torch.tensor([[0, -1], [1, 0]]))
    assert bias[0].tolist() == [[0.0, -0.0625], [-0.0625, 0.0]]


def test_relative_buckets_by_hand() -> None:
    """32 buckets looking back: 16 exact, then by logarithm up to 128; both ways 16 each."""
    back = RelativePositions().build(Shape(8, 9, 2, 4))
    assert isinstance(back, RelativePosition)
    distances = torch.tensor([[-5, 0, 1, 15, 16, 18, 64, 127, 128, 5000]])
    assert back.buckets(distances).tolist() == [[0, 0, 1, 15, 16, 16, 26, 31, 31, 31]]
    both = RelativePositions().build(Shape(8, 9, 2, 4), both_ways=True)
    assert isinstance(both, RelativePosition)
    assert both.buckets(torch.tensor([[-200, -1, 0, 7, 8, 200]])).tolist() == [[31, 17, 0, 7, 8, 15]]


def frequencies(**settings: object) -> torch.Tensor:
    return RopePosition(Rope(**settings), 16)._scaled(torch.device("cpu"))[0]  # type: ignore[arg-type]


def test_scalings_of_rope() -> None:
    plain = 10_000.0 ** -(torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(frequencies(scaling="linear", factor=4.0), plain / 4)
    ntk = frequencies(scaling="ntk", factor=4.0)
    assert float(ntk[0]) == 1.0, "the fastest stays"
    torch.testing.assert_close(ntk[-1], plain[-1] / 4)
    for scaling in ("yarn", "llama3"):
        scaled = frequencies(scaling=scaling, factor=4.0, original_context=512)
        torch.testing.assert_close(scaled[0], plain[0])
        torch.testing.assert_close(scaled[-1], plain[-1] / 4)
        assert ((scaled <= plain * 1.0001) & (scaled >= plain / 4.0001)).all()


def test_only_layers_that_see_everything_are_scaled() -> None:
    where = torch.arange(50).unsqueeze(0)
    position = RopePosition(Rope(scaling="linear", factor=2.0, local_theta=100.0), 8)
    local, everywhere = position.tables(where, local=True), position.tables(where)
    alone, halved = rope(8, 100.0).tables(where), rope(8).tables(0.5 * where)
    assert local is not None
    assert everywhere is not None
    assert alone is not None
    assert halved is not None
    assert torch.equal(local[0], alone[0])
    torch.testing.assert_close(everywhere[0], halved[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 2.0}, "does nothing without a scaling"),
        ({"scaling": "linear", "factor": 0.5}, "factor=0.5 must be at least 1"),
        ({"scaling": "yarn", "factor": 2.0}, "original_context=0: yarn needs"),
        ({"local_theta": 1.0}, "local_theta=1.0"),
        ({"scaling": "yarn", "original_context": 9, "beta_slow": 40.0}, "beta_slow"),
        ({"low_freq_factor": 5.0}, "low_freq_factor"),
    ],
)
def test_impossible_ropes(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rope(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n_buckets", "max_distance"), [(6, 128), (0, 128), (32, 16)])
def test_impossible_buckets(n_buckets: int, max_distance: int) -> None:
    with pytest.raises(ValueError, match="n_buckets"):
        RelativePositions(n_buckets=n_buckets, max_distance=max_distance)
