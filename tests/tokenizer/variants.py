"""One small tokenizer of every form, for tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.characters import byte_tokenizer, train_characters
from fabula.tokenizer.unigram import train_unigram

# Words, runs, mixed scripts, both forms of an accent, numbers, odd spaces: every branch of every pattern.
TEXTS = [
    "—¿Quieres dármelo, niña? —dijo el búho—. ¡Diciéndoselo en 1898, 12345 veces!\n\n  Y la zorra\tcalló…\r\n",
    "aaaa aaa abab ababab don't it's I'LL  (¡Él!) «sí» e\u0301l nin\u0303a \u00a0 \u2003x 漢字かな 🦊🦊 ١٢٣ ²³\n",
]

VARIANTS: dict[str, Callable[[Sequence[str]], Tokenizer]] = {
    "word": lambda texts: train_bpe(texts, 600, exact=False),
    "word-gpt4": lambda texts: train_bpe(texts, 600, exact=False, pattern="gpt4"),
    "word-spanish": lambda texts: train_bpe(texts, 600, exact=False, pattern="spanish"),
    "superword": lambda texts: train_bpe(texts, 700, exact=False, boundary="superword", word_share=0.5),
    "none": lambda texts: train_bpe(texts, 700, exact=False, boundary="none"),
    "unigram": lambda texts: train_unigram(texts, 500, exact=False),
    "unigram-spanish": lambda texts: train_unigram(texts, 500, exact=False, pattern="spanish"),
    "char": lambda texts: train_characters(texts, 400, exact=False),
    "byte": lambda texts: byte_tokenizer(),
}


def make(name: str, tiny_texts: Sequence[str]) -> Tokenizer:
    """The tokenizer of a form, learnt from fables and from what fables do not have."""
    return VARIANTS[name]([*tiny_texts, *TEXTS * 3])
