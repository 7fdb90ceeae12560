"""The stage `corpus`: from what a user names to two disjoint streams of documents, with every loss counted.

Nothing is stored here: a corpus is read as a stream, again each time it is needed (the tokenizer samples it,
the data stage turns it into shards), in one order that depends on nothing but the configuration and the
files. Documents with the same text are kept once; the first one stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, overload

from fabula.config import Data, to_data
from fabula.corpus.clean.run import Cleaner
from fabula.corpus.config import CorpusConfig, DatasetConfig
from fabula.corpus.document import Document, Quarantined, Reject
from fabula.corpus.funnel import Funnel, refuse_bad, refuse_empty
from fabula.corpus.provenance import stated
from fabula.corpus.records import Record
from fabula.corpus.sources import Source, find
from fabula.corpus.split import Seen, Split, content_key, position_of, split_of
from fabula.storage import hash_data

__all__ = ["READING_VERSION", "Corpus", "CorpusConfig", "DatasetConfig", "Funnel", "Met", "Unit", "run", "with_stated"]

# Counted up when the same files would give other documents than before, so that cached shards are made again.
READING_VERSION = 1

# Up to this much on disk, files are known by their content and a corpus is measured by reading it.
_SMALL_CORPUS_BYTES = 256 << 20
_CHECK_EVERY = 1000
_PIECE_CHARACTERS = 1 << 14


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
        for name, specs in config.components:
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
        self.cleaner = Cleaner(config.clean, self._to_clean)
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
                    refuse_bad(self.config, funnel)
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
            refuse_bad(self.config, funnel, at_end=True)
        if both or not any(funnel.documents.values()):
            refuse_empty(self.config, funnel, lowest, highest)
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
                    refuse_bad(self.config, funnel)
        if funnel.quarantined:
            refuse_bad(self.config, funnel, at_end=True)
        refuse_empty(self.config, funnel, lowest, highest)
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

    def _to_clean(self) -> Iterator[Document]:
        """What cleaning may look at before it begins: all that can be a text."""
        for source in [*self.validation_sources, *self.sources]:
            if source.kind != "preferences":
                yield from source.documents(lambda _: None)

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
                refuse_bad(self.config, funnel)

        return reject

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

    def times_read(self) -> float:
        """How often an epoch reads the text, on average, estimated: once, unless a mixture says how often each part."""
        mixture = self.config.mixture
        if not mixture or any(component.weight for component in mixture.values()):
            return 1.0
        sizes = [source.estimated_bytes() for source in self.sources]
        times = [mixture[name].epochs for name in self._components]
        return sum(n * size for n, size in zip(times, sizes, strict=True)) / max(1, sum(sizes))

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
