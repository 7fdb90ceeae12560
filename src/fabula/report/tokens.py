"""How is a text cut? One page with its tokens on alternating grounds, several tokenizers side by side."""

from __future__ import annotations

from typing import Any

from fabula.config import Data
from fabula.report import wording
from fabula.report.run import compose

# Classes t0 .. t3 of the style sheet.
COLOURS = 4


def render(data: Data) -> str:
    """The page as text; equal data give equal pages."""
    return compose("tokens.html.j2", describe(data), ["page.css", "tokens.css"])


def describe(data: Data) -> dict[str, Any]:
    """The values for the template."""
    found = data["tokenizers"]
    names = [row["name"] for row in found]
    text = data["text"]
    return {
        "title": " and ".join(names) if len(names) < 3 else f"{len(names)} tokenizers",
        "sentence": f"{wording.plural(len(text), 'character')} in {wording.size(found[0]['n_bytes'])}.",
        "panels": [_panel(row) for row in found],
    }


def _panel(row: Data) -> dict[str, Any]:
    n = len(row["ids"])
    sentence = (
        f"{wording.plural(n, 'token')} of a vocabulary of {wording.exact(row['vocab_size'])}: "
        f"{wording.ratio(row['n_bytes'] / max(1, n))} bytes a token, "
        f"{wording.ratio(n / max(1, row['words']))} tokens a word."
    )
    if row["changes"]:
        sentence += f" It changes a text before it cuts it: {row['changes']}."
    return {"name": row["name"], "sentence": sentence, "tokens": _tokens(row)}


def _tokens(row: Data) -> list[dict[str, Any]]:
    made = []
    for number, (token, piece, raw) in enumerate(zip(row["ids"], row["pieces"], row["bytes"], strict=True)):
        pairs = " ".join(raw[i : i + 2].upper() for i in range(0, len(raw), 2))
        made.append(
            {
                "text": piece,
                "colour": colour(number),
                "says": f"id {token}, {wording.plural(len(raw) // 2, 'byte')}: {pairs}",
                # A line may end before a token that begins with a space.
                "spaced": raw.startswith("20"),
                "last": b"\n" in bytes.fromhex(raw),
            }
        )
    return made


def colour(number: int) -> str:
    """The class of a token's ground.

    >>> [colour(n) for n in range(5)]
    ['t0', 't1', 't2', 't3', 't0']
    """
    return f"t{number % COLOURS}"
