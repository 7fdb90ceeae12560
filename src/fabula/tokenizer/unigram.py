"""Unigram tokenizers (arXiv:1804.10959), learnt by sentencepiece.

It is given the different words of the text, written in the letters of their bytes, and how often each stands; what it
gives back are pieces with log-probabilities, which become the unigram model of a `tokenizer.json`. One thread: its sums
depend on the number of threads in their last digits, and so would the vocabulary. (The trainer of `tokenizers` gives
another result at every call, also with one thread: it goes through its words in the order of a random hash.)
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable
from itertools import chain

from fabula.errors import InputError, require_extra
from fabula.progress import Progress, Silent
from fabula.tokenizer import cuts, forms
from fabula.tokenizer.base import Tokenizer, byte_of_letter, encodable
from fabula.tokenizer.bpe import check_filled, check_size, without_endless
from fabula.tokenizer.special import SPECIAL_TEXT

# Bytes that the text does not have come after everything it has.
_STEP = 1.0


def train_unigram(
    texts: Iterable[str],
    vocab_size: int,
    exact: bool = True,
    pattern: cuts.Pattern = "gpt2",
    progress: Progress | None = None,
) -> Tokenizer:
    """A tokenizer of `vocab_size` tokens learnt from texts; fewer where they do not hold as many, unless `exact`."""
    check_size(vocab_size)
    cut = cuts.CUTS[pattern]
    counts = _words(texts, cut)
    seen = set(chain.from_iterable(counts))
    missing = sorted(byte_of_letter().keys() - seen)
    wanted = vocab_size - len(SPECIAL_TEXT) - len(missing)
    # With no letter more than the text has there is nothing to learn; sentencepiece would have it the same way.
    if wanted > len(seen):
        with (Silent() if progress is None else progress).task("learning pieces", None, ""):
            scored = _learn(counts, wanted)
    else:
        scored = _letters_alone(counts)
    lowest = min((score for _, score in scored), default=0.0)
    scored += [(letter, lowest - _STEP) for letter in missing]
    tokenizer = forms.unigram(scored, cut)
    check_filled(tokenizer, vocab_size, exact)
    return tokenizer


def _words(texts: Iterable[str], cut: cuts.Cut) -> Counter[str]:
    """The different words, in letters, and how often each stands."""
    words = forms.pre_tokenizer(cut)
    counts: Counter[str] = Counter()
    for text in without_endless(map(encodable, texts)):
        counts.update(word for word, _ in words.pre_tokenize_str(text))
    return counts


def _letters_alone(counts: Counter[str]) -> list[tuple[str, float]]:
    letters: Counter[str] = Counter()
    for word, count in counts.items():
        for letter in word:
            letters[letter] += count
    total = max(1, letters.total())
    return [(letter, math.log(count / total)) for letter, count in sorted(letters.items())]


def _learn(counts: Counter[str], most: int) -> list[tuple[str, float]]:
    """Pieces and their log-probabilities, the most probable first."""
    try:
        import sentencepiece
    except ImportError:
        raise require_extra("sentencepiece", "tokenizer", "learning a unigram tokenizer") from None

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{word}\t{count}" for word, count in sorted(counts.items())),
            input_format="tsv",
            model_writer=model,
            model_type="unigram",
            vocab_size=most + 1,  # its token for what is unknown, which we have no use for
            hard_vocab_limit=False,
            character_coverage=1.0,
            max_sentencepiece_length=forms.LONGEST_PIECE,
            max_sentence_length=1 << 16,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_by_whitespace=False,
            split_by_unicode_script=False,
            split_by_number=False,
            split_digits=False,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_id=0,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(f"no unigram tokenizer can be learnt from this text: {error}") from None
    made = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [(made.id_to_piece(i), min(0.0, made.get_score(i))) for i in range(1, made.get_piece_size())]
