"""What does a request of a batch say so far? Its ids as text: complete characters, nothing of a stop sequence.

The batch knows ids only. Whoever runs it asks each follower after a step; one that meets a stop sequence cancels its
request at once, so that not a single token is computed beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fabula.generate.batch import Finish, Handle
from fabula.generate.engine import Token
from fabula.generate.text import TextStream
from fabula.tokenizer.base import Tokenizer


class Follower:
    """Turns a handle's tokens into text. `finish` says why it ended, once all has been taken: "stop" for a stop
    sequence, and otherwise what the handle says."""

    def __init__(self, handle: Handle, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.handle = handle
        self.finish: Finish | None = None
        self._tokenizer, self._text = tokenizer, TextStream(stop)

    def take(self) -> list[tuple[str, Token]]:
        """The tokens that came since the last call, each with the text that is certain with it.

        Bytes that end in the middle of a character, and text that may begin a stop sequence, come with a later one;
        what is left at the end comes with the last.
        """
        if self.finish is not None:
            return []
        found = []
        for token in self.handle.take():
            shown = self._text.feed(self._tokenizer.decode_bytes([token.id]))
            if token.finish is not None and not self._text.stopped:
                shown += self._text.finish()
            found.append((shown, token))
            if self._text.stopped:
                self.finish = "stop"
                self.handle.cancel()
                return found
        self.finish = self.handle.finish
        return found

    def rest(self) -> str:
        """What was held back when the request ended without a last token (cancelled, or an error)."""
        return "" if self.finish in (None, "stop") else self._text.finish()
