"""Ids on disk: memory-mapped shards with an index of documents and a manifest.

A split is one long stream of ids in which every document begins with the end-of-document id and the stream ends with
one:

    EOD a a a EOD b b EOD c c c c EOD

So the id that ends a document is also the one that begins the next, a model learns to begin from it and to stop with
it, and generation starts where training did. Files of a split NAME, little-endian:

    NAME-00000.tokens      uint16 or uint32, chosen from the highest id
    NAME-00000.documents   int64 pairs: where a document begins in the split's stream, bytes of its text

Of a corpus of pairs the documents 2i and 2i + 1 are source and target of one pair: EOD s s EOD t t t EOD s s EOD t EOD.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from fabula import storage
from fabula.config import Data
from fabula.errors import DamagedError, InputError

FORMAT = 1
_SHARD_TOKENS = 128 * 1024 * 1024
_INDEX = struct.Struct("<qq")
_INDEX_BLOCK = 1 << 16  # entries that are read at once

Ids = NDArray[np.int64]


def dtype_for(vocab_size: int) -> np.dtype[Any]:
    """The smallest of uint16 and uint32 that holds every id of a vocabulary."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class SplitWriter:
    """Writes one split's shards into a folder that is being built.

    What is written can be kept over the death of the process: `flush` brings it to the disk, `facts` says how much
    there is, and the writer of another process takes that up with `go_on`.
    """

    def __init__(
        self, folder: Path, name: str, vocab_size: int, end_of_document: int, shard_tokens: int = _SHARD_TOKENS
    ) -> None:
        self.folder, self.name, self.end_of_document = folder, name, end_of_document
        self.dtype, self.vocab_size, self.shard_tokens = dtype_for(vocab_size), vocab_size, shard_tokens
        self.n_tokens = self.n_documents = self.n_bytes = 0
        self._shards: list[Data] = []
        self._components: list[Data] = []
        self._tokens: BinaryIO | None = None
        self._documents: BinaryIO | None = None
        self._unflushed: set[Path] = set()

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def n_shards(self) -> int:
        """Shards that were begun."""
        return len(self._shards)

    def add(self, ids: Sequence[int] | NDArray[Any], n_bytes: int, component: str = "") -> None:
        """Append one document: its ids (without special ones), the bytes of its text, its component of a mixture.

        The documents of a component come one after the other.
        """
        self.add_all([(ids, n_bytes, component)])

    def add_all(self, documents: Sequence[tuple[Sequence[int] | NDArray[Any], int, str]]) -> None:
        """Append several, each as for `add`. A shard ends with the document that fills it."""
        begin = np.array([self.end_of_document])
        parts = [part for ids, _, _ in documents for part in (begin, ids)]
        row = np.concatenate(parts, dtype=np.int64, casting="unsafe") if parts else np.zeros(0, dtype=np.int64)
        if row.max(initial=0) >= self.vocab_size or row.min(initial=0) < 0:
            raise ValueError(f"id {row.max()} does not fit a vocabulary of {self.vocab_size}")
        sizes = np.array([n_bytes for _, n_bytes, _ in documents], dtype=np.int64)
        ends = np.cumsum([len(ids) + 1 for ids, _, _ in documents])
        done = written = 0
        while done < len(documents):
            if self._tokens is None or self._shards[-1]["tokens"] >= self.shard_tokens:
                self._open()
            room = self.shard_tokens - self._shards[-1]["tokens"]
            stop = min(len(documents), done + 1 + int(np.searchsorted(ends[done:] - written, room)))
            starts = self.n_tokens + np.concatenate([[written], ends[done : stop - 1]]) - written
            assert self._documents is not None
            self._documents.write(np.stack([starts, sizes[done:stop]], axis=1).astype("<i8").tobytes())
            self._shards[-1]["documents"] += stop - done
            self._write(row[written : ends[stop - 1]])
            done, written = stop, int(ends[stop - 1])
        self.n_documents += len(documents)
        self.n_bytes += int(sizes.sum())
        for ids, n_bytes, component in documents:
            self._count(component, len(ids) + 1, n_bytes)

    def finish(self) -> Data:
        """Close the stream with the last end-of-document id; returns the split's facts for the manifest."""
        if self._tokens is not None:
            self._write(np.array([self.end_of_document]))
        self.close()
        return self.facts()

    def facts(self) -> Data:
        """What was written so far."""
        facts = {
            "documents": self.n_documents,
            "tokens": self.n_tokens,
            "bytes": self.n_bytes,
            "shards": [dict(shard) for shard in self._shards],
        }
        if self._components:
            facts["components"] = [dict(component) for component in self._components]
        return facts

    def flush(self) -> None:
        """Bring what was written so far to the disk."""
        for file in (self._tokens, self._documents):
            if file is not None:
                file.flush()
        for path in sorted(self._unflushed):
            storage.sync(path)
        self._unflushed.clear()
        if self._shards:
            self._unflushed.update(self._paths(self._shards[-1]))

    def go_on(self, facts: Data) -> None:
        """Take up what the `facts` of an earlier writer say: its files are cut to that, and the last shard goes on.

        DamagedError when there is less than they say; then nothing was changed.
        """
        lengths = {path: length for shard in facts["shards"] for path, length in self._lengths(shard)}
        for path, length in lengths.items():
            if not path.is_file() or path.stat().st_size < length:
                raise DamagedError(f"{path}: shorter than was kept")
        self.n_documents, self.n_tokens, self.n_bytes = facts["documents"], facts["tokens"], facts["bytes"]
        self._shards = [dict(shard) for shard in facts["shards"]]
        self._components = [dict(component) for component in facts.get("components", [])]
        for path, length in lengths.items():
            with path.open("rb+") as file:
                file.truncate(length)
        if self._shards:
            self._open_last("ab")

    def files(self) -> set[str]:
        """The names of its files."""
        return {path.name for shard in self._shards for path in self._paths(shard)}

    def close(self) -> None:
        """Close the files; what was added since `flush` may not be on the disk."""
        for file in (self._tokens, self._documents):
            if file is not None:
                file.close()
        self._tokens = self._documents = None

    def _count(self, component: str, n_tokens: int, n_bytes: int) -> None:
        if not component:
            return
        if not self._components or self._components[-1]["name"] != component:
            self._components.append({"name": component, "documents": 0, "tokens": 0, "bytes": 0})
        for what, amount in (("documents", 1), ("tokens", n_tokens), ("bytes", n_bytes)):
            self._components[-1][what] += amount

    def _write(self, ids: Ids) -> None:
        assert self._tokens is not None
        self._tokens.write(ids.astype(self.dtype).tobytes())
        self.n_tokens += len(ids)
        self._shards[-1]["tokens"] += len(ids)

    def _open(self) -> None:
        self.close()
        self._shards.append({"file": f"{self.name}-{len(self._shards):05d}", "tokens": 0, "documents": 0})
        self._open_last("wb")

    def _open_last(self, mode: Literal["wb", "ab"]) -> None:
        tokens, documents = self._paths(self._shards[-1])
        self._tokens, self._documents = tokens.open(mode), documents.open(mode)
        self._unflushed |= {tokens, documents}

    def _paths(self, shard: Data) -> tuple[Path, Path]:
        return _paths(self.folder, shard)

    def _lengths(self, shard: Data) -> Iterator[tuple[Path, int]]:
        tokens, documents = self._paths(shard)
        yield tokens, shard["tokens"] * self.dtype.itemsize
        yield documents, shard["documents"] * _INDEX.size


