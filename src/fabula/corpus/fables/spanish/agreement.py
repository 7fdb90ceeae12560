"""Spanish words with the forms that agreement needs.

Nouns are written with their article: "el" masculine, "la" feminine, "el*" feminine with stressed initial a
(el águila, but la misma águila). Forms of a noun: el, un, del, al, n (bare), o (the ending o/a), lo (pronoun),
una (article of true gender), este, aquel. Pairs of characters have plural forms instead.
"""

from __future__ import annotations

import re

from ..choice import Entry
from ..notation import spoken, weighted


def noun(source: str) -> Entry:
    article, _, bare = source.partition(" ")
    feminine = article != "el"
    stressed = article == "el*"
    el = "la" if article == "la" else "el"
    forms = {
        "el": f"{el} {bare}",
        "un": f"una {bare}" if article == "la" else f"un {bare}",
        "del": f"de la {bare}" if el == "la" else f"del {bare}",
        "al": f"a la {bare}" if el == "la" else f"al {bare}",
        "n": bare,
        "otro": f"otra {bare}" if feminine else f"otro {bare}",
        "mi": f"mi {bare}",
        "tu": f"tu {bare}",
        "su": f"su {bare}",
        "este": f"esta {bare}" if feminine else f"este {bare}",
        "aquel": f"aquella {bare}" if feminine else f"aquel {bare}",
        **_endings(feminine),
    }
    assert not stressed or bare[0] in "aáh"
    return Entry(bare, "f" if feminine else "m", spoken(forms))


def _endings(feminine: bool) -> dict[str, str]:
    return {
        "o": "a" if feminine else "o",
        "la": "la" if feminine else "el",
        "dela": "de la" if feminine else "del",
        "lo": "la" if feminine else "lo",
        "una": "una" if feminine else "un",
        "uno": "una" if feminine else "uno",
        "ese": "esa" if feminine else "ese",
    }


def name(bare: str, feminine: bool) -> Entry:
    """A proper name has the forms of a noun without articles."""
    forms = {
        "el": bare,
        "del": f"de {bare}",
        "al": f"a {bare}",
        **_endings(feminine),
    }
    return Entry(bare, "f" if feminine else "m", spoken(forms))


def adjective(source: str) -> Entry:
    """Forms m, f, mp, fp from the masculine, or from "masculine/feminine"."""
    masculine, slash, feminine = source.partition("/")
    if not slash:
        head, space, rest = masculine.partition(" ")  # "hecho a mano": only the first word agrees
        if head.endswith("o"):
            feminine = head[:-1] + "a" + space + rest
        elif masculine.endswith("or"):
            feminine = masculine + "a"
        elif masculine.endswith("ón"):
            feminine = masculine[:-2] + "ona"
        else:
            feminine = masculine
    forms = {"m": masculine, "f": feminine}
    if " " not in masculine:
        forms |= {"mp": plural(masculine), "fp": plural(feminine)}
    return Entry(masculine, "", spoken(forms))


def plural(word: str) -> str:
    if word.endswith("z"):
        return word[:-1] + "ces"
    if word.endswith("ón"):
        return word[:-2] + "ones"
    for stressed, plain in (("án", "anes"), ("ín", "ines"), ("és", "eses")):
        if word.endswith(stressed):
            return word[:-2] + plain
    return word + ("s" if word[-1] in "aeioué" else "es")


_BOTH = {
    plural_gender: Entry(
        plural_gender,
        plural_gender,
        spoken(
            {
                "el": f"l{a}s dos",
                "del": f"de l{a}s dos",
                "al": f"a l{a}s dos",
                "os": f"{a}s",
                "o": last,
                "uno": one,
                "otro": f"otr{last}",
                "delotro": "de la otra" if last == "a" else "del otro",
                "ambos": f"amb{a}s",
            }
        ),
    )
    for plural_gender, a, one, last in (("mp", "o", "uno", "o"), ("fp", "a", "una", "a"))
}


def both(first: Entry, second: Entry) -> Entry:
    """The pair of two characters: feminine only if both are."""
    return _BOTH["fp" if first.gender == second.gender == "f" else "mp"]


def items(source: str) -> list[str]:
    return [item.strip() for item in re.split(r"[,\n]+", source) if item.strip()]


def nouns(source: str) -> list[tuple[int, Entry]]:
    return [(weight, noun(text)) for weight, text in map(weighted, items(source))]


def adjectives(source: str) -> list[tuple[int, Entry]]:
    return [(weight, adjective(text)) for weight, text in map(weighted, items(source))]


def names(source: str, feminine: bool) -> list[tuple[int, Entry]]:
    return [(1, name(text, feminine)) for text in items(source)]
