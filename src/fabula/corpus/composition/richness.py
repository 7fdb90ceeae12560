"""How rich is the vocabulary, and how hard is the text to read? Figures from the words of documents in their order."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from fabula.config import Data

WINDOW = 500
_POINTS = 40
_MOST_WORDS = 5_000_000


def spoken(words: Sequence[str]) -> list[str]:
    """The words without numbers."""
    return [word for word in words if not word[0].isdigit()]


def vocabulary(documents: Iterable[Sequence[str]]) -> Data:
    """Types, hapax legomena, MATTR, and the curves of Heaps and Zipf, of at most the first five million words.

    MATTR is the moving-average type-token ratio (Covington and McFall 2010): the mean share of different words in every
    window of 500, so that corpora of different sizes compare; None when there are fewer words. Heaps 1978: types grow
    as k n^beta, fitted to the second half of the curve. Zipf 1949: the word of rank r comes about C / r^s times; s is
    fitted between ranks 10 and 1,000.
    """
    counts: Counter[str] = Counter()
    window: deque[str] = deque()
    inside: Counter[str] = Counter()
    total = ratio_sum = windows = 0
    growth: list[tuple[int, int]] = []
    due = 16.0
    for found in documents:
        for word in found:
            counts[word] += 1
            total += 1
            window.append(word)
            inside[word] += 1
            if len(window) > WINDOW:
                left = window.popleft()
                inside[left] -= 1
                if not inside[left]:
                    del inside[left]
            if len(window) == WINDOW:
                ratio_sum += len(inside)
                windows += 1
            if total >= due:
                growth.append((total, len(counts)))
                due *= 1.25
            if total >= _MOST_WORDS:
                break
        if total >= _MOST_WORDS:
            break
    if total and (not growth or growth[-1][0] != total):
        growth.append((total, len(counts)))
    ranked = counts.most_common()
    hapax = sum(1 for _, count in ranked if count == 1)
    return {
        "words": total,
        "types": len(counts),
        "hapax": hapax,
        "mattr": ratio_sum / windows / WINDOW if windows else None,
        "mattr_window": WINDOW,
        "heaps": [[n, types] for n, types in growth],
        "heaps_beta": _slope([(n, types) for n, types in growth if n * n >= total]),
        "zipf": [[rank, ranked[rank - 1][1]] for rank in _ranks(len(ranked))],
        "zipf_slope": _negative(
            _slope([(rank, ranked[rank - 1][1]) for rank in _ranks(min(len(ranked), 1000)) if rank >= 10])
        ),
    }


def readability(texts: Iterable[tuple[int, Sequence[str]]]) -> Data:
    """Words a sentence, letters a word, and LIX, from (number of sentences, words) of each document.

    LIX (Björnsson 1968): words a sentence and the percentage of words with more than six letters, added. Below 30 it is
    a children's book, around 40 fiction, above 50 matter of fact; it was made for Swedish and is meant to compare.
    """
    n_sentences = n_words = n_letters = n_long = 0
    for count, found in texts:
        n_sentences += count
        n_words += len(found)
        n_letters += sum(map(len, found))
        n_long += sum(len(word) > 6 for word in found)
    if not n_words or not n_sentences:
        return {"words_per_sentence": None, "letters_per_word": None, "lix": None}
    return {
        "words_per_sentence": n_words / n_sentences,
        "letters_per_word": n_letters / n_words,
        "lix": n_words / n_sentences + 100 * n_long / n_words,
    }


def _ranks(most: int) -> list[int]:
    """Ranks from 1 to the last, about evenly spread by their logarithms."""
    if not most:
        return []
    return sorted({round(most ** (i / (_POINTS - 1))) for i in range(_POINTS)})


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    """The slope of a straight line through the logarithms (least squares); None of fewer than three points."""
    if len(points) < 3:
        return None
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else None


def _negative(value: float | None) -> float | None:
    return None if value is None else -value
