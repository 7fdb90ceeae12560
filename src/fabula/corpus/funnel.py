"""What became of the records of a corpus? Counted here, and refused when too many were lost or a split is empty."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fabula.config import Data, to_data
from fabula.corpus.clean.run import Cleaning
from fabula.corpus.config import CorpusConfig
from fabula.corpus.document import NOT_UTF8, Document, Quarantined, Reject
from fabula.corpus.records import Record
from fabula.corpus.split import Split
from fabula.errors import SourceError

_FIRST_QUARANTINED = 10


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


def refuse_bad(config: CorpusConfig, funnel: Funnel, at_end: bool = False) -> None:
    """SourceError when more records cannot be read than are allowed."""
    share = funnel.quarantined / funnel.records
    if share <= config.max_quarantined:
        return
    first = next((record for record in funnel.first_quarantined if not record.useless), funnel.first_quarantined[0])
    so_far = "" if at_end else "so far "
    enough = between(share, 1.0) or 1
    ways = "Mend the file,"
    if first.reason.startswith(NOT_UTF8):
        ways = "Mend the file (text of old Windows programs: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW),"
    elif first.reason.startswith("no field"):
        ways = "Mend the file, choose the field with --corpus.text_field NAME,"
    raise SourceError(
        f"{funnel.quarantined:,} of {funnel.records:,} records {so_far}({share:.3%}) cannot be read, "
        f"more than the {config.max_quarantined:.3%} allowed; the first: {first.place}: {first.reason}: "
        f"{first.excerpt}. {ways} or allow more with --corpus.max_quarantined {enough:.7g}"
    )


def refuse_empty(config: CorpusConfig, funnel: Funnel, lowest: float, highest: float) -> None:
    """SourceError when a split has no document, with a way out that is known to work where there is one.

    `lowest` and `highest` are the least and the greatest position (see `split.py`) that was met.
    """
    training, validation = funnel.documents["train"], funnel.documents["validation"]
    if training and validation:
        return
    found = training + validation
    dropped = f"{funnel.empty:,} empty, {funnel.duplicates:,} repeated, {funnel.quarantined:,} unreadable"
    if funnel.useless:
        dropped += f", {funnel.useless:,} with nothing to learn"
    dropped += "" if funnel.cleaning is None else f", {funnel.cleaning.dropped:,} in cleaning"
    if config.validation_source is not None:
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
    better = between(lowest, highest)
    advice = f"use --corpus.validation {better:.7g}, or " if 0 < better <= 0.5 else ""
    raise SourceError(
        f"{config.named}: of {found:,} documents none is for {missing} with --corpus.validation "
        f"{config.validation:g}; {advice}{other}"
    )


def between(low: float, high: float) -> float:
    """The shortest number above `low` and not above `high`, to suggest; 0 when seven digits are not enough."""
    for digits in range(1, 8):
        unit = 10.0 ** (math.floor(math.log10(max(low, 1e-12))) + 1 - digits)
        value = float(f"{(math.floor(low / unit) + 1) * unit:.10g}")
        if low < value <= high:
            return value
    return 0.0
