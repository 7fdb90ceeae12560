"""Published folders of Hugging Face's format: which text has which role, and which chat template comes along?

The roles are read from tokenizer_config.json and special_tokens_map.json, from the template of the tokenizer.json that
puts a token before a text, and, where they say nothing, from the ids in config.json and generation_config.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fabula.config import Data
from fabula.errors import DamagedError, InputError
from fabula.tokenizer import foreign, foreign_files
from fabula.tokenizer.base import FILE
from fabula.tokenizer.conversation import FILE as TEMPLATE
from fabula.tokenizer.special import SPECIAL_TEXT

CONFIG = "tokenizer_config.json"
MAP = "special_tokens_map.json"
GENERATION = "generation_config.json"
# Their names for the roles that we read.
_ROLES = {"end_of_document": "eos_token", "begin_of_document": "bos_token", "padding": "pad_token"}


def read(path: Path, end: str | None = None) -> foreign_files.Made:
    """A published `tokenizer.json`, or the folder that has it, with its own library beside it to compare with."""
    file = path / FILE if path.is_dir() else path
    data = foreign_files.small_json(file)
    names = set(_added(data).values())
    if names >= set(SPECIAL_TEXT.values()):
        # One of ours, or of its kind: what was added on leaving is no part of it.
        data, found = {**data, "post_processor": None}, dict(SPECIAL_TEXT)
    else:
        found = roles(file.parent, file.parent, data, {}, end)
    special = foreign.Special(found, size(data), template(file.parent))
    return foreign_files.Made(data, special, _library(file), "tokenizers")


def _library(file: Path) -> Any:
    """The ids as the library reads the file by itself, what looks like a control token read as text."""
    from tokenizers import Tokenizer as Backend

    text = foreign_files.small_text(file)
    held: list[Any] = []

    def encode(content: str) -> list[int]:
        # Made at the first text: by then the file has been looked at.
        if not held:
            backend = Backend.from_str(text)
            backend.encode_special_tokens = True
            backend.no_truncation()
            backend.no_padding()
            held.append(backend)
        ids: list[int] = held[0].encode(content, add_special_tokens=False).ids
        return ids

    return encode


def size(data: Data) -> int:
    """The number of ids of a `tokenizer.json`."""
    model = data.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        ids = {number for number in vocabulary.values() if isinstance(number, int)}
    else:
        ids = set(range(len(vocabulary) if isinstance(vocabulary, list) else 0))
    return len(ids | set(_added(data)))


def _added(data: Data) -> dict[int, str]:
    """The tokens that were added, by their ids; what is no token is passed over, `examine` says so later."""
    added = data.get("added_tokens")
    return {
        token["id"]: token["content"]
        for token in (added if isinstance(added, list) else ())
        if isinstance(token, dict) and isinstance(token.get("id"), int) and isinstance(token.get("content"), str)
    }


def roles(beside: Path, folder: Path, data: Data, theirs: Data, end: str | None = None) -> dict[str, str]:
    """The text of each role that there is. `theirs` is config.json; InputError when no token ends a document."""
    said: Data = {**_json(beside / MAP), **_set(_json(beside / CONFIG))}
    ids: Data = {**_set(theirs), **_set(_json(folder / GENERATION))}
    if not theirs:
        ids = {**_set(_json(folder / "config.json")), **ids}
    texts = _added(data)
    found = {}
    for role, name in _ROLES.items():
        text = said.get(name)
        text = text.get("content") if isinstance(text, dict) else text
        if text is None and name not in said:
            number = ids.get(f"{name}_id")
            number = number[0] if isinstance(number, list) and number else number
            text = texts.get(number) if isinstance(number, int) else None
        if isinstance(text, str):
            found[role] = text
    first = _first(data.get("post_processor"))
    if first is not None:
        found["begin_of_document"] = first
    if end is not None:
        found["end_of_document"] = end
    if "end_of_document" not in found:
        raise InputError(f"{beside}: no eos_token in {CONFIG} or config.json; no token would end a document")
    # One id, one role: a text that begins with the end of the one before needs no other, padding is never read.
    last = found["end_of_document"]
    return {role: text for role, text in found.items() if role == "end_of_document" or text != last}


def _json(file: Path) -> Data:
    return foreign_files.small_json(file) if file.is_file() else {}


def _set(data: Data) -> Data:
    return {name: value for name, value in data.items() if value is not None}


def _first(post_processor: Any) -> str | None:
    """The token that a template puts before a text, if there is one."""
    parts = post_processor.get("processors", [post_processor]) if isinstance(post_processor, dict) else []
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, dict) and part.get("type") == "TemplateProcessing":
            single = part.get("single")
            first = single[0] if isinstance(single, list) and single else None
            special = first.get("SpecialToken") if isinstance(first, dict) else None
            if isinstance(special, dict) and isinstance(special.get("id"), str):
                return str(special["id"])
    return None


def template(folder: Path) -> str | None:
    """The chat template of a folder, as text; it is never run here."""
    file = folder / TEMPLATE
    if file.is_file() and file.stat().st_size < 1 << 20:
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise DamagedError(f"{file}: not UTF-8") from None
    given = _json(folder / CONFIG).get("chat_template")
    return given if isinstance(given, str) else None
