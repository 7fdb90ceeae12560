"""What becomes of many prompts, each continued several times? They run side by side and come in the order given.

Each text has a seed of its own, told with it, so that any of them can be written again alone. A model that a batch
cannot run (one that translates), searches and guesses write one text after another.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from fabula.device import Device
from fabula.errors import InputError, PromptError
from fabula.generate.backend import Backend
from fabula.generate.batch import Batch, Constraint, Handle, Request
from fabula.generate.config import GenerateConfig
from fabula.generate.decoding import DecoderBackend
from fabula.generate.follow import Follower
from fabula.generate.run import Generation, Piece, encode_prompt, gather, require_plain, run, search
from fabula.model.encdec import EncoderDecoder
from fabula.model.kinds import AnyModel
from fabula.tokenizer.base import Tokenizer

# Texts that are written at a time.
SIDE_BY_SIDE = 32
# Ended texts of which the beginning is kept: the samples of a prompt read it once.
_PREFIXES = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One of the texts for a prompt: the number of the prompt, its own among them, both from 0, and its seed."""

    prompt: int
    number: int
    seed: int
    made: Generation

    @property
    def mean_logprob(self) -> float:
        """The mean log-likelihood of a token under the model, in nats."""
        return sum(self.made.logprobs) / len(self.made.logprobs)


def seed_of(seed: int, number: int) -> int:
    """The seed of a text among several: the first has the one given.

    >>> seed_of(7, 0), seed_of(7, 1) == seed_of(7, 1), seed_of(7, 1) == seed_of(8, 0)
    (7, True, False)
    """
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:6], "big")


def best(samples: Sequence[Sample]) -> Sample:
    """The text with the highest mean log-likelihood; the first of equals."""
    return max(samples, key=lambda sample: sample.mean_logprob)


def together(
    model: AnyModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: GenerateConfig,
    device: Device,
    n: int = 1,
    *,
    backend: Backend | None = None,
    top_logprobs: int = 0,
    constraint: Callable[[], Constraint] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Sample]:
    """`n` texts for each prompt, in the order of the prompts, each as soon as it and those before it are finished. Of a
    search they are the `n` best that it finds, or as many as it finds.

    When `stopped` says so, those that are finished come, and no others. PromptError names a prompt that does not fit
    before anything is written.
    """
    if n < 1:
        raise InputError(f"n={n}: at least one text is written for each prompt")
    if isinstance(model, EncoderDecoder) or config.beams > 1 or config.lookup > 0:
        if top_logprobs or constraint is not None:
            require_plain(model, config, "alternatives" if constraint is None else "a pattern or schema")
        if n > config.beams > 1:
            raise InputError(f"n={n}: a search with beams={config.beams} finds no more texts than it has beams")
        for place, prompt in enumerate(prompts):
            if config.beams > 1:
                if stopped():
                    return
                found = search(model, tokenizer, prompt, config, device, backend=backend)
                yield from (Sample(place, number, config.seed, made) for number, made in enumerate(found[:n]))
                continue
            for number in range(n):
                if stopped():
                    return
                seed = seed_of(config.seed, number)
                changed = replace(config, seed=seed)
                yield Sample(place, number, seed, run(model, tokenizer, prompt, changed, device, backend=backend))
        return
    ids = [tuple(encode_prompt(tokenizer, prompt)) for prompt in prompts]
    context = model.config.context_length if backend is None else backend.context_length
    for place, row in enumerate(ids, 1):
        if len(row) > context:
            where = f"prompt {place:,}" if len(ids) > 1 else "the prompt"
            raise PromptError(
                f"{where} has {len(row):,} tokens, the model's context holds {context:,}: shorten it by at least "
                f"{len(row) - context:,} tokens (nothing is cut silently)"
            )
    if backend is None:
        most = min(SIDE_BY_SIDE, len(ids) * n)
        backend = DecoderBackend(
            model,
            device,
            capacity=most + _PREFIXES,
            deterministic=device.name == "cpu",
            n_ids=tokenizer.vocab_size,
        )
    requests = (
        (
            _Open(place, number, seed_of(config.seed, number)),
            Request(
                ids=row,
                max_new_tokens=config.max_new_tokens,
                sampling=replace(config, seed=seed_of(config.seed, number)),
                ends=frozenset({tokenizer.special.end_of_document}),
                top_logprobs=top_logprobs,
                constraint=constraint,
            ),
        )
        for place, row in enumerate(ids)
        for number in range(n)
    )
    was_training = model.training
    model.eval()
    batch = Batch(backend, most=SIDE_BY_SIDE, prefixes=_PREFIXES)
    try:
        yield from _finished(batch, tokenizer, prompts, config.stop, requests, stopped)
    finally:
        batch.close()
        model.train(was_training)


class _Open:
    """A text on its way."""

    def __init__(self, prompt: int, number: int, seed: int) -> None:
        self.prompt, self.number, self.seed = prompt, number, seed
        self.pieces: list[Piece] = []
        self.follower: Follower | None = None

    def begin(self, handle: Handle, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self.follower = Follower(handle, tokenizer, stop)

    def take(self) -> bool:
        """Take what came; whether the text is finished. Raises what made it fail."""
        assert self.follower is not None
        came = self.follower.take()
        for text, token in came:
            # "stop" is known only from the follower, and stands below.
            top = (token.top,) if token.top else ()
            self.pieces.append(Piece(text, (token.id,), (token.logprob,), token.finish, top))
        if self.follower.handle.error is not None:
            raise self.follower.handle.error
        if self.follower.finish == "stop":
            self.pieces[-1] = replace(self.pieces[-1], finish_reason="stop")
        return self.follower.finish is not None


def _finished(
    batch: Batch,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    stop: Sequence[str],
    requests: Iterator[tuple[_Open, Request]],
    stopped: Callable[[], bool],
) -> Iterator[Sample]:
    order: deque[_Open] = deque()
    writing: list[_Open] = []
    done: set[_Open] = set()
    going = True
    while going or order:
        # As many as run, and as many that wait: a file may have more prompts than memory has room for.
        while going and len(writing) < 2 * batch.most:
            made = next(requests, None)
            if made is None:
                going = False
                break
            made[0].begin(batch.submit(made[1]), tokenizer, stop)
            order.append(made[0])
            writing.append(made[0])
        batch.step()
        over = [one for one in writing if one.take()]
        writing = [one for one in writing if one not in over]
        done.update(over)
        halted = stopped()
        while order and (order[0] in done or halted):
            one = order.popleft()
            if one in done:
                done.remove(one)
                pieces = one.pieces
                n_prompt = 0 if one.follower is None else len(one.follower.handle.request.ids)
                yield Sample(one.prompt, one.number, one.seed, gather(prompts[one.prompt], n_prompt, pieces))
        if halted:
            return
