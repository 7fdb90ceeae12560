"""The stage `corpus`: from what a user names to two disjoint streams of documents, with every loss counted.

Nothing is stored here: a corpus is read as a stream, again each time it is needed (the tokenizer samples it,
the data stage turns it into shards), in one order that depends on nothing but the configuration and the
files. Documents with the same text are kept once; the first one stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, overload

from fabula.config import Data, setting, to_data
from fabula.corpus import mixture
from fabula.corpus.clean.config import CleanConfig
from fabula.corpus.clean.run import Cleaner, Cleaning
from fabula.corpus.document import Document, Quarantined, Reject
from fabula.corpus.mixture import MixtureComponent
from fabula.corpus.provenance import stated
from fabula.corpus.readers import Reading
from fabula.corpus.records import Kind, Record
from fabula.corpus.sources import Source, find
from fabula.corpus.split import Seen, Split, content_key, position_of, split_of
from fabula.errors import SourceError
from fabula.storage import hash_data

# Counted up when the same files would give other documents than before, so that cached shards are made again.
READING_VERSION = 1

# Up to this much on disk, files are known by their content and a corpus is measured by reading it.
_SMALL_CORPUS_BYTES = 256 << 20
_FIRST_QUARANTINED = 10
_CHECK_EVERY = 1000
_SOURCE = "fables:es"
_PIECE_CHARACTERS = 1 << 14


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """Which part of a Hugging Face dataset is read, where its name (hf:owner/name?split=...) does not say so."""

    config: str | None = setting(None, "the configuration, such as a language; none where there is only one")
    split: str | None = setting(None, "the split; none takes train, or the only one")
    revision: str | None = setting(None, "commit, tag or branch; none takes the main branch as it is now")
    streaming: bool | None = setting(
        None, "read over the network each time, keeping nothing; none: above 1 GiB, smaller ones are kept in the cache"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusConfig:
    """Where the text comes from, how it is cut into documents, and which of them are for validation."""

    source: str = setting(
        _SOURCE, "fables:es | fables:en | fables:es+en, a file, a folder, a pattern or hf:owner/name; or several"
    )
    mixture: dict[str, MixtureComponent] = setting(
        factory=dict, doc="[corpus.mixture.NAME] instead of source: several sources, each with a weight or epochs"
    )
    validation_source: str | None = setting(None, "separate text for validation, instead of a share of the source")
    validation: float = setting(0.05, "share of the documents for validation, above 0 and at most 0.5")
    split: Literal["auto", "file", "marker", "blank", "line"] = setting(
        "auto", "where plain text is cut into documents"
    )
    marker: str = setting("<|endoftext|>", "what stands between documents in plain text")
    document_bytes: int = setting(4096, "blank, line: blocks are joined until a document has this size; 0 = never")
    text_field: str = setting("text", "the field or column that holds the text (JSONL, JSON, CSV, TSV, Parquet)")
    title_field: str = setting("", "a field or column with a title to put above the text (Wikipedia: title)")
    records: Kind = setting("auto", "what a record is; auto goes by the names of its fields, pairs need two of them")
    source_field: str | None = setting(
        None, "records are pairs (of a translation, a summary): the field of what is read, or its column's number"
    )
    target_field: str | None = setting(None, "pairs: the field of what is to be written, or its column's number")
    documents: int = setting(0, "documents taken from each source at most; 0 = all, 20,000 for the generator")
    max_quarantined: float = setting(0.001, "share of unreadable records above which the run stops")
    seed: int = setting(0, "of the generator and of the choice of validation documents")
    licence: str = setting(
        "", "the licence of the text, where its folder does not say; it goes with the data and the model"
    )
    citation: str = setting("", "how the text is to be cited, likewise")
    dataset: DatasetConfig = setting(factory=DatasetConfig)
    clean: CleanConfig = setting(factory=CleanConfig, doc="how the text is cleaned")

    def __post_init__(self) -> None:
        for name in ("source", "validation_source"):
            value = getattr(self, name)
            if value is not None and not value.strip(" ,"):
                raise ValueError(f"{name}={value!r} names nothing; give a file, a folder or fables:es")
        mixture.check(self.mixture)
        if self.mixture and self.source != _SOURCE:
            raise ValueError(f"source={self.source!r} and a mixture: each component names its own source; leave it out")
        if not 0 < self.validation <= 0.5:
            raise ValueError(f"validation={self.validation} must be above 0 and at most 0.5; 0.05 is usual")
        if not 0 <= self.max_quarantined <= 1:
            raise ValueError(f"max_quarantined={self.max_quarantined} must be a share from 0 to 1; 0.001 is usual")
        if not self.marker.strip() or "\n" in self.marker or "\r" in self.marker:
            raise ValueError(
                f'marker={self.marker!r} must be text without line ends; to cut at empty lines use split = "blank"'
            )
        if (self.source_field is None) != (self.target_field is None):
            there, other = ("source", "target") if self.target_field is None else ("target", "source")
            raise ValueError(
                f'{there}_field="{getattr(self, there + "_field")}" needs {other}_field="..." beside it: '
                "a pair has two texts"
            )
        if self.pair is not None:
            numbers = [name.isdecimal() for name in self.pair]
            if not all(self.pair) or any(numbers) != all(numbers) or self.pair[0] == self.pair[1]:
                raise ValueError(
                    f'source_field="{self.source_field}" and target_field="{self.target_field}" must be two names of '
                    "fields, or the numbers of two columns counted from 1 (of a table without a row of names)"
                )
            if self.mixture:
                raise ValueError("mixture= is for texts; name the sources of pairs in source, separated by commas")
        if self.pair is not None and self.records not in ("auto", "pairs"):
            raise ValueError(f'records="{self.records}" contradicts source_field and target_field: those make pairs')
        if self.pair is None and self.records == "pairs":
            raise ValueError('records="pairs" needs source_field="..." and target_field="...": a pair has two texts')
        for name in ("document_bytes", "documents", "seed"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name}={value} must not be negative; 0 is the least")

    @property
    def pair(self) -> tuple[str, str] | None:
        """The fields of source and target when records are pairs."""
        if self.source_field is None or self.target_field is None:
            return None
        return self.source_field, self.target_field

    @property
    def named(self) -> str:
        """What the user named, all of it."""
        return ", ".join(specs for _, specs in _named(self))

    def reading(self) -> Reading:
        """How files are read."""
        cut = "blank" if self.split == "auto" else self.split
        return Reading(
            cut, self.marker, self.document_bytes, self.text_field, self.pair, self.records, self.title_field
        )


def _none_yet() -> dict[Split, int]:
    return {"train": 0, "validation": 0}


def _no_bits_yet() -> dict[Split, float] | None:
    return {"train": 0.0, "validation": 0.0}


@dataclass(slots=True)
class Funnel:
    """What became of every record of a pass. `sink` is given each quarantined record as it is met."""

    sink: Reject | None = None
    documents: dict[Split, int] = field(default_factory=_none_yet)
    bytes: dict[Split, int] = field(default_factory=_none_yet)
    empty: int = 0
    duplicates: int = 0
    in_validation: int = 0  # training documents dropped because they stand in the validation source
    quarantined: int = 0
    useless: int = 0  # set aside too, but no damage: empty answers, two answers that are the same
    first_quarantined: list[Quarantined] = field(default_factory=list)
    too_long: dict[Split, Data] = field(default_factory=dict)  # by data.longest: documents, bytes, tokens
    cleaning: Cleaning | None = None  # what each step of cleaning did; None when nothing is cleaned
    # None once a document came without: a sum over some of them means nothing.
    surprisal_bits: dict[Split, float] | None = field(default_factory=_no_bits_yet)

    @property
    def records(self) -> int:
        """All that was met, whatever became of it."""
        dropped = self.empty + self.duplicates + self.in_validation + self.quarantined + self.useless
        dropped += sum(left["documents"] for left in self.too_long.values())
        dropped += 0 if self.cleaning is None else self.cleaning.dropped
        return sum(self.documents.values()) + dropped

    def keep(self, split: Split, document: Record, size: int) -> None:
        """Count a document of `size` bytes that is passed on."""
        self.documents[split] += 1
        self.bytes[split] += size
        bits = document.surprisal_bits if isinstance(document, Document) else None
        if bits is None:
            self.surprisal_bits = None
        elif self.surprisal_bits is not None:
            self.surprisal_bits[split] += bits

    def reject(self, record: Quarantined) -> None:
        """Count a record that could not be read, or that teaches nothing, and hand it to the sink."""
        if record.useless:
            self.useless += 1
        else:
            self.quarantined += 1
        if sum(kept.useless == record.useless for kept in self.first_quarantined) < _FIRST_QUARANTINED:
            self.first_quarantined.append(record)
        if self.sink is not None:
            self.sink(record)

    def to_data(self) -> Data:
        """The counts as plain data; sizes in bytes of UTF-8, surprisal in bits."""
        known = self.surprisal_bits is not None and any(self.documents.values())
        return {
            "records": self.records,
            "documents": dict(self.documents),
            "bytes": dict(self.bytes),
            "empty": self.empty,
            "duplicates": self.duplicates,
            "in_validation": self.in_validation,
            "quarantined": self.quarantined,
            "useless": self.useless,
            "first_quarantined": [to_data(record) for record in self.first_quarantined],
            "surprisal_bits": dict(self.surprisal_bits or {}) if known else None,
            **({"too_long": dict(self.too_long)} if self.too_long else {}),
            **({} if self.cleaning is None else {"cleaning": self.cleaning.to_data()}),
        }


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of a corpus that can be read without the others: a file, or a source that has none.

    `given` is the split of a validation source and of its counterpart, `component` the part of a mixture.
    """

    given: Split | None
    component: str
    documents: Callable[[Reject], Iterator[Document]]


