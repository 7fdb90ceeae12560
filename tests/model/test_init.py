"""The weights before the first step are what the configuration promises."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from fabula.model.attention import GroupedQueryAttention
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.ffn import ReluFFN
from fabula.model.init import InitConfig
from fabula.model.norms import LayerNormConfig
from fabula.model.positions import LearnedPositions
from tests.contracts.variants import config, tokens


def wide(init: InitConfig) -> Decoder:
    """Wide enough that a standard deviation can be measured to a percent or two."""
    torch.manual_seed(0)
    return Decoder(
        ModelConfig(
            vocab_size=400,
            context_length=100,
            d_model=96,
            n_layers=4,
            attention=GroupedQueryAttention(
                n_heads=4, n_kv_heads=4, head_dim=32, q_bias=True, k_bias=True, v_bias=True, out_bias=True
            ),
            position=LearnedPositions(),
            ffn=ReluFFN(d_ff=160, bias=True),
            norm=LayerNormConfig(),
            tied=False,
            head_bias=True,
            init=init,
        )
    )


def test_vectors_start_neutral() -> None:
    for name, parameter in wide(InitConfig()).named_parameters():
        if parameter.ndim == 1:
            expected = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            assert (parameter == expected).all(), name


@pytest.mark.parametrize("output", ["same", "depth_scaled", "zero"])
@pytest.mark.parametrize("linear", ["normal", "fan_in", "xavier"])
def test_standard_deviations(
    linear: Literal["normal", "fan_in", "xavier"], output: Literal["same", "depth_scaled", "zero"]
) -> None:
    init = InitConfig(linear=linear, std=0.05, embedding_std=0.3, output=output)
    model = wide(init)
    outputs = {id(block.attention.out_proj) for block in model.blocks} | {id(block.ffn.down) for block in model.blocks}
    factor = {"same": 1.0, "depth_scaled": 8**-0.5, "zero": 0.0}[output]
    found = 0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            both = module.in_features + module.out_features
            std = {"normal": 0.05, "fan_in": module.in_features**-0.5, "xavier": (2 / both) ** 0.5}[linear]
            if id(module) in outputs:
                std, found = std * factor, found + 1
            assert float(module.weight.detach().std()) == pytest.approx(std, rel=0.03)
            assert abs(float(module.weight.detach().mean())) <= 0.05 * std
    assert found == 8
    assert float(model.embedding.weight.detach().std()) == pytest.approx(0.3, rel=0.03)
    assert float(model.position.table.weight.detach().std()) == pytest.approx(0.05, rel=0.03)


@torch.no_grad()
def test_with_zero_outputs_every_block_is_the_identity() -> None:
    model = Decoder(config(n_layers=3, init=InitConfig(output="zero"))).eval()
    x = torch.randn(2, 5, model.config.d_model)
    tables = model.position.tables(torch.arange(5).unsqueeze(0))
    for block in model.blocks:
        assert torch.equal(block(x, tables, None, None), x)
    ids = tokens(1, 5)
    assert torch.equal(model.hidden(ids), model.norm(model.embedding(ids)))


def test_a_first_loss_is_that_of_the_uniform_model() -> None:
    model = wide(InitConfig())
    ids = torch.randint(0, 400, (4, 50))
    loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), torch.randint(0, 400, (200,)))
    assert float(loss.detach()) == pytest.approx(torch.log(torch.tensor(400.0)).item(), abs=0.1)


@pytest.mark.parametrize("name", ["std", "embedding_std"])
@pytest.mark.parametrize("value", [0.0, -0.02])
def test_widths_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} must be above 0"):
        InitConfig(**{name: value})
