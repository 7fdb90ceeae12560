"""Byte-level BPE (arXiv:1508.07909 on bytes, as GPT-2), trained by Hugging Face's `tokenizers`.

The pre-tokenizer is GPT-2's pattern: llama.cpp and Hugging Face both know it by name ("gpt-2"), and its letters are
Unicode's, so accented words stay whole. All 256 bytes are in the vocabulary: there is no unknown token.
"""

from __future__ import annotations

from collections.abc import Iterable

from fabula.errors import InputError
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.special import SPECIAL_TEXT

# Bytes and special tokens: the smallest vocabulary there is.
SMALLEST = 256 + len(SPECIAL_TEXT)


def train_bpe(texts: Iterable[str], vocab_size: int, exact: bool = True) -> Tokenizer:
    """A tokenizer of `vocab_size` tokens learnt from texts.

    When the texts hold too few repeated pairs for that many tokens: InputError if `exact`, else a smaller vocabulary.
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
    backend.train_from_iterator(texts, trainer=trainer)
    tokenizer = Tokenizer(backend)
    if exact and tokenizer.vocab_size < vocab_size:
        raise InputError(
            f"vocab_size={vocab_size} is larger than the corpus supports: its text repeats only enough for "
            f"{tokenizer.vocab_size} tokens; use --tokenizer.vocab_size {tokenizer.vocab_size} or less, or auto"
        )
    return tokenizer
