"""Datasets of the Hugging Face kind: which rows does `hf:` name, and how are they read?

    hf:owner/name?config=en&split=train&revision=COMMIT&column=text&streaming=true     a dataset of the hub
    hf:./folder                                            a folder of data files with a dataset card, or one that
                                                           `save_to_disk` wrote (known without `hf:` as well)

What a folder's card says (configurations, splits, which files) is worked out by the library `datasets`; its files are
then read by this package's own readers, which change nothing and know lines and bytes. Rows of the hub and of
`save_to_disk` come from the library itself: those of the hub of exactly one commit, found out once and noted down.
No code of a dataset is ever run: there is no such switch, Python files are left out, and so are formats other than
text, JSON, tables, Parquet and Arrow.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

from fabula.config import Data
from fabula.corpus import provenance, tables
from fabula.corpus.document import MAX_DOCUMENT_BYTES, Document, Quarantined, Reject, excerpt, too_long
from fabula.corpus.provenance import Papers
from fabula.corpus.readers import Reading, first_fields
from fabula.corpus.records import AS_TEXT, Kind, Record, Useless, as_document, detect, detect_most, record_of
from fabula.corpus.streams import TextFile, guarded
from fabula.errors import MachineError, SourceError, nearest, require_extra
from fabula.storage import hash_file

HUB = "hf:"
SPELLING = "hf:owner/name?config=en&split=train&revision=COMMIT&column=text&streaming=true"

# Up to this size a dataset of the hub is kept in the library's cache, unless the user says otherwise.
_KEPT_BYTES = 1 << 30
# Bytes of text a byte on disk: Parquet compresses.
_USUAL_EXPANSION = 4
# Where the library looks for metadata, and how much of it is believed.
_CARDS = ("README.md", ".huggingface.yaml")
_MOST_METADATA = 16 << 20
_MOST_TIMES = 1_000_000
# The first character of an anchor (&name) or of a reference to one (*name).
_REFERENCE = re.compile(r"(?<![^\s\[{,:])[&*](?=[\w-])")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
# The library's readers that do nothing but read. Others decode pictures and archives, or come with pickles.
_READERS = ("arrow", "cache", "csv", "json", "parquet", "text")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """Which rows of which dataset."""

    spec: str
    path: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    column: str | None = None
    streaming: bool | None = None

    @property
    def local(self) -> bool:
        return self.path.startswith((".", "/", "~")) or os.path.isabs(self.path)


def is_saved(path: Path) -> bool:
    """Whether a folder is one that `save_to_disk` wrote."""
    return path.is_dir() and ((path / "dataset_dict.json").is_file() or (path / "state.json").is_file())


def is_described(path: Path) -> bool:
    """Whether a folder has a card that says which of its files belong together."""
    card = path / "README.md"
    return path.is_dir() and card.is_file() and provenance.card_has(card, "configs", "dataset_info")


def of_folder(spec: str, settings: Mapping[str, Any]) -> Part:
    """A folder that is known for a dataset without `hf:`."""
    return replace(parse(f"{HUB}{os.path.join(os.curdir, spec)}", settings), spec=spec)


def parse(spec: str, settings: Mapping[str, Any]) -> Part:
    """What a name says, and the settings where it says nothing.

    >>> parse("hf:a/tales?split=test", {"config": "es"}).config
    'es'
    """
    path, _, query = spec.removeprefix(HUB).partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    known = ("config", "split", "revision", "column", "streaming")
    for name, value in given.items():
        if name not in known:
            raise SourceError(
                f'{spec}: "{name}" is nothing that a dataset is asked for; {nearest(name, known)} ({SPELLING})'
            )
        if not value:
            raise SourceError(f'{spec}: "{name}=" says nothing; leave it out or give a value ({SPELLING})')
    if query and not given:
        raise SourceError(f"{spec}: what stands after ? is not understood; it is written {SPELLING}")
    if given.get("streaming", "true") not in ("true", "false"):
        raise SourceError(f"{spec}: streaming={given['streaming']} must be true or false")
    streaming = settings.get("streaming")
    if "streaming" in given:
        streaming = given["streaming"] == "true"
    said = {name: given.get(name) or settings.get(name) for name in ("config", "split", "revision")}
    part = Part(spec, path.strip(), **said, column=given.get("column"), streaming=streaming)
    if not part.local and not _NAME.fullmatch(part.path):
        raise SourceError(f"{spec}: a dataset is called owner/name, and a folder begins with ./ or / ({SPELLING})")
    if part.split and re.search(r"[\[\]+%:]", part.split):
        raise SourceError(
            f'{spec}: split="{part.split}" must be one name; for the beginning of it give --corpus.documents N, and '
            "for several splits name the dataset several times"
        )
    return part


# ---- the library ---------------------------------------------------------------------------------------------


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise require_extra("datasets", "corpus", "reading Hugging Face datasets") from None
    # Its own bars and warnings would come between ours.
    datasets.disable_progress_bars()
    # It would tell a server that is not the hub what is read.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.logging.set_verbosity_error()
    return datasets


def _refuse_bomb(part: Part, card: Path) -> None:
    """SourceError for metadata that a few lines of references make endless; the library would write all of it out.

    Between one anchor of YAML and the next, every reference at most doubles what is there, triples it, and so on: the
    product over all anchors bounds the whole. Honest cards have hardly any.
    """
    if card.stat().st_size > _MOST_METADATA:
        raise SourceError(f"{part.spec}: {card.name} has more than {_MOST_METADATA >> 20} MiB; that is no card")
    text = card.read_text(encoding="utf-8", errors="replace")
    times = here = 1
    for match in _REFERENCE.finditer(provenance.metadata(text) if card.suffix == ".md" else text):
        if match[0] == "*":
            here += 1
        else:
            times, here = times * here, 1
        if times * here > _MOST_TIMES:
            raise SourceError(
                f"{part.spec}: the metadata of {card.name} refer to themselves too often to be written out"
            )


def _asked(part: Part, what: Callable[[], T]) -> T:
    """What the library answers; what goes wrong in it is one clear line."""
    try:
        return what()
    except Exception as error:  # it and the libraries below it raise dozens of kinds
        _explain(part, error)


def _explain(part: Part, error: Exception) -> NoReturn:
    kinds = {kind.__name__ for e in _chain(error) for kind in type(e).__mro__}
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError", "RevisionNotFoundError"}:
        why = "no such dataset, or it is private"
        if kinds & {"RevisionNotFoundError"} or "Revision" in said:
            why = f'it has no revision "{part.revision}"'
        elif "GatedRepoError" in kinds or "is a gated dataset" in said:
            why = "its owner asks for consent: accept the conditions on its page"
        raise SourceError(
            f"{part.spec}: {why}. Check the name; for private or gated ones log in with: hf auth login"
        ) from None
    if "OfflineModeIsEnabled" in kinds or (kinds & {"ConnectionError", "ConnectError", "TimeoutException"}):
        offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE")
        why = "HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set" if offline else "is there a network?"
        raise MachineError(
            f"{part.spec}: the hub cannot be reached ({why}), and the dataset is not in the cache"
        ) from None
    if "scripts are no longer supported" in said:
        raise SourceError(
            f"{part.spec}: it is made by a script, and no code of a dataset is run; many have a converted copy: "
            "revision=refs/convert/parquet"
        ) from None
    if "BuilderConfig" in said or "Config name is missing" in said or "multiple" in said:
        names = re.findall(r"'([^']+)'", said.partition("[")[2].partition("]")[0])
        if names:
            near = nearest(part.config, names) if part.config else f"valid: {', '.join(names)}"
            missing = f'no configuration "{part.config}"' if part.config else "it has several configurations; name one"
            raise SourceError(f"{part.spec}: {missing}; {near} (config=NAME)") from None
    raise SourceError(f"{part.spec}: the library datasets cannot read it: {said}") from None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_split(part: Part, names: Sequence[str]) -> str:
    if part.split is not None:
        if part.split not in names:
            raise SourceError(f'{part.spec}: no split "{part.split}"; {nearest(part.split, names)} (split=NAME)')
        return part.split
    if "train" in names or len(names) == 1:
        return "train" if "train" in names else names[0]
    raise SourceError(f"{part.spec}: it has no split called train; choose one with split=NAME: {', '.join(names)}")


# ---- a folder ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """The data files of one split of a folder."""

    files: tuple[TextFile, ...]
    papers: tuple[Path, ...]
    notes: tuple[str, ...]


def folder_files(part: Part) -> FolderFiles:
    """The files that a folder's card names for a split, or that its names speak for; SourceError if there are none."""
    folder = Path(part.path).expanduser()
    if not folder.is_dir():
        raise SourceError(f"{part.spec}: no such folder (seen from {Path.cwd()})")
    if part.revision:
        raise SourceError(f"{part.spec}: a folder has no revisions; leave out revision={part.revision}")
    library = _library()
    for name in _CARDS:
        if (folder / name).is_file():
            _refuse_bomb(part, folder / name)
    # With a dot as its last part the library does not look for a script of the folder's name, which it would refuse.
    path = f"{folder.resolve()}{os.sep}."
    builder = _asked(part, lambda: library.load_dataset_builder(path, name=part.config))
    found: Mapping[str, Sequence[str]] = builder.config.data_files or {}
    split = _one_split(part, [str(name) for name in found])
    root = folder.resolve()
    files = []
    for name in found[next(key for key in found if str(key) == split)]:
        file = Path(name)
        if root not in file.resolve().parents:
            raise SourceError(f"{part.spec}: its card names {file}, which is outside the folder; no such file is read")
        files.append(TextFile(folder / file.relative_to(root), file.relative_to(root).as_posix()))
    papers = tuple(p for p in sorted(folder.iterdir()) if p.is_file() and provenance.is_paper(p))
    config = "" if builder.config.name == "default" else f", configuration {builder.config.name}"
    notes = [f"{part.spec}: split {split}{config}, as the folder's card or its names say"]
    scripts = sum(1 for _ in islice(folder.rglob("*.py"), 1000))
    if scripts:
        what = "a Python file was" if scripts == 1 else f"{scripts:,} Python files were"
        notes.append(f"{part.spec}: {what} left out: no code of a dataset is ever run")
    return FolderFiles(tuple(files), papers, tuple(notes))


