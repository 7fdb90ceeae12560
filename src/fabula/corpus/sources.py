"""Sources: what a user writes after `--corpus.source`, turned into streams of documents.

A source is the built-in generator (`fables:es`, `fables:es+en`), a file, a folder (read recursively, in the
order of the names) or a pattern (`texts/*.jsonl`). Several are separated by commas. The list of a folder's
files is held in memory; their contents never are.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

from fabula.config import Data
from fabula.corpus.document import MAX_DOCUMENT_BYTES, Document, Reject
from fabula.corpus.readers import PLAIN, READERS, Mode, Reading, TextFile
from fabula.corpus.streams import COMPRESSED, expansion, guarded, head
from fabula.errors import SourceError, nearest
from fabula.storage import hash_data, hash_file

GENERATOR = "fables:"
GENERATED_DOCUMENTS = 20_000

_HEAD_BYTES = 1 << 20
_SMALL_BYTES = 64 << 10
# A compressed text of this part of the limit is taken to be above it: text shrinks about fourfold.
_USUAL_EXPANSION = 4
_PROBED_FABLES = 200
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")


class Source(Protocol):
    """A stream of documents that can be read any number of times."""

    @property
    def spec(self) -> str:
        """What the user wrote."""

    @property
    def disk_bytes(self) -> int:
        """The size of its files; 0 when it has none."""

    def documents(self, reject: Reject) -> Iterator[Document]:
        """The documents in a fixed order; unreadable records go to `reject`."""

    def estimated_bytes(self) -> int:
        """About how many bytes of text there are, found without reading all of it."""

    def identity(self, exact: bool) -> Data:
        """What tells this source from another: file contents if `exact`, else their sizes and times."""

    def notes(self) -> list[str]:
        """What it is and how it is cut into documents, and why, in sentences."""


def find(specs: str, reading: Reading, split: Mode | Literal["auto"], limit: int, seed: int) -> list[Source]:
    """The sources named in a text; SourceError for what does not exist, is empty or of an unknown kind.

    `limit` is the number of documents taken from each (0: all; the generator makes 20,000).
    """
    # A name that exists is taken as it is, commas and all.
    parts = [specs] if os.path.exists(specs) else [p.strip() for p in specs.split(",") if p.strip()]
    return [_find_one(part, reading, split, limit, seed) for part in parts]


def _find_one(spec: str, reading: Reading, split: Mode | Literal["auto"], limit: int, seed: int) -> Source:
    if spec.startswith(GENERATOR):
        if reading.pair is not None:
            raise SourceError(f"{spec}: the generator makes no pairs; give a table or JSONL with two texts a record")
        return Generated(spec, limit or GENERATED_DOCUMENTS, seed)
    files, left_out = _files(spec)
    plain = next((file for file in files if is_plain(file.path)), None)
    if reading.pair is not None and plain is not None:
        raise SourceError(
            f"{plain.path}: plain text has no fields, and pairs need two of them; give .tsv, .csv, .jsonl or .parquet "
            "(rename a table that is called .txt)"
        )
    return Files(spec, tuple(files), left_out, reading, split, limit)


# ---- the generator -----------------------------------------------------------------------------------------


class Generated:
    """Fables of the built-in generator; several languages take turns."""

    def __init__(self, spec: str, count: int, seed: int) -> None:
        # Imported late: reading files needs no grammar.
        from fabula.corpus.fables import LANGUAGES

        self.spec = spec
        self.count = count
        self.seed = seed
        self.languages = [part.strip() for part in spec.removeprefix(GENERATOR).split("+")]
        for language in self.languages:
            if language not in LANGUAGES:
                raise SourceError(
                    f'source "{spec}": no fables in "{language}"; {nearest(language, LANGUAGES)} '
                    f"(as in {GENERATOR}{'+'.join(LANGUAGES)})"
                )

    def documents(self, reject: Reject) -> Iterator[Document]:
        from fabula.corpus.fables import Fables

        fables = [Fables(language, self.seed) for language in self.languages]
        for number in range(self.count):
            index, turn = divmod(number, len(fables))
            fable = fables[turn][index]
            yield Document(fable.text, f"{GENERATOR}{self.languages[turn]}[{index}]", fable.surprisal_bits)

    def estimated_bytes(self) -> int:
        sizes = [len(d.text.encode("utf-8")) for d in islice(self.documents(lambda _: None), _PROBED_FABLES)]
        return self.count * sum(sizes) // len(sizes)

    @property
    def disk_bytes(self) -> int:
        return 0

    def identity(self, exact: bool) -> Data:
        # The texts stand for the version of the grammar: a change that matters shows in some of them.
        texts = [d.text for d in islice(self.documents(lambda _: None), _PROBED_FABLES)]
        return {"languages": self.languages, "count": self.count, "seed": self.seed, "texts": hash_data(texts)}

    def notes(self) -> list[str]:
        return [f"{self.spec}: {self.count:,} fables from the built-in generator, seed {self.seed}"]


# ---- files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """The files of one source, in the order in which they are read."""

    spec: str
    files: tuple[TextFile, ...]
    left_out: int
    reading: Reading
    split: Mode | Literal["auto"]
    limit: int = 0

    def documents(self, reject: Reject) -> Iterator[Document]:
        return islice(self._all(reject), self.limit or None)

    def _all(self, reject: Reject) -> Iterator[Document]:
        for file in self.files:
            reading = self.reading
            if is_plain(file.path):
                reading = dataclasses.replace(reading, split=self.cut(file)[0])
            yield from READERS.get(kind_of(file.path))(file, reading, reject)

    def cut(self, file: TextFile) -> tuple[Mode, str]:
        """Where a plain text file is cut, and why."""
        if file.path not in self._cuts:
            self._cuts[file.path] = self._decide(file)
        return self._cuts[file.path]

    @cached_property
    def _cuts(self) -> dict[Path, tuple[Mode, str]]:
        return {}

    @cached_property
    def _plain(self) -> int:
        return sum(is_plain(file.path) for file in self.files)

    def _decide(self, file: TextFile) -> tuple[Mode, str]:
        if self.split != "auto":
            return self.split, f"as asked (--corpus.split {self.split})"
        start = head(file.path, _HEAD_BYTES)
        if self.reading.marker.encode() in start:
            return "marker", "the marker is in the first MiB"
        if self._plain > 1:
            grows = _USUAL_EXPANSION if file.path.suffix.lower() in COMPRESSED else 1
            if file.path.stat().st_size * grows <= MAX_DOCUMENT_BYTES:
                return "file", "it is one of several files and has no marker"
            why = "it has no marker and is too large for one document"
        elif len(start) < _SMALL_BYTES:
            return "file", "it is small and has no marker"
        else:
            why = "it is one larger file without the marker"
        if _BLANK_LINE.search(start):
            return "blank", why
        return "line", f"{why}, and its first MiB has no blank line"

    def estimated_bytes(self) -> int:
        total = 0
        for file in self.files:
            if kind_of(file.path) == ".parquet":
                total += file.path.stat().st_size * _USUAL_EXPANSION
            else:
                total += int(file.path.stat().st_size * expansion(file.path))
        return total

    @property
    def disk_bytes(self) -> int:
        return sum(file.path.stat().st_size for file in self.files)

    def identity(self, exact: bool) -> Data:
        facts = []
        for file in self.files:
            with guarded(file.path):
                stat = file.path.stat()
                content = {"sha256": hash_file(file.path)} if exact else {"mtime_ns": stat.st_mtime_ns}
            facts.append({"name": file.name, "bytes": stat.st_size, **content})
        return {"files": facts, "limit": self.limit}

    def notes(self) -> list[str]:
        kinds = Counter(kind_of(file.path) for file in self.files)
        what = ", ".join(f"{n:,} {kind} {'file' if n == 1 else 'files'}" for kind, n in sorted(kinds.items()))
        notes = [f"{self.spec}: {what} ({self.disk_bytes:,} bytes on disk)"]
        ways = Counter(self.cut(file) for file in self.files if is_plain(file.path))
        for (mode, why), n in ways.items():
            which = "" if len(self.files) == 1 else f", {n:,} plain text file{'s' if n > 1 else ''}"
            notes.append(f"{self.spec}{which}: {self._words(mode)}, because {why}")
        if self.left_out:
            notes.append(f"{self.spec}: {self.left_out:,} files of other kinds were left out")
        if self.reading.pair is not None:
            source, target = self.reading.pair
            notes.append(f"{self.spec}: pairs, the source in the field {source}, the target in the field {target}")
        if self.limit:
            notes.append(f"{self.spec}: only the first {self.limit:,} documents are read")
        return notes

    def _words(self, mode: Mode) -> str:
        if mode == "file":
            return "one document a file"
        if mode == "marker":
            return f"cut at every {self.reading.marker}"
        size = self.reading.document_bytes
        what = "blank lines, blocks" if mode == "blank" else "line ends, lines"
        return f"cut at {what} joined up to at least {size:,} bytes"


def kind_of(path: Path) -> str:
    """The suffix that names a file's reader, without the compression; "" when there is none."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        if name.endswith(suffix):
            inner = Path(name.removesuffix(suffix)).suffix
            # Parquet compresses its own columns and is read from both ends: no stream.
            return inner if inner in READERS and inner != ".parquet" else ""
    suffix = Path(name).suffix
    return suffix if suffix in READERS else ""


