"""The verb that shows a conversation as ids, with what the assistant is to learn."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fabula.cli import console
from fabula.cli.recipes import Json
from fabula.errors import InputError

if TYPE_CHECKING:
    from fabula.tokenizer.base import Tokenizer
    from fabula.tokenizer.chat import Rendered

_ROLES = ("system", "user", "assistant", "tool")
_CONTROL, _TRAINED, _PLAIN = "\x1b[2m", "\x1b[30;42m", "\x1b[0m"


def tokenizer_chat(
    tokenizer: Annotated[Path, Parameter(help="a run folder, a tokenizer's folder or its tokenizer.json")],
    file: Annotated[
        Path | None, Parameter(help='a conversation as JSON: [{"role": "user", "content": "..."}, ...]')
    ] = None,
    /,
    *,
    message: Annotated[
        tuple[str, ...], Parameter(negative=(), allow_leading_hyphen=True, help="a message as ROLE:TEXT; repeat it")
    ] = (),
    prompt: Annotated[bool, Parameter(negative=(), help="end where the assistant is to begin")] = False,
    template: Annotated[Path | None, Parameter(help="a chat template (Jinja) to use in place of its own")] = None,
    json: Json = False,
) -> None:
    """Show a conversation as the model reads it, |to|ken|s|, and what of it the assistant is to learn.

    That part is green in a terminal and stands between double brackets elsewhere.
    """
    from fabula.tokenizer.base import Tokenizer
    from fabula.tokenizer.chat import ChatTemplate
    from fabula.tokenizer.foreign_files import small_text

    loaded = Tokenizer.load(tokenizer / "tokenizer" if (tokenizer / "tokenizer").is_dir() else tokenizer)
    messages, tools = _conversation(file, message)
    made = ChatTemplate.of(loaded) if template is None else ChatTemplate(small_text(template), loaded)
    rendered = made.render(messages, prompt, tools)
    pieces = [_piece(loaded, number) for number in rendered.ids]
    if json:
        facts = {"ids": rendered.ids, "mask": rendered.mask, "pieces": pieces, "text": rendered.text}
        console.out_json({**facts, "mask_from": "generation" if made.marks else "origin"})
        return
    terminal = sys.stdout is not None and sys.stdout.isatty()
    coloured = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    controls = [number in loaded.controls for number in rendered.ids]
    if coloured:
        console.out(painted([console.shown(piece) for piece in pieces], controls, rendered.mask), own=True)
    else:
        console.out(bracketed(pieces, rendered.mask))
    trained = sum(rendered.mask)
    console.out(f"{len(pieces):,} ids, {trained:,} of them for the assistant to learn{_how(made.marks, rendered)}")


def _how(marks: bool, rendered: Rendered) -> str:
    if marks or not any(rendered.mask):
        return ""
    return " (by the origin of the text: the template has no {% generation %})"


def bracketed(pieces: Sequence[str], mask: Sequence[int]) -> str:
    """The pieces between bars, what is trained between double brackets.

    >>> bracketed(["<|user|>", "hola", "<|assistant|>", "sí", "<|endofturn|>"], [0, 0, 0, 1, 1])
    '|<|user|>|hola|<|assistant|>|⟦sí|<|endofturn|>⟧|'
    """
    shown = []
    for place, piece in enumerate(pieces):
        first = mask[place] and (place == 0 or not mask[place - 1])
        last = mask[place] and (place + 1 == len(mask) or not mask[place + 1])
        shown.append(("⟦" if first else "") + piece + ("⟧" if last else ""))
    return "|" + "|".join(shown) + "|"


def painted(pieces: Sequence[str], controls: Sequence[bool], mask: Sequence[int]) -> str:
    """The pieces between bars in the colours of a terminal: trained ones on green, control tokens faint."""
    shown = []
    for piece, control, trained in zip(pieces, controls, mask, strict=True):
        colour = (_TRAINED if trained else "") + (_CONTROL if control and not trained else "")
        shown.append(f"{colour}{piece}{_PLAIN}" if colour else piece)
    return "|" + "|".join(shown) + "|"


def _piece(tokenizer: Tokenizer, number: int) -> str:
    """The text of an id; bytes that form no character as `<0xC3>`."""
    raw = tokenizer.decode_bytes([number], specials=True)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in raw)


def _conversation(file: Path | None, given: Sequence[str]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """The messages, and the tools where a file has some."""
    import json

    from fabula.tokenizer.foreign_files import small_text

    if (file is None) == (not given):
        raise InputError("name a conversation: a FILE, or one or more --message ROLE:TEXT")
    if file is None:
        said: list[dict[str, Any]] = []
        for text in map(console.typed, given):
            role, colon, content = text.partition(":")
            if not colon or role not in _ROLES:
                raise InputError(f"--message {text!r:.60} is not ROLE:TEXT with one of {', '.join(_ROLES)}")
            said.append({"role": role, "content": content.removeprefix(" ")})
        return said, None
    text = small_text(file)
    try:
        # Of a file with a conversation on each line, the first.
        data = json.loads(text.split("\n", 1)[0] if file.suffix == ".jsonl" else text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({str(error).splitlines()[0]})") from None
    tools = data.get("tools") if isinstance(data, dict) else None
    messages = data.get("messages") if isinstance(data, dict) else data
    if not isinstance(messages, list) or not (tools is None or isinstance(tools, list)):
        raise InputError(f'{file}: not a list of messages, nor {{"messages": [...]}}')
    return messages, tools
