"""Where is a text cut before anything in it is merged?

A token never reaches over such a cut. Every cut is written twice, as what `tokenizer.json` calls a pre-tokenizer and as
the one regular expression whose matches are the pieces, for the libraries that work with one; both give the same pieces
of every text (all characters of Unicode are tested). The list is closed: patterns of an unknown file can take for ever
on a text that is made for it.

The Spanish pattern differs from GPT-2's in what Spanish writes: marks that stand after their letter belong to the word
(an accent in its decomposed form), the signs that open (¿ ¡ « —) are cut off from the signs before and the word after,
numbers go in groups of three, a newline after a sign belongs to it, and nothing is done for English 's and 'll.
Pronouns at the end of a verb (`diciéndoselo`) are left to the merges: cutting them off was measured to cost tokens, and
two thirds of the speed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

Boundary = Literal["word", "superword", "none"]
Pattern = Literal["gpt2", "gpt4", "spanish"]

_SPACE = r"|\s+(?!\S)|\s+"
_OPENING = "¿¡«“‘(—–"
_MARKED = r"[\p{L}\p{M}]"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+" + _SPACE
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+" + _SPACE
SPANISH = (
    rf" ?{_MARKED}+| ?\p{{N}}{{1,3}}| ?[{_OPENING}]+| ?[^\s\p{{L}}\p{{M}}\p{{N}}{_OPENING}]+[\r\n]*|\s*[\r\n]+" + _SPACE
)


@dataclass(frozen=True, slots=True)
class Cut:
    """One way to cut: its pieces as the matches of a pattern, and the pre-tokenizer that gives the same pieces."""

    pattern: str
    pre_tokenizer: dict[str, Any]
    # Patterns that look ahead step back over a stretch of space; their engine has room for a million steps.
    looks_ahead: bool = False


def _bytes(by_pattern: bool = False) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": by_pattern}


def _split(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _bytes()]}


def _quick(pattern: str) -> str:
    """The same pattern, grouped.

    The engine of tiktoken and rustbpe tries alternatives one by one as soon as one of them looks ahead. In a group of
    their own those that don't are a single automaton.
    """
    return f"(?:{pattern.removesuffix(_SPACE)}){_SPACE}"


_LINES, _CHARACTERS = r"[^\r\n]+|[\r\n]+", r"[\s\S]"
CUTS = {
    # The library's own name for GPT-2's pattern; llama.cpp knows it too.
    "gpt2": Cut(_quick(GPT2), _bytes(by_pattern=True), looks_ahead=True),
    "gpt4": Cut(_quick(GPT4), _split(GPT4), looks_ahead=True),
    "spanish": Cut(_quick(SPANISH), _split(SPANISH), looks_ahead=True),
    "lines": Cut(_LINES, _split(_LINES)),
    "characters": Cut(_CHARACTERS, _split(_CHARACTERS)),
    "none": Cut(r"[\s\S]+", _bytes()),
}
WORDS = ("gpt2", "gpt4", "spanish")


def cut_of(boundary: Boundary, pattern: Pattern) -> Cut:
    """How a tokenizer of that boundary cuts a text."""
    return CUTS[{"word": pattern, "superword": "lines", "none": "none"}[boundary]]


def named(pre_tokenizer: Any) -> str | None:
    """The name of the cut that a file's pre-tokenizer is; None when it is none of ours."""
    wanted = _written(pre_tokenizer)
    return next((name for name, cut in CUTS.items() if _written(cut.pre_tokenizer) == wanted), None)


def _written(part: Any) -> str:
    # As text, since 1 == True. The trimming of offsets moves no id, and files may be without it.
    steps = part.get("pretokenizers") if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    if not isinstance(steps, list):
        return ""
    plain = [{k: v for k, v in s.items() if k != "trim_offsets"} if isinstance(s, dict) else s for s in steps]
    return json.dumps(plain, sort_keys=True)
