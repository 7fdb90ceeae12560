"""What in a vocabulary should make a person look at the text again? Tokens by what is odd about them.

A vocabulary learns what repeats. Where a text repeats its damage, its page frames or its names, tokens are spent on
them. Nothing here is an error by itself: a novel's vocabulary may well know its hero.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from fabula.tokenizer import showing

# UTF-8 that was read as Latin-1 or Windows-1252: Ã© for é, Â« for «, â€œ for a quotation mark, ï»¿ for a mark.
_CONTINUED = "".join(sorted({bytes([b]).decode(c, "ignore") for b in range(0x80, 0xC0) for c in ("cp1252", "latin-1")}))
_MOJIBAKE = re.compile(f"[ÂÃ][{re.escape(_CONTINUED)}]|â€|â[\x80-\x9f]|ï»¿|ï¿½|ðŸ|\ufffd")
_REPEATED = re.compile(r"(.)\1{3}|(..)\2{2}", re.DOTALL)
_ADDRESS = re.compile(
    r"https?|www\.|://|\.(?:com|org|net|html?)\b|@\w+\.|</?[a-z]+[ />]|&(?:nbsp|amp|quot|lt|gt);", re.IGNORECASE
)
_WORD = re.compile(r"\w+(?:['’-]\w+)*")

MANY_WORDS = 4


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of odd token: a name, a sentence, and how it is recognised from bytes and text (None: no whole text)."""

    name: str
    says: str
    found: Callable[[bytes, str | None], bool]


def is_multi_word(text: str) -> bool:
    """Whether white space stands between two parts that both have a letter or digit.

    >>> [is_multi_word(t) for t in (" de la", "o d", " casa", ", y", ". El")]
    [True, True, False, False, False]
    """
    return len(_worded(text)) > 1


def _worded(text: str) -> list[str]:
    return [part for part in text.split() if any(letter.isalnum() for letter in part)]


def _is_control(text: str) -> bool:
    return any((unicodedata.category(c) == "Cc" and c not in "\t\n\r") or c == "\ufeff" for c in text)


def _is_name(text: str) -> bool:
    """Two words or more that begin with a capital and go on without: `Don Quijote`, and no heading in capitals."""
    words = [word for part in _worded(text) if (word := _WORD.search(part))]
    return sum(w[0][:1].isupper() and w[0][1:].islower() for w in words) > 1


KINDS = (
    Kind("mojibake", "text that was decoded wrongly", lambda raw, text: bool(text and _MOJIBAKE.search(text))),
    Kind("control", "control characters", lambda raw, text: bool(text and _is_control(text))),
    Kind("repeated", "a character or two again and again", lambda raw, text: bool(text and _REPEATED.search(text))),
    Kind("partial", "parts of characters", lambda raw, text: text is None),
    Kind("address", "addresses and markup", lambda raw, text: bool(text and _ADDRESS.search(text))),
    Kind("names", "names of several words", lambda raw, text: bool(text and is_multi_word(text) and _is_name(text))),
    Kind("phrases", f"{MANY_WORDS} words or more", lambda raw, text: bool(text and len(_worded(text)) >= MANY_WORDS)),
)


def kinds_of(raw: bytes) -> list[str]:
    """The names of all that is odd about a token of two bytes or more.

    >>> kinds_of("Ã±".encode()), kinds_of(" Don Quijote".encode()), kinds_of(" casa".encode())
    (['mojibake'], ['names'], [])
    """
    text = raw.decode("utf-8") if showing.is_text(raw) else None
    return [kind.name for kind in KINDS if kind.found(raw, text)]
