"""What sections of the page are made of: labelled values, parts of a whole, settings as they would be typed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fabula.report import charts, wording

Section = dict[str, Any]


@dataclass(frozen=True)
class Fact:
    """A label, its value and, where it helps, a few words more."""

    label: str
    value: str
    note: str = ""


def breakdown(parts: Sequence[tuple[str, float]], say: Callable[[float | None], str], label: str) -> Section:
    """Parts of a whole, as a bar and as the rows of a table with the bar's colours."""
    whole = sum(value for _, value in parts if value > 0)
    rows = [
        {
            "name": name,
            "value": say(value),
            "share": wording.percent(value / whole) if whole > 0 and value >= 0 else "",
            "colour": charts.colour(i),
        }
        for i, (name, value) in enumerate(parts)
    ]
    return {"rows": rows, "bar": Markup(charts.bar(parts, label)) if whole > 0 else None}


def shown(value: Any) -> str:
    """A setting as it would stand in a recipe."""
    if isinstance(value, str):
        return value if value.strip() else f'"{value}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
