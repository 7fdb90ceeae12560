"""What does the page say about electricity and CO2?"""

from __future__ import annotations

from fabula.report import wording
from fabula.report.facts import Fact, Section, breakdown, shown
from fabula.report.reading import Records


def energy(records: Records) -> Section | None:
    """Electricity and CO2, by stage and by part, with the methods; None where nothing was counted."""
    found = records.emissions
    kwh, co2 = found.number("total", "kwh"), found.number("total", "kg_co2e")
    if kwh is None or co2 is None:
        return None
    place, grams = found.text("grid", "place"), found.number("grid", "g_per_kwh")
    source = f"{found.text('grid', 'source')}, {shown(found.get('grid', 'year'))}"
    facts = [
        Fact("electricity", wording.watt_hours(kwh), "an estimate"),
        Fact("CO2e", wording.grams(co2), f"{place}: {wording.ratio(grams)} g a kWh ({source})"),
    ]
    parts = (("cpu_kwh", "processor"), ("gpu_kwh", "graphics card"), ("ram_kwh", "memory"))
    facts += [
        Fact(label, wording.watt_hours(n), f"{wording.percent(n / kwh)} of it" if kwh else "")
        for key, label in parts
        if (n := found.number("total", key)) is not None
    ]
    facts += [
        Fact(entry.text("name"), wording.ratio(entry.number("amount"), 2), entry.text("factor"))
        for entry in found.tables("everyday")
    ]
    stages = [(name, found.number("stages", name, "kwh") or 0.0) for name, _ in found.pairs("stages")]
    measured, seconds = found.number("total", "codecarbon_seconds"), found.number("total", "seconds")
    return {
        "facts": facts,
        "methods": [(name, found.text("methods", name)) for name, _ in found.pairs("methods")],
        "share": wording.percent(measured / seconds) if measured and seconds else "",
        **breakdown(stages, wording.watt_hours, "Where the electricity went"),
    }
