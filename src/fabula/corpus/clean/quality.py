"""Does a text look like text? The rules of four papers, each a figure of the text and its limits.

    gopher       Rae et al. 2021, arXiv:2112.11446, appendix A.1: words, marks, bullets, stop words
    repetition   the same, table A1: repeated lines, paragraphs and n-grams
    fineweb      Penedo et al. 2024, arXiv:2406.17557, section 3.6: line ends, short lines, repeated lines
    c4           Raffel et al. 2020, arXiv:1910.10683, section 2.2: whole sentences only; it also takes lines out

The papers were written for English web pages. The stop words of Gopher are also there in Spanish, and a text passes
that rule with those of either language; for corpora of other languages it is left out. A text of a single line, as a
story often is, has no line to repeat.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from fabula.corpus.clean.step import Dropped

_MARKS = tuple(".!?…:;\"'”’»)。！？")
_ENDINGS = (".", "!", "?", '"', "”", "…", "»")
_BULLETS = ("•", "‣", "●", "◦", "▪", "-", "*", "–", "·")
STOP_WORDS = {
    "en": frozenset(("the", "be", "to", "of", "and", "that", "have", "with")),
    "es": frozenset(("de", "la", "que", "el", "en", "y", "a", "los", "con", "se")),
}


class Figures:
    """What the rules look at, each computed when it is asked for and once."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        """What stands between white space and is not marks alone."""
        return [word for word in self.tokens if any(c.isalnum() for c in word)]

    @cached_property
    def tokens(self) -> list[str]:
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        return [stripped for line in self.text.split("\n") if (stripped := line.strip())]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [stripped for part in re.split(r"\n\s*\n", self.text) if (stripped := part.strip())]

    def per_word(self, count: float) -> float:
        return count / max(1, len(self.words))

    def per_line(self, count: float) -> float:
        return count / max(1, len(self.lines))

    def repeated(self, parts: Sequence[str]) -> tuple[float, float]:
        """The share of parts that stood before, and of the characters that these have."""
        seen: set[str] = set()
        count = characters = 0
        for part in parts:
            if part in seen:
                count += 1
                characters += len(part)
            seen.add(part)
        return count / max(1, len(parts)), characters / max(1, len(self.text))

    def top_ngram(self, n: int) -> float:
        """The share of all characters that the n-gram with the most of them covers; 0 when none is there twice."""
        found = Counter(zip(*(self.tokens[i:] for i in range(n)), strict=False))
        most = max((sum(map(len, gram)) * count for gram, count in found.items() if count > 1), default=0)
        return most / max(1, len(self.text))

    def repeated_ngrams(self, n: int) -> float:
        """The share of all characters that stand in an n-gram that was there before, each word counted once."""
        seen: set[tuple[str, ...]] = set()
        covered = place = 0
        while place + n <= len(self.tokens):
            gram = tuple(self.tokens[place : place + n])
            if gram in seen:
                covered += sum(map(len, gram))
                place += n
            else:
                seen.add(gram)
                place += 1
        return covered / max(1, len(self.text))


Measure = Callable[[Figures], float]


class Rule:
    """A figure of a text that must lie within limits: `name_least` and `name_most` where a recipe changes them."""

    def __init__(
        self, name: str, words: str, measure: Measure, least: float | None = None, most: float | None = None
    ) -> None:
        self.name, self.words, self.measure, self.least, self.most = name, words, measure, least, most

    def judge(self, figures: Figures, limits: Mapping[str, float]) -> str:
        """Why a text breaks the rule; "" when it does not."""
        least = limits.get(f"{self.name}_least", self.least)
        most = limits.get(f"{self.name}_most", self.most)
        if least is None and most is None:
            return ""
        value = self.measure(figures)
        if least is not None and value < least:
            return f"{self.words} {value:.4g} is below {least:g}"
        if most is not None and value > most:
            return f"{self.words} {value:.4g} is above {most:g}"
        return ""


def _stop_words(figures: Figures) -> float:
    found = {word.strip(".,;:!?¡¿\"'“”‘’«»()").lower() for word in figures.words}
    return max(len(found & known) for known in STOP_WORDS.values())


def _sentences(figures: Figures) -> float:
    return len(re.findall(r"[.!?…](?=[\s\"'”’»)]|$)", figures.text))


def _top(n: int, most: float) -> Rule:
    words = f"the part of the most frequent {n} words in a row"
    return Rule(f"top_{n}gram", words, lambda figures: figures.top_ngram(n), most=most)


def _repeated(n: int, most: float) -> Rule:
    words = f"the part of repeated {n} words in a row"
    return Rule(f"repeated_{n}grams", words, lambda figures: figures.repeated_ngrams(n), most=most)


RULES: dict[str, list[Rule]] = {
    "gopher": [
        Rule("words", "the number of words", lambda f: len(f.words), 50, 100_000),
        Rule("word_length", "the mean length of a word", lambda f: f.per_word(sum(map(len, f.words))), 3, 10),
        Rule("hashes", "the number of # for each word", lambda f: f.per_word(f.text.count("#")), most=0.1),
        Rule(
            "ellipses",
            "the number of ellipses for each word",
            lambda f: f.per_word(f.text.count("...") + f.text.count("…")),
            most=0.1,
        ),
        Rule(
            "bullet_lines",
            "the share of lines that begin with a bullet",
            lambda f: f.per_line(sum(line.startswith(_BULLETS) for line in f.lines)),
            most=0.9,
        ),
        Rule(
            "ellipsis_lines",
            "the share of lines that end with an ellipsis",
            lambda f: f.per_line(sum(line.endswith(("...", "…")) for line in f.lines)),
            most=0.3,
        ),
        Rule(
            "alphabetic",
            "the share of words with a letter",
            lambda f: sum(any(c.isalpha() for c in word) for word in f.tokens) / max(1, len(f.tokens)),
            least=0.8,
        ),
        Rule("stop_words", "the number of different stop words", _stop_words, least=2),
    ],
    "repetition": [
        Rule("repeated_lines", "the share of repeated lines", lambda f: f.repeated(f.lines)[0], most=0.30),
        Rule(
            "repeated_paragraphs",
            "the share of repeated paragraphs",
            lambda f: f.repeated(f.paragraphs)[0],
            most=0.30,
        ),
        Rule("line_characters", "the part of repeated lines", lambda f: f.repeated(f.lines)[1], most=0.20),
        Rule(
            "paragraph_characters", "the part of repeated paragraphs", lambda f: f.repeated(f.paragraphs)[1], most=0.20
        ),
        *(_top(n, most) for n, most in ((2, 0.20), (3, 0.18), (4, 0.16))),
        *(_repeated(n, most) for n, most in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))),
    ],
    "fineweb": [
        Rule(
            "ended_lines",
            "the share of lines that end with a mark",
            lambda f: f.per_line(sum(line.endswith(_MARKS) for line in f.lines)),
            least=0.12,
        ),
        Rule("line_part", "the part of repeated lines", lambda f: f.repeated(f.lines)[1], most=0.10),
        Rule(
            "short_lines",
            "the share of lines of up to 30 characters",
            lambda f: f.per_line(sum(len(line) <= 30 for line in f.lines)),
            most=0.67,
        ),
    ],
    "c4": [
        Rule("sentences", "the number of sentences", _sentences, least=3),
        Rule("braces", "the number of curly braces", lambda f: f.text.count("{"), most=0),
        Rule("lorem_ipsum", "the number of times lorem ipsum", lambda f: f.text.lower().count("lorem ipsum"), most=0),
    ],
}

# The limits that a recipe can change, by name.
LIMITS: dict[str, float] = {
    f"{rule.name}_{end}": limit
    for rules in RULES.values()
    for rule in rules
    for end, limit in (("least", rule.least), ("most", rule.most))
    if limit is not None
}

_LEAST_LINE_WORDS = 5


def judge(text: str, sets: Sequence[str], limits: Mapping[str, float], stop_words: bool = True) -> str | Dropped:
    """The text, or which rule it breaks first; `c4` takes lines out of it before it is judged.

    `stop_words` = False leaves out the rule about them.
    """
    if "c4" in sets:
        text = _whole_lines(text)
        if not text:
            return Dropped("no line is a whole sentence (c4)")
    figures = Figures(text)
    for name in RULES:
        if name not in sets:
            continue
        for rule in RULES[name]:
            if rule.name == "stop_words" and not stop_words:
                continue
            why = rule.judge(figures, limits)
            if why:
                return Dropped(f"{why} ({name})")
    return text


def _whole_lines(text: str) -> str:
    """The lines that end like a sentence, have five words and do not speak of JavaScript (C4)."""
    lines = text.split("\n")
    kept = [line for line in lines if not line.strip() or _is_whole(line)]
    return text if len(kept) == len(lines) else "\n".join(kept).strip()


def _is_whole(line: str) -> bool:
    stripped = line.strip()
    return (
        stripped.endswith(_ENDINGS)
        and len(stripped.split()) >= _LEAST_LINE_WORDS
        and "javascript" not in stripped.lower()
    )
