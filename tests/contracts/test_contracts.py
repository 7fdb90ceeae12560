"""What every registered attention, position, norm and feed-forward variant keeps."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fabula.config import build as build_config
from fabula.config import to_data
from fabula.losses import linear_cross_entropy
from fabula.model.attention import set_path
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.ffn import MixtureOfExperts
from fabula.model.spans import Full
from tests.contracts.variants import ALL, FAMILIES, VARIANTS, D, V, build, config, example, tokens

every_variant = pytest.mark.parametrize("made", [c for _, c in VARIANTS], ids=[name for name, _ in VARIANTS])
every_part = pytest.mark.parametrize(("family", "name"), ALL)


# Whole numbers that may be 0.
ZERO_SAYS_SOMETHING = {"before", "original_context"}


def close(a: Tensor, b: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_every_registered_variant_is_here() -> None:
    assert {name.split("-")[1] for name, _ in VARIANTS if "-" in name} == {name for _, name in ALL}
    assert len({name for name, _ in VARIANTS}) == len(VARIANTS)


@every_part
def test_a_variant_documents_itself(family: str, name: str) -> None:
    cls = FAMILIES[family].get(name)
    assert cls.__doc__
    assert FAMILIES[family].name_of(cls) == name
    assert all(f.metadata.get("doc") for f in dataclasses.fields(cls)), "every setting has its line of description"
    assert cls.__dataclass_params__.frozen


@every_variant
def test_shapes_and_formats(made: ModelConfig) -> None:
    model, ids = build(made), tokens(3, 7)
    with torch.no_grad():
        hidden, logits = model.hidden(ids), model(ids)
    assert hidden.shape == (3, 7, D)
    assert logits.shape == (3, 7, V)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    close(model.logits(hidden), logits, 0)
    assert model(tokens(1, 1)).shape == (1, 1, V)


@every_variant
@torch.no_grad()
def test_a_later_token_never_changes_an_earlier_logit(made: ModelConfig) -> None:
    model, ids = build(made), tokens(1, 12)
    before = model(ids)
    for place in (1, 5, 11):
        changed = ids.clone()
        changed[0, place:] = (changed[0, place:] + 1) % V
        after = model(changed)
        close(after[:, :place], before[:, :place], 1e-6)
        assert not torch.allclose(after[:, place], before[:, place]), "the changed token shows where it stands"


@every_variant
def test_a_later_token_has_no_gradient_on_an_earlier_logit(made: ModelConfig) -> None:
    """Exactly zero, which a comparison of values cannot tell from very small."""
    model = build(made)
    seen: list[Tensor] = []

    def keep(_module: object, _inputs: object, out: Tensor) -> Tensor:
        seen.append(out.detach().requires_grad_())
        return seen[-1]

    handle = model.embedding.register_forward_hook(keep)
    model(tokens(1, 9))[0, 4].sum().backward()
    handle.remove()
    assert seen[0].grad is not None
    assert (seen[0].grad[0, 5:] == 0).all()
    assert (seen[0].grad[0, :5].abs().sum(dim=-1) > 0).all(), "every token up to now is seen"


@every_variant
@torch.no_grad()
def test_rows_of_a_batch_do_not_meet(made: ModelConfig) -> None:
    model, ids = build(made), tokens(3, 9)
    together = model(ids)
    for row in range(3):
        close(together[row : row + 1], model(ids[row : row + 1]))


@every_variant
@torch.no_grad()
def test_cached_is_uncached_token_by_token_over_blocks(made: ModelConfig) -> None:
    """130 tokens: over the borders of the cache's blocks at 64 and 128."""
    model, ids = build(dataclasses.replace(made, n_layers=1, pattern=made.pattern[0])), tokens(2, 130)
    cache = model.new_cache()
    steps = [model(ids[:, i : i + 1], cache=cache) for i in range(ids.shape[1])]
    assert cache.length == 130
    close(torch.cat(steps, dim=1), model(ids))


