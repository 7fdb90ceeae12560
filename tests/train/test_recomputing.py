"""Blocks that are computed again: the gradients are those without it, dropout included, and less is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fabula.data.loader import Loader
from fabula.data.shards import Shards
from fabula.model.encdec import EncoderDecoder, EncoderDecoderConfig
from fabula.model.ffn import MixtureOfExperts, SwigluFFN
from fabula.model.presets import presets
from fabula.plan.estimate import training_bytes
from fabula.train.recomputing import recompute_blocks
from tests import tiny
from tests.contracts.variants import build, config, example, tokens, variants
from tests.model.test_recompute import _Made
from tests.train.test_trainer import make, weights


def gradients(model: nn.Module, *inputs: torch.Tensor) -> list[torch.Tensor]:
    model.train()
    model.zero_grad()
    torch.manual_seed(5)  # of dropout
    out = model(*inputs)
    loss = out.square().mean()
    extra = model.auxiliary()  # type: ignore[operator]
    (loss if extra is None else loss + extra).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(("name", "made"), variants(), ids=[name for name, _ in variants()])
def test_gradients_are_those_without_it(name: str, made) -> None:  # type: ignore[no-untyped-def]
    model, ids = build(made), tokens(2, 20)
    plain = gradients(model, ids)
    assert recompute_blocks(model) == made.n_layers
    for again, usual in zip(gradients(model, ids), plain, strict=True):
        torch.testing.assert_close(again, usual, rtol=1e-4, atol=1e-5)


def test_of_an_encoder_decoder_too() -> None:
    parts = tiny.model_config()
    made = EncoderDecoderConfig(
        vocab_size=30, context_length=16, d_model=16, encoder_layers=2, decoder_layers=1, dropout=0.3,
        attention=parts.attention, position=parts.position, ffn=SwigluFFN(d_ff=20), norm=parts.norm,
    )  # fmt: skip
    torch.manual_seed(0)
    model = EncoderDecoder(made)
    inputs = torch.randint(30, (2, 7)), torch.tensor([7, 4]), torch.randint(30, (2, 6))
    plain = gradients(model, *inputs)
    assert recompute_blocks(model) == 3
    for again, usual in zip(gradients(model, *inputs), plain, strict=True):
        torch.testing.assert_close(again, usual, rtol=1e-4, atol=1e-5)


def test_the_balance_of_experts_keeps_its_gradient() -> None:
    model, ids = build(config(ffn=example(MixtureOfExperts, n_experts=3, n_active=2, balance=0.5))), tokens(2, 20)
    plain = gradients(model, ids)
    recompute_blocks(model)
    for again, usual in zip(gradients(model, ids), plain, strict=True):
        torch.testing.assert_close(again, usual, rtol=1e-4, atol=1e-5)


def test_blocks_keep_their_input_alone() -> None:
    held = []
    for again in (False, True):
        model, ids = build(config(n_layers=4)), tokens(2, 64)
        if again:
            recompute_blocks(model)
        with _Made() as seen:
            hidden = model.hidden(ids)
        held.append(sum(seen.alive()))
        del hidden
    assert held[1] < 0.3 * held[0]


def test_without_gradients_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = build(config()), tokens(2, 8)
    expected, names = model(ids), list(model.state_dict())
    recompute_blocks(model)
    monkeypatch.setattr("fabula.train.recomputing.checkpoint", lambda *a, **k: pytest.fail("checkpointed"))
    with torch.inference_mode():
        assert torch.equal(model(ids), expected)
    assert list(model.state_dict()) == names


def test_a_run_learns_the_same(tiny_data: Shards) -> None:
    batch = Loader(tiny_data.train, tiny.CONTEXT, 0, True).batch(0, 4)
    made = []
    for again in (False, True):
        trainer = make(tiny_data)
        if again:
            recompute_blocks(trainer.model)
        trainer.take_step(batch)
        made.append(weights(trainer))
    for name, usual in made[0].items():
        torch.testing.assert_close(made[1][name], usual, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", ["fabula-30m", "lillm-39m", "gpt2"])
def test_the_plan_knows_that_it_needs_less(preset: str) -> None:
    model = presets.get(preset).config
    lengths = (0, 512)
    usual, less = (training_bytes(model, "adamw", 8, lengths, 4, True, recompute=again) for again in (False, True))
    fixed = training_bytes(model, "adamw", 0, lengths, 4, True)
    assert 0.1 * (usual - fixed) < less - fixed < 0.6 * (usual - fixed)
