"""What does a tokenizer do to a text, and what is its vocabulary made of? Figures, as plain data.

One pass over a stream of text, for any number of tokenizers at once: they see the same text in the same batches. Memory
is that of the tokenizers and of one batch of about a megabyte, whatever the size of the text. All figures but the
speed depend on the text and the tokenizers alone.

Bytes a token alone do not say which tokenizer is better: tokens that span words make texts short, and each of them
rare. What a model makes of it is measured by training one (`fabula.compare.tokenizers`).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabula.config import Data
from fabula.errors import InputError
from fabula.progress import Progress, StopFlag
from fabula.tokenizer import scripts
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.findings import describe, warnings
from fabula.tokenizer.material import Material, Piece, language_teller
from fabula.tokenizer.scripts import NAMES, Scripts

FORMAT = 1
MOST_BYTES = 16_000_000
RARE = 10

_BATCH_BYTES = 1 << 20

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def run(
    tokenizers: Mapping[str, Tokenizer],
    material: Material,
    rare: int = RARE,
    progress: Progress | None = None,
    stop: StopFlag | None = None,
) -> Data:
    """The figures of every tokenizer on the same text, by the name it is given.

    InputError when there is no text or no tokenizer.
    """
    if not tokenizers:
        raise InputError("no tokenizer to measure")
    if rare < 1:
        raise InputError(f"--rare {rare}: must be at least 1")
    tell = language_teller()
    text = _Text()
    tallies = {name: _Tally(tokenizer) for name, tokenizer in tokenizers.items()}
    for batch in _watched(_batches(material, tell), material.estimated_bytes(), progress, stop):
        text.add(batch)
        shape = _Shape.of(text.scripts, [piece.text for piece in batch.pieces])
        for tally in tallies.values():
            tally.add(batch, shape, text.scripts)
    sizes = text.to_data()
    return {
        "format": FORMAT,
        "kind": "tokenizers",
        "text": {
            "source": ", ".join(material.domains),
            **sizes,
            "most_bytes": material.most_bytes,
            "cut": material.cut,
            "unreadable": material.unreadable,
            "sha256": text.sha256.hexdigest(),
            "languages_told": tell is not None,
        },
        "rare": rare,
        "tokenizers": [_described(name, tally, text, sizes, rare) for name, tally in tallies.items()],
        "training": None,
    }


def _described(name: str, tally: _Tally, text: _Text, sizes: Data, rare: int) -> Data:
    tokens = int(tally.counts.sum())
    made: Data = {
        "name": name,
        "vocab_size": tally.tokenizer.vocab_size,
        "fingerprint": tally.tokenizer.fingerprint,
        "changes": tally.tokenizer.changes,
        "tokens": tokens,
        **_ratios(text.whole, tokens),
        **describe(tally.table, tally.counts, rare),
        "domains": text.rows(text.domains, tally.domains),
        "languages": text.rows(text.languages, tally.languages),
        "scripts": tally.script_rows(),
        "speed": {
            "bytes_per_second": sizes["bytes"] / tally.seconds if tally.seconds else 0.0,
            "seconds": tally.seconds,
            "cores": os.cpu_count() or 1,
        },
        "costs": [],
    }
    made["warnings"] = warnings(made, sizes["bytes"], rare)
    return made


# ---- the text ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Batch:
    """Some pieces, with the language of each."""

    pieces: list[Piece] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


def _batches(material: Material, tell: Callable[[str], str] | None) -> Iterator[_Batch]:
    batch = _Batch()
    for piece in material.pieces():
        batch.pieces.append(piece)
        batch.sizes.append(len(piece.text.encode("utf-8")))
        if tell is not None:
            batch.languages.append(tell(piece.text))
        if sum(batch.sizes) >= _BATCH_BYTES:
            yield batch
            batch = _Batch()
    if batch.pieces:
        yield batch


def _watched(
    batches: Iterator[_Batch], total: int, progress: Progress | None, stop: StopFlag | None
) -> Iterator[_Batch]:
    if progress is None:
        yield from batches
        return
    with progress.task("measuring", total, "bytes") as task:
        for batch in batches:
            if stop is not None:
                stop.check("measuring tokenizers")
            yield batch
            task.advance(sum(batch.sizes))


@dataclass(slots=True)
class _Sizes:
    """How much text there is."""

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    words: int = 0

    def add(self, piece: Piece, size: int, words: int) -> None:
        self.documents += piece.first
        self.bytes += size
        self.characters += len(piece.text)
        self.words += words

    def to_data(self) -> Data:
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "characters": self.characters,
            "words": self.words,
        }


class _Text:
    """What is known of the text whatever the tokenizer."""

    def __init__(self) -> None:
        self.whole = _Sizes()
        self.domains: dict[str, _Sizes] = {}
        self.languages: dict[str, _Sizes] = {}
        self.scripts = Scripts()
        self.sha256 = hashlib.sha256()

    def add(self, batch: _Batch) -> None:
        for number, (piece, size) in enumerate(zip(batch.pieces, batch.sizes, strict=True)):
            words = len(piece.text.split())
            self.whole.add(piece, size, words)
            self.domains.setdefault(piece.domain, _Sizes()).add(piece, size, words)
            if batch.languages:
                self.languages.setdefault(batch.languages[number], _Sizes()).add(piece, size, words)
            self.sha256.update(piece.text.encode("utf-8"))

    def to_data(self) -> Data:
        return self.whole.to_data()

    def rows(self, groups: Mapping[str, _Sizes], tokens: Mapping[str, int]) -> list[Data]:
        """The figures of each group of the text, the largest first."""
        order = sorted(groups, key=lambda name: (-groups[name].bytes, name))
        return [
            {
                "name": name,
                **groups[name].to_data(),
                "tokens": tokens[name],
                **_ratios(groups[name], tokens[name]),
            }
            for name in order
        ]


def _ratios(sizes: _Sizes, tokens: int) -> Data:
    """A word is what stands between white space."""
    return {
        "bytes_per_token": sizes.bytes / max(1, tokens),
        "characters_per_token": sizes.characters / max(1, tokens),
        "tokens_per_word": tokens / max(1, sizes.words),
    }


@dataclass(frozen=True, slots=True)
class _Shape:
    """Characters of a batch: bytes, script and first byte of each, and where a stretch of a script begins."""

    sizes: Ints
    codes: scripts.Codes
    starts: Ints
    runs: NDArray[np.bool_]

    @staticmethod
    def of(known: Scripts, texts: Sequence[str]) -> _Shape:
        points = scripts.code_points("".join(texts))
        codes, sizes = known.of(points), scripts.utf8_sizes(points)
        runs = np.ones(len(codes), dtype=np.bool_)
        runs[1:] = codes[1:] != codes[:-1]
        # Two documents are two stretches, though both are of one script.
        runs[np.cumsum([0, *(len(text) for text in texts[:-1])])] = True
        return _Shape(sizes, codes, np.cumsum(sizes) - sizes, runs)


# ---- one tokenizer -----------------------------------------------------------------------------------------


class _Tally:
    """What one tokenizer made of the text so far."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.table = [tokenizer.decode_bytes([number]) for number in range(tokenizer.vocab_size)]
        self.lengths: Ints = np.array([len(raw) for raw in self.table], dtype=np.int64)
        self.counts: Ints = np.zeros(tokenizer.vocab_size, dtype=np.int64)
        self.domains: dict[str, int] = {}
        self.languages: dict[str, int] = {}
        self.seconds = 0.0
        # By script: characters, bytes, stretches, characters that are cut, tokens.
        self._whole: Ints = np.zeros((4, len(NAMES)), dtype=np.int64)
        self._tokens: Floats = np.zeros(len(NAMES))

    def add(self, batch: _Batch, shape: _Shape, known: Scripts) -> None:
        texts = [piece.text for piece in batch.pieces]
        started = time.perf_counter()
        encoded = self.tokenizer.encode_batch(texts)
        self.seconds += time.perf_counter() - started
        for number, (piece, ids) in enumerate(zip(batch.pieces, encoded, strict=True)):
            self.domains[piece.domain] = self.domains.get(piece.domain, 0) + len(ids)
            if batch.languages:
                language = batch.languages[number]
                self.languages[language] = self.languages.get(language, 0) + len(ids)
        every: Ints = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in encoded])
        self.counts += np.bincount(every, minlength=len(self.counts))
        if self.tokenizer.changes is not None:
            # The text that its tokens stand for is not the one that was read.
            shape = _Shape.of(known, [self.tokenizer.decode(ids) for ids in encoded])
        self._add_scripts(self.lengths[every], shape)

    def _add_scripts(self, lengths: Ints, shape: _Shape) -> None:
        """Every byte is 1/length of its token, and belongs to the script of its character."""
        if lengths.sum() != shape.sizes.sum():
            raise InputError("a tokenizer's tokens are not the text that it was given; its figures would be wrong")
        token = np.repeat(np.arange(len(lengths)), lengths)
        shares = np.add.reduceat(1.0 / lengths[token], shape.starts)
        is_cut = token[shape.starts] != token[shape.starts + shape.sizes - 1]
        for row, values in enumerate((None, shape.sizes, shape.runs, is_cut)):
            found = np.bincount(shape.codes, weights=values, minlength=len(NAMES))
            self._whole[row] += found.astype(np.int64)
        self._tokens += np.bincount(shape.codes, weights=shares, minlength=len(NAMES))

    def script_rows(self) -> list[Data]:
        """The figures of each script, the one with most text first.

        A word of a script is a stretch of its letters; `tokens` counts a token that spans two scripts in parts.
        """
        rows = []
        for place in np.argsort(-self._whole[1], kind="stable"):
            characters, size, words, is_cut = (int(n) for n in self._whole[:, place])
            if not characters:
                continue
            tokens = float(self._tokens[place])
            rows.append(
                {
                    "name": NAMES[place].replace("_", " "),
                    "characters": characters,
                    "bytes": size,
                    "tokens": tokens,
                    "bytes_per_token": size / tokens,
                    "characters_per_token": characters / tokens,
                    "tokens_per_character": tokens / characters,
                    "tokens_per_word": None if place in (scripts.COMMON, scripts.OTHER) else tokens / words,
                    "cut_characters": is_cut,
                    "cut_share": is_cut / characters,
                }
            )
        return rows


def summary(made: Mapping[str, Any]) -> list[str]:
    """What was measured, in sentences: the text, its bound, what was left out."""
    text = made["text"]
    size, most = text["bytes"] / 1e6, text["most_bytes"] / 1e6
    said = [
        f"{text['source']}: {text['documents']:,} documents, {size:,.2f} MB, {text['words']:,} words "
        f"(SHA-256 {text['sha256'][:12]})"
    ]
    if text["cut"]:
        said.append(
            f"a part of {', '.join(text['cut'])}, chosen evenly: at most {most:,.6g} MB in all are measured "
            "(--most-bytes)"
        )
    if text["unreadable"]:
        said.append(f"{text['unreadable']:,} records cannot be read and are left out")
    if not text["languages_told"]:
        said.append("languages are not told apart: pip install 'fabula[corpus]'")
    return said
