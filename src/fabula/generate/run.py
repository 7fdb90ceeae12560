"""Stage: a model and a prompt to text, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fabula.device import Device
from fabula.errors import PromptError
from fabula.generate import speculative
from fabula.generate.backend import Backend
from fabula.generate.beam import beam_search
from fabula.generate.config import GenerateConfig
from fabula.generate.decoding import DecoderBackend
from fabula.generate.engine import Engine, Reason, Token
from fabula.generate.speculative import Lookup
from fabula.generate.steps import TextSteps
from fabula.generate.text import TextStream
from fabula.generate.translate import Translator
from fabula.model.encdec import EncoderDecoder
from fabula.model.kinds import AnyModel
from fabula.tokenizer.base import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the text as it appears; the last one may be empty and carries the reason."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Reason | None


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished text. `logprobs` (nats) are the model's own, before temperature and filters."""

    prompt: str
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Reason
    prompt_tokens: int


def stream(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    cached: bool = True,
    backend: Backend | None = None,
) -> Iterator[Piece]:
    """The continuation of a prompt, piece by piece, in complete characters.

    A decoder reads the end-of-document id and then the prompt, as every document began in training. An encoder-decoder
    reads the prompt and the id that ends it, and writes what belongs to it: its translation, say.
    """
    text = TextStream(config.stop)
    for token in _tokens(model, tokenizer, prompt, config, device, cached, backend):
        shown = text.feed(tokenizer.decode_bytes([token.id]))
        reason: Reason | None = "stop" if text.stopped else token.finish
        if reason is not None:
            shown += text.finish()
            # Text held back for a stop sequence may complete one only now.
            reason = "stop" if text.stopped else reason
        yield Piece(shown, (token.id,), (token.logprob,), reason)
        if reason is not None:
            return


def _tokens(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    cached: bool,
    backend: Backend | None,
) -> Iterator[Token]:
    end, ids = tokenizer.special.end_of_document, encode_prompt(tokenizer, prompt)
    try:
        if isinstance(model, EncoderDecoder):
            start = tokenizer.special.of(model.config.target_start)
            translator = Translator(model, end, device, cached, start, tokenizer.vocab_size)
            source = [*ids[1:], end]
            translator.check(len(source))
            return translator.stream(source, config)
        engine = Engine(model, end, device, cached, tokenizer.vocab_size, backend)
        engine.check(len(ids))
        if config.beams > 1:
            return _searched(engine, ids, config)
        if config.lookup:
            backend = backend or DecoderBackend(model, device, n_ids=tokenizer.vocab_size)
            ends = frozenset({end})
            return speculative.stream(backend, Lookup(), ids, config.max_new_tokens, config, ends, config.lookup)
        return engine.stream(ids, config.max_new_tokens, config)
    except PromptError as error:
        raise PromptError(f"{error}; it is {len(prompt):,} characters long") from None


def _searched(engine: Engine, ids: list[int], config: GenerateConfig) -> Iterator[Token]:
    """The likeliest text that a search finds; it comes when the search is over."""
    model, device = engine.model, engine.device
    most = min(config.max_new_tokens, engine.context_length + 1 - len(ids))
    was_training = model.training
    model.eval()
    try:
        found = beam_search(
            TextSteps(model, device, engine.cached, engine.n_ids),
            torch.tensor([ids], device=device.torch),
            beams=config.beams,
            end=engine.end_of_document,
            max_new_tokens=most,
            length_penalty=config.length_penalty,
        )[0][0]
    finally:
        model.train(was_training)
    whole: Reason = "length" if len(found.ids) == config.max_new_tokens else "context"
    for place, (number, chance) in enumerate(zip(found.ids, found.logprobs, strict=True), 1):
        last: Reason | None = None
        if place == len(found.ids):
            last = "end" if found.ended else whole
        yield Token(number, chance, last)


def run(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    cached: bool = True,
    backend: Backend | None = None,
) -> Generation:
    """The whole continuation of a prompt."""
    pieces = list(stream(model, tokenizer, prompt, config, device, cached, backend))
    return gather(prompt, len(encode_prompt(tokenizer, prompt)), pieces)


def gather(prompt: str, prompt_tokens: int, pieces: list[Piece]) -> Generation:
    """Pieces as one generation."""
    reason = pieces[-1].finish_reason
    assert reason is not None
    return Generation(
        prompt=prompt,
        text="".join(p.text for p in pieces),
        ids=tuple(i for p in pieces for i in p.ids),
        logprobs=tuple(x for p in pieces for x in p.logprobs),
        finish_reason=reason,
        prompt_tokens=prompt_tokens,
    )


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids a prompt begins with: what stands before every document (the end of the one before), then the text."""
    return [tokenizer.special.begin, *tokenizer.encode(prompt)]
