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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from fabula.config import Data
from fabula.corpus import hub, provenance
from fabula.corpus.document import MAX_DOCUMENT_BYTES, Document, Reject
from fabula.corpus.provenance import Papers
from fabula.corpus.readers import PLAIN, READERS, Mode, Reading, first_fields, is_plain, kind_of
from fabula.corpus.records import AS_TEXT, Kind, Record, as_document, detect_most
from fabula.corpus.streams import COMPRESSED, TextFile, expansion, guarded, head
from fabula.errors import SourceError, nearest
from fabula.storage import hash_data, hash_file

GENERATOR = "fables:"
GENERATED_DOCUMENTS = 20_000

_HEAD_BYTES = 1 << 20
_SMALL_BYTES = 64 << 10
# A compressed text of this part of the limit is taken to be above it: text shrinks about fourfold.
_USUAL_EXPANSION = 4
_PROBED_FABLES = 200
_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tar\.\w+)$")
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")


class Source(Protocol):
    """A stream of documents that can be read any number of times."""

    @property
    def spec(self) -> str:
        """What the user wrote."""

    @property
    def disk_bytes(self) -> int:
        """The size of its files; 0 when it has none."""

    @property
    def kind(self) -> Kind:
        """What its records are."""

    def records(self, reject: Reject) -> Iterator[Record]:
        """The records in a fixed order; unreadable ones go to `reject`."""

    def documents(self, reject: Reject) -> Iterator[Document]:
        """The same as texts to pretrain on; SourceError where that makes no sense."""

    def pieces(self) -> list[Callable[[Reject], Iterator[Document]]]:
        """The same in pieces that can be read by themselves, in order: each file, where that makes no difference."""

    def estimated_bytes(self) -> int:
        """About how many bytes of text there are, found without reading all of it."""

    def identity(self, exact: bool) -> Data:
        """What tells this source from another: file contents if `exact`, else their sizes and times."""

    def provenance(self) -> Data:
        """Where it comes from and how it may be used: `spec`, `kind`, `licence`, `citation`, `revision`."""

    def notes(self) -> list[str]:
        """What it is and how it is cut into documents, and why, in sentences."""


def find(
    specs: str,
    reading: Reading,
    split: Mode | Literal["auto"],
    limit: int,
    seed: int,
    dataset: Mapping[str, Any] | None = None,
) -> list[Source]:
    """The sources named in a text; SourceError for what does not exist, is empty or of an unknown kind.

    `limit` is the number of documents taken from each (0: all; the generator makes 20,000). `dataset` says which
    part of a Hugging Face dataset is read where its name does not: `config`, `split`, `revision`, `streaming`.
    """
    # A name that exists is taken as it is, commas and all.
    parts = [specs] if os.path.exists(specs) else [p.strip() for p in specs.split(",") if p.strip()]
    return [_find_one(part, reading, split, limit, seed, dataset or {}) for part in parts]


def _find_one(
    spec: str, reading: Reading, split: Mode | Literal["auto"], limit: int, seed: int, dataset: Mapping[str, Any]
) -> Source:
    if spec.startswith(GENERATOR):
        if reading.pair is not None:
            raise SourceError(f"{spec}: the generator makes no pairs; give a table or JSONL with two texts a record")
        if reading.records not in ("auto", "documents"):
            raise SourceError(f"{spec}: the generator makes no {reading.records}; leave out --corpus.records")
        return Generated(spec, limit or GENERATED_DOCUMENTS, seed)
    also: tuple[str, ...] = ()
    column = ""
    folder = hub.is_saved(Path(spec)) or hub.is_described(Path(spec))
    if spec.startswith(hub.HUB) or folder:
        part = hub.of_folder(spec, dataset) if folder else hub.parse(spec, dataset)
        if not part.local or hub.is_saved(Path(part.path).expanduser()):
            return hub.Dataset(part, reading, limit)
        if part.column:
            column = part.column
            reading = dataclasses.replace(reading, text_field=column)
        found = hub.folder_files(part)
        files, left_out, papers, also = _known_files(spec, list(found.files)), 0, found.papers, found.notes
        hub.check_fields(spec, files[0], reading)
    else:
        files, left_out, papers = _files(spec)
    plain = next((file for file in files if is_plain(file.path)), None)
    if reading.pair is not None and plain is not None:
        raise SourceError(
            f"{plain.path}: plain text has no fields, and pairs need two of them; give .tsv, .csv, .jsonl or .parquet "
            "(rename a table that is called .txt)"
        )
    if reading.records in ("conversations", "preferences") and plain is not None:
        raise SourceError(
            f"{plain.path}: plain text has no fields, and {reading.records} need them; give .jsonl or .parquet"
        )
    return Files(spec, tuple(files), left_out, reading, split, limit, papers, also, column)


