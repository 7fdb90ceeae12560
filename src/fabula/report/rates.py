"""A range test of learning rates as one page: reads the data that `train --find-lr` makes, in the style of a run's
report, complete in itself."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from fabula.config import Data
from fabula.report import charts, wording
from fabula.report.curves import embed
from fabula.report.run import compose


def render(data: Data) -> str:
    """The page as text; equal tests give equal pages."""
    return compose("rates.html.j2", describe(data), ["page.css"])


def describe(data: Data) -> dict[str, Any]:
    """The values for the whole template."""
    points = data["points"]
    x = _axis(points[0]["factor"], points[-1]["factor"])
    low, high = charts.calm_range([p["loss"] for p in points], skip=0.0)
    y = charts.value_scale(low, min(high, 1.5 * points[0]["loss"]), "loss, nats a token", below=0.05, above=0.05)
    curves = [
        charts.Curve([(_log(p["factor"]), p["loss"]) for p in points], "raw"),
        charts.Curve([(_log(p["factor"]), p["smoothed"]) for p in points], "train"),
    ]
    factor = data["suggestion"]
    if factor is not None:
        curves.append(charts.Curve([(_log(factor), y.low), (_log(factor), y.high)], "limit"))
    return {
        "name": data["name"],
        "fabula": data["environment"]["fabula"],
        "sentence": _sentence(data),
        "svg": Markup(charts.line_chart(curves, x, y, "Loss over the learning rate", name="loss")),
        "title": x.title,
        "hover": _readout(data, x, y),
        "rule": data["rule"],
        "stopped": data["stopped"],
        "found": factor is not None,
        "rates": [_rate(name, value, data) for name, value in data["rates"].items()],
    }


def _log(factor: float) -> float:
    return math.log10(factor)


def _axis(low: float, high: float) -> charts.Scale:
    """Factors on a logarithmic axis, a tick at each power of ten."""
    first, last = _log(low), _log(high)
    powers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
    ticks = tuple(charts.Tick(float(p), f"{10.0**p:,g}") for p in powers)
    return charts.Scale(first, last, ticks, "times the recipe's rates")


def _sentence(data: Data) -> str:
    return (
        f"{wording.plural(len(data['points']), 'step')} of {data['optimizer']} on the recipe's own data and model "
        f"({wording.count(data['parameters'])} parameters, {wording.plural(data['tokens_per_step'], 'token')} a step), "
        f"each with a higher rate than the one before; {wording.duration(data['seconds'])}."
    )


def _rate(name: str, value: float, data: Data) -> dict[str, str]:
    found = data["settings"].get(f"train.optimizer.{name}")
    return {
        "name": f"train.optimizer.{name}",
        "now": wording.ratio(value),
        "found": wording.UNKNOWN if found is None else wording.ratio(found),
    }


def _readout(data: Data, x: charts.Scale, y: charts.Scale) -> Markup:
    """For the script: each point, and what it was."""
    across, up, say = [], [], []
    for point in data["points"]:
        across.append(round(x.place(_log(point["factor"])), 4))
        up.append(round(min(1.0, max(0.0, 1 - y.place(point["smoothed"]))), 4))
        rates = ", ".join(f"{name} {wording.ratio(v * point['factor'])}" for name, v in data["rates"].items())
        say.append(f"{rates}: loss {wording.ratio(point['smoothed'])} ({wording.ratio(point['loss'])} in its batch)")
    return embed({"x": {"rate": across}, "y": up, "say": say})