@every_variant
@torch.no_grad()
@pytest.mark.parametrize("cuts", [(64,), (63, 65), (1, 64, 128), (10, 20, 140)], ids=str)
def test_cached_is_uncached_in_chunks(made: ModelConfig, cuts: tuple[int, ...]) -> None:
    model, ids = build(made), tokens(2, 150)
    cache = model.new_cache()
    edges = [0, *cuts, 150]
    parts = [model(ids[:, a:b], cache=cache) for a, b in itertools.pairwise(edges)]
    close(torch.cat(parts, dim=1), model(ids))


@every_variant
@torch.no_grad()
def test_a_rewound_cache_is_as_if_nothing_had_come(made: ModelConfig) -> None:
    model, ids, other = build(made), tokens(1, 80), tokens(1, 80, seed=9)
    cache = model.new_cache()
    model(torch.cat((ids[:, :70], other[:, :5]), dim=1), cache=cache)
    for length in (70, 64, 63, 0):
        cache.rewind(length)
        assert cache.length == length
        close(model(ids[:, length:], cache=cache), model(ids)[:, length:])


@every_variant
def test_gradients_reach_every_parameter(made: ModelConfig) -> None:
    model, ids = build(made), tokens(2, 40)  # enough for every expert to be sent something
    if made.dropout:
        model.train()
    hidden = model.hidden(ids[:, :-1])
    linear_cross_entropy(hidden.flatten(0, 1), model.head_weight, ids[:, 1:].flatten(), model.head_bias).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@every_variant
def test_the_price_in_parameters_is_the_number_of_parameters(made: ModelConfig) -> None:
    model = build(made)
    assert made.n_params() == sum(p.numel() for p in model.parameters())
    assert made.n_params() == sum(made.parts().values())
    block = model.blocks[0]
    counts = {
        "attention": (block.attention, made.attention.n_params(D)),
        "ffn": (block.ffn, made.ffn.n_params(D)),
        "norm": (block.ffn_norm, made.norm.n_params(D)),
        "position": (model.position, made.position.n_params(made.shape())),
    }
    for part, (module, declared) in counts.items():
        assert sum(p.numel() for p in module.parameters()) == declared, part


def everything_seen(made: ModelConfig) -> ModelConfig:
    """The same without windows: the written-out attention computes what it then hides."""
    return dataclasses.replace(made, pattern="G", local=Full())


@every_variant
@torch.no_grad()
@pytest.mark.parametrize("length", [1, 17, 160])
def test_the_price_in_flops_is_what_torch_counts(made: ModelConfig, length: int) -> None:
    """Exactly: the written-out attention computes the whole T x T, which is what the price says it counts."""
    model = build(made)
    set_path(model, "explicit")
    with FlopCounterMode(display=False) as counter:
        model(tokens(2, length))
    assert counter.get_total_flops() == 2 * length * everything_seen(made).flops_per_token(length)
    assert made.flops_per_token(length) <= everything_seen(made).flops_per_token(length)


@every_variant
def test_training_costs_three_forwards(made: ModelConfig) -> None:
    assert made.training_flops_per_token() == 3 * made.flops_per_token(made.context_length)
    model, ids = build(made).train(), tokens(1, made.context_length)
    set_path(model, "explicit")
    with FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    assert counter.get_total_flops() == made.context_length * everything_seen(made).training_flops_per_token()


@every_variant
@torch.no_grad()
@pytest.mark.parametrize(("length", "held"), [(64, 64), (65, 128), (128, 128), (1, 64)])
def test_the_price_of_the_cache_is_what_it_holds(made: ModelConfig, length: int, held: int) -> None:
    model = build(made)
    cache = model.new_cache()
    assert cache.n_bytes() == 0
    model(tokens(1, length), cache=cache)
    assert cache.n_bytes() == made.cache_bytes(held)
    assert made.cache_bytes(held, bytes_per_number=2) * 2 == made.cache_bytes(held)


