"""Stage: a model and a prompt to text, streamed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fabula.device import Device
from fabula.errors import InputError, PromptError
from fabula.generate import speculative
from fabula.generate.backend import Backend
from fabula.generate.batch import Batch, Constraint, Request
from fabula.generate.beam import beam_search
from fabula.generate.config import GenerateConfig
from fabula.generate.decoding import DecoderBackend
from fabula.generate.engine import Engine, Reason, Token
from fabula.generate.ensemble import EnsembleBackend
from fabula.generate.speculative import Lookup
from fabula.generate.steps import BackendSteps, TextSteps
from fabula.generate.text import TextStream
from fabula.generate.translate import Translator
from fabula.model.encdec import EncoderDecoder
from fabula.model.kinds import AnyModel
from fabula.tokenizer.base import Tokenizer

Alternatives = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the text as it appears; the last one may be empty and carries the reason."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Reason | None
    top: tuple[Alternatives, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished text. `logprobs` (nats) are the model's own, before temperature and filters; `top` has the likeliest
    ids at each place, where they were asked for."""

    prompt: str
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Reason
    prompt_tokens: int
    top: tuple[Alternatives, ...] = ()


def stream(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    cached: bool = True,
    backend: Backend | None = None,
    top_logprobs: int = 0,
    constraint: Callable[[], Constraint] | None = None,
) -> Iterator[Piece]:
    """The continuation of a prompt, piece by piece, in complete characters.

    A decoder reads the end-of-document id and then the prompt, as every document began in training. An encoder-decoder
    reads the prompt and the id that ends it, and writes what belongs to it: its translation, say.
    """
    if top_logprobs or constraint is not None:
        tokens = _batched(model, tokenizer, prompt, config, device, backend, top_logprobs, constraint)
    else:
        tokens = _tokens(model, tokenizer, prompt, config, device, cached, backend)
    yield from _pieces(tokens, tokenizer, config.stop)


def _pieces(tokens: Iterator[Token], tokenizer: Tokenizer, stop: Sequence[str]) -> Iterator[Piece]:
    """Tokens with the text that is certain with each, until one ends it."""
    text = TextStream(stop)
    for token in tokens:
        shown = text.feed(tokenizer.decode_bytes([token.id]))
        reason: Reason | None = "stop" if text.stopped else token.finish
        if reason is not None:
            shown += text.finish()
            # Text held back for a stop sequence may complete one only now.
            reason = "stop" if text.stopped else reason
        yield Piece(shown, (token.id,), (token.logprob,), reason, (token.top,) if token.top else ())
        if reason is not None:
            return


def require_plain(model: AnyModel, config: GenerateConfig, what: str) -> None:
    """InputError when texts are written in a way that tells no alternatives and takes no constraint."""
    if isinstance(model, EncoderDecoder):
        raise InputError(f"{what}: decoder-only models have it, not one that translates")
    if config.beams > 1 or config.lookup:
        way = f"beams={config.beams}" if config.beams > 1 else f"lookup={config.lookup}"
        raise InputError(f"{what} and {way} do not go together; leave out one")


def _batched(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    backend: Backend | None,
    top_logprobs: int,
    constraint: Callable[[], Constraint] | None,
) -> Iterator[Token]:
    """The tokens of a request that runs alone."""
    require_plain(model, config, "alternatives" if constraint is None else "a pattern or schema")
    assert not isinstance(model, EncoderDecoder)
    batch = Batch(backend or DecoderBackend(model, device, n_ids=tokenizer.vocab_size), most=1)
    handle = batch.submit(
        Request(
            ids=tuple(encode_prompt(tokenizer, prompt)),
            max_new_tokens=config.max_new_tokens,
            sampling=config,
            ends=frozenset({tokenizer.special.end_of_document}),
            top_logprobs=top_logprobs,
            constraint=constraint,
        )
    )
    try:
        while batch.step():
            yield from handle.take()
        yield from handle.take()
        if handle.error is not None:
            raise handle.error
    finally:
        batch.close()


