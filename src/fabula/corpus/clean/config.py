"""What can be cleaned, and what a preset switches on. Nothing is cleaned unless a recipe asks for it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from fabula.config import Data, setting
from fabula.errors import nearest

# Counted up when the same settings would clean otherwise than before, so that cached shards are made again.
CLEANING_VERSION = 1

RULE_SETS = ("gopher", "repetition", "fineweb", "c4")
KINDS = ("email", "phone", "ip", "card", "iban")

# What each setting is when neither a recipe nor its preset gives it.
_OFF: Data = {
    "mojibake": "off",
    "unicode": "off",
    "control": False,
    "whitespace": False,
    "gutenberg": False,
    "navigation": False,
    "repeated_lines": 0,
    "least_words": 0,
    "most_bytes": 0,
    "languages": (),
    "language_probability": 0.5,
    "language_letters": 100,
    "quality": (),
    "limits": {},
    "decontaminate": (),
    "decontaminate_words": 13,
    "decontaminate_how": "drop",
    "redact": (),
    "redact_with": "substitute",
    "near_duplicates": 0.0,
}

# Settings that say how a step is done, and the step that they belong to.
_PART_OF = {
    "language_probability": "languages",
    "language_letters": "languages",
    "limits": "quality",
    "decontaminate_words": "decontaminate",
    "decontaminate_how": "decontaminate",
    "redact_with": "redact",
}

_LIGHT: Data = {"mojibake": "repair", "unicode": "nfc", "control": True, "whitespace": True}
PRESETS: dict[str, Data] = {
    "none": {},
    "light": _LIGHT,
    "books": {**_LIGHT, "unicode": "forms", "gutenberg": True, "near_duplicates": 0.8},
    "web": {
        **_LIGHT,
        "navigation": True,
        "repeated_lines": 10,
        "quality": ("gopher", "repetition", "fineweb"),
        "redact": KINDS,
        "near_duplicates": 0.8,
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanConfig:
    """The steps of cleaning, in their order. Without a value a step is as the preset has it."""

    preset: Literal["none", "light", "books", "web"] = setting("none", "what the settings below are when not given")
    mojibake: Literal["off", "repair", "drop"] | None = setting(
        None, "UTF-8 that was once read as Windows-1252 (â€œ): repair it, or drop the document (also one with U+FFFD)"
    )
    unicode: Literal["off", "nfc", "forms"] | None = setting(
        None, "nfc: accents composed, none lost; forms: also ligatures and full-width letters as plain ones"
    )
    control: bool | None = setting(None, "control characters, byte-order marks, soft hyphens are taken out")
    whitespace: bool | None = setting(None, "LF line ends, single plain spaces, at most one empty line")
    gutenberg: bool | None = setting(None, "headers, footers and licence of Project Gutenberg are taken out")
    navigation: bool | None = setting(None, "lines about cookies, JavaScript, log-ins and sharing are taken out")
    repeated_lines: int | None = setting(
        None, "lines that stand in so many documents or more are taken out (one more pass over the text); 0 = never"
    )
    least_words: int | None = setting(None, "documents with fewer words are dropped; 0 = none")
    most_bytes: int | None = setting(None, "documents with more bytes are dropped; 0 = none (tokens: data.longest)")
    languages: tuple[str, ...] | None = setting(None, "languages that are kept, as es,en; empty: all")
    language_probability: float | None = setting(None, "how sure the language must be, 0 to 1; 0.5 by default")
    language_letters: int | None = setting(None, "texts with fewer letters are not judged by language; 100 by default")
    quality: tuple[str, ...] | None = setting(None, f"rules of quality: {', '.join(RULE_SETS)}")
    limits: dict[str, float] | None = setting(
        None, "limits of these rules, by name, that are to be others (docs/clean.md)"
    )
    decontaminate: tuple[str, ...] | None = setting(
        None, "files with evaluation sets (.jsonl, .txt): documents that share a stretch of words with them are dropped"
    )
    decontaminate_words: int | None = setting(None, "length of such a stretch in words, at least 8; 13 by default")
    decontaminate_how: Literal["drop", "cut"] | None = setting(
        None, "drop the document, or cut out the sentences that are shared; drop by default"
    )
    redact: tuple[str, ...] | None = setting(None, f"personal data that is covered up: {', '.join(KINDS)}")
    redact_with: Literal["substitute", "placeholder"] | None = setting(
        None, "what stands there instead: something of the same shape, or [email]; substitute by default"
    )
    near_duplicates: float | None = setting(
        None, "documents that are at least so similar to an earlier one are dropped, 0 to 1; 0 = none, 0.8 is usual"
    )

    def __post_init__(self) -> None:
        for name in ("repeated_lines", "least_words", "most_bytes", "language_letters"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value} must not be negative; 0 switches it off")
        if self.repeated_lines == 1:
            raise ValueError("repeated_lines=1 would take out every line; 2 is the least, 10 is usual")
        for name in ("language_probability", "near_duplicates"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must be from 0 to 1")
        if self.near_duplicates and self.near_duplicates < 0.3:
            raise ValueError(f"near_duplicates={self.near_duplicates} is below 0.3: unrelated texts are as much alike")
        if self.decontaminate_words is not None and not 8 <= self.decontaminate_words <= 50:
            raise ValueError(f"decontaminate_words={self.decontaminate_words} must be from 8 to 50; 13 is usual")
        for name, known in (("quality", RULE_SETS), ("redact", KINDS)):
            for value in getattr(self, name) or ():
                if value not in known:
                    raise ValueError(f"{name}={value!r} is not known; {nearest(value, known)}")
        for value in self.languages or ():
            if not (2 <= len(value) <= 3 and value.isascii() and value.islower()):
                raise ValueError(f"languages={value!r} must be codes of ISO 639 in lower case, as es,en")
        if self.limits:
            from fabula.corpus.clean.quality import LIMITS

            for name in self.limits:
                if name not in LIMITS:
                    raise ValueError(f"limits={name!r} is no limit of a rule; {nearest(name, LIMITS)}")

    def active(self) -> Data:
        """The steps that do something, with their settings; {} when nothing is cleaned."""
        chosen = {f.name: self._chosen(f.name) for f in fields(self) if f.name != "preset"}
        steps = {name for name, value in chosen.items() if name not in _PART_OF and value != _OFF[name]}
        return {name: value for name, value in chosen.items() if _PART_OF.get(name, name) in steps}

    def _chosen(self, name: str) -> Any:
        value = getattr(self, name)
        return PRESETS[self.preset].get(name, _OFF[name]) if value is None else value
