"""Stage: a model and a text to a score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from fabula import faults
from fabula.config import Data, to_data
from fabula.corpus.document import Quarantined
from fabula.corpus.run import CorpusConfig
from fabula.corpus.sources import Source, find
from fabula.data.pairs import PairLoader
from fabula.data.shards import Component, Split
from fabula.device import Device
from fabula.errors import InputError, SourceError
from fabula.evaluate import translation
from fabula.evaluate.config import EvaluateConfig
from fabula.evaluate.intrinsic import Score, score_documents
from fabula.evaluate.translation import Pair, PairEvaluation
from fabula.model.encdec import EncoderDecoder
from fabula.model.kinds import AnyModel
from fabula.progress import Progress, StopFlag
from fabula.tokenizer.base import Tokenizer


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The score of a named text, known by its hash."""

    name: str
    score: Score
    sha256: str
    quarantined: int = 0
    components: dict[str, Score] = field(default_factory=dict)  # of a mixture

    def to_data(self) -> Data:
        data = {"name": self.name, "sha256": self.sha256, "quarantined": self.quarantined, **self.score.to_data()}
        if self.components:
            data["components"] = {name: score.to_data() for name, score in self.components.items()}
        return data


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
    model: AnyModel,
    tokenizer: Tokenizer,
    on: str,
    corpus: CorpusConfig,
    device: Device,
    progress: Progress,
    stop: StopFlag,
) -> Evaluation | PairEvaluation:
    """Score every document of a source, every byte of it once.

    The source is read as a corpus is (`corpus` says how it is cut into documents), but nothing is split off or
    dropped as a duplicate. The hash is over the documents' lengths and bytes. An encoder-decoder is given pairs.
    """
    if isinstance(model, EncoderDecoder) != (corpus.pair is not None):
        what = "reads pairs" if corpus.pair is None else "is decoder-only and reads texts"
        way = "give --source-field and --target-field" if corpus.pair is None else "leave out the fields of pairs"
        raise InputError(f"{on}: the model {what}; {way}")
    dataset = to_data(corpus.dataset)
    sources = find(on, corpus.reading(), corpus.split, corpus.documents, corpus.seed, dataset)
    if isinstance(model, EncoderDecoder):
        return _run_on_pairs(config, model, tokenizer, on, sources, device, progress, stop)
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


def _run_on_pairs(
    config: EvaluateConfig,
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    on: str,
    sources: list[Source],
    device: Device,
    progress: Progress,
    stop: StopFlag,
) -> PairEvaluation:
    rejected: list[Quarantined] = []
    pairs = []
    for source in sources:
        for document in source.documents(rejected.append):
            stop.check("evaluating")
            if document.target:
                ids = [tuple(tokenizer.encode(text)) for text in document.texts]
                pairs.append(Pair(ids[0], ids[1], len(document.target.encode("utf-8"))))
    if not pairs:
        raise SourceError(f"{on}: no pairs to score ({len(rejected):,} records could not be read)")
    return translation.run(config, model, tokenizer, pairs, device, progress, stop, name=on, quarantined=len(rejected))


def run_on_split(
    config: EvaluateConfig,
    model: AnyModel,
    tokenizer: Tokenizer,
    split: Split,
    device: Device,
    progress: Progress,
    stop: StopFlag,
) -> Evaluation | PairEvaluation:
    """Score the validation split of a run's own data: its first documents, up to `validation_bytes`. Of a mixture the
    first of each component, to its part of them, also told apart.

    Of pairs the bytes are the targets', and as many pairs as have about so many are spread evenly over the split.
    """
    if isinstance(model, EncoderDecoder):
        return _run_on_split_of_pairs(config, model, tokenizer, split, device, progress, stop)
    digest = hashlib.sha256()

    def documents(part: Component, most: float) -> Iterator[tuple[list[int], int]]:
        done = 0
        for ids, n_bytes in split.documents(part):
            faults.point("evaluate.scoring")
            stop.check("evaluating")
            digest.update(n_bytes.to_bytes(8, "little") + tokenizer.decode_bytes(ids))
            yield ids, n_bytes
            done += n_bytes
            if done >= most:
                return

    limit = min(split.n_bytes, config.validation_bytes or split.n_bytes)
    scores = {}
    with progress.task("scoring", limit, "bytes") as task:
        for part in split.components.values() or [split.whole]:
            scores[part.name] = score_documents(
                model,
                documents(part, limit * part.bytes / max(1, split.n_bytes)),
                tokenizer.special.end_of_document,
                device,
                config.stride or None,
                config.batch_rows,
                task.advance,
                tokenizer.special.begin,
            )
    score = sum(scores.values(), Score())
    return Evaluation("validation split", score, digest.hexdigest(), components=scores if split.components else {})


def _run_on_split_of_pairs(
    config: EvaluateConfig,
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    split: Split,
    device: Device,
    progress: Progress,
    stop: StopFlag,
) -> PairEvaluation:
    loader = PairLoader(split, model.config.context_length, 0, tokenizer.special.filler)
    share = config.validation_bytes / max(1, loader.target_bytes) if config.validation_bytes else 1.0
    most = max(1, math.ceil(loader.n_rows * min(1.0, share)))
    sizes = split.document_bytes
    pairs = []
    # In the split's order, so that what is shown is a fair mixture of lengths.
    for number in sorted(loader.fixed(most).tolist()):
        source, target = loader.ids(number)
        pairs.append(Pair(tuple(source), tuple(target), int(sizes[2 * number + 1])))
    made = translation.run(config, model, tokenizer, pairs, device, progress, stop, name="validation split")
    return replace(made, too_long=loader.too_long)
