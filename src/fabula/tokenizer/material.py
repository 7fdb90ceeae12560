"""Which text is a tokenizer measured on? All of a corpus, or a bounded part of it that is spread over every source.

Each source is a domain. Of a source that is larger than its part of the bound every piece (long documents are cut at
spaces) is kept or not by a hash of its text, so that the same part comes back; nothing but one piece is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fabula.corpus.document import Quarantined
from fabula.corpus.run import Corpus
from fabula.corpus.split import content_key, position_of
from fabula.errors import InputError

# Characters of a piece: of a source that is taken whole, and of one that is sampled.
_WHOLE, _SAMPLED = 1 << 17, 1 << 14

# A language is told from so many characters, and not from fewer letters than this.
_READ, _FEWEST = 2_000, 40
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a document. `first` says that nothing of the document came before."""

    domain: str
    text: str
    first: bool


class Material:
    """At most `most_bytes` of a corpus, as a stream of pieces. After it `cut` and `unreadable` say what was left."""

    def __init__(self, corpus: Corpus, most_bytes: int) -> None:
        if most_bytes < 1:
            raise InputError(f"--most-bytes {most_bytes}: must be at least 1")
        self._corpus = corpus
        self.most_bytes = most_bytes
        self.unreadable = 0
        self.cut: list[str] = []  # the domains of which a part was taken

    @property
    def domains(self) -> list[str]:
        """What the user wrote for each source."""
        return [source.spec for source in self._corpus.sources]

    def estimated_bytes(self) -> int:
        """About how much text will come."""
        bound = self.most_bytes // len(self._corpus.sources)
        return sum(min(bound, source.estimated_bytes()) for source in self._corpus.sources)

    def pieces(self) -> Iterator[Piece]:
        """The text; InputError when there is none."""
        found = False
        bound = max(1, self.most_bytes // len(self._corpus.sources))
        for source in self._corpus.sources:
            share = bound / max(1, source.estimated_bytes())
            length = _WHOLE if share >= 1 else max(1, min(_SAMPLED, bound // 16))
            left = bound
            if share < 1:
                self.cut.append(source.spec)
            for document in source.documents(self._reject):
                first = True
                for text in document.texts:
                    for piece in cut(text, length):
                        raw = piece.encode("utf-8")
                        if share < 1 and position_of(content_key(raw), 0, b"lab") >= share:
                            continue
                        left -= len(raw)
                        if left >= 0:
                            yield Piece(source.spec, piece, first)
                            found, first = True, False
                if left < 0:
                    if share >= 1:
                        self.cut.append(source.spec)
                    break
        if not found:
            unreadable = f" ({self.unreadable:,} records cannot be read)" if self.unreadable else ""
            raise InputError(f"{self._corpus.config.source}: no text to measure a tokenizer on{unreadable}")

    def _reject(self, record: Quarantined) -> None:
        self.unreadable += 1


def cut(text: str, length: int) -> Iterator[str]:
    """A text in pieces of at most `length` characters, cut before a line end or space where there is one.

    >>> list(cut("uno dos tres", 8))
    ['uno dos', ' tres']
    """
    start = 0
    while len(text) - start > length:
        end = max(text.rfind("\n", start + 1, start + length + 1), text.rfind(" ", start + 1, start + length + 1))
        end = end if end > start else start + length
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def language_teller() -> Callable[[str], str] | None:
    """A function from a text to its language (ISO 639-1); None where py3langid is not installed."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return None
    # One of our own: the library's shared one may have been told of fewer languages elsewhere.
    teller: Any = LanguageIdentifier.from_model_file(MODEL_FILE)

    def tell(text: str) -> str:
        start = text[:_READ]
        letters = sum(letter.isalpha() for letter in start)
        return str(teller.classify(start)[0]) if letters >= _FEWEST else UNKNOWN

    return tell
