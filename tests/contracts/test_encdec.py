"""What an encoder-decoder keeps, with every registered position, norm and network: nothing of padding or of the future
is seen, the cache changes nothing, every parameter is priced, trained and saved."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fabula.config import build as build_config
from fabula.config import to_data
from fabula.errors import ConfigError
from fabula.losses import linear_cross_entropy
from fabula.model.attention import mixers, set_path
from fabula.model.encdec import EncoderDecoder, EncoderDecoderConfig
from fabula.model.ffn import ffns
from fabula.model.init import InitConfig
from fabula.model.norms import norms
from fabula.model.positions import positions
from tests.contracts.variants import example

D, V, CONTEXT = 12, 23, 96


def config(**parts: Any) -> EncoderDecoderConfig:
    """A tiny configuration whose two stacks and vocabularies differ."""
    chosen: dict[str, Any] = {
        "encoder_layers": 2,
        "decoder_layers": 3,
        "attention": example(mixers.get("gqa")),
        "position": example(positions.get("relative")),
        "ffn": example(ffns.get("geglu")),
        "norm": example(norms.get("rmsnorm")),
        "init": InitConfig(linear="normal", std=0.3, embedding_std=1.0, output="same"),
    }
    return EncoderDecoderConfig(vocab_size=V, context_length=CONTEXT, d_model=D, **{**chosen, **parts})


def variants() -> list[tuple[str, EncoderDecoderConfig]]:
    found = [
        (f"{family}-{name}", config(**{family: example(registry.get(name))}))
        for family, registry in (("position", positions), ("ffn", ffns), ("norm", norms))
        for name in registry
    ]
    heads = example(mixers.get("gqa"))
    found += [
        ("t5", config(attention=dataclasses.replace(heads, n_kv_heads=4, scale=1.0), head_scale="inverse_sqrt_width")),
        ("biases", config(attention=dataclasses.replace(heads, q_bias=True, k_bias=True, v_bias=True, out_bias=True))),
        ("qk_norm", config(attention=dataclasses.replace(heads, qk_norm=True))),
        ("capped", config(attention=dataclasses.replace(heads, logit_cap=2.0), logit_cap=3.0)),
        ("post", config(placement="post", final_norm=False)),
        ("sandwich", config(placement="sandwich")),
        ("untied", config(tied=False, head_bias=True)),
        ("two_vocabularies", config(shared_embedding=False, source_vocab_size=31, tied=False)),
        ("two_embeddings", config(shared_embedding=False)),
        ("scaled", config(embedding_scale="sqrt_width", head_scale=0.5)),
        ("dropout", config(dropout=0.4)),
    ]
    return found


VARIANTS = variants()
every_variant = pytest.mark.parametrize("made", [c for _, c in VARIANTS], ids=[name for name, _ in VARIANTS])
LENGTHS = torch.tensor([7, 1, 4])


def build(made: EncoderDecoderConfig, seed: int = 0) -> EncoderDecoder:
    """In evaluation mode; vectors get random values too, at 1 and 0 a mistake can hide."""
    torch.manual_seed(seed)
    model = EncoderDecoder(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def ids(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@every_variant
def test_shapes_and_formats(made: EncoderDecoderConfig) -> None:
    model, source, tokens = build(made), ids(3, 7), ids(3, 5, seed=2)
    with torch.no_grad():
        hidden, logits = model.hidden(source, LENGTHS, tokens), model(source, LENGTHS, tokens)
    assert model.encode(source, LENGTHS).shape == (3, 7, D)
    assert hidden.shape == (3, 5, D)
    assert logits.shape == (3, 5, V)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    close(model.logits(hidden), logits, 0)
    assert model(ids(1, 1), None, ids(1, 1)).shape == (1, 1, V)


@every_variant
@torch.no_grad()
def test_logits_are_the_same_whatever_the_padding(made: EncoderDecoderConfig) -> None:
    """Other ids in the padding, more of it, or none: a row is what it is alone."""
    model, source, tokens = build(made), ids(3, 7), ids(3, 5, seed=2)
    before = model(source, LENGTHS, tokens)
    other = source.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        other[row, length:] = (other[row, length:] + 5) % V
    assert not torch.equal(other, source)
    close(model(other, LENGTHS, tokens), before, 1e-5)
    wider = torch.cat((source, ids(3, 9, seed=4)), dim=1)
    close(model(wider, LENGTHS, tokens), before)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(source[row : row + 1, :length], None, tokens[row : row + 1])
        close(alone, before[row : row + 1])
        close(model(source[row : row + 1, :length], LENGTHS[row : row + 1], tokens[row : row + 1]), alone)


@every_variant
@torch.no_grad()
def test_every_token_of_the_source_is_seen_and_none_after_it(made: EncoderDecoderConfig) -> None:
    model, source, tokens = build(made), ids(3, 7), ids(3, 5, seed=2)
    before = model(source, LENGTHS, tokens)
    for place in range(7):
        changed = source.clone()
        changed[:, place] = (changed[:, place] + 1) % V
        after = model(changed, LENGTHS, tokens)
        for row, length in enumerate(LENGTHS.tolist()):
            # By more than a mixture of experts' rounding, which depends on who shares its matrix products.
            same = torch.allclose(after[row, 0], before[row, 0], atol=1e-4)
            assert same == (place >= length), (row, place)


@every_variant
@torch.no_grad()
def test_a_later_target_token_never_changes_an_earlier_logit(made: EncoderDecoderConfig) -> None:
    model, source, tokens = build(made), ids(2, 6), ids(2, 12, seed=2)
    before = model(source, None, tokens)
    for place in (1, 5, 11):
        changed = tokens.clone()
        changed[:, place:] = (changed[:, place:] + 1) % V
        after = model(source, None, changed)
        close(after[:, :place], before[:, :place], 1e-5)
        assert not torch.allclose(after[:, place], before[:, place]), "the changed token shows where it stands"


@every_variant
def test_a_later_target_token_has_no_gradient_on_an_earlier_logit(made: EncoderDecoderConfig) -> None:
    model = build(made)
    memory = model.remember(model.encode(ids(1, 4)))
    seen: list[Tensor] = []

    def keep(_module: object, _inputs: object, out: Tensor) -> Tensor:
        seen.append(out.detach().requires_grad_())
        return seen[-1]

    handle = model.embedding.register_forward_hook(keep)
    model.logits(model.decode(ids(1, 9, seed=2), memory))[0, 4].sum().backward()
    handle.remove()
    assert seen[0].grad is not None
    assert (seen[0].grad[0, 5:] == 0).all()
    assert (seen[0].grad[0, :5].abs().sum(dim=-1) > 0).all()


@every_variant
@torch.no_grad()
def test_cached_is_uncached_token_by_token(made: EncoderDecoderConfig) -> None:
    """70 tokens: over the border of the cache's blocks. Keys and values of the source are computed once."""
    model, source, tokens = build(made), ids(3, 7), ids(3, 70, seed=2)
    memory, cache = model.remember(model.encode(source, LENGTHS), LENGTHS), model.new_cache()
    steps = [model.logits(model.decode(tokens[:, i : i + 1], memory, cache)) for i in range(70)]
    assert cache.length == 70
    whole = model(source, LENGTHS, tokens)
    close(torch.cat(steps, dim=1), whole)
    cache = model.new_cache()
    parts = [model.logits(model.decode(tokens[:, a:b], memory, cache)) for a, b in ((0, 10), (10, 11), (11, 70))]
    close(torch.cat(parts, dim=1), whole)


