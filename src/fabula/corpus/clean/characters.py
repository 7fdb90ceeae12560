"""Which characters stay as they are? Mojibake, Unicode forms, control characters, white space.

Accents are content: nothing here takes one away.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from fabula.corpus.clean.step import Dropped

# ---- UTF-8 that was read as Windows-1252 --------------------------------------------------------------------


def _byte_characters() -> dict[str, int]:
    """Windows-1252 as programs read it: what it leaves undefined is the control character of Latin-1."""
    table = {}
    for byte in range(0x80, 0x100):
        try:
            table[bytes([byte]).decode("cp1252")] = byte
        except UnicodeDecodeError:
            table[chr(byte)] = byte
    return table


_BYTES = _byte_characters()


def _class(low: int, high: int) -> str:
    return "[" + "".join(re.escape(c) for c, byte in _BYTES.items() if low <= byte <= high) + "]"


_NEXT = _class(0x80, 0xBF)
_ONE = rf"(?:{_class(0xC2, 0xDF)}{_NEXT}|{_class(0xE0, 0xEF)}{_NEXT}{{2}})"
# "café”…" and "là »" look like it too. So, alone, only what begins with Â, Ã, â or ðŸ is taken for mojibake, all else
# where three stand in a row; and Â and Ã not between a capital and the end of a word: that word is in capitals and what
# follows closes a quotation ("MANHÃ”").
_PAIR = rf"(?:(?<![A-ZÀ-Þ])[ÂÃ]{_NEXT}|[ÂÃ](?![”’»…](?!\w)){_NEXT})"
_ALONE = re.compile(rf"ðŸ{_NEXT}{{2}}|â{_NEXT}{{2}}|{_PAIR}")
_BROKEN = re.compile(rf"{_ONE}{{3,}}|{_ALONE.pattern}")
# The last byte of a closing quotation mark, E2 80 9D, has no character in Windows-1252 and is often lost.
_LOST = "â€"
_TIMES = 3


def mojibake(text: str, how: Literal["repair", "drop"]) -> str | Dropped:
    """UTF-8 once read as Windows-1252, put right, up to three times over; or dropped, as is a text with U+FFFD.

    A closing quotation mark whose last byte was lost ("â€" alone) is put right too. What U+FFFD stood for nobody knows:
    `repair` leaves it.

    >>> mojibake("â€œmaÃ±anaâ€™sâ€", "repair")
    '“mañana’s”'
    """
    if text.isascii():
        return text
    if how == "drop":
        found = _first_broken(text)
        if found:
            return Dropped(f"mojibake: {found}")
        if "\ufffd" in text:
            return Dropped("U+FFFD stands for characters that were lost")
        return text
    for _ in range(_TIMES):
        repaired = _BROKEN.sub(_repaired, text)
        if repaired == text:
            break
        text = repaired
    # Last: in text that was spoilt twice it would take the beginnings of others.
    return text.replace(_LOST, "”")


def has_mojibake(text: str) -> bool:
    """Whether a text has mojibake that `repair` would put right."""
    return not text.isascii() and bool(_first_broken(text))


def _first_broken(text: str) -> str:
    for found in _BROKEN.finditer(text):
        if _repaired(found) != found[0]:
            return found[0]
    return _LOST if _LOST in text else ""


def _repaired(found: re.Match[str]) -> str:
    try:
        return _decoded(found[0])
    except UnicodeDecodeError:
        pass
    # A row of which some are not: what would be taken alone still is.
    return _ALONE.sub(_repaired_alone, found[0])


def _repaired_alone(found: re.Match[str]) -> str:
    try:
        return _decoded(found[0])
    except UnicodeDecodeError:
        return found[0]


def _decoded(text: str) -> str:
    return bytes(_BYTES[c] for c in text).decode("utf-8")


# ---- forms --------------------------------------------------------------------------------------------------

# Latin and Armenian ligatures, full-width and half-width letters. Superscripts, fractions, ™ and … stay: they mean
# something that their plain form does not.
_FORMS = re.compile("[\ufb00-\ufb06\ufb13-\ufb17\uff01-\uff9f\uffa0-\uffdc\uffe0-\uffee]+")


def unicode_form(text: str, how: Literal["nfc", "forms"]) -> str:
    """Canonical composition (Unicode annex 15), so that an accent is always the same character; with `forms` also
    ligatures and full-width letters as plain ones.

    >>> unicode_form("cafe\u0301 \ufb01n \uff21", "nfc"), unicode_form("cafe\u0301 \ufb01n \uff21 ½", "forms")
    ('café ﬁn Ａ', 'café fin A ½')
    """
    if text.isascii():
        return text
    if how == "forms":
        text = _FORMS.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return unicodedata.normalize("NFC", text)


# ---- what cannot be seen ------------------------------------------------------------------------------------

# Controls but tab and line ends; soft hyphen, zero-width space, byte-order mark, marks of direction, noncharacters.
# The joiners U+200C and U+200D stay: words of some scripts and many emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
    "\ufdd0-\ufdef\ufffe\uffff]"
)
_LINE_ENDS = re.compile("\r\n?|[\u0085\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_INNER = re.compile(r"(?<=\S)[ \t]+(?=\S)")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_EMPTY_LINES = re.compile(r"\n{3,}")


def visible(text: str) -> str:
    """The text without what cannot be seen.

    >>> visible("a\\x07b\\u00adc\\ufeff")
    'abc'
    """
    return _INVISIBLE.sub("", text)


def even_space(text: str) -> str:
    """LF line ends, plain spaces, one between words, none at the end of a line, at most one empty line.

    What a line begins with stays: it may be verse or a program.

    >>> even_space("a\\u00a0 b  \\r\\n\\r\\n\\r\\n  c")
    'a b\\n\\n  c'
    """
    text = _LINE_ENDS.sub("\n", text)
    if not text.isascii():
        text = _SPACES.sub(" ", text)
    text = _TRAILING.sub("", _INNER.sub(" ", text))
    return _EMPTY_LINES.sub("\n\n", text)
