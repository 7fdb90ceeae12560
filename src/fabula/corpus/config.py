"""What can be set about a corpus: the section [corpus] of a recipe. Reads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fabula.config import setting
from fabula.corpus import mixture
from fabula.corpus.clean.config import CleanConfig
from fabula.corpus.mixture import MixtureComponent
from fabula.corpus.readers import Reading
from fabula.corpus.records import Kind

_SOURCE = "fables:es"


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
        return ", ".join(specs for _, specs in self.components)

    @property
    def components(self) -> list[tuple[str, str]]:
        """The components of a mixture and what each reads; or one without a name."""
        return [(name, component.source) for name, component in self.mixture.items()] or [("", self.source)]

    def reading(self) -> Reading:
        """How files are read."""
        cut = "blank" if self.split == "auto" else self.split
        return Reading(
            cut, self.marker, self.document_bytes, self.text_field, self.pair, self.records, self.title_field
        )