# ---- the generator -----------------------------------------------------------------------------------------


class Generated:
    """Fables of the built-in generator; several languages take turns."""

    def __init__(self, spec: str, count: int, seed: int) -> None:
        # Imported late: reading files needs no grammar.
        from fabula.corpus.fables import LANGUAGES

        self.spec = spec
        self.kind: Kind = "documents"
        self.count = count
        self.seed = seed
        self.languages = [part.strip() for part in spec.removeprefix(GENERATOR).split("+")]
        for language in self.languages:
            if language not in LANGUAGES:
                raise SourceError(
                    f'source "{spec}": no fables in "{language}"; {nearest(language, LANGUAGES)} '
                    f"(as in {GENERATOR}{'+'.join(LANGUAGES)})"
                )

    def records(self, reject: Reject) -> Iterator[Record]:
        return self.documents(reject)

    def documents(self, reject: Reject) -> Iterator[Document]:
        from fabula.corpus.fables import Fables

        fables = [Fables(language, self.seed) for language in self.languages]
        for number in range(self.count):
            index, turn = divmod(number, len(fables))
            fable = fables[turn][index]
            yield Document(fable.text, f"{GENERATOR}{self.languages[turn]}[{index}]", fable.surprisal_bits)

    def pieces(self) -> list[Callable[[Reject], Iterator[Document]]]:
        return [self.documents]

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

    def provenance(self) -> Data:
        papers = Papers("Apache-2.0", "fabula", f"Fables made by the generator of Fabula, seed {self.seed}", "fabula")
        return {"spec": self.spec, "kind": "generator", **papers.to_data(), "revision": None}

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
    papers: tuple[Path, ...] = ()
    also: tuple[str, ...] = ()  # more to say about it
    column: str = ""  # the field of the text, where the name of the source says it and not the settings

    @property
    def kind(self) -> Kind:
        return self._kind[0]

    @cached_property
    def _kind(self) -> tuple[Kind, str]:
        """What the records are, and why."""
        if self.reading.pair is not None:
            return "pairs", "two fields were named"
        if self.reading.records != "auto":
            return self.reading.records, f"as asked (--corpus.records {self.reading.records})"
        for file in self.files:
            if found := first_fields(file, self.reading):
                return detect_most(found, self.reading.text_field)
        return "documents", ""

    def documents(self, reject: Reject) -> Iterator[Document]:
        return (as_document(record, self.spec) for record in self.records(reject))

    def records(self, reject: Reject) -> Iterator[Record]:
        return islice(self._all(reject), self.limit or None)

    def pieces(self) -> list[Callable[[Reject], Iterator[Document]]]:
        # A limit counts over all files.
        return [self.documents] if self.limit else [partial(self._documents, file) for file in self.files]

    def _documents(self, file: TextFile, reject: Reject) -> Iterator[Document]:
        return (as_document(record, self.spec) for record in self._file(file, reject))

    def _all(self, reject: Reject) -> Iterator[Record]:
        for file in self.files:
            yield from self._file(file, reject)

    def _file(self, file: TextFile, reject: Reject) -> Iterator[Record]:
        reading = dataclasses.replace(self.reading, records=self.kind)
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
        return {"files": facts, "limit": self.limit, **({"column": self.column} if self.column else {})}

    def provenance(self) -> Data:
        exact = self.disk_bytes < provenance.HASHED_BYTES and len(self.files) <= provenance.LISTED_FILES
        listed = self.identity(True)["files"] if exact else []
        papers = provenance.of_files(self.papers).to_data()
        counted = {"n_files": len(self.files), "bytes": self.disk_bytes, "files": listed}
        return {"spec": self.spec, "kind": "files", **papers, "revision": None, **counted}

    def notes(self) -> list[str]:
        kinds = Counter(kind_of(file.path) for file in self.files)
        what = ", ".join(f"{n:,} {kind} {'file' if n == 1 else 'files'}" for kind, n in sorted(kinds.items()))
        notes = [f"{self.spec}: {what} ({self.disk_bytes:,} bytes on disk)", *self.also]
        ways = Counter(self.cut(file) for file in self.files if is_plain(file.path))
        for (mode, why), n in ways.items():
            which = "" if len(self.files) == 1 else f", {n:,} plain text file{'s' if n > 1 else ''}"
            notes.append(f"{self.spec}{which}: {self._words(mode)}, because {why}")
        if self.papers:
            told = ", ".join(path.name for path in self.papers)
            notes.append(f"{self.spec}: {told}: read as what the folder says of itself, not as text")
        if self.left_out:
            notes.append(f"{self.spec}: {self.left_out:,} files of other kinds were left out")
        if self.reading.pair is not None:
            source, target = self.reading.pair
            notes.append(f"{self.spec}: pairs, the source in the field {source}, the target in the field {target}")
        elif self.kind in ("conversations", "preferences"):
            notes.append(f"{self.spec}: {self.kind}, because of {self._kind[1]}")
            if self.kind == "conversations":
                notes.append(f"{self.spec}: {AS_TEXT}")
        if self.limit:
            notes.append(f"{self.spec}: only the first {self.limit:,} documents are read")
        return notes

    def _words(self, mode: Mode) -> str:
        if mode == "file":
            return "one document a file"
        if mode == "marker":
            return f"cut at every {self.reading.marker}"
        size = self.reading.document_bytes
        ends, pieces = ("blank lines", "blocks") if mode == "blank" else ("line ends", "lines")
        return f"cut at {ends}, {f'{pieces} joined up to at least {size:,} bytes' if size else 'nothing joined'}"


