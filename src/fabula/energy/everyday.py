"""What is that much electricity and CO2 in things that everybody knows? Each with where its factor is from."""

from __future__ import annotations

from fabula.config import Data

# Per kWh.
_ELECTRICITY = (
    ("phone charges", 1 / 0.0193, "a battery of 4,000 mAh at 3.85 V, charged with 20 % lost on the way: 19.3 Wh"),
    ("hours of a lamp", 100.0, "an LED lamp of 10 W"),
    ("litres of water boiled", 1 / 0.0988, "from 15 to 100 degrees, 4,186 J a litre and degree: 98.8 Wh"),
)
# Per kg of CO2e.
_CO2 = (
    (
        "km by car",
        1 / 0.175,
        "an average European car, 175 g a km (UK Government GHG conversion factors 2019, as in Green Algorithms)",
    ),
    (
        "days of a tree's growth",
        365 / 11.0,
        "a grown tree takes up about 11 kg a year (the figure of Green Algorithms)",
    ),
)


def equivalents(kwh: float, kg_co2e: float) -> list[Data]:
    """Amounts with their names and the reason of their factor."""
    rows = [(name, kwh * factor, why) for name, factor, why in _ELECTRICITY]
    rows += [(name, kg_co2e * factor, why) for name, factor, why in _CO2]
    return [{"name": name, "amount": amount, "factor": why} for name, amount, why in rows]


def sentence(kwh: float, kg_co2e: float) -> str:
    """The same for people, in a line.

    >>> sentence(0.0194, 0.00398)
    '19.4 Wh, 3.98 g CO2e: 1.01 phone charges, 22.7 m by car'
    """
    found = {entry["name"]: entry["amount"] for entry in equivalents(kwh, kg_co2e)}
    electricity, co2 = f"{_scaled(kwh, 'kWh', 'Wh')}", _scaled(kg_co2e, "kg", "g")
    road = _scaled(found["km by car"], "km", "m")
    return f"{electricity}, {co2} CO2e: {_short(found['phone charges'])} phone charges, {road} by car"


def _scaled(value: float, unit: str, thousandth: str) -> str:
    return f"{_short(value)} {unit}" if value >= 1 else f"{_short(1000 * value)} {thousandth}"


def _short(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0:
        return "0"
    if value >= 999.5:
        return f"{value:,.0f}"
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f}" if value >= 0.0995 else f"{value:.2g}" if value >= 1e-4 else "less than 0.0001"
