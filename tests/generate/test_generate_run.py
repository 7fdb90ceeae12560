"""A model and a prompt to text: pieces, stops, reasons. The model is a script, so that the text is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fabula.device import Device
from fabula.errors import PromptError
from fabula.generate.config import GenerateConfig
from fabula.generate.run import encode_prompt, run, stream
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.forms import SMALLEST
from tests.contracts.variants import build, config

CPU = Device("cpu", "float32", 1, "test")


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """A token a byte: every character of more than one byte is split."""
    return train_bpe(["nada"], SMALLEST)


class Script:
    """Stands in for a decoder: whatever it reads, the next id is the next one of a text."""

    def __init__(self, ids: list[int], vocab_size: int, prompt_length: int, context_length: int = 500) -> None:
        self.ids, self.vocab_size, self.prompt_length = ids, vocab_size, prompt_length
        self.config = config(context_length=context_length)
        self.training = False

    def new_cache(self) -> None:
        return None

    def eval(self) -> None: ...

    def train(self, mode: bool) -> None: ...

    def hidden(self, tokens: torch.Tensor, cache: Any = None) -> torch.Tensor:
        return torch.tensor([[[float(tokens.shape[1])]]])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        place = int(hidden[0, 0]) - self.prompt_length
        logits = torch.zeros(1, self.vocab_size)
        logits[0, self.ids[place]] = 30.0
        return logits


def play(
    tokenizer: Tokenizer, text: str, prompt: str = "", end: bool = True, context: int = 500, **settings: Any
) -> Any:
    ids = tokenizer.encode(text) + [tokenizer.special.end_of_document] * end
    script = Script(ids, tokenizer.vocab_size, len(encode_prompt(tokenizer, prompt)), context)
    made = GenerateConfig(**({"temperature": 0.0, "max_new_tokens": 100} | settings))
    pieces = list(stream(script, tokenizer, prompt, made, CPU, cached=False))  # type: ignore[arg-type]
    whole = run(script, tokenizer, prompt, made, CPU, cached=False)  # type: ignore[arg-type]
    assert "".join(p.text for p in pieces) == whole.text
    assert tuple(i for p in pieces for i in p.ids) == whole.ids
    assert [p.finish_reason for p in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == whole.finish_reason
    return whole


def test_the_end_is_not_part_of_the_text(letters: Tokenizer) -> None:
    made = play(letters, "¡Añejo 🙂!", prompt="Él")
    assert (made.text, made.finish_reason) == ("¡Añejo 🙂!", "end")
    assert made.ids[-1] == letters.special.end_of_document
    assert len(made.logprobs) == len(made.ids)
    assert (made.prompt, made.prompt_tokens) == ("Él", 1 + len("Él".encode()))


def test_a_length_in_the_middle_of_a_character(letters: Tokenizer) -> None:
    made = play(letters, "a🙂", max_new_tokens=3)
    assert (made.text, made.finish_reason) == ("a�", "length")


def test_stops_over_tokens(letters: Tokenizer) -> None:
    made = play(letters, "uno\n\nUser: dos", stop=("\n\nUser:", "zzz"))
    assert (made.text, made.finish_reason) == ("uno", "stop")
    assert letters.decode(made.ids) == "uno\n\nUser:", "the ids tell what was really generated"
    assert play(letters, "a🙂b", stop=("🙂",)).text == "a"


def test_what_was_held_back_comes_at_the_end(letters: Tokenizer) -> None:
    assert play(letters, "uno\n", stop=("\n\n",)).text == "uno\n"
    assert play(letters, "uno\n\n", stop=("\n\n\n",), max_new_tokens=5).text == "uno\n\n"


def test_a_stop_with_the_last_allowed_token_is_a_stop(letters: Tokenizer) -> None:
    made = play(letters, "ab.", stop=(".",), max_new_tokens=3)
    assert (made.text, made.finish_reason) == ("ab", "stop")


def test_a_stop_that_only_the_end_completes(letters: Tokenizer) -> None:
    """A broken character becomes U+FFFD at the end, which may be a stop."""
    made = play(letters, "a🙂", stop=("�",), max_new_tokens=3)
    assert (made.text, made.finish_reason) == ("a", "stop")


def test_a_stop_in_the_prompt_stops_nothing(letters: Tokenizer) -> None:
    made = play(letters, "ab", prompt="x.y.", stop=(".",))
    assert (made.text, made.finish_reason) == ("ab", "end")


def test_the_context(letters: Tokenizer) -> None:
    made = play(letters, "abcdefghij", prompt="xyz", context=8)
    assert (made.text, made.finish_reason) == ("abcde", "context")
    with pytest.raises(PromptError, match=r"has 9 tokens.*holds 8.*at least 1 tokens.*; it is 8 characters long"):
        play(letters, "a", prompt="12345678", context=8)


def test_a_prompt_that_writes_a_special_token_gets_its_letters(letters: Tokenizer) -> None:
    ids = encode_prompt(letters, "<|endoftext|>")
    assert ids[0] == letters.special.end_of_document
    assert letters.special.end_of_document not in ids[1:]
    assert encode_prompt(letters, "") == [letters.special.end_of_document]


# ---- a search, and guesses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False])
def test_one_beam_is_greedy_and_more_are_never_worse(letters: Tokenizer, cached: bool) -> None:
    made = build(dataclasses.replace(config(context_length=40, tied=False), vocab_size=letters.vocab_size + 5))
    for prompt in ("", "a", "El ñandú"):
        settings = GenerateConfig(temperature=0.0, max_new_tokens=12)
        one = run(made, letters, prompt, settings, CPU, cached)
        found = run(made, letters, prompt, dataclasses.replace(settings, beams=4), CPU, cached)
        assert sum(found.logprobs) / len(found.ids) >= sum(one.logprobs) / len(one.ids) - 1e-4
        assert max(found.ids) < letters.vocab_size
        assert found.finish_reason in ("end", "length")
        whole = run(made, letters, prompt, dataclasses.replace(settings, beams=2, max_new_tokens=99), CPU, cached)
        assert whole.finish_reason in ("end", "context")


def test_guesses_change_no_text(letters: Tokenizer) -> None:
    made = build(dataclasses.replace(config(tied=False), vocab_size=letters.vocab_size))
    for temperature in (0.0, 1.0):
        plain = GenerateConfig(temperature=temperature, max_new_tokens=30, seed=2)
        one = run(made, letters, "ababab", plain, CPU)
        other = run(made, letters, "ababab", dataclasses.replace(plain, lookup=6), CPU)
        assert (one.text, one.ids, one.finish_reason) == (other.text, other.ids, other.finish_reason)
