"""Tokenizers that were made elsewhere: what of Hugging Face's `tokenizer.json` can be held exactly, and how.

Two kinds of byte-pair encoding are: over bytes (GPT-2, Llama 3, SmolLM2, Qwen) and over characters with a token for
each byte as the last resort (Gemma). Beside the `tokenizer.json`, as it came, stands a `special.json` that says which
text has which role, how many ids the model has, and the chat template. The promises are those of `base.py` but one: a
tokenizer that changes a text before it cuts it (Unicode's NFC in Qwen, U+2581 for the space in Gemma) gives back the
changed text; `changes` says so.

Patterns are taken from a list, not from the file: some take for ever on a text that is made for it.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fabula import storage
from fabula.config import Data
from fabula.errors import DamagedError, InputError
from fabula.tokenizer.base import _PROBE, Tokenizer, byte_of_letter, read
from fabula.tokenizer.base import FILE as TOKENIZER_FILE
from fabula.tokenizer.special import SpecialTokens

FILE = "special.json"

_SPACE = "\u2581"  # how SentencePiece writes a space
_END = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "GPT-2",
    _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END: "GPT-4 and Llama 3",
    _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _END: "Qwen 2 and 3",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _END: "GPT-4o",
}

ROLES = tuple(f.name for f in fields(SpecialTokens))


@dataclass(frozen=True, slots=True)
class Special:
    """What `special.json` says: the text of each role that there is, the model's number of ids, the chat template."""

    roles: dict[str, str]
    vocab_size: int
    chat_template: str | None = None

    def to_data(self) -> Data:
        return {"roles": self.roles, "vocab_size": self.vocab_size, "chat_template": self.chat_template}


