"""What repeats between documents? Lines, paragraphs, stretches of words, how they begin and how they end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

import numpy as np

from fabula.config import Data
from fabula.corpus.clean.shingles import shingles
from fabula.corpus.words import EMPTY_WORDS, sentences

SHOWN = 12
_NGRAMS = (4, 8)
_CANDIDATES = 400
_MOST_CHARACTERS = 300
_OPENING_WORDS = 3
_LEAST_WORDS = 3
_AROUND = " \"'“”‘’«»—–-.!¡…"
_PARAGRAPH = re.compile(r"\n[ \t]*\n")


def repeated_lines(texts: Sequence[str]) -> list[Data]:
    """The lines that stand in most documents, in two at least; of texts that have more than one line."""
    return _most_common(texts, lambda text: text.split("\n") if "\n" in text else [])


def repeated_paragraphs(texts: Sequence[str]) -> list[Data]:
    """The same for paragraphs of more than one, between empty lines."""

    def cut(text: str) -> list[str]:
        parts = _PARAGRAPH.split(text)
        return parts if len(parts) > 1 else []

    return _most_common(texts, cut)


def repeated_sentences(texts: Sequence[str]) -> list[Data]:
    """The same for sentences of at least three words."""
    return _most_common(texts, lambda text: [s for s in sentences(text) if len(s.split()) >= _LEAST_WORDS])


def _most_common(texts: Sequence[str], cut: Callable[[str], Iterable[str]]) -> list[Data]:
    # Keys of eight bytes, so that a long text is not held twice.
    counts: Counter[bytes] = Counter()
    for text in texts:
        counts.update({_key(part) for part in cut(text) if part.strip()})
    # By number, then by key: the same whatever the order of the documents.
    chosen = sorted((-count, key) for key, count in counts.items() if count > 1)[: 4 * SHOWN]
    wanted, words = {key for _, key in chosen}, dict[bytes, str]()
    for text in texts:
        if len(words) == len(wanted):
            break
        for part in cut(text):
            key = _key(part)
            if key in wanted and key not in words:
                words[key] = part.strip()
    ranked = sorted((count, words[key]) for count, key in chosen)[:SHOWN]
    return [_shown(text, -count, len(texts)) for count, text in ranked]


def _key(part: str) -> bytes:
    return blake2b(part.strip().encode("utf-8"), digest_size=8).digest()


def repeated_ngrams(documents: Sequence[Sequence[str]]) -> list[Data]:
    """Stretches of 8 and of 4 words that stand in most documents, in two at least.

    None is a shift of another, and each has two words at least that are no function words."""
    found = []
    for n in sorted(_NGRAMS, reverse=True):
        parts = [np.unique(shingles(words, n)) for words in documents]
        hashes, counts = np.unique(np.concatenate([*parts, np.zeros(0, dtype=np.uint64)]), return_counts=True)
        del parts
        top = np.lexsort((hashes, -counts))[:_CANDIDATES]
        wanted = {int(hashes[i]): int(counts[i]) for i in top if counts[i] > 1}
        words = _stretches(documents, n, wanted)
        ranked = sorted(((-wanted[key], gram) for key, gram in words.items()))
        found.append({"n": n, "most": [_shown(" ".join(g), -c, len(documents)) for c, g in _apart(ranked, n)]})
    return found


def _stretches(documents: Sequence[Sequence[str]], n: int, wanted: dict[int, int]) -> dict[int, tuple[str, ...]]:
    """The words of stretches of which the hashes are known."""
    found: dict[int, tuple[str, ...]] = {}
    keys = np.array(sorted(wanted), dtype=np.uint64)
    for words in documents:
        if len(found) == len(wanted):
            break
        hashes = shingles(words, n)
        for place in np.flatnonzero(np.isin(hashes, keys)).tolist():
            found.setdefault(int(hashes[place]), tuple(words[place : place + n]))
    return found


def _apart(ranked: Iterable[tuple[int, tuple[str, ...]]], n: int) -> list[tuple[int, tuple[str, ...]]]:
    """The first few that do not share half of their words in a row with one before."""
    chosen: list[tuple[int, tuple[str, ...]]] = []
    taken: set[tuple[str, ...]] = set()
    half = n // 2 + 1
    for count, gram in ranked:
        if sum(word not in EMPTY_WORDS for word in gram) < 2:
            continue
        pieces = {gram[i : i + half] for i in range(n - half + 1)}
        if not pieces & taken:
            chosen.append((count, gram))
            taken |= pieces
        if len(chosen) == SHOWN:
            break
    return chosen


# ---- how documents begin and end ----------------------------------------------------------------------------


def openings(documents: Sequence[Sequence[str]]) -> Data:
    """The first three words of documents: which are most frequent, and how many documents begin with one of 12."""
    return _formulas([" ".join(words[:_OPENING_WORDS]) for words in documents])


def endings(texts: Sequence[str]) -> Data:
    """The same for last sentences, capitals and the marks around them left aside."""
    return _formulas([_last(text) for text in texts])


def _last(text: str) -> str:
    """The last sentence with a word in it; of a long text only its end is looked at."""
    for sentence in reversed(sentences(text[-2000:])):
        if any(c.isalpha() for c in sentence):
            return sentence.strip(_AROUND)
    return ""


def _formulas(found: Sequence[str]) -> Data:
    shown = dict[str, str]()
    for text in found:
        shown.setdefault(text.lower(), text)
    counts = Counter(text.lower() for text in found if text)
    ranked = sorted((-count, text) for text, count in counts.items())
    most = [_shown(shown[text], -count, len(found)) for count, text in ranked[:SHOWN] if count < -1]
    covered = sum(row["documents"] for row in most)
    return {"different": len(counts), "most": most, "covered": covered / max(1, len(found))}


def _shown(text: str, count: int, among: int) -> Data:
    cut = text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
    return {"text": cut, "documents": count, "share": count / max(1, among)}
