"""Ids in, ids out: with and without a cache, and the four ways in which a text ends."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fabula.device import Device
from fabula.errors import DivergedError, PromptError
from fabula.generate.config import Sampling
from fabula.generate.engine import Engine, Token
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.positions import LearnedPositions
from tests.contracts.variants import VARIANTS, build, config

CPU = Device("cpu", "float32", 1, "test")
GREEDY, WARM = Sampling(temperature=0.0), Sampling(temperature=10.0, top_k=15, top_p=0.95, seed=4)
# A model of random weights likes to repeat itself: the penalty makes greedy texts lively.
LIVELY = Sampling(temperature=0.0, repetition_penalty=8.0)
NEVER = 10**9


def ids_of(model: Decoder, prompt: list[int], n: int, sampling: Sampling, cached: bool = True) -> list[Token]:
    return list(Engine(model, NEVER, CPU, cached).stream(prompt, n, sampling))


@pytest.mark.parametrize("sampling", [LIVELY, WARM, dataclasses.replace(WARM, repetition_penalty=1.5)], ids=str)
@pytest.mark.parametrize("made", [c for _, c in VARIANTS], ids=[name for name, _ in VARIANTS])
def test_the_cache_changes_no_id(made: ModelConfig, sampling: Sampling) -> None:
    """60 ids in front, 10 new ones: over the border of a block of the cache."""
    model = build(dataclasses.replace(made, tied=False))
    prompt = [i % 11 for i in range(60)]
    with_cache, without = (ids_of(model, prompt, 10, sampling, cached) for cached in (True, False))
    assert [t.id for t in with_cache] == [t.id for t in without]
    assert len({t.id for t in with_cache}) > 2, "a text of one id would show little"
    for one, other in zip(with_cache, without, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert one.finish == other.finish


def test_greedy_is_the_argmax_of_the_whole_text_each_time() -> None:
    model, ids = build(config(tied=False)), [3]
    made = ids_of(model, [3], 8, GREEDY)
    for token in made:
        logits = model(torch.tensor([ids])).detach()[0, -1]
        assert token.id == int(logits.argmax())
        assert token.logprob == pytest.approx(float(logits.log_softmax(-1)[token.id]), abs=1e-4)
        ids.append(token.id)


def test_log_probabilities_are_the_models_own_before_filters() -> None:
    model = build(config())
    token = ids_of(model, [1, 2], 1, Sampling(temperature=0.1, top_k=1, repetition_penalty=3.0))[0]
    expected = model(torch.tensor([[1, 2]])).detach()[0, -1].log_softmax(-1)
    assert token.logprob == pytest.approx(float(expected[token.id]), abs=1e-4)
    assert token.logprob < -1e-3, "with top_k = 1 the filtered distribution would give 0"


def test_a_seed_gives_the_same_ids() -> None:
    model = build(config())
    assert ids_of(model, [1], 20, WARM) == ids_of(model, [1], 20, WARM)
    assert ids_of(model, [1], 20, WARM) != ids_of(model, [1], 20, dataclasses.replace(WARM, seed=5))


@pytest.mark.parametrize("position", [None, LearnedPositions()], ids=["rope", "learned"])
@pytest.mark.parametrize("cached", [True, False])
def test_a_text_that_fills_the_context_ends_there(position: LearnedPositions | None, cached: bool) -> None:
    """A context of 8 reads 8 ids: a prompt of 5 gets 4 new ones, of which the last is only written."""
    parts = {} if position is None else {"position": position}
    model = build(config(context_length=8, **parts))
    for n_prompt, n_new in ((5, 4), (8, 1), (1, 8)):
        made = ids_of(model, [1] * n_prompt, 100, GREEDY, cached)
        assert [t.finish for t in made] == [None] * (n_new - 1) + ["context"]


def test_a_length_that_is_reached_with_the_context_is_a_length() -> None:
    model = build(config(context_length=8))
    assert [t.finish for t in ids_of(model, [1] * 5, 4, GREEDY)][-1] == "length"
    assert [t.finish for t in ids_of(model, [1] * 5, 3, GREEDY)] == [None, None, "length"]
    assert [t.finish for t in ids_of(model, [1] * 8, 1, GREEDY)] == ["length"]


def test_the_end_of_the_document_ends_the_text_and_is_given() -> None:
    model = build(config(tied=False), seed=2)
    greedy = [t.id for t in ids_of(model, [3], 8, GREEDY)]
    end = greedy[2]
    first = greedy.index(end)
    made = list(Engine(model, end, CPU).stream([3], 100, GREEDY))
    assert [t.id for t in made] == greedy[: first + 1]
    assert [t.finish for t in made] == [None] * first + ["end"]
    last = list(Engine(model, end, CPU).stream([3], first + 1, GREEDY))
    assert last[-1].finish == "end", "an end that comes with the last allowed token is an end"


def test_an_end_in_the_prompt_ends_nothing() -> None:
    model = build(config())
    unlikely = int(model(torch.tensor([[7, 3]])).detach()[0, -1].argmin())
    made = list(Engine(model, 7 if unlikely != 7 else 8, CPU).stream([7, 8, 3], 2, LIVELY))
    assert made[-1].finish == "length"


def test_a_prompt_that_does_not_fit_is_refused_with_numbers() -> None:
    engine = Engine(build(config(context_length=8)), NEVER, CPU)
    with pytest.raises(
        PromptError, match=r"has 11 tokens, the model's context holds 8: shorten it by at least 3 tokens"
    ):
        list(engine.stream([1] * 11, 5, GREEDY))
    with pytest.raises(PromptError, match="no ids"):
        list(engine.stream([], 5, GREEDY))


def test_the_mode_of_the_model_and_the_prompt_are_left_as_they_were() -> None:
    model, prompt = build(config(dropout=0.5)), [1, 2]
    quiet = [t.id for t in ids_of(model, prompt, 5, GREEDY)]
    model.train()
    assert [t.id for t in ids_of(model, prompt, 5, GREEDY)] == quiet, "no dropout while generating"
    assert model.training
    assert prompt == [1, 2]
    stream = Engine(model, NEVER, CPU).stream(prompt, 5, GREEDY)
    next(stream)
    stream.close()
    assert model.training, "also when the reader stops early"


def test_nothing_is_remembered_for_gradients() -> None:
    model = build(config())
    stream = Engine(model, NEVER, CPU).stream([1], 3, GREEDY)
    next(stream)
    assert torch.is_grad_enabled(), "the mode of the engine does not leak to its reader between two tokens"
    assert not torch.is_inference_mode_enabled()
    list(stream)
    assert all(p.grad is None for p in model.parameters())


def test_generation_in_bfloat16_goes_through_the_cache_too() -> None:
    rough = Device("cpu", "bfloat16", 1, "test")
    made = list(Engine(build(config()), NEVER, rough).stream([1, 2, 3], 6, GREEDY))
    assert len(made) == 6


def test_a_model_that_has_diverged_says_so() -> None:
    model = build(config())
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    for sampling in (GREEDY, WARM):
        with pytest.raises(DivergedError, match="logits after 3 tokens hold NaN or infinity"):
            ids_of(model, [1, 2, 3], 4, sampling)


def test_ids_without_a_token_are_never_written() -> None:
    model = build(config(tied=False))
    with torch.no_grad():
        assert model.head is not None
        model.head.weight[10:] *= 50  # what it would write
    free, held = (list(Engine(model, NEVER, CPU, n_ids=n).stream([1], 40, WARM)) for n in (None, 10))
    assert max(t.id for t in free) >= 10
    assert max(t.id for t in held) < 10
