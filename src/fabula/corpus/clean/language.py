"""In which language is a text? py3langid (Lui and Baldwin 2012, "langid.py"), with its model of 97 languages inside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from fabula.corpus.clean.step import Dropped
from fabula.errors import require_extra

# Of a long text three pieces are judged, from its beginning, middle and end.
_PIECE = 300


@cache
def _identifier() -> Any:
    try:
        from py3langid import langid
    except ImportError:
        raise require_extra("py3langid", "corpus", "telling the language of a text") from None
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def require(codes: Sequence[str] = ()) -> None:
    """MachineError when the library is missing, ValueError for a language that it does not know."""
    known = set(_identifier().nb_classes)
    for code in codes:
        if code not in known:
            raise ValueError(f'"{code}" is no language that can be told; known: {" ".join(sorted(known))}')


def language_of(text: str) -> tuple[str, float]:
    """The code (ISO 639-1) of the likeliest language, and its probability among those that the model knows.

    One word is too little to go by; from about 20 words on the answer is nearly always right.
    """
    if len(text) > 4 * _PIECE:
        middle = len(text) // 2
        text = " ".join((text[:_PIECE], text[middle : middle + _PIECE], text[-_PIECE:]))
    code, probability = _identifier().classify(text)
    return str(code), float(probability)


def letters(text: str, enough: int) -> bool:
    """Whether a text has so many letters."""
    if len(text) < enough:
        return False
    count = 0
    for character in text:
        count += character.isalpha()
        if count >= enough:
            return True
    return not enough


def judge(text: str, languages: Sequence[str], probability: float, least_letters: int) -> str | Dropped:
    """The text when it is in one of the languages, or too short to tell."""
    if not letters(text, least_letters):
        return text
    code, sure = language_of(text)
    if code not in languages:
        return Dropped(f"the language is {code} ({sure:.0%})")
    if sure < probability:
        return Dropped(f"the language is {code}, but only {sure:.0%} sure")
    return text
