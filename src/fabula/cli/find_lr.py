"""`fabula train RECIPE --find-lr`: a range test of the learning rate, drawn in the terminal or as a page."""

from __future__ import annotations

import math
import shutil
import tempfile
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from fabula import storage
from fabula.cli import console, overrides
from fabula.config import Data, load_toml
from fabula.errors import ConfigError
from fabula.progress import stop_on_signals
from fabula.recipe import feed, model_config, run_name

# The drawing's size in characters; a braille character has two columns and four rows of dots.
_ROWS, _MOST_COLUMNS = 14, 70
_LABELLED = (0, 4, 9, 13)
_BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def find_lr(
    recipe: Path, settings: Sequence[str], name: str | None, runs: Path, steps: int, out: Path | None, json: bool
) -> None:
    """Prepare tokenizer and data (those of the recipe's run, if it has them), test, tell. Leaves nothing but `out`."""
    if out is not None and out.suffix.lower() != ".html":
        raise ConfigError([f"--out {out}: the page of a range test is .html"])
    given = dict(overrides.split(settings))
    called = name or run_name(load_toml(recipe), recipe, given)
    with stop_on_signals() as stop:
        from fabula import pipeline
        from fabula.train import find_lr as stage

        try:
            find = stage.FindConfig(steps=steps)
        except ValueError as error:
            raise ConfigError([f"--lr-{error}"]) from None
        loaded = pipeline.load(recipe, given, name)
        watcher = console.Watcher()
        # Beside the runs, so that data of an earlier run can be shared without a copy.
        place = runs if runs.is_dir() else None
        with tempfile.TemporaryDirectory(prefix=".find-lr-", dir=place) as folder:
            tokenizer, shards = pipeline.prepare(loaded, Path(folder), progress=watcher, prepared=[runs / called])
            _, model = model_config(loaded, tokenizer.vocab_size)
            found = stage.run(
                find,
                loaded.train,
                model,
                tokenizer,
                shards,
                seed=loaded.seed,
                progress=watcher,
                stop=stop,
                feed=feed(loaded),
            )
    found = {"name": called, **found}
    if out is not None:
        from fabula.report import rates

        storage.write_text(out, rates.render(found))
        console.say(f"the curve is in {out}")
    if json:
        console.out_json(found)
        return
    for line in told(found, shutil.get_terminal_size().columns):
        console.out(line)


def told(found: Data, columns: int) -> list[str]:
    """The drawing, and the suggestion with its rule."""
    lines = [*drawn(found, min(_MOST_COLUMNS, columns - 10)), ""]
    if found["stopped"]:
        lines.append(f"ended after {len(found['points'])} of {found['asked']['steps']} steps: {found['stopped']}")
    lines += textwrap.wrap(f"suggestion: {found['rule']}", max(40, columns - 1))
    lines += [f"  --{name} {value:g}" for name, value in found["settings"].items()]
    return lines


def drawn(found: Data, columns: int) -> list[str]:
    """The smoothed loss over the logarithm of the rate in characters, and a line where the suggestion is."""
    columns = max(20, columns)
    points = [(math.log10(p["factor"]), p["smoothed"]) for p in found["points"]]
    left, right = points[0][0], points[-1][0]
    # What lies far above the beginning leaves through the top.
    ceiling = points[0][1] + 0.5
    heights = [min(y, ceiling) for _, y in points]
    low, high = min(heights), max(heights)
    span = (high - low) or 1.0
    cells = [[0] * columns for _ in range(_ROWS)]
    for column in range(2 * columns):
        x = left + (right - left) * column / (2 * columns - 1)
        y = min(_height(points, x), ceiling)
        row = min(4 * _ROWS - 1, max(0, round((high - y) / span * (4 * _ROWS - 1))))
        cells[row // 4][column // 2] |= _BRAILLE[column % 2][row % 4]
    mark = None
    if found["suggestion"] is not None:
        mark = round((math.log10(found["suggestion"]) - left) / (right - left) * (columns - 1))
    lines = []
    for row, dots in enumerate(cells):
        label = f"{high - span * row / (_ROWS - 1):7.2f} ┤"
        text = "".join(chr(0x2800 + d) if d else ("│" if i == mark else " ") for i, d in enumerate(dots))
        lines.append((label if row in _LABELLED else " " * 7 + " │") + text.rstrip())
    lines.append(" " * 8 + "└" + "─" * columns)
    lines.append(" " * 9 + _labels(left, right, columns))
    lines.append(" " * 9 + "loss in nats a token, over the recipe's rates times these")
    return lines


def _height(points: Sequence[tuple[float, float]], x: float) -> float:
    """The curve at a place between its points."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * max(0.0, (x - x0) / (x1 - x0))
    return points[-1][1]


def _labels(left: float, right: float, columns: int) -> str:
    """The powers of ten under the drawing."""
    text = [" "] * (columns + 6)
    for power in range(math.ceil(left - 1e-9), math.floor(right + 1e-9) + 1):
        at = round((power - left) / (right - left) * (columns - 1))
        label = f"{10.0**power:g}"
        if not at or not "".join(text[at - 1 : at + len(label)]).strip():
            text[at : at + len(label)] = label
    return "".join(text).rstrip()
