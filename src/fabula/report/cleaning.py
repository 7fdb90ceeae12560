"""What cleaning did to a corpus, as rows of a table: for the page of a run and for that of a corpus."""

from __future__ import annotations

from collections.abc import Sequence

from fabula.report import wording
from fabula.report.reading import Facts

Row = dict[str, str]


def rows(steps: Sequence[Facts]) -> list[Row]:
    """A row for each step: what it does, documents that came, were dropped and changed, bytes that went."""
    made = []
    for step in steps:
        before, after = step.number("bytes_in"), step.number("bytes_out")
        made.append(
            {
                "about": step.text("about") or step.text("step"),
                "documents": wording.exact(step.number("documents_in")),
                "dropped": wording.exact(step.number("dropped")),
                "changed": wording.exact(step.number("changed")),
                "bytes": wording.size(before - after) if before is not None and after is not None else wording.UNKNOWN,
            }
        )
    return made


def too_long(data: Facts) -> tuple[str, str] | None:
    """Documents that were longer than data.longest, and their tokens; None when there were none."""
    parts = [part for name in ("train", "validation") if (part := data.table("too_long", name))]
    if not parts:
        return None
    documents, tokens = (sum(part.number(key) or 0 for part in parts) for key in ("documents", "tokens"))
    return wording.exact(documents), f"longer than data.longest, {wording.plural(tokens, 'token')} in all"
