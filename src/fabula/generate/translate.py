"""Source ids in, target ids out: drawn or greedy token by token, or searched for with beams.

A source ends with the end-of-document id, as in training; what is written begins after that id (or another, where the
model's configuration says so) and ends with it. A source that does not fit the context is refused, never shortened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fabula.device import Device
from fabula.errors import PromptError
from fabula.generate.beam import Hypothesis, beam_search, refuse_diverged
from fabula.generate.config import GenerateConfig, Sampling
from fabula.generate.engine import Reason, Token
from fabula.generate.sampling import choose
from fabula.generate.steps import TranslationSteps
from fabula.model.encdec import EncoderDecoder


class Translator:
    """Writes with one encoder-decoder. Targets begin with `start` (None: the end-of-document id) and hold no id from
    `n_ids` on: models may have more rows than their tokenizer has tokens."""

    def __init__(
        self,
        model: EncoderDecoder,
        end_of_document: int,
        device: Device,
        cached: bool = True,
        start: int | None = None,
        n_ids: int | None = None,
    ) -> None:
        self.model, self.end_of_document, self.device, self.cached = model, end_of_document, device, cached
        self.start, self.n_ids = end_of_document if start is None else start, n_ids

    @property
    def context_length(self) -> int:
        return self.model.config.context_length

    def check(self, n_source: int) -> None:
        """PromptError when a source of that many ids (its end included) does not fit."""
        if n_source < 1:
            raise PromptError("the source has no ids: end it with the end-of-document id")
        if n_source > self.context_length:
            raise PromptError(
                f"the text has {n_source:,} tokens, the model's context holds {self.context_length:,}: shorten it by "
                f"at least {n_source - self.context_length:,} tokens, or translate its sentences one by one"
            )

    def stream(self, source: Sequence[int], config: GenerateConfig) -> Iterator[Token]:
        """What is written for one source, id by id; with beams it comes when the search is over."""
        if config.beams > 1:
            yield from self.found(source, config)[0]
            return
        yield from self._draw(source, config.max_new_tokens, config)

    def found(self, source: Sequence[int], config: GenerateConfig) -> list[list[Token]]:
        """The texts that a search with beams finds for one source, the best one first."""
        groups = config.beam_groups, config.diversity
        texts = []
        for found in self.search([source], config.beams, config.max_new_tokens, config.length_penalty, *groups)[0]:
            last = len(found.ids)
            texts.append(
                [
                    Token(number, chance, self._reason(number, place, last) if place == last else None)
                    for place, (number, chance) in enumerate(zip(found.ids, found.logprobs, strict=True), 1)
                ]
            )
        return texts

    @torch.inference_mode()
    def _draw(self, source: Sequence[int], max_new_tokens: int, sampling: Sampling) -> Iterator[Token]:
        was_training = self.model.training
        self.model.eval()
        try:
            generator = torch.Generator().manual_seed(sampling.seed)
            steps = self._steps([source])
            ids = [self.start]
            most = min(max_new_tokens, self.context_length)
            for count in range(1, most + 1):
                logits = steps.ahead(torch.tensor([ids[-1:]], device=self.device.torch))[0].float().cpu()
                refuse_diverged(logits)
                number = choose(logits, ids[1:], sampling, generator)
                ids.append(number)
                finish = self._reason(number, count, most) if number == self.end_of_document or count == most else None
                yield Token(number, float(logits.log_softmax(dim=-1)[number]), finish)
                if finish:
                    return
        finally:
            self.model.train(was_training)

    def search(
        self,
        sources: Sequence[Sequence[int]],
        beams: int,
        max_new_tokens: int,
        length_penalty: float = 1.0,
        groups: int = 1,
        diversity: float = 0.0,
    ) -> list[list[Hypothesis]]:
        """For each source the likeliest texts found, the best one first; one beam is greedy."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                steps = self._steps(sources)
            start = torch.full((len(sources), 1), self.start, device=self.device.torch)
            return beam_search(
                steps,
                start,
                beams=beams,
                end=self.end_of_document,
                max_new_tokens=min(max_new_tokens, self.context_length),
                length_penalty=length_penalty,
                groups=groups,
                diversity=diversity,
            )
        finally:
            self.model.train(was_training)

    def _steps(self, sources: Sequence[Sequence[int]]) -> TranslationSteps:
        for source in sources:
            self.check(len(source))
        lengths = torch.tensor([len(source) for source in sources])
        # What stands after a source is never seen: any id will do.
        padded: Tensor = torch.full((len(sources), int(lengths.max())), self.end_of_document)
        for row, source in enumerate(sources):
            padded[row, : len(source)] = torch.tensor(source)
        place = self.device.torch
        return TranslationSteps(self.model, padded.to(place), lengths.to(place), self.device, self.cached, self.n_ids)

    def _reason(self, number: int, count: int, most: int) -> Reason:
        if number == self.end_of_document:
            return "end"
        return "context" if count == self.context_length else "length"
