"""Mixtures of experts: against a loop over tokens, and what keeps them busy."""

from __future__ import annotations

import pytest
import torch

from fabula.data.batch import Batch
from fabula.model.ffn import Mixture, MixtureOfExperts, balance_loss
from fabula.train.objective import NextToken
from tests.contracts.variants import D, build, config, tokens


def mixture(**settings: object) -> Mixture:
    torch.manual_seed(0)
    made = MixtureOfExperts(**({"d_ff": 10, "n_experts": 5, "n_active": 2} | settings)).build(D)  # type: ignore[arg-type]
    assert isinstance(made, Mixture)
    return made


@pytest.mark.parametrize("n_active", [1, 2, 5])
def test_every_token_goes_to_its_best_experts(n_active: int) -> None:
    layer, x = mixture(n_active=n_active), torch.randn(3, 7, D)
    out = layer(x)
    for row in range(3):
        for place in range(7):
            token = x[row, place]
            scores = layer.router(token)
            best, chosen = scores.topk(n_active)
            weights = best.softmax(0) if n_active > 1 else scores.softmax(0)[chosen]
            expected = sum(w * layer.experts[int(e)](token) for w, e in zip(weights, chosen, strict=True))
            torch.testing.assert_close(out[row, place], expected, rtol=1e-5, atol=1e-5)


def test_no_token_is_dropped_however_many_want_one_expert() -> None:
    layer = mixture(n_active=1)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[3] = 1.0
    x = torch.rand(1, 500, D)
    scores = layer.router(x)
    torch.testing.assert_close(layer(x), scores.softmax(-1)[..., 3:4] * layer.experts[3](x), rtol=1e-5, atol=1e-5)


def test_balance_is_one_when_all_are_equally_busy_and_more_otherwise() -> None:
    equal = torch.zeros(8, 4)
    chosen = torch.arange(8).unsqueeze(1) % 4
    assert float(balance_loss(equal, chosen)) == pytest.approx(1.0)
    crowded = torch.zeros(8, 4)
    crowded[:, 2] = 20.0
    assert float(balance_loss(crowded, torch.full((8, 1), 2))) == pytest.approx(4.0, abs=1e-3)


def test_training_minimises_the_balance_and_reports_nats_alone() -> None:
    ids = tokens(2, 30)
    batch = Batch(ids[:, :-1], ids[:, 1:])
    losses = {}
    for balance in (0.0, 0.5):
        model = build(config(ffn=MixtureOfExperts(d_ff=10, n_experts=4, balance=balance)))
        model.train()
        losses[balance] = NextToken()(model, batch)
        assert model.auxiliary() is None, "asked for once"
    assert torch.equal(losses[0.0].total, losses[0.5].total)
    assert losses[0.0].extra is None
    extra = losses[0.5].extra
    assert extra is not None
    assert 0.5 * batch.n_targets * 0.9 < extra.item() < 0.5 * batch.n_targets * 4
    model.eval()
    model(ids)
    assert model.auxiliary() is None, "evaluation has none"


def test_active_parameters() -> None:
    made = config(ffn=MixtureOfExperts(d_ff=10, n_experts=8, n_active=2))
    assert made.n_params() - made.n_active_params() == 2 * 6 * 3 * D * 10
    assert config().n_active_params() == config().n_params()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="n_active=3 must be at most n_experts=2"):
        MixtureOfExperts(d_ff=4, n_experts=2, n_active=3)
    with pytest.raises(ValueError, match="balance=-1"):
        MixtureOfExperts(d_ff=4, balance=-1.0)
