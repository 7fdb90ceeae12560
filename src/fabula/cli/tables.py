"""Rows of tables that several verbs print."""

from __future__ import annotations

from collections.abc import Sequence

from fabula.cli import console
from fabula.config import Data

# Characters of a cell, and of an example.
_MOST = 60
_EXAMPLE = 160


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


def dropped_words(funnel: Data) -> str:
    """What became of the records that were not kept, in a line."""
    parts = [
        f"{funnel['duplicates']:,} repeated",
        f"{funnel['empty']:,} empty",
        f"{funnel['quarantined']:,} unreadable",
    ]
    for key, word in (("in_validation", "in the validation source too"), ("useless", "with nothing to learn")):
        if funnel.get(key):
            parts.append(f"{funnel[key]:,} {word}")
    if funnel.get("cleaning"):
        parts.append(f"{sum(step['dropped'] for step in funnel['cleaning']):,} in cleaning")
    if funnel.get("too_long"):
        parts.append(f"{sum(part['documents'] for part in funnel['too_long'].values()):,} too long")
    return ", ".join(parts)


def cleaning_table(funnel: Data) -> str:
    """The steps of cleaning with what went in and what came out."""
    rows = []
    for step in funnel["cleaning"]:
        gone = step["bytes_in"] - step["bytes_out"]
        rows.append(
            (
                step["step"],
                f"{step['documents_in']:,}",
                f"{step['dropped']:,}",
                f"{step['changed']:,}",
                console.n_bytes(gone),
                f"{gone / max(1, step['bytes_in']):.2%}",
                step["about"],
            )
        )
    header = ("step", "documents", "dropped", "changed", "bytes less", "share", "what it does")
    return console.table(rows, header, right=(1, 2, 3, 4, 5))


def cleaning_examples(funnel: Data, most: int) -> list[str]:
    """Lines that show what each step did, up to `most` examples of each kind."""
    lines = []
    for step in funnel["cleaning"]:
        shown = [
            e for kind in ("dropped", "changed") for e in [x for x in step["examples"] if x["kind"] == kind][:most]
        ]
        if shown:
            lines += ["", step["step"]]
        for example in shown:
            why = f": {example['reason']}" if example["reason"] else ""
            lines.append(f"  [{example['origin']}] {example['kind']}{why}")
            lines.append(f"    - {_visible(example['before'])}")
            if "after" in example:
                lines.append(f"    + {_visible(example['after'])}")
    return lines


def _visible(text: str) -> str:
    """A text in one line with what cannot be seen shown: a step may have changed just that."""
    line = "".join("⏎" if c == "\n" else c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line if len(line) <= _EXAMPLE else line[: _EXAMPLE - 1] + "…"


def source_lines(sources: list[Data]) -> list[str]:
    """Licence and citation of every source that has them; who has none is told to say it."""
    lines = []
    for source in sources:
        licence = source["licence"] or "not stated; say it with --corpus.licence"
        where = f" ({source['licence_from']})" if source["licence"] else ""
        lines.append(f"{source['spec']}: licence: {licence}{where}")
        if source["citation"]:
            lines.append(f"{source['spec']}: cite: {' '.join(source['citation'].split())[:300]}")
    return lines


MEMORY_HEADER = ("rows at once", "format", "predicted", "measured", "tokens/s", "")


def memory_rows(trials: Sequence[Data]) -> list[tuple[str, ...]]:
    """The table of memory by rows at once and number format."""
    rows: list[tuple[str, ...]] = []
    for trial in trials:
        measured, pace = trial["measured_bytes"], trial["tokens_per_second"]
        outcome = "" if trial["outcome"] == "measured" else f"{trial['outcome']}: {trial['why']}"
        rows.append(
            (
                f"{trial['rows']:,}",
                trial["dtype"],
                console.n_bytes(trial["predicted_bytes"]),
                "" if measured is None else console.n_bytes(measured),
                "" if pace is None else f"{pace:,.0f}",
                outcome,
            )
        )
    return rows
