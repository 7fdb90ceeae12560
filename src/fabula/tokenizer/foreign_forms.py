"""What of Hugging Face's `tokenizer.json` can be held exactly?

Four kinds: byte-pair encoding over bytes (GPT-2, Llama 3, SmolLM2, Qwen), over characters with a token for each byte as
the last resort (Gemma, Llama 2), and unigram models over characters with that resort or without (T5, ALBERT, XLM-R).
Patterns are taken from a list, not from the file: some take for ever on a text that is made for it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fabula.config import Data
from fabula.tokenizer import charsmap

SPACE = "\u2581"  # how SentencePiece writes a space
_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "GPT-2",
    _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END: "GPT-4 and Llama 3",
    _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END: "Qwen 2 and 3",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _END: "GPT-4o",
    # As tiktoken has it: the blanks at the end of a text are one piece, also across lines.
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+\z|\s*[\r\n]|\s+(?!\S)|\s": "cl100k",
}

# Longer pieces would make the cutting of a text slow, place by place; published ones have 16 characters, runs 128.
_LONGEST = 1024

# Pieces of a unigram model that begin with each other (a, aa, aaa): every place of a text is tried with all of them.
_NESTED = 64

TO_SPACE = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
FROM_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
PREPEND = {"type": "Prepend", "prepend": SPACE}
ONE_SPACE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
AT_BEGIN = {"type": "Replace", "pattern": {"Regex": r"\A +"}, "content": ""}
AT_END = {"type": "Replace", "pattern": {"Regex": rf"{SPACE}+\z"}, "content": ""}
# The patterns of normalizers that are known, and what they do to a text.
_REPLACED = {
    (json.dumps(ONE_SPACE["pattern"]), " "): "runs of spaces become one",
    (json.dumps(ONE_SPACE["pattern"]), SPACE): "runs of spaces become one",
    (json.dumps(AT_BEGIN["pattern"]), ""): "spaces at both ends are dropped",
    (json.dumps(AT_END["pattern"]), ""): "spaces at both ends are dropped",
    ('{"String": "``"}', '"'): "`` becomes a quotation mark",
    ('{"String": "\'\'"}', '"'): "'' becomes a quotation mark",
    (json.dumps(FROM_SPACE["pattern"]), SPACE): None,
}
_CHANGED = {
    "NFC": "Unicode's normal form C",
    "NFD": "Unicode's normal form D",
    "NFKC": "Unicode's normal form KC",
    "NFKD": "Unicode's normal form KD",
    "Nmt": "control characters are dropped, other blanks become spaces",
    "Lowercase": "lower case",
    "StripAccents": "accents are taken off",
    "Precompiled": "characters by the tokenizer's own table",
}


@dataclass(frozen=True, slots=True)
class Form:
    """How a tokenizer that is held reads and writes texts."""

    pairs: bool  # byte-pair encoding, or a unigram model
    over_bytes: bool
    byte_fallback: bool
    # A space is read before every text, and taken off again.
    prefix: bool
    changes: tuple[str, ...]
    unknown: int | None  # the id of what it has no token for; None: there is nothing such

    @property
    def bytes_by_name(self) -> bool:
        """Whether `<0x0A>` in a text is the token of that byte: a unigram model looks for every piece it has."""
        return not self.pairs and self.byte_fallback


def examine(data: Any) -> Form | list[str]:
    """How a `tokenizer.json` reads texts, or what it asks for that cannot be held exactly."""
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        return ["not a tokenizer.json"]
    kind = data["model"].get("type", "BPE")
    if kind == "WordPiece":
        return ["model.type is WordPiece, which does not keep where the spaces were: texts would not come back"]
    if kind not in ("BPE", "Unigram"):
        return [f"model.type is {short(kind)}, only BPE and Unigram are supported"]
    problems = _added(data)
    if problems:
        return problems
    made = _pairs(data) if kind == "BPE" else _unigram(data)
    return made


# ---- byte-pair encoding ----------------------------------------------------------------------------------------


def _pairs(data: Data) -> Form | list[str]:
    model, problems = data["model"], []
    over_bytes = _is(data.get("decoder"), "ByteLevel")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name) not in (None, "", 0):
            problems.append(f"model.{name} is {short(model[name])}")
    if not over_bytes:
        byte_fallback = model.get("byte_fallback") is True
        unknown = None if byte_fallback else model["vocab"].get(model.get("unk_token"))
        if not byte_fallback and unknown is None:
            problems.append("it has no token for characters that it does not know")
        form = _over_characters(data, True, byte_fallback, unknown)
        return problems + form if isinstance(form, list) else problems or form
    if model.get("byte_fallback"):
        problems.append("model.byte_fallback beside a decoder of bytes")
    normalizer = data.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        problems.append(f"normalizer {short(normalizer)}")
    problems += _cutting(data.get("pre_tokenizer"))
    changes = (_CHANGED["NFC"],) if normalizer else ()
    return problems or Form(True, True, False, False, changes, None)


def _cutting(part: Any) -> list[str]:
    """What is wrong with the pre-tokenizer of a byte-level tokenizer."""
    steps = part.get("pretokenizers") if _is(part, "Sequence") else [part]
    if not isinstance(steps, list) or not steps or not _is(steps[-1], "ByteLevel"):
        return [f"pre_tokenizer {short(part)}"]
    problems = []
    for step in steps:
        if _is(step, "ByteLevel"):
            sound = step.get("add_prefix_space") is False and step is steps[-1]
        elif _is(step, "Digits"):
            sound = isinstance(step.get("individual_digits"), bool)
        else:
            pattern = step.get("pattern") if _is(step, "Split") else None
            sound = isinstance(pattern, dict) and pattern.get("Regex") in PATTERNS
            sound = sound and step.get("behavior") == "Isolated" and step.get("invert") is False
        if not sound:
            problems.append(f"pre_tokenizer {short(step)}")
    return problems


# ---- over characters -------------------------------------------------------------------------------------------


def _unigram(data: Data) -> Form | list[str]:
    model = data["model"]
    unknown = model.get("unk_id")
    byte_fallback = model.get("byte_fallback") is True
    if not byte_fallback and unknown is None:
        return ["it has no token for characters that it does not know"]
    if unknown is not None and not (type(unknown) is int and 0 <= unknown < len(model["vocab"])):
        return [f"model.unk_id is {short(unknown)}"]
    if (nested := _nested(row[0] for row in model["vocab"])) > _NESTED:
        return [f"{nested} of its pieces begin with each other, which would make the cutting of a text slow"]
    for row in model["vocab"]:
        score = row[1]
        if type(score) not in (int, float) or not math.isfinite(score) or abs(score) > 1e6:
            return [f"the score of {row[0]!r:.40} is {short(score)}"]
    if any(not token.get("special") for token in data["added_tokens"]):
        return ["tokens of text that were added to a unigram model"]
    return _over_characters(data, False, byte_fallback, None if byte_fallback else unknown)


def _nested(pieces: Iterable[str]) -> int:
    """The most pieces that one text can begin with.

    >>> _nested(["la", "l", "el", "las", "le"])
    3
    """
    begun: list[str] = []
    most = 0
    for piece in sorted(pieces):
        while begun and not piece.startswith(begun[-1]):
            begun.pop()
        begun.append(piece)
        most = max(most, len(begun))
    return most


def _over_characters(data: Data, pairs: bool, byte_fallback: bool, unknown: int | None) -> Form | list[str]:
    problems: list[str] = []
    steps, changes, prefix = _steps(data.get("normalizer"), "normalizers"), [], False
    marks = False
    for place, step in enumerate(steps):
        known, change = _normalizing(step)
        if step == PREPEND:
            known, prefix = place >= len(steps) - 2, True
        marks = marks or step == FROM_SPACE
        if not known:
            problems.append(f"normalizer {short(step)}")
        elif change is not None and change not in changes:
            changes.append(change)
        if _is(step, "Precompiled") and (wrong := charsmap.problem(step.get("precompiled_charsmap"))):
            problems.append(wrong)
    cuts = _steps(data.get("pre_tokenizer"), "pretokenizers")
    for place, step in enumerate(cuts):
        if step == AT_SPACES:
            sound = len(cuts) == 1
        elif _is(step, "WhitespaceSplit"):
            sound = place == 0 and len(cuts) == 2
            changes.append("white space becomes one space, none at the ends")
        elif _is(step, "Metaspace"):
            sound = place == len(cuts) - 1 and not prefix
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            sound = sound and scheme in ("always", "never") and step.get("replacement") == SPACE
            prefix, marks = prefix or scheme == "always", True
            if scheme == "always" and not _is(cuts[0], "WhitespaceSplit"):
                changes.append("a space at the beginning is dropped")
        else:
            sound = False
        if not sound:
            problems.append(f"pre_tokenizer {short(step)}")
    if not marks:
        problems.append("it does not keep spaces")
    if prefix and any(not token.get("special") for token in data["added_tokens"]):
        problems.append("tokens of text that were added, and a space that is put before what stands between them")
    problems += _decoding(data.get("decoder"), byte_fallback, prefix)
    changes.append(f"{SPACE} (U+2581) is read as a space")
    if byte_fallback and not pairs:
        changes.append("<0x0A> and the like are read as bytes")
    if unknown is not None:
        changes.append("characters that it has no token for become unknown")
    return problems or Form(pairs, False, byte_fallback, prefix, tuple(changes), unknown)


def _normalizing(step: Any) -> tuple[bool, str | None]:
    """Whether a step of a normalizer is known, and what it changes in words."""
    if _is(step, "Replace"):
        key = (json.dumps(step.get("pattern")), step.get("content"))
        return (True, _REPLACED[key]) if isinstance(key[1], str) and key in _REPLACED else (False, None)
    if _is(step, "Strip"):
        sides = [side for side in ("left", "right") if step.get(f"strip_{side}") is True]
        return True, f"white space at the end{'s' if len(sides) == 2 else ''} is dropped ({' and '.join(sides)})"
    kind = step.get("type") if isinstance(step, dict) else None
    return (True, _CHANGED[kind]) if isinstance(kind, str) and kind in _CHANGED else (False, None)


def _decoding(decoder: Any, byte_fallback: bool, prefix: bool) -> list[str]:
    """What is wrong with the decoder of a tokenizer over characters."""
    steps = _steps(decoder, "decoders")
    if len(steps) == 1 and _is(steps[0], "Metaspace") and not byte_fallback:
        scheme = steps[0].get("prepend_scheme", "always" if steps[0].get("add_prefix_space", True) else "never")
        sound = steps[0].get("replacement") == SPACE and (scheme != "never") == prefix
    else:
        expected = [TO_SPACE, {"type": "ByteFallback"}, {"type": "Fuse"}]
        sound = steps == ([*expected, STRIP] if prefix else expected)
    return [] if sound else [f"decoder {short(decoder)}"]


def _steps(part: Any, name: str) -> list[Any]:
    """The steps of a part: those of a sequence, or the part itself."""
    if part is None:
        return []
    if _is(part, "Sequence") and isinstance(part.get(name), list):
        return list(part[name])
    return [part]


# ---- tokens ----------------------------------------------------------------------------------------------------


def _added(data: Data) -> list[str]:
    """What is wrong with the vocabulary and the tokens that were added to it."""
    vocabulary, added = data["model"].get("vocab"), data.get("added_tokens")
    if isinstance(vocabulary, list) and data["model"].get("type") == "Unigram":
        if not all(isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) for row in vocabulary):
            return ["model.vocab is not a list of pieces and scores"]
        numbers: list[Any] = list(range(len(vocabulary)))
        texts = [row[0] for row in vocabulary]
        if len(set(texts)) != len(texts):
            return [f"two ids for one text: {Counter(texts).most_common(1)[0][0]!r:.40}"]
    elif isinstance(vocabulary, dict) and data["model"].get("type", "BPE") == "BPE":
        numbers, texts = list(vocabulary.values()), list(vocabulary)
    else:
        return ["not a tokenizer.json"]
    if not isinstance(added, list):
        return ["not a tokenizer.json"]
    problems, ids = [], numbers
    if any(not text for text in texts) or max(map(len, texts), default=0) > _LONGEST:
        problems.append(f"a token is empty or longer than {_LONGEST:,} characters")
    for token in added:
        if not isinstance(token, dict) or type(token.get("id")) is not int or not isinstance(token.get("content"), str):
            return ["added_tokens is not a list of tokens"]
        ids.append(token["id"])
        swallows = any(token.get(name) for name in ("lstrip", "rstrip", "single_word"))
        if not token.get("special") and (swallows or not token["content"]):
            problems.append(f"added token {token['content']!r:.40} swallows the space around it")
    # With holes between the ids the library counts through them, up to four thousand million.
    if any(type(i) is not int for i in ids) or set(ids) != set(range(len(set(ids)))):
        problems.append("the ids of its tokens are not 0, 1, 2 and so on without a hole")
    return problems


def _is(part: Any, kind: str) -> bool:
    return isinstance(part, dict) and part.get("type") == kind


def short(value: Any) -> str:
    """A value for an error message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
