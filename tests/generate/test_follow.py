"""From the ids of a batch to text: characters and stop sequences over the borders of tokens, for many texts at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fabula.generate.backend import Wanted
from fabula.generate.batch import Batch, Request
from fabula.generate.config import Sampling
from fabula.generate.follow import Follower
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.forms import SMALLEST

TEXTS = ["¡Él dijo «ñandú»!", "漢字かな", "🦊👩🏽‍🚀 e\u0301", "a\n\nb\n", "fin. Fin", ""]


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """A token a byte: every character of more than one byte is split."""
    return train_bpe(["nada"], SMALLEST)


class Dictation:
    """A backend without a model: sequence n writes text n, and then the end."""

    context_length, deterministic = 500, True

    def __init__(self, texts: Sequence[list[int]], vocab_size: int) -> None:
        self.texts, self.vocab_size, self.capacity = texts, vocab_size, len(texts)
        self.lengths: dict[int, int] = {}

    def open(self) -> int:
        self.lengths[len(self.lengths)] = 0
        return len(self.lengths) - 1

    def length(self, sequence: int) -> int:
        return self.lengths[sequence]

    def read(self, sequence: int, ids: Sequence[int], wanted: Wanted = "last") -> Tensor:
        self.lengths[sequence] += len(ids)
        return self._next(sequence)

    def step(self, sequences: Sequence[int], ids: Sequence[int]) -> Tensor:
        for sequence in sequences:
            self.lengths[sequence] += 1
        return torch.stack([self._next(sequence) for sequence in sequences])

    def rewind(self, sequence: int, length: int) -> None:
        self.lengths[sequence] = length

    def copy(self, sequence: int, length: int) -> int:
        raise NotImplementedError

    def close(self, sequence: int) -> None: ...

    def _next(self, sequence: int) -> Tensor:
        logits = torch.zeros(self.vocab_size)
        logits[self.texts[sequence][self.lengths[sequence] - 1]] = 30
        return logits


def follow(letters: Tokenizer, texts: Sequence[bytes], stop: Sequence[str] = ()) -> list[tuple[list[str], str, int]]:
    """What was shown of texts that were written side by side, why each ended, and ids written."""
    end, byte = letters.special.end_of_document, {b[0]: n for n, b in enumerate(letters._bytes) if len(b) == 1}
    batch = Batch(Dictation([[*(byte[b] for b in text), end] for text in texts], letters.vocab_size))
    request = Request(ids=(end,), ends=frozenset({end}), sampling=Sampling(temperature=0.0))
    followers = [Follower(batch.submit(request), letters, stop) for _ in texts]
    shown: list[list[str]] = [[] for _ in texts]
    going = True
    while going:
        going = batch.step()
        for pieces, follower in zip(shown, followers, strict=True):
            pieces += [piece for piece, _ in follower.take()]
    return [(s, str(f.finish), f.handle.written) for s, f in zip(shown, followers, strict=True)]


def test_what_is_shown_is_the_whole_text_and_never_half_a_character(letters: Tokenizer) -> None:
    for text, (pieces, finish, _) in zip(TEXTS, follow(letters, [t.encode() for t in TEXTS]), strict=True):
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)
        assert finish == "end"


def test_bytes_that_form_no_character_are_marked_where_they_stand(letters: Tokenizer) -> None:
    (pieces, _, _), (cut, _, _) = follow(letters, [b"a\xffb", "añ".encode()[:-1]])
    assert "".join(pieces) == "a\ufffdb"
    assert "".join(cut) == "a\ufffd"


@pytest.mark.parametrize("stop", [("Fin",), ("n. F", "zz"), ("ñandú",), ("🚀",), ("字か",), ("\n\nb",)], ids=str)
def test_a_stop_over_tokens_neither_leaks_nor_is_missed(letters: Tokenizer, stop: tuple[str, ...]) -> None:
    for text, (pieces, finish, written) in zip(TEXTS, follow(letters, [t.encode() for t in TEXTS], stop), strict=True):
        place = text.find(stop[0])
        assert "".join(pieces) == (text if place < 0 else text[:place])
        assert finish == ("end" if place < 0 else "stop")
        if place >= 0:
            assert written == len((text[:place] + stop[0]).encode()), "nothing is written beyond it"
