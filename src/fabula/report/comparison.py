"""Variants set side by side, as one page: reads `comparison.json` of a comparison and writes `report/index.html`.

The page has the style of a run's report and keeps its rules: complete in itself, it loads nothing. It can be written
at any time, of a comparison that is not finished it shows what there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from fabula import storage
from fabula.config import Data
from fabula.report import charts, wording
from fabula.report.curves import embed
from fabula.report.run import compose

FILE = "comparison.json"
PAGE = Path("report") / "index.html"

_COLOURS = 8  # classes v0 .. v7 of the style sheet; what comes after shares the last, a grey

Moment = tuple[float, list[float]]  # tokens, and bits per byte of each seed


def run(folder: Path) -> Path:
    """Write the page of a comparison; returns its path. DamagedError when its JSON cannot be read."""
    path = folder / PAGE
    storage.write_text(path, render(storage.read_json(folder / FILE)))
    return path


def render(data: Data) -> str:
    """The page as text; equal comparisons give equal pages."""
    return compose("comparison.html.j2", describe(data), ["page.css", "comparison.css"])


def describe(data: Data) -> dict[str, Any]:
    """The values for the whole template."""
    axis = _axis(data["variants"])
    return {
        "name": data["name"],
        "started": wording.day(data["started"]),
        "fabula": data["fabula"],
        "sentence": _sentence(data),
        "banner": _banner(data),
        "reading": _reading(data),
        "rows": [_row(row, index, axis) for index, row in enumerate(data["variants"])],
        "ruler": Markup(charts.ruler(axis)) if axis else None,
        "notes": data["notes"],
        "learning": _learning(data["variants"]),
        "budget": _budget(data),
        "runs": [_run(run) for row in data["variants"] for run in row["runs"]],
    }


def difference(row: Data, first: bool) -> tuple[str, str]:
    """A variant's difference to the first one, and what it says, in words."""
    found = row["difference"]
    if found is None:
        return ("the first" if first else wording.UNKNOWN), ""
    mean = _signed(found["mean"])
    if found["uncertainty"] is None:
        return mean, "one pair only"
    sure = abs(found["mean"]) > found["uncertainty"]
    verdict = ("better" if found["mean"] < 0 else "worse") if sure else "may be chance"
    return f"{mean} ± {_bits(found['uncertainty'])}", verdict


def troubles(rows: Sequence[Data]) -> list[str]:
    """For each variant that has them, its runs that came to nothing: why the first did, and which others."""
    told = []
    for row in rows:
        lost = [run for run in row["runs"] if run["reason"]]
        if lost:
            first, *others = lost
            text = f"{row['label']}, seed {first['seed']}, {first['status']}: {first['reason']}"
            if others:
                text += "; also " + ", ".join(f"seed {run['seed']} ({run['status']})" for run in others)
            told.append(text)
    return told


def _bits(value: float | None) -> str:
    """Bits per byte with the four decimals that differences between variants need."""
    return wording.UNKNOWN if value is None else wording.signed(f"{value:.4f}")


def _signed(value: float) -> str:
    return wording.signed(f"{value:+.4f}")


def _colour(index: int) -> str:
    return f"v{min(index, _COLOURS - 1)}"


def _sentence(data: Data) -> str:
    varied = " and ".join(data["asked"]["vary"])
    rows, seeds = len(data["variants"]), data["seeds"]
    alike = "as many FLOPs" if data["asked"]["match"] == "flops" else "as many tokens"
    how = f"each trained with {wording.plural(seeds, 'seed')} on {alike} of the same text"
    return f"{wording.plural(rows, 'variant')} of {varied}, {how}."


def _banner(data: Data) -> list[str]:
    found = []
    runs = [run for row in data["variants"] for run in row["runs"]]
    waiting = sum(run["status"] == "waiting" for run in runs)
    if waiting:
        how = "was stopped" if data["status"] == "stopped" else "is going on"
        found.append(
            f"This comparison {how}: {waiting} of {len(runs)} runs are not done. The figures are those so far."
        )
    return found + troubles(data["variants"])


def _reading(data: Data) -> str:
    seeds = data["seeds"]
    if seeds == 1:
        return "With one seed nobody can tell a difference from luck: give --seeds 3 or more; what is trained is kept."
    text = "Rings are seeds, the tick is their mean."
    if seeds < 4:
        text += f" With {seeds} the interval of a difference is wide; more --seeds keep what is trained."
    return text


def _axis(rows: Sequence[Data]) -> charts.Scale | None:
    """One axis for the final figures of all variants."""
    values = [run["bits_per_byte"] for row in rows for run in row["runs"] if run.get("bits_per_byte") is not None]
    if not values:
        return None
    return charts.value_scale(min(values), max(values), "bits per byte", below=0.08, above=0.08, about=4)


