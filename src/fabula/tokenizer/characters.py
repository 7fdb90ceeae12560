"""Characters and bytes as tokens: nothing is merged, the vocabulary is what the text is written with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from fabula.tokenizer import forms
from fabula.tokenizer.base import Tokenizer, encodable
from fabula.tokenizer.bpe import check_filled, check_size
from fabula.tokenizer.cuts import CUTS
from fabula.tokenizer.forms import SMALLEST


def train_characters(texts: Iterable[str], vocab_size: int, exact: bool = True) -> Tokenizer:
    """The bytes and the most frequent characters of more than one byte, up to `vocab_size` tokens in all.

    Characters that stand only once are left to their bytes, as are all that the texts do not have. Fewer characters
    than asked for: InputError if `exact`, else a smaller vocabulary.
    """
    check_size(vocab_size)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(encodable(text))
    often = [(-count, character) for character, count in counts.items() if count > 1 and ord(character) >= 0x80]
    tokenizer = forms.characters([character for _, character in sorted(often)[: vocab_size - SMALLEST]])
    check_filled(tokenizer, vocab_size, exact)
    return tokenizer


def byte_tokenizer() -> Tokenizer:
    """The 256 bytes and the special tokens."""
    return forms.bpe([], CUTS["none"])
