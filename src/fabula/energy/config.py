"""The [energy] section of a recipe, and how much CO2 a kWh is where the machine stands."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from fabula.config import setting
from fabula.errors import nearest


@dataclass(frozen=True, slots=True)
class Grid:
    """The electricity of a place."""

    place: str
    g_per_kwh: float
    year: int
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyConfig:
    """How a run's electricity is counted. It never fails a run and is no part of what comes out of it."""

    country: str = setting("", "where the machine is, three letters, as ESP; empty: the average of the world")
    codecarbon: bool = setting(True, "measure with codecarbon where it is installed; else by processor time alone")
    core_watts: float = setting(
        12.0, "what a busy processor core takes: its thermal design power by its cores; 12 is common"
    )

    def __post_init__(self) -> None:
        if self.country and self.country not in _table()["countries"]:
            codes = {**{name.lower(): code for code, name in _names().items()}, **{c.lower(): c for c in _names()}}
            code = codes.get(self.country.lower())
            said = f'did you mean "{code}"?' if code else nearest(self.country.upper(), _names())
            raise ValueError(f"country={self.country} must be a country's three letters (ISO 3166), as ESP; {said}")
        if not 0 < self.core_watts <= 1000:
            raise ValueError(f"core_watts={self.core_watts} must be above 0 and at most 1000")

    def grid(self) -> Grid:
        """The electricity of the country, or of the world."""
        table = _table()
        if not self.country:
            world = table["world"]
            return Grid("the world, on average", world["g_per_kwh"], world["year"], world["source"])
        found = table["countries"][self.country]
        return Grid(found["name"], found["g_per_kwh"], found["year"], table["source"])


def _names() -> dict[str, str]:
    return {code: found["name"] for code, found in _table()["countries"].items()}


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(resources.files("fabula.energy").joinpath("grid.toml").read_text("utf-8"))
