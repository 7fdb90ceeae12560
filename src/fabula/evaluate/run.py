"""Stage: a model and a text to a score."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from fabula import faults
from fabula.config import Data
from fabula.corpus.document import Quarantined
from fabula.corpus.readers import Reading
from fabula.corpus.run import CorpusConfig
from fabula.corpus.sources import Source, find
from fabula.data.shards import Split
from fabula.device import Device
from fabula.errors import SourceError
from fabula.evaluate.config import EvaluateConfig
from fabula.evaluate.intrinsic import Score, score_documents
from fabula.model.decoder import Decoder
from fabula.progress import Progress, StopFlag
from fabula.tokenizer.base import Tokenizer


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The score of a named text, known by its hash."""

    name: str
    score: Score
    sha256: str
    quarantined: int = 0

    def to_data(self) -> Data:
        return {"name": self.name, "sha256": self.sha256, "quarantined": self.quarantined, **self.score.to_data()}


@dataclass(slots=True)
class _Text:
    """Reads the documents of a source and remembers what was read."""

    source: list[Source]
    tokenizer: Tokenizer
    stop: StopFlag
    rejected: list[Quarantined] = field(default_factory=list)
    hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def documents(self) -> Iterator[tuple[list[int], int]]:
        for source in self.source:
            for document in source.documents(self.rejected.append):
                self.stop.check("evaluating")
                raw = document.text.encode("utf-8")
                self.hash.update(len(raw).to_bytes(8, "little") + raw)
                if raw:
                    yield self.tokenizer.encode(document.text), len(raw)


def run(
    config: EvaluateConfig,
    model: Decoder,
    tokenizer: Tokenizer,
    on: str,
    corpus: CorpusConfig,
    device: Device,
    progress: Progress,
    stop: StopFlag,
) -> Evaluation:
    """Score every document of a source, every byte of it once.

    The source is read as a corpus is (`corpus` says how it is cut into documents), but nothing is split off or
    dropped as a duplicate. The hash is over the documents' lengths and bytes.
    """
    reading = Reading(
        "blank" if corpus.split == "auto" else corpus.split, corpus.marker, corpus.document_bytes, corpus.text_field
    )
    sources = find(on, reading, corpus.split, corpus.documents, corpus.seed)
    text = _Text(sources, tokenizer, stop)
    total = sum(source.estimated_bytes() for source in sources)
    with progress.task("scoring", total, "bytes") as task:
        score = score_documents(
            model,
            text.documents(),
            tokenizer.special.end_of_document,
            device,
            config.stride or None,
            config.batch_rows,
            task.advance,
            tokenizer.special.begin,
        )
    if not score.bytes:
        raise SourceError(f"{on}: no text to score ({len(text.rejected):,} records could not be read)")
    return Evaluation(on, score, text.hash.hexdigest(), len(text.rejected))


def run_on_split(
    config: EvaluateConfig,
    model: Decoder,
    tokenizer: Tokenizer,
    split: Split,
    device: Device,
    progress: Progress,
    stop: StopFlag,
) -> Evaluation:
    """Score the validation split of a run's own data: its first documents, up to `validation_bytes`."""
    digest = hashlib.sha256()

    def documents() -> Iterator[tuple[list[int], int]]:
        done = 0
        for ids, n_bytes in split.documents():
            faults.point("evaluate.scoring")
            stop.check("evaluating")
            digest.update(n_bytes.to_bytes(8, "little") + tokenizer.decode_bytes(ids))
            yield ids, n_bytes
            done += n_bytes
            if config.validation_bytes and done >= config.validation_bytes:
                return

    limit = min(split.n_bytes, config.validation_bytes or split.n_bytes)
    with progress.task("scoring", limit, "bytes") as task:
        score = score_documents(
            model,
            documents(),
            tokenizer.special.end_of_document,
            device,
            config.stride or None,
            config.batch_rows,
            task.advance,
            tokenizer.special.begin,
        )
    return Evaluation("validation split", score, digest.hexdigest())
