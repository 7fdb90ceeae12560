"""Which recipe is meant? A file's, or the one that the defaults make for a text, with what was typed on top."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fabula import recipe
from fabula.checkpoint import RunFolder
from fabula.config import Data
from fabula.defaults import request
from fabula.defaults import run as defaults_stage
from fabula.pipeline.identity import is_incidental
from fabula.progress import Progress
from fabula.recipe import Recipe


def load(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None, name: str | None = None) -> Recipe:
    """A recipe with overrides of any type laid on top; ConfigError with every problem."""
    given = [(key, as_text(value)) for key, value in (overrides or {}).items()]
    return recipe.load(Path(path), [*given, ("name", name)] if name else given)


def load_or_choose(
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None,
    name: str | None = None,
    *,
    runs: Path | None = None,
    progress: Progress | None = None,
) -> Recipe:
    """A recipe, or the one that the defaults make for a text; ConfigError with every problem.

    A run among `runs` that was asked for in the same words has its recipe already: nothing is measured again.
    """
    source = os.fspath(path)
    if not request.is_text(source):
        return load(path, overrides, name)
    given = [(key, as_text(value)) for key, value in (overrides or {}).items()]
    asked = request.asked(source, [(key, value) for key, value in given if not is_incidental(key)])
    called = name or dict(given).get("name") or request.name_of(source)
    there = None if runs is None else RunFolder(runs / called).recipe
    if there is not None and there.is_file():
        stored = recipe.load(there, [(key, value) for key, value in given if is_incidental(key)])
        if stored.rules.get(request.ASKED) == asked:
            return replace(stored, name=called)
    made = defaults_stage.run(source, given, name=called, progress=progress)
    return replace(made, rules={request.ASKED: asked, **made.rules})


def choices(loaded: Recipe) -> list[Data]:
    """What was chosen for a text: name, value and reason of each; nothing where a recipe was given.

    What an edited copy of such a recipe has otherwise was not chosen.
    """
    if request.ASKED not in loaded.rules:
        return []
    found = []
    for name in request.CHOSEN:
        value, _, reason = loaded.rules.get(name, "").partition(": ")
        if reason and value == defaults_stage.shown(defaults_stage.setting_of(loaded, name)):
            found.append({"name": name, "value": value, "reason": reason})
    return found


def told(chosen: Sequence[Data]) -> list[str]:
    """Choices as lines, their columns below each other."""
    widths = [max((len(row[part]) for row in chosen), default=0) for part in ("name", "value")]
    return [f"{row['name'].ljust(widths[0])}  {row['value'].ljust(widths[1])}  {row['reason']}" for row in chosen]


def as_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(str(v) for v in value)
    return str(value)
