"""Ids in, ids out: prefill once, then a step a token with a cache.

The cached road and the road that computes everything anew at each token (`cached=False`) give the same ids; a test
holds them to it. A prompt that does not fit the context is refused, never shortened; a text that fills the context ends
with the reason "context".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fabula.device import Device
from fabula.errors import DivergedError, PromptError
from fabula.generate.backend import Backend
from fabula.generate.config import Sampling
from fabula.generate.decoding import DecoderBackend
from fabula.generate.sampling import choose
from fabula.model.decoder import Decoder

Reason = Literal["end", "stop", "length", "context"]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated id, its log-probability under the model (nats, before temperature and filters), and why it is the
    last one, if it is. `top` has the likeliest ids with theirs, where they were asked for."""

    id: int
    logprob: float
    finish: Reason | None
    top: tuple[tuple[int, float], ...] = ()


class Engine:
    """Generates from one model. With `n_ids` it writes none from that id on: models may have more rows than their
    tokenizer has tokens. With a `backend` the model is computed there."""

    def __init__(
        self,
        model: Decoder,
        end_of_document: int,
        device: Device,
        cached: bool = True,
        n_ids: int | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.model, self.end_of_document, self.device, self.cached = model, end_of_document, device, cached
        self.n_ids, self.backend = n_ids, backend

    @property
    def context_length(self) -> int:
        return self.model.config.context_length if self.backend is None else self.backend.context_length

    def check(self, n_prompt: int) -> None:
        """PromptError when a prompt of that many ids leaves no room for a new one."""
        fits(n_prompt, self.context_length)

    def stream(self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling) -> Iterator[Token]:
        """New ids one by one. The end-of-document id ends the text; it is yielded, with the reason "end"."""
        self.check(len(prompt))
        was_training = self.model.training
        self.model.eval()
        try:
            if not self.cached:
                yield from self._stream(list(prompt), max_new_tokens, sampling, self._uncached)
                return
            backend = self.backend or DecoderBackend(self.model, self.device, n_ids=self.n_ids)
            sequence = backend.open()
            try:
                ahead = functools.partial(_ahead, backend, sequence)
                yield from self._stream(list(prompt), max_new_tokens, sampling, ahead)
            finally:
                backend.close(sequence)
        finally:
            self.model.train(was_training)

    def _stream(
        self, ids: list[int], max_new_tokens: int, sampling: Sampling, ahead: Callable[[list[int]], Tensor]
    ) -> Iterator[Token]:
        generator = torch.Generator().manual_seed(sampling.seed)
        n_prompt = len(ids)
        for count in range(1, max_new_tokens + 1):
            logits = ahead(ids)
            number = choose(logits, ids, sampling, generator, n_prompt)
            total = logits.logsumexp(dim=-1)
            if not bool(total.isfinite()):
                raise diverged(len(ids))
            ids.append(number)
            finish: Reason | None = None
            if number == self.end_of_document:
                finish = "end"
            elif count == max_new_tokens:
                finish = "length"
            elif len(ids) > self.context_length:
                finish = "context"
            yield Token(number, float(logits[number] - total), finish)
            if finish:
                return

    @torch.inference_mode()
    def _uncached(self, ids: list[int]) -> Tensor:
        with self.device.autocast():
            hidden = self.model.hidden(torch.tensor([ids], device=self.device.torch), cache=None)[:, -1]
            return self.model.logits(hidden)[0].float().cpu()[: self.n_ids]


def _ahead(backend: Backend, sequence: int, ids: list[int]) -> Tensor:
    """Logits (V) after ids, of which only those are read that are new."""
    known = backend.length(sequence)
    if known:
        return backend.step([sequence], ids[known:])[0]
    logits = backend.read(sequence, ids)
    assert logits is not None
    return logits


def fits(n_prompt: int, context_length: int) -> None:
    """PromptError when a prompt of that many ids leaves no room for a new one."""
    if n_prompt == 0:
        raise PromptError("the prompt has no ids: begin with the end-of-document id")
    if n_prompt > context_length:
        raise PromptError(
            f"the prompt has {n_prompt:,} tokens, the model's context holds {context_length:,}: shorten it by "
            f"at least {n_prompt - context_length:,} tokens (nothing is cut silently)"
        )


def diverged(n_ids: int) -> DivergedError:
    """What is said of logits that are no numbers."""
    return DivergedError(
        f"the model's logits after {n_ids:,} tokens hold NaN or infinity: its weights have diverged. "
        "Use an older checkpoint, or train with a lower learning rate (--train.optimizer.lr)"
    )
