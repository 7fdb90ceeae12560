"""Tokenizers that were made elsewhere, with the promises of `base.py` as far as they can be kept.

Beside the `tokenizer.json`, as it came, stands a `special.json` that says which text has which role, how many ids the
model has, and the chat template. Which files can be held, and how, is in `foreign_forms.py`. One promise differs: a
tokenizer that changes a text before it cuts it (Unicode's NFC in Qwen, U+2581 for the space in Gemma, a table of
characters in T5) gives back the changed text, and one without a token for every byte has an id for what it does not
know; `changes` says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fabula import storage
from fabula.config import Data
from fabula.errors import DamagedError
from fabula.tokenizer.base import _PROBE, Tokenizer, byte_of_letter, guarded, read
from fabula.tokenizer.foreign_forms import SPACE, Form, examine
from fabula.tokenizer.special import SpecialTokens

FILE = "special.json"

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
        self.given = special
        self.chat_template = special.chat_template
        data = json.loads(backend.to_str())
        form = examine(data)
        problems = form if isinstance(form, list) else []
        ids = {role: backend.token_to_id(text) for role, text in special.roles.items()}
        problems += [f"no token {special.roles[role]!r} ({role})" for role, number in ids.items() if number is None]
        if "end_of_document" not in ids:
            problems.append("no token ends a document")
        controls = {t["id"] for t in data["added_tokens"] if t["special"]} | set(ids.values())
        if not isinstance(form, list):
            controls -= {form.unknown}
        beyond = [t for t in range(special.vocab_size, backend.get_vocab_size()) if t not in controls]
        if beyond:
            problems.append(f"{len(beyond)} tokens of text beyond the model's {special.vocab_size:,} ids")
        if not isinstance(form, list) and form.pairs and (spelt := _spelt(data["model"], controls)):
            problems.append(f"merges make the control token {spelt!r:.40}, so a text that says it would be one")
        if problems or isinstance(form, list):
            raise DamagedError(f"{origin}: {'; '.join(problems)}")
        self.special = SpecialTokens(**ids)
        self.vocab_size = special.vocab_size
        self.form = form
        self._controls = frozenset(controls)
        self._shown = backend
        if not form.pairs:
            backend = _hidden(data, self._controls | {form.unknown})
        elif _looked_up(data["model"], self._controls):
            backend = _hidden(data, self._controls)
        self._hold(backend)
        self._bytes = _table(data, self._shown, controls, special.vocab_size, form, origin)
        self.changes = "; ".join(form.changes) or None
        self.fingerprint = storage.hash_data({"tokenizer": data, "special": special.to_data()})
        self._check(origin)

    def shown(self) -> Any:
        return self._shown

    @property
    def controls(self) -> frozenset[int]:
        return self._controls

    def decode(self, ids: Iterable[int], specials: bool = False) -> str:
        """The text of ids, without the space that was read before it."""
        text = super().decode(ids, specials)
        return text.removeprefix(" ") if self.form.prefix else text

    def reading(self, text: str) -> str:
        """A text as this tokenizer reads it: what `decode(encode(text))` is, where it has a token for everything."""
        backend = self._shown
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        if self.form.over_bytes:
            return text
        if backend.pre_tokenizer is not None:
            text = "".join(piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text))
        text = text.replace(SPACE, " ")
        return text.removeprefix(" ") if self.form.prefix else text

    def _check(self, origin: str) -> None:
        missing = set(range(256)) - {b[0] for b in self._bytes if len(b) == 1}
        # In UTF-8 these bytes stand nowhere; a vocabulary over characters may do without them.
        missing -= {0xC0, 0xC1, *range(0xF5, 0x100)}
        unknown = self.form.unknown
        if missing and unknown is None:
            raise DamagedError(f"{origin}: {len(missing)} of the 256 bytes have no token (first: 0x{min(missing):02x})")
        ids = self.encode(_PROBE)
        comes_back = unknown in ids or self.decode(ids) == self.reading(_PROBE)
        if not comes_back or self.controls & set(ids):
            raise DamagedError(f"{origin}: a text does not come back as it was; this tokenizer cannot be held exactly")

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `special.json` into a folder."""
        super().save(folder)
        storage.write_json(folder / FILE, self.given.to_data())


def _spelt(model: Data, controls: set[int]) -> str | None:
    """A control token that merges make out of its letters, if there is one."""
    numbers: dict[str, int] = model["vocab"]
    whole = (left + right for left, right in model["merges"])
    return next((text for text in whole if numbers.get(text) in controls), None)


def _looked_up(model: Data, controls: frozenset[int]) -> bool:
    """Whether byte-pair encoding begins with a control token: it looks up letters, and whole words where it may."""
    found = (text for text, number in model["vocab"].items() if number in controls)
    return any(model["ignore_merges"] or len(text) == 1 for text in found)


def _hidden(data: Data, controls: frozenset[int] | frozenset[int | None]) -> Any:
    """A model in which no text meets one of these tokens.

    The library looks for every piece of a unigram's vocabulary, these too, and for whole words in some of the others.
    A piece with a space in it is never found: spaces have become other letters before the model sees them.
    """
    from tokenizers import Tokenizer as Backend

    def named(text: str, number: int) -> str:
        return f"{text} {number}" if number in controls else text

    given = data["model"]["vocab"]
    vocabulary: Any
    if isinstance(given, dict):
        vocabulary = {named(text, number): number for text, number in given.items()}
    else:
        vocabulary = [[named(text, number), score] for number, (text, score) in enumerate(given)]
    words = [token for token in data["added_tokens"] if not token["special"]]
    hidden = {**data, "model": {**data["model"], "vocab": vocabulary}, "added_tokens": words, "post_processor": None}
    return Backend.from_str(json.dumps(hidden, ensure_ascii=False))


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
    made = read(file, lambda data, backend: _sound(data, backend, special, str(file)))
    assert isinstance(made, ForeignTokenizer)
    return made


def of_text(text: str, special: Special, origin: str) -> ForeignTokenizer:
    """As `take`, of the text of a `tokenizer.json` that lies in no file yet."""
    from tokenizers import Tokenizer as Backend

    return guarded(lambda: _sound(json.loads(text), lambda: Backend.from_str(text), special, origin), origin)


def _sound(data: Any, backend: Callable[[], Any], special: Special, origin: str) -> ForeignTokenizer:
    form = examine(data)
    if isinstance(form, list):
        raise DamagedError(f"{origin}: this tokenizer cannot be held exactly: {'; '.join(form)}")
    try:
        return ForeignTokenizer(backend(), special, origin)
    except ValueError as error:
        raise DamagedError(f"{origin}: {error}") from None


def _table(data: Data, backend: Any, controls: set[int], size: int, form: Form, origin: str) -> list[bytes]:
    """The bytes of text behind each id; none for control ids and for those that the model alone has."""
    letters = byte_of_letter()
    literal = {t["id"]: t["content"].encode("utf-8") for t in data["added_tokens"] if not t["special"]}
    table = []
    # Ids beyond the tokens' are the model's alone.
    for number in range(min(size, backend.get_vocab_size())):
        token = backend.id_to_token(number)
        if token is None or number in controls:
            table.append(b"")
        elif number in literal:
            table.append(literal[number])
        elif form.over_bytes:
            try:
                table.append(bytes(letters[letter] for letter in token))
            except KeyError:
                raise DamagedError(f"{origin}: token {number} ({token!r}) is not byte-level") from None
        elif form.byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            table.append(bytes.fromhex(token[3:5]))
        else:
            table.append(token.replace(SPACE, " ").encode("utf-8"))
    return table + [b""] * (size - len(table))