def _tokens(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    cached: bool,
    backend: Backend | None,
) -> Iterator[Token]:
    if config.beams > 1:
        return iter(_found(model, tokenizer, prompt, config, device, cached, backend)[0])
    end, ids = tokenizer.special.end_of_document, encode_prompt(tokenizer, prompt)
    with _told_the_length(prompt):
        if isinstance(model, EncoderDecoder):
            translator, source = _translator(model, tokenizer, ids, device, cached)
            return translator.stream(source, config)
        engine = Engine(model, end, device, cached, tokenizer.vocab_size, backend)
        engine.check(len(ids))
        if config.lookup:
            backend = backend or DecoderBackend(model, device, n_ids=tokenizer.vocab_size)
            ends = frozenset({end})
            return speculative.stream(backend, Lookup(), ids, config.max_new_tokens, config, ends, config.lookup)
        return engine.stream(ids, config.max_new_tokens, config)


def _searched(engine: Engine, ids: list[int], config: GenerateConfig) -> list[list[Token]]:
    """The texts that a search finds, the likeliest first."""
    model, device = engine.model, engine.device
    most = min(config.max_new_tokens, engine.context_length + 1 - len(ids))
    # An ensemble is several models, which only its backend knows.
    of_several = BackendSteps(engine.backend) if isinstance(engine.backend, EnsembleBackend) else None
    was_training = model.training
    model.eval()
    try:
        found = beam_search(
            of_several or TextSteps(model, device, engine.cached, engine.n_ids),
            torch.tensor([ids], device="cpu" if of_several else device.torch),
            beams=config.beams,
            end=engine.end_of_document,
            max_new_tokens=most,
            length_penalty=config.length_penalty,
            groups=config.beam_groups,
            diversity=config.diversity,
        )[0]
    finally:
        model.train(was_training)
        if of_several is not None:
            of_several.close()
    texts = []
    for text in found:
        whole: Reason = "length" if len(text.ids) == config.max_new_tokens else "context"
        last: Reason = "end" if text.ended else whole
        texts.append(
            [
                Token(number, chance, last if place == len(text.ids) else None)
                for place, (number, chance) in enumerate(zip(text.ids, text.logprobs, strict=True), 1)
            ]
        )
    return texts


def search(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    cached: bool = True,
    backend: Backend | None = None,
) -> list[Generation]:
    """All texts that a search with beams finds, at most as many as it has beams, the best one first."""
    texts = _found(model, tokenizer, prompt, config, device, cached, backend)
    n_prompt = len(encode_prompt(tokenizer, prompt))
    return [gather(prompt, n_prompt, list(_pieces(iter(text), tokenizer, config.stop))) for text in texts]


def _found(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    cached: bool,
    backend: Backend | None,
) -> list[list[Token]]:
    ids = encode_prompt(tokenizer, prompt)
    with _told_the_length(prompt):
        if isinstance(model, EncoderDecoder):
            translator, source = _translator(model, tokenizer, ids, device, cached)
            return translator.found(source, config)
        engine = Engine(model, tokenizer.special.end_of_document, device, cached, tokenizer.vocab_size, backend)
        engine.check(len(ids))
        return _searched(engine, ids, config)


def _translator(
    model: EncoderDecoder, tokenizer: Tokenizer, ids: list[int], device: Device, cached: bool
) -> tuple[Translator, list[int]]:
    """Who translates, and the source as it is read."""
    end = tokenizer.special.end_of_document
    start = tokenizer.special.of(model.config.target_start)
    translator = Translator(model, end, device, cached, start, tokenizer.vocab_size)
    source = [*ids[1:], end]
    translator.check(len(source))
    return translator, source


@contextlib.contextmanager
def _told_the_length(prompt: str) -> Iterator[None]:
    """A prompt that does not fit is told its length in characters, too."""
    try:
        yield
    except PromptError as error:
        raise PromptError(f"{error}; it is {len(prompt):,} characters long") from None


def run(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerateConfig,
    device: Device,
    cached: bool = True,
    backend: Backend | None = None,
    top_logprobs: int = 0,
    constraint: Callable[[], Constraint] | None = None,
) -> Generation:
    """The whole continuation of a prompt."""
    pieces = list(stream(model, tokenizer, prompt, config, device, cached, backend, top_logprobs, constraint))
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
        top=tuple(t for p in pieces for t in p.top),
    )


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids a prompt begins with: what stands before every document (the end of the one before), then the text."""
    return [tokenizer.special.begin, *tokenizer.encode(prompt)]