@every_variant
@torch.no_grad()
def test_saved_and_loaded_weights_give_the_same_logits(made: ModelConfig) -> None:
    model, ids = build(made), tokens(1, 9)
    other = build(build_config(ModelConfig, to_data(made)), seed=5)
    assert not torch.equal(other(ids), model(ids))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(ids), model(ids))
    names = {n for n, _ in model.named_parameters()}
    assert set(model.state_dict()) == names, "only trained weights are saved; the rest follows from the configuration"


@every_variant
def test_the_configuration_survives_plain_data(made: ModelConfig) -> None:
    assert build_config(ModelConfig, to_data(made)) == made


@every_variant
@torch.no_grad()
def test_documents_of_a_row_do_not_meet(made: ModelConfig) -> None:
    """Packed logits are those of each document alone; a change in A leaves B's untouched."""
    model = build(made)
    lengths = (5, 1, 7, 4)
    parts = [tokens(1, n, seed=n) for n in lengths]
    row = torch.cat(parts, dim=1)
    numbers = torch.cat([torch.full((1, n), 3 * i) for i, n in enumerate(lengths)], dim=1)
    places = torch.cat([torch.arange(n).unsqueeze(0) for n in lengths], dim=1)
    packed = model(row, positions=places, documents=numbers)
    close(packed, torch.cat([model(part) for part in parts], dim=1))
    changed = row.clone()
    changed[0, :5] = (changed[0, :5] + 1) % V
    after = model(changed, positions=places, documents=numbers)
    if isinstance(made.ffn, MixtureOfExperts):
        # An expert computes the tokens of all documents in one product: their number may change the rounding.
        close(after[:, 5:], packed[:, 5:], 1e-5)
    else:
        assert torch.equal(after[:, 5:], packed[:, 5:])
    assert not torch.allclose(after[:, :5], packed[:, :5])
    assert not torch.allclose(packed, model(row), atol=1e-3), "without document numbers they do meet"


@every_variant
@torch.no_grad()
def test_two_rows_with_their_own_documents(made: ModelConfig) -> None:
    model, ids = build(made), tokens(2, 8)
    numbers = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [4, 4, 4, 4, 4, 4, 9, 9]])
    places = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 0, 1]])
    both = model(ids, positions=places, documents=numbers)
    for row in range(2):
        alone = model(ids[row : row + 1], positions=places[row : row + 1], documents=numbers[row : row + 1])
        close(both[row : row + 1], alone)


@every_variant
def test_the_explicit_road_gives_the_fused_ones_numbers(made: ModelConfig) -> None:
    model, ids = build(made), tokens(2, 11)
    results = []
    for path in ("fused", "explicit"):
        set_path(model, path)
        model.zero_grad()
        logits = model(ids)
        logits.square().sum().backward()
        results.append((logits.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    close(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        scale = float(one.abs().max()) + 1
        close(one / scale, other / scale)


@every_variant
def test_the_same_seed_builds_the_same_model(made: ModelConfig) -> None:
    torch.manual_seed(3)
    one = Decoder(made)
    torch.manual_seed(3)
    other = Decoder(made)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@every_variant
@torch.no_grad()
def test_a_cast_of_the_weights_keeps_the_logits_near(made: ModelConfig) -> None:
    """bfloat16 weights: 8 bits of mantissa, so near means within a few percent of the largest logit."""
    model, ids = build(made), tokens(1, 150)
    exact = model(ids)
    rounded = model.bfloat16()(ids)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().mean() < 0.05 * exact.abs().max()


@every_part
def test_a_variant_refuses_what_makes_no_sense(family: str, name: str) -> None:
    cls = FAMILIES[family].get(name)
    for field in dataclasses.fields(cls):
        if field.type == "int":
            for wrong in (-1,) if field.name in ZERO_SAYS_SOMETHING else (0, -1):
                with pytest.raises(ValueError, match=f"{field.name}={wrong}"):
                    example(cls, **{field.name: wrong})


def test_dropout_acts_in_training_only() -> None:
    model, ids = build(config(dropout=0.5)), tokens(1, 9)
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))
