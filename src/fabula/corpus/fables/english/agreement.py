"""English words with the forms that agreement needs.

Forms of a noun: the, a, n (bare), my, your. Animals also have pronouns (he, him, his) and a gender, which
their proper names and pronouns follow. Adjectives and nouns know their article: a or an.
"""

from __future__ import annotations

import re

from ..choice import Entry
from ..notation import spoken, weighted

# "an" goes by sound: a silent h takes it, a "you" or "w" sound does not.
_SILENT_H = ("honest", "hour", "honour", "heir")
_CONSONANT_SOUND = ("uni", "use", "uku", "one", "euc", "ewe")


def article(word: str) -> str:
    if word.startswith(_SILENT_H):
        return "an"
    if word.startswith(_CONSONANT_SOUND):
        return "a"
    return "an" if word[0] in "aeiou" else "a"


def _pronouns(gender: str) -> dict[str, str]:
    female = gender == "f"
    return {
        "he": "she" if female else "he",
        "him": "her" if female else "him",
        "his": "her" if female else "his",
        "himself": "herself" if female else "himself",
    }


def noun(bare: str, gender: str = "") -> Entry:
    forms = {
        "the": f"the {bare}",
        "a": f"{article(bare)} {bare}",
        "n": bare,
        "my": f"my {bare}",
        "your": f"your {bare}",
        "whose": f"the {bare}'s",
    }
    if gender:
        forms |= _pronouns(gender)
    return Entry(bare, gender, spoken(forms))


def name(bare: str, gender: str) -> Entry:
    return Entry(bare, gender, spoken({"the": bare, "whose": f"{bare}'s", **_pronouns(gender)}))


def adjective(bare: str) -> Entry:
    return Entry(bare, "", spoken({"the": bare, "a": f"{article(bare)} {bare}"}))


def items(source: str) -> list[str]:
    return [item.strip() for item in re.split(r"[,\n]+", source) if item.strip()]


def animals(source: str) -> list[tuple[int, Entry]]:
    """Entries written with their gender, as in "m fox"."""
    entries = []
    for weight, text in map(weighted, items(source)):
        gender, _, bare = text.partition(" ")
        entries.append((weight, noun(bare, gender)))
    return entries


def people(source: str) -> list[tuple[int, Entry]]:
    """Entries with a gender where the word has one, as in "f countess"; the others take any first name."""
    entries = []
    for weight, text in map(weighted, items(source)):
        gender, space, bare = text.partition(" ")
        entries.append((weight, noun(bare, gender) if space and gender in "mf" else noun(text)))
    return entries


def nouns(source: str) -> list[tuple[int, Entry]]:
    return [(weight, noun(text)) for weight, text in map(weighted, items(source))]


def adjectives(source: str) -> list[tuple[int, Entry]]:
    return [(weight, adjective(text)) for weight, text in map(weighted, items(source))]


def names(source: str, gender: str) -> list[tuple[int, Entry]]:
    return [(1, name(text, gender)) for text in items(source)]