def check_fields(spec: str, file: TextFile, reading: Reading) -> None:
    """SourceError where the first record has no text, with the fields that it has."""
    found = first_fields(file, reading)
    if not found or (reading.records == "auto" and detect_most(found, reading.text_field)[0] != "documents"):
        return
    tables.wanted(spec, list(dict.fromkeys(chain(*found))), reading, "what its records have")


def _commit(part: Part) -> tuple[str | None, int]:
    """The commit that a revision is now, and the bytes of its files; without the hub as given, and 0."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        found = HfApi().dataset_info(part.path, revision=part.revision, files_metadata=True)
    except OfflineModeIsEnabled:
        return part.revision, 0
    return found.sha, sum(file.size or 0 for file in found.siblings or [])


# ---- rows from the library -----------------------------------------------------------------------------------


class Dataset:
    """Rows of a split that the library reads: from the hub, from its cache, or from a folder of `save_to_disk`."""

    def __init__(self, part: Part, reading: Reading, limit: int) -> None:
        self.spec, self.part, self.limit = part.spec, part, limit
        if part.column:
            reading = replace(reading, text_field=part.column)
        self._files: list[Path] = []
        self._papers = Papers()
        self.revision: str | None = None
        self._bytes: int | None = None
        self._open: Callable[[], Any]
        if part.local:
            self._of_folder(Path(part.path).expanduser())
        else:
            self._of_hub()
        names = self._columns()
        self.kind, self._why = self._kind(names, reading)
        self._reading = replace(reading, records=self.kind)
        self._names = self._wanted(names)

    def _of_folder(self, folder: Path) -> None:
        library = _library()
        loaded = _asked(self.part, lambda: library.load_from_disk(str(folder)))
        place = folder
        if isinstance(loaded, library.DatasetDict):
            self.split = _one_split(self.part, list(loaded))
            place, loaded = folder / self.split, loaded[self.split]
        else:
            self.split = str(loaded.split or "train")
            if self.part.split not in (None, self.split):
                raise SourceError(f'{self.spec}: no split "{self.part.split}"; it is {self.split} alone')
        self._open = lambda: loaded
        self._files = sorted(p for p in place.iterdir() if p.suffix in (".arrow", ".json"))
        info = loaded.info
        said = Papers(info.license or None, "dataset_info.json", info.citation or None, "dataset_info.json")
        self._papers = provenance.of_files(p for p in folder.iterdir() if p.is_file()).or_else(said)
        self.config: str | None = None

    def _of_hub(self) -> None:
        library, part = _library(), self.part
        if Path(part.path).is_dir():
            # The library would take the folder for what was asked for.
            raise SourceError(
                f"{part.spec}: a folder {part.path} is here as well; it is written hf:./{part.path}, and the dataset "
                "of the hub is read where there is no such folder"
            )
        commit, size = _asked(part, lambda: _commit(part))
        self._papers = self._card(commit)
        builder = _asked(part, lambda: library.load_dataset_builder(part.path, name=part.config, revision=commit))
        reader = type(builder).__module__.rpartition(".")[2]
        if reader not in _READERS:
            raise SourceError(
                f"{part.spec}: its files are of a kind ({reader}) that is not read; known: {', '.join(_READERS)}"
            )
        self.revision = str(builder.hash) if _COMMIT.fullmatch(str(builder.hash)) else None
        if commit is not None and _COMMIT.fullmatch(commit) and commit != self.revision:
            # The library falls back to what it kept, whatever went wrong and whatever was asked for.
            raise MachineError(
                f"{part.spec}: revision {commit} cannot be had (the hub is out of reach, or has nothing there that is "
                f"read without running code); the cache holds revision {self.revision}"
            )
        self.config = builder.config.name
        size = size or builder.info.download_size or builder.info.dataset_size
        keep = not part.streaming if part.streaming is not None else bool(size) and size <= _KEPT_BYTES
        if reader == "cache":
            keep = True  # it is there already
        if keep:
            _asked(part, builder.download_and_prepare)
        splits = builder.info.splits or builder.config.data_files or {}
        if not splits:
            splits = _asked(part, builder.as_streaming_dataset)
        self.split = _one_split(part, [str(name) for name in splits])
        self.streaming = not keep
        opened = builder.as_dataset if keep else builder.as_streaming_dataset
        self._open = lambda: opened(split=self.split)
        info = (builder.info.splits or {}).get(self.split)
        self._bytes = info.num_bytes if info is not None and info.num_bytes else (size and size * _USUAL_EXPANSION)
        said = Papers(builder.info.license or None, "the hub", builder.info.citation or None, "the hub")
        self._papers = self._papers.or_else(said)

    def _card(self, commit: str | None) -> Papers:
        """What the card of a hub's dataset says; SourceError where it is a trap."""
        from huggingface_hub import hf_hub_download

        found = []
        for name in _CARDS:
            # A dataset without a card, or a cache without one: it says nothing.
            with contextlib.suppress(Exception):
                found.append(Path(hf_hub_download(self.part.path, name, repo_type="dataset", revision=commit)))
        for path in found:
            _refuse_bomb(self.part, path)
        return provenance.of_files(found)

    # ---- columns

    def _columns(self) -> list[str]:
        opened = _asked(self.part, self._open)
        names = opened.column_names
        if names is None:
            first = _asked(self.part, lambda: next(iter(opened), None))
            names = list(first or {})
        return [str(name) for name in names]

    def _kind(self, names: list[str], reading: Reading) -> tuple[Kind, str]:
        if reading.pair is not None:
            return "pairs", "two fields were named"
        if reading.records != "auto":
            return reading.records, f"as asked (--corpus.records {reading.records})"
        return detect(names, reading.text_field)

    def _wanted(self, names: list[str]) -> list[str]:
        """The columns to read; SourceError with those that there are when one is missing."""
        if self._reading.pair is not None and self._reading.pair[0].isdecimal():
            raise SourceError(f"{self.spec}: its columns have names, no numbers: {', '.join(names[:20])}")
        return tables.wanted(self.spec, names, self._reading, "what it has")

    # ---- Source

    def documents(self, reject: Reject) -> Iterator[Document]:
        for record in self.records(reject):
            yield as_document(record, self.spec)

    def pieces(self) -> list[Callable[[Reject], Iterator[Document]]]:
        return [self.documents]

    def records(self, reject: Reject) -> Iterator[Record]:
        return islice(self._all(reject), self.limit or None)

    def _all(self, reject: Reject) -> Iterator[Record]:
        name = f"{Path(self.part.path).name if self._files else self.part.path} {self.split}"
        rows = _asked(self.part, lambda: iter(self._open().select_columns(self._names)))
        number = 0
        while (row := _asked(self.part, lambda: next(rows, None))) is not None:
            number += 1
            made = record_of(row, self._reading, f"{name}[{number - 1}]")
            if isinstance(made, str):
                shown = excerpt(str(row)[:100].encode("utf-8", "backslashreplace"))
                reject(Quarantined(name, number, None, made, shown, isinstance(made, Useless)))
            elif any(len(t) * 4 > MAX_DOCUMENT_BYTES and len(t.encode()) > MAX_DOCUMENT_BYTES for t in made.texts):
                reject(too_long(name, number, None))
            else:
                yield made

    def estimated_bytes(self) -> int:
        if self._files:
            return self.disk_bytes
        return self._bytes or _KEPT_BYTES

    @property
    def disk_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._files)

    def identity(self, exact: bool) -> Data:
        part = {"split": self.split, "columns": self._names, "limit": self.limit}
        if not self._files:
            return {"dataset": self.part.path, "config": self.config, "revision": self.revision, **part}
        return {"files": self._facts(exact), **part}

    def _facts(self, exact: bool) -> list[Data]:
        facts = []
        for path in self._files:
            with guarded(path):
                stat = path.stat()
                content = {"sha256": hash_file(path)} if exact else {"mtime_ns": stat.st_mtime_ns}
            facts.append({"name": path.name, "bytes": stat.st_size, **content})
        return facts

    def provenance(self) -> Data:
        listed = self._facts(True) if self._files and self.disk_bytes < provenance.HASHED_BYTES else []
        return {
            "spec": self.spec,
            "kind": "saved dataset" if self._files else "dataset",
            **self._papers.to_data(),
            "revision": self.revision,
            "config": self.config,
            "split": self.split,
            "files": listed,
        }

    def notes(self) -> list[str]:
        config = f"configuration {self.config}, " if self.config not in (None, "default") else ""
        columns = ", ".join(self._names)
        notes = [
            f"{self.spec}: {config}split {self.split}, {'columns' if len(self._names) > 1 else 'column'} {columns}"
        ]
        if not self._files:
            kept = "read over the network each time" if self.streaming else "kept in the library's cache"
            notes.append(f"{self.spec}: revision {self.revision or 'unknown'}, {kept}")
            if self.part.revision != self.revision:
                notes.append(
                    f"{self.spec}: to read the same again, whatever changes there, add revision={self.revision}"
                )
        if self.kind in ("conversations", "preferences"):
            notes.append(f"{self.spec}: {self.kind}, because of {self._why}")
            if self.kind == "conversations":
                notes.append(f"{self.spec}: {AS_TEXT}")
        if self.limit:
            notes.append(f"{self.spec}: only the first {self.limit:,} documents are read")
        return notes
