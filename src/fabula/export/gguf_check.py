"""Is a GGUF file the model it was written from? llama.cpp reads it again and is compared, before it is published.

Weights in float32: logits at every position of a few texts, then 64 greedy tokens. In q8_0 the logits are another
model's by design: how far they lie apart is told, and only a file that is plainly wrong is refused. The ids of a
thousand strings must be the same in both.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

from fabula.config import Data
from fabula.errors import InputError
from fabula.export import hf_check, llama_cpp
from fabula.model.decoder import Decoder
from fabula.model.ffn import GegluFFN, GeluFFN
from fabula.tokenizer.base import Tokenizer

# Strings whose ids are compared.
STRINGS = 1000
# How far logits may lie apart, as a share of the largest: llama.cpp looks GELU up in a table of 16-bit numbers (half a
# thousandth at each lookup), and rounds to 8 bits what q8_0 multiplies.
_GELU_SHARE, _Q8_SHARE = 2e-3, 0.25


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and how far it was apart."""

    logits: int  # positions at which the logits of the whole vocabulary were compared
    largest_difference: float
    tolerance: float
    greedy_tokens: int
    ties: int  # greedy tokens where the two likeliest were equal within the tolerance
    texts: int  # whose ids were compared
    llama_cpp: str  # the version of the wheel that it came in

    def to_data(self) -> Data:
        return asdict(self)


def check(file: Path, model: Decoder, tokenizer: Tokenizer, weights: str) -> Comparison:
    """Compare a file with its model; InputError saying what differs, MachineError when llama.cpp is missing."""
    context = model.config.context_length
    prompts = [hf_check.prompt_ids(tokenizer, text, context) for text in hf_check.PROMPTS]
    long = hf_check.long_ids(tokenizer, model)
    room = max(len(long), *(len(ids) + hf_check.GREEDY for ids in prompts))
    with llama_cpp.opened(file, min(room, context), torch.get_num_threads()) as theirs:
        if theirs.vocab_size != model.config.vocab_size:
            raise InputError(f"llama.cpp sees {theirs.vocab_size:,} tokens, the model has {model.config.vocab_size:,}")
        _check_ids(theirs, tokenizer)
        return _compare(model.eval(), theirs, tokenizer, prompts, long, weights)


def _compare(
    ours: Decoder,
    theirs: llama_cpp.Llama,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    long: list[int],
    weights: str,
) -> Comparison:
    apart = largest = 0.0
    positions = 0
    with torch.inference_mode():
        for ids in (*prompts, long):
            mine = ours(torch.tensor([ids]))[0]
            theirs.forget()
            # A long text is read at once up to the positions that are compared.
            start = max(0, len(ids) - hf_check.KEPT)
            if start:
                theirs.read(ids[:start])
            for place in range(start, len(ids)):
                other = theirs.read(ids[place : place + 1])
                apart = max(apart, float((mine[place] - other).abs().max()))
                positions += 1
            largest = max(largest, float(mine[start:].abs().max()))
    tolerance = _tolerance(ours, weights, largest)
    if not apart <= tolerance:
        raise InputError(
            f"llama.cpp computes other logits from what was written (apart by up to {apart:.3g}, {tolerance:.3g} is "
            "allowed): nothing was published"
        )
    greedy = ties = 0
    for ids in prompts if weights == "float32" else []:
        n, tie = _same_greedy(ours, theirs, tokenizer, ids, tolerance)
        greedy, ties = greedy + n, ties + tie
    return Comparison(positions, apart, tolerance, greedy, ties, STRINGS, metadata.version("xllamacpp"))


def _tolerance(ours: Decoder, weights: str, largest: float) -> float:
    if weights != "float32":
        return _Q8_SHARE * max(largest, 1.0)
    share = _GELU_SHARE if isinstance(ours.config.ffn, GeluFFN | GegluFFN) else hf_check.SHARE
    return max(hf_check.TOLERANCE, share * largest)


def _same_greedy(
    ours: Decoder, theirs: llama_cpp.Llama, tokenizer: Tokenizer, prompt: list[int], tolerance: float
) -> tuple[int, int]:
    """Greedy tokens that agree, and ties among them; InputError at the first that differs and is no tie."""
    cache, new = ours.new_cache(), list(prompt)
    theirs.forget()
    n = ties = 0
    with torch.inference_mode():
        while n < min(hf_check.GREEDY, ours.config.context_length - len(prompt)):
            mine, other = ours(torch.tensor([new]), cache=cache)[0, -1], theirs.read(new)
            number, found = int(mine.argmax()), int(other.argmax())
            if number != found:
                if float(mine[number] - mine[found]) > 2 * tolerance:
                    raise InputError(
                        f"llama.cpp generates other tokens from what was written (token {n + 1} is {found}, ours "
                        f"{number}): nothing was published"
                    )
                ties += 1
            new, n = [number], n + 1
            if number == tokenizer.special.end_of_document:
                break
    return n, ties


def _check_ids(theirs: llama_cpp.Llama, tokenizer: Tokenizer) -> None:
    for text in strings(STRINGS):
        mine, other = tokenizer.encode(text), theirs.ids(text)
        if mine != other:
            raise InputError(
                f"llama.cpp cuts a text otherwise: {text!r:.60}: ids {other[:12]}, ours {mine[:12]}: nothing was "
                "published"
            )


def strings(count: int) -> Iterator[str]:
    """The same texts each time: those of every export, and others put together of their words and of characters of the
    scripts in them."""
    draw = random.Random(0)
    yield from hf_check.TEXTS[:count]
    words = [word for text in hf_check.TEXTS for word in text.replace("\n", " \n ").split(" ")]
    scripts = ((0x20, 0x7F), (0xA1, 0x17F), (0x391, 0x3CA), (0x410, 0x450), (0x4E00, 0x4F00), (0x1F600, 0x1F640))
    for number in range(len(hf_check.TEXTS), count):
        parts = []
        for _ in range(draw.randint(1, 12)):
            if number % 2:
                parts.append(draw.choice(words))
            else:
                low, high = draw.choice(scripts)
                letters = (chr(draw.randrange(low, high)) for _ in range(draw.randint(1, 6)))
                parts.append("".join(c for c in letters if unicodedata.category(c) != "Cn"))
        yield draw.choice((" ", "  ", "\n", ", ", "")).join(parts)
