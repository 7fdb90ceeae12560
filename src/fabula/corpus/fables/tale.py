"""Fables by number: the documents of the built-in corpus, their surprisal, and reading them back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b

from .choice import Memory, Node, Telling
from .choice import choice_points as points_under
from .english.story import grammar as english
from .lots import ChoicePoint
from .plan import FEATURES, LANGUAGES
from .spanish.story import grammar as spanish


@dataclass(frozen=True, slots=True)
class Fable:
    text: str  # no trailing newline
    surprisal_bits: float  # -log2 of the exact probability of this text under the generator
    language: str  # "es" | "en"
    setup: str  # one of SETUPS
    features: frozenset[str]  # subset of FEATURES


@dataclass(frozen=True, slots=True)
class Derivation:
    """One way in which the generator can come to a text."""

    surprisal_bits: float  # -log2 of the probability of this derivation
    setup: str
    features: frozenset[str]


@dataclass(frozen=True, slots=True)
class EntropyEstimate:
    """Entropy of the corpus, estimated from its first ``documents`` documents."""

    documents: int
    bits_per_document: float
    bits_per_byte: float  # total bits over total UTF-8 bytes of the texts
    standard_error: float  # of bits_per_byte


@cache
def story(language: str) -> Node:
    """The start node of the grammar of a language (compiled once per process)."""
    if language not in LANGUAGES:
        raise ValueError(f"unknown language {language!r}; the valid ones are {', '.join(LANGUAGES)}")
    return {"es": spanish, "en": english}[language]().rules["fable"]


class Fables:
    """An endless, randomly accessible corpus: document ``index`` depends only on seed, language and index."""

    def __init__(self, language: str = "es", seed: int = 0) -> None:
        self._story = story(language)
        self.language = language
        self.seed = seed

    def __getitem__(self, index: int) -> Fable:
        if index < 0:
            raise IndexError("fables are numbered from 0")
        # A keyed hash and not hash(): the same in every process and on every machine.
        key = blake2b(f"fable/{self.language}/{self.seed}/{index}".encode(), digest_size=8).digest()
        telling = Telling(int.from_bytes(key, "big"))
        self._story.tell(telling)
        return Fable(
            text="".join(telling.out),
            surprisal_bits=telling.bits,
            language=self.language,
            setup=telling.bound["S"].name,
            features=_features(telling.flags),
        )

    def take(self, n: int, start: int = 0) -> Iterator[Fable]:
        """The ``n`` documents from number ``start`` on."""
        for index in range(start, start + n):
            yield self[index]


def _features(flags: dict[str, bool]) -> frozenset[str]:
    return frozenset([feature for feature in FEATURES if flags.get(feature, False)])


def parse(text: str, language: str) -> list[Derivation]:
    """Every derivation of ``text``, found by exhaustive search; empty if the generator cannot tell it."""
    return [
        Derivation(bits, memory.bound["S"].name, _features(memory.flags))
        for end, memory, bits in story(language).read(text, 0, Memory())
        if end == len(text)
    ]


def surprisal_bits(text: str, language: str) -> float:
    """-log2 of the total probability (over all derivations) of ``text``; infinite if it cannot be told."""
    probability = math.fsum(2.0**-derivation.surprisal_bits for derivation in parse(text, language))
    return -math.log2(probability) if probability else math.inf


def choice_points(language: str) -> list[ChoicePoint]:
    """Every point where chance enters, with the probability of each option.

    Word lists are drawn from without repetition inside a document: after earlier draws their probabilities
    are those stated, over what is left.
    """
    return points_under(story(language))


def entropy_estimate(language: str, n: int, seed: int = 0) -> EntropyEstimate:
    """Mean surprisal of the first ``n`` documents (n >= 2).

    The mean of -log2 p over documents drawn with probability p estimates the entropy without bias.
    """
    if n < 2:
        raise ValueError("an estimate with a standard error needs at least 2 documents")
    sizes, bits = [], []
    for fable in Fables(language, seed).take(n):
        sizes.append(len(fable.text.encode()))
        bits.append(fable.surprisal_bits)
    rate = sum(bits) / sum(sizes)
    # Standard error of a ratio of means (linearised).
    spread = math.fsum((b - rate * s) ** 2 for b, s in zip(bits, sizes, strict=True)) / (n - 1)
    error = math.sqrt(spread / n) / (sum(sizes) / n)
    return EntropyEstimate(n, sum(bits) / n, rate, error)
