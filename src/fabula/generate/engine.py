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
from fabula.generate.compiled import CompiledDecoder
from fabula.generate.config import Sampling
from fabula.generate.sampling import choose
from fabula.model.cache import Cache
from fabula.model.decoder import Decoder

Reason = Literal["end", "stop", "length", "context"]


@dataclass(frozen=True, slots=True)
class Token:
    """One generated id, its log-probability under the model (nats, before temperature and filters), and why it is the
    last one, if it is."""

    id: int
    logprob: float
    finish: Reason | None


class Engine:
    """Generates from one model. With `n_ids` it writes none from that id on: models may have more rows than their
    tokenizer has tokens. With `compiled` the model is computed there."""

    def __init__(
        self,
        model: Decoder,
        end_of_document: int,
        device: Device,
        cached: bool = True,
        n_ids: int | None = None,
        compiled: CompiledDecoder | None = None,
    ) -> None:
        self.model, self.end_of_document, self.device, self.cached = model, end_of_document, device, cached
        self.n_ids, self.compiled = n_ids, compiled

    @property
    def context_length(self) -> int:
        return self.model.config.context_length

    def check(self, n_prompt: int) -> None:
        """PromptError when a prompt of that many ids leaves no room for a new one."""
        if n_prompt == 0:
            raise PromptError("the prompt has no ids: begin with the end-of-document id")
        if n_prompt > self.context_length:
            raise PromptError(
                f"the prompt has {n_prompt:,} tokens, the model's context holds {self.context_length:,}: shorten it by "
                f"at least {n_prompt - self.context_length:,} tokens (nothing is cut silently)"
            )

    @torch.inference_mode()
    def stream(self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling) -> Iterator[Token]:
        """New ids one by one. The end-of-document id ends the text; it is yielded, with the reason "end"."""
        self.check(len(prompt))
        if self.compiled is not None and self.cached:
            slot = self.compiled.new()
            try:
                read = functools.partial(self.compiled.read, slot)
                yield from self._stream(list(prompt), max_new_tokens, sampling, read)
            finally:
                self.compiled.free(slot)
            return
        was_training = self.model.training
        self.model.eval()
        cache = self.model.new_cache() if self.cached else None
        try:
            read = functools.partial(self._ahead, cache)
            yield from self._stream(list(prompt), max_new_tokens, sampling, read)
        finally:
            self.model.train(was_training)

    def _ahead(self, cache: Cache | None, fresh: Sequence[int]) -> Tensor:
        """Logits (V) of what follows new ids (all ids, without a cache)."""
        tokens = torch.tensor([fresh], device=self.device.torch)
        with self.device.autocast():
            hidden = self.model.hidden(tokens, cache=cache)[:, -1]
            return self.model.logits(hidden)[0].float().cpu()

    def _stream(
        self, ids: list[int], max_new_tokens: int, sampling: Sampling, ahead: Callable[[Sequence[int]], Tensor]
    ) -> Iterator[Token]:
        generator = torch.Generator().manual_seed(sampling.seed)
        fresh = ids
        for count in range(1, max_new_tokens + 1):
            logits = ahead(fresh)
            if not bool(logits.isfinite().all()):
                raise DivergedError(
                    f"the model's logits after {len(ids):,} tokens hold NaN or infinity: its weights have diverged. "
                    "Use an older checkpoint, or train with a lower learning rate (--train.optimizer.lr)"
                )
            logits = logits[: self.n_ids]
            number = choose(logits, ids, sampling, generator)
            ids.append(number)
            fresh = [number] if self.cached else ids
            finish: Reason | None = None
            if number == self.end_of_document:
                finish = "end"
            elif count == max_new_tokens:
                finish = "length"
            elif len(ids) > self.context_length:
                finish = "context"
            yield Token(number, float(logits.log_softmax(dim=-1)[number]), finish)
            if finish:
                return
