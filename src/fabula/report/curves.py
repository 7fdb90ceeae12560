"""How do the measurements become charts that can be read? Loss, learning rate, gradient norm and speed.

Each chart is drawn once for each axis (time, tokens, steps) that the records have, and comes with what
`page.js` needs to read values off it: where each point lies, as shares of the plot, and the words to say
there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from fabula.report import charts, wording
from fabula.report.reading import Facts, Records

Drawing = dict[str, str | Markup]

AXES = ("time", "tokens", "steps")
SMALL_POINTS = 300  # a chart a third as wide needs a third of the points


Places = dict[str, float | None]  # where on each axis; None where that was not recorded


@dataclass(frozen=True)
class Moment:
    """Where on each axis a record lies, and the value of one quantity there."""

    places: Places
    value: float

    def where(self) -> str:
        """The moment in words. Said for the few points that are kept, not for all that were recorded."""
        said = [f"step {wording.exact(self.places['steps'])}"]
        if self.places["tokens"] is not None:
            said.append(wording.plural(self.places["tokens"], "token"))
        if self.places["time"] is not None:
            said.append(wording.duration(self.places["time"]))
        return " · ".join(said)


@dataclass(frozen=True)
class Measurements:
    """The records with their places, found once; how far each axis goes, the same for all charts."""

    train: list[tuple[Places, Facts]]
    evaluations: list[tuple[Places, Facts]]
    extents: dict[str, float]

    def axis(self, name: str, about: int) -> charts.Scale:
        """An axis with about so many ticks."""
        high = self.extents[name]
        if name == "time":
            return charts.time_scale(high, about)
        return charts.count_scale(high, name, about)


def measure(records: Records) -> Measurements:
    """The records of training and evaluation on the axes that they have."""
    train, evaluations = [placed(r) for r in records.train], [placed(r) for r in records.evaluations]
    extents = {}
    for name in AXES:
        found = [p for places, _ in (*train, *evaluations) if (p := places[name]) is not None]
        if found:
            extents[name] = max(found)
    return Measurements(train, evaluations, extents)


def placed(record: Facts) -> tuple[Places, Facts]:
    time, tokens, steps = record.number("seconds"), record.number("tokens"), record.number("step")
    return {"time": time, "tokens": tokens, "steps": steps}, record


def series(records: Sequence[tuple[Places, Facts]], key: str) -> list[Moment]:
    """The records that have a finite value of one quantity."""
    return [Moment(places, value) for places, r in records if (value := r.number(key)) is not None]


def points(name: str, moments: Sequence[Moment]) -> list[charts.Point]:
    return [(p, m.value) for m in moments if (p := m.places[name]) is not None]


def thinned(moments: Sequence[Moment], at_most: int) -> list[Moment]:
    return [moments[i] for i in charts.thin([m.value for m in moments], at_most)]


def learning(measured: Measurements, limit: float | None, at_most: int, first_axis: str) -> dict[str, Any] | None:
    """The loss curve over each axis, with a line at `limit` bits per byte; None when nothing was measured."""
    train, validation = series(measured.train, "bits_per_byte"), series(measured.evaluations, "bits_per_byte")
    if not train and not validation:
        return None
    # Noise of single batches is averaged over about a thirtieth of the run; a short record is shown as it is.
    noisy = len(train) >= 120
    means = charts.smooth([m.value for m in train], len(train) // 60 if noisy else 0)
    smooth = [replace(m, value=mean) for m, mean in zip(train, means, strict=True)]
    y = loss_scale(smooth, validation, limit)
    mark = None if limit is None else charts.Tick(limit, f"entropy of the generator, {wording.bits(limit)}")

    line, checks = thinned(smooth, at_most), thinned(validation, at_most)
    raw = thinned(train, at_most) if noisy else []

    def draw(name: str, x: charts.Scale) -> str:
        curves = [
            charts.Curve(points(name, raw), "raw"),
            charts.Curve(points(name, line), "train"),
            charts.Curve(points(name, checks), "validation"),
            charts.Curve(points(name, checks), "validation", dots=True),
        ]
        return charts.line_chart(curves, x, y, f"Bits per byte over {x.title}", mark, "loss")

    drawn = drawings(measured, draw, about=6)
    said = [spoken(m, checks) for m in line]
    said = said or [f"{m.where()}: validation {wording.bits(m.value)}" for m in checks]
    return {
        "axes": list(drawn),
        "first": first_axis if first_axis in drawn else next(iter(drawn)),
        "charts": drawn,
        "hover": readout(line or checks, said, y, measured),
        "train": bool(train),
        "noisy": noisy,
        "validation": bool(validation),
        "limit": limit is not None,
        "notes": curve_notes([*train, *validation], y, len(measured.train) - len(train)),
    }


def loss_scale(smooth: Sequence[Moment], validation: Sequence[Moment], limit: float | None) -> charts.Scale:
    """A frame for what matters: the later curve, the later measurements and the limit."""
    last = max(m.places["steps"] or 0.0 for m in (*smooth, *validation))
    late = [m.value for m in validation if (m.places["steps"] or 0.0) >= last / 10]
    low, high = charts.calm_range([m.value for m in smooth], late if limit is None else [*late, limit])
    return charts.value_scale(low, high, "bits per byte", below=0.12, above=0.06)


def drawings(measured: Measurements, draw: Callable[[str, charts.Scale], str], about: int) -> dict[str, Drawing]:
    """One drawing for each axis that the records have."""
    scales = {name: measured.axis(name, about) for name in measured.extents}
    return {name: {"svg": Markup(draw(name, x)), "title": x.title} for name, x in scales.items()}


def spoken(moment: Moment, validation: Sequence[Moment]) -> str:
    """What the read-out says at one point of the training curve."""
    text = f"{moment.where()}: training {wording.bits(moment.value)}"
    step = moment.places["steps"] or 0.0
    before = [m for m in validation if (m.places["steps"] or 0.0) <= step]
    return f"{text}, validation {wording.bits(before[-1].value)}" if before else text


def readout(moments: Sequence[Moment], say: Sequence[str], y: charts.Scale, measured: Measurements) -> Markup:
    """What the script reads values off: where each point lies, as shares of the plot, and the words there."""
    across: dict[str, list[float | None]] = {}
    for name in measured.extents:
        x = measured.axis(name, about=1)
        places = [m.places[name] for m in moments]
        across[name] = [None if p is None else round(x.place(p), 4) for p in places]
    up = [round(min(1.0, max(0.0, 1 - y.place(m.value))), 4) for m in moments]
    return embed({"x": across, "y": up, "say": list(say)})


def embed(value: Any) -> Markup:
    """JSON that may stand inside <script>: nothing in it can end the element or start a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def curve_notes(moments: Sequence[Moment], y: charts.Scale, lost: int) -> list[str]:
    """What the picture does not show."""
    notes = []
    first = min(moments, key=lambda m: m.places["steps"] or 0.0)
    if first.value > y.high:
        began = wording.bits(first.value)
        notes.append(f"The beginning lies above the frame: the first measurement was {began} bits per byte.")
    if lost:
        notes.append(f"{wording.plural(lost, 'record')} of training without a finite loss left out.")
    return notes


