"""The split depends on a document's text alone, and `Seen` is an exact set in bounded memory."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from statistics import correlation

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula.corpus.split import Seen, content_key, position_of, split_of
from fabula.errors import MachineError

KEYS = [content_key(f"cuento {n}") for n in range(20_000)]


def test_keys_are_pinned() -> None:
    """A change here would silently move documents between the splits of existing runs."""
    assert content_key("El conejo saltó.").hex() == "ab7e0011bc5cd700a1109875662db235"
    assert content_key("El conejo saltó.") == content_key("El conejo saltó.".encode())
    assert position_of(content_key("El conejo saltó."), 0) == 0.6110863265066964


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True))
def test_different_texts_have_different_keys(texts: list[str]) -> None:
    keys = {content_key(t) for t in texts}
    assert len(keys) == len(texts)
    assert all(len(k) == 16 for k in keys)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**63))
def test_raising_the_share_only_moves_documents_to_validation(key: bytes, seed: int) -> None:
    position = position_of(key, seed)
    assert 0 <= position < 1
    assert split_of(key, seed, position) == "train"
    assert [split_of(key, seed, s) for s in (0, 1)] == ["train", "validation"]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_the_share_is_met(share: float) -> None:
    got = sum(split_of(k, 3, share) == "validation" for k in KEYS) / len(KEYS)
    assert abs(got - share) < 4 * (share * (1 - share) / len(KEYS)) ** 0.5


def test_seeds_and_purposes_are_independent() -> None:
    a = [position_of(k, 0) for k in KEYS]
    for b in ([position_of(k, 1) for k in KEYS], [position_of(k, 0, b"sample") for k in KEYS]):
        assert abs(correlation(a, b)) < 4 / len(KEYS) ** 0.5


def test_seen_is_an_exact_set() -> None:
    with Seen() as seen:
        assert [seen.add(k) for k in KEYS] == [True] * len(KEYS)
        assert [seen.add(k) for k in KEYS] == [False] * len(KEYS)
        assert KEYS[5] in seen
        assert content_key("otro") not in seen
    seen.close()
    with pytest.raises(sqlite3.ProgrammingError):
        seen.add(KEYS[0])


def test_two_sets_know_nothing_of_each_other() -> None:
    with Seen() as one, Seen() as two:
        assert one.add(KEYS[0])
        assert KEYS[0] not in two


def test_a_full_disk_is_explained() -> None:
    with Seen() as seen:
        seen._database.execute("PRAGMA max_page_count = 20")
        with pytest.raises(MachineError, match=r"temporary folder \(database or disk is full\).*TMPDIR"):
            assert all(map(seen.add, KEYS))


@pytest.mark.skipif(sys.platform == "win32", reason="needs getrusage")
def test_memory_of_seen_is_bounded() -> None:
    """In a process of its own: 400,000 keys (9 MB on disk) with a cache of 2 MiB."""
    code = """
import resource
from fabula.corpus import split
split._CACHE_MIB = 2
with split.Seen() as seen:
    for n in range(20_000):
        seen.add(split.content_key(str(n)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for n in range(20_000, 400_000):
        seen.add(split.content_key(str(n)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    unit = 1 if sys.platform == "darwin" else 1024
    assert grown * unit < 6 << 20