def is_plain(path: Path) -> bool:
    """Whether a file is plain text, that is: has no records of its own."""
    return kind_of(path) in PLAIN


def _files(spec: str) -> tuple[list[TextFile], int]:
    """The files that a source names and how many others it passed over."""
    path = Path(spec)
    if path.is_dir():
        found = [TextFile(p, p.relative_to(path).as_posix()) for p in _walk(path)]
    elif path.is_file():
        found = [TextFile(path, path.name)]
        if not kind_of(path):
            raise SourceError(f"{spec}: unknown kind of file; {_known()}. Rename or convert it")
    elif path.exists():
        raise SourceError(f"{spec}: neither a file nor a folder; write its content to a file first")
    elif any(c in spec for c in "*?["):
        matches = map(Path, sorted(glob.glob(spec, recursive=True)))
        found = [TextFile(p, p.name) for p in matches if p.is_file()]
        if not found:
            raise SourceError(f"{spec}: no file matches this pattern (seen from {_here()})")
    else:
        raise SourceError(_missing(spec))
    files = [file for file in found if kind_of(file.path)]
    if not files:
        raise SourceError(f"{spec}: none of its {len(found):,} files is of a known kind; {_known()}")
    for file in files:
        if not os.access(file.path, os.R_OK):
            raise SourceError(f"{file.path}: no permission to read it; change that or leave it out")
    if not any(file.path.stat().st_size for file in files):
        raise SourceError(f"{spec}: empty (0 bytes), there is no text to learn from")
    return files, len(found) - len(files)


def _walk(folder: Path) -> Sequence[Path]:
    """All files below a folder by name; hidden ones (.git, .DS_Store) are no corpus."""

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: cannot be listed ({error.strerror}); change its permissions")

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    # By parts, so that the order does not depend on how the system separates folders.
    return sorted((p for p in found if p.is_file()), key=lambda p: p.relative_to(folder).parts)


def _known() -> str:
    kinds = sorted((k for k in READERS if k != ".parquet"), key=lambda k: (k not in PLAIN, k))
    return f"known: {' '.join(kinds)} (each also with {' or '.join(COMPRESSED)}) and .parquet"


def _missing(spec: str) -> str:
    hint = f'; the generator is written "{GENERATOR}es"' if "fab" in spec[:4].lower() else ""
    parent = Path(spec).parent
    if not hint and parent.is_dir():
        near = nearest(Path(spec).name, [p.name for p in islice(sorted(parent.iterdir()), 1000)])
        hint = f"; {near}" if near.startswith("did") else ""
    return f"{spec}: no such file or folder (seen from {_here()}){hint}"


def _here() -> str:
    return str(Path.cwd())