@every_variant
@torch.no_grad()
def test_rows_can_change_places(made: EncoderDecoderConfig) -> None:
    """What a beam search does: rows are repeated, reordered and dropped in the middle of a text."""
    model, source, tokens = build(made), ids(3, 7), ids(3, 6, seed=2)
    memory, cache = model.remember(model.encode(source, LENGTHS), LENGTHS), model.new_cache()
    model.decode(tokens[:, :4], memory, cache)
    rows = torch.tensor([2, 0, 0, 2])
    memory = memory.select(rows)
    cache.select(rows)
    after = model.logits(model.decode(tokens[rows, 4:], memory, cache))
    close(after, model(source, LENGTHS, tokens)[rows, 4:])


@every_variant
def test_gradients_reach_every_parameter(made: EncoderDecoderConfig) -> None:
    model, source, tokens = build(made), ids(3, 40), ids(3, 40, seed=2)
    if made.dropout:
        model.train()
    hidden = model.hidden(source, None, tokens[:, :-1])
    total = linear_cross_entropy(
        hidden.flatten(0, 1), model.head_weight, tokens[:, 1:].flatten(), model.head_bias, model.logit_cap
    )
    extra = model.auxiliary()
    (total if extra is None else total + extra).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@every_variant
def test_padding_has_no_gradient(made: EncoderDecoderConfig) -> None:
    model, source = build(made), ids(3, 7)
    seen: list[Tensor] = []

    def keep(_module: object, _inputs: object, out: Tensor) -> Tensor:
        seen.append(out.detach().requires_grad_())
        return seen[-1]

    embedding = model.source_embedding or model.embedding
    handle = embedding.register_forward_hook(keep)
    memory = model.remember(model.encode(source, LENGTHS), LENGTHS)
    handle.remove()
    model.decode(ids(3, 5, seed=2), memory).sum().backward()
    assert seen[0].grad is not None
    for row, length in enumerate(LENGTHS.tolist()):
        assert (seen[0].grad[row, length:] == 0).all()


