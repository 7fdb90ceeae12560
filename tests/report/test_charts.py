"""From series to SVG: nothing that matters is lost, and values land where the axis says."""

from __future__ import annotations

import math
import random
import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fabula.report import charts

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(values=VALUES, at_most=st.integers(4, 50))
def test_thinning_keeps_ends_and_extremes(values: list[float], at_most: int) -> None:
    kept = charts.thin(values, at_most)
    assert len(kept) <= max(at_most, 4)
    assert kept == sorted(set(kept))
    assert {0, len(values) - 1} <= set(kept)
    assert min(values[i] for i in kept) == min(values)
    assert max(values[i] for i in kept) == max(values)


def test_thinning_keeps_one_spike_among_many() -> None:
    values = [0.5] * 100_000
    values[73_219] = 9.0
    kept = charts.thin(values, 1000)
    assert len(kept) <= 1000
    assert 73_219 in kept


@given(values=VALUES, reach=st.integers(0, 20))
def test_smoothing_stays_within_the_values(values: list[float], reach: int) -> None:
    means = charts.smooth(values, reach)
    assert len(means) == len(values)
    assert all(min(values) - 1e-3 <= m <= max(values) + 1e-3 for m in means)
    assert means[0] == pytest.approx(values[0], abs=1e-3)


def test_smoothing_takes_noise_away_without_moving_a_line() -> None:
    assert charts.smooth([float(i) for i in range(9)], 2)[:7] == pytest.approx(range(7))


def test_the_first_noisy_points_do_not_squash_the_rest() -> None:
    curve = [0.6 + 8 * math.exp(-i / 5) for i in range(500)]
    low, high = charts.calm_range(curve, always=[0.55])
    assert low == 0.55
    assert high < 0.7


def test_a_calm_curve_is_shown_whole() -> None:
    assert charts.calm_range([2.0 - i / 100 for i in range(100)]) == (pytest.approx(1.01), 2.0)


def test_few_points_are_shown_whole() -> None:
    assert charts.calm_range([9.0, 1.0, 0.9]) == (0.9, 9.0)


@given(low=st.floats(-1e9, 1e9), span=st.floats(0, 1e9))
@example(low=0.0, span=5e-324)
def test_ticks_lie_inside_the_axis_and_differ(low: float, span: float) -> None:
    scale = charts.value_scale(low, low + span, "bits", below=0.1, above=0.1)
    assert scale.low < scale.high
    slack = 1e-6 * (scale.high - scale.low)
    assert all(scale.low - slack <= t.at <= scale.high + slack for t in scale.ticks)
    assert len(scale.ticks) <= 12


@pytest.mark.parametrize("high", [1e-4, 0.002, 0.37, 1.0, 3.5, 87.0, 1234.0, 61_000.0, 2.5e6, 8e10])
def test_tick_labels_differ(high: float) -> None:
    labels = [t.label for t in charts.value_scale(0.0, high, "x").ticks]
    assert len(labels) == len(set(labels)) >= 3
    assert max(map(len, labels)) <= 8


@pytest.mark.parametrize(
    ("scale", "title", "labels"),
    [
        (charts.time_scale(40), "seconds", ["0", "10", "20", "30", "40"]),
        (charts.time_scale(305), "minutes", ["0", "1", "2", "3", "4", "5"]),
        (charts.time_scale(7 * 3600), "hours", ["0", "1", "2", "3", "4", "5", "6", "7"]),
        (charts.time_scale(6 * 86400), "days", ["0", "1", "2", "3", "4", "5", "6"]),
        (charts.count_scale(4500, "steps"), "steps", ["0", "1,000", "2,000", "3,000", "4,000"]),
        (charts.count_scale(1.1e7, "tokens"), "million tokens", ["0", "2", "4", "6", "8", "10"]),
        (charts.count_scale(3, "steps"), "steps", ["0", "1", "2", "3"]),
    ],
)
def test_axes_have_units_and_round_ticks(scale: charts.Scale, title: str, labels: list[str]) -> None:
    assert scale.title == title
    assert [t.label for t in scale.ticks] == labels


@pytest.mark.parametrize("high", [0.0, 1e-6, 0.5, 1.0, 119.0, 121.0, 1e4, 1e5, 1e7])
def test_any_length_of_time_has_an_axis(high: float) -> None:
    for scale in (charts.time_scale(high), charts.count_scale(high, "steps")):
        assert 1 <= len(scale.ticks) <= 14
        assert scale.place(scale.low) == 0
        assert scale.place(scale.high) == 1


def test_a_chart_puts_points_where_the_axis_says() -> None:
    x, y = charts.count_scale(10, "steps"), charts.value_scale(0, 2, "bits")
    svg = charts.line_chart([charts.Curve([(0, 0), (5, 1), (10, 2)], "train")], x, y, "a label")
    path = next(e for e in ET.fromstring(svg).iter() if e.tag == "path")
    assert path.get("d") == "M0 1000L500 500L1000 0"


def test_a_level_is_drawn_if_it_is_known() -> None:
    x, y = charts.count_scale(10, "steps"), charts.value_scale(0, 2, "bits")
    assert "limit" not in charts.line_chart([], x, y, "none")
    svg = charts.line_chart([], x, y, "one", limit=charts.Tick(0.5, "entropy"))
    line = next(e for e in ET.fromstring(svg).iter() if e.get("class") == "limit")
    assert line.get("y1") == line.get("y2") == "75%"


def test_dots_above_the_frame_are_left_out() -> None:
    x, y = charts.count_scale(10, "steps"), charts.value_scale(0, 1, "bits")
    svg = charts.line_chart([charts.Curve([(1, 0.5), (2, 7.0)], "validation", dots=True)], x, y, "dots")
    assert sum(e.get("class") == "validation" for e in ET.fromstring(svg).iter()) == 1


def test_one_point_makes_a_drawing() -> None:
    x, y = charts.time_scale(0), charts.value_scale(1, 1, "bits")
    assert "h0" in charts.line_chart([charts.Curve([(0, 1)], "train")], x, y, "one point")


def test_a_bar_is_whole_and_names_are_escaped() -> None:
    chance = random.Random(0)
    parts = [(f"<b>{i}</b>", chance.random()) for i in range(12)] + [("nothing", 0.0)]
    bar = ET.fromstring(charts.bar(parts, 'a "label" <i>'))
    widths = [float(e.get("width", "0")[:-1]) for e in bar]
    assert len(widths) == 12
    assert sum(widths) == pytest.approx(100, abs=0.2)
    assert bar[3][0].text is not None
    assert bar[3][0].text.startswith("<b>3</b>:")
