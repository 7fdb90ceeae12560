"""Make a tokenizer of Fabula out of one that was made elsewhere: which format is it, and are the ids really the same?

Before anything is written the ids are compared with those of the tool that the tokenizer comes from, on ordinary, nasty
and random texts; one difference refuses it. What a tokenizer changes in a text, and what it has no token for, is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fabula import storage
from fabula.config import Data
from fabula.errors import DamagedError, InputError, nearest
from fabula.tokenizer import conversation, foreign, foreign_files, trials
from fabula.tokenizer.base import FILE, Tokenizer, _native, guarded
from fabula.tokenizer.foreign import ForeignTokenizer
from fabula.tokenizer.foreign_files import Made

FORMATS = {
    "gpt2": "a folder with vocab.json and merges.txt",
    "tiktoken": "a file with a token in base64 and its rank on each line",
    "huggingface": "a tokenizer.json, or the folder that has one",
    "sentencepiece": "a .model file of SentencePiece",
    "alexandria": "the JSON of Alexandria, with vocab_str and merges",
}


# Sums of 32 bits are this far from exact, in proportion.
_ROUNDED = 1e-5

# How a byte is named in a vocabulary over characters.
_BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class Imported:
    """A tokenizer from elsewhere, compared."""

    tokenizer: Tokenizer
    format: str
    library: str  # what the ids were compared with
    texts: int  # on how many texts
    notes: list[str]

    def to_data(self) -> Data:
        return {
            "format": self.format,
            "vocab_size": self.tokenizer.vocab_size,
            "fingerprint": self.tokenizer.fingerprint,
            "compared_with": self.library,
            "texts_compared": self.texts,
            "changes": self.tokenizer.changes,
            "notes": self.notes,
        }


def bring(path: Path, format: str = "auto", pattern: str | None = None, end: str | None = None) -> Imported:
    """The tokenizer at `path`; InputError or DamagedError, with the reason, when it cannot be held exactly.

    `pattern` is the name of a file of ranks' pattern, `end` the text of the token that ends a document.
    """
    if not path.exists():
        raise InputError(f"no file or folder {path}")
    kind = detect(path) if format == "auto" else format
    if kind not in FORMATS:
        raise InputError(f"--format {kind!r} is not known; {nearest(kind, ['auto', *FORMATS])}")
    if pattern is not None and kind != "tiktoken":
        raise InputError(f"--pattern is for files of ranks (tiktoken); {path} is read as {kind}")
    return guarded(lambda: _brought(path, kind, pattern, end), str(path))


def _brought(path: Path, kind: str, pattern: str | None, end: str | None) -> Imported:
    if kind == "huggingface":
        from fabula.tokenizer import published

        made = published.read(path, end)
    elif kind == "sentencepiece":
        from fabula.tokenizer import pieces

        made = pieces.read(_file(path, "*.model"), end)
    elif kind == "gpt2":
        made = foreign_files.gpt2(path if path.is_dir() else path.parent, end)
    elif kind == "tiktoken":
        made = foreign_files.tiktoken_ranks(path, pattern, end)
    else:
        made = foreign_files.alexandria(_file(path, "*.json"), end)
    return _own(made, path) or compared(made, path, kind)


def write(made: Imported, folder: Path) -> None:
    """Publish the tokenizer's folder; one that holds other things is refused."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FILE).exists():
        raise InputError(f"{folder}: a folder with other things in it would be replaced; name a new one")
    with storage.publish(folder, {"kind": "imported", **made.to_data()}) as building:
        made.tokenizer.save(building)


def detect(path: Path) -> str:
    """The format of a file or folder; InputError with the list of formats when it is none of them."""
    if path.is_dir():
        if (path / FILE).is_file():
            return _json_kind(path / FILE)
        if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
            return "gpt2"
        if len(list(path.glob("*.model"))) == 1:
            return "sentencepiece"
        raise InputError(f"{path}: no tokenizer in this folder; it may be {_formats()}")
    if path.name in ("vocab.json", "merges.txt"):
        return "gpt2"
    if path.suffix == ".model":
        return "sentencepiece"
    if path.suffix == ".tiktoken":
        return "tiktoken"
    if path.suffix == ".json":
        return _json_kind(path)
    raise InputError(f"{path}: the format is not known from the name; say --format {'|'.join(FORMATS)}")


def _json_kind(file: Path) -> str:
    data = foreign_files.small_json(file)
    return "alexandria" if "vocab_str" in data and "model" not in data else "huggingface"


def _file(path: Path, pattern: str) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob(pattern))
    if len(found) != 1:
        raise InputError(f"{path}: {len(found)} files {pattern} in this folder; name one")
    return found[0]


def _formats() -> str:
    return "; or ".join(f"{text} ({name})" for name, text in FORMATS.items())


