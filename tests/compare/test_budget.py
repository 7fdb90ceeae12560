"""The same tokens, or the same FLOPs, in whole steps."""

from __future__ import annotations

import pytest

from fabula.compare.budget import Budget, portion, tokens_per_step
from fabula.train.config import TrainConfig
from tests import tiny


def budget(match: str, tokens: int = 128 * 100) -> Budget:
    base = tiny.model_config()
    return Budget("100steps", match, tokens, tokens * base.training_flops_per_token(), 640, "given")  # type: ignore[arg-type]


@pytest.mark.parametrize("match", ["tokens", "flops"])
def test_the_first_variant_gets_its_own_budget(match: str) -> None:
    made = portion(budget(match), TrainConfig(batch_tokens=128), tiny.model_config())
    assert (made.steps, made.tokens, made.evaluation_rows) == (100, 12800, 20)
    assert made.flops == 12800 * tiny.model_config().training_flops_per_token()


def test_tokens_stay_where_steps_and_rows_are_of_another_size() -> None:
    train = TrainConfig(batch_tokens=256)
    longer = tiny.model_config(context_length=64)
    made = portion(budget("tokens"), train, longer)
    assert (made.steps, made.tokens, made.evaluation_rows) == (50, 12800, 10)
    assert tokens_per_step(TrainConfig(batch_tokens=100), longer) == 64, "whole rows, at least one"
    assert tokens_per_step(TrainConfig(batch_tokens=10), longer) == 64


def test_flops_stay_where_the_model_is_larger() -> None:
    larger = tiny.model_config(n_layers=6)
    wanted = budget("flops")
    made = portion(wanted, TrainConfig(batch_tokens=128), larger)
    assert made.steps < 100
    assert made.flops == pytest.approx(wanted.flops, rel=0.01)


def test_there_is_always_a_step() -> None:
    made = portion(budget("flops", tokens=1), TrainConfig(batch_tokens=128), tiny.model_config(n_layers=12))
    assert made.steps == 1
