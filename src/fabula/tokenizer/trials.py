"""Which texts tell two tokenizers apart? Nasty ones that are always the same, and random ones from a seed.

Every import compares its ids with those of the tool that a tokenizer comes from, on these texts, before anything is
written.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from fabula.tokenizer.special import SPECIAL_TEXT

# Ranges of characters that tokenizers treat in ways of their own.
_RANGES = (
    (0x00, 0x80), (0x80, 0x250), (0x300, 0x370), (0x370, 0x400), (0x400, 0x500), (0x590, 0x700), (0x900, 0x980),
    (0xE00, 0xE80), (0x1100, 0x1200), (0x2000, 0x2070), (0x2100, 0x2200), (0x3040, 0x3100), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A4), (0xE000, 0xF900), (0xFB00, 0xFB50), (0xFE00, 0xFE10), (0xFF00, 0xFFF0), (0x1D400, 0x1D800),
    (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0000, 0xE0080), (0xF0000, 0x10FFFE),
)  # fmt: skip

# What a person would write.
ORDINARY = (
    "El niño saltó.", "¿Qué pasó después? ¡Nada!", "the quick brown fox, 12 3456 times", "don't I'LL we've they're",
    "Ελληνικά και ελληνικά", "Привет, мир", "漢字と仮名", "안녕하세요 세계", "مرحبا بالعالم", "नमस्ते दुनिया",
    "สวัสดีชาวโลก", "Zażółć gęślą jaźń", "Tiếng Việt có dấu", "straße Œuvre ﬁn", "def f(x):\n    return x ** 2\n",
    "a@b.org 3.14 $5 50 %",
    "«sí» — dijo… “no”", "1234567890", "HELLO World hELLO", "un\n\ndos\n\n\ntres", "x", "",
)  # fmt: skip

_NASTY = (
    " ", "  ", "   a", "a   ", " a ", "\t", "\n", "\r\n", "\r", "\n\n\n", " \n ", "\n \n", "a\n ", "a \n",
    "a  \n  ", "a\n\n  b", "\x00", "\x7f", "\x1b[31m", "\x85", "\u00a0", "\u1680", "\u180e", "\u200b", "\u2028",
    "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff", "\ufffd", "\uffff", "\U0010ffff", "\u00ad", "\u202e",
    "e\u0301", "e\u0301\u0323", "\u0301", "ﬁ", "İ", "ı", "ß", "ẞ", "ſ", "'ſ x", "'S", "'LL", "'Re", "’s", "K",
    "Å", "Ω", "²", "①", "½", "Ⅷ", "٣", "१२३", "𝟘𝟙", "ǅ", "ʰ", "👩\u200d👩\u200d👧\u200d👦", "🇪🇸", "👍🏽",
    "❤\ufe0f", "\u1112\u1161\u11ab", "각", "ㄱ", "ก็", "\u2581", "\u2581\u2581a", "Ġ", "Ċ", "ĠĠ", "<0x0A>",
    "<unk>", "<s>", "</s>", "<pad>", "<extra_id_0>", "[MASK]", "<|im_start|>", "<|", "|>", "a" * 100, "ab" * 60,
    "aaab" * 30, "=" * 77, "-" * 64, " " * 50, "\n" * 33, "0" * 40, "é" * 41, "—" * 19, "!?" * 31, "abcd " * 9,
    *SPECIAL_TEXT.values(),
)  # fmt: skip


_WORDS = ("la", "niña", "el", "búho", "the", "and", "of", "10", "don't", "Él")


def ordinary() -> list[str]:
    """Texts of many languages as they are written."""
    return list(ORDINARY)


def nasty(seed: int = 0, count: int = 600) -> list[str]:
    """Texts made to fail: all the nasty ones, then `count` random ones that mix them, always the same for a seed."""
    chance = random.Random(seed)
    return [*_NASTY, *(_any(chance) for _ in range(count))]


def _any(chance: random.Random) -> str:
    parts = []
    for _ in range(chance.randrange(1, 8)):
        kind = chance.randrange(5)
        if kind == 0:
            parts.append(chance.choice(_NASTY))
        elif kind == 1:
            parts.append(chance.choice(ORDINARY))
        elif kind == 2:
            low, high = chance.choice(_RANGES)
            parts.append("".join(chr(chance.randrange(low, high)) for _ in range(chance.randrange(1, 6))))
        elif kind == 3:
            parts.append(chance.choice("aeñ \n.") * chance.randrange(1, 12))
        else:
            parts.append(" ".join(chance.choices(_WORDS, k=4)))
    return "".join(parts)


def differing(
    texts: Sequence[str], ours: Callable[[str], list[int]], theirs: Callable[[str], list[int]]
) -> Iterator[tuple[str, list[int], list[int]]]:
    """The texts whose ids differ, with our ids and theirs."""
    for text in texts:
        mine, others = ours(text), theirs(text)
        if mine != others:
            yield text, mine, others
