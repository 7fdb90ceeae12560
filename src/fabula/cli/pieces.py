"""How do tokens look as they are written? Between bars, in a terminal in the colour of their probability."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fabula.cli import console

if TYPE_CHECKING:
    from fabula.tokenizer.base import Tokenizer

# Black on light grounds of the terminal's 256 colours, from the surest down: green, yellow, orange, red.
_GROUNDS = ((0.5, 157), (0.1, 229), (0.01, 222), (0.0, 217))
_PLAIN, _FAINT = "\x1b[0m", "\x1b[2m"


def ground(logprob: float) -> int:
    """The colour of a probability.

    >>> [ground(math.log(p)) for p in (0.9, 0.2, 0.05, 0.001)]
    [157, 229, 222, 217]
    """
    return next(colour for least, colour in _GROUNDS if math.exp(logprob) >= least)


def named(tokenizer: Tokenizer, number: int) -> str:
    """A token as it stands between two bars. Of a control token the bars stay bare, which those of a text never do."""
    from fabula.tokenizer.showing import shown

    if number in tokenizer.controls:
        return console.shown(tokenizer.decode([number], specials=True))
    return shown(tokenizer.decode_bytes([number]))


class Barred:
    """A text as |to|ken|s|, token by token; after a line end a new line begins. A prompt stands before it, faint."""

    def __init__(self, tokenizer: Tokenizer, prompt: str = "") -> None:
        self._tokenizer, self._coloured, self._begun = tokenizer, console.coloured(), False
        for number in tokenizer.encode(prompt):
            self._put(number, _FAINT)

    def add(self, number: int, logprob: float) -> None:
        """A token that was written, with its log-probability."""
        self._put(number, f"\x1b[38;5;16;48;5;{ground(logprob)}m")

    def close(self) -> None:
        """The end of the text."""
        if self._begun:
            console.out("|")
        self._begun = False

    def _put(self, number: int, colour: str) -> None:
        piece = named(self._tokenizer, number)
        console.out("|" + (f"{colour}{piece}{_PLAIN}" if self._coloured else piece), end="", own=True)
        self._begun = True
        if b"\n" in self._tokenizer.decode_bytes([number]):
            self.close()
