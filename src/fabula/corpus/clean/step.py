"""What is a step of cleaning, and how is its work counted?

A step is a pure function: a text in, the text that is kept out, or why it is dropped. Its account counts documents and
bytes before and after, and keeps the first few examples of what it did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fabula.config import Data

EXAMPLES = 3
_SHOWN = 240  # characters of an example
_BEFORE = 60  # of them before the first difference


@dataclass(frozen=True, slots=True)
class Dropped:
    """A text that is not kept, and why."""

    reason: str


Judge = Callable[[str], str | Dropped]


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it was set: its name, what it does in words, its function. `whole` is what it needs to know of the
    whole corpus first, "" for most."""

    name: str
    about: str
    judge: Judge
    whole: str = ""


@dataclass(slots=True)
class Account:
    """What a step met and let pass: documents (records; a pair is one) and bytes of UTF-8."""

    name: str
    about: str
    documents_in: int = 0
    documents_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    changed: int = 0
    examples: list[Data] = field(default_factory=list)
    _per_kind: dict[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        return self.documents_in - self.documents_out

    def keep(self, before: int, after: int) -> None:
        """Count a document that passes, with its bytes before and after."""
        self.documents_in += 1
        self.documents_out += 1
        self.bytes_in += before
        self.bytes_out += after

    def drop(self, size: int, origin: str, text: str, reason: str) -> None:
        """Count a document that does not pass."""
        self.documents_in += 1
        self.bytes_in += size
        if self._wanted("dropped"):
            self.examples.append({"origin": origin, "kind": "dropped", "reason": reason, "before": _short(text, 0)})

    def change(self, origin: str, before: str, after: str) -> None:
        """Count a document that passes with another text."""
        self.changed += 1
        if self._wanted("changed"):
            at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
            shown = {"before": _short(before, at), "after": _short(after, at)}
            self.examples.append({"origin": origin, "kind": "changed", "reason": "", **shown})

    def _wanted(self, kind: str) -> bool:
        seen = self._per_kind.get(kind, 0)
        self._per_kind[kind] = seen + 1
        return seen < EXAMPLES

    def to_data(self) -> Data:
        """The account as plain data."""
        return {
            "step": self.name,
            "about": self.about,
            "documents_in": self.documents_in,
            "documents_out": self.documents_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "dropped": self.dropped,
            "changed": self.changed,
            "examples": self.examples,
        }


def _short(text: str, at: int) -> str:
    """The part of a text around a place, with marks where it was cut."""
    start = max(0, at - _BEFORE)
    end = min(len(text), start + _SHOWN)
    return ("… " if start else "") + text[start:end] + (" …" if end < len(text) else "")