@dataclass(frozen=True, slots=True)
class Met:
    """A document that was read elsewhere: all that decides what becomes of it."""

    given: Split | None
    key: bytes  # of its text
    split_by: bytes  # the key of the text that decides its split
    size: int
    empty: bool
    document: Document  # for its surprisal; its text may be missing


def run(config: CorpusConfig) -> Corpus:
    """The corpus that a configuration names; SourceError when a source is missing, empty or of an unknown kind."""
    return Corpus(config)


class Corpus:
    """A corpus that is read as a stream, any number of times. Making one only looks whether its sources exist."""

    def __init__(self, config: CorpusConfig) -> None:
        self.config = config
        reading = config.reading()
        self.sources: list[Source] = []
        self._components: list[str] = []  # of each source
        dataset = to_data(config.dataset)
        for name, specs in _named(config):
            found = find(specs, reading, config.split, config.documents, config.seed, dataset)
            self.sources += found
            self._components += [name] * len(found)
        self.validation_sources: list[Source] = []
        if config.validation_source is not None:
            # Another seed: a generator that is to validate itself would otherwise repeat the training.
            self.validation_sources = find(
                config.validation_source,
                reading,
                config.split,
                config.documents,
                config.seed + 1,
                to_data(config.dataset),
            )
        self.cleaner = Cleaner(config.clean, lambda: (document for _, document in self._read(lambda _: None)))
        self._training_bytes: int | None = None

    def fingerprint(self) -> str:
        """A hash of the settings and of the inputs: while it stays, `documents` gives the same.

        Files count by name, size and SHA-256 while all together are below 256 MiB, above that by name, size
        and time.
        """
        sources = [*self.sources, *self.validation_sources]
        exact = sum(source.disk_bytes for source in sources) < _SMALL_CORPUS_BYTES
        settings = to_data(self.config)
        # Neither where the files lie matters, nor how many bad records would have stopped the run.
        for name in ("source", "validation_source", "max_quarantined", "mixture", "licence", "citation", "dataset"):
            del settings[name]
        # What was prepared before there were these stays valid.
        for name, unset in (("title_field", ""), ("records", "auto")):
            if settings[name] == unset:
                del settings[name]
        if self.config.mixture:
            # Which documents are whose, and nothing of their shares: these are the loader's.
            settings["components"] = self._components
        if self.config.pair is None:
            # What was prepared before there were pairs stays valid.
            del settings["source_field"], settings["target_field"]
        # Likewise of cleaning: only what it is set to do counts.
        del settings["clean"]
        if self.cleaner:
            settings["clean"] = self.cleaner.identity()
        return hash_data(
            {
                "reading": READING_VERSION,
                "settings": settings,
                "sources": [source.identity(exact) for source in self.sources],
                "validation_sources": [source.identity(exact) for source in self.validation_sources],
            }
        )

    def documents(self, funnel: Funnel, both: bool = True) -> Iterator[tuple[Split, Document]]:
        """All documents once, each with its split, counted in a fresh `funnel`; a validation source comes first.

        With `both` false a split may stay empty: for whoever looks at the text only.

        Pairs are split by their source, so that a sentence with several translations is never on both sides; repeated
        are those of which both halves are equal.

        Raises SourceError when too many records are unreadable, and at the end when a split got no document.
        """
        return self._once(self._read(self._rejecting(funnel)), funnel, both)

    def records(self, funnel: Funnel) -> Iterator[tuple[Split, Record]]:
        """The same for typed records: conversations and preferences are not turned into text, and not cleaned.

        They are split by their prompt, so that several answers to one question are on one side.
        """
        return self._once(self._read(self._rejecting(funnel), typed=True), funnel)

    @overload
    def _once(
        self, records: Iterator[tuple[Split | None, Document]], funnel: Funnel, both: bool
    ) -> Iterator[tuple[Split, Document]]: ...
    @overload
    def _once(
        self, records: Iterator[tuple[Split | None, Record]], funnel: Funnel
    ) -> Iterator[tuple[Split, Record]]: ...
    def _once(
        self, records: Iterator[tuple[Split | None, Any]], funnel: Funnel, both: bool = True
    ) -> Iterator[tuple[Split, Any]]:
        """Each record once, with its split, which its `split_by` decides."""
        lowest, highest = 1.0, 0.0
        with Seen() as seen, Seen() as held_out, self.cleaner.start() as cleaning:
            funnel.cleaning = cleaning.account if self.cleaner else None
            for given, read in records:
                if funnel.records % _CHECK_EVERY == 0 and funnel.records:
                    self._refuse_bad(funnel)
                document = cleaning.clean(read) if isinstance(read, Document) else read
                if document is None:
                    continue
                first, *others = (text.encode("utf-8") for text in document.texts)
                key = whole = content_key(first)
                if document.split_by is not document.texts[0]:
                    key = content_key(document.split_by)
                size = len(first) + sum(map(len, others))
                for other in others:
                    # Of both keys, so that text moved from one half of a pair to the other makes another pair.
                    whole = content_key(whole + content_key(other))
                if not all(text.strip() for text in document.texts):
                    funnel.empty += 1
                elif given == "train" and key in held_out:
                    funnel.in_validation += 1
                elif not seen.add(whole):
                    funnel.duplicates += 1
                elif not isinstance(document, Document) or not cleaning.is_near_copy(document):
                    split = given or split_of(key, self.config.seed, self.config.validation)
                    if given is None and not all(funnel.documents.values()):
                        # Kept only to suggest a share that works, should one split stay empty.
                        position = position_of(key, self.config.seed)
                        lowest, highest = min(lowest, position), max(highest, position)
                    if given == "validation":
                        held_out.add(key)
                    funnel.keep(split, document, size)
                    yield split, document
        if funnel.quarantined:
            self._refuse_bad(funnel, at_end=True)
        if both or not any(funnel.documents.values()):
            self._refuse_empty(funnel, lowest, highest)
        self._training_bytes = funnel.bytes["train"]

    def units(self) -> list[Unit]:
        """The corpus in pieces, in the order of reading: one after the other they have all of its documents."""
        found = [Unit("validation", "", read) for source in self.validation_sources for read in source.pieces()]
        given: Split | None = "train" if self.validation_sources else None
        for component, source in zip(self._components, self.sources, strict=True):
            found += [Unit(given, component, read) for read in source.pieces()]
        return found

    def sift(self, documents: Iterable[Met], funnel: Funnel) -> Iterator[Split | None]:
        """What `documents` does, of documents of which only keys are known: the split of each, None if it is dropped.

        The same SourceErrors. Unreadable records were counted by whoever read them.
        """
        with Seen() as seen, Seen() as held_out:
            lowest, highest = 1.0, 0.0
            for met in documents:
                split: Split | None = None
                if met.empty:
                    funnel.empty += 1
                elif met.given == "train" and met.split_by in held_out:
                    funnel.in_validation += 1
                elif not seen.add(met.key):
                    funnel.duplicates += 1
                else:
                    split = met.given or split_of(met.split_by, self.config.seed, self.config.validation)
                    if met.given is None and not all(funnel.documents.values()):
                        position = position_of(met.split_by, self.config.seed)
                        lowest, highest = min(lowest, position), max(highest, position)
                    if met.given == "validation":
                        held_out.add(met.split_by)
                    funnel.keep(split, met.document, met.size)
                yield split
                if funnel.records % _CHECK_EVERY == 0:
                    self._refuse_bad(funnel)
        if funnel.quarantined:
            self._refuse_bad(funnel, at_end=True)
        self._refuse_empty(funnel, lowest, highest)
        self._training_bytes = funnel.bytes["train"]

    def sample(self, max_bytes: int) -> Iterator[str]:
        """Training text of at most `max_bytes` bytes, for a tokenizer: spread evenly over the corpus.

        A corpus that fits comes as its documents. Of a larger one every piece of about 16,000 characters
        (long documents are cut at spaces) is kept or not by a hash of its text, with the probability that
        fills `max_bytes`. Its size is measured by reading it when it is below 256 MiB or cut short by
        `documents`, else estimated from the files: then the sample may be smaller (much markup around the
        text) or its end nearer (text that compresses unusually well).
        """
        keep = max_bytes / max(1, self.training_bytes())
        length = max(1, min(_PIECE_CHARACTERS, max_bytes // 16))
        left = max_bytes
        for split, document in self.documents(Funnel()):
            if split != "train":
                continue
            for piece in (p for text in document.texts for p in ([text] if keep >= 1 else _pieces(text, length))):
                raw = piece.encode("utf-8")
                if keep < 1 and position_of(content_key(raw), self.config.seed, b"sample") >= keep:
                    continue
                if len(raw) > left:
                    return
                left -= len(raw)
                yield piece

    def notes(self) -> list[str]:
        """What is read, how it is cut and why, and how the validation documents are chosen, in sentences."""
        notes = [note for source in self.sources for note in source.notes()] + self.cleaner.notes()
        if self.validation_sources:
            notes += [f"validation: {note}" for source in self.validation_sources for note in source.notes()]
            notes.append("training documents that also stand in the validation source are dropped")
        else:
            what, whose = "documents", "text"
            if self.config.pair is not None:
                what, whose = "pairs", "source, so that none is on both sides"
            elif any(source.kind in ("conversations", "preferences") for source in self.sources):
                what, whose = "records", "question, so that none is on both sides"
            notes.append(
                f"{self.config.validation:.3g} of the {what} are for validation, chosen by a hash of their {whose}: "
                "the same ones whatever is added to the corpus"
            )
        return notes

    @overload
    def _read(self, reject: Reject) -> Iterator[tuple[Split | None, Document]]: ...
    @overload
    def _read(self, reject: Reject, *, typed: Literal[True]) -> Iterator[tuple[Split | None, Record]]: ...
    def _read(self, reject: Reject, *, typed: bool = False) -> Iterator[tuple[Split | None, Any]]:
        """All documents as they are read, with the split that their source gives them, if it does."""
        for source in self.validation_sources:
            for document in source.records(reject) if typed else source.documents(reject):
                yield "validation", document
        given: Split | None = "train" if self.validation_sources else None
        for component, source in zip(self._components, self.sources, strict=True):
            for document in source.records(reject) if typed else source.documents(reject):
                if component and isinstance(document, Document):
                    yield given, replace(document, component=component)
                else:
                    yield given, document

    def provenance(self) -> list[Data]:
        """Of every source: what it is, its licence, its citation, its revision, its files with sizes and hashes.

        What the settings say of licence and citation holds for files, and stands above what their folder says.
        """
        return with_stated([s.provenance() for s in [*self.sources, *self.validation_sources]], self.config)

    def _rejecting(self, funnel: Funnel) -> Callable[[Quarantined], None]:
        def reject(record: Quarantined) -> None:
            funnel.reject(record)
            # Checked here too: a file of bad records alone never reaches the loop over documents.
            if funnel.records % _CHECK_EVERY == 0:
                self._refuse_bad(funnel)

        return reject

    def _refuse_bad(self, funnel: Funnel, at_end: bool = False) -> None:
        share = funnel.quarantined / funnel.records
        if share <= self.config.max_quarantined:
            return
        first = next((record for record in funnel.first_quarantined if not record.useless), funnel.first_quarantined[0])
        so_far = "" if at_end else "so far "
        enough = _between(share, 1.0) or 1
        other = "choose the field with --corpus.text_field NAME, " if first.reason.startswith("no field") else ""
        raise SourceError(
            f"{funnel.quarantined:,} of {funnel.records:,} records {so_far}({share:.3%}) cannot be read, "
            f"more than the {self.config.max_quarantined:.3%} allowed; the first: {first.place}: {first.reason}: "
            f"{first.excerpt}. Mend the file, {other}or allow more with --corpus.max_quarantined {enough:.7g}"
        )

    def _refuse_empty(self, funnel: Funnel, lowest: float, highest: float) -> None:
        """SourceError when a split has no document, with a way out that is known to work where there is one."""
        training, validation = funnel.documents["train"], funnel.documents["validation"]
        if training and validation:
            return
        config = self.config
        found = training + validation
        dropped = f"{funnel.empty:,} empty, {funnel.duplicates:,} repeated, {funnel.quarantined:,} unreadable"
        if funnel.useless:
            dropped += f", {funnel.useless:,} with nothing to learn"
        dropped += "" if funnel.cleaning is None else f", {funnel.cleaning.dropped:,} in cleaning"
        if self.validation_sources:
            if not validation:
                raise SourceError(f"{config.validation_source}: no documents for validation ({dropped})")
            also = f"{dropped}, {funnel.in_validation:,} that are in {config.validation_source} too"
            raise SourceError(f"{config.named}: no documents for training ({also}); give it other text")
        if not found:
            raise SourceError(f"{config.named}: no documents ({dropped}); is this the right text?")
        smaller = (
            "cut the text into smaller documents (--corpus.split blank, or line if it has no blank lines; "
            "--corpus.document_bytes 1000)"
        )
        other = f"{smaller}, or give --corpus.validation_source FILE"
        if found == 1:
            raise SourceError(f"{config.named}: one document cannot be split into training and validation; {other}")
        missing = "training" if validation else "validation"
        # The same documents fall at the same places again: this share is certain to leave some on both sides.
        better = _between(lowest, highest)
        advice = f"use --corpus.validation {better:.7g}, or " if 0 < better <= 0.5 else ""
        raise SourceError(
            f"{config.named}: of {found:,} documents none is for {missing} with --corpus.validation "
            f"{config.validation:g}; {advice}{other}"
        )

    def document_bytes(self, most: int = 4000) -> list[int]:
        """Bytes of documents, before duplicates are left out: the first ones of each source, `most` in all."""
        each = max(1, most // len(self.sources))
        return [
            len(document.text.encode("utf-8"))
            for source in self.sources
            for document in islice(source.documents(lambda _: None), each)
        ]

    def pair_bytes(self, most: int = 2000) -> tuple[float, float]:
        """Bytes of a source and of a target: the mean over the first pairs of the corpus."""
        sizes = [
            (len(document.text.encode("utf-8")), len((document.target or "").encode("utf-8")))
            for _, document in islice(self._read(lambda _: None), most)
        ]
        n = max(1, len(sizes))
        return sum(source for source, _ in sizes) / n, sum(target for _, target in sizes) / n

    def longest_pair(self, most: int = 200_000) -> tuple[int, int]:
        """Bytes of the longest source and of the longest target among the first pairs of the corpus."""
        source = target = 0
        for _, document in islice(self._read(lambda _: None), most):
            source = max(source, len(document.text.encode("utf-8")))
            target = max(target, len((document.target or "").encode("utf-8")))
        return source, target

    def estimated_bytes(self) -> int:
        """About how many bytes all documents have, without reading them; for progress and plans."""
        return sum(source.estimated_bytes() for source in [*self.sources, *self.validation_sources])

    def training_bytes(self) -> int:
        """Bytes of the training documents: counted where a pass over them is quick, else estimated.

        Which of the two depends on the corpus alone, never on what was read before: so does the sample.
        """
        on_disk = sum(source.disk_bytes for source in self.sources)
        if not on_disk or (on_disk >= _SMALL_CORPUS_BYTES and not self.config.documents):
            share = 1.0 if self.validation_sources else 1 - self.config.validation
            return int(share * sum(source.estimated_bytes() for source in self.sources))
        if self._training_bytes is None:
            for _ in self.documents(Funnel()):
                pass
        return self._training_bytes or 0


def _named(config: CorpusConfig) -> list[tuple[str, str]]:
    """The components of a mixture and what each reads; or one without a name."""
    return [(name, component.source) for name, component in config.mixture.items()] or [("", config.source)]


def _between(low: float, high: float) -> float:
    """The shortest number above `low` and not above `high`, to suggest; 0 when seven digits are not enough."""
    for digits in range(1, 8):
        unit = 10.0 ** (math.floor(math.log10(max(low, 1e-12))) + 1 - digits)
        value = float(f"{(math.floor(low / unit) + 1) * unit:.10g}")
        if low < value <= high:
            return value
    return 0.0


def _pieces(text: str, length: int) -> Iterator[str]:
    """A text in pieces of at most `length` characters, cut after a line end or space where there is one."""
    start = 0
    while len(text) - start > length:
        stop = start + length
        cut = max(text.rfind("\n", start, stop), text.rfind(" ", start, stop)) + 1
        end = cut if cut > start else stop
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def with_stated(sources: list[Data], config: CorpusConfig) -> list[Data]:
    """What sources say of themselves, with what the settings say of files."""
    said = {name: value for name, value in stated(config.licence, config.citation).to_data().items() if value}
    return [{**source, **said} if source["kind"] == "files" else source for source in sources]
