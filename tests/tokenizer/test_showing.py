"""Tokens as people see them: exact where they are text, bytes where they are not, and never two pieces alike."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabula.tokenizer import artefacts, showing
from fabula.tokenizer.base import Tokenizer

SIGNS = {"·": " ", "↵": "\n", "→": "\t"}


def read_back(piece: str) -> bytes:
    """What a person who knows the signs makes of a shown piece."""
    out = b""
    for found in re.finditer(r"\\(.)|<0x([0-9A-F]{2})>|(.)", piece, re.DOTALL):
        if found[1]:
            out += found[1].encode()
        elif found[2]:
            out += bytes.fromhex(found[2])
        else:
            out += SIGNS.get(found[3], found[3]).encode()
    return out


@given(st.one_of(st.binary(max_size=12), st.text("|\\·↵→<0xE1>. \n\t\x1b\u200bñ€🦊", max_size=12).map(str.encode)))
@settings(max_examples=400, deadline=None)
def test_what_is_shown_says_exactly_which_bytes(raw: bytes) -> None:
    shown = showing.shown(raw)
    assert read_back(shown) == raw
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", shown)
    assert "|" not in re.sub(r"\\.", "", shown)


def test_pieces_are_the_text(tiny_tokenizer: Tokenizer) -> None:
    text = "El zorro | dijo: ñ €\n\t🦊"
    found = showing.pieces(tiny_tokenizer, tiny_tokenizer.encode(text))
    assert b"".join(found) == text.encode()
    barred = showing.barred(found)
    assert barred.count("<0x") >= 4  # the fox has no token in sixty fables
    assert "Ġ" not in barred
    assert "Ã" not in barred


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Ã©", ["mojibake"]),
        ("â€œ", ["mojibake"]),
        ("\ufffd", ["mojibake"]),
        ("ESPAÑ»", []),
        ("NÃO", []),
        ("É»", []),
        ("a\x01", ["control"]),
        ("\n\n", []),
        ("----", ["repeated"]),
        ("---", []),
        (". . . .", ["repeated"]),
        (" papa", []),
        ("https", ["address"]),
        ("<br>", ["address"]),
        ("a<b", []),
        (" Don Quijote", ["names"]),
        (" DON QUIJOTE", []),
        (" Había una vez un", ["phrases"]),
        (" niño", []),
    ],
)
def test_odd_tokens(text: str, kinds: list[str]) -> None:
    assert artefacts.kinds_of(text.encode()) == kinds


def test_parts_of_characters_are_odd() -> None:
    assert artefacts.kinds_of("€".encode()[:2]) == ["partial"]
    assert artefacts.kinds_of("a€".encode()[:-1]) == ["partial"]
