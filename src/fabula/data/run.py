"""Stage: a corpus and a tokenizer to shards of ids, in one streaming pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fabula import storage
from fabula.config import Data, setting, to_data
from fabula.corpus.document import Document, Quarantined
from fabula.corpus.run import Corpus, Funnel
from fabula.corpus.split import Split as SplitName
from fabula.data.shards import FORMAT, Shards, SplitWriter, dtype_for
from fabula.progress import Progress, StopFlag
from fabula.tokenizer.base import Tokenizer

QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How ids are stored."""

    batch_documents: int = setting(512, "documents that are tokenized together, on all threads")
    shard_tokens: int = setting(134_217_728, "ids in one shard file, about")

    def __post_init__(self) -> None:
        for name in ("batch_documents", "shard_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


def run(
    config: DataConfig, corpus: Corpus, tokenizer: Tokenizer, folder: Path, progress: Progress, stop: StopFlag
) -> Shards:
    """Publish the data folder: complete with its manifest, or not at all."""
    facts: Data = {
        "format": FORMAT,
        "kind": "data",
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype_for(tokenizer.vocab_size).str,
        "corpus": corpus.fingerprint(),
        "notes": corpus.notes(),
    }
    with storage.publish(folder, facts) as building:
        funnel = Funnel(sink=lambda record: _quarantine(building, record))
        writers: dict[SplitName, SplitWriter] = {
            name: SplitWriter(
                building, name, tokenizer.vocab_size, tokenizer.special.end_of_document, config.shard_tokens
            )
            for name in ("train", "validation")
        }
        with (
            writers["train"],
            writers["validation"],
            progress.task("tokenizing", corpus.estimated_bytes(), "bytes") as task,
        ):
            for batch in _batches(corpus.documents(funnel), config.batch_documents):
                stop.check("tokenizing")
                encoded = tokenizer.encode_batch([document.text for _, document in batch])
                n_bytes = 0
                for (name, document), ids in zip(batch, encoded, strict=True):
                    size = len(document.text.encode("utf-8"))
                    writers[name].add(ids, size)
                    n_bytes += size
                task.advance(n_bytes)
            facts["splits"] = {name: writer.finish() for name, writer in writers.items()}
        facts["funnel"] = funnel.to_data()
    return Shards(folder)


def _batches(documents: Iterator[tuple[SplitName, Document]], size: int) -> Iterator[list[tuple[SplitName, Document]]]:
    while batch := list(itertools.islice(documents, size)):
        yield batch


def _quarantine(folder: Path, record: Quarantined) -> None:
    storage.append_json_line(folder / QUARANTINE, to_data(record))