def _own(made: Made, origin: Path) -> Imported | None:
    """A tokenizer of Fabula's that went to another tool and comes back; None when it is another's."""
    from tokenizers import Tokenizer as Backend

    if made.special.chat_template not in (None, conversation.DEFAULT):
        return None
    text = json.dumps(made.data, ensure_ascii=False)
    try:
        tokenizer = guarded(lambda: _native(made.data, lambda: Backend.from_str(text), str(origin)), str(origin))
    except DamagedError:
        return None
    texts = [*trials.ordinary(), *trials.nasty()]
    for text, mine, theirs in trials.differing(texts, tokenizer.encode, made.reference):
        raise DamagedError(f"{origin}: {text!r:.60} has the ids {theirs[:12]} with {made.library}, {mine[:12]} here")
    return Imported(tokenizer, "huggingface", made.library, len(texts), ["it is one of Fabula's own"])


def compared(made: Made, origin: Path, kind: str) -> Imported:
    """The tokenizer of a `tokenizer.json` in the making, once its ids are those of the tool that it comes from."""
    tokenizer = foreign.of_text(json.dumps(made.data, ensure_ascii=False), made.special, str(origin))
    ordinary, nasty = trials.ordinary(), trials.nasty()
    if tokenizer.form.bytes_by_name:
        nasty = [text for text in nasty if not _BYTE.search(text)]
    notes, otherwise, ties = list(made.notes), [], []
    for texts in (ordinary, nasty):
        for text, mine, theirs in trials.differing(texts, tokenizer.encode, made.reference):
            if texts is nasty and made.normalize is not None and _read_otherwise(tokenizer, made.normalize, text):
                otherwise.append(text)
                continue
            if _says_a_name(tokenizer, text, theirs):
                continue
            if _as_probable(made.data["model"], mine, theirs):
                ties.append(text)
                continue
            raise DamagedError(
                f"{origin}: cannot be held exactly: {text!r:.60} has the ids {theirs[:12]} with {made.library}, "
                f"{mine[:12]} here"
            )
    if otherwise:
        notes.append(
            f"{len(otherwise)} of {len(nasty)} nasty texts are read otherwise than by {made.library} before they are "
            f"cut, as tokenizers and transformers do: {min(otherwise, key=len)!r:.40}"
        )
    if ties:
        notes.append(
            f"{len(ties)} texts can be cut in several ways of the same probability, and are cut as by tokenizers and "
            f"transformers, otherwise than by {made.library}: {min(ties, key=len)!r:.40}"
        )
    _round_trips(tokenizer, [*ordinary, *nasty], origin)
    _no_control_from_text(tokenizer, origin)
    same = len(ordinary) + len(nasty) - len(otherwise) - len(ties)
    return Imported(tokenizer, kind, made.library, same, notes)


def _read_otherwise(tokenizer: ForeignTokenizer, normalize: Callable[[str], str], text: str) -> bool:
    """Whether the other tool changes a text to something else before it cuts it: then only the table differs."""
    return normalize(text) != tokenizer.shown().normalizer.normalize_str(text)


def _as_probable(model: Data, mine: list[int], theirs: list[int]) -> bool:
    """Whether a unigram model finds two ways to cut a text equally good: `. ..` and `.. .` for three dots.

    Which one is taken hangs on how sums are rounded: SentencePiece adds in 32 bits, `tokenizers` in 64.
    """
    if model["type"] != "Unigram" or len(model["vocab"]) <= max([*mine, *theirs], default=0):
        return False
    texts = ["".join(model["vocab"][number][0] for number in ids) for ids in (mine, theirs)]
    one, other = (sum(model["vocab"][number][1] for number in ids) for ids in (mine, theirs))
    return texts[0] == texts[1] and bool(abs(one - other) <= _ROUNDED * max(1.0, abs(one)))


def _says_a_name(tokenizer: ForeignTokenizer, text: str, theirs: list[int]) -> bool:
    """Whether a text spells a control token and the other tool takes it for one, as unigram models there do."""
    if tokenizer.form.pairs:
        return False
    unknown = tokenizer.form.unknown
    name = None if unknown is None else str(tokenizer.shown().id_to_token(unknown))
    return bool(tokenizer.controls & set(theirs)) or (name is not None and name in tokenizer.reading(text))


def _round_trips(tokenizer: ForeignTokenizer, texts: list[str], origin: Path) -> None:
    """Every text comes back as the tokenizer reads it, unchanged where `changes` is silent; DamagedError otherwise."""
    for text in texts:
        ids = tokenizer.encode(text)
        back, read = tokenizer.decode(ids), text if tokenizer.changes is None else tokenizer.reading(text)
        if back != read and tokenizer.form.unknown not in ids:
            raise DamagedError(
                f"{origin}: {text!r:.60} comes back as {back!r:.60}; this tokenizer cannot be held exactly"
            )


def _no_control_from_text(tokenizer: ForeignTokenizer, origin: Path) -> None:
    for text in sorted(tokenizer.control_texts()):
        for content in (text, f"a{text}b", f" {text} "):
            if tokenizer.controls & set(tokenizer.encode(content)):
                raise DamagedError(f"{origin}: the text {content!r:.60} gives a control id; this tokenizer is not safe")
