"""From bytes to text that can be shown: whole characters, and nothing of a stop sequence."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fabula.generate.text import TextStream


def play(pieces: list[bytes], stops: list[str]) -> tuple[list[str], bool]:
    stream = TextStream(stops)
    shown = [stream.feed(p) for p in pieces]
    return [*shown, stream.finish()], stream.stopped


def bytewise(text: str) -> list[bytes]:
    return [bytes([b]) for b in text.encode("utf-8")]


def test_a_character_waits_for_its_last_byte() -> None:
    assert play(bytewise("añ🙂"), []) == (["a", "", "ñ", "", "", "", "🙂", ""], False)


def test_an_incomplete_character_at_the_end_becomes_the_replacement() -> None:
    assert play([b"a\xf0\x9f"], []) == (["a", "�"], False)
    assert play([b"\xff", b"b"], [])[0] == ["�", "b", ""]
    assert play([b"\xc3", b"b"], [])[0] == ["", "�b", ""], "a character that breaks off is replaced as soon as it does"


def test_a_stop_over_token_borders() -> None:
    shown, stopped = play([b"one\n", b"\nUs", b"er: two"], ["\n\nUser:"])
    assert stopped
    assert shown == ["one", "", "", ""]


def test_what_only_began_like_a_stop_is_shown_after_all() -> None:
    assert play([b"a\n", b"\n", b"b"], ["\n\n\n"]) == (["a", "", "\n\nb", ""], False)
    assert play([b"a\n"], ["\n\n"]) == (["a", "\n"], False)


def test_a_stop_that_begins_inside_another_beginning() -> None:
    """After "aa" an "ab" may still come: the first a is let go, the second kept."""
    assert play(bytewise("xaab"), ["ab"]) == (["x", "", "a", "", ""], True)


def test_the_stop_that_is_complete_first_wins_however_the_text_arrives() -> None:
    for pieces in ([b"zabcd"], bytewise("zabcd"), [b"zab", b"cd"]):
        shown, stopped = play(pieces, ["abcd", "bc"])
        assert ("".join(shown), stopped) == ("za", True)


def test_of_two_stops_that_end_together_the_longer_is_cut() -> None:
    assert "".join(play([b"xabc"], ["bc", "abc"])[0]) == "x"


def test_nothing_comes_after_a_stop() -> None:
    stream = TextStream(["."])
    assert stream.feed(b"a.b") == "a"
    assert stream.stopped
    assert stream.feed(b"more") == ""
    assert stream.finish() == ""


@pytest.mark.parametrize("stops", [[], [""], ["", ""]])
def test_an_empty_stop_stops_nothing(stops: list[str]) -> None:
    assert play([b"abc"], stops) == (["abc", ""], False)


@pytest.mark.parametrize("stop", ["🙂", "ñ", "\n"])
def test_a_stop_of_one_character(stop: str) -> None:
    assert play(bytewise(f"a{stop}b"), [stop])[1]
    assert "".join(play(bytewise(f"a{stop}b"), [stop])[0]) == "a"


letters = st.text("abñ🙂\n", max_size=12)


@given(letters, st.lists(st.text("abñ🙂\n", max_size=4), max_size=3), st.data())
@example("abcd", ["abcd", "bc"], None)
def test_the_pieces_do_not_matter(text: str, stops: list[str], data: st.DataObject | None) -> None:
    raw = text.encode("utf-8")
    cuts = [] if data is None else sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    edges = [0, *cuts, len(raw)]
    pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
    shown, stopped = play(pieces, stops)
    byte_by_byte, also_stopped = play(bytewise(text), stops)
    joined = "".join(shown)
    assert (joined, stopped) == ("".join(byte_by_byte), also_stopped)
    real = [s for s in stops if s]
    assert not any(s in joined for s in real)
    assert stopped == any(s in text for s in real)
    assert text.startswith(joined)
    if not stopped:
        assert joined == text


@given(st.binary(max_size=20), st.data())
def test_any_bytes_in_any_pieces_decode_as_one(raw: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    edges = [0, *cuts, len(raw)]
    pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
    assert "".join(play(pieces, [])[0]) == raw.decode("utf-8", errors="replace")
