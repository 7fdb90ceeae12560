"""Shards that are filled over several lives of a process: how far they are, and which documents were set aside.

An account is kept beside the files of the folder, each time after these were flushed. Whoever goes on cuts the files
to the account, so each document is in the shards exactly once, however often the work was interrupted.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fabula import storage
from fabula.config import Data, to_data
from fabula.corpus.document import Document, Quarantined, excerpt
from fabula.corpus.run import Funnel
from fabula.corpus.split import Split as SplitName
from fabula.data.encoding import Encoded, Item
from fabula.data.shards import SplitWriter
from fabula.data.worker import Failure
from fabula.errors import DamagedError, SourceError, Stopped
from fabula.tokenizer.base import Tokenizer

QUARANTINE = "quarantine.jsonl"

# What is lost at most when the process is killed.
_KEEP_BYTES = 64 << 20
_KEEP_SECONDS = 30.0
# So many failures may be a matter of chance, whatever their share.
_FEW = 10


@dataclass(frozen=True, slots=True)
class _SetAside:
    """A document or pair without ids: what it had been counted for, and the record that is made of it."""

    split: SplitName
    size: int
    surprisal_bits: float | None
    record: Quarantined


class Filling:
    """The shards of both splits in an unfinished folder; a context in which their files are open.

    `found` documents were in them when this life began, `done` are now; `lost` says that what an earlier life kept was
    not there. When this one ends with a signal, or because the text will not do, what was done is kept.
    """

    def __init__(
        self,
        unfinished: storage.Unfinished,
        tokenizer: Tokenizer,
        shard_tokens: int,
        pairs: bool = False,
        longest: int = 0,
    ) -> None:
        self._unfinished, self._tokenizer, self._shard_tokens = unfinished, tokenizer, shard_tokens
        self._parts = 2 if pairs else 1  # documents of one record
        self._longest = longest
        self._too_long: dict[SplitName, Data] = {}
        self._writers: dict[SplitName, SplitWriter] = {}
        self._failed: dict[int, str] = {}
        self._set_aside: list[_SetAside] = []
        self.done = 0
        self.resumed, self.lost = bool(unfinished.account), False
        try:
            self._begin(unfinished.account)
        except (DamagedError, KeyError, TypeError):
            # The disk lost some of it, or it is not as we write it: everything is done again.
            self._close()
            self._begin({})
            self.lost = True
        self.found = self.done
        ours = {storage.ACCOUNT}.union(*(writer.files() for writer in self._writers.values()))
        for path in list(self.folder.iterdir()):
            if path.name not in ours:
                storage.remove(path)
        if not self.found:
            # So that the next life knows that there was this one.
            self.keep()
        self._mark()

    @property
    def folder(self) -> Path:
        return self._unfinished.folder

    def __enter__(self) -> Filling:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, (Stopped, SourceError)):
                self.keep()
        finally:
            self._close()

    def add(self, items: Sequence[Item], results: Sequence[Encoded]) -> None:
        """Append the next documents; of pairs whole ones. A half that fails takes the other one with it."""
        waiting: dict[SplitName, list[tuple[Sequence[int] | NDArray[np.uint32], int, str]]] = {}
        for first in range(0, len(items), self._parts):
            record, parts = items[first : first + self._parts], results[first : first + self._parts]
            failure = next((result for result in parts if isinstance(result, Failure)), None)
            if failure is not None:
                self._failed[record[0].number] = failure.reason
                self._put_aside(record, failure.reason)
            elif self._longest and self._is_too_long(parts):
                self._leave_out(record, parts)
            else:
                for item, result in zip(record, parts, strict=True):
                    assert not isinstance(result, Failure)
                    waiting.setdefault(item.split, []).append((result, item.size, item.document.component))
            self.done = record[-1].number + 1
            self._unkept += sum(item.size for item in record)
        for split, documents in waiting.items():
            self._writers[split].add_all(documents)
        if self._unkept >= _KEEP_BYTES or time.monotonic() >= self._due or self._n_shards() > self._shards:
            self.keep()

    def meet_again(self, record: Sequence[Item]) -> None:
        """A document (or a pair) that an earlier life was done with comes by: if it was set aside, it still is."""
        if record[0].number in self._failed:
            self._put_aside(record, self._failed[record[0].number])

    def keep(self) -> None:
        """Bring everything to the disk, and the account that says so."""
        for writer in self._writers.values():
            writer.flush()
        self._unfinished.keep(
            {
                "documents": self.done,
                "failed": [[number, reason] for number, reason in self._failed.items()],
                "too_long": self._too_long,
                "splits": {name: writer.facts() for name, writer in self._writers.items()},
            }
        )
        self._mark()

    def finish(self) -> Data:
        """End the streams; returns the facts of the splits for the manifest."""
        return {name: writer.finish() for name, writer in self._writers.items()}

    def refuse_many_failures(self, allowed: float) -> None:
        """SourceError when more than a share of the documents could not be tokenized, and not just a few."""
        done = self.done // self._parts
        if len(self._set_aside) > max(_FEW, allowed * done):
            self._refuse(len(self._set_aside), done, allowed)

    def settle(self, funnel: Funnel, allowed: float) -> None:
        """Count the documents that were set aside as quarantined, in their order, and those that were too long.

        Done at the end, when all are known, so that the counts and the file do not depend on who tokenized.
        """
        for aside in self._set_aside:
            funnel.documents[aside.split] -= 1
            funnel.bytes[aside.split] -= aside.size
            if funnel.surprisal_bits is not None and aside.surprisal_bits is not None:
                funnel.surprisal_bits[aside.split] -= aside.surprisal_bits
            funnel.reject(aside.record)
        funnel.too_long = self._too_long
        for split, left in self._too_long.items():
            funnel.documents[split] -= left["documents"]
            funnel.bytes[split] -= left["bytes"]
            if funnel.surprisal_bits is not None:
                funnel.surprisal_bits[split] -= left["surprisal_bits"]
            if not funnel.documents[split]:
                raise SourceError(
                    f"all documents for {'validation' if split == 'validation' else 'training'} are longer than "
                    f"{self._longest:,} tokens (data.longest); allow longer ones or cut the text into smaller documents"
                )
        if self._set_aside and funnel.quarantined > allowed * funnel.records:
            self._refuse(funnel.quarantined, funnel.records, allowed)

    def quarantine(self, record: Quarantined) -> None:
        """Write down a record that is set aside."""
        storage.append_json_line(self.folder / QUARANTINE, to_data(record))

    def _refuse(self, count: int, among: int, allowed: float) -> None:
        first = self._set_aside[0].record
        enough = math.ceil(1e4 * count / among) / 1e4
        raise SourceError(
            f"{count:,} of {among:,} documents cannot be used, more than the {allowed:.3%} allowed; among them "
            f"{first.place}: {first.reason}: {first.excerpt}. Take it out, or allow more with "
            f"--corpus.max_quarantined {enough:g}"
        )

    def _begin(self, account: Data) -> None:
        """Open the files as an account says, or new ones without an account."""
        special = self._tokenizer.special
        self.done = account.get("documents", 0)
        self._failed = dict(account.get("failed", []))
        self._too_long = dict(account.get("too_long", {}))
        for name in get_args(SplitName):
            writer = SplitWriter(
                self.folder, name, self._tokenizer.vocab_size, special.end_of_document, self._shard_tokens
            )
            if account:
                writer.go_on(account["splits"][name])
            self._writers[name] = writer

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _put_aside(self, record: Sequence[Item], reason: str) -> None:
        first, size = record[0], sum(item.size for item in record)
        made = _record(first.document, reason)
        self._set_aside.append(_SetAside(first.split, size, first.document.surprisal_bits, made))

    def _is_too_long(self, parts: Sequence[Encoded]) -> bool:
        return any(len(result) > self._longest for result in parts if not isinstance(result, Failure))

    def _leave_out(self, record: Sequence[Item], parts: Sequence[Encoded]) -> None:
        """Count a record that is too long. Its number need not be kept: nobody asks for it again."""
        empty: Data = {"documents": 0, "bytes": 0, "tokens": 0, "surprisal_bits": 0.0}
        left = self._too_long.setdefault(record[0].split, empty)
        left["documents"] += 1
        left["bytes"] += sum(item.size for item in record)
        left["tokens"] += sum(len(result) for result in parts if not isinstance(result, Failure))
        left["surprisal_bits"] += record[0].document.surprisal_bits or 0.0

    def _n_shards(self) -> int:
        return sum(writer.n_shards for writer in self._writers.values())

    def _mark(self) -> None:
        """Remember that everything is kept."""
        self._unkept, self._shards = 0, self._n_shards()
        self._due = time.monotonic() + _KEEP_SECONDS


def _record(document: Document, reason: str) -> Quarantined:
    """What is written down of a document: its origin is "stories.txt, line 120", or "fables:es[17]"."""
    found = re.fullmatch(r"(.+), (?:line|row) (\d+)", document.origin, re.DOTALL)
    file, line = (found[1], int(found[2])) if found else (document.origin, 1)
    return Quarantined(file, line, None, reason, excerpt(document.text[:100].encode("utf-8")))
