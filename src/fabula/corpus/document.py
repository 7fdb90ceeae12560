"""`Document`: one text with the place it came from. `Quarantined`: a record that could not become one.

Whatever cannot be read exactly is set aside with its file, line, byte and reason, and counted; nothing is
repaired and no replacement character is ever put in, since a model would learn the repair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# A longer document is set aside: it would have to be held in memory whole, several times over.
MAX_DOCUMENT_BYTES = 64 << 20

# What is taken off both ends of a document cut out of plain text. Only what such files put between documents:
# U+2028, no-break spaces and the like are content and stay.
SPACE = " \t\r\n"
SPACE_BYTES = SPACE.encode()

# How the reason of a record begins that is set aside for its bytes.
NOT_UTF8 = "not UTF-8"

_EXCERPT_BYTES = 60


@dataclass(frozen=True, slots=True)
class Document:
    """One text. `origin` says where it was read ("stories.txt, line 120", "fables:es[17]").

    `surprisal_bits` is -log2 of its probability, which only the generator knows. `target` is the other half of a
    pair: what is to be written for the text (its translation, its summary); None in a corpus of plain texts.
    `question` is what a conversation that became this text begins with: texts with the same one are not parted.
    `component` is the name of the part of a mixture that it belongs to.
    """

    text: str
    origin: str
    surprisal_bits: float | None = None
    target: str | None = None
    question: str | None = None
    component: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The text alone, or both halves of a pair."""
        return (self.text,) if self.target is None else (self.text, self.target)

    @property
    def split_by(self) -> str:
        """The text that decides whether it is for training or for validation."""
        return self.text if self.question is None else self.question


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that was set aside.

    `line` counts from 1 (in a table without lines, such as Parquet, it is the row); `byte` counts from 0 at
    the start of the (decompressed) file and is None where a format has no such thing. Both point at the first
    bad byte where there is one, else at the start of the record. `useless` is what could be read but teaches
    nothing (an empty answer): it is set aside as well, but speaks of no damage.
    """

    file: str
    line: int
    byte: int | None
    reason: str
    excerpt: str
    useless: bool = False

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line:,}" + ("" if self.byte is None else f" (byte {self.byte:,})")


Reject = Callable[[Quarantined], None]


def excerpt(raw: bytes, around: int = 0) -> str:
    r"""A few printable characters of raw bytes near a position; everything else is shown as an escape.

    >>> excerpt(b"ma\xf1ana\n")
    'ma\\xf1ana\\n'
    """
    start = max(0, around - _EXCERPT_BYTES // 2)
    shown = raw[start : start + _EXCERPT_BYTES].decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def decode(raw: bytes, file: str, line: int, byte: int) -> str | Quarantined:
    """The text of UTF-8 bytes that start at a line and byte of a file, or where the first bad byte is."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start
        reason = f"{NOT_UTF8}: byte 0x{raw[at]:02x} ({error.reason})"
        return Quarantined(file, line + raw.count(b"\n", 0, at), byte + at, reason, excerpt(raw, at))


def too_long(file: str, line: int, byte: int | None, start: bytes = b"") -> Quarantined:
    """The record of a document above the size limit."""
    reason = f"longer than {MAX_DOCUMENT_BYTES >> 20} MiB"
    return Quarantined(file, line, byte, reason, excerpt(start))