class ForeignTokenizer(Tokenizer):
    """A tokenizer of another house, with its own special tokens."""

    def __init__(self, backend: Any, special: Special, origin: str = "tokenizer") -> None:
        self._hold(backend)
        self.given = special
        self.chat_template = special.chat_template
        data = json.loads(backend.to_str())
        problems = unsupported(data)
        ids = {role: backend.token_to_id(text) for role, text in special.roles.items()}
        problems += [f"no token {special.roles[role]!r} ({role})" for role, number in ids.items() if number is None]
        if "end_of_document" not in ids:
            problems.append("no token ends a document")
        controls = {t["id"] for t in data["added_tokens"] if t["special"]} | set(ids.values())
        beyond = [t for t in range(special.vocab_size, backend.get_vocab_size()) if t not in controls]
        if beyond:
            problems.append(f"{len(beyond)} tokens of text beyond the model's {special.vocab_size:,} ids")
        if problems:
            raise DamagedError(f"{origin}: {'; '.join(problems)}")
        self.special = SpecialTokens(**ids)
        self.vocab_size = special.vocab_size
        self._controls = controls
        self._bytes = _table(data, backend, controls, special.vocab_size, origin)
        self.changes = {"NFC": "Unicode's normal form C", "Replace": f"{_SPACE} (U+2581) is read as a space"}.get(
            (data["normalizer"] or {}).get("type", "")
        )
        self.fingerprint = storage.hash_data({"tokenizer": data, "special": special.to_data()})
        self._check(origin)

    def _check(self, origin: str) -> None:
        missing = set(range(256)) - {b[0] for b in self._bytes if len(b) == 1}
        # In UTF-8 these bytes stand nowhere; a vocabulary over characters may do without them.
        missing -= {0xC0, 0xC1, *range(0xF5, 0x100)}
        if missing:
            raise DamagedError(f"{origin}: {len(missing)} of the 256 bytes have no token (first: 0x{min(missing):02x})")
        ids = self.encode(_PROBE)
        expected = unicodedata.normalize("NFC", _PROBE) if (self.changes or "").startswith("Unicode") else _PROBE
        if self.decode(ids) != expected or self._controls & set(ids):
            raise DamagedError(f"{origin}: a text does not come back as it was; this tokenizer cannot be held exactly")

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `special.json` into a folder."""
        super().save(folder)
        storage.write_json(folder / FILE, self.given.to_data())


def load(file: Path) -> ForeignTokenizer:
    """Read a `tokenizer.json` that has a `special.json` beside it; DamagedError when they are not sound."""
    beside = file.with_name(FILE)
    said = storage.read_json(beside)
    try:
        roles, size, template = said["roles"], said["vocab_size"], said["chat_template"]
        sound = all(role in ROLES and isinstance(text, str) for role, text in roles.items())
        sound = sound and type(size) is int and 0 < size < 1 << 24 and isinstance(template, (str, type(None)))
    except (TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise DamagedError(f"{beside}: not what a tokenizer keeps; the file is damaged")
    return take(file, Special(roles, size, template))


def take(file: Path, special: Special) -> ForeignTokenizer:
    """The tokenizer of a Hugging Face `tokenizer.json`; DamagedError listing what cannot be held exactly."""

    def make(data: Any, backend: Any) -> Tokenizer:
        problems = unsupported(data)
        if problems:
            raise DamagedError(f"{file}: this tokenizer cannot be held exactly: {'; '.join(problems)}")
        try:
            return ForeignTokenizer(backend(), special, str(file))
        except ValueError as error:
            raise DamagedError(f"{file}: {error}") from None

    made = read(file, make)
    assert isinstance(made, ForeignTokenizer)
    return made


def unsupported(data: Any) -> list[str]:
    """What a `tokenizer.json` asks for that cannot be held exactly; empty when nothing does."""
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        return ["not a tokenizer.json"]
    model, problems = data["model"], []
    kind = model.get("type", "BPE")
    if kind != "BPE":
        return [f"model.type is {kind}, only BPE is supported"]
    over_bytes = not model.get("byte_fallback")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name) not in (None, "", 0):
            problems.append(f"model.{name} is {_short(model[name])}")
    normalizer = data.get("normalizer")
    if normalizer not in ((None, {"type": "NFC"}) if over_bytes else (_NORMALIZER,)):
        problems.append(f"normalizer {_short(normalizer)}")
    if over_bytes:
        problems += _cutting(data.get("pre_tokenizer"))
        if not _is(data.get("decoder"), "ByteLevel"):
            problems.append(f"decoder {_short(data.get('decoder'))}")
    else:
        if data.get("pre_tokenizer") not in (None, _AT_SPACES):
            problems.append(f"pre_tokenizer {_short(data.get('pre_tokenizer'))}")
        if data.get("decoder") != _DECODER:
            problems.append(f"decoder {_short(data.get('decoder'))}")
    return problems + _added(data)


def _cutting(part: Any) -> list[str]:
    """What is wrong with the pre-tokenizer of a byte-level tokenizer."""
    steps = part.get("pretokenizers") if _is(part, "Sequence") else [part]
    if not isinstance(steps, list) or not steps or not _is(steps[-1], "ByteLevel"):
        return [f"pre_tokenizer {_short(part)}"]
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
            problems.append(f"pre_tokenizer {_short(step)}")
    return problems


def _added(data: Data) -> list[str]:
    """What is wrong with the vocabulary and the tokens that were added to it."""
    vocabulary, added = data["model"].get("vocab"), data.get("added_tokens")
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        return ["not a tokenizer.json"]
    problems, ids = [], set(vocabulary.values())
    for token in added:
        if not isinstance(token, dict) or type(token.get("id")) is not int or not isinstance(token.get("content"), str):
            return ["added_tokens is not a list of tokens"]
        ids.add(token["id"])
        swallows = any(token.get(name) for name in ("lstrip", "rstrip", "single_word"))
        if not token.get("special") and (swallows or not token["content"]):
            problems.append(f"added token {token['content']!r:.40} swallows the space around it")
    # With holes between the ids the library counts through them, up to four thousand million.
    if any(type(i) is not int for i in ids) or ids != set(range(len(ids))):
        problems.append("the ids of its tokens are not 0, 1, 2 and so on without a hole")
    return problems


def _table(data: Data, backend: Any, controls: set[int], size: int, origin: str) -> list[bytes]:
    """The bytes of text behind each id; none for control ids and for those that the model alone has."""
    letters = byte_of_letter()
    over_bytes = not data["model"].get("byte_fallback")
    literal = {t["id"]: t["content"].encode("utf-8") for t in data["added_tokens"] if not t["special"]}
    table = []
    for number in range(size):
        token = backend.id_to_token(number)
        if token is None or number in controls:
            table.append(b"")
        elif number in literal:
            table.append(literal[number])
        elif over_bytes:
            try:
                table.append(bytes(letters[letter] for letter in token))
            except KeyError:
                raise DamagedError(f"{origin}: token {number} ({token!r}) is not byte-level") from None
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            table.append(bytes.fromhex(token[3:5]))
        else:
            table.append(token.replace(_SPACE, " ").encode("utf-8"))
    return table


_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}


def _is(part: Any, kind: str) -> bool:
    return isinstance(part, dict) and part.get("type") == kind


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


__all__ = ["FILE", "PATTERNS", "ROLES", "TOKENIZER_FILE", "ForeignTokenizer", "InputError", "Special", "load", "take"]
