"""From a stream of ids to a stream of text: complete characters only, and nothing of a stop sequence.

A character may span tokens, and so may a stop sequence: bytes are held back until they form a character, and text is
held back while it could still become a stop sequence.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Feed the bytes of tokens, get the text that is certain."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = [s for s in stops if s]
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """The new text that can be shown; after a stop sequence `stopped` is true and nothing more comes."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(piece)
        return self._release(final=False)

    def finish(self) -> str:
        """What was held back, at the end; an incomplete character becomes U+FFFD."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._release(final=True)

    def _release(self, final: bool) -> str:
        # The stop that is complete first, whatever the pieces are that the text arrives in.
        ends = [(place + len(s), place) for s in self._stops if (place := self._held.find(s)) >= 0]
        if ends:
            self.stopped = True
            text, self._held = self._held[: min(ends)[1]], ""
            return text
        keep = 0 if final else self._possible_stop()
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop sequence."""
        longest = max((len(s) for s in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-size:]) for s in self._stops):
                return size
        return 0
