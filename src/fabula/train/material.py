"""What does a run learn from? Rows of packed text, or pairs; the trainer sees batches and no difference.

A row of text has `context_length` predictions, or fewer where it is padded. Pairs differ too. `batch_tokens` then means
that many predictions in a step on average, and rows = batch_tokens / (mean predictions of a row or a pair).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from fabula.config import Data
from fabula.data.batch import Batch
from fabula.data.loader import Loader
from fabula.data.mixture import Feed
from fabula.data.packing import sentence as packing_note
from fabula.data.pairs import PairBatch, PairLoader
from fabula.data.shards import Shards
from fabula.errors import InputError
from fabula.model.config import ModelConfig
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.kinds import AnyConfig
from fabula.plan.estimate import WORN, repeats
from fabula.tokenizer.base import Tokenizer
from fabula.train.config import TrainConfig

Ids = NDArray[np.int64]

# Pairs of the validation split that are written for at every checkpoint where the recipe names no prompts.
_EXAMPLES = 6
# Batches among which one of average size is looked for, to time steps on.
_LOOKED_AT = 64


@dataclass(frozen=True, slots=True)
class Material:
    """Loaders of both splits and what a plan needs to know of them."""

    loader: Loader | PairLoader
    checker: Loader | PairLoader  # of the validation split
    rows: int  # in one optimizer step
    row_tokens: float  # predictions in a row, on average
    bits_per_token_byte: float  # a loss in nats a token times this is bits a byte
    fixed: Callable[[int | None], Ids]  # so many validation rows spread evenly (None: all), for `checker.rows_at`
    typical: Batch | PairBatch  # a batch of average size
    examples: list[tuple[str, list[str]]]  # sources and references to be shown at every checkpoint
    notes: list[str]


def step_rows(config: TrainConfig, row_tokens: float) -> int:
    """Rows in one optimizer step."""
    return max(1, round(config.batch_tokens / row_tokens) if row_tokens % 1 else config.batch_tokens // int(row_tokens))


def material(
    config: TrainConfig,
    model: AnyConfig,
    tokenizer: Tokenizer,
    shards: Shards,
    seed: int,
    feed: Feed | None = None,
) -> Material:
    """What a model of that kind learns from; InputError when the shards are of the other kind."""
    if isinstance(model, EncoderDecoderConfig) != shards.pairs:
        # A recipe is refused before it comes to this.
        raise InputError(
            f"{shards.folder}: the records there are {'pairs' if shards.pairs else 'texts'}, which this kind of model "
            "does not learn from; prepare other data, or choose another --model.preset"
        )
    if isinstance(model, EncoderDecoderConfig):
        return _pairs(config, model, tokenizer, shards, seed)
    return _texts(config, model, tokenizer, shards, seed, feed or Feed())


def _texts(
    config: TrainConfig, model: ModelConfig, tokenizer: Tokenizer, shards: Shards, seed: int, feed: Feed
) -> Material:
    context, padding = model.context_length, tokenizer.special.filler
    loader = Loader(shards.train, context, seed, config.isolate_documents, feed, padding)
    # Validation text is scored as it is, whatever the shares of a mixture.
    as_it_is = Feed(feed.packing)
    checker = Loader(shards.validation, context, seed, config.isolate_documents, as_it_is, padding)
    rows = step_rows(config, loader.row_tokens)
    notes = []
    if feed.packing != "concat":
        notes.append(f"{packing_note(loader.figures())}; {rows:,} rows a step")
    return Material(
        loader=loader,
        checker=checker,
        rows=rows,
        row_tokens=loader.row_tokens,
        bits_per_token_byte=1 / max(loader.token_bytes, 1e-9) / log(2),
        fixed=checker.fixed,
        typical=loader.batch(0, rows),
        examples=[],
        notes=notes,
    )


def _pairs(
    config: TrainConfig, model: EncoderDecoderConfig, tokenizer: Tokenizer, shards: Shards, seed: int
) -> Material:
    context, padding = model.context_length, tokenizer.special.filler
    start = tokenizer.special.of(model.target_start)
    loader = PairLoader(shards.train, context, seed, padding, start)
    checker = PairLoader(shards.validation, context, seed, padding, start)
    row_tokens = loader.target_tokens / loader.n_rows
    rows = step_rows(config, row_tokens)
    notes = [
        f"batches of {rows:,} pairs: batch_tokens = {config.batch_tokens:,} at {row_tokens:.1f} target tokens a pair, "
        f"{loader.waste(rows):.0%} of their places are padding"
    ]
    for side in (loader, checker):
        if side.too_long:
            notes.append(
                f"{side.too_long:,} pairs of the {side.name} split are longer than the context of {context:,} tokens "
                "and are left out; raise --model.context_length to keep them"
            )
    batches = [loader.batch(n * rows, rows) for n in range(min(_LOOKED_AT, -(-loader.n_rows // rows)))]
    sizes = [(_size(batch), batch) for batch in batches]
    mean = sum(size for size, _ in sizes) / len(sizes)
    return Material(
        loader=loader,
        checker=checker,
        rows=rows,
        row_tokens=row_tokens,
        bits_per_token_byte=loader.target_tokens / max(1, loader.target_bytes) / log(2),
        fixed=checker.fixed,
        typical=min(sizes, key=lambda found: abs(found[0] - mean))[1],
        examples=_examples(checker, tokenizer),
        notes=notes,
    )


def _size(batch: PairBatch) -> int:
    return batch.source.numel() + batch.tokens.numel()


def _examples(checker: PairLoader, tokenizer: Tokenizer) -> list[tuple[str, list[str]]]:
    """A few sources of the validation split, spread evenly, each with all of its references."""
    references = checker.references()
    sources = list(references)
    chosen = sources[:: max(1, len(sources) // _EXAMPLES)][:_EXAMPLES]
    return [(tokenizer.decode(source), [tokenizer.decode(t) for t in references[source]]) for source in chosen]


def feeding(loader: Loader | PairLoader, position: int) -> Data:
    """What became of the packing and of the shares of a mixture, where there is something to tell."""
    if isinstance(loader, PairLoader):
        return {}
    found: Data = {}
    if loader.rows.kind != "concat":
        found["packing"] = loader.figures()
    if len(loader.shares) > 1:
        passes = loader.passes(position)
        found["mixture"] = {name: {"share": loader.shares[name], "passes": passes[name]} for name in loader.shares}
    return found


def reading_notes(loader: Loader | PairLoader, rows: int) -> list[str]:
    """How often the text, or each component of a mixture, is read in so many rows; advice where that is too often."""
    if isinstance(loader, PairLoader) or len(loader.shares) < 2:
        passes = rows / loader.n_rows
        return [repeats("the text", passes)] if passes > WORN else []
    each = loader.passes(rows)
    told = (f"{name} {loader.shares[name]:.1%} of the tokens, read {each[name]:,.2f} times" for name in each)
    worn = [repeats(name, times, mixed=True) for name, times in each.items() if times > WORN]
    return [f"mixture: {'; '.join(told)}", *worn]
