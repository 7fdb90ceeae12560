"""The decoder as a whole: positions, ties, refusals."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from fabula.losses import linear_cross_entropy, linear_cross_entropy_explicit
from fabula.model.decoder import Decoder
from fabula.model.ffn import MixtureOfExperts
from fabula.model.positions import LearnedPositions, positions
from fabula.model.spans import Blocks, Sliding, SpanConfig
from tests.contracts.variants import D, V, build, config, tokens


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_positions_count_from_zero_and_on_from_the_cache() -> None:
    model, ids = build(config(position=LearnedPositions())), tokens(2, 6)
    given = model(ids, positions=torch.arange(6).unsqueeze(0))
    assert torch.equal(model(ids), given)
    assert not torch.allclose(model(ids, positions=torch.arange(1, 7).unsqueeze(0)), given)
    cache = model.new_cache()
    model(ids[:, :4], cache=cache)
    torch.testing.assert_close(model(ids[:, 4:], cache=cache), given[:, 4:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(positions))
@pytest.mark.parametrize("local", [None, Sliding(window=4), Blocks(size=3)], ids=["full", "sliding", "blocks"])
@torch.no_grad()
def test_padding_is_a_document_of_its_own(name: str, local: SpanConfig | None) -> None:
    """Texts of 9, 4 and 1 tokens in one batch, padded left or right, are each what they are alone."""
    parts = {} if local is None else {"local": local}
    model = build(config(position=positions.get(name)(), **parts))
    texts = [tokens(1, n, seed=n) for n in (9, 4, 1)]
    alone = [model(text) for text in texts]
    for left in (True, False):
        padded = [(9 - text.shape[1], 0) if left else (0, 9 - text.shape[1]) for text in texts]
        ids = torch.cat([F.pad(text, pad, value=7) for text, pad in zip(texts, padded, strict=True)])
        numbers = torch.cat([F.pad(torch.zeros_like(t), pad, value=-1) for t, pad in zip(texts, padded, strict=True)])
        places = torch.cat(
            [F.pad(torch.arange(t.shape[1]), pad).unsqueeze(0) for t, pad in zip(texts, padded, strict=True)]
        )
        together = model(ids, positions=places, documents=numbers)
        assert together.isfinite().all()
        for row, expected in enumerate(alone):
            close(together[row][numbers[row] == 0], expected[0])


@pytest.mark.parametrize("local", [None, Sliding(window=4), Blocks(size=3)], ids=["full", "sliding", "blocks"])
@torch.no_grad()
def test_a_padded_batch_goes_on_from_its_cache(local: SpanConfig | None) -> None:
    parts = {} if local is None else {"local": local}
    model, lengths = build(config(**parts)), (9, 4, 1)
    texts = [tokens(1, n + 12, seed=n) for n in lengths]
    begins = torch.cat([F.pad(t[:, :n], (9 - n, 0)) for t, n in zip(texts, lengths, strict=True)])
    numbers = torch.tensor([[0 if i >= 9 - n else -1 for i in range(9)] for n in lengths])
    places = torch.tensor([[max(0, i - 9 + n) for i in range(9)] for n in lengths])
    cache = model.new_cache()
    model(begins, positions=places, documents=numbers, cache=cache)
    for step in range(12):
        new = torch.cat([t[:, n + step : n + step + 1] for t, n in zip(texts, lengths, strict=True)])
        at = torch.tensor([[n + step] for n in lengths])
        got = model(new, positions=at, cache=cache)  # no numbers: the row's last document goes on
        for row, (text, n) in enumerate(zip(texts, lengths, strict=True)):
            close(got[row, 0], model(text[:, : n + step + 1])[0, -1])
        if step == 5:  # a beam that keeps the last row twice
            cache.select(torch.tensor([2, 0, 2]))
            texts, lengths = [texts[2], texts[0], texts[2]], (lengths[2], lengths[0], lengths[2])
    assert cache.documents is not None
    assert cache.documents.shape == (3, 21)


def test_more_tokens_than_the_context_are_refused() -> None:
    model = build(config(context_length=8))
    with pytest.raises(ValueError, match="9 tokens are more than the context_length of 8"):
        model(tokens(1, 9))
    cache = model.new_cache()
    model(tokens(1, 6), cache=cache)
    with pytest.raises(ValueError, match="9 tokens"):
        model(tokens(1, 3), cache=cache)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_to_read_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="nothing to read"):
        build(config())(torch.zeros(shape, dtype=torch.long))


def test_a_rewound_cache_serves_another_batch() -> None:
    model, cache = build(config()), None
    cache = model.new_cache()
    with torch.no_grad():
        model(tokens(4, 5), cache=cache)
        with pytest.raises(ValueError, match=r"the cache holds 4 rows of torch.float32, new are 1 of"):
            model(tokens(1, 5), cache=cache)
        cache.rewind(0)
        close(model(tokens(1, 5), cache=cache), model(tokens(1, 5)))


def test_a_mixture_can_be_copied_while_it_trains() -> None:
    model = build(config(ffn=MixtureOfExperts(d_ff=8, n_experts=3))).train()
    model(tokens(1, 9))
    assert copy.deepcopy(model).auxiliary() is None
    assert model.auxiliary() is not None


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
