"""Beam search: one beam is greedy, more are never worse, enough are exhaustive; batches and caches change nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fabula.device import Device
from fabula.errors import DivergedError, PromptError
from fabula.generate.beam import Hypothesis, beam_search, score_of
from fabula.generate.config import GenerateConfig, Sampling
from fabula.generate.decoding import DecoderBackend
from fabula.generate.engine import Engine, Token
from fabula.generate.steps import BackendSteps, TextSteps
from fabula.generate.translate import Translator
from fabula.model.encdec import EncoderDecoder
from tests.contracts.test_encdec import VARIANTS, build, config
from tests.contracts.variants import build as build_decoder
from tests.contracts.variants import config as decoder_config

CPU = Device("cpu", "float32", 1, "test")
END = 3


class Chain:
    """A model whose next id depends on the last one: a table of probabilities."""

    def __init__(self, table: list[list[float]]) -> None:
        self.table = torch.tensor(table).log()
        self.last = torch.zeros(0, dtype=torch.long)

    def ahead(self, tokens: Tensor) -> Tensor:
        self.last = tokens[:, -1]
        return self.table[self.last]

    def select(self, rows: Tensor) -> None:
        self.last = self.last[rows]


def search(
    steps: object, start: list[list[int]], beams: int, most: int, penalty: float = 1.0, end: int = END
) -> list[list[Hypothesis]]:
    return beam_search(
        steps,  # type: ignore[arg-type]
        torch.tensor(start),
        beams=beams,
        end=end,
        max_new_tokens=most,
        length_penalty=penalty,
    )


def model_of(seed: int, **parts: object) -> EncoderDecoder:
    """A random model that is not too sure of itself, and whose head is not the embedding it has just read."""
    model = build(config(tied=False, **parts), seed)
    with torch.no_grad():
        model.head_weight.mul_(0.3)
    return model


# ---- a model that can be seen through ----------------------------------------------------------------------


# From 0 the likeliest id, 1, leads nowhere; 2 leads to a sure end.
GARDEN = [[0.0, 0.6, 0.4, 0.0], [0.3, 0.25, 0.25, 0.2], [0.0, 0.05, 0.05, 0.9], [1.0, 0.0, 0.0, 0.0]]


def test_the_likeliest_text_is_found_where_greedy_goes_astray() -> None:
    greedy = search(Chain(GARDEN), [[0]], 1, 2, penalty=0.0)[0]
    assert [h.ids for h in greedy] == [(1, 0)]
    best = search(Chain(GARDEN), [[0]], 2, 2, penalty=0.0)[0][0]
    assert best.ids == (2, END)
    assert best.ended
    assert best.score == pytest.approx(math.log(0.4 * 0.9), abs=1e-6)
    assert best.logprobs == pytest.approx((math.log(0.4), math.log(0.9)), abs=1e-6)


def test_scores_by_hand() -> None:
    assert score_of(-6.0, 3, 0.0) == -6
    assert score_of(-6.0, 3, 1.0) == -2
    assert score_of(-6.0, 4, 0.5) == -3


def test_the_length_penalty_chooses_between_short_and_long() -> None:
    """An end at once has 0.3; a long text 0.69 a token."""
    table = [[0.69, 0.005, 0.005, 0.3], [0.25] * 4, [0.25] * 4, [0.25] * 4]
    short = search(Chain(table), [[0]], 4, 6, penalty=0.0)[0][0]
    long = search(Chain(table), [[0]], 4, 6, penalty=1.0)[0][0]
    assert short.ids == (END,)
    assert len(long.ids) == 6


def test_what_cannot_be_is_never_written() -> None:
    """With probabilities of zero there are fewer texts than beams."""
    table = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.25] * 4, [0.25] * 4]
    for beams in (1, 2, 4):
        found = search(Chain(table), [[0]], beams, 5)[0]
        assert [h.ids for h in found] == [(1, END)]
        assert found[0].score == pytest.approx(0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_enough_beams_are_exhaustive(seed: int, penalty: float) -> None:
    table = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)).softmax(dim=-1).tolist()
    most = 3

    def total(ids: tuple[int, ...]) -> float:
        return sum(math.log(table[a][b]) for a, b in itertools.pairwise((0, *ids)))

    texts = [t for n in range(1, most + 1) for t in itertools.product(range(4), repeat=n)]
    whole = [t for t in texts if END not in t[:-1] and (t[-1] == END or len(t) == most)]
    best = max(whole, key=lambda t: total(t) / len(t) ** penalty)
    found = search(Chain(table), [[0]], 64, most, penalty)[0]
    assert found[0].ids == best
    assert found[0].score == pytest.approx(total(best) / len(best) ** penalty, abs=1e-5)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    assert len({h.ids for h in found}) == len(found)


def test_nothing_is_asked_for() -> None:
    assert search(Chain(GARDEN), [[0]], 2, 0) == [[]]
    assert beam_search(Chain(GARDEN), torch.zeros(0, 1).long(), beams=2, end=END, max_new_tokens=3) == []


# ---- models ------------------------------------------------------------------------------------------------

SOURCES = [[5, 6, 7, END], [8, END], [9, 10, 11, 12, 13, END], [5, 6, 7, END]]


def greedy(model: EncoderDecoder, source: list[int], most: int, cached: bool = True) -> list[Token]:
    settings = GenerateConfig(temperature=0.0, max_new_tokens=most)
    return list(Translator(model, END, CPU, cached).stream(source, settings))


@pytest.mark.parametrize("made", [c for _, c in VARIANTS], ids=[name for name, _ in VARIANTS])
def test_the_cache_changes_no_id(made: object) -> None:
    model = build(made)  # type: ignore[arg-type]
    warm = GenerateConfig(temperature=3.0, max_new_tokens=12, seed=2)
    for source in SOURCES[:3]:
        one, other = (list(Translator(model, END, CPU, cached).stream(source, warm)) for cached in (True, False))
        assert [t.id for t in one] == [t.id for t in other]
        assert [t.logprob for t in one] == pytest.approx([t.logprob for t in other], abs=1e-3)
    for beams in (1, 3):
        found, uncached = (Translator(model, END, CPU, c).search(SOURCES, beams, 8) for c in (True, False))
        assert [[h.ids for h in hs] for hs in found] == [[h.ids for h in hs] for hs in uncached]


@pytest.mark.parametrize("seed", range(8))
def test_one_beam_is_greedy_exactly(seed: int) -> None:
    model = model_of(seed)
    found = Translator(model, END, CPU).search(SOURCES, 1, 12)
    for source, (hypothesis,) in zip(SOURCES, found, strict=True):
        tokens = greedy(model, source, 12)
        assert hypothesis.ids == tuple(t.id for t in tokens)
        assert hypothesis.logprobs == pytest.approx([t.logprob for t in tokens], abs=1e-4)
        assert hypothesis.ended == (tokens[-1].finish == "end")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_more_beams_are_never_worse_than_greedy(seed: int, penalty: float) -> None:
    model = model_of(seed)
    one = Translator(model, END, CPU).search(SOURCES, 1, 12, penalty)
    for beams in (2, 4):
        several = Translator(model, END, CPU).search(SOURCES, beams, 12, penalty)
        for (least,), found in zip(one, several, strict=True):
            assert found[0].score >= least.score - 1e-5
            assert len(found) <= beams
            assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
            for hypothesis in found:
                assert hypothesis.score == pytest.approx(
                    score_of(sum(hypothesis.logprobs), len(hypothesis.ids), penalty), abs=1e-4
                )
                assert hypothesis.ended == (hypothesis.ids[-1] == END)
                assert END not in hypothesis.ids[:-1]


def test_more_beams_find_better_texts() -> None:
    gained = 0
    for seed in range(8):
        translator = Translator(model_of(seed), END, CPU)
        one, four = (translator.search(SOURCES, beams, 12) for beams in (1, 4))
        gained += sum(f[0].score > o[0].score + 1e-3 for f, o in zip(four, one, strict=True))
    assert gained >= 8


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_a_batch_finds_what_each_finds_alone(seed: int, beams: int) -> None:
    """Sources of all lengths side by side, and of which some end early."""
    translator = Translator(model_of(seed), END, CPU)
    together = translator.search(SOURCES, beams, 12)
    for source, found in zip(SOURCES, together, strict=True):
        alone = translator.search([source], beams, 12)[0]
        assert [h.ids for h in found] == [h.ids for h in alone]
        assert [h.score for h in found] == pytest.approx([h.score for h in alone], abs=1e-4)
    assert [h.ids for h in together[0]] == [h.ids for h in together[3]]


@pytest.mark.parametrize("cached", [True, False])
def test_log_probabilities_are_those_of_the_whole_text(cached: bool) -> None:
    model = model_of(1)
    found = Translator(model, END, CPU, cached).search(SOURCES, 3, 10)
    for source, hypotheses in zip(SOURCES, found, strict=True):
        for hypothesis in hypotheses:
            given = torch.tensor([[END, *hypothesis.ids[:-1]]])
            chances = model(torch.tensor([source]), None, given).detach()[0].log_softmax(-1)
            expected = [float(chances[i, t]) for i, t in enumerate(hypothesis.ids)]
            assert hypothesis.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_decoder_only_model_can_be_searched_too(seed: int) -> None:
    model = build_decoder(decoder_config(tied=False), seed)
    prompts = [[1, 2, 4], [5, 6, 7]]
    for cached in (True, False):
        found = search(TextSteps(model, CPU, cached), prompts, 1, 10)
        for prompt, (hypothesis,) in zip(prompts, found, strict=True):
            tokens = list(Engine(model, END, CPU).stream(prompt, 10, Sampling(temperature=0.0)))
            assert hypothesis.ids == tuple(t.id for t in tokens)
        several = search(TextSteps(model, CPU, cached), prompts, 4, 10)
        assert all(s[0].score >= o[0].score - 1e-5 for s, o in zip(several, found, strict=True))


# ---- the translator ----------------------------------------------------------------------------------------


def test_the_ways_in_which_a_translation_ends() -> None:
    found = {greedy(model_of(seed), source, 3)[-1].finish for seed in range(8) for source in SOURCES}
    assert found == {"end", "length"}
    model = build(config(tied=False, head_bias=True))
    with torch.no_grad():
        assert model.head_bias is not None
        model.head_bias[END] = -1e4
    tokens = greedy(model, SOURCES[0], 500)
    assert (len(tokens), tokens[-1].finish) == (96, "context")
    assert len(greedy(model, SOURCES[0], 96)) == 96


def test_beams_come_as_tokens_when_the_search_is_over() -> None:
    translator = Translator(model_of(2), END, CPU)
    tokens = list(translator.stream(SOURCES[0], GenerateConfig(temperature=0.0, beams=3, max_new_tokens=9)))
    best = translator.search([SOURCES[0]], 3, 9)[0][0]
    assert tuple(t.id for t in tokens) == best.ids
    assert [t.finish for t in tokens[:-1]] == [None] * (len(tokens) - 1)
    assert tokens[-1].finish == ("end" if best.ended else "length")


def test_drawing_depends_on_the_seed_alone() -> None:
    translator = Translator(model_of(2), END, CPU)

    def drawn(seed: int) -> list[int]:
        settings = GenerateConfig(temperature=2.0, seed=seed, max_new_tokens=9)
        return [t.id for t in translator.stream(SOURCES[2], settings)]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(5)}) > 1


def test_a_source_that_does_not_fit_is_refused() -> None:
    translator = Translator(model_of(0), END, CPU)
    translator.check(96)
    with pytest.raises(PromptError, match=r"has 97 tokens, the model's context holds 96: shorten it by at least 1"):
        translator.check(97)
    with pytest.raises(PromptError, match="no ids"):
        translator.search([[]], 1, 5)


def test_a_model_in_training_is_left_as_it_was() -> None:
    model = model_of(0, dropout=0.5).train()
    first = Translator(model, END, CPU).search(SOURCES, 2, 6)
    assert model.training
    assert Translator(model, END, CPU).search(SOURCES, 2, 6) == first
    greedy(model, SOURCES[0], 3)
    assert model.training


def test_a_model_that_has_diverged_says_so() -> None:
    model = model_of(0)
    with torch.no_grad():
        model.head_weight[0, 0] = float("nan")
    for beams in (1, 3):
        with pytest.raises(DivergedError, match="its weights have diverged"):
            Translator(model, END, CPU).search(SOURCES, beams, 5)
    with pytest.raises(DivergedError):
        greedy(model, SOURCES[0], 5)


# ---- groups ------------------------------------------------------------------------------------------------


def grouped(steps: object, start: list[list[int]], beams: int, most: int, groups: int, diversity: float) -> Any:
    return beam_search(
        steps,  # type: ignore[arg-type]
        torch.tensor(start),
        beams=beams,
        end=END,
        max_new_tokens=most,
        groups=groups,
        diversity=diversity,
    )


def a_decoder() -> tuple[Any, Callable[[], TextSteps]]:
    made = build_decoder(decoder_config(tied=False), 3)
    return made, lambda: TextSteps(made, CPU)


def test_one_group_is_the_plain_search() -> None:
    _, steps = a_decoder()
    for diversity in (0.0, 5.0):
        assert grouped(steps(), [[5, 6]], 4, 6, 1, diversity) == search(steps(), [[5, 6]], 4, 6)


def test_groups_that_do_not_mind_each_other_find_the_same() -> None:
    model, _ = a_decoder()

    def steps() -> BackendSteps:
        # The same bits for two rows and for six.
        return BackendSteps(DecoderBackend(model, CPU, capacity=8, deterministic=True))

    small = search(steps(), [[5, 6]], 2, 6)[0]
    found = grouped(steps(), [[5, 6]], 6, 6, 3, 0.0)[0]
    assert found[0] == small[0]
    assert len({h.ids for h in found}) == len(found) <= 4, "what several groups found counts once"


def test_a_group_shuns_what_another_has_just_chosen() -> None:
    """By hand: 0.6 for id 1 and 0.4 for id 2, which is preferred once 1 is taken and loses more than ln 1.5."""
    for diversity, begins in ((0.3, {1}), (0.5, {1, 2})):
        found = grouped(Chain(GARDEN), [[0]], 2, 1, 2, diversity)[0]
        assert {h.ids[0] for h in found} == begins
    # Scores are the model's own: the penalty has only steered.
    assert [h.score for h in found] == pytest.approx([math.log(0.6), math.log(0.4)], abs=1e-6)
    _, steps = a_decoder()
    apart = grouped(steps(), [[5, 6]], 4, 1, 4, 100.0)[0]
    assert len({h.ids[0] for h in apart}) == 4
    greedy = search(steps(), [[5, 6]], 1, 6)[0][0]
    assert grouped(steps(), [[5, 6]], 4, 6, 2, 3.0)[0][0].score >= greedy.score - 1e-5, "held by the first group"


def test_groups_side_by_side_and_without_a_cache() -> None:
    made, steps = a_decoder()
    starts = [[5, 6], [7, 1], [2, 2]]
    together = grouped(steps(), starts, 4, 6, 2, 0.7)
    for start, found in zip(starts, together, strict=True):
        alone = grouped(steps(), [start], 4, 6, 2, 0.7)[0]
        uncached = grouped(TextSteps(made, CPU, cached=False), [start], 4, 6, 2, 0.7)[0]
        assert [h.ids for h in found] == [h.ids for h in alone] == [h.ids for h in uncached]
    with pytest.raises(ValueError, match="groups of one size"):
        grouped(steps(), starts, 4, 6, 3, 0.7)


@pytest.mark.parametrize("groups", [1, 2])
def test_any_backend_can_be_searched(groups: int) -> None:
    made, steps = a_decoder()
    backend = DecoderBackend(made, CPU, capacity=8)
    rows = BackendSteps(backend)
    starts = [[5, 6], [7, 1]]
    found = grouped(rows, starts, 4, 7, groups, 0.7)
    assert [[h.ids for h in texts] for texts in found] == [
        [h.ids for h in texts] for texts in grouped(steps(), starts, 4, 7, groups, 0.7)
    ]
    rows.close()
    assert [backend.open() for _ in range(8)] == list(range(8)), "no sequence is left open"


def test_the_compiled_engine_can_be_searched() -> None:
    """Twice: memory that grew inside the first search is written again after it."""
    pytest.importorskip("xllamacpp", reason="the extra `generate` is not installed")
    from fabula.generate.compiled import CompiledDecoder

    made, steps = a_decoder()
    compiled = CompiledDecoder(made, capacity=8)
    try:
        for start in ([5, 6], [7, 1] * 20):
            rows = BackendSteps(compiled)
            found = grouped(rows, [start], 4, 7, 2, 0.7)[0]
            rows.close()
            assert [h.ids for h in found] == [h.ids for h in grouped(steps(), [start], 4, 7, 2, 0.7)[0]]
    finally:
        compiled.release()
