"""Which lines are no text? Headers of Project Gutenberg, navigation of web pages, lines that many documents share."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from fabula.corpus.split import no_room, temporary

# ---- Project Gutenberg ---------------------------------------------------------------------------------------

_START = re.compile(r"^\W*(?:START OF (?:THE|THIS) PROJECT GUTENBERG|END[ *]THE SMALL PRINT)[^\n]*$", re.M | re.I)
_END = re.compile(r"^\W*(?:END OF (?:THE |THIS )?PROJECT GUTENBERG)[^\n]*$", re.M | re.I)
_NAME = re.compile(r"project gutenberg", re.I)
_PARAGRAPHS = re.compile(r"(\n[ \t]*\n\s*)")


def without_gutenberg(text: str) -> str:
    """A book without what Project Gutenberg puts before and behind it.

    What stands before its START line and after its END line goes; so does, in a document that has neither (a piece of
    a book), every paragraph that names it.
    """
    if not _NAME.search(text):
        return text
    for found in _START.finditer(text):
        start = found.end()
        break
    else:
        start = 0
    ending = _END.search(text, start)
    body = text[start : ending.start() if ending else len(text)]
    if _NAME.search(body):
        parts = _PARAGRAPHS.split(body)
        # Paragraphs and the space behind each take turns.
        kept = [parts[i : i + 2] for i in range(0, len(parts), 2) if not _NAME.search(parts[i])]
        body = "".join(piece for pair in kept for piece in pair)
    return body.strip()


# ---- navigation of web pages ---------------------------------------------------------------------------------

# A line goes that is short and says one of these; long lines are prose that speaks about them.
_NAVIGATION_CHARACTERS = 200
_NAVIGATION = re.compile(
    r"""\b(?:
        cookies? | javascript | privacy\ policy | terms\ of\ (?:use|service) | all\ rights\ reserved
      | (?:log|sign)\ ?in | sign\ up | subscribe | newsletter | follow\ us | share\ (?:this|on) | read\ more
      | click\ here | skip\ to\ content | add\ to\ cart | leave\ a\ (?:reply|comment) | previous\ post | next\ post
      | política\ de\ (?:privacidad|cookies) | términos\ de\ (?:uso|servicio) | todos\ los\ derechos\ reservados
      | iniciar\ sesión | inicia\ sesión | regístrate | suscríbete | síguenos | compartir\ en | leer\ más | lee\ más
      | haz\ clic\ aquí | saltar\ al\ contenido | añadir\ al\ carrito | deja\ (?:un\ comentario|una\ respuesta)
    )\b""",
    re.I | re.X,
)
_SENTENCE_WORDS = 12
# What somebody says in a story is no navigation.
_SPEECH = ('"', "“", "«", "—", "‘", "'")


def without_navigation(text: str) -> str:
    """A web page without short lines about cookies, log-ins, sharing and the like.

    A line of up to 200 characters goes when it says one of the usual phrases and is no long sentence (12 words and a
    full stop), so that prose about a cookie stays.

    >>> without_navigation("We use cookies. Accept?\\nThe girl ate cookies.\\nLog in | Sign up")
    'The girl ate cookies.'
    """
    lines = text.split("\n")
    kept = [line for line in lines if not _is_navigation(line)]
    return text if len(kept) == len(lines) else "\n".join(kept).strip("\n")


_COOKIE_NOTICE = re.compile(
    r"\b(?:use|uses|accept|utili[zs]a(?:mos)?|usa(?:mos)?|acepta[rs]?)\b.{0,40}\bcookies\b|\bcookies\b.{0,40}\b(?:polic|polít)",
    re.I,
)


def _is_navigation(line: str) -> bool:
    if len(line) > _NAVIGATION_CHARACTERS:
        return False
    found = _NAVIGATION.search(line)
    if found is None:
        return False
    if found[0].lower().startswith("cookie"):
        # Children eat them.
        return bool(_COOKIE_NOTICE.search(line))
    if line.lstrip().startswith(_SPEECH):
        return False
    return not (line.rstrip().endswith((".", "!", "?", "”", '"', "»")) and len(line.split()) >= _SENTENCE_WORDS)


# ---- lines that many documents share -------------------------------------------------------------------------


class LineCounts:
    """In how many documents each line stands: exact, in a fixed amount of memory.

    Up to a million different lines are counted in memory (about 120 MB), then they are added to a temporary database
    (about 25 bytes a different line; see `corpus.split.Seen`), which goes with the process. The counts do not depend on
    the order of the documents.
    """

    def __init__(self, held: int = 1 << 20) -> None:
        self._held, self._counts = held, Counter[bytes]()
        self._database: sqlite3.Connection | None = None

    def add(self, text: str) -> None:
        """Count the lines of a document, each once."""
        self._counts.update({line_key(line) for line in text.split("\n")} - {_EMPTY})
        if len(self._counts) > self._held:
            self._flush()

    def frequent(self, least: int) -> frozenset[bytes]:
        """The keys of the lines that stand in at least so many documents. The counts end with this."""
        if self._database is None:
            found = frozenset(key for key, count in self._counts.items() if count >= least)
        else:
            self._flush()
            try:
                rows = self._database.execute("SELECT key FROM lines WHERE count >= ?", (least,))
                found = frozenset(key for (key,) in rows)
            except sqlite3.OperationalError as error:
                raise no_room(error) from error
            self._database.close()
        self._counts.clear()
        return found

    def _flush(self) -> None:
        try:
            if self._database is None:
                self._database = temporary("CREATE TABLE lines(key BLOB PRIMARY KEY, count INTEGER) WITHOUT ROWID")
            # Sorted, so that neighbours in the tree are written together.
            self._database.executemany(
                "INSERT INTO lines VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET count = count + excluded.count",
                sorted(self._counts.items()),
            )
        except sqlite3.OperationalError as error:
            raise no_room(error) from error
        self._counts.clear()


def line_key(line: str) -> bytes:
    """What tells a line from others: its text without the space around it, as 8 bytes of BLAKE2b."""
    stripped = line.strip()
    return blake2b(stripped.encode("utf-8"), digest_size=8).digest() if stripped else _EMPTY


_EMPTY = b""


def without_lines(text: str, frequent: frozenset[bytes]) -> str:
    """A text without the lines of which the key is given."""
    lines = text.split("\n")
    kept = [line for line in lines if line_key(line) not in frequent]
    return text if len(kept) == len(lines) else "\n".join(kept).strip("\n")


def frequent_lines(texts: Iterable[str], least: int) -> frozenset[bytes]:
    """The keys of the lines that stand in at least `least` of the texts."""
    counts = LineCounts()
    for text in texts:
        counts.add(text)
    return counts.frequent(least)


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text that are not empty, without the space around them."""
    return (stripped for line in text.split("\n") if (stripped := line.strip()))
