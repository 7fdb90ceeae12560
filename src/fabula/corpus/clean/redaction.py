"""Which parts of a text are somebody's? E-mail addresses, telephone numbers, IP addresses, cards, IBANs: covered up.

What stands there instead has the same shape and belongs to nobody (RFC 2606, 5737 and 3849 keep names and addresses
free for examples), or says in brackets what it was. Numbers with a checksum are only taken for a card (Luhn) or an
IBAN (ISO 7064) when it is right.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

How = Literal["substitute", "placeholder"]

_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w@])")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\w)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,4})?(?!\w)")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_PHONE = re.compile(
    r"""(?<![\w.,/+-])(?:
        \+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}              # +34 600 123 456
      | \(\d{2,4}\)[ .-]?\d{3,4}[ .-]\d{3,4}               # (555) 123-4567
      | \d{3}[ .-]\d{3}[ .-]\d{4}                          # 555-123-4567
      | [6789]\d{2}(?:[ .-]\d{3}[ .-]\d{3}|(?:[ .-]\d{2}){3})  # 600 123 456, 912 34 56 78
    )(?![\w/]|[.,-]\d)""",
    re.X,
)
_LEAST_DIGITS, _MOST_DIGITS = 9, 15


def redact(text: str, kinds: Sequence[str], how: How) -> str:
    """A text with the kinds of personal data that are named covered up.

    >>> redact("Ana (ana.gil@correo.es, +34 600 123 456) en 10.1.2.3", ("email", "phone", "ip"), "substitute")
    'Ana (name@example.com, +00 000 000 000) en 192.0.2.1'
    >>> redact("ana@correo.es", ("email",), "placeholder")
    '[email]'
    """
    # Longer ones first: an IBAN holds what looks like a card, a card what looks like a telephone.
    for kind in ("email", "iban", "card", "ip", "phone"):
        if kind in kinds:
            for pattern, cover in _COVERS[kind]:
                text = pattern.sub(partial(_covered, kind, cover, how), text)
    return text


def _covered(kind: str, cover: Callable[[str], str], how: How, match: re.Match[str]) -> str:
    found, substitute = match[0], cover(match[0])
    return found if substitute == found else substitute if how == "substitute" else f"[{kind}]"


def _email(found: str) -> str:
    return "name@example.com"


def _zeros(found: str) -> str:
    return re.sub(r"\d", "0", found)


def _phone(found: str) -> str:
    return _zeros(found) if _LEAST_DIGITS <= sum(c.isdigit() for c in found) <= _MOST_DIGITS else found


def _card(found: str) -> str:
    digits = [int(c) for c in reversed(found) if c.isdigit()]
    total = sum(digits[0::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return _zeros(found) if total % 10 == 0 and any(digits) else found


def _iban(found: str) -> str:
    plain = re.sub(r"[ -]", "", found)
    number = "".join(str(int(c, 36)) for c in plain[4:] + plain[:4])
    return found[:2] + _zeros(found[2:]) if 15 <= len(plain) <= 34 and int(number) % 97 == 1 else found


def _ipv4(found: str) -> str:
    return "192.0.2.1" if all(int(part) < 256 for part in found.split(".")) else found


def _ipv6(found: str) -> str:
    try:
        ipaddress.IPv6Address(found)
    except ValueError:
        return found
    return "2001:db8::1"


_COVERS: dict[str, list[tuple[re.Pattern[str], Callable[[str], str]]]] = {
    "email": [(_EMAIL, _email)],
    "iban": [(_IBAN, _iban)],
    "card": [(_CARD, _card)],
    "ip": [(_IPV4, _ipv4), (_IPV6, _ipv6)],
    "phone": [(_PHONE, _phone)],
}
