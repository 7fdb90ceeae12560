"""Byte-level BPE (arXiv:1508.07909 on bytes, as GPT-2): how its merges are learnt.

Within words, where the text is a list of different words and how often each stands, by rustbpe. Across words, where it
is not, by `merging.py`: from the bytes of whole documents (boundary `none`), or inside lines from the ids that a first
stage within words gives (`superword`, arXiv:2503.13423; here the second stage sees the ids that the finished tokenizer
would give so far, which may differ from the first stage's at the edges of words). All learn what `reference.py` learns:
the most frequent pair first, of equally frequent ones that of the smaller ids, none that stands only once.

All 256 bytes are in the vocabulary: there is no unknown token.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING

from fabula.errors import InputError
from fabula.progress import Progress, Silent, StopFlag
from fabula.tokenizer import cuts, forms
from fabula.tokenizer.base import Tokenizer, byte_of_letter, encodable
from fabula.tokenizer.forms import LARGEST, N_BYTES, SMALLEST
from fabula.tokenizer.ranks import pairs_of

if TYPE_CHECKING:
    from fabula.tokenizer.merging import Ids

# Learning within words takes a time in proportion to the square of the longest word: a MiB without a space would be an
# hour. No word of a language comes near this length; what does (data in letters, rulers of dashes) is learnt in pieces.
_LONGEST = 512
# Four control characters are space for Python and none for the patterns that cut words.
_CONTROLS = "\x1c\x1d\x1e\x1f"
_SPACE, _OTHER = rf"[^\S{_CONTROLS}]", rf"[\S{_CONTROLS}]"
_ENDLESS = re.compile(rf"(?<!{_OTHER}){_OTHER}{{{_LONGEST + 1},}}|(?<!{_SPACE}){_SPACE}{{{_LONGEST + 1},}}")

# A pair of these two is the smallest of all. It is shown to rustbpe once and stands nowhere else (it is taken out of
# the texts), so of all pairs that stand once it is learnt first: what comes after it stands only once too.
_NUL = "\0"
_END = 2 * _NUL.encode()

# The process in which rustbpe has its threads. They do not outlive a fork, and in one it would wait for them for ever.
_learning_in: list[int] = []
# Texts that rustbpe holds at a time, a copy of each.
_AT_ONCE = 4096


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    exact: bool = True,
    *,
    boundary: cuts.Boundary = "word",
    pattern: cuts.Pattern = "gpt2",
    word_share: float = 0.8,
    progress: Progress | None = None,
    stop: StopFlag | None = None,
) -> Tokenizer:
    """A tokenizer of `vocab_size` tokens learnt from texts.

    When the texts hold too few repeated pairs for that many tokens: InputError if `exact`, else a smaller vocabulary.
    With the boundary `superword` that share of the merges is learnt within words. Within words, stretches of more than
    512 characters with no space, or of nothing but space, are cut after every 512, and U+0000 teaches nothing.
    """
    check_size(vocab_size)
    most = vocab_size - SMALLEST
    texts = map(encodable, texts)
    if boundary != "word":
        from fabula.tokenizer import merging  # and numpy, which checking a recipe can do without
    with _Watch(progress, stop, 0 if boundary == "word" else most) as watch:
        if boundary == "none":
            ids, lengths = _bytes(texts)
            pairs = merging.learn(ids, lengths, N_BYTES, most, watch.told)
        elif boundary == "superword":
            lines = [line for text in texts for line in re.findall(cuts.CUTS["lines"].pattern, text)]
            tokens = _within_words(lines, int(word_share * most), cuts.CUTS[pattern])
            pairs = pairs_of(tokens, N_BYTES)
            ids, lengths = _encoded(lines, tokens)
            more = merging.learn(ids, lengths, len(tokens), most - len(pairs), watch.told)
            pairs += more
        else:
            tokens = _within_words(texts, most, cuts.CUTS[pattern])
            pairs = pairs_of(tokens, N_BYTES)
    tokenizer = forms.bpe(pairs, cuts.cut_of(boundary, pattern))
    check_filled(tokenizer, vocab_size, exact)
    return tokenizer


def check_size(vocab_size: int) -> None:
    """InputError for a vocabulary that has no room for all bytes, or is larger than can be learnt."""
    if vocab_size < SMALLEST:
        raise InputError(
            f"vocab_size={vocab_size} is too small: bytes and special tokens alone are {SMALLEST}; "
            f"use {SMALLEST} or more"
        )
    if vocab_size > LARGEST:
        raise InputError(f"vocab_size={vocab_size} is too large: use {LARGEST:,} or less")


def check_filled(tokenizer: Tokenizer, vocab_size: int, exact: bool) -> None:
    """InputError when a vocabulary of exactly that size was wanted and the text did not give as much."""
    if exact and tokenizer.vocab_size < vocab_size:
        raise InputError(
            f"vocab_size={vocab_size} is larger than the corpus supports: its text repeats only enough for "
            f"{tokenizer.vocab_size} tokens; use --tokenizer.vocab_size {tokenizer.vocab_size} or less, or auto"
        )


def _within_words(texts: Iterable[str], most: int, cut: cuts.Cut) -> list[bytes]:
    """The bytes and up to `most` tokens learnt within the pieces of a cut."""
    import rustbpe

    shown = (text.replace(_NUL, "") for text in without_endless(texts))
    if _learning_in and _learning_in != [os.getpid()]:
        return _within_words_alone(shown, most, cut)
    _learning_in[:] = [os.getpid()]
    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(chain([2 * _NUL], shown), N_BYTES + most, buffer_size=_AT_ONCE, pattern=cut.pattern)
    tokens = [bytes(token) for token, _ in learner.get_mergeable_ranks()]
    return tokens[: tokens.index(_END)] if _END in tokens else tokens


def _within_words_alone(texts: Iterable[str], most: int, cut: cuts.Cut) -> list[bytes]:
    """The same without threads, every word as often as it stands: slower, and more memory."""
    import numpy as np

    from fabula.tokenizer import merging

    cutting = forms.pre_tokenizer(cut)
    words = [word for text in texts for word, _ in cutting.pre_tokenize_str(text)]
    raw = "".join(words).translate({ord(letter): byte for letter, byte in byte_of_letter().items()}).encode("latin-1")
    tokens = [bytes([byte]) for byte in range(N_BYTES)]
    for left, right in merging.learn(np.frombuffer(raw, dtype=np.uint8), [*map(len, words)], N_BYTES, most):
        tokens.append(tokens[left] + tokens[right])
    return tokens


def _bytes(texts: Iterable[str]) -> tuple[Ids, list[int]]:
    """The bytes of texts, and how many each has."""
    import numpy as np

    pieces = [text.encode("utf-8") for text in texts]
    return np.frombuffer(b"".join(pieces), dtype=np.uint8), [*map(len, pieces)]


def _encoded(lines: Sequence[str], tokens: Sequence[bytes]) -> tuple[Ids, list[int]]:
    """The ids of lines that are not cut any further, and how many each has."""
    import numpy as np
    from tiktoken import Encoding

    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = Encoding("lines", pat_str=cuts.CUTS["lines"].pattern, mergeable_ranks=ranks, special_tokens={})
    lengths: list[int] = []

    def each() -> Iterator[int]:
        for line in lines:
            ids = encoding.encode_ordinary(line)
            lengths.append(len(ids))
            yield from ids

    return np.fromiter(each(), dtype=np.int32), lengths


class _Watch:
    """Shows how many merges are learnt, and ends when a signal says so."""

    def __init__(self, progress: Progress | None, stop: StopFlag | None, most: int) -> None:
        self._progress: Progress = Silent() if progress is None else progress
        self._stop = StopFlag() if stop is None else stop  # one that is not set is False
        self._most, self._done = most, 0

    def __enter__(self) -> _Watch:
        self._stack = ExitStack()
        self._task = (
            self._stack.enter_context(self._progress.task("learning merges", self._most, "merges"))
            if self._most
            else None
        )
        return self

    def told(self, done: int) -> None:
        self._stop.check("learning the tokenizer")
        if self._task is not None:
            self._task.advance(done - self._done)
        self._done = done

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def without_endless(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut where a stretch is too long to be a word."""
    for text in texts:
        start = 0
        for found in _ENDLESS.finditer(text) if _may_be_endless(text) else ():
            for cut in range(found.start() + _LONGEST, found.end(), _LONGEST):
                yield text[start:cut]
                start = cut
        yield text[start:]


def _may_be_endless(text: str) -> bool:
    """Whether a block of half the length is all space or all none, as one is in every stretch that is too long.

    Nearly every block has a space and does not begin with one: these are told without a copy.
    """
    if any(control in text for control in _CONTROLS):
        return True
    size = _LONGEST // 2
    for start in range(0, len(text) - size + 1, size):
        usual = text.find(" ", start, start + size) >= 0 and not text[start].isspace()
        if not usual and _is_even(text[start : start + size]):
            return True
    return False


def _is_even(block: str) -> bool:
    """Whether a text is all space or has none."""
    return block.isspace() or len(block.split(maxsplit=1)[0]) == len(block)
