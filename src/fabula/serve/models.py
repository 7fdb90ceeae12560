"""Which models are served, and what does a request mean to one? A fixed table: no request names a path."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fabula import checkpoint as checkpoints
from fabula.errors import FabulaError, InputError, nearest
from fabula.generate.backend import Backend
from fabula.generate.batch import Request
from fabula.generate.config import Sampling
from fabula.generate.decoding import DecoderBackend
from fabula.generate.runtime import choose_engine
from fabula.language_model import LanguageModel
from fabula.model.decoder import Decoder
from fabula.serve.config import USUAL_TOKENS, ServeConfig
from fabula.serve.metrics import Metrics
from fabula.serve.refusal import Refusal
from fabula.serve.scheduler import Engine
from fabula.tokenizer.chat import ChatTemplate

if TYPE_CHECKING:
    from fabula.serve.schema import ModelCard, Writing

# Drawn where a request has no seed.
_SEEDS = 1 << 62


class Served:
    """A model, its engine and its template."""

    def __init__(
        self,
        name: str,
        lm: LanguageModel,
        config: ServeConfig,
        metrics: Metrics,
        folder: Path,
        note: Callable[[str], None] = lambda message: None,
    ) -> None:
        if not isinstance(lm.model, Decoder):
            raise InputError(
                f"{folder}: an encoder-decoder; only decoder-only models are served so far (fabula generate translates)"
            )
        self.name, self.lm, self.folder, self.model = name, lm, folder, lm.model
        self.tokenizer, self.created = lm.tokenizer, int(time.time())
        self.backend = backend(lm, lm.model, config)
        self.engine = Engine(
            name,
            self.backend,
            lm.tokenizer,
            metrics,
            slots=config.slots,
            queue=config.queue,
            prefixes=config.prefixes,
            note=note,
        )
        self._template: ChatTemplate | None = None

    @property
    def context_length(self) -> int:
        return self.backend.context_length

    def card(self) -> ModelCard:
        """What /v1/models says of it."""
        from fabula.serve.schema import ModelCard

        checkpoint = self.lm.checkpoint
        return ModelCard(
            id=self.name,
            object="model",
            created=self.created,
            owned_by="fabula",
            parameters=sum(p.numel() for p in self.model.parameters()),
            context_length=self.context_length,
            vocab_size=self.tokenizer.vocab_size,
            checkpoint=None if checkpoint is None else checkpoint.path.name,
            chat=self.tokenizer.chat_template is not None,
            deterministic=self.backend.deterministic,
        )

    @property
    def fingerprint(self) -> str:
        """Changes with the weights' origin and the runtime."""
        step = "" if self.lm.checkpoint is None else f"-{self.lm.checkpoint.path.name}"
        return f"fabula-{self.tokenizer.fingerprint[:8]}{step}"

    # ---- prompts ---------------------------------------------------------------------------------------------

    def prompt(self, given: str | Sequence[int]) -> list[int]:
        """The ids that a text begins with; Refusal when they do not fit or are none that may be sent."""
        special = self.tokenizer.special
        if isinstance(given, str):
            ids = [special.begin, *self.encode(given)]
        else:
            ids = list(given)
            self.check_ids(ids[1:] if ids[:1] == [special.begin] else ids)
            if ids[:1] != [special.begin]:
                ids = [special.begin, *ids]
        return self._fitting(ids, "the prompt")

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids of a conversation that the assistant is to answer."""
        try:
            if self._template is None:
                self._template = ChatTemplate.of(self.tokenizer)
            ids = self._template.render(messages, add_generation_prompt=True).ids
        except InputError as error:
            raise Refusal(400, str(error), param="messages") from None
        if not ids:
            raise Refusal(400, "the chat template makes nothing of this conversation", param="messages")
        return self._fitting(ids, "the conversation")

    def encode(self, text: str) -> list[int]:
        """The ids of a text; Refusal when it is none."""
        try:
            return self.tokenizer.encode(text)
        except InputError as error:
            raise Refusal(400, str(error)) from None

    def check_ids(self, ids: Sequence[int]) -> None:
        """Refusal unless all are ids of text: control tokens come from templates alone."""
        size, controls = self.tokenizer.vocab_size, self.tokenizer.controls
        for number in ids:
            if not 0 <= number < size:
                raise Refusal(400, f"id {number} is outside the vocabulary of {size:,}", code="invalid_value")
            if number in controls:
                raise Refusal(400, f"id {number} is a control token, which only templates write", code="invalid_value")

    def _fitting(self, ids: list[int], what: str) -> list[int]:
        if len(ids) > self.context_length:
            raise Refusal(
                400,
                f"{what} has {len(ids):,} tokens, the model's context holds {self.context_length:,}: shorten it by at "
                f"least {len(ids) - self.context_length:,} tokens (nothing is cut silently)",
                code="context_length_exceeded",
            )
        return ids

    # ---- requests --------------------------------------------------------------------------------------------

    def requests(
        self,
        asked: Writing,
        ids: Sequence[int],
        n: int,
        *,
        top: int = 0,
        chat: bool = False,
        most: int | None = None,
        constraint: Any = None,
    ) -> list[Request]:
        """The n texts that are asked for, each with its own seed."""
        size, special = self.backend.vocab_size, self.tokenizer.special
        bias = {int(key): value for key, value in (asked.logit_bias or {}).items()}
        outside = next((number for number in bias if number >= size), None)
        if outside is not None:
            raise Refusal(400, f"logit_bias: id {outside} is outside the vocabulary of {size:,}", param="logit_bias")
        seed = int(torch.randint(_SEEDS, (1,))) if asked.seed is None else asked.seed
        given = {f.name: getattr(asked, f.name, None) for f in dataclasses.fields(Sampling) if f.name != "seed"}
        settings = {"temperature": 1.0, **{key: value for key, value in given.items() if value is not None}}
        # A conversation ends where the assistant's turn does; no other control token is an answer either.
        ends = self.tokenizer.controls if chat else frozenset({special.end_of_document})
        try:
            samplings = [Sampling(seed=_seed(seed + index), **settings) for index in range(n)]
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        return [
            Request(
                ids=tuple(ids),
                # One more than the room that is left can be chosen: it need not be read.
                max_new_tokens=min(most or USUAL_TOKENS, self.context_length + 1 - len(ids)),
                sampling=sampling,
                ends=ends,
                top_logprobs=min(top, size),
                logit_bias=bias,
                constraint=constraint,
                most_pending=1,
            )
            for sampling in samplings
        ]

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> list[float]:
        """The mean of the last hidden states over a text's own tokens. Called in the engine's thread."""
        device = self.lm.device
        with device.autocast():
            hidden = self.model.hidden(torch.tensor([list(ids)], device=device.torch))[0].float()
        mean = hidden[1:].mean(dim=0) if len(ids) > 1 else hidden[0]
        if not bool(mean.isfinite().all()):
            raise FabulaError("the model's hidden states hold NaN or infinity: its weights have diverged")
        made: list[float] = mean.cpu().tolist()
        return made


def backend(lm: LanguageModel, model: Decoder, config: ServeConfig) -> Backend:
    """What runs a model's texts: PyTorch in groups of one size, or what is fastest here.

    InputError or MachineError when 8-bit weights are asked for and cannot be had.
    """
    capacity, n_ids = config.slots + config.prefixes, lm.tokenizer.vocab_size
    if not config.deterministic:
        wanted = "auto" if config.weights == "float32" else "compiled"
        compiled, _ = choose_engine(model, lm.device, wanted, config.weights, n_ids=n_ids)
        if compiled is not None:
            compiled.capacity = capacity
            return compiled
    return DecoderBackend(model, lm.device, capacity=capacity, deterministic=config.deterministic, n_ids=n_ids)


def _seed(number: int) -> int:
    """A seed in the range that generators take."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