def _row(row: Data, index: int, axis: charts.Scale | None) -> dict[str, Any]:
    found = row["bits_per_byte"]
    values = [run["bits_per_byte"] for run in row["runs"] if run.get("bits_per_byte") is not None]
    said, verdict = difference(row, index == 0)
    spread, strip = "", ""
    if found is not None and axis is not None:
        if found["n"] > 1:
            spread = f"± {_bits(found['standard_deviation'])} (sd, n = {found['n']})"
        else:
            spread = "n = 1"
        label = f"{row['label']}: " + ", ".join(_bits(v) for v in values)
        strip = charts.strip(values, found["mean"], axis, f"own {_colour(index)}", label)
    return {
        "label": row["label"],
        "colour": _colour(index),
        "mean": _bits(found["mean"]) if found else wording.UNKNOWN,
        "spread": spread,
        "difference": said,
        "verdict": verdict,
        "strip": Markup(strip),
        "drawn": bool(_moments(row)),
        "given": [
            wording.exact(row["parameters"]),
            wording.exact(row["steps"]),
            wording.exact(row["tokens"]),
            flops(row["flops"]),
            wording.count(row["tokens_per_second"]),
        ],
    }


def flops(value: float) -> str:
    """FLOPs as a power of ten, as papers write them.

    >>> flops(2_350_000_000_000)
    '2.35e12'
    """
    return f"{value:.2e}".replace("e+0", "e").replace("e+", "e")


def _budget(data: Data) -> str:
    budget = data["budget"]
    if budget is None:
        return "The budget is not fixed yet."
    if budget["match"] == "flops":
        what = f"The FLOPs of the first variant, {flops(budget['flops'])} in training,"
    else:
        what = f"The tokens of the first variant, {wording.exact(budget['tokens'])},"
    return f"{what} in whole steps. The recipe's budget was {budget['given']}: {budget['rule']}."


def _run(run: Data) -> dict[str, str]:
    done = run["status"] == "finished"
    return {
        "folder": run["folder"],
        "link": f"../{quote(run['folder'])}/report/index.html" if done else "",
        "seed": str(run["seed"]),
        "bits": _bits(run.get("bits_per_byte")),
        "ending": "" if done else run["status"] if not run["reason"] else f"{run['status']}: {run['reason']}",
    }


# ---- curves ----------------------------------------------------------------------------------------------


def _moments(row: Data) -> list[Moment]:
    """Where a variant was measured, and each seed's figure there; of finished runs, as others end anywhere."""
    found: dict[float, list[float]] = {}
    for run in (run for run in row["runs"] if run["status"] == "finished"):
        for point in run["curve"]:
            found.setdefault(point["tokens"], []).append(point["bits_per_byte"])
    return sorted(found.items())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _learning(rows: Sequence[Data]) -> dict[str, Any] | None:
    """Validation curves over tokens: means, and bands from the best seed to the worst."""
    series = [_moments(row) for row in rows]
    every = sorted((tokens, values) for moments in series for tokens, values in moments)
    if not every:
        return None
    x = charts.count_scale(every[-1][0], "tokens")
    low, high = charts.calm_range([v for _, values in every for v in values])
    y = charts.value_scale(low, high, "bits per byte", below=0.08, above=0.06)
    lines, bands = [], []
    for index, moments in enumerate(series):
        style = f"own {_colour(index)}"
        points = [(tokens, _mean(values)) for tokens, values in moments]
        lines += [charts.Curve(points, style), charts.Curve(points, style, dots=True)]
        wide = [(tokens, min(values), max(values)) for tokens, values in moments if len(values) > 1]
        bands.append(charts.Band(wide, f"band {_colour(index)}"))
    first = max(v for _, values in every for v in values)
    return {
        "svg": Markup(charts.line_chart(lines, x, y, "Bits per byte over tokens", name="loss", bands=bands)),
        "title": x.title,
        "bands": any(band.points for band in bands),
        "hover": _readout(rows, series, x, y),
        "note": f"The beginning lies above the frame, up to {wording.bits(first)} bits per byte."
        if first > y.high
        else "",
    }


def _readout(rows: Sequence[Data], series: Sequence[list[Moment]], x: charts.Scale, y: charts.Scale) -> Markup:
    """For the script: each place where something was measured, and what all variants had there."""
    across, up, say = [], [], []
    for tokens in sorted({tokens for moments in series for tokens, _ in moments}):
        here = [
            (row["label"], _mean(values))
            for row, moments in zip(rows, series, strict=True)
            for at, values in moments
            if at == tokens
        ]
        across.append(round(x.place(tokens), 4))
        up.append(round(min(1.0, max(0.0, 1 - y.place(here[0][1]))), 4))
        figures = ", ".join(f"{label} {_bits(mean)}" for label, mean in here)
        say.append(f"{wording.plural(tokens, 'token')}: {figures}")
    return embed({"x": {"tokens": across}, "y": up, "say": say})
