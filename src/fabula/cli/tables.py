"""Rows of tables that several verbs print."""

from __future__ import annotations

from fabula.config import Data

# Characters of a cell.
_MOST = 60


def translation_rows(found: Data) -> list[tuple[str, str]]:
    """BLEU and chrF with what they were counted on, for a table."""
    search = f"{found['beams']} beams" if found["beams"] > 1 else "greedy"
    on = f"{found['sources']:,} of {found['of_sources']:,} sources, {found['references']:,} references, {search}"
    rows = [
        ("BLEU", f"{found['bleu']:.2f} ({on})"),
        ("chrF", f"{found['chrf']:.2f}"),
        ("signatures", f"{found['bleu_signature']}; {found['chrf_signature']}"),
    ]
    if found["cut"]:
        rows.append(("cut", f"{found['cut']:,} translations did not end by themselves"))
    return rows


def example_rows(examples: list[Data]) -> list[tuple[str, str, str]]:
    """Source, what was written, the references; each cut to what a line of a table holds."""
    return [(_short(e["source"]), _short(e["text"]), _short(" / ".join(e["references"]))) for e in examples]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"