class Table:
    """The models by name, in the order in which they were given."""

    def __init__(self, served: Sequence[Served]) -> None:
        self._served = {model.name: model for model in served}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def of(self, name: str | None) -> Served:
        """The model of that name, the first one without a name; Refusal (404) when there is none."""
        if name is None:
            return next(iter(self._served.values()))
        found = self._served.get(name)
        if found is None:
            shown = name if len(name) <= 64 else name[:61] + "..."
            raise Refusal(
                404, f'no model "{shown}"; {nearest(shown, self._served)}', param="model", code="model_not_found"
            )
        return found


def names(folders: Sequence[Path]) -> list[str]:
    """A name for each model: its folder's, made plain; numbered where two are the same."""
    made: list[str] = []
    for folder in folders:
        place = folder.resolve()
        name = place.name
        if re.fullmatch(r"step-\d+", name) and place.parent.name == "checkpoints":
            name = f"{place.parent.parent.name}-{name}"
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "model"
        number, unique = 2, plain
        while unique in made:
            unique, number = f"{plain}-{number}", number + 1
        made.append(unique)
    return made


def run_folder(folder: Path) -> Path | None:
    """The run that a model belongs to, if it has one with checkpoints."""
    for place in (folder, folder.resolve().parent.parent):
        if checkpoints.RunFolder(place).checkpoints.is_dir():
            return place
    return None
