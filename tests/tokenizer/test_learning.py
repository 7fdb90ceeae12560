"""What is learnt is what the readable reference learns, merge for merge, whatever learns it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabula.errors import InputError, MachineError, Stopped
from fabula.progress import StopFlag
from fabula.tokenizer import cuts, forms, merging, reference
from fabula.tokenizer.base import Tokenizer, byte_of_letter
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.characters import byte_tokenizer, train_characters
from fabula.tokenizer.forms import SMALLEST
from fabula.tokenizer.ranks import by_bytes, pairs_of
from fabula.tokenizer.run import TokenizerConfig, identity, run
from fabula.tokenizer.unigram import train_unigram
from tests import tiny

Cli = Callable[..., tuple[int, str, str]]

# Small alphabets: runs, periods and ties everywhere.
PIECES = st.lists(
    st.one_of(*(st.text(alphabet=a, max_size=40) for a in ("a", "ab", "abc", "a \n", "aé ñ", "ab'.1 \n¿漢"))),
    min_size=1,
    max_size=6,
)


def merges_of(tokenizer: Tokenizer) -> list[tuple[bytes, bytes]]:
    letters = {letter: bytes([byte]) for letter, byte in byte_of_letter().items()}
    return [
        (b"".join(map(letters.__getitem__, left)), b"".join(map(letters.__getitem__, right)))
        for left, right in json.loads(tokenizer.to_json())["model"]["merges"]
    ]


def spelled(pairs: list[tuple[int, int]]) -> list[tuple[bytes, bytes]]:
    tokens = [bytes([byte]) for byte in range(256)]
    made = []
    for left, right in pairs:
        made.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return made


def pieces_of(texts: list[str], pattern: str) -> list[bytes]:
    """The pieces of texts, cut by the library that reads `tokenizer.json`."""
    letters, cut = byte_of_letter(), forms.pre_tokenizer(cuts.CUTS[pattern])
    return [bytes(letters[c] for c in piece) for text in texts for piece, _ in cut.pre_tokenize_str(text)]


# ---- merges ------------------------------------------------------------------------------------------------


@given(PIECES, st.sampled_from(cuts.WORDS))
@settings(max_examples=150)
def test_within_words_rustbpe_learns_what_the_reference_does(texts: list[str], pattern: cuts.Pattern) -> None:
    made = train_bpe(texts, SMALLEST + 40, exact=False, pattern=pattern)
    assert merges_of(made) == spelled(reference.learn(pieces_of(texts, pattern), 40))


@given(PIECES)
@settings(max_examples=200)
def test_across_words_the_merger_learns_what_the_reference_does(texts: list[str]) -> None:
    made = train_bpe(texts, SMALLEST + 60, exact=False, boundary="none")
    assert merges_of(made) == spelled(reference.learn([t.encode() for t in texts], 60))


@given(st.lists(st.lists(st.integers(0, 2), max_size=60), min_size=1, max_size=5), st.integers(0, 80))
@settings(max_examples=200)
def test_the_merger_over_ids(pieces: list[list[int]], most: int) -> None:
    """The same from ids as from bytes, with ids numbered from elsewhere: the reference's are 256 and more."""
    flat = np.array([i for piece in pieces for i in piece], dtype=np.int32)
    found = merging.learn(flat, [len(p) for p in pieces], 3, most)
    expected = reference.learn([bytes(p) for p in pieces], most)
    assert found == [tuple(i if i < 256 else i - 253 for i in pair) for pair in expected]


def test_the_merger_on_a_text(tiny_texts: list[str]) -> None:
    pieces = [t.encode() for t in tiny_texts[:12]]
    ids = np.frombuffer(b"".join(pieces), dtype=np.uint8)
    assert merging.learn(ids, [*map(len, pieces)], 256, 120) == reference.learn(pieces, 120)


def test_documents_are_never_joined() -> None:
    assert merges_of(train_bpe(["xa", "bx"] * 50, 300, exact=False, boundary="none")) == [(b"b", b"x"), (b"x", b"a")]


@given(PIECES)
@settings(max_examples=80)
def test_superwords(texts: list[str]) -> None:
    """The merges within words come first, then those in lines; what the whole list makes of a line is what was seen."""
    share, most = 0.5, 40
    made = train_bpe(texts, SMALLEST + most, exact=False, boundary="superword", word_share=share)
    parts = [line for text in texts for line in re.findall(cuts.CUTS["lines"].pattern, text)]
    first = reference.learn(pieces_of(parts, "gpt2"), int(share * most))
    found = merges_of(made)
    assert found[: len(first)] == spelled(first)
    assert not any(b"\n" in token and token.strip(b"\r\n") for pair in found for token in (b"".join(pair),))
    tokens = [bytes([b]) for b in range(256)]
    tokens += [a + b for a, b in found]
    pairs = [(tokens.index(a), tokens.index(b)) for a, b in found]
    for number in range(len(first), len(pairs)):
        # Each later merge is the most frequent pair among the ids of the lines, as the merges before cut them.
        lines = [reference.encode(line, pairs[:number]) for line in pieces_of(texts, "lines")]
        counts: dict[tuple[int, int], int] = {}
        for ids in lines:
            for pair in pairwise(ids):
                counts[pair] = counts.get(pair, 0) + 1
        assert min(counts, key=lambda pair: (-counts[pair], pair)) == pairs[number]
        assert counts[pairs[number]] >= 2


