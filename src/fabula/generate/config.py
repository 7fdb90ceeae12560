"""How a text is continued: the [generate] section of a recipe. Imports no torch, so that help stays quick."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fabula.config import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How a token is drawn. The neutral value of each filter switches it off."""

    temperature: float = setting(0.7, "0 is greedy; above 1 flattens the distribution")
    top_k: int = setting(0, "keep the k likeliest tokens; 0: all")
    top_p: float = setting(1.0, "keep the likeliest tokens up to this total probability (arXiv:1904.09751)")
    min_p: float = setting(0.0, "keep tokens of at least this share of the likeliest one's (arXiv:2407.01082)")
    typical_p: float = setting(
        1.0, "keep the tokens whose surprise is nearest the expected one, up to this probability (arXiv:2202.00666)"
    )
    repetition_penalty: float = setting(1.0, "above 1 makes tokens already seen less likely (arXiv:1909.05858)")
    presence_penalty: float = setting(0.0, "taken off the logits of tokens that were written already")
    frequency_penalty: float = setting(0.0, "taken off them once for each time that they were written")
    no_repeat_ngram: int = setting(0, "no sequence of this many tokens comes twice; 0: it may")
    seed: int = setting(0, "of the draws; the same seed gives the same text")

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature={self.temperature} must be at least 0 (0 is greedy)")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be at least 0 (0 keeps all)")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1 (1 keeps all)")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p} must be between 0 and 1 (0 keeps all)")
        if not 0 < self.typical_p <= 1:
            raise ValueError(f"typical_p={self.typical_p} must be above 0 and at most 1 (1 keeps all)")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty={self.repetition_penalty} must be above 0 (1 is none)")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -100 <= getattr(self, name) <= 100:
                raise ValueError(f"{name}={getattr(self, name)} must be from -100 to 100 (0 is none)")
        if self.no_repeat_ngram < 0:
            raise ValueError(f"no_repeat_ngram={self.no_repeat_ngram} must be at least 0 (0 is none)")
        if not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed} must be at least -2^63 and below 2^64")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig(Sampling):
    """How a text is continued."""

    max_new_tokens: int = setting(200, "most tokens to add")
    beams: int = setting(1, "texts that a beam search keeps (with temperature = 0); 1: no search")
    beam_groups: int = setting(
        1, "beams: groups that they are cut into, which shun each other's tokens (arXiv:1610.02424)"
    )
    diversity: float = setting(0.5, "groups: what a token loses for each text of an earlier group that just chose it")
    length_penalty: float = setting(1.0, "beams: scores are divided by length^this; 0 favours short texts")
    lookup: int = setting(
        0, "decoder: tokens guessed from earlier in the text and verified together; the text stays the same; 0: none"
    )
    stop: tuple[str, ...] = setting((), "texts that end the generation; they are not part of it")
    prompts: tuple[str, ...] = setting((), "beginnings that are continued at each checkpoint; empty: from nothing")

    def __post_init__(self) -> None:
        Sampling.__post_init__(self)
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1")
        if not 1 <= self.beams <= 64:
            raise ValueError(f"beams={self.beams} must be from 1 (no search) to 64; 4 is usual")
        if self.beam_groups < 1 or self.beams % self.beam_groups:
            raise ValueError(f"beam_groups={self.beam_groups} must divide beams={self.beams}")
        if not 0 <= self.diversity <= 100:
            raise ValueError(f"diversity={self.diversity} must be from 0 (none) to 100; 0.5 is usual")
        if not 0 <= self.lookup <= 64:
            raise ValueError(f"lookup={self.lookup} must be from 0 (no guesses) to 64; 8 is usual")
        if self.beams > 1 and self.lookup:
            raise ValueError(f"beams={self.beams} and lookup={self.lookup}: a search guesses nothing; leave out one")
        if self.beams > 1 and self.temperature > 0:
            raise ValueError(f"beams={self.beams} searches and draws nothing: it needs temperature = 0")
