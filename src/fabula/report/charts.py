"""How does a series become a drawing? Pure functions from numbers to SVG.

A chart has no size of its own. The plot area is the whole drawing: places are percentages, the curves lie in
an inner drawing of 1000 x 1000 units that is stretched without stretching its strokes, and tick labels stand
outside the box (`overflow: visible`), so that text keeps its size on a phone and on paper. Colours are
classes; the style sheet has them for light and for dark. What can be heard or hovered is in `page.js`;
nothing here needs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fabula.report import wording

UNITS = 1000
BAR_COLOURS = 8  # classes c0 .. c7 of the style sheet; what comes after shares the last, a grey

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """An axis: the values at its two ends, its ticks and what it measures."""

    low: float
    high: float
    ticks: tuple[Tick, ...]
    title: str

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Curve:
    """Points to join by a line, or to show as dots; `style` is a class of the style sheet."""

    points: Sequence[Point]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Band:
    """An area between two curves: (where, low, high) from left to right."""

    points: Sequence[tuple[float, float, float]]
    style: str


# ---- series ----------------------------------------------------------------------------------------------


def thin(values: Sequence[float], at_most: int) -> list[int]:
    """Indices of at most `at_most` values that look like all: the ends, each bucket's least and greatest.

    >>> thin([0, 1, 9, 1, 0, -7, 0, 0], 6)
    [0, 1, 2, 4, 5, 7]
    """
    if len(values) <= at_most:
        return list(range(len(values)))
    inner = range(1, len(values) - 1)
    buckets = max(1, (at_most - 2) // 2)
    kept = {0, len(values) - 1}
    for bucket in range(buckets):
        span = inner[len(inner) * bucket // buckets : len(inner) * (bucket + 1) // buckets]
        kept |= {min(span, key=values.__getitem__), max(span, key=values.__getitem__)}
    return sorted(kept)


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Each value's mean with its neighbours on both sides, up to `reach` of them.

    At the start the window shrinks evenly, as the curve is steep there and a lopsided mean would lie beside
    it; at the end it only loses its right half, as the curve is flat there and the last value is the one
    people read.

    >>> smooth([8, 4, 2, 1, 1], 1)
    [8.0, 4.666666666666667, 2.3333333333333335, 1.3333333333333333, 1.0]
    """
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for i in range(len(values)):
        left, right = max(0, i - min(i, reach)), min(len(values), i + min(i, reach) + 1)
        means.append((sums[right] - sums[left]) / (right - left))
    return means


def calm_range(values: Sequence[float], always: Sequence[float] = (), skip: float = 0.1) -> Point:
    """A range for a curve that falls steeply and then slowly: its first tenth may leave through the top.

    `values` in order of time, `always` is inside in any case. If leaving nothing out would cost little,
    nothing is.
    """
    late = values[math.ceil(len(values) * skip) if len(values) >= 10 else 0 :]
    low, high, top = min([*values, *always]), max([*late, *always]), max([*values, *always])
    return low, top if top - low <= 1.5 * (high - low) else high


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which about a share of all lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# ---- axes ------------------------------------------------------------------------------------------------


def nice_step(span: float, about: int) -> float:
    """A round step, 1, 2 or 5 times a power of ten, that divides a span into about so many parts.

    >>> nice_step(0.83, 5), nice_step(5200, 5)
    (0.2, 1000.0)
    """
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    return min((m * power for m in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / raw)))


