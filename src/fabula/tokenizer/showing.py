r"""How are tokens written so that a person can read them? Text where the bytes are text, <0xE0> where they are not.

A piece stands between bars, and nothing in it can be mistaken for anything else: a space is `·`, a line end `↵`, a tab
`→`, a control character its byte; a `|`, a backslash and those signs themselves get a backslash before them, and so
does a `<0xE0>` that the text says in letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fabula.tokenizer.base import Tokenizer

SPACE, LINE, TAB = "·", "↵", "→"

_SIGNS = {" ": SPACE, "\n": LINE, "\t": TAB}
_ESCAPED = re.compile(r"[|\\·↵→]|<(?=0x[0-9A-F]{2}>)")
# C0 but tab and line end, DEL, C1, marks of direction, spaces of no width, line and paragraph separators: a terminal
# obeys them or shows nothing.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[bytes]:
    """The bytes behind each id, in order; together they are the text."""
    known: dict[int, bytes] = {}
    for number in ids:
        if number not in known:
            known[number] = tokenizer.decode_bytes([number])
    return [known[number] for number in ids]


def shown(piece: bytes) -> str:
    r"""One piece as it stands between two bars.

    >>> [shown(p.encode()) for p in (" niño", "a|b", "\n", "\x1b[31m", "<0xE0>")]
    ['·niño', 'a\\|b', '↵', '<0x1B>[31m', '\\<0xE0>']
    >>> shown("€uro".encode()[1:])
    '<0x82><0xAC>uro'
    """
    return "".join(_bytes(part) if isinstance(part, bytes) else _text(part) for part in parts(piece))


def barred(found: Iterable[bytes]) -> str:
    """All pieces: |uno|·dos|."""
    return "|" + "|".join(shown(piece) for piece in found) + "|"


def parts(piece: bytes) -> list[str | bytes]:
    """The stretches of a piece that are text, and those that are parts of characters.

    >>> parts("ñ€".encode()[:-1])
    ['ñ', b'\\xe2\\x82']
    """
    found: list[str | bytes] = []
    rest = piece
    while rest:
        try:
            found.append(rest.decode("utf-8"))
            break
        except UnicodeDecodeError as error:
            if error.start:
                found.append(rest[: error.start].decode("utf-8"))
            found.append(rest[error.start : error.end])
            rest = rest[error.end :]
    return found


def is_text(piece: bytes) -> bool:
    """Whether the bytes are whole characters."""
    return all(isinstance(part, str) for part in parts(piece))


def _bytes(raw: bytes) -> str:
    return "".join(f"<0x{byte:02X}>" for byte in raw)


def _text(text: str) -> str:
    escaped = _ESCAPED.sub(lambda found: "\\" + found[0], text)
    signed = "".join(_SIGNS.get(letter, letter) for letter in escaped)
    return _HIDDEN.sub(lambda found: _bytes(found[0].encode("utf-8")), signed)
