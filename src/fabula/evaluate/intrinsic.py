"""How well does a model predict a text? Nats, and from them bits per byte and perplexity.

Bits per byte = nats / ln 2 / bytes of text: comparable between tokenizers. Perplexity = exp(nats / tokens): not.

What is counted, exactly: a document is predicted from the end-of-document id alone, and its end is predicted too, so
nats include the beginnings and the ends of documents; the bytes are those of the documents' texts, each once. A
document longer than the context is read in windows: a window predicts what no window before it predicted, `stride`
tokens at a time, and sees at least context - stride tokens before them. With stride = context a window begins without
a past (cheap, and what is done during training); half the context is the default of `fabula evaluate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fabula.config import Data
from fabula.data.batch import Batch
from fabula.data.pairs import PairBatch
from fabula.device import Device
from fabula.errors import InputError
from fabula.losses import IGNORE, token_nll
from fabula.model.decoder import Decoder
from fabula.model.encdec import EncoderDecoder

# Batches of windows that are gathered before they are sorted by length.
_GATHERED = 8


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over a text; adds up. `tokens` counts predictions, ends of documents included; `bytes` bytes of text."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    documents: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.nats + other.nats,
            self.tokens + other.tokens,
            self.bytes + other.bytes,
            self.documents + other.documents,
        )

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for a byte of the text; infinite for an empty text."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.inf

    @property
    def loss(self) -> float:
        """Nats per predicted token."""
        return self.nats / self.tokens if self.tokens else math.inf

    @property
    def perplexity(self) -> float:
        """exp(loss); depends on the tokenizer."""
        return math.exp(min(self.loss, 700.0))

    def to_data(self) -> Data:
        return {
            "bits_per_byte": self.bits_per_byte,
            "perplexity": self.perplexity,
            "loss": self.loss,
            "nats": self.nats,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "documents": self.documents,
        }


@torch.inference_mode()
def score_rows(
    model: Decoder | EncoderDecoder,
    batches: Iterable[Batch | PairBatch],
    byte_lengths: NDArray[np.int64],
    device: Device,
    each: Callable[[int], None] | None = None,
) -> Score:
    """The score of rows from the loader; `byte_lengths[id]` is the bytes of text behind an id. Of pairs the targets
    are scored, given their sources.

    `each` is told the rows of every batch done (progress, and where a stop is noticed).
    """
    was_training = model.training
    model.eval()
    total = Score()
    lengths = torch.from_numpy(byte_lengths)
    try:
        for batch in batches:
            n_bytes = int(lengths[batch.targets[batch.targets != IGNORE]].sum())
            moved = batch.to(device)
            with device.autocast():
                hidden = _hidden(model, moved)
                nats = token_nll(
                    hidden.flatten(0, 1),
                    model.head_weight.to(hidden.dtype),
                    moved.targets.flatten(),
                    model.head_bias,
                    model.logit_cap,
                )
            total += Score(float(nats.cpu().double().sum()), batch.n_targets, n_bytes)
            if each is not None:
                each(batch.tokens.shape[0])
    finally:
        model.train(was_training)
    return total


def _hidden(model: Decoder | EncoderDecoder, batch: Batch | PairBatch) -> Tensor:
    """The last hidden states of a batch; a model is given batches of its own kind."""
    if isinstance(model, EncoderDecoder):
        assert isinstance(batch, PairBatch)
        return model.hidden(batch.source, batch.source_lengths, batch.tokens)
    assert isinstance(batch, Batch)
    return model.hidden(batch.tokens, batch.positions, batch.documents)


def score_documents(
    model: Decoder,
    documents: Iterable[tuple[Sequence[int], int]],
    end_of_document: int,
    device: Device,
    stride: int | None = None,
    batch_rows: int = 16,
    each: Callable[[int], None] | None = None,
    begin: int | None = None,
) -> Score:
    """The score of documents given as (ids, bytes of text); every byte counted once.

    Windows of one length are scored together; `each` is told the documents' bytes as they are done. `begin` is what
    stands before a document, where that is not the end of the one before.
    """
    context = model.config.context_length
    step = max(1, context // 2) if stride is None else stride
    if not 1 <= step <= context:
        raise InputError(f"stride={step} must be between 1 and the context length {context}")
    total = Score()
    waiting: list[tuple[list[int], int]] = []

    def flush() -> Score:
        # Rows of about one length are scored together, so that little is padded.
        waiting.sort(key=lambda row: len(row[0]))
        done = Score()
        for first in range(0, len(waiting), batch_rows):
            nats, tokens = _score_windows(model, waiting[first : first + batch_rows], end_of_document, device)
            done += Score(nats, tokens)
        waiting.clear()
        return done

    for ids, n_bytes in documents:
        stream = [end_of_document if begin is None else begin, *ids, end_of_document]
        for window in windows(len(stream), context, step):
            waiting.append((stream[window.start : window.stop + 1], window.scored))
            if len(waiting) == _GATHERED * batch_rows:
                total += flush()
        total += Score(0.0, 0, n_bytes, 1)
        if each is not None:
            each(n_bytes)
    return total + flush()


@dataclass(frozen=True, slots=True)
class Window:
    """Inputs start .. stop-1 of a stream, predicting start+1 .. stop; the last `scored` predictions count."""

    start: int
    stop: int
    scored: int


def windows(length: int, context: int, stride: int) -> Iterator[Window]:
    """Windows over a stream of `length` ids whose scored predictions are 1 .. length-1, each once.

    >>> [(w.start, w.stop, w.scored) for w in windows(8, 4, 2)]
    [(0, 4, 4), (2, 6, 2), (3, 7, 1)]
    """
    done = 0  # predictions made so far; prediction i is of stream[i + 1]
    while done < length - 1:
        stop = min(length - 1, context if done == 0 else done + stride)
        start = max(0, stop - context)
        yield Window(start, stop, stop - done)
        done = stop


@torch.inference_mode()
def _score_windows(
    model: Decoder, rows: list[tuple[list[int], int]], padding: int, device: Device
) -> tuple[float, int]:
    """Nats and predictions of windows of any lengths, padded at the end where nothing is counted."""
    longest = max(len(ids) for ids, _ in rows) - 1
    tokens = torch.full((len(rows), longest), padding)
    targets = torch.full((len(rows), longest), IGNORE)
    for row, (ids, scored) in enumerate(rows):
        n = len(ids) - 1
        # Padding comes after the text: under a causal mask nothing that counts can see it.
        tokens[row, :n] = torch.tensor(ids[:-1])
        targets[row, n - scored : n] = torch.tensor(ids[len(ids) - scored :])
    was_training = model.training
    model.eval()
    try:
        tokens, targets = tokens.to(device.torch), targets.to(device.torch)
        with device.autocast():
            hidden = model.hidden(tokens)
            nats = token_nll(
                hidden.flatten(0, 1),
                model.head_weight.to(hidden.dtype),
                targets.flatten(),
                model.head_bias,
                model.logit_cap,
            )
    finally:
        model.train(was_training)
    return float(nats.cpu().double().sum()), sum(scored for _, scored in rows)
