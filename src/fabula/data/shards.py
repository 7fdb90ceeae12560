"""Ids on disk: memory-mapped shards with an index of documents and a manifest.

A split is one long stream of ids in which every document begins with the end-of-document id and the stream ends with
one:

    EOD a a a EOD b b EOD c c c c EOD

So the id that ends a document is also the one that begins the next, a model learns to begin from it and to stop with
it, and generation starts where training did. Files of a split NAME, little-endian:

    NAME-00000.tokens      uint16 or uint32, chosen from the highest id
    NAME-00000.documents   int64 pairs: where a document begins in the split's stream, bytes of its text
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fabula import storage
from fabula.config import Data
from fabula.errors import DamagedError, InputError

FORMAT = 1
_SHARD_TOKENS = 128 * 1024 * 1024

Ids = NDArray[np.int64]


def dtype_for(vocab_size: int) -> np.dtype[Any]:
    """The smallest of uint16 and uint32 that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class SplitWriter:
    """Writes one split's shards into a folder that is being built."""

    def __init__(
        self, folder: Path, name: str, vocab_size: int, end_of_document: int, shard_tokens: int = _SHARD_TOKENS
    ) -> None:
        self.folder, self.name, self.end_of_document = folder, name, end_of_document
        self.dtype, self.vocab_size, self.shard_tokens = dtype_for(vocab_size), vocab_size, shard_tokens
        self.n_tokens = self.n_documents = self.n_bytes = 0
        self._in_shard = 0
        self._shards: list[Data] = []
        self._tokens: BinaryIO | None = None
        self._documents: BinaryIO | None = None

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._tokens, self._documents):
            if file is not None:
                file.close()

    def add(self, ids: Sequence[int], n_bytes: int) -> None:
        """Append one document: its ids (without special ones) and the bytes of its text."""
        row = np.empty(len(ids) + 1, dtype=np.int64)
        row[0] = self.end_of_document
        row[1:] = ids
        if row.max(initial=0) >= self.vocab_size or row.min(initial=0) < 0:
            raise ValueError(f"id {row.max()} does not fit a vocabulary of {self.vocab_size}")
        if self._tokens is None or self._in_shard >= self.shard_tokens:
            self._open()
        assert self._tokens is not None
        assert self._documents is not None
        self._documents.write(np.array([self.n_tokens, n_bytes], dtype="<i8").tobytes())
        self._write(row)
        self.n_documents += 1
        self.n_bytes += n_bytes

    def finish(self) -> Data:
        """Close the stream with the last end-of-document id; returns the split's facts for the manifest."""
        if self._tokens is not None:
            self._write(np.array([self.end_of_document]))
        self._close()
        return {
            "documents": self.n_documents,
            "tokens": self.n_tokens,
            "bytes": self.n_bytes,
            "shards": self._shards,
        }

    def _write(self, ids: Ids) -> None:
        assert self._tokens is not None
        self._tokens.write(ids.astype(self.dtype).tobytes())
        self.n_tokens += len(ids)
        self._in_shard += len(ids)

    def _open(self) -> None:
        self._close()
        stem = f"{self.name}-{len(self._shards):05d}"
        self._tokens = (self.folder / f"{stem}.tokens").open("wb")
        self._documents = (self.folder / f"{stem}.documents").open("wb")
        self._shards.append({"file": stem, "tokens": 0})
        self._in_shard = 0

    def _close(self) -> None:
        if self._shards:
            self._shards[-1]["tokens"] = self._in_shard
        for file in (self._tokens, self._documents):
            if file is not None:
                file.close()
        self._tokens = self._documents = None


@dataclass(frozen=True, slots=True)
class _Shard:
    start: int  # position of its first id in the split's stream
    tokens: NDArray[Any]


class Split:
    """One split's stream, memory-mapped: opening costs no reading."""

    def __init__(self, folder: Path, name: str, facts: Data, dtype: np.dtype[Any]) -> None:
        self.name = name
        self.n_tokens: int = facts["tokens"]
        self.n_documents: int = facts["documents"]
        self.n_bytes: int = facts["bytes"]
        self._shards: list[_Shard] = []
        index = []
        position = 0
        for shard in facts["shards"]:
            path = folder / f"{shard['file']}.tokens"
            tokens = np.memmap(path, dtype=dtype, mode="r")
            if len(tokens) != shard["tokens"]:
                raise DamagedError(
                    f"{path}: {len(tokens):,} ids, the manifest says {shard['tokens']:,}; prepare the data again"
                )
            self._shards.append(_Shard(position, tokens))
            index.append(np.fromfile(folder / f"{shard['file']}.documents", dtype="<i8").reshape(-1, 2))
            position += len(tokens)
        joined = np.concatenate(index) if index else np.zeros((0, 2), dtype=np.int64)
        self.document_starts: Ids = np.ascontiguousarray(joined[:, 0])
        self.document_bytes: Ids = np.ascontiguousarray(joined[:, 1])

    def read(self, start: int, length: int) -> Ids:
        """`length` ids from position `start` of the stream, across shards."""
        if start < 0 or start + length > self.n_tokens:
            raise IndexError(f"{start}..{start + length} is outside the {self.n_tokens} ids of {self.name}")
        parts = []
        for shard in self._shards:
            first, last = max(start, shard.start), min(start + length, shard.start + len(shard.tokens))
            if first < last:
                parts.append(shard.tokens[first - shard.start : last - shard.start])
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)

    def documents(self) -> Iterator[tuple[list[int], int]]:
        """The documents in order: their ids without the special ones around them, and the bytes of their text."""
        ends = np.append(self.document_starts[1:], self.n_tokens - 1)
        for start, end, n_bytes in zip(self.document_starts, ends, self.document_bytes, strict=True):
            yield self.read(int(start) + 1, int(end - start) - 1).tolist(), int(n_bytes)

    def windows(self, starts: Ids, length: int) -> Ids:
        """Several stretches of equal length, shape (len(starts), length)."""
        if len(self._shards) == 1:
            view = np.lib.stride_tricks.sliding_window_view(self._shards[0].tokens, length)
            return view[starts].astype(np.int64)
        return np.stack([self.read(int(start), length) for start in starts])


class Shards:
    """A prepared data folder."""

    def __init__(self, folder: Path) -> None:
        if not (folder / storage.MANIFEST).exists():
            raise InputError(f"{folder}: no prepared data here; run: fabula data prepare RECIPE")
        self.folder = folder
        self.manifest = storage.verify(folder, hashes=False)
        if self.manifest.get("kind") != "data":
            raise InputError(f"{folder}: not a data folder (its manifest says: {self.manifest.get('kind')})")
        if self.manifest.get("format") != FORMAT:
            raise DamagedError(
                f"{folder}: data of format {self.manifest.get('format')}, this version reads {FORMAT}; prepare it again"
            )
        self.dtype: np.dtype[Any] = np.dtype(self.manifest["dtype"])
        self.splits = {name: Split(folder, name, facts, self.dtype) for name, facts in self.manifest["splits"].items()}

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @property
    def validation(self) -> Split:
        return self.splits["validation"]

    def check_tokenizer(self, fingerprint: str, vocab_size: int) -> None:
        """DamagedError unless the ids were made by this very tokenizer."""
        if self.manifest["tokenizer"] != fingerprint or self.manifest["vocab_size"] != vocab_size:
            raise DamagedError(
                f"{self.folder}: these ids were made with another tokenizer ({self.manifest['tokenizer'][:12]}, "
                f"not {fingerprint[:12]}); prepare the data again"
            )