def steps_within(low: float, high: float, step: float) -> list[float]:
    """The multiples of a step inside a range, without the dust of adding floats."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


_LEAST_SPAN = 1e-200


def value_scale(low: float, high: float, title: str, below: float = 0.0, above: float = 0.0, about: int = 5) -> Scale:
    """An axis for any quantity, widened by shares of its span so that curves do not touch the frame."""
    # A span too small to be divided into ticks is none.
    span = next((s for s in (high - low, abs(high)) if s > _LEAST_SPAN), 1.0)
    low, high = low - below * span, high + above * span
    if high - low <= _LEAST_SPAN:
        high = low + span
    step = nice_step(high - low, about)
    ticks = steps_within(low, high, step)
    return Scale(low, high, tuple(Tick(t, _level(t, step, max(abs(low), abs(high)))) for t in ticks), title)


def _level(value: float, step: float, most: float) -> str:
    """A tick's label, with the decimals and the unit that all ticks of the axis share."""
    if value == 0 or not 1e-5 <= step < 1e12:
        return wording.ratio(value)
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if most >= 10 * scale and step >= scale / 10:
            return wording.signed(f"{value / scale:,g}{wording.SPACE}{unit}")
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return wording.signed(f"{value:,.{decimals}f}")


def count_scale(high: float, noun: str, about: int = 6) -> Scale:
    """An axis from zero to a number of things: steps, tokens."""
    high = high if high > 0 else 1.0
    unit, word = 1.0, noun
    for scale, name in ((1e3, "thousand"), (1e6, "million"), (1e9, "billion"), (1e12, "trillion")):
        if high >= 20 * scale or (high >= 2 * scale and scale > 1e3):
            unit, word = scale, f"{name} {noun}"
    step = nice_step(high / unit, about)
    if unit == 1.0:
        step = max(step, 1.0)
    ticks = steps_within(0, high / unit, step)
    return Scale(0.0, high, tuple(Tick(t * unit, f"{t:,g}") for t in ticks), word)


def time_scale(high: float, about: int = 6) -> Scale:
    """An axis of seconds from zero, in the unit a person would use, with steps that clocks have."""
    high = high if high > 0 else 1.0
    steps: tuple[float, ...] = (1, 2, 5, 10, 15, 20, 30)
    unit, word = 1.0, "seconds"
    if high >= 72 * 3600:
        unit, word, steps = 86400.0, "days", (1, 2, 5, 7, 14, 28)
    elif high >= 2.5 * 3600:
        unit, word, steps = 3600.0, "hours", (1, 2, 3, 6, 12, 24)
    elif high >= 120:
        unit, word, steps = 60.0, "minutes", (1, 2, 5, 10, 15, 20, 30)
    span = high / unit
    step = next((s for s in steps if span / s <= about + 1), nice_step(span, about))
    if span < 4:
        step = nice_step(span, about)
    ticks = steps_within(0, span, step)
    return Scale(0.0, high, tuple(Tick(t * unit, f"{t:,g}") for t in ticks), word)


# ---- drawings --------------------------------------------------------------------------------------------


def line_chart(
    curves: Sequence[Curve],
    x: Scale,
    y: Scale,
    label: str,
    limit: Tick | None = None,
    name: str = "",
    bands: Sequence[Band] = (),
) -> str:
    """A chart of curves over one axis. `label` is what a screen reader says; `limit` draws a level with its
    name.

    `name` ties the chart to the read-out of the same name (see `page.js`).
    """
    parts = [f'<svg class="chart" role="img" aria-label="{escape(label)}" data-chart="{escape(name)}">']
    for tick in y.ticks:
        at = _percent(1 - y.place(tick.at))
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="y" x="-8" y="{at}" dy=".32em">{escape(tick.label)}</text>')
    parts.append('<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>')
    for tick in x.ticks:
        at = _percent(x.place(tick.at))
        parts.append(f'<text class="x" x="{at}" y="100%" dy="1.5em">{escape(tick.label)}</text>')
    if limit is not None:
        at = _percent(1 - y.place(limit.at))
        parts.append(f'<line class="limit" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="limit-name" x="100%" y="{at}" dy="1.25em">{escape(limit.label)}</text>')
    lines = [_area(b, x, y) for b in bands if len(b.points) > 1]
    lines += [_path(c, x, y) for c in curves if not c.dots and c.points]
    if lines:
        view = f'width="100%" height="100%" viewBox="0 0 {UNITS} {UNITS}" preserveAspectRatio="none"'
        parts.append(f"<svg {view}>{''.join(lines)}</svg>")
    parts += [_dots(c, x, y) for c in curves if c.dots]
    parts.append('<line class="cursor" y1="0" y2="100%"/><circle class="cursor" r="4.5"/></svg>')
    return "".join(parts)


