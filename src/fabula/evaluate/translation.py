"""How good are translations (or summaries)? Bits per byte of the true targets, and BLEU and chrF of what is written.

Bits per byte are those of the targets given their sources; the bytes are the targets'. BLEU (Papineni et al. 2002; Post
2018, arXiv:1804.08771) and chrF (Popović 2015) are of the whole set, 0 to 100, by sacrebleu, with every target of a
source as a reference; the signature beside a figure says how it was counted, so that it compares with other people's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from fabula import faults
from fabula.config import Data
from fabula.data.pairs import PairBatch, collate
from fabula.device import Device
from fabula.errors import InputError, MachineError, require_extra
from fabula.evaluate.config import EvaluateConfig
from fabula.evaluate.intrinsic import Score, score_rows
from fabula.generate.translate import Translator
from fabula.model.encdec import EncoderDecoder
from fabula.progress import Progress, StopFlag
from fabula.tokenizer.base import Tokenizer

T = TypeVar("T")

# Translations that are kept as examples, beside the figures.
_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class Translated:
    """One source with what the model wrote for it and all references."""

    source: str
    text: str
    references: tuple[str, ...]
    score: float  # mean log-probability of a token as the search saw it, nats
    ended: bool  # False: cut at the length allowed

    def to_data(self) -> Data:
        return {
            "source": self.source,
            "text": self.text,
            "references": list(self.references),
            "score": self.score,
            "ended": self.ended,
        }


def require() -> None:
    """MachineError unless the library is there; before a run, not after hours of it."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise _missing()


def bleu_and_chrf(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Data:
    """BLEU and chrF of `texts`, of which each has one or more `references`, with their signatures.

    {"bleu", "bleu_signature", "brevity_penalty", "length_ratio", "chrf", "chrf_signature"}. ValueError for no texts or
    a text without references; MachineError without sacrebleu.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        raise _missing() from None
    if not texts or len(texts) != len(references) or not all(references):
        raise ValueError("BLEU needs texts, and at least one reference for each")
    # sacrebleu wants one list for the first references of all, one for the second and so on; None where there is none.
    most = max(len(r) for r in references)
    streams: list[Any] = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    bleu, chrf = BLEU(), CHRF()
    first, second = bleu.corpus_score(list(texts), streams), chrf.corpus_score(list(texts), streams)
    return {
        "bleu": float(first.score),
        "bleu_signature": str(bleu.get_signature()),
        "brevity_penalty": float(first.bp),
        "length_ratio": float(first.ratio),
        "chrf": float(second.score),
        "chrf_signature": str(chrf.get_signature()),
    }


@dataclass(frozen=True, slots=True)
class Pair:
    """A source and a target by their ids, without special ones, and the bytes of the target's text."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    n_bytes: int


@dataclass(frozen=True, slots=True)
class PairEvaluation:
    """The score of named pairs, known by their hash, and what was written for their sources."""

    name: str
    score: Score
    sha256: str
    quarantined: int
    too_long: int
    translation: Data

    def to_data(self) -> Data:
        known = {"name": self.name, "sha256": self.sha256, "quarantined": self.quarantined, "too_long": self.too_long}
        return {**known, **self.score.to_data()}


def run(
    config: EvaluateConfig,
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    device: Device,
    progress: Progress,
    stop: StopFlag,
    *,
    name: str,
    quarantined: int = 0,
) -> PairEvaluation:
    """Score pairs and translate their sources. Those that do not fit the context are left out and counted."""
    context = model.config.context_length
    fitting = [p for p in pairs if max(len(p.source), len(p.target)) < context]
    if not fitting:
        raise InputError(f"{name}: no pair that fits the model's context of {context:,} tokens")
    digest = hashlib.sha256()
    for pair in fitting:
        for ids in (pair.source, pair.target):
            raw = tokenizer.decode_bytes(ids)
            digest.update(len(raw).to_bytes(8, "little") + raw)
    score = _score(config, model, tokenizer, fitting, device, progress, stop)
    translation = _translate(config, model, tokenizer, fitting, device, progress, stop)
    return PairEvaluation(name, score, digest.hexdigest(), quarantined, len(pairs) - len(fitting), translation)


def _score(
    config: EvaluateConfig,
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    device: Device,
    progress: Progress,
    stop: StopFlag,
) -> Score:
    special, size = tokenizer.special, config.batch_rows
    start = special.of(model.config.target_start)
    ordered = sorted(pairs, key=lambda p: (max(len(p.source), len(p.target)), len(p.source)))
    with progress.task("scoring", len(pairs), "pairs") as task:

        def batches() -> Iterator[PairBatch]:
            for first in range(0, len(ordered), size):
                faults.point("evaluate.scoring")
                stop.check("evaluating")
                part = [(p.source, p.target) for p in ordered[first : first + size]]
                yield collate(part, special.end_of_document, special.filler, start)

        score = score_rows(model, batches(), np.array(tokenizer.byte_lengths(), dtype=np.int64), device, task.advance)
    return replace(score, bytes=sum(p.n_bytes for p in pairs), documents=len(pairs))


def _translate(
    config: EvaluateConfig,
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    device: Device,
    progress: Progress,
    stop: StopFlag,
) -> Data:
    """BLEU and chrF of what the model writes, with the settings of the search and examples, as plain data."""
    began, end = time.monotonic(), tokenizer.special.end_of_document
    references: dict[tuple[int, ...], list[str]] = {}
    for pair in pairs:
        references.setdefault(pair.source, []).append(tokenizer.decode(pair.target))
    sources = _spread(list(references), config.translations or len(references))
    start = tokenizer.special.of(model.config.target_start)
    translator = Translator(model, end, device, start=start, n_ids=tokenizer.vocab_size)
    found: dict[tuple[int, ...], Translated] = {}
    n_tokens = 0
    ordered = sorted(sources, key=len)
    # Twice as long as what belongs to a source of that length: a model that has learnt little would never end.
    ratio = max(1.0, sum(len(p.target) for p in pairs) / max(1, sum(len(p.source) for p in pairs)))
    with progress.task("translating", len(ordered), "texts") as task:
        for first in range(0, len(ordered), config.batch_rows):
            faults.point("evaluate.scoring")
            stop.check("evaluating")
            part = ordered[first : first + config.batch_rows]
            most = min(model.config.context_length, math.ceil(2 * ratio * len(part[-1])) + 16)
            searched = translator.search([[*source, end] for source in part], config.beams, most, config.length_penalty)
            for source, (best, *_) in zip(part, searched, strict=True):
                text = tokenizer.decode(best.ids)
                n_tokens += len(best.ids)
                found[source] = Translated(
                    tokenizer.decode(source), text, tuple(references[source]), best.score, best.ended
                )
            task.advance(len(part))
    made = [found[source] for source in sources]
    seconds = time.monotonic() - began
    return {
        **bleu_and_chrf([t.text for t in made], [t.references for t in made]),
        "sources": len(made),
        "of_sources": len(references),
        "references": sum(len(t.references) for t in made),
        "beams": config.beams,
        "length_penalty": config.length_penalty,
        "cut": sum(not t.ended for t in made),
        "seconds": seconds,
        "tokens_per_second": n_tokens / max(seconds, 1e-9),
        "examples": [t.to_data() for t in _spread(made, _EXAMPLES)],
    }


def _spread(items: list[T], most: int) -> list[T]:
    """At most so many of the items, evenly."""
    if len(items) <= most:
        return items
    return [items[int(i * len(items) / most)] for i in range(most)]


def _missing() -> MachineError:
    return require_extra("sacrebleu", "evaluate", "BLEU and chrF of translations")
