"""How can several tokens come of one pass of the model? Guess them cheaply, and let the model read all guesses at once
(arXiv:2211.17192, arXiv:2302.01318).

The guesses come from the text itself (prompt lookup: what followed the last few ids when they came before) or from a
small model with the same tokenizer. At each place the model's own choice is made, with the number of the generator that
plain decoding would use there; a guess stands as long as it is that very choice. So the text is the one that is written
without guesses, drawn or greedy, and not only one of the same distribution: a deviation from the papers, whose
rejections accept a little more.

(Where two logits differ in their last bits only, reading several ids at once may order them otherwise than one by one.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from fabula.generate.backend import Backend
from fabula.generate.config import Sampling
from fabula.generate.engine import Reason, Token, diverged, fits
from fabula.generate.sampling import choose


class Drafter(Protocol):
    """Something that guesses."""

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """At most so many ids that may follow."""


class Lookup:
    """What followed the last ids (the last `longest`, or fewer) when they came before, the latest time first."""

    def __init__(self, longest: int = 3) -> None:
        self.longest = longest

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        for size in range(min(self.longest, len(ids) - 1), 0, -1):
            last = list(ids[-size:])
            for place in range(len(ids) - size - 1, -1, -1):
                if list(ids[place : place + size]) == last:
                    return list(ids[place + size : place + size + most])
        return []


class SmallModel:
    """The likeliest ids of a model on a backend of its own; its ids must mean the same."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._sequence = backend.open()
        self._ids: list[int] = []

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        room = min(most, self.backend.context_length - len(ids))
        if room < 1 or max(ids) >= self.backend.vocab_size:
            return []
        shared = 0
        while shared < min(len(ids) - 1, len(self._ids)) and ids[shared] == self._ids[shared]:
            shared += 1
        self.backend.rewind(self._sequence, shared)
        logits = self.backend.read(self._sequence, ids[shared:])
        assert logits is not None
        found = [int(logits.argmax())]
        while len(found) < room:
            found.append(int(self.backend.step([self._sequence], found[-1:])[0].argmax()))
        self._ids = [*ids, *found[:-1]]
        return found


def stream(
    backend: Backend,
    drafter: Drafter,
    prompt: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling,
    ends: frozenset[int] = frozenset(),
    guesses: int = 8,
) -> Iterator[Token]:
    """New ids one by one, as `Engine.stream` gives them; at most `guesses` of a pass are guessed."""
    fits(len(prompt), backend.context_length)
    ids, n_prompt = list(prompt), len(prompt)
    generator = torch.Generator().manual_seed(sampling.seed)
    sequence = backend.open()
    try:
        if n_prompt > 1:
            backend.read(sequence, ids[:-1], "none")
        while True:
            known = len(ids) - 1
            room = min(guesses, max_new_tokens - (len(ids) - n_prompt) - 1, backend.context_length - len(ids))
            guessed = drafter.guess(ids, room)[:room] if room > 0 else []
            guessed = guessed[: next((n for n, g in enumerate(guessed) if g >= backend.vocab_size), len(guessed))]
            rows = backend.read(sequence, [ids[-1], *guessed], "all")
            assert rows is not None
            for place, logits in enumerate(rows):
                total = logits.logsumexp(dim=-1)
                if not bool(total.isfinite()):
                    raise diverged(len(ids))
                number = choose(logits, ids, sampling, generator, n_prompt)
                ids.append(number)
                finish: Reason | None = None
                if number in ends:
                    finish = "end"
                elif len(ids) - n_prompt == max_new_tokens:
                    finish = "length"
                elif len(ids) > backend.context_length:
                    finish = "context"
                yield Token(number, float(logits[number] - total), finish)
                if finish:
                    return
                if place < len(guessed) and guessed[place] != number:
                    break
            backend.rewind(sequence, min(len(ids) - 1, known + 1 + len(guessed)))
    finally:
        backend.close(sequence)
