"""Byte-level BPE (arXiv:1508.07909 on bytes, as GPT-2), trained by Hugging Face's `tokenizers`.

The pre-tokenizer is GPT-2's pattern: llama.cpp and Hugging Face both know it by name ("gpt-2"), and its letters are
Unicode's, so accented words stay whole. All 256 bytes are in the vocabulary: there is no unknown token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from fabula.errors import InputError
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.special import SPECIAL_TEXT

# Bytes and special tokens: the smallest vocabulary there is.
SMALLEST = 256 + len(SPECIAL_TEXT)

# Learning takes a time in proportion to the square of the longest word: a MiB without a space would be an hour. No word
# of a language comes near this length; what does (data in letters, rulers of dashes) is learnt from in pieces.
_LONGEST = 512
_ENDLESS = re.compile(rf"(?<!\S)\S{{{_LONGEST + 1},}}|(?<!\s)\s{{{_LONGEST + 1},}}")


def train_bpe(texts: Iterable[str], vocab_size: int, exact: bool = True) -> Tokenizer:
    """A tokenizer of `vocab_size` tokens learnt from texts.

    When the texts hold too few repeated pairs for that many tokens: InputError if `exact`, else a smaller vocabulary.
    Stretches of more than 512 characters with no space, or of nothing but space, are cut after every 512.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST:
        raise InputError(
            f"vocab_size={vocab_size} is too small: bytes and special tokens alone are {SMALLEST}; "
            f"use {SMALLEST} or more"
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TEXT.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_without_endless(texts), trainer=trainer)
    tokenizer = Tokenizer(backend)
    if exact and tokenizer.vocab_size < vocab_size:
        raise InputError(
            f"vocab_size={vocab_size} is larger than the corpus supports: its text repeats only enough for "
            f"{tokenizer.vocab_size} tokens; use --tokenizer.vocab_size {tokenizer.vocab_size} or less, or auto"
        )
    return tokenizer


def _without_endless(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut where a stretch is too long to be a word."""
    for text in texts:
        start = 0
        for found in _ENDLESS.finditer(text):
            for cut in range(found.start() + _LONGEST, found.end(), _LONGEST):
                yield text[start:cut]
                start = cut
        yield text[start:]
