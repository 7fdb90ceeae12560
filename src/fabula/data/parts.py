"""Preparing data in parts that know nothing of each other: what a part holds, and how shards are made of all of them.

A corpus is cut into units, its files (a source without files is one unit). Whoever prepares a unit reads and tokenizes
it and writes a part, a folder with a manifest:

    ids          the ids of its documents, one document after the other, uint32
    documents    for each document 16 bytes of content key, as many of the text that decides its split, 4 of ids or what
                 became of it, 4 of bytes of its text, 8 of surprisal in bits (NaN: not known)
    told.jsonl   what cannot be said in numbers: records that could not be read, texts at which the tokenizer failed

What needs the whole comes last, in one process and in the order of the units: duplicates, the split, the account of
what was dropped, the shards themselves. It reads no text. The result is that of `run.py` without parts, to the byte.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabula import storage
from fabula.config import Data, to_data
from fabula.corpus.document import Document, Quarantined
from fabula.corpus.run import Corpus, Funnel, Met, Unit
from fabula.corpus.split import content_key
from fabula.data.encoding import Encoded, Here, Item, Processes
from fabula.data.filling import Filling
from fabula.data.worker import Failure
from fabula.errors import DamagedError
from fabula.progress import Progress, StopFlag, Task
from fabula.tokenizer.base import Tokenizer

FORMAT = 1

# What stands for the number of ids of a document that has none.
_EMPTY, _FAILED = 0xFFFFFFFE, 0xFFFFFFFF
_RECORD = np.dtype([("key", "V16"), ("split_by", "V16"), ("ids", "<u4"), ("bytes", "<u4"), ("bits", "<f8")])
_BATCH_DOCUMENTS, _BATCH_BYTES = 512, 4 << 20


def folder_of(work: Path, number: int) -> Path:
    """Where the part of a unit lies."""
    return work / f"part-{number:06d}"


def missing(work: Path, count: int, key: str) -> list[int]:
    """The units whose parts are not there, or not of this text, tokenizer and these settings."""
    return [number for number in range(count) if not _is_done(folder_of(work, number), key)]


def _is_done(folder: Path, key: str) -> bool:
    if not (folder / storage.MANIFEST).exists():
        return False
    try:
        return bool(storage.verify(folder, hashes=False).get("key") == key)
    except DamagedError:
        return False


# ---- one part ----------------------------------------------------------------------------------------------


def write(
    unit: Unit,
    tokenizer: Tokenizer,
    folder: Path,
    key: str,
    progress: Progress,
    stop: StopFlag,
    safe: bool = True,
) -> None:
    """Read and tokenize a unit, and publish its part. `safe`: in a process of its own, which a text may kill."""
    with storage.publish(folder, {"kind": "part", "format": FORMAT, "key": key}) as building, ExitStack() as stack:
        encoder: Here | Processes = Here(tokenizer)
        if safe:
            encoder = stack.enter_context(Processes(tokenizer, building / "tokenizer", 1, progress))
        told: list[Data] = []
        with (
            storage.open_replacing(building / "ids") as ids,
            storage.open_replacing(building / "documents") as documents,
        ):
            place = 0
            for batch, results in encoder.encode(_batches(unit, told), stop):
                records = np.zeros(len(batch), dtype=_RECORD)
                for row, (item, result) in enumerate(zip(batch, results, strict=True)):
                    bits, text = item.document.surprisal_bits, item.document.text
                    count = _EMPTY
                    if isinstance(result, Failure):
                        count = _FAILED
                        first = {"origin": item.document.origin, "text": text[:100], "reason": result.reason}
                        told.append({"document": place + row, "failed": first})
                    elif text.strip():
                        count = len(result)
                        ids.write(np.asarray(result, dtype="<u4").tobytes())
                    keys = content_key(text), content_key(item.document.split_by)
                    records[row] = (*keys, count, item.size, math.nan if bits is None else bits)
                documents.write(records.tobytes())
                place += len(batch)
        # Reading is ahead of tokenizing: in the order of the documents, and what was met before one before it.
        told.sort(key=lambda entry: (entry["document"], "failed" in entry))
        storage.write_json_lines(building / "told.jsonl", told)
        stack.close()
        storage.remove(building / "tokenizer")


def _batches(unit: Unit, told: list[Data]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = number = 0

    def reject(record: Quarantined) -> None:
        told.append({"document": number, "unreadable": to_data(record)})

    for document in unit.documents(reject):
        n_bytes = len(document.text.encode("utf-8"))
        batch.append(Item(number, "train", document, n_bytes))
        number, size = number + 1, size + n_bytes
        if len(batch) >= _BATCH_DOCUMENTS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# ---- all of them -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stored:
    """A document of a part, and its ids or what the tokenizer said."""

    document: Document
    size: int
    ids: Encoded


class Parts:
    """All parts of a corpus, as an encoder that reads what others have tokenized."""

    def __init__(self, work: Path, units: list[Unit]) -> None:
        self.work, self.units = work, units
        self._ready: deque[Encoded] = deque()

    def batches(
        self, corpus: Corpus, funnel: Funnel, filling: Filling, batch_documents: int, task: Task, stop: StopFlag
    ) -> Iterator[list[Item]]:
        """The documents that are kept and are not in the shards yet, as `run.py` would read them from the text."""
        batch: list[Item] = []
        stored: list[_Stored] = []  # the one that was met last
        met = (known for number, unit in enumerate(self.units) for known in self._met(unit, number, stored, funnel))
        number = size = 0
        for split in corpus.sift(met, funnel):
            one = stored.pop()
            if split is None:
                continue
            item = Item(number, split, one.document, one.size)
            number += 1
            if number <= filling.found:
                filling.meet_again([item])
                stop.check("looking for the place to go on at")
                task.advance(one.size)
                continue
            batch.append(item)
            self._ready.append(one.ids)
            size += one.size
            if len(batch) >= batch_documents or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def encode(self, batches: Iterator[list[Item]], stop: StopFlag) -> Iterator[tuple[list[Item], list[Encoded]]]:
        for batch in batches:
            stop.check("joining the parts")
            yield batch, [self._ready.popleft() for _ in batch]

    def _met(self, unit: Unit, number: int, stored: list[_Stored], funnel: Funnel) -> Iterator[Met]:
        """The documents of a part in their order, each also put into `stored`; unreadable ones go to the funnel."""
        folder = folder_of(self.work, number)
        try:
            storage.verify(folder)
        except DamagedError as error:
            storage.remove(folder)
            raise DamagedError(f"{error}; it was removed, the same command makes it again") from None
        told = deque(storage.read_json_lines(folder / "told.jsonl"))

        def tell(upto: int) -> Data | None:
            while told and told[0]["document"] <= upto and "unreadable" in told[0]:
                funnel.reject(Quarantined(**told.popleft()["unreadable"]))
            return told.popleft()["failed"] if told and told[0]["document"] == upto else None

        place = 0
        with (folder / "ids").open("rb") as ids, (folder / "documents").open("rb") as documents:
            while len(records := np.fromfile(documents, dtype=_RECORD, count=_BATCH_DOCUMENTS)):
                for key, split_by, count, size, bits in records.tolist():
                    failed = tell(place)
                    place += 1
                    known = None if math.isnan(bits) else bits
                    encoded: Any = np.zeros(0, dtype=np.uint32)
                    document = Document("", "", known, component=unit.component)
                    if failed is not None:
                        encoded = Failure(failed["reason"])
                        document = Document(failed["text"], failed["origin"], known, component=unit.component)
                    elif count != _EMPTY:
                        encoded = _next(ids, count)
                    stored.append(_Stored(document, size, encoded))
                    yield Met(unit.given, key, split_by, size, count == _EMPTY, document)
        tell(place)


def _next(file: Any, count: int) -> NDArray[np.uint32]:
    found: NDArray[np.uint32] = np.fromfile(file, dtype="<u4", count=count)
    return found
