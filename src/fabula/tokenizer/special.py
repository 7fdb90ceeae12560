"""Which ids are not text? One registry of special tokens, each a single id of its own.

Content is always encoded with specials off: a user who writes `<|endoftext|>` gets its letters. Only documents'
boundaries and templates insert these ids.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from fabula.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokens:
    """The id of each role; all different. Fabula's own tokenizers have all but the first id of a document.

    A tokenizer of another house may lack any but the end of a document, and may begin a document with an id of its own.
    """

    end_of_document: int
    padding: int | None = None
    end_of_turn: int | None = None
    system: int | None = None
    user: int | None = None
    assistant: int | None = None
    begin_of_document: int | None = None

    def __post_init__(self) -> None:
        ids = self.ids()
        if len(set(ids)) != len(ids):
            raise ValueError(f"special tokens share an id: {ids}")

    def ids(self) -> tuple[int, ...]:
        """All special ids, in the order of the registry."""
        return tuple(i for i in (getattr(self, f.name) for f in fields(self)) if i is not None)

    def of(self, role: str) -> int:
        """The id of a role; InputError when the tokenizer has none."""
        number: int | None = getattr(self, role)
        if number is None:
            raise InputError(f"the tokenizer has no {role} token, which the model needs")
        return number

    @property
    def begin(self) -> int:
        """What the model reads before a document: the end of the one before, unless there is an id for this alone."""
        return self.end_of_document if self.begin_of_document is None else self.begin_of_document

    @property
    def filler(self) -> int:
        """What stands where nothing is read: masks come from lengths, so it may be any id."""
        return self.end_of_document if self.padding is None else self.padding


# The text under which each role is written into tokenizer.json; other tools show it.
SPECIAL_TEXT = {
    "end_of_document": "<|endoftext|>",
    "padding": "<|pad|>",
    "end_of_turn": "<|endofturn|>",
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
}