@every_variant
def test_the_price_in_parameters_is_the_number_of_parameters(made: EncoderDecoderConfig) -> None:
    model = build(made)
    assert made.n_params() == sum(p.numel() for p in model.parameters()) == sum(made.parts().values())
    with torch.device("meta"):
        assert sum(p.numel() for p in EncoderDecoder(made).parameters()) == made.n_params()


@every_variant
@torch.no_grad()
@pytest.mark.parametrize("length", [1, 17])
def test_the_price_in_flops_is_what_torch_counts(made: EncoderDecoderConfig, length: int) -> None:
    model = build(made)
    set_path(model, "explicit")
    with FlopCounterMode(display=False) as counter:
        model(ids(2, length), None, ids(2, length, seed=2))
    assert counter.get_total_flops() == 2 * length * made.flops_per_token(length)
    assert made.training_flops_per_token() == 3 * made.flops_per_token(CONTEXT)


@torch.no_grad()
def test_the_price_of_the_cache_is_what_it_holds() -> None:
    made = config()
    model, cache = build(made), None
    memory = model.remember(model.encode(ids(1, 64)))
    cache = model.new_cache()
    model.decode(ids(1, 64, seed=2), memory, cache)
    assert cache.n_bytes() + memory.n_bytes() == made.cache_bytes(64)


@every_variant
@torch.no_grad()
def test_saved_and_loaded_weights_give_the_same_logits(made: EncoderDecoderConfig) -> None:
    model, given = build(made), (ids(3, 7), LENGTHS, ids(3, 5, seed=2))
    other = build(build_config(EncoderDecoderConfig, to_data(made)), seed=5)
    assert not torch.equal(other(*given), model(*given))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*given), model(*given))
    assert set(model.state_dict()) == {n for n, _ in model.named_parameters()}
    assert build_config(EncoderDecoderConfig, to_data(made)) == made


@every_variant
def test_the_explicit_road_gives_the_fused_ones_numbers(made: EncoderDecoderConfig) -> None:
    model, given = build(made), (ids(3, 7), LENGTHS, ids(3, 5, seed=2))
    results = []
    for path in ("fused", "explicit"):
        set_path(model, path)
        model.zero_grad()
        logits = model(*given)
        logits.square().sum().backward()
        results.append((logits.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    close(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        scale = float(one.abs().max()) + 1
        # A bias of keys moves all scores of a query alike: its gradient is nothing but rounding.
        close(one / scale, other / scale, 1e-4)


def test_one_table_of_relative_positions_serves_each_stack() -> None:
    model = build(config())
    tables = [n for n, _ in model.named_parameters() if "table" in n]
    assert tables == ["encoder.position.table.weight", "decoder.position.table.weight"]
    assert config().parts()["positions"] == 2 * 32 * 4


def test_scores_begin_alike_whatever_they_are_multiplied_by() -> None:
    heads = dataclasses.replace(example(mixers.get("gqa")), head_dim=16)
    init = InitConfig(linear="fan_in", output="same")
    usual, t5 = (
        EncoderDecoder(config(attention=dataclasses.replace(heads, scale=scale), init=init)) for scale in (0.0, 1.0)
    )
    for (name, a), (_, b) in zip(usual.named_parameters(), t5.named_parameters(), strict=True):
        if "q_proj" in name:
            assert float(b.detach().std() / a.detach().std()) == pytest.approx(1 / 4, rel=0.25)
        elif "k_proj" in name:
            assert float(b.detach().std() / a.detach().std()) == pytest.approx(1, rel=0.25)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"encoder_layers": 0}, "encoder_layers=0 must be at least 1"),
        ({"decoder_layers": 0}, "decoder_layers=0 must be at least 1"),
        ({"source_vocab_size": -1}, "source_vocab_size=-1"),
        ({"source_vocab_size": 5}, "cannot share one embedding"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"head_scale": 0.0}, "head_scale=0.0 must be above 0, or inverse_sqrt_width"),
        ({"embedding_scale": -1.0}, "embedding_scale=-1.0 must be above 0, or sqrt_width"),
        ({"logit_cap": -1.0}, "logit_cap=-1.0"),
        ({"placement": "sandwich", "init": {"output": "zero"}}, "sandwich"),
        ({"layers": 3}, "unknown key"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_config(EncoderDecoderConfig, {**to_data(config()), **settings}, "model")


def test_texts_longer_than_the_context_are_refused() -> None:
    model = build(config())
    with pytest.raises(ValueError, match="a source of 97 tokens is longer than the context_length of 96"):
        model(ids(1, 97), None, ids(1, 1))
    with pytest.raises(ValueError, match="a target of 97 tokens"):
        model(ids(1, 1), None, ids(1, 97))
    memory, cache = model.remember(model.encode(ids(1, 2))), model.new_cache()
    model.decode(ids(1, 96), memory, cache)
    with pytest.raises(ValueError, match="a target of 97 tokens"):
        model.decode(ids(1, 1), memory, cache)
