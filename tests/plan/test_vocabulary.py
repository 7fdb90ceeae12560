"""What a vocabulary costs, by the models' own prices."""

from __future__ import annotations

import dataclasses

import pytest

from fabula.model.presets import presets
from fabula.plan.vocabulary import cost


@pytest.mark.parametrize("name", ["fabula-1m", "fabula-10m", "nima-tiny", "fabula-translate-4m"])
def test_the_vocabularys_share_is_what_it_adds(name: str) -> None:
    model = presets.get(name).config
    small = dataclasses.replace(model, vocab_size=1)
    found = cost(name, model, 4096, bytes_per_token=4.0, tokens_per_word=1.5)
    sized = dataclasses.replace(model, vocab_size=4096)
    one = (sized.n_params() - small.n_params()) / 4095
    assert found["parameters"] == sized.n_params()
    assert found["vocabulary_parameters"] == 4096 * one
    assert found["vocabulary_share"] == found["vocabulary_parameters"] / found["parameters"]
    assert found["training_flops_per_byte"] == sized.training_flops_per_token() / 4
    assert found["context_bytes"] == model.context_length * 4
    assert found["context_words"] == model.context_length / 1.5
    assert 0 < found["vocabulary_flops_share"] < 1


def test_an_untied_head_is_paid_for_twice() -> None:
    model = presets.get("fabula-1m").config
    tied = cost("a", dataclasses.replace(model, tied=True), 4096, 4.0, 1.5)
    untied = cost("a", dataclasses.replace(model, tied=False), 4096, 4.0, 1.5)
    assert untied["vocabulary_parameters"] == 2 * tied["vocabulary_parameters"]
    assert untied["vocabulary_flops_share"] == tied["vocabulary_flops_share"]
