"""The verb that talks: a conversation in the terminal, or line by line through a pipe."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from fabula.cli import console, pieces
from fabula.cli.models import Device, Model, Which
from fabula.errors import InputError, MachineError

if TYPE_CHECKING:
    from fabula.generate.dialogue import Dialogue
    from fabula.generate.run import Piece

View = Literal["text", "tokens"]

_HELP = """\
/help               this
/reset              begin anew
/undo               take back the last answer and what it answered
/retry              another answer in place of the last one
/save FILE          write the conversation as JSON
/load FILE          take one from a file
/set NAME VALUE     change a setting, as /set temperature 0.5; /set alone lists them
/view tokens|text   how answers are shown: |what| was| writ|ten|, or as text
/system TEXT        what the system says first; without TEXT: nothing
/quit               leave, as Ctrl-D does
A line that ends with a backslash goes on in the next; one that begins with // is text that begins with /.
Ctrl-C stops an answer and keeps what came."""


def chat(
    model: Model,
    /,
    *,
    mode: Annotated[
        Literal["auto", "chat", "story"],
        Parameter(help="chat: turns, as the model's template writes them; story: one text, written together"),
    ] = "auto",
    system: Annotated[str, Parameter(allow_leading_hyphen=True, help="chat: what the system says first")] = "",
    max_new_tokens: Annotated[int, Parameter(help="most tokens of an answer")] = 200,
    temperature: Annotated[float, Parameter(help="0 is greedy")] = 0.7,
    top_k: Annotated[int, Parameter(help="keep the k likeliest tokens; 0: all")] = 0,
    top_p: Annotated[float, Parameter(help="keep the likeliest tokens up to this probability")] = 1.0,
    min_p: Annotated[float, Parameter(help="keep tokens of this share of the likeliest one's probability")] = 0.0,
    repetition_penalty: Annotated[float, Parameter(help="above 1 makes seen tokens less likely")] = 1.0,
    seed: Annotated[int, Parameter(help="the same seed and the same lines give the same answers")] = 0,
    view: Annotated[View, Parameter(help="tokens: |what| was| writ|ten|, in the colour of its probability")] = "text",
    engine: Annotated[
        str, Parameter(help="torch, compiled (a CPU; faster), or auto: compiled where it can be")
    ] = "auto",
    weights: Annotated[
        str, Parameter(help="of the compiled engine: float32, or int8 (faster, less exact)")
    ] = "float32",
    checkpoint: Which = "best",
    device: Device = "auto",
) -> None:
    """Talk with a model in the terminal; /help lists the commands.

    A model that was tuned for conversations answers; a plain one writes a story together with you. Through a pipe
    each line is a turn, and only answers go to stdout.
    """
    from fabula.config import build
    from fabula.generate.config import GenerateConfig
    from fabula.language_model import load

    config = build(
        GenerateConfig,
        {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
        },
    )
    lm = load(model, checkpoint, device, console.say, engine, weights)
    settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    dialogue = lm.dialogue(None if mode == "auto" else mode, console.typed(system), **settings)
    try:
        _Terminal(dialogue, view).run(str(model))
    finally:
        dialogue.close()


class _Terminal:
    """Reads lines, obeys commands, shows answers."""

    def __init__(self, dialogue: Dialogue, view: View) -> None:
        self.dialogue, self.view = dialogue, view
        self._typed_in = sys.stdin is not None and sys.stdin.isatty()
        self._commands: dict[str, Callable[[str], None]] = {
            "help": lambda _: console.say(_HELP),
            "reset": self._reset,
            "undo": self._undo,
            "retry": self._retry,
            "save": self._save,
            "load": self._load,
            "set": self._set,
            "view": self._view,
            "system": self._system,
        }

    def run(self, name: str) -> None:
        """Until the lines end, or /quit."""
        self._greet(name)
        if self._typed_in:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (input() edits lines and remembers them once it is there)
        if isinstance(sys.stdin, io.TextIOWrapper):
            # Bytes that are not UTF-8 are refused when the model is to read them, and lose no other line.
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        while True:
            try:
                text = self._read()
                if text is None or text.split() == ["/quit"]:
                    break
                self._obey(text)
            except KeyboardInterrupt:
                if not self._typed_in:
                    raise
                console.say("\n(Ctrl-D or /quit leaves)")
            except InputError as error:
                console.say(f"! {error}")
        if self._typed_in and text is None:
            console.say("")

    def _greet(self, name: str) -> None:
        size = f"context of {self.dialogue.context_length:,} tokens"
        if self.dialogue.mode == "chat":
            said = f"{name}, {size}. It answers as its chat template has it. /help lists the commands."
        else:
            said = (
                f"{name}, {size}. This model was not tuned for conversations: it writes a story together with you. "
                "What you write is continued; an empty line lets it go on. /help lists the commands."
            )
        console.say(said)

    # ---- lines -----------------------------------------------------------------------------------------------------

    def _read(self) -> str | None:
        """What was typed, over lines that end with a backslash; None at the end."""
        found: list[str] = []
        while True:
            line = self._line("… " if found else "> ")
            if line is None:
                return "\n".join(found) if found else None
            if not line.endswith("\\"):
                return "\n".join([*found, line])
            found.append(line[:-1])

    def _line(self, prompt: str) -> str | None:
        try:
            if self._typed_in:
                return console.typed(input(prompt))
            line = sys.stdin.readline() if sys.stdin is not None else ""
        except EOFError:
            return None
        return console.typed(line.removesuffix("\n").removesuffix("\r")) if line else None

    def _obey(self, text: str) -> None:
        if text.startswith("//"):
            self._say(text[1:])
        elif text.startswith("/"):
            name, _, rest = text[1:].partition(" ")
            if name not in self._commands:
                raise InputError(f"no command /{name}; /help lists them (text that begins with / is written with //)")
            self._commands[name](rest.strip())
        else:
            self._say(text)

    # ---- commands --------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        if self.dialogue.mode == "chat" and not text.strip():
            return
        self.dialogue.say(text)
        self._answer()

    def _reset(self, _: str) -> None:
        self.dialogue.reset()
        console.say("(a new beginning)")

    def _undo(self, _: str) -> None:
        if not self.dialogue.undo():
            raise InputError("there is nothing to take back")
        console.say(f"(taken back; {self._fill()})")

    def _retry(self, _: str) -> None:
        self.dialogue.retry()
        self._answer()

    def _save(self, name: str) -> None:
        path = _path(name)
        try:
            self.dialogue.save(path)
        except MachineError as error:
            raise InputError(str(error)) from None  # what was said is still there, for another place
        console.say(f"({len(self.dialogue.turns)} turns in {path})")

    def _load(self, name: str) -> None:
        path = _path(name)
        self.dialogue.load(path)
        console.say(f"({len(self.dialogue.turns)} turns from {path}; {self._fill()})")

    def _set(self, rest: str) -> None:
        from fabula.generate.dialogue import settable

        name, _, value = rest.partition(" ")
        if not name:
            rows = [(n, str(getattr(self.dialogue.config, n))) for n in settable()]
            console.say(console.table(rows))
            return
        if not value.strip():
            raise InputError("write /set NAME VALUE, as /set temperature 0.5")
        self.dialogue.set(name.replace("-", "_"), value.strip())
        console.say(f"({name} = {getattr(self.dialogue.config, name.replace('-', '_'))})")

    def _view(self, name: str) -> None:
        if name not in ("text", "tokens"):
            raise InputError("write /view tokens or /view text")
        self.view = "tokens" if name == "tokens" else "text"

    def _system(self, text: str) -> None:
        self.dialogue.instruct(text)
        console.say("(the system says it from the next answer on)" if text else "(the system says nothing)")

    # ---- answers ---------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        from fabula.progress import stop_on_signals

        started, came, last = time.monotonic(), [], None
        line = pieces.Barred(self.dialogue.tokenizer) if self.view == "tokens" else None
        with stop_on_signals() as stop:
            for piece in self.dialogue.answer(stop.__bool__):
                last = piece
                if line is None:
                    console.out(piece.text, end="")
                for number, chance in zip(piece.ids, piece.logprobs, strict=True):
                    came.append(time.monotonic())
                    if line is not None:
                        line.add(number, chance)
            if line is None:
                console.out("")
            else:
                line.close()
            if stop.signal_number != signal.SIGINT:
                stop.check("an answer was written")
        console.say(f"({self._said(came, started, last)})")

    def _said(self, came: list[float], started: float, last: Piece | None) -> str:
        """How much came, how fast, why it ended, and how full the context is."""
        words = [f"{len(came):,} tokens"]
        if len(came) > 1 and came[-1] > came[0]:
            # The first token waits for the text to be read.
            words.append(f"{(len(came) - 1) / (came[-1] - came[0]):,.0f} tokens/s")
        if came:
            words.append(f"the first after {console.clock(came[0] - started)}")
        reason = None if last is None else last.finish_reason
        if reason is None:
            words.append("stopped")
        elif reason == "length":
            words.append(f"ended by max_new_tokens = {self.dialogue.config.max_new_tokens:,} (/set)")
        elif reason == "context":
            words.append("ended because the context is full")
        return f"{', '.join(words)}; {self._fill()}"

    def _fill(self) -> str:
        """How full the context is, and what that means for the next answer."""
        used, most = self.dialogue.used(), self.dialogue.context_length
        said = f"{used:,} of {most:,} tokens of context"
        left = max(0, most + 1 - used)
        if left < self.dialogue.config.max_new_tokens:
            said += f": room for {left:,} more, your words among them; /undo or /reset make some"
        return said


def _path(name: str) -> Path:
    if not name:
        raise InputError("name a file")
    return Path(name).expanduser()