@given(PIECES, st.sampled_from([*cuts.WORDS, "lines", "none"]))
@settings(max_examples=100)
def test_what_is_learnt_may_be_found_by_its_bytes(texts: list[str], cut: str) -> None:
    pairs = reference.learn(pieces_of(texts, cut), 50)
    tokens = [bytes([b]) for b in range(256)]
    tokens += [a + b for a, b in spelled(pairs)]
    assert len(set(tokens)) == len(tokens)
    assert pairs_of(tokens, 256) == pairs
    assert by_bytes(pairs, range(256, len(tokens))) is not None


FORK = """
import os, sys
from fabula.corpus.fables import Fables
from fabula.tokenizer.bpe import train_bpe
texts = [Fables("es", 0)[i].text for i in range(40)] + ["aaaa  aab\\0ab"]
before = {b: train_bpe(texts, 500, exact=False, boundary=b).fingerprint for b in ("word", "superword")}
child = os.fork()
if child == 0:
    same = all(train_bpe(texts, 500, exact=False, boundary=b).fingerprint == f for b, f in before.items())
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_of_a_process_that_has_learnt_learns_the_same() -> None:
    """rustbpe's threads do not outlive a fork; it would wait for them for ever."""
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        env=tiny.environment(),
        timeout=120,
        check=False,
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr[-500:]


def test_a_character_that_teaches_nothing() -> None:
    made = train_bpe(["\0\0\0a\0\0b\0ab\0ab\0" * 9], 300, exact=False)
    assert merges_of(made) == merges_of(train_bpe(["ababab" * 9], 300, exact=False)) != []
    assert made.decode(made.encode("\0\0ab\0")) == "\0\0ab\0"


@pytest.mark.parametrize("boundary", ["word", "superword", "none"])
def test_one_text_twice_does_not_explode(boundary: cuts.Boundary) -> None:
    made = train_bpe(["a" * 70_000, "a" * 70_000], 300, exact=False, boundary=boundary)
    assert made.decode(made.encode("a" * 99_999)) == "a" * 99_999


@pytest.mark.parametrize("boundary", ["superword", "none"])
def test_learning_can_be_stopped_and_says_how_far_it_is(boundary: cuts.Boundary, tiny_texts: list[str]) -> None:
    stop = StopFlag()
    told: list[float] = []

    class Task:
        def advance(self, amount: float = 1, note: str = "") -> None:
            told.append(amount)
            if sum(told) >= 128:
                stop.signal_number = 15

        def resize(self, total: float) -> None: ...

    class Progress:
        def task(self, name: str, total: float | None, unit: str):  # type: ignore[no-untyped-def]
            assert total
            return nullcontext(Task())

        def note(self, message: str) -> None: ...

    with pytest.raises(Stopped, match="learning the tokenizer"):
        train_bpe(tiny_texts, 1500, boundary=boundary, word_share=0.2, progress=Progress(), stop=stop)
    assert 128 <= sum(told) <= 192


# ---- sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"boundary": "none"},
        {"boundary": "superword"},
        {"pattern": "spanish"},
        {"kind": "unigram"},
        {"kind": "char"},
    ],
)
def test_every_kind_says_what_the_text_supports(tmp_path: Path, config: dict[str, str]) -> None:
    texts = ["el niño y el búho, el búho y el niño " * 3, "¡Él!"]
    made = run(TokenizerConfig(**config), texts, 63, tmp_path / "auto")  # type: ignore[arg-type]
    assert SMALLEST < made.tokenizer.vocab_size < 2048
    assert f"only enough for {made.tokenizer.vocab_size}" in (made.rule or "")
    with pytest.raises(InputError, match="larger than the corpus supports") as caught:
        run(TokenizerConfig(vocab_size=5000, **config), texts, 63, tmp_path / "large")  # type: ignore[arg-type]
    assert f"--tokenizer.vocab_size {made.tokenizer.vocab_size} " in str(caught.value)
    assert not (tmp_path / "large").exists()
    exact = run(TokenizerConfig(vocab_size=made.tokenizer.vocab_size, **config), texts, 63, tmp_path / "exact")  # type: ignore[arg-type]
    assert exact.tokenizer.fingerprint == made.tokenizer.fingerprint
    assert Tokenizer.load(tmp_path / "auto").fingerprint == made.tokenizer.fingerprint


