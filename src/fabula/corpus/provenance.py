"""Under which licence may a source be used, and how is it cited? What its folder or its card says, in its own words.

    README.md                      `license:` and `license_name:` of the metadata at its beginning (the card of a
                                   dataset); the citation is the first BibTeX entry in it
    LICENSE*, LICENCE*, COPYING*   the first line that has words
    CITATION*                      as it is

Nothing is interpreted: a licence is a text that a person wrote, passed on with the place where it stood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from fabula.config import Data
from fabula.corpus.streams import guarded

# Up to so much the hash of every file is noted down with the source.
HASHED_BYTES = 256 << 20
LISTED_FILES = 1000

_MOST_BYTES = 256 << 10
_MOST_CITATION = 4000
_MOST_LICENCE = 200

_LICENCE_NAMES = ("license", "licence", "copying")
_PAPER = re.compile(r"(license|licence|copying|citation)([.-].*)?", re.IGNORECASE)
_TEXT_SUFFIXES = ("", ".txt", ".md", ".rst", ".cff", ".bib", ".markdown")
_CARD = "readme.md"
_METADATA = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_KEY = re.compile(r"([\w-]+):[ \t]*(.*)")
_BIBTEX = re.compile(r"^@\w+\s*\{.*?^\s*\}", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Papers:
    """What a source says of itself, and where it says it. None: nothing."""

    licence: str | None = None
    licence_from: str | None = None
    citation: str | None = None
    citation_from: str | None = None

    def or_else(self, other: Papers) -> Papers:
        """These, with another's where there are none."""
        made = self
        if made.licence is None:
            made = replace(made, licence=other.licence, licence_from=other.licence_from)
        if made.citation is None:
            made = replace(made, citation=other.citation, citation_from=other.citation_from)
        return made

    def to_data(self) -> Data:
        return {
            "licence": self.licence,
            "licence_from": self.licence_from,
            "citation": self.citation,
            "citation_from": self.citation_from,
        }


def stated(licence: str, citation: str) -> Papers:
    """What the user says in the settings."""
    return Papers(
        licence or None,
        "corpus.licence" if licence else None,
        citation or None,
        "corpus.citation" if citation else None,
    )


def is_paper(path: Path) -> bool:
    """Whether a file speaks of its folder instead of being a part of the text."""
    if path.name.lower() == _CARD:
        return _METADATA.match(_start(path)) is not None
    return _PAPER.fullmatch(path.name) is not None and path.suffix.lower() in _TEXT_SUFFIXES


def of_files(paths: Iterable[Path]) -> Papers:
    """What the card, the licence and the citation of a folder say."""
    found = {path.name.lower(): path for path in sorted(paths) if path.is_file()}
    papers = Papers()
    if _CARD in found:
        papers = of_card(_start(found[_CARD]), found[_CARD].name)
    for name, path in found.items():
        if _PAPER.fullmatch(name) is None or path.suffix.lower() not in _TEXT_SUFFIXES:
            continue
        text = _start(path).strip()
        if name.startswith(_LICENCE_NAMES):
            line = next((line.strip(" #*=-\t") for line in text.splitlines() if line.strip(" #*=-\t")), "")
            papers = papers.or_else(Papers(line[:_MOST_LICENCE] or None, path.name))
        else:
            papers = papers.or_else(Papers(citation=text[:_MOST_CITATION] or None, citation_from=path.name))
    return papers


def metadata(text: str) -> str:
    """The metadata at the beginning of a card, between lines of dashes; "" without any."""
    match = _METADATA.match(text)
    return match[1] if match else ""


def card_has(path: Path, *keys: str) -> bool:
    """Whether the metadata of a card has one of some keys."""
    return any(key in _top_level(metadata(_start(path))) for key in keys)


def of_card(text: str, name: str) -> Papers:
    """What the card of a dataset says: the metadata at its beginning, and a BibTeX entry.

    >>> of_card("---\\nlicense: cc-by-4.0\\n---\\n# Tales\\n", "README.md").licence
    'cc-by-4.0'
    """
    keys = _top_level(metadata(text))
    names = [value for key in ("license", "license_name") for value in keys.get(key, []) if value != "other"]
    licence = ", ".join(names or keys.get("license", []))[:_MOST_LICENCE] or None
    entry = _BIBTEX.search(text)
    citation = entry[0][:_MOST_CITATION] if entry else None
    return Papers(licence, name if licence else None, citation, name if citation else None)


def _top_level(metadata: str) -> dict[str, list[str]]:
    """The plain values of YAML's outermost keys. All that is wanted of a file that a stranger wrote; no YAML is run."""
    keys: dict[str, list[str]] = {}
    key = ""
    for line in metadata.splitlines():
        match = _KEY.fullmatch(line)
        if match is not None:
            key, value = match[1], _plain(match[2])
            inner = value.removeprefix("[").removesuffix("]") if value.startswith("[") else value
            keys[key] = (
                [_plain(part) for part in inner.split(",")] if value.startswith("[") else [value] if value else []
            )
        elif key and line.lstrip().startswith("- "):
            keys[key].append(_plain(line.lstrip().removeprefix("- ")))
        elif line and not line.startswith((" ", "\t", "#")):
            key = ""
    return keys


def _plain(value: str) -> str:
    value = value.strip()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else re.sub(r"\s+#.*", "", value)


def _start(path: Path) -> str:
    with guarded(path), path.open("rb") as file:
        return file.read(_MOST_BYTES).decode("utf-8", "replace")
