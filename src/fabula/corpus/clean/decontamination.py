"""Which documents share a stretch of words with an evaluation set? Who learns from them is measured too well.

Brown et al. 2020, "Language Models are Few-Shot Learners" (arXiv:2005.14165, appendix C): a document is contaminated
when it has 13 words in a row in common with an item. An item of fewer words, but at least 8, is looked for whole; a
shorter one cannot be told from chance and is not looked for. We deviate in one place: sentences, not 200 characters,
are cut out around a match.

What this misses: paraphrases, translations, items whose words are broken up by others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fabula.config import Data
from fabula.corpus.clean.shingles import Hashes, shingles
from fabula.corpus.clean.step import Dropped
from fabula.corpus.document import MAX_DOCUMENT_BYTES
from fabula.corpus.streams import lines
from fabula.corpus.words import sentences, words
from fabula.errors import SourceError
from fabula.storage import hash_file

LEAST_WORDS = 8

# The texts of an item; its labels, numbers and names of sources are none.
_NO_TEXT = {"id", "gold", "label", "answer_key", "answerKey", "source", "url"}


@dataclass(frozen=True)
class Evaluations:
    """The evaluation sets in some files, and the stretches of words that give them away."""

    paths: tuple[str, ...]
    n: int = 13

    def __post_init__(self) -> None:
        for path in self.paths:
            if not Path(path).is_file():
                raise SourceError(f"{path}: no such file with an evaluation set (corpus.clean.decontaminate)")

    def identity(self) -> list[Data]:
        """What tells these sets from others: the content of the files."""
        return [{"name": Path(path).name, "sha256": hash_file(Path(path))} for path in self.paths]

    @property
    def items(self) -> int:
        """How many texts were looked at."""
        return self._found[1]

    @property
    def too_short(self) -> int:
        """How many of them have fewer than 8 words and are not looked for."""
        return self._found[2]

    @property
    def stretches(self) -> dict[int, Hashes]:
        """The hashes of the stretches that are looked for, sorted, by their length in words."""
        return self._found[0]

    @cached_property
    def _found(self) -> tuple[dict[int, Hashes], int, int]:
        hashes: dict[int, list[Hashes]] = {}
        items = short = 0
        for path in self.paths:
            for text in _texts(Path(path)):
                found = words(text)
                items += 1
                if len(found) < LEAST_WORDS:
                    short += 1
                    continue
                k = min(self.n, len(found))
                hashes.setdefault(k, []).append(shingles(found, k))
        if not hashes:
            raise SourceError(
                f"{', '.join(self.paths)}: none of its {items:,} texts has {LEAST_WORDS} words; nothing to look for"
            )
        return {k: np.unique(np.concatenate(parts)) for k, parts in sorted(hashes.items())}, items, short

    def find(self, found: Sequence[str]) -> str:
        """The first stretch of a text's words that an evaluation set has too; "" when there is none."""
        first, length = len(found), 0
        for k, known in self.stretches.items():
            there = np.flatnonzero(np.isin(shingles(found, k), known))
            if len(there) and int(there[0]) < first:
                first, length = int(there[0]), k
        return " ".join(found[first : first + length])

    def judge(self, text: str, how: Literal["drop", "cut"]) -> str | Dropped:
        """The text, without the sentences that are shared or not at all when something is."""
        found = self.find(words(text))
        if not found:
            return text
        if how == "drop":
            return Dropped(f"shares with an evaluation set: {found}")
        kept = _without(text, self)
        return kept or Dropped(f"every sentence is shared with an evaluation set: {found}")


def _without(text: str, evaluations: Evaluations) -> str:
    """The text without every sentence that has a word of a shared stretch."""
    parts = sentences(text)
    found, owners = [], []
    for number, part in enumerate(parts):
        for word in words(part):
            found.append(word)
            owners.append(number)
    shared: set[int] = set()
    for k, known in evaluations.stretches.items():
        for first in np.flatnonzero(np.isin(shingles(found, k), known)).tolist():
            shared.update(owners[first : first + k])
    place, pieces = 0, []
    for number, part in enumerate(parts):
        at = text.index(part, place)
        # What stands between sentences goes with the one behind it.
        if number not in shared:
            pieces.append(text[place:at] + part)
        place = at + len(part)
    return "".join(pieces).strip()


# ---- files --------------------------------------------------------------------------------------------------


def _texts(path: Path) -> Iterator[str]:
    """The texts of a file: of JSONL those of each record, of anything else its paragraphs."""
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        yield from _paragraphs(path)
        return
    for line in lines(path):
        raw = _raw(line.raw, path, line.number)
        if not raw.strip():
            continue
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path}, line {line.number}: an evaluation set with broken JSON ({error})") from None
        yield from _texts_of(record)


def _paragraphs(path: Path) -> Iterator[str]:
    held: list[str] = []
    for line in lines(path):
        raw = _raw(line.raw, path, line.number)
        if raw.strip():
            held.append(raw)
        elif held:
            yield "".join(held)
            held = []
    if held:
        yield "".join(held)


def _raw(raw: bytes | None, path: Path, number: int) -> str:
    if raw is None:
        raise SourceError(f"{path}, line {number}: longer than {MAX_DOCUMENT_BYTES >> 20} MiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise SourceError(f"{path}, line {number}: an evaluation set that is not UTF-8") from None


def _texts_of(record: Any) -> Iterator[str]:
    """The texts in a record; of a question with choices the question and each choice behind it."""
    if isinstance(record, str):
        yield record
    elif isinstance(record, list):
        for part in record:
            yield from _texts_of(part)
    elif isinstance(record, dict):
        query, choices = record.get("query"), record.get("choices")
        if isinstance(query, str) and isinstance(choices, list):
            yield from (f"{query} {choice}" for choice in choices if isinstance(choice, str))
        for key, part in record.items():
            if key not in _NO_TEXT:
                yield from _texts_of(part)