@dataclass(frozen=True, slots=True)
class _Shard:
    start: int  # position of its first id in the split's stream
    tokens: NDArray[Any]
    path: Path


@dataclass(frozen=True, slots=True)
class Component:
    """A stretch of a split that is a part of its own: the documents of one source of a mixture, or all of them.

    `tokens` are its ids, from the one before its first document to its last document's last: as many as there are
    predictions of it, because the id that ends it begins what follows.
    """

    name: str
    first_document: int
    documents: int
    first_token: int
    tokens: int
    bytes: int


class Split:
    """One split's stream, memory-mapped: opening reads nothing, and compares sizes."""

    def __init__(self, folder: Path, name: str, facts: Data, dtype: np.dtype[Any], vocab_size: int) -> None:
        self.name, self.vocab_size, self._dtype = name, vocab_size, dtype
        self.n_tokens: int = facts["tokens"]
        self.n_documents: int = facts["documents"]
        self.n_bytes: int = facts["bytes"]
        self._shards: list[_Shard] = []
        self._indexes: list[Path] = []
        position = n_documents = 0
        for shard in facts["shards"]:
            path, index = _paths(folder, shard)
            _check_size(path, shard["tokens"], dtype.itemsize, "ids")
            n_bytes = _size(index)
            # Data prepared before shards told their documents are compared in sum.
            _check_size(index, shard.get("documents", n_bytes // _INDEX.size), _INDEX.size, "documents")
            self._shards.append(_Shard(position, np.memmap(path, dtype=dtype, mode="r"), path))
            self._indexes.append(index)
            position += shard["tokens"]
            n_documents += n_bytes // _INDEX.size
        self.components = _components(facts, name)
        if (position, n_documents) != (self.n_tokens, self.n_documents):
            raise DamagedError(
                f"{folder}: the shards of {name} have {position:,} ids and {n_documents:,} documents, the manifest "
                f"says {self.n_tokens:,} and {self.n_documents:,}; prepare the data again"
            )

    @property
    def whole(self) -> Component:
        """All of it."""
        return Component("", 0, self.n_documents, 0, max(0, self.n_tokens - 1), self.n_bytes)

    def component(self, name: str) -> Component:
        """The component of a mixture that has a name; InputError when no document of it is there."""
        found = self.components.get(name)
        if found is None:
            have = (
                f"it has those of {', '.join(self.components)}" if self.components else "it was prepared as no mixture"
            )
            raise InputError(f"the {self.name} split has no document of {name}: {have}")
        return found

    @cached_property
    def document_starts(self) -> Ids:
        """Where each document begins in the stream (at the end-of-document id before it)."""
        return self._column(0)

    @cached_property
    def document_bytes(self) -> Ids:
        """Bytes of each document's text."""
        return self._column(1)

    def _column(self, column: int) -> Ids:
        # Read when first asked for, since most of what opens shards never does; and bit by bit, so that the other
        # column of millions of documents takes no memory.
        found = np.empty(self.n_documents, dtype=np.int64)
        place = 0
        for path in self._indexes:
            with path.open("rb") as file:
                while len(part := np.fromfile(file, dtype="<i8", count=2 * _INDEX_BLOCK).reshape(-1, 2)):
                    found[place : place + len(part)] = part[:, column]
                    place += len(part)
        return found

    def read(self, start: int, length: int, mapped: bool = True) -> Ids:
        """`length` ids from position `start` of the stream, across shards; DamagedError for an impossible one.

        Not `mapped`: through the files, so that of a pass over everything nothing stays in this process's memory.
        """
        if start < 0 or start + length > self.n_tokens:
            raise IndexError(f"{start}..{start + length} is outside the {self.n_tokens} ids of {self.name}")
        parts = []
        for shard in self._shards:
            first, last = max(start, shard.start), min(start + length, shard.start + len(shard.tokens))
            if first >= last:
                continue
            if mapped:
                parts.append(shard.tokens[first - shard.start : last - shard.start])
            else:
                dtype = shard.tokens.dtype
                offset = (first - shard.start) * dtype.itemsize
                parts.append(np.fromfile(shard.path, dtype=dtype, count=last - first, offset=offset))
        ids = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
        self._check_ids(ids[None, :], np.array([start]))
        return ids

    def documents(self, part: Component | None = None) -> Iterator[tuple[list[int], int]]:
        """The documents in order: their ids without the special ones around them, and the bytes of their text."""
        part = part or self.whole
        ours = slice(part.first_document, part.first_document + part.documents)
        starts = self.document_starts[ours]
        ends = np.append(starts[1:], part.first_token + part.tokens)
        for start, end, n_bytes in zip(starts, ends, self.document_bytes[ours], strict=True):
            yield self.read(int(start) + 1, int(end - start) - 1).tolist(), int(n_bytes)

    def windows(self, starts: Ids, length: int) -> Ids:
        """Several stretches of equal length, shape (len(starts), length); DamagedError for an impossible id."""
        if len(self._shards) == 1:
            view = np.lib.stride_tricks.sliding_window_view(self._shards[0].tokens, length)
            ids = view[starts].astype(np.int64)
            self._check_ids(ids, starts)
            return ids
        return np.stack([self.read(int(start), length) for start in starts])

    def at(self, places: Ids) -> Ids:
        """The ids at any places, one after the other; DamagedError for an impossible one."""
        if len(self._shards) == 1:
            ids = self._shards[0].tokens[places].astype(np.int64)
        else:
            ids = np.empty(len(places), dtype=np.int64)
            owners = np.searchsorted([shard.start for shard in self._shards], places, side="right") - 1
            for number in np.unique(owners):
                here = owners == number
                shard = self._shards[number]
                ids[here] = shard.tokens[places[here] - shard.start]
        self._check_ids(ids[:, None], places)
        return ids

    def stretches(self, starts: Ids, lengths: Ids, padding: int) -> Ids:
        """Stretches of any lengths, `padding` after each, shape (len(starts), longest); DamagedError as for `read`."""
        places = np.arange(lengths.max(initial=0))
        inside = places < lengths[:, None]
        if len(self._shards) == 1:
            tokens = self._shards[0].tokens
            ids = tokens[np.minimum(starts[:, None] + places, len(tokens) - 1)].astype(np.int64)
            ids[~inside] = 0
            self._check_ids(ids, starts)
        else:
            ids = np.zeros(inside.shape, dtype=np.int64)
            for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
                ids[row, :length] = self.read(int(start), int(length))
        ids[~inside] = padding
        return ids

    def _check_ids(self, ids: Ids, starts: Ids) -> None:
        """DamagedError naming the file and place of an id outside the vocabulary; rows of ids begin at `starts`."""
        if ids.max(initial=0) < self.vocab_size:
            return
        row, column = (int(n) for n in np.argwhere(ids >= self.vocab_size)[0])
        place = int(starts[row]) + column
        shard = next(s for s in reversed(self._shards) if s.start <= place)
        offset = place - shard.start
        raise DamagedError(
            f"{shard.path}: the id at position {offset:,} (byte {offset * shard.tokens.itemsize:,}) is "
            f"{int(ids[row, column]):,}, the vocabulary has {self.vocab_size:,}; the file is damaged, prepare the data "
            "again"
        )


def _paths(folder: Path, shard: Data) -> tuple[Path, Path]:
    return folder / f"{shard['file']}.tokens", folder / f"{shard['file']}.documents"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise DamagedError(f"{path}: missing; prepare the data again") from None


def _check_size(path: Path, count: int, each: int, what: str) -> None:
    """DamagedError unless a file has the size of `count` entries of `each` bytes."""
    size = _size(path)
    if size != count * each:
        raise DamagedError(
            f"{path}: {size:,} bytes, {count:,} {what} of the manifest take {count * each:,}; prepare the data again"
        )


def _components(facts: Data, name: str) -> dict[str, Component]:
    """The components of a mixture: they lie one after the other."""
    found: dict[str, Component] = {}
    documents = tokens = 0
    for part in facts.get("components", []):
        called = part["name"]
        found[called] = Component(called, documents, part["documents"], tokens, part["tokens"], part["bytes"])
        documents, tokens = documents + part["documents"], tokens + part["tokens"]
    if found and (documents, tokens) != (facts["documents"], facts["tokens"] - 1):
        raise DamagedError(
            f"the components of the {name} split have {documents:,} documents and {tokens:,} tokens, the manifest says "
            f"{facts['documents']:,} and {facts['tokens'] - 1:,}; prepare the data again"
        )
    return found


def open_splits(folder: Path, manifest: Data) -> dict[str, Split]:
    """The splits that a manifest describes, also of a folder that has none yet."""
    dtype, vocab_size = np.dtype(manifest["dtype"]), manifest["vocab_size"]
    return {name: Split(folder, name, facts, dtype, vocab_size) for name, facts in manifest["splits"].items()}


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
        # Data prepared before there were pairs does not say what its records are.
        self.pairs = self.manifest.get("records") == "pairs"
        self.splits = open_splits(folder, self.manifest)

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
