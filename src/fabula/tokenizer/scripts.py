"""In which script is a character written? Unicode's property, for whole arrays of characters at once.

Spaces, digits, punctuation and signs belong to no script ("Common"); a combining mark belongs to the letter before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

Codes = NDArray[np.uint8]

# Scripts of living languages, the ancient ones that text collections hold, and what belongs to none; the rest is OTHER.
NAMES = (
    "Common",
    "Inherited",
    *("Latin", "Cyrillic", "Greek", "Armenian", "Georgian", "Hebrew", "Arabic", "Syriac", "Thaana", "Nko"),
    *("Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala"),
    *("Thai", "Lao", "Tibetan", "Myanmar", "Khmer", "Hangul", "Hiragana", "Katakana", "Bopomofo", "Han", "Yi"),
    *("Ethiopic", "Cherokee", "Canadian_Aboriginal", "Mongolian", "Tifinagh", "Vai", "Bamum", "Adlam", "Javanese"),
    *("Balinese", "Sundanese", "Lisu", "Ol_Chiki", "Meetei_Mayek", "Cham", "Tai_Le", "New_Tai_Lue", "Tai_Tham"),
    *(
        "Runic",
        "Ogham",
        "Coptic",
        "Gothic",
        "Glagolitic",
        "Cuneiform",
        "Egyptian_Hieroglyphs",
        "Linear_B",
        "Phoenician",
    ),
    *("Braille", "Deseret", "Hanifi_Rohingya", "Osage", "Limbu", "Lepcha", "Saurashtra", "Syloti_Nagri", "Tagalog"),
    "Other",
)
COMMON, INHERITED, OTHER = 0, 1, len(NAMES) - 1

_UNKNOWN = 255
_PATTERN = regex.compile("|".join(rf"(\p{{Script={name}}})" for name in NAMES[:-1]))


class Scripts:
    """Characters to scripts; remembers every character it has met."""

    def __init__(self) -> None:
        self._table: Codes = np.full(0x110000, _UNKNOWN, dtype=np.uint8)

    def of(self, points: NDArray[np.uint32]) -> Codes:
        """The place in NAMES of the script of each code point; marks take that of what stands before them."""
        found = self._table[points]
        if (found == _UNKNOWN).any():
            for point in np.unique(points[found == _UNKNOWN]):
                self._table[point] = script_of(chr(point))
            found = self._table[points]
        return _inherited(found)


def script_of(character: str) -> int:
    """The place in NAMES of a character's script.

    >>> [NAMES[script_of(c)] for c in "ñЖ漢 9"]
    ['Latin', 'Cyrillic', 'Han', 'Common', 'Common']
    """
    found: Any = _PATTERN.fullmatch(character)
    return OTHER if found is None else int(found.lastindex) - 1


def _inherited(codes: Codes) -> Codes:
    marks = codes == INHERITED
    if not marks.any():
        return codes
    # The place of the last character that is no mark, for every place.
    places = np.maximum.accumulate(np.where(marks, 0, np.arange(len(codes))))
    found = codes[places]
    found[found == INHERITED] = COMMON  # a mark at the very beginning
    return found


def code_points(text: str) -> NDArray[np.uint32]:
    """The characters of a text as numbers."""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def utf8_sizes(points: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Bytes of each character in UTF-8."""
    sizes: NDArray[np.int64] = np.ones(len(points), dtype=np.int64)
    for limit in (0x80, 0x800, 0x10000):
        sizes += points >= limit
    return sizes
