"""Where norms stand in a block."""

from __future__ import annotations

import pytest
import torch

from fabula.model.decoder import Decoder
from fabula.model.init import InitConfig
from tests import tiny


def block(placement: str, **changes: object) -> tuple[Decoder, torch.Tensor]:
    torch.manual_seed(0)
    init = InitConfig(linear="normal", std=0.3, output="same")
    model = Decoder(tiny.model_config(n_layers=1, placement=placement, init=init, **changes)).eval()
    return model, torch.randn(2, 5, 32)


def test_post_norm_ends_at_unit_scale() -> None:
    model, x = block("post")
    out = model.blocks[0](50 * x, None, None, None)
    assert out.square().mean(-1).sqrt().allclose(torch.ones(2, 5), atol=1e-3)


def test_sandwich_adds_parts_of_unit_scale() -> None:
    """Whatever the size of the stream, each part adds a vector of root mean square 1."""
    model, x = block("sandwich")
    layer = model.blocks[0]
    mixed = layer.attention_out_norm(layer.attention(layer.attention_norm(100 * x), None, None, None))
    assert mixed.square().mean(-1).sqrt().allclose(torch.ones(2, 5), atol=1e-3)
    after = 100 * x + mixed
    expected = after + layer.ffn_out_norm(layer.ffn(layer.ffn_norm(after)))
    assert torch.equal(layer(100 * x, None, None, None), expected)


def test_sandwich_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="zero"):
        tiny.model_config(placement="sandwich", init=InitConfig(output="zero"))


def test_embeddings_are_scaled_once() -> None:
    plain, scaled = (Decoder(tiny.model_config(n_layers=1, embedding_scale=s)) for s in (1.0, "sqrt_width"))
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        plain.embedding.weight.mul_(32**0.5)
    ids = torch.arange(6)[None]
    assert torch.allclose(plain.hidden(ids), scaled.hidden(ids), atol=1e-5)


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan")])
def test_impossible_scales(scale: float) -> None:
    with pytest.raises(ValueError, match="embedding_scale"):
        tiny.model_config(embedding_scale=scale)
