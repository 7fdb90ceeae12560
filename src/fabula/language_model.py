"""`LanguageModel`: model, tokenizer and engine as one object of the Python API.

>>> import fabula
>>> lm = fabula.load("runs/fables")                                         # doctest: +SKIP
>>> lm.generate("El conejo", max_new_tokens=50, temperature=0.5, seed=0)    # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fabula.checkpoint import Checkpoint
from fabula.config import build
from fabula.data.pairs import collate
from fabula.device import Device, choose
from fabula.errors import InputError, PromptError
from fabula.evaluate.intrinsic import Score, score_documents, score_rows
from fabula.export.run import open_model
from fabula.generate import run as generating
from fabula.generate.backend import Backend
from fabula.generate.config import GenerateConfig
from fabula.generate.constrained import Pattern, json_schema, regex
from fabula.generate.decoding import DecoderBackend
from fabula.generate.dialogue import Dialogue, Mode, mode_of
from fabula.generate.ensemble import EnsembleBackend
from fabula.generate.many import Sample, together
from fabula.generate.run import Generation, Piece
from fabula.generate.runtime import choose_engine
from fabula.model.encdec import EncoderDecoder
from fabula.model.kinds import AnyModel
from fabula.tokenizer.base import Tokenizer

# Texts that a member of an ensemble writes at a time, and those kept beside them.
_MEMBERS_CAPACITY = 64


def load(
    path: str | os.PathLike[str],
    checkpoint: str = "best",
    device: str = "auto",
    note: Callable[[str], None] | None = None,
    engine: str = "auto",
    weights: str = "float32",
) -> LanguageModel:
    """The model of a run folder, a checkpoint folder or a folder of Hugging Face's format (converted in memory).

    `checkpoint` is best, last or step-N of a run. `engine` is what generates: torch, compiled (a CPU; faster), or
    auto, which takes the compiled one where it can. `weights` int8 makes the compiled engine faster and a
    little less exact.

    When the best or last one is damaged the next one is taken, and `note` is told (a warning without it).
    """
    loaded = open_model(Path(path), checkpoint, note)
    chosen = choose(device)
    return LanguageModel(loaded.model.to(chosen.torch), loaded.tokenizer, chosen, loaded.checkpoint, engine, weights)


class LanguageModel:
    """A trained model that reads and writes text."""

    def __init__(
        self,
        model: AnyModel,
        tokenizer: Tokenizer,
        device: Device,
        checkpoint: Checkpoint | None,
        engine: str = "torch",
        weights: str = "float32",
    ) -> None:
        self.model, self.tokenizer, self.device, self.checkpoint = model.eval(), tokenizer, device, checkpoint
        self._wanted = engine, weights
        self._others: tuple[LanguageModel, ...] = ()

    @cached_property
    def _engine(self) -> tuple[Backend | None, str]:
        # At the first text: what only scores needs no second form of the weights.
        chosen = choose_engine(self.model, self.device, *self._wanted, n_ids=self.tokenizer.vocab_size)
        if not self._others:
            return chosen
        backends = [chosen[0] or self._torch(), *(other._engine[0] or other._torch() for other in self._others)]
        return EnsembleBackend(backends), f"{len(backends)} models, their probabilities averaged"

    def _torch(self) -> DecoderBackend:
        assert not isinstance(self.model, EncoderDecoder)
        return DecoderBackend(self.model, self.device, capacity=_MEMBERS_CAPACITY, n_ids=self.tokenizer.vocab_size)

    @property
    def engine(self) -> tuple[str, str]:
        """What generates, torch or compiled (or an ensemble of models), and the reason."""
        backend, reason = self._engine
        if isinstance(backend, EnsembleBackend):
            return "ensemble", reason
        return "torch" if backend is None else "compiled", reason

    def with_others(self, *others: LanguageModel) -> LanguageModel:
        """An ensemble that writes with the averaged probabilities of all; it scores nothing.

        InputError unless all have the very same tokenizer.
        """
        for model in (self, *others):
            if isinstance(model.model, EncoderDecoder):
                raise InputError("models that translate form no ensembles")
            if model.tokenizer.fingerprint != self.tokenizer.fingerprint:
                raise InputError(
                    "these models have different tokenizers, so their ids mean different things: an ensemble needs "
                    f"one ({self.tokenizer.fingerprint[:12]} and {model.tokenizer.fingerprint[:12]})"
                )
        made = LanguageModel(self.model, self.tokenizer, self.device, self.checkpoint, *self._wanted)
        made._others = (*self._others, *others)
        return made

    def generate(
        self, prompt: str = "", *, top_logprobs: int = 0, pattern: Pattern | None = None, **settings: Any
    ) -> Generation:
        """The continuation of a prompt. Settings are fields of `GenerateConfig`: max_new_tokens, seed, ...

        An encoder-decoder writes what belongs to the prompt, its translation say: the likeliest, unless a temperature
        is given (beams=4 searches for it). With a `pattern` (`lm.regex`, `lm.json_schema`) only what it admits is
        written; `pattern.met(made.ids)` tells whether it was completed.
        """
        pieces = list(self.pieces(prompt, top_logprobs=top_logprobs, pattern=pattern, **settings))
        return generating.gather(prompt, len(generating.encode_prompt(self.tokenizer, prompt)), pieces)

    def pieces(
        self, prompt: str = "", *, top_logprobs: int = 0, pattern: Pattern | None = None, **settings: Any
    ) -> Iterator[Piece]:
        """The continuation piece by piece, with ids and log-probabilities, and those of the likeliest alternatives."""
        config = self.settings(settings)
        return generating.stream(
            self.model,
            self.tokenizer,
            prompt,
            config,
            self.device,
            backend=self._engine[0],
            top_logprobs=top_logprobs,
            constraint=pattern,
        )

    def regex(self, expression: str) -> Pattern:
        """What a text has to match as a whole, for `generate`, `pieces` and `samples`."""
        return regex(self.tokenizer, expression)

    def json_schema(self, schema: str | dict[str, Any] | bool) -> Pattern:
        """The JSON that a text has to be, for `generate`, `pieces` and `samples`."""
        return json_schema(self.tokenizer, schema)

    def stream(self, prompt: str = "", **settings: Any) -> Iterator[str]:
        """The text of the continuation as it appears, in complete characters."""
        for piece in self.pieces(prompt, **settings):
            if piece.text:
                yield piece.text

    def samples(
        self,
        prompts: str | Sequence[str],
        n: int = 1,
        /,
        *,
        top_logprobs: int = 0,
        pattern: Pattern | None = None,
        stopped: Callable[[], bool] = lambda: False,
        **settings: Any,
    ) -> Iterator[Sample]:
        """`n` texts for each of many prompts, written side by side, in the order of the prompts.

        Each has its own seed, which is told with it. `fabula.generate.many.best` takes the likeliest of several.
        """
        given = [prompts] if isinstance(prompts, str) else list(prompts)
        return together(
            self.model,
            self.tokenizer,
            given,
            self.settings(settings),
            self.device,
            n,
            backend=self._engine[0],
            top_logprobs=top_logprobs,
            constraint=pattern,
            stopped=stopped,
        )

    def dialogue(self, mode: Mode | None = None, system: str = "", **settings: Any) -> Dialogue:
        """A conversation with the model, or a story that is written together: by default what the model is made for."""
        if isinstance(self.model, EncoderDecoder):
            raise InputError("this model translates: it writes for one text and takes no turns (fabula generate)")
        config = self.settings(settings)
        # One that goes on, and the memory of one that has ended.
        backend = self._engine[0] or DecoderBackend(
            self.model, self.device, capacity=2, n_ids=self.tokenizer.vocab_size
        )
        return Dialogue(backend, self.tokenizer, mode or mode_of(self.tokenizer), config, system)

    def score(self, text: str, stride: int | None = None, *, source: str | None = None) -> Score:
        """How well the model predicts a text as a whole document: nats, bits_per_byte, tokens, bytes.

        An encoder-decoder predicts it as what is to be written for a `source`.
        """
        self._alone()
        ids, n_bytes = self.encode(text), len(text.encode("utf-8"))
        special = self.tokenizer.special
        if isinstance(self.model, EncoderDecoder):
            return self._score_pair(self.model, source, ids, n_bytes)
        if source is not None:
            raise PromptError("this model is decoder-only: it reads no source beside the text")
        return score_documents(
            self.model, [(ids, n_bytes)], special.end_of_document, self.device, stride, begin=special.begin
        )

    def _alone(self) -> None:
        if self._others:
            raise InputError("an ensemble writes texts and scores none: ask its models one by one")

    def _score_pair(self, model: EncoderDecoder, source: str | None, ids: list[int], n_bytes: int) -> Score:
        if source is None:
            raise PromptError("an encoder-decoder scores a text for a source: lm.score(text, source=...)")
        special, read, most = self.tokenizer.special, self.encode(source), model.config.context_length
        if max(len(read), len(ids)) >= most:
            raise PromptError(f"{len(read):,} and {len(ids):,} tokens: the model's context holds {most - 1:,} each")
        start = special.of(model.config.target_start)
        batch = collate([(read, ids)], special.end_of_document, special.filler, start)
        lengths = np.array(self.tokenizer.byte_lengths(), dtype=np.int64)
        return dataclasses.replace(score_rows(model, [batch], lengths, self.device), bytes=n_bytes, documents=1)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special ones."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; the exact inverse of `encode`."""
        return self.tokenizer.decode(ids)

    def settings(self, given: dict[str, Any]) -> GenerateConfig:
        """Settings of a generation as they are meant for this kind of model: translations are not drawn."""
        usual = {"temperature": 0.0} if isinstance(self.model, EncoderDecoder) else {}
        return _settings({**usual, **given})

    @torch.inference_mode()
    def logits(self, ids: Iterable[int]) -> Tensor:
        """Logits (T, V) in float32 for T ids as they are: no start token is added."""
        self._alone()
        row = list(ids)
        if isinstance(self.model, EncoderDecoder):
            raise PromptError("an encoder-decoder reads two texts: call lm.model(source, lengths, tokens)")
        if not 1 <= len(row) <= self.model.config.context_length:
            raise PromptError(
                f"{len(row):,} ids: the model reads between 1 and {self.model.config.context_length:,} at once"
            )
        vocab_size = self.model.config.vocab_size
        outside = next((i for i in row if not 0 <= i < vocab_size), None)
        if outside is not None:
            raise PromptError(f"id {outside} is outside the vocabulary of {vocab_size:,}")
        out: Tensor = self.model(torch.tensor([row], device=self.device.torch))[0]
        return out


def _settings(given: dict[str, Any]) -> GenerateConfig:
    tuples = {f.name for f in dataclasses.fields(GenerateConfig) if f.name in ("stop", "prompts")}
    plain = {k: [v] if k in tuples and isinstance(v, str) else v for k, v in given.items()}
    return build(GenerateConfig, plain, "generate")