@dataclass(frozen=True)
class Quantity:
    """Something recorded at every training step."""

    key: str
    title: str
    unit: str
    say: Callable[[float | None], str]


QUANTITIES = (
    Quantity("lr", "Learning rate", "share of its peak", wording.ratio),
    Quantity("grad_norm", "Gradient norm", "", wording.ratio),
    Quantity("tokens_per_second", "Speed", "tokens per second", wording.count),
)


def small_charts(measured: Measurements, at_most: int) -> list[dict[str, Any]]:
    """Learning rate, gradient norm and speed over the same axes as the loss curve."""
    return [small_chart(q, measured, min(at_most, SMALL_POINTS)) for q in QUANTITIES]


def small_chart(quantity: Quantity, measured: Measurements, at_most: int) -> dict[str, Any]:
    """One quantity; without drawings when it was not recorded."""
    found = series(measured.train, quantity.key)
    if not found:
        return {"key": quantity.key, "title": quantity.title, "unit": quantity.unit, "charts": {}}
    values = [m.value for m in found]
    # One wild step must not flatten the rest: the frame ends a little above what 99 of 100 stay below.
    most = max(values)
    high = min(most, 1.5 * charts.quantile(values, 0.99) or most)
    y = charts.value_scale(min(0.0, *values), high, quantity.unit, above=0.08, about=3)
    line = thinned(found, at_most)

    def draw(name: str, x: charts.Scale) -> str:
        curve = charts.Curve(points(name, line), "train")
        return charts.line_chart([curve], x, y, f"{quantity.title} over {x.title}", name=quantity.key)

    return {
        "key": quantity.key,
        "title": quantity.title,
        "unit": f"highest {quantity.say(most)}, cut off" if most > y.high else quantity.unit,
        "charts": drawings(measured, draw, about=3),
        "hover": readout(line, [f"{m.where()}: {quantity.say(m.value)}" for m in line], y, measured),
    }
