"""How does a model take part in a conversation, or in the writing of a story? Turns in, an answer out.

A model that was tuned for it reads the conversation as its template writes it: ids, so nothing that anybody says
becomes a control token. A plain model knows no turns: all that was written is one text, and it goes on with it.

Nothing is ever left out of what the model reads. What no longer fits its context is refused, with both numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from fabula import storage
from fabula.config import Typed, build, to_data
from fabula.errors import InputError, PromptError, nearest
from fabula.generate.backend import Backend
from fabula.generate.batch import Batch, Request
from fabula.generate.config import GenerateConfig
from fabula.generate.follow import Follower
from fabula.generate.many import seed_of
from fabula.generate.run import Piece, encode_prompt
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.chat import ChatTemplate
from fabula.tokenizer.conversation import DEFAULT

Mode = Literal["chat", "story"]
Role = Literal["user", "assistant"]

# Settings that a dialogue has no use for.
_OTHERS = ("beams", "length_penalty", "lookup", "prompts")
_MAX_BYTES = 16 << 20
# What the next word follows without a space.
_CLOSING = tuple(".,;:!?…)]}»”’")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one of the two said."""

    role: Role
    content: str


def mode_of(tokenizer: Tokenizer) -> Mode:
    """Chat where the model came with a template that its makers wrote; else a story.

    Every tokenizer that is learnt here has Fabula's own template, also for a model that never saw a conversation.
    """
    return "story" if tokenizer.chat_template in (None, DEFAULT) else "chat"


def settable() -> list[str]:
    """The names of the settings of a dialogue."""
    return [f.name for f in fields(GenerateConfig) if f.name not in _OTHERS]