def _files(spec: str) -> tuple[list[TextFile], int, tuple[Path, ...]]:
    """The files that a source names, how many others it passed over, and those that speak of the folder."""
    path = Path(spec)
    papers: tuple[Path, ...] = ()
    if path.is_dir():
        walked = _walk(path)
        papers = tuple(p for p in walked if p.parent == path and provenance.is_paper(p))
        if any(kind_of(p) for p in walked if p not in papers):
            walked = [p for p in walked if p not in papers]
        found = [TextFile(p, p.relative_to(path).as_posix()) for p in walked]
    elif path.is_file():
        found = [TextFile(path, path.name)]
        if not kind_of(path):
            if match := _ARCHIVE.search(path.name.lower()):
                command = "unzip -d FOLDER" if match[0] == ".zip" else "tar -C FOLDER -xf"
                raise SourceError(
                    f"{spec}: an archive of files; unpack it with: {command} {path.name}, and name the folder"
                )
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
    files = _known_files(spec, found)
    return files, len(found) - len(files), papers


def _known_files(spec: str, found: list[TextFile]) -> list[TextFile]:
    """Those of a kind that is read; SourceError when there is none, or no text in any."""
    files = [file for file in found if kind_of(file.path)]
    if not files:
        raise SourceError(f"{spec}: none of its {len(found):,} files is of a known kind; {_known()}")
    for file in files:
        if not os.access(file.path, os.R_OK):
            raise SourceError(f"{file.path}: no permission to read it; change that or leave it out")
    if not any(file.path.stat().st_size for file in files):
        raise SourceError(f"{spec}: empty (0 bytes), there is no text to learn from")
    return files


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
    return f"known: {' '.join(kinds)} (each also with {', '.join(COMPRESSED)}) and .parquet"


def _missing(spec: str) -> str:
    hint = f'; the generator is written "{GENERATOR}es"' if "fab" in spec[:4].lower() else ""
    parent = Path(spec).parent
    if not hint and parent.is_dir():
        near = nearest(Path(spec).name, [p.name for p in islice(sorted(parent.iterdir()), 1000)])
        hint = f"; {near}" if near.startswith("did") else ""
    return f"{spec}: no such file or folder (seen from {_here()}){hint}"


def _here() -> str:
    return str(Path.cwd())