def strip(values: Sequence[float], middle: float, x: Scale, style: str, label: str) -> str:
    """Some values on a line of their own: their range, each as a ring, and a tick at `middle`."""
    low, high = _percent(x.place(min(values))), _percent(x.place(max(values)))
    at = _percent(x.place(middle))
    return "".join(
        [
            f'<svg class="strip" role="img" aria-label="{escape(label)}">',
            *(
                f'<line class="grid" x1="{g}" x2="{g}" y1="0" y2="100%"/>'
                for g in (_percent(x.place(t.at)) for t in x.ticks)
            ),
            f'<line class="{escape(style)}" x1="{low}" x2="{high}" y1="50%" y2="50%"/>',
            *(f'<circle class="{escape(style)}" cx="{_percent(x.place(v))}" cy="50%" r="4"/>' for v in values),
            f'<line class="middle {escape(style)}" x1="{at}" x2="{at}" y1="12%" y2="88%"/></svg>',
        ]
    )


def ruler(x: Scale) -> str:
    """The tick labels of an axis by themselves, to stand under strips."""
    words = [f'<text class="x" x="{_percent(x.place(t.at))}" y="1em">{escape(t.label)}</text>' for t in x.ticks]
    return f'<svg class="ruler" aria-hidden="true">{"".join(words)}</svg>'


def bar(parts: Sequence[tuple[str, float]], label: str) -> str:
    """Parts of a whole as one bar, in the order given; the table beside it names them by the same colours."""
    whole = sum(value for _, value in parts if value > 0)
    drawn = [f'<svg class="bar" role="img" aria-label="{escape(label)}">']
    at = 0.0
    for i, (name, value) in enumerate(parts):
        if value <= 0:
            continue
        share = value / whole
        title = escape(f"{name}: {wording.percent(share)}")
        drawn.append(
            f'<rect class="{colour(i)}" x="{_percent(at)}" width="{_percent(share)}" height="100%">'
            f"<title>{title}</title></rect>"
        )
        at += share
    return "".join([*drawn, "</svg>"])


def colour(position: int) -> str:
    """The class that colours the part at a position.

    >>> colour(0), colour(40)
    ('c0', 'c7')
    """
    return f"c{min(position, BAR_COLOURS - 1)}"


def _path(curve: Curve, x: Scale, y: Scale) -> str:
    places = [f"{_units(x.place(a))} {_units(1 - y.place(b))}" for a, b in curve.points]
    # A path of one point draws nothing; with a step of no length its round ends make a dot.
    steps = "L".join(places) if len(places) > 1 else places[0] + "h0"
    return f'<path class="{escape(curve.style)}" vector-effect="non-scaling-stroke" d="M{steps}"/>'


def _area(band: Band, x: Scale, y: Scale) -> str:
    upper = [f"{_units(x.place(a))} {_units(1 - y.place(high))}" for a, _, high in band.points]
    lower = [f"{_units(x.place(a))} {_units(1 - y.place(low))}" for a, low, _ in reversed(band.points)]
    return f'<path class="{escape(band.style)}" d="M{"L".join([*upper, *lower])}Z"/>'


def _dots(curve: Curve, x: Scale, y: Scale) -> str:
    inside = [(a, b) for a, b in curve.points if y.low <= b <= y.high]
    places = [f'cx="{_percent(x.place(a))}" cy="{_percent(1 - y.place(b))}"' for a, b in inside]
    return "".join(f'<circle class="{escape(curve.style)}" {place} r="3.5"/>' for place in places)


def _percent(share: float) -> str:
    return f"{share * 100:.2f}".rstrip("0").rstrip(".") + "%"


def _units(share: float) -> str:
    # Far outside the frame is outside enough: some renderers lose precision on huge coordinates.
    return f"{max(-9.0, min(10.0, share)) * UNITS:.1f}".rstrip("0").rstrip(".")