class Dialogue:
    """Turns and a model that answers. Whatever raises an error leaves the turns as they were."""

    def __init__(
        self, backend: Backend, tokenizer: Tokenizer, mode: Mode, config: GenerateConfig, system: str = ""
    ) -> None:
        self.tokenizer, self.mode, self.config, self.system = tokenizer, mode, config, ""
        self.turns: list[Turn] = []
        self._template = ChatTemplate.of(tokenizer) if mode == "chat" else None
        self._backend = backend
        # The memory of what was read stays for the next turn, which begins alike.
        self._batch = Batch(backend, most=1, prefixes=1)
        self._answers = 0
        self._ends = self._ending()
        self._banned = frozenset(n for n in tokenizer.controls - self._ends if n < backend.vocab_size)
        if system:
            self.instruct(system)

    @property
    def context_length(self) -> int:
        return self._backend.context_length

    @property
    def text(self) -> str:
        """All that was written, as one text."""
        return "".join(turn.content for turn in self.turns)

    def close(self) -> None:
        """Forget what was read."""
        self._batch.close()

    # ---- turns ---------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A turn of the person's. In a story an empty one lets the model go on; words that would meet get a space."""
        if self.mode == "story":
            if not text:
                self._check(self.turns)
                return
            before = self.text
            apart = not before or before[-1].isspace() or text[0].isspace() or text.startswith(_CLOSING)
            text = text if apart else f" {text}"
        self._take([*self.turns, Turn("user", text)])

    def undo(self) -> bool:
        """Take back the last answer and what it answered; whether there was any."""
        had = bool(self.turns)
        self._drop_answer()
        if self.turns and self.turns[-1].role == "user":
            self.turns.pop()
        return had

    def retry(self) -> None:
        """Take back the last answer, for another; InputError when there is none."""
        if not self.turns:
            raise InputError("there is no answer yet that could be tried again")
        self._drop_answer()

    def reset(self) -> None:
        """Begin anew; what the system says stays."""
        self.turns = []

    def instruct(self, text: str) -> None:
        """What the system says, before everything else; empty: nothing."""
        if self._template is None:
            raise InputError("a plain model continues one text and knows no system: write it into the story")
        before, self.system = self.system, text
        try:
            self._check(self.turns or [Turn("user", "")])
        except InputError:
            self.system = before
            raise

    def set(self, name: str, value: str) -> None:
        """Change a setting; InputError says what is wrong."""
        if name not in settable():
            raise InputError(f'no setting "{name}": {nearest(name, settable())}')
        known = {**to_data(self.config), name: [value] if name == "stop" else Typed(value)}
        self.config = build(GenerateConfig, known)
        if name == "seed":
            self._answers = 0

    # ---- answers -------------------------------------------------------------------------------------------------

    def used(self) -> int:
        """Ids of the context that the turns take."""
        return len(self._ids(self.turns)) if self.turns else 0

    def answer(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[Piece]:
        """The model's turn, piece by piece; what came of it is kept, also when `stopped` ends it.

        The last piece has the reason; one that was stopped has none.
        """
        ids = self._check(self.turns)
        seed = seed_of(self.config.seed, self._answers)
        self._answers += 1
        request = Request(
            ids=tuple(ids),
            max_new_tokens=self.config.max_new_tokens,
            sampling=replace(self.config, seed=seed),
            ends=self._ends,
            banned=self._banned,
        )
        handle = self._batch.submit(request)
        follower, written = Follower(handle, self.tokenizer, self.config.stop), []
        try:
            while follower.finish is None:
                self._batch.step()
                for text, token in follower.take():
                    written.append(text)
                    reason = "stop" if follower.finish == "stop" else token.finish
                    yield Piece(text, (token.id,), (token.logprob,), reason)
                if stopped():
                    handle.cancel()
            if follower.finish == "cancelled" and (rest := follower.rest()):
                written.append(rest)
                yield Piece(rest, (), (), None)
        finally:
            handle.cancel()
            self._batch.step()  # also when whoever reads it has left
            if handle.error is None:
                # Of a character that was not finished nothing is left: the model would read the sign for it.
                self.turns.append(Turn("assistant", "".join(written).rstrip("\ufffd")))
        if handle.error is not None:
            raise handle.error

    # ---- files ---------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the turns as JSON. A file that holds anything else is never replaced."""
        if path.exists():
            try:
                _read(path)
            except InputError:
                raise InputError(f"{path} is there and is no saved conversation: choose another name") from None
        storage.write_json(path, {"mode": self.mode, "messages": self._messages(self.turns)})

    def load(self, path: Path) -> None:
        """Take the turns of a saved conversation; InputError when it cannot be read or does not fit."""
        mode, messages = _read(path)
        if mode is not None and mode != self.mode:
            raise InputError(f"{path} is a {mode}, this is a {self.mode}: start it with --mode {mode}")
        system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
        if system and self._template is None:
            raise InputError(f"{path} has instructions of a system, which a plain model does not know")
        turns = [Turn("user" if m["role"] == "user" else "assistant", m["content"]) for m in messages[bool(system) :]]
        before, self.system = self.system, system
        try:
            self._take(turns)
        except InputError:
            self.system = before
            raise

    # ---- ids -----------------------------------------------------------------------------------------------------

    def _take(self, turns: list[Turn]) -> None:
        if turns:
            self._check(turns)
        self.turns = turns

    def _check(self, turns: Sequence[Turn]) -> list[int]:
        """The ids of turns; PromptError when they leave no room for an answer."""
        ids = self._ids(turns)
        if len(ids) > self.context_length:
            raise PromptError(
                f"that would be {len(ids):,} tokens, and the model's context holds {self.context_length:,}: nothing is "
                "left out silently, so take turns back (/undo) or begin anew (/reset)"
            )
        return ids

    def _ids(self, turns: Sequence[Turn]) -> list[int]:
        if self._template is None:
            return encode_prompt(self.tokenizer, "".join(turn.content for turn in turns))
        asks = not turns or turns[-1].role == "user"
        return self._template.render(self._messages(turns), add_generation_prompt=asks).ids

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *({"role": turn.role, "content": turn.content} for turn in turns)]

    def _ending(self) -> frozenset[int]:
        """The ids that end an answer: the end of a document, and what the template has the assistant end with."""
        ends = {self.tokenizer.special.end_of_document}
        if self._template is not None:
            said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            made = self._template.render(said)
            learnt = [number for number, mask in zip(made.ids, made.mask, strict=True) if mask]
            ends |= {number for number in learnt if number in self.tokenizer.controls}
        return frozenset(ends)

    def _drop_answer(self) -> None:
        if self.turns and self.turns[-1].role == "assistant":
            self.turns.pop()


def _read(path: Path) -> tuple[Mode | None, list[dict[str, str]]]:
    """The mode, where it is told, and the messages of a saved conversation."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    try:
        data = json.loads(raw.decode("utf-8")) if len(raw) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        data = None
    found: Any = data.get("messages") if isinstance(data, dict) else data
    mode = data.get("mode") if isinstance(data, dict) else None
    sound = isinstance(found, list) and mode in (None, "chat", "story") and all(map(_is_message, found))
    if not sound or any(message["role"] == "system" for message in found[1:]):
        raise InputError(f'{path} is no saved conversation: {{"messages": [{{"role": ..., "content": ...}}, ...]}}')
    return mode, found


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in ("system", "user", "assistant")
        and isinstance(message.get("content"), str)
    )
