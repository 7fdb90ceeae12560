"""What stands in a run folder? Reads what a run wrote; none of it has to be there, or right.

A run may be stopped, still running or damaged, and the page is wanted most in just these cases. So nothing
here raises for the content of a file: what could not be read becomes a sentence in `problems`, and every
value is asked for by path and type and is absent when it is anything else.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Whatever a file of unknown content can make a parser raise; ValueError covers bad JSON, TOML and UTF-8.
_UNREADABLE = (ValueError, RecursionError, OSError)


@dataclass(frozen=True)
class Facts:
    """Plain data of unknown shape, asked for by path and type.

    >>> facts = Facts({"model": {"parameters": 12, "preset": "tiny"}})
    >>> facts.number("model", "parameters"), facts.text("model", "preset"), facts.number("train", "steps")
    (12, 'tiny', None)
    """

    data: Any = None

    def get(self, *path: str) -> Any:
        value = self.data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def number(self, *path: str) -> float | None:
        """A finite number; whole numbers stay int."""
        value = self.get(*path)
        if type(value) is not float and type(value) is not int:  # which leaves out bool
            return None
        try:
            return value if math.isfinite(value) else None
        except OverflowError:
            return None

    def text(self, *path: str) -> str:
        value = self.get(*path)
        return value if isinstance(value, str) else ""

    def table(self, *path: str) -> Facts:
        value = self.get(*path)
        return Facts(value if isinstance(value, dict) else None)

    def pairs(self, *path: str) -> list[tuple[str, Any]]:
        """The entries of a table."""
        value = self.get(*path)
        return [(str(k), v) for k, v in value.items()] if isinstance(value, dict) else []

    def numbers(self, *path: str) -> list[tuple[str, float]]:
        """The entries of a table that are numbers."""
        found = self.table(*path)
        return [(k, n) for k, _ in found.pairs() if (n := found.number(k)) is not None]

    def tables(self, *path: str) -> list[Facts]:
        """The tables in a list."""
        value = self.get(*path)
        return [Facts(v) for v in value if isinstance(v, dict)] if isinstance(value, list) else []

    def texts(self, *path: str) -> list[str]:
        """The texts in a list."""
        value = self.get(*path)
        return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []

    def __bool__(self) -> bool:
        return bool(self.data)


@dataclass(frozen=True)
class Records:
    """Everything a run folder says."""

    folder: str
    recipe: Facts
    summary: Facts
    evaluation: Facts
    emissions: Facts
    train: tuple[Facts, ...]
    evaluations: tuple[Facts, ...]
    samples: tuple[Facts, ...]
    unapplied: tuple[Facts, ...]
    problems: tuple[str, ...]


def read(folder: Path) -> Records:
    """The records of a run folder and, in words, what could not be read."""
    problems: list[str] = []
    metrics = _lines(folder / "metrics.jsonl", problems)
    return Records(
        folder=folder.resolve().name,
        recipe=_toml(folder / "recipe.toml", problems),
        summary=_json(folder / "summary.json", problems),
        evaluation=_json(folder / "evaluation.json", problems),
        emissions=_json(folder / "emissions.json", problems),
        train=_in_order(m for m in metrics if m.get("kind") == "train"),
        evaluations=_in_order(m for m in metrics if m.get("kind") == "evaluation"),
        samples=tuple(_lines(folder / "samples.jsonl", problems)),
        unapplied=_in_order(iter(_lines(folder / "unapplied.jsonl", problems))),
        problems=tuple(problems),
    )


def _in_order(records: Iterator[Facts]) -> tuple[Facts, ...]:
    """One record a step, by step: what a resumed run wrote again replaces what it wrote before."""
    by_step = {step: record for record in records if (step := record.number("step")) is not None}
    return tuple(by_step[step] for step in sorted(by_step))


def _toml(path: Path, problems: list[str]) -> Facts:
    try:
        return Facts(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return Facts()
    except _UNREADABLE as error:
        problems.append(f"{path.name} cannot be read ({_reason(error)}).")
        return Facts()


def _json(path: Path, problems: list[str]) -> Facts:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return Facts()
    except _UNREADABLE as error:
        problems.append(f"{path.name} cannot be read ({_reason(error)}).")
        return Facts()
    if isinstance(data, dict):
        return Facts(data)
    problems.append(f"{path.name} holds no table.")
    return Facts()


def _lines(path: Path, problems: list[str]) -> list[Facts]:
    """The good lines of a JSONL file. A torn last line is how a running or killed writer looks, and no
    problem.

    Unlike `storage.read_json_lines`, which refuses a damaged file, this keeps what can be shown and says
    what cannot.
    """
    records: list[Facts] = []
    bad: list[int] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    data = json.loads(line)
                except (ValueError, RecursionError):
                    data = None
                if isinstance(data, dict):
                    records.append(Facts(data))
                elif line.endswith(b"\n"):
                    bad.append(number)
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({_reason(error)}).")
    if bad:
        lines = "1 line" if len(bad) == 1 else f"{len(bad):,} lines"
        problems.append(f"{path.name}: {lines} could not be read and are left out (the first is line {bad[0]:,}).")
    return records


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
