"""Many prompts side by side: each text as it would be alone, in order; several for one; the likeliest of them."""

from __future__ import annotations

import dataclasses

import pytest

from fabula.device import Device
from fabula.errors import InputError, PromptError
from fabula.generate.config import GenerateConfig
from fabula.generate.decoding import DecoderBackend
from fabula.generate.many import Sample, best, seed_of, together
from fabula.generate.run import run
from fabula.model.decoder import Decoder
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.forms import SMALLEST
from tests.contracts.variants import build, config

CPU = Device("cpu", "float32", 1, "test")
DRAWN = GenerateConfig(temperature=1.5, max_new_tokens=9, seed=3)
PROMPTS = ["", "a", "El ñandú", "b" * 30, "a"]


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return train_bpe(["nada"], SMALLEST)


@pytest.fixture(scope="module")
def model(letters: Tokenizer) -> Decoder:
    return build(dataclasses.replace(config(context_length=48, tied=False), vocab_size=letters.vocab_size + 3))


def samples(model: Decoder, letters: Tokenizer, prompts: list[str], n: int = 1, **more: object) -> list[Sample]:
    settings = more.pop("config", DRAWN)
    return list(together(model, letters, prompts, settings, CPU, n, **more))  # type: ignore[arg-type]


def test_each_as_alone_and_in_order(model: Decoder, letters: Tokenizer) -> None:
    found = samples(model, letters, PROMPTS, 3)
    assert [(s.prompt, s.number) for s in found] == [(p, k) for p in range(len(PROMPTS)) for k in range(3)]
    for sample in found:
        assert sample.seed == seed_of(DRAWN.seed, sample.number)
        one = run(model, letters, PROMPTS[sample.prompt], dataclasses.replace(DRAWN, seed=sample.seed), CPU)
        assert (one.ids, one.text, one.finish_reason) == (
            sample.made.ids,
            sample.made.text,
            sample.made.finish_reason,
        )
    assert len({s.made.ids for s in found[:3]}) == 3, "the samples of a prompt differ"
    again = samples(model, letters, PROMPTS[2:3], 3)
    assert [s.made for s in again] == [s.made for s in found[6:9]], "to the bit, whatever stands beside it"


def test_more_prompts_than_run_at_a_time(model: Decoder, letters: Tokenizer) -> None:
    prompts = [f"{number}" for number in range(75)]
    short = dataclasses.replace(DRAWN, max_new_tokens=2)
    assert [s.made.prompt for s in samples(model, letters, prompts, config=short)] == prompts


def test_a_search_and_guesses_come_one_by_one(model: Decoder, letters: Tokenizer) -> None:
    for settings in (dataclasses.replace(DRAWN, lookup=3), dataclasses.replace(DRAWN, temperature=0.0, beams=2)):
        found = samples(model, letters, PROMPTS[:2], config=settings)
        assert [s.made for s in found] == [run(model, letters, p, settings, CPU) for p in PROMPTS[:2]]
        with pytest.raises(InputError, match="do not go together"):
            samples(model, letters, [""], config=settings, top_logprobs=1)


def test_stops_and_ends(model: Decoder, letters: Tokenizer) -> None:
    plain = samples(model, letters, ["a"])[0].made
    letter = next(c for c in plain.text if c != "\ufffd")
    stopped = samples(model, letters, ["a"], config=dataclasses.replace(DRAWN, stop=(letter,)))[0].made
    assert (stopped.text, stopped.finish_reason) == (plain.text[: plain.text.index(letter)], "stop")


def test_alternatives(model: Decoder, letters: Tokenizer) -> None:
    made = samples(model, letters, ["ab"], top_logprobs=4)[0].made
    single = run(model, letters, "ab", DRAWN, CPU, top_logprobs=4)
    assert len(made.top) == len(made.ids) == len(single.top)
    assert [[i for i, _ in place] for place in made.top] == [[i for i, _ in place] for place in single.top]
    for number, chance, place in zip(made.ids, made.logprobs, made.top, strict=True):
        assert [x for _, x in place] == sorted((x for _, x in place), reverse=True)
        assert dict(place).get(number, chance) == pytest.approx(chance)
    assert run(model, letters, "ab", DRAWN, CPU).top == ()


def test_what_is_finished_stays_when_it_is_stopped(model: Decoder, letters: Tokenizer) -> None:
    """The first text is long: those behind it come when the work is stopped, it does not."""
    settings = dataclasses.replace(DRAWN, max_new_tokens=40)
    prompts = ["", *("x" * 45 for _ in range(4))]  # the others end where the context ends
    calls = []

    def stopped() -> bool:
        calls.append(1)
        return len(calls) > 10

    found = samples(model, letters, prompts, config=settings, stopped=stopped)
    assert [s.prompt for s in found] == [1, 2, 3, 4]
    assert samples(model, letters, prompts, config=dataclasses.replace(settings, lookup=2), stopped=lambda: True) == []


def test_a_prompt_that_does_not_fit_is_named_before_anything_is_written(model: Decoder, letters: Tokenizer) -> None:
    with pytest.raises(PromptError, match=r"prompt 2 has 61 tokens.*holds 48.*at least 13"):
        next(together(model, letters, ["a", "b" * 60, "c"], DRAWN, CPU))
    with pytest.raises(InputError, match="at least one"):
        samples(model, letters, ["a"], 0)


def test_another_backend(model: Decoder, letters: Tokenizer) -> None:
    backend = DecoderBackend(model, CPU, capacity=3, deterministic=True, n_ids=letters.vocab_size)
    found = samples(model, letters, PROMPTS, 2, backend=backend)
    assert [s.made for s in found] == [s.made for s in samples(model, letters, PROMPTS, 2)]
    assert [backend.open() for _ in range(3)] == [0, 1, 2], "nothing is left open"


def test_the_likeliest(model: Decoder, letters: Tokenizer) -> None:
    found = samples(model, letters, ["a"], 6)
    means = [sum(s.made.logprobs) / len(s.made.ids) for s in found]
    assert best(found) is found[means.index(max(means))]
    assert best([found[0], found[0]]) is found[0]
