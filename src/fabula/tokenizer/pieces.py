"""SentencePiece's `.model` files as a `tokenizer.json`, with SentencePiece itself beside it to compare with.

Unigram and byte-pair models. The steps that SentencePiece takes before it cuts a text (a table of characters, spaces
joined and taken off the ends, U+2581 for a space, one before the text) become steps of the normalizer. `tokenizers`
reads the table letter by letter, marks with their letters, where SentencePiece takes the longest match: texts with
several marks on a letter may be read otherwise, and are counted.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabula.config import Data
from fabula.errors import DamagedError, InputError, require_extra
from fabula.tokenizer import charsmap, foreign_forms
from fabula.tokenizer.foreign import Special
from fabula.tokenizer.foreign_files import Made, control

_MAX_BYTES = 64 << 20
_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6
_LONGEST = 256


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class _Model:
    """What a `.model` file says, as far as it matters here."""

    pieces: list[_Piece]
    kind: str
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def read(file: Path, end: str | None = None) -> Made:
    """The tokenizer in a `.model` file. InputError without the library, DamagedError when it cannot be held."""
    try:
        import sentencepiece
    except ImportError:
        raise require_extra("sentencepiece", "tokenizer", "a .model file") from None
    if not file.is_file():
        raise InputError(f"no file {file}")
    if file.stat().st_size > _MAX_BYTES:
        raise DamagedError(f"{file}: larger than {_MAX_BYTES >> 20} MiB; not a tokenizer")
    raw = file.read_bytes()
    try:
        model = _model(raw)
        processor = sentencepiece.SentencePieceProcessor(model_proto=raw)
    except DamagedError as error:
        raise DamagedError(f"{file}: {error}") from None
    except (ValueError, RuntimeError, OSError, IndexError, struct.error) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedError(f"{file}: not a model of SentencePiece ({said})") from None
    roles = {"end_of_document": processor.eos_id(), "begin_of_document": processor.bos_id()}
    roles["padding"] = processor.pad_id()
    texts = {role: model.pieces[number].text for role, number in roles.items() if 0 <= number < len(model.pieces)}
    controls = {piece.text: place for place, piece in enumerate(model.pieces) if piece.kind in (_CONTROL, _UNKNOWN)}
    size = len(model.pieces)
    if end is not None:
        if end not in controls and any(piece.text == end for piece in model.pieces):
            raise InputError(f"--end-of-document {end!r} is a token of text; name a control token or a new one")
        texts["end_of_document"] = end
        if end not in controls:
            controls[end] = size
            size += 1
    elif "end_of_document" not in texts:
        raise InputError(f"{file}: no token ends a document; name or add one: --end-of-document TEXT")
    texts = {
        role: text for role, text in texts.items() if role == "end_of_document" or text != texts["end_of_document"]
    }
    data = _data(model, controls)

    def reference(text: str) -> list[int]:
        found: list[int] = processor.encode(text, out_type=int)
        return found

    normalize = processor.normalize if model.charsmap else None
    return Made(data, Special(texts, size), reference, "sentencepiece", [], normalize)


def _data(model: _Model, controls: dict[str, int]) -> Data:
    unknown = next(place for place, piece in enumerate(model.pieces) if piece.kind == _UNKNOWN)
    words = [(piece.text, place) for place, piece in enumerate(model.pieces) if piece.kind == _USER]
    added = [control(text, number) for text, number in controls.items()]
    added += [{**control(text, number), "special": False} for text, number in words]
    part: Data = {"type": "Unigram", "unk_id": unknown, "byte_fallback": model.byte_fallback}
    if model.kind == "unigram":
        part["vocab"] = [[piece.text, piece.score] for piece in model.pieces]
    else:
        part |= {
            "type": "BPE", "dropout": None, "unk_token": model.pieces[unknown].text,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "ignore_merges": False,
            "vocab": {piece.text: place for place, piece in enumerate(model.pieces)}, "merges": _merges(model.pieces),
        }  # fmt: skip
        del part["unk_id"]
    steps: list[Data] = []
    if model.charsmap:
        table = base64.b64encode(model.charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": table})
    if model.remove_extra_whitespaces:
        steps += [foreign_forms.ONE_SPACE, foreign_forms.AT_BEGIN, foreign_forms.FROM_SPACE, foreign_forms.AT_END]
    else:
        steps.append(foreign_forms.FROM_SPACE)
    if model.add_dummy_prefix:
        steps.append(foreign_forms.PREPEND)
    decoders: list[Data] = [foreign_forms.TO_SPACE, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: int(token["id"])),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [*decoders, *([foreign_forms.STRIP] if model.add_dummy_prefix else [])],
        },
        "model": part,
    }


def _merges(pieces: list[_Piece]) -> list[list[str]]:
    """The merges of a byte-pair model: it joins any two neighbours whose whole is a piece, best score first."""
    known = {piece.text for piece in pieces if piece.kind == _NORMAL}
    place = {piece.text: number for number, piece in enumerate(pieces)}
    found = []
    for piece in sorted((p for p in pieces if p.kind == _NORMAL), key=lambda p: -p.score):
        cuts = [(piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text))]
        cuts = [(left, right) for left, right in cuts if left in known and right in known]
        found += [list(cut) for cut in sorted(cuts, key=lambda cut: (place[cut[0]], place[cut[1]]))]
    return found


# ---- the file --------------------------------------------------------------------------------------------------


def _model(raw: bytes) -> _Model:
    """What the file says; DamagedError for what cannot be held."""
    pieces: list[_Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _fields(raw):
        if number == 1:
            pieces.append(_piece(value))
        elif number == 2:
            trainer = dict(_fields(value))
        elif number == 3:
            normalizer = dict(_fields(value))
    kind = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}.get(trainer.get(3, 1), "unknown")
    problems = []
    if kind not in ("unigram", "bpe"):
        problems.append(f"a {kind} model; only unigram and bpe are supported")
    if trainer.get(24, 0):
        problems.append("it writes the space at the end of a word")
    if not normalizer.get(5, 1):
        problems.append("it does not write spaces as U+2581")
    table = bytes(normalizer.get(2, b""))
    if table and (wrong := charsmap.problem(base64.b64encode(table).decode("ascii"))):
        problems.append(wrong)
    made = _Model(pieces, kind, bool(trainer.get(35, 0)), table, bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1)))
    problems += _problems(made)
    if problems:
        raise DamagedError(f"this model cannot be held exactly: {'; '.join(problems)}")
    return made


def _problems(model: _Model) -> list[str]:
    problems, kinds = [], [piece.kind for piece in model.pieces]
    texts = [piece.text for piece in model.pieces]
    if kinds.count(_UNKNOWN) != 1:
        problems.append(f"{kinds.count(_UNKNOWN)} pieces are the unknown one")
    if len(set(texts)) != len(texts):
        problems.append("two ids for one text")
    if any(not text or len(text) > _LONGEST for text in texts):
        problems.append(f"a piece is empty or longer than {_LONGEST} characters")
    if not all(math.isfinite(piece.score) and abs(piece.score) < 1e6 for piece in model.pieces):
        problems.append("a score is not a number")
    if set(kinds) - {_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE}:
        problems.append("pieces that are marked as not used")
    if model.byte_fallback and kinds.count(_BYTE) != 256:
        problems.append(f"{kinds.count(_BYTE)} of the 256 bytes have a piece")
    as_they_are = not (model.charsmap or model.add_dummy_prefix or model.remove_extra_whitespaces)
    if _USER in kinds and not (model.kind == "bpe" and as_they_are):
        problems.append("symbols of the user's beside steps that change a text")
    return problems


def _piece(raw: bytes) -> _Piece:
    found = dict(_fields(raw))
    score = struct.unpack("<f", found[2])[0] if 2 in found else 0.0
    kind = found.get(3, _NORMAL)
    if not isinstance(found.get(1, b""), bytes) or type(kind) is not int:
        raise ValueError("a piece is not one")
    return _Piece(found.get(1, b"").decode("utf-8"), score, kind)


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message of Protocol Buffers: number, and an int or bytes. ValueError when it is none."""
    if not isinstance(raw, bytes):
        raise ValueError("a message is not one")
    place = 0
    while place < len(raw):
        key, place = _number(raw, place)
        kind = key & 7
        if kind == 0:
            value, place = _number(raw, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _number(raw, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("a field of an unknown kind")
        if place + size > len(raw):
            raise ValueError("it is cut off")
        yield key >> 3, raw[place : place + size]
        place += size


def _number(raw: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(raw) or shift > 63:
            raise ValueError("it is cut off")
        byte = raw[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
