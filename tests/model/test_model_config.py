"""The arithmetic of a configuration, and what it refuses."""

from __future__ import annotations

import pytest

from fabula.config import build, to_data
from fabula.errors import ConfigError
from fabula.model.attention import GroupedQueryAttention
from fabula.model.config import ModelConfig
from fabula.model.ffn import GeluFFN, SwigluFFN
from fabula.model.norms import LayerNormConfig
from fabula.model.positions import LearnedPositions, Rope, SinusoidalPositions
from tests.contracts.variants import config, example


def test_by_hand() -> None:
    made = ModelConfig(
        vocab_size=10,
        context_length=6,
        d_model=4,
        n_layers=2,
        attention=GroupedQueryAttention(n_heads=2, n_kv_heads=1, head_dim=2),
        position=LearnedPositions(),
        ffn=SwigluFFN(d_ff=5),
        norm=LayerNormConfig(),
        tied=False,
        head_bias=True,
    )
    assert made.parts() == {
        "embedding": 10 * 4,
        "positions": 6 * 4,
        "attention": 2 * (4 * 4 + 2 * 4 * 2 + 4 * 4),
        "ffn": 2 * 3 * 4 * 5,
        "norms": 5 * 8,
        "head": 10 * 4 + 10,
    }
    layer = 2 * 48 + 2 * 2 * 4 * 3 + 2 * 60
    assert made.flops_per_token(3) == 2 * layer + 2 * 4 * 10
    assert made.cache_bytes(3, bytes_per_number=2) == 2 * (2 * 1 * 2 * 3) * 2
    assert made.cache_bytes() == made.cache_bytes(6, 4)


@pytest.mark.parametrize("name", ["vocab_size", "context_length", "d_model", "n_layers"])
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_must_be_positive(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"model: {name}={value} must be at least 1"):
        build(ModelConfig, to_data(config()) | {name: value}, "model")


@pytest.mark.parametrize("value", [-0.1, 1.0, 2])
def test_dropout_is_a_share(value: float) -> None:
    with pytest.raises(ConfigError, match="must be at least 0 and below 1"):
        build(ModelConfig, to_data(config()) | {"dropout": value}, "model")


def test_parts_must_fit_each_other() -> None:
    odd = GroupedQueryAttention(n_heads=2, n_kv_heads=1, head_dim=5)
    with pytest.raises(ValueError, match="head_dim=5 must be even"):
        config(attention=odd, position=Rope())
    config(attention=odd, position=SinusoidalPositions())
    data = to_data(config(position=SinusoidalPositions())) | {"d_model": 7}
    with pytest.raises(ConfigError, match="even d_model, got 7"):
        build(ModelConfig, data, "model")


def test_all_problems_of_a_model_come_at_once() -> None:
    data = to_data(config())
    data |= {"d_modle": 3, "n_layers": "many", "position": {"kind": "ropes"}}
    data["attention"] = {"kind": "gqa", "n_heads": 6, "n_kv_heads": 4, "head_dim": 8}
    data["ffn"] = {"kind": "gelu", "d_ff": -1}
    with pytest.raises(ConfigError) as error:
        build(ModelConfig, data, "model")
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 5
    assert 'model.d_modle: unknown key; did you mean "d_model"?' in text
    assert 'model.n_layers: expected a whole number, got "many"' in text
    assert 'model.position.kind: unknown position "ropes"; did you mean "rope"?' in text
    assert "model.attention: n_heads=6 must be a multiple of n_kv_heads=4; try n_kv_heads = 6, 3, 2, 1" in text
    assert "model.ffn: d_ff=-1 must be at least 1" in text


def test_the_two_gelus_differ() -> None:
    import torch

    torch.manual_seed(0)
    near, exact = (example(GeluFFN, tanh=tanh).build(8) for tanh in (True, False))
    exact.load_state_dict(near.state_dict())
    x = torch.randn(3, 8) * 4
    assert not torch.equal(near(x), exact(x))
    torch.testing.assert_close(near(x), exact(x), rtol=2e-3, atol=2e-3)
