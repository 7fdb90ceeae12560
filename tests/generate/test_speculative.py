"""Guesses change the time and nothing else: greedy and drawn, of any quality."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pytest

from fabula.device import Device
from fabula.generate.config import Sampling
from fabula.generate.decoding import DecoderBackend
from fabula.generate.engine import Engine, Token
from fabula.generate.speculative import Drafter, Lookup, SmallModel, stream
from fabula.model.config import ModelConfig
from tests.contracts.variants import VARIANTS, V, build, config

CPU = Device("cpu", "float32", 1, "test")
NEVER = 10**9
MANNERS = [
    Sampling(temperature=0.0),
    Sampling(temperature=0.0, repetition_penalty=8.0),
    Sampling(temperature=2.0, top_p=0.9, frequency_penalty=0.2, seed=3),
]


class Guesser:
    """Guesses by chance: ids, or nothing."""

    def __init__(self) -> None:
        self.draw = random.Random(1)

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        return [self.draw.randrange(V + 2) for _ in range(self.draw.randrange(most + 1))]


class Counted(DecoderBackend):
    passes = 0

    def read(self, *given, **named):  # type: ignore[no-untyped-def]
        self.passes += 1
        return super().read(*given, **named)


def plain(made: ModelConfig, prompt: list[int], sampling: Sampling, n: int) -> list[Token]:
    return list(Engine(build(made), NEVER, CPU).stream(prompt, n, sampling))


@pytest.mark.parametrize("made", [c for _, c in VARIANTS], ids=[name for name, _ in VARIANTS])
def test_guesses_change_no_id(made: ModelConfig) -> None:
    made = dataclasses.replace(made, tied=False)
    check(made, Guesser(), MANNERS[1], 6)
    check(made, Guesser(), MANNERS[2], 6)


@pytest.mark.parametrize("sampling", MANNERS, ids=["greedy", "lively", "drawn"])
def test_nor_do_those_that_are_meant(sampling: Sampling) -> None:
    small = SmallModel(DecoderBackend(build(config(n_layers=1)), CPU))
    for drafter in (Lookup(), small):
        check(config(tied=False), drafter, sampling, 30)


def check(made: ModelConfig, drafter: Drafter, sampling: Sampling, n: int) -> None:
    prompt = [1, 2, 3, 1, 2, 3, 1]
    expected = plain(made, prompt, sampling, n)
    found = list(stream(DecoderBackend(build(made), CPU), drafter, prompt, n, sampling))
    assert [t.id for t in found] == [t.id for t in expected]
    assert [t.logprob for t in found] == pytest.approx([t.logprob for t in expected], abs=1e-3)
    assert [t.finish for t in found] == [t.finish for t in expected]


@pytest.mark.parametrize("drafter", [Lookup(), Guesser()], ids=["lookup", "chance"])
def test_ends_are_the_same(drafter: Drafter) -> None:
    made = config(context_length=16, tied=False)
    for n_prompt, most in ((1, 100), (16, 5), (10, 3), (10, 7), (10, 8)):
        prompt = [n % V for n in range(n_prompt)]
        expected = plain(made, prompt, MANNERS[0], most)
        assert [
            (t.id, t.finish) for t in stream(DecoderBackend(build(made), CPU), drafter, prompt, most, MANNERS[0])
        ] == [(t.id, t.finish) for t in expected]
        end = frozenset({expected[-1].id})
        found = list(stream(DecoderBackend(build(made), CPU), drafter, prompt, most, MANNERS[0], end))
        assert found[-1].finish == "end"
        assert not {t.id for t in found[:-1]} & end


def test_a_model_that_guesses_for_itself_is_read_once_a_run_of_guesses() -> None:
    made = config(tied=False)
    backend = Counted(build(made), CPU)
    found = list(stream(backend, SmallModel(DecoderBackend(build(made), CPU)), [1, 2, 3], 36, MANNERS[0], guesses=8))
    assert len(found) == 36
    assert backend.passes == 1 + 36 / 9


def test_what_came_before_is_guessed_to_come_again() -> None:
    assert Lookup().guess([5, 6, 7, 8, 9, 5, 6, 7], 2) == [8, 9]
    assert Lookup().guess([1, 2, 9, 1, 3, 1], 3) == [3, 1]
    assert Lookup().guess([1, 2, 3], 3) == []
    assert Lookup().guess([1], 3) == []
