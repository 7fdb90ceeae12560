"""The decoder as a whole: positions, ties, refusals."""

from __future__ import annotations

import copy

import pytest
import torch

from fabula.losses import linear_cross_entropy, linear_cross_entropy_explicit
from fabula.model.decoder import Decoder
from fabula.model.positions import LearnedPositions
from tests.contracts.variants import D, V, build, config, tokens


@torch.no_grad()
def test_positions_count_from_zero_and_on_from_the_cache() -> None:
    model, ids = build(config(position=LearnedPositions())), tokens(2, 6)
    given = model(ids, positions=torch.arange(6).unsqueeze(0))
    assert torch.equal(model(ids), given)
    assert not torch.allclose(model(ids, positions=torch.arange(1, 7).unsqueeze(0)), given)
    cache = model.new_cache()
    model(ids[:, :4], cache=cache)
    torch.testing.assert_close(model(ids[:, 4:], cache=cache), given[:, 4:], rtol=1e-5, atol=1e-5)


def test_documents_and_a_cache_are_refused() -> None:
    model = build(config())
    with pytest.raises(ValueError, match="cannot be combined"):
        model(tokens(1, 3), documents=torch.zeros(1, 3), cache=model.new_cache())


def test_a_tied_head_is_the_embedding() -> None:
    tied, untied = build(config()), build(config(tied=False))
    assert tied.head_weight is tied.embedding.weight
    assert untied.head_weight is not untied.embedding.weight
    assert untied.head_weight.shape == (V, D)
    assert "head.weight" not in tied.state_dict()
    assert copy.deepcopy(tied).head_weight is not tied.head_weight


def test_a_tied_embedding_gathers_both_gradients() -> None:
    """From the input side and from the head; the chunked loss and the textbook loss agree on the sum."""
    ids, gradients = tokens(2, 8), []
    for loss in (linear_cross_entropy, linear_cross_entropy_explicit):
        model = build(config(head_bias=True))
        hidden = model.hidden(ids[:, :-1]).flatten(0, 1)
        loss(hidden, model.head_weight, ids[:, 1:].flatten(), model.head_bias).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-4, atol=1e-4)
    model = build(config())
    hidden = model.hidden(ids[:, :-1]).flatten(0, 1)
    linear_cross_entropy(hidden, model.head_weight.detach(), ids[:, 1:].flatten()).backward()
    from_input = model.embedding.weight.grad
    assert from_input is not None
    assert not torch.allclose(from_input, gradients[0]["embedding.weight"], atol=1e-3)


def test_autocast_gives_float32_logits_near_the_exact_ones() -> None:
    model, ids = build(config()), tokens(1, 9)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(ids)
    assert rough.dtype == torch.float32
    exact = model(ids).detach()
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().max()


@torch.no_grad()
def test_cached_is_uncached_under_autocast() -> None:
    model, ids = build(config()), tokens(1, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache, whole = model.new_cache(), model(ids)
        steps = torch.cat([model(ids[:, i : i + 1], cache=cache) for i in range(9)], dim=1)
    assert (steps - whole).abs().mean() < 0.02 * whole.abs().max()


def test_a_model_on_the_meta_device_has_its_shapes_and_no_memory() -> None:
    with torch.device("meta"):
        model = Decoder(config())
    assert sum(p.numel() for p in model.parameters()) == config().n_params()
    assert model(torch.zeros(1, 4, dtype=torch.long, device="meta")).shape == (1, 4, V)
