"""Which ids are not text? One registry of special tokens, each a single id of its own.

Content is always encoded with specials off: a user who writes `<|endoftext|>` gets its letters. Only documents'
boundaries and templates insert these ids.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokens:
    """The id of each role; all different."""

    end_of_document: int
    padding: int
    end_of_turn: int
    system: int
    user: int
    assistant: int

    def __post_init__(self) -> None:
        ids = self.ids()
        if len(set(ids)) != len(ids):
            raise ValueError(f"special tokens share an id: {ids}")

    def ids(self) -> tuple[int, ...]:
        """All special ids, in the order of the registry."""
        return tuple(getattr(self, f.name) for f in fields(self))


# The text under which each role is written into tokenizer.json; other tools show it.
SPECIAL_TEXT = {
    "end_of_document": "<|endoftext|>",
    "padding": "<|pad|>",
    "end_of_turn": "<|endofturn|>",
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
}
