"""Stage: a corpus and a tokenizer to shards of ids, in one streaming pass that survives the death of its processes.

A pair is stored as two documents one after the other, its source and its target; the manifest says "records": "pairs".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fabula import faults, storage
from fabula.config import Data, setting
from fabula.corpus.run import Corpus, Funnel
from fabula.data.encoding import Encoder, Here, Item, Processes, usual_processes
from fabula.data.engine import EngineConfig, prepare_parts
from fabula.data.filling import QUARANTINE, Filling
from fabula.data.overlap import near_copies
from fabula.data.packing import Packing
from fabula.data.parts import Parts
from fabula.data.shards import FORMAT, Shards, dtype_for, open_splits
from fabula.errors import InputError
from fabula.progress import Progress, StopFlag, Task
from fabula.tokenizer.base import FILE, Tokenizer

__all__ = ["QUARANTINE", "DataConfig", "content_settings", "run"]

# Below this, starting processes would take a larger part of the time than they save.
_SMALL_BYTES = 64 << 20
# A batch ends here even if it has fewer documents: they may be long.
_BATCH_BYTES = 4 << 20
_NEAR_COPIES_WORTH_A_WORD = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How ids are made and stored."""

    batch_documents: int = setting(512, "documents that are tokenized together; fewer if they are long")
    workers: int = setting(
        0, "processes that tokenize; 0 = none below 64 MiB of text, above that one for each core, 8 at most"
    )
    shard_tokens: int = setting(134_217_728, "ids in one shard file, about")
    longest: int | Literal["context"] = setting(
        0,
        "documents with more tokens are left out; 0 = none, context = those that do not fit the model's",
    )
    packing: Packing = setting(
        "concat", "rows: stretches of the stream, whole documents fitted together, or one document each with padding"
    )

    engine: EngineConfig = setting(factory=EngineConfig, doc="who prepares a corpus that is too large for one machine")

    def __post_init__(self) -> None:
        for name in ("batch_documents", "shard_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if isinstance(self.longest, int) and self.longest < 0:
            raise ValueError(f"longest={self.longest} must not be negative; 0 leaves nothing out")
        if not 0 <= self.workers <= 256:
            raise ValueError(f"workers={self.workers} must be from 0 to 256; 0 chooses by the size of the text")


def content_settings(config: DataConfig) -> Data:
    """The settings on which the content of the folder depends; with the others it may be gone on with."""
    # What was prepared before there was this setting stays valid.
    return {"shard_tokens": config.shard_tokens, **({"longest": config.longest} if config.longest else {})}


def content_key(config: DataConfig, corpus: str, tokenizer: str) -> str:
    """A hash of all that the content of the folder depends on; corpus and tokenizer by their fingerprints."""
    settings = content_settings(config)
    return storage.hash_data({"format": FORMAT, "tokenizer": tokenizer, "corpus": corpus, "data": settings})


def run(
    config: DataConfig, corpus: Corpus, tokenizer: Tokenizer, folder: Path, progress: Progress, stop: StopFlag
) -> Shards:
    """Publish the data folder: complete with its manifest, or not at all.

    What a process that was stopped or killed had done is kept beside it and gone on with; the result is the same to
    the byte. Only one process at a time may do this: whoever calls holds a lock.
    """
    facts: Data = {
        "format": FORMAT,
        "kind": "data",
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype_for(tokenizer.vocab_size).str,
        "corpus": corpus.fingerprint(),
        "notes": corpus.notes(),
        "sources": corpus.provenance(),
    }
    if not isinstance(config.longest, int):
        raise InputError("data.longest = context: there is no model here whose context it could be; give a number")
    pairs = corpus.config.pair is not None
    if pairs:
        facts["records"] = "pairs"
    key = content_key(config, facts["corpus"], tokenizer.fingerprint)
    allowed = corpus.config.max_quarantined
    parts = None
    work = folder.with_name(f".parts-{folder.name}")
    if config.engine.name != "none":
        prepare_parts(config.engine, corpus, tokenizer, work, key, progress, stop)
        parts = Parts(work, corpus.units())
    with storage.publish_in_lives(folder, key, facts) as unfinished:
        with Filling(unfinished, tokenizer, config.shard_tokens, pairs, config.longest) as filling:
            if filling.found:
                progress.note(f"going on after {filling.found // (1 + pairs):,} {'pairs' if pairs else 'documents'}")
            elif filling.lost:
                progress.note("what was kept of the shards is not all there: they are made anew")
            funnel = Funnel(sink=filling.quarantine)
            size = corpus.estimated_bytes()
            what = "tokenizing" if parts is None else "joining the parts"
            with ExitStack() as stack, progress.task(what, size, "bytes") as task:
                encoder: Encoder
                if parts is None:
                    encoder = _encoder(config.workers, size, tokenizer, filling, progress, stack)
                    batches = _batches(corpus, funnel, filling, config.batch_documents, task, stop)
                else:
                    encoder = parts
                    batches = parts.batches(corpus, funnel, filling, config.batch_documents, task, stop)
                for batch, results in encoder.encode(batches, stop):
                    filling.add(batch, results)
                    faults.point("data.encoded")
                    filling.refuse_many_failures(allowed)
                    task.advance(sum(item.size for item in batch))
            filling.keep()
            filling.settle(funnel, allowed)
            left = sum(part["documents"] for part in funnel.too_long.values())
            if left:
                progress.note(f"left out, with more than {config.longest:,} tokens: {left:,} documents (data.longest)")
            facts["splits"] = filling.finish()
            faults.point("data.finished")
        facts["funnel"] = funnel.to_data()
        facts["overlap"] = _overlap(unfinished.folder, facts, progress, stop)
        storage.remove(unfinished.folder / FILE)
    if parts is not None:
        storage.remove(work)
    return Shards(folder)


def _encoder(
    count: int, size: int, tokenizer: Tokenizer, filling: Filling, progress: Progress, stack: ExitStack
) -> Encoder:
    # A life before this one that was not finished may have died of a text, with the process that tokenized it.
    if not count and (filling.resumed or size >= _SMALL_BYTES):
        count = usual_processes()
    if not count:
        return Here(tokenizer)
    return stack.enter_context(Processes(tokenizer, filling.folder, count, progress))


def _batches(
    corpus: Corpus, funnel: Funnel, filling: Filling, batch_documents: int, task: Task, stop: StopFlag
) -> Iterator[list[Item]]:
    """The documents that are not in the shards yet; those that are come by again, to be counted.

    The halves of a pair are never parted.
    """
    batch: list[Item] = []
    size = number = 0
    for split, document in corpus.documents(funnel):
        items = []
        for text in document.texts:
            one = document if document.target is None else replace(document, text=text)
            items.append(Item(number, split, one, len(text.encode("utf-8"))))
            number += 1
        size += sum(item.size for item in items)
        if number <= filling.found:
            filling.meet_again(items)
            stop.check("looking for the place to go on at")
            if size >= _BATCH_BYTES or number == filling.found:
                task.advance(size)
                size = 0
            continue
        batch += items
        if len(batch) >= batch_documents or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _overlap(folder: Path, manifest: Data, progress: Progress, stop: StopFlag) -> Data:
    """How many validation documents have a near copy in training."""
    splits = open_splits(folder, manifest)
    train, validation = splits["train"], splits["validation"]

    def advance(n_tokens: int) -> None:
        stop.check("looking for near copies")
        task.advance(n_tokens)

    with progress.task("looking for near copies", train.n_tokens, "tokens") as task:
        found = near_copies(validation, train, advance=advance)
    if found["share"] > _NEAR_COPIES_WORTH_A_WORD:
        progress.note(
            f"{found['share']:.1%} of the validation documents have a near copy in training (at least half of the text "
            "is the same): validation will look better than it is"
        )
    return found