def test_characters_are_the_most_frequent_of_more_than_one_byte() -> None:
    made = train_characters(["ñññ áá 漢漢漢漢 ü z", "ü"], SMALLEST + 3)
    assert [made.decode([i]) for i in range(SMALLEST, made.vocab_size)] == ["漢", "ñ", "á"]
    assert len(made.encode("ñü漢")) == 4
    assert train_characters(["ñññ áá ü z"], 2000, exact=False).vocab_size == SMALLEST + 2


def test_bytes() -> None:
    made = byte_tokenizer()
    assert made.vocab_size == SMALLEST
    assert [made.decode_bytes([i]) for i in made.encode("ñ🦊")] == [bytes([b]) for b in "ñ🦊".encode()]


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"kind": "byte", "vocab_size": 300}, "kind byte has 262"),
        ({"kind": "char", "boundary": "none"}, "which kind char has none of"),
        ({"kind": "byte", "pattern": "gpt4"}, "pattern=gpt4"),
        ({"boundary": "none", "pattern": "gpt4"}, "pattern=gpt4"),
        ({"word_share": 1.5}, "between 0 and 1"),
        ({"sample_bytes": 3_000_000_000}, "at most 2,000,000,000"),
        ({"path": "x", "vocab_size": 300}, "used as it is"),
    ],
)
def test_settings_that_contradict_each_other(settings_: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TokenizerConfig(**settings_)  # type: ignore[arg-type]


# ---- a tokenizer that is there -----------------------------------------------------------------------------


def test_a_tokenizer_is_taken_as_it_is(tmp_path: Path, tiny_tokenizer: Tokenizer, tiny_texts: list[str]) -> None:
    tiny_tokenizer.save(tmp_path / "given")
    config = TokenizerConfig(path=str(tmp_path / "given"))
    made = run(config, tiny_texts, 9, tmp_path / "out")
    assert made.rule is None
    assert Tokenizer.load(tmp_path / "out").fingerprint == tiny_tokenizer.fingerprint == made.facts["fingerprint"]
    before = identity(config)
    byte_tokenizer().save(tmp_path / "given")
    assert identity(config) != before
    with pytest.raises(InputError, match="no tokenizer at"):
        run(TokenizerConfig(path=str(tmp_path / "none")), tiny_texts, 9, tmp_path / "out2")


def test_settings_that_came_later_do_not_make_older_runs_stale() -> None:
    assert identity(TokenizerConfig()) == {"kind": "bpe", "vocab_size": "auto", "sample_bytes": 16_000_000}
    assert identity(TokenizerConfig(boundary="none"))["boundary"] == "none"


# ---- unigram -----------------------------------------------------------------------------------------------


def test_unigram_has_all_bytes_and_cuts_words_into_likely_pieces(tiny_texts: list[str]) -> None:
    made = train_unigram(tiny_texts, 700)
    assert made.vocab_size == 700
    pieces = [made.decode([i]) for i in made.encode(" el conejo")]
    assert "".join(pieces) == " el conejo"
    assert len(pieces) < 7


def test_without_sentencepiece(monkeypatch: pytest.MonkeyPatch, tiny_texts: list[str]) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MachineError, match=r"fabula\[tokenizer\]"):
        train_unigram(tiny_texts, 700)


def test_sentencepiece_prints_nothing(tiny_texts: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    train_unigram(tiny_texts[:20], 400)
    assert capfd.readouterr() == ("", "")


# ---- the command -------------------------------------------------------------------------------------------


def test_the_command_learns_every_kind(cli: Cli, tiny_corpus: Path, tmp_path: Path) -> None:
    for number, flags in enumerate(
        (
            ["--boundary", "none", "--vocab-size", "400"],
            ["--boundary", "superword", "--pattern", "spanish", "--vocab-size", "400"],
            ["--kind", "unigram", "--vocab-size", "400"],
            ["--kind", "char"],
            ["--kind", "byte"],
            ["--tokenizer.path", "made-0"],
        )
    ):
        code, out, err = cli("tokenizer", "train", tiny_corpus, "--out", f"made-{number}", "--json", *flags)
        assert code == 0, err
        loaded = Tokenizer.load(tmp_path / f"made-{number}")
        assert json.loads(out)["fingerprint"] == loaded.fingerprint
        assert loaded.decode(loaded.encode("¡Él, la zorra!\n")) == "¡Él, la zorra!\n"


def test_the_command_says_what_does_not_go_together(cli: Cli, tiny_corpus: Path, tmp_path: Path) -> None:
    for flags, said in (
        (["--boundary", "words"], 'did you mean "word"?'),
        (["--kind", "char", "--boundary", "none"], "which kind char has none of"),
        (["--tokenizer.path", "nowhere"], "no tokenizer at nowhere"),
        (["--tokenizer.path", "nowhere", "--vocab-size", "400"], "used as it is"),
    ):
        code, out, err = cli("tokenizer", "train", tiny_corpus, "--out", "made", *flags)
        assert (code, out) == (2, "")
        assert said in err
    assert not (tmp_path / "made").exists()
