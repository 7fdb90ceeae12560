"""How is a number said to a person? Counts, sizes, durations and ratios as short text.

The space between a number and its unit does not break (U+00A0). What is not known is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

SPACE = "\u00a0"
UNKNOWN = "–"
MINUS = "−"


def count(number: float | None) -> str:
    """A number of things, exact while it is short.

    >>> [count(n).replace(SPACE, " ") for n in (0, 9_999, 12_345, 1_230_000, 999_960, 7.1e9)]
    ['0', '9,999', '12.3 k', '1.23 M', '1.00 M', '7.10 B']
    """
    if number is None:
        return UNKNOWN
    if abs(number) < 10_000:
        return signed(f"{number:,.0f}")
    return _scaled(number, (("k", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12), ("P", 1e15), ("E", 1e18)))


def exact(number: float | None) -> str:
    """A number of things with every digit.

    >>> exact(1230000)
    '1,230,000'
    """
    return UNKNOWN if number is None else signed(f"{number:,.0f}")


def size(number: float | None) -> str:
    """Bytes, in decimal units.

    >>> [size(n).replace(SPACE, " ") for n in (1, 812, 48_200_000)]
    ['1 byte', '812 bytes', '48.2 MB']
    """
    if number is None:
        return UNKNOWN
    if abs(number) < 1000:
        return plural(number, "byte")
    return _scaled(number, (("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12), ("PB", 1e15)))


def watt_hours(kwh: float | None) -> str:
    """Electricity, from its kWh.

    >>> [watt_hours(n).replace(SPACE, " ") for n in (2.5e-5, 0.0194, 1.5)]
    ['0.025 Wh', '19.4 Wh', '1.5 kWh']
    """
    if kwh is None:
        return UNKNOWN
    return f"{ratio(kwh)}{SPACE}kWh" if kwh >= 1 else f"{ratio(1000 * kwh)}{SPACE}Wh"


def grams(kg: float | None) -> str:
    """A mass, from its kg.

    >>> [grams(n).replace(SPACE, " ") for n in (0.00398, 2.5)]
    ['3.98 g', '2.5 kg']
    """
    if kg is None:
        return UNKNOWN
    return f"{ratio(kg)}{SPACE}kg" if kg >= 1 else f"{ratio(1000 * kg)}{SPACE}g"


def plural(number: float | None, noun: str, many: str = "") -> str:
    """A count with its noun.

    >>> [plural(n, "copy", "copies").replace(SPACE, " ") for n in (1, 2)]
    ['1 copy', '2 copies']
    """
    return f"{count(number)}{SPACE}{noun if number == 1 else many or noun + 's'}"


def duration(seconds: float | None) -> str:
    """A time span in its two largest units.

    >>> [duration(s).replace(SPACE, " ") for s in (0.04, 3.21, 42, 192, 7500, 3600, 280_000)]
    ['0.04 s', '3.2 s', '42 s', '3 min 12 s', '2 h 5 min', '1 h', '3 d 5 h']
    """
    if seconds is None:
        return UNKNOWN
    if seconds < 0.995:
        return f"{seconds:.2g}{SPACE}s"
    if seconds < 9.95:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = (whole % length) // part
            head = f"{whole // length:,}{SPACE}{unit}"
            return f"{head}{SPACE}{rest}{SPACE}{smaller}" if rest else head
    return f"{whole}{SPACE}s"


def bits(number: float | None) -> str:
    """Bits per byte: three decimals, the third is about what two runs differ by.

    >>> bits(0.57123)
    '0.571'
    """
    return UNKNOWN if number is None else signed(f"{number:.3f}")


def ratio(number: float | None, digits: int = 3) -> str:
    """Any other number, to a few significant digits.

    >>> [ratio(n) for n in (0.001, 3.14159, 12.0, 12345.6, 0.00001234, 0)]
    ['0.001', '3.14', '12', '12,346', '1.23e−5', '0']
    """
    if number is None:
        return UNKNOWN
    if number == 0:
        return "0"
    if abs(number) >= 10**digits:
        return signed(f"{number:,.0f}") if abs(number) < 1e9 else _power(number, digits)
    if abs(number) < 1e-3:
        return _power(number, digits)
    text = f"{number:.{max(0, digits - 1 - math.floor(math.log10(abs(number))))}f}"
    return signed(text.rstrip("0").rstrip(".") if "." in text else text)


def percent(share: float | None) -> str:
    """A share of one as a percentage.

    >>> [percent(s) for s in (0.0004, 0.0321, 0.42, 1)]
    ['<0.1%', '3.2%', '42%', '100%']
    """
    if share is None:
        return UNKNOWN
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{share * 100:.1f}%" if 0 < share < 0.0995 else f"{share * 100:.0f}%"


def signed(text: str) -> str:
    """The text of a number with a real minus sign."""
    return text.replace("-", MINUS)


def day(text: str) -> str:
    """An ISO date and time for people; other text as it is.

    >>> day("2026-03-02T14:05:09+00:00")
    '2 March 2026, 14:05 UTC'
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = moment.tzname() or ""
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}, {moment:%H:%M} {zone}".rstrip()


_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def _scaled(number: float, units: Sequence[tuple[str, float]]) -> str:
    """Three significant digits and the largest unit that fits."""
    unit, scale = units[0]
    for name, value in units:
        # 999,960 is "1.00 M" and not "1000 k": the unit changes where rounding would need a fourth digit.
        if abs(number) >= value * 0.9995:
            unit, scale = name, value
    scaled = number / scale
    decimals = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return signed(f"{scaled:,.{decimals}f}{SPACE}{unit}")


def _power(number: float, digits: int) -> str:
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return signed(f"{mantissa}e{int(exponent)}")
