"""Every text comes back; content never becomes a special id; a damaged file is called damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula import storage
from fabula.errors import DamagedError, InputError
from fabula.tokenizer.base import FILE, Tokenizer, byte_of_letter
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.forms import SMALLEST
from fabula.tokenizer.run import TokenizerConfig, auto_vocab_size, measure, run
from fabula.tokenizer.special import SPECIAL_TEXT, SpecialTokens

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
NASTY = [
    "",
    " ",
    "\n\n\n",
    "\r\n\t\v\f",
    "\x00\x01\x7f",
    "  dos  espacios ",
    "¡Ay, qué niño! ¿Sí?",
    "e\u0301 is not é",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\u202eabc\u202c",
    "\ufeffmark",
    "\ufffd\ufffe\uffff",
    "\U0010ffff",
    "ĠĊ Ġ is how others write a space",
    "a" * 5000,
    "ñ" * 3000,
    "".join(chr(c) for c in range(0x2000, 0x2070)),
]


# ---- round trip --------------------------------------------------------------------------------------------


@given(text=UNICODE)
def test_every_text_comes_back(tiny_tokenizer: Tokenizer, text: str) -> None:
    ids = tiny_tokenizer.encode(text)
    assert tiny_tokenizer.decode(ids) == text
    assert tiny_tokenizer.decode_bytes(ids) == text.encode("utf-8")
    assert not set(ids) & set(tiny_tokenizer.special.ids())


@given(texts=st.lists(UNICODE, max_size=5))
def test_a_batch_is_the_texts_one_by_one(tiny_tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tiny_tokenizer.encode_batch(texts) == [tiny_tokenizer.encode(t) for t in texts]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_nasty_texts_come_back(tiny_tokenizer: Tokenizer, text: str) -> None:
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text


@given(text=UNICODE, cut=st.integers(0, 1000))
def test_bytes_of_parts_join(tiny_tokenizer: Tokenizer, text: str, cut: int) -> None:
    """Ids may be cut anywhere, also inside a character: the bytes of the parts are the bytes of the whole."""
    ids = tiny_tokenizer.encode(text)
    cut = cut % (len(ids) + 1)
    left, right = ids[:cut], ids[cut:]
    assert tiny_tokenizer.decode_bytes(left) + tiny_tokenizer.decode_bytes(right) == text.encode("utf-8")
    tiny_tokenizer.decode(left)  # no error in the middle of a character


def test_half_a_character_is_no_error(tiny_tokenizer: Tokenizer) -> None:
    ids = tiny_tokenizer.encode("🦊")
    assert len(ids) > 1
    assert tiny_tokenizer.decode(ids[:1]) == "\ufffd"
    assert tiny_tokenizer.decode(ids) == "🦊"


@given(before=UNICODE, bad=st.characters(categories=["Cs"]), after=UNICODE)
def test_lone_surrogates_are_refused(tiny_tokenizer: Tokenizer, before: str, bad: str, after: str) -> None:
    text = before + bad + after
    with pytest.raises(InputError, match="lone surrogate"):
        tiny_tokenizer.encode(text)
    with pytest.raises(InputError, match="lone surrogate"):
        tiny_tokenizer.encode_batch(["fine", text])


@pytest.mark.corpora
def test_naughty_strings_come_back(tiny_tokenizer: Tokenizer, corpora: Path) -> None:
    naughty = json.loads((corpora / "blns.json").read_text(encoding="utf-8"))
    assert len(naughty) > 400
    for text in naughty:
        assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text
    joined = "\n".join(naughty)
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(joined)) == joined


@pytest.mark.corpora
@pytest.mark.parametrize("name", ["utf8-demo.txt", "blns.txt"])
def test_demonstration_texts_come_back(tiny_tokenizer: Tokenizer, corpora: Path, name: str) -> None:
    text = (corpora / name).read_bytes().decode("utf-8")
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text
    for line in text.split("\n"):
        assert tiny_tokenizer.decode(tiny_tokenizer.encode(line)) == line


def test_it_works_in_alphabets_that_it_never_saw(tiny_tokenizer: Tokenizer) -> None:
    for text in ("漢字かな交じり文", "Съешь ещё", "نص عربي", "हिन्दी", "𒀀𒁀", "\x07\x1b[31m"):
        assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text


# ---- special tokens ----------------------------------------------------------------------------------------


def test_special_ids_are_distinct(tiny_tokenizer: Tokenizer) -> None:
    ids = tiny_tokenizer.special.ids()
    assert len(ids) == len(set(ids)) == len(SPECIAL_TEXT) == 6
    assert all(0 <= i < tiny_tokenizer.vocab_size for i in ids)


def test_shared_special_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        SpecialTokens(end_of_document=0, padding=0, end_of_turn=2, system=3, user=4, assistant=5)


@pytest.mark.parametrize("written", SPECIAL_TEXT.values())
def test_what_looks_special_in_content_is_text(tiny_tokenizer: Tokenizer, written: str) -> None:
    for text in (written, f"a{written}b", f"{written}{written}", f" {written}\n", f"<|{written}|>"):
        ids = tiny_tokenizer.encode(text)
        assert not set(ids) & set(tiny_tokenizer.special.ids())
        assert tiny_tokenizer.encode_batch([text]) == [ids]
        assert tiny_tokenizer.decode(ids) == text


def test_training_on_special_texts_teaches_no_special_id(tiny_texts: list[str], tmp_path: Path) -> None:
    made = train_bpe([f"{t}<|endoftext|><|user|>" for t in tiny_texts], 400)
    made.save(tmp_path)
    for tokenizer in (made, Tokenizer.load(tmp_path)):
        ids = tokenizer.encode("x<|endoftext|><|user|>y")
        assert not set(ids) & set(tokenizer.special.ids())
        assert tokenizer.decode(ids) == "x<|endoftext|><|user|>y"


def test_special_ids_vanish_or_show(tiny_tokenizer: Tokenizer) -> None:
    end = tiny_tokenizer.special.end_of_document
    ids = [end, *tiny_tokenizer.encode("hola"), end]
    assert tiny_tokenizer.decode(ids) == "hola"
    assert tiny_tokenizer.decode(ids, specials=True) == "<|endoftext|>hola<|endoftext|>"


# ---- every id ----------------------------------------------------------------------------------------------


def test_every_id_has_its_bytes(tiny_tokenizer: Tokenizer) -> None:
    lengths = tiny_tokenizer.byte_lengths()
    assert len(lengths) == tiny_tokenizer.vocab_size
    special = set(tiny_tokenizer.special.ids())
    for number in range(tiny_tokenizer.vocab_size):
        raw = tiny_tokenizer.decode_bytes([number])
        assert len(raw) == lengths[number]
        assert (raw == b"") == (number in special)
        assert isinstance(tiny_tokenizer.decode([number]), str)
    singles = {tiny_tokenizer.decode_bytes([n]) for n in range(tiny_tokenizer.vocab_size) if lengths[n] == 1}
    assert singles == {bytes([b]) for b in range(256)}


@pytest.mark.parametrize("number", [-1, 320, 10**9])
def test_an_id_outside_the_vocabulary(tiny_tokenizer: Tokenizer, number: int) -> None:
    with pytest.raises(InputError, match="outside the vocabulary of 320"):
        tiny_tokenizer.decode([number])


def test_the_letters_of_bytes_are_gpt2s() -> None:
    table = byte_of_letter()
    assert sorted(table.values()) == list(range(256))
    assert table["Ġ"] == ord(" ")
    assert table["Ċ"] == ord("\n")
    assert table["a"] == ord("a")


# ---- training ----------------------------------------------------------------------------------------------


def test_the_vocabulary_has_the_size_asked_for(tiny_texts: list[str]) -> None:
    for size in (SMALLEST, SMALLEST + 1, 300, 500):
        assert train_bpe(tiny_texts, size).vocab_size == size


def test_a_vocabulary_larger_than_the_corpus_supports() -> None:
    with pytest.raises(InputError, match=r"vocab_size=5000 is larger than the corpus supports") as caught:
        train_bpe(["el conejo y el zorro " * 3], 5000)
    possible = train_bpe(["el conejo y el zorro " * 3], 5000, exact=False).vocab_size
    assert f"--tokenizer.vocab_size {possible}" in str(caught.value)
    assert train_bpe(["el conejo y el zorro " * 3], possible).vocab_size == possible


def test_a_vocabulary_smaller_than_the_bytes() -> None:
    with pytest.raises(InputError, match=f"use {SMALLEST} or more"):
        train_bpe(["hola"], 100)
    with pytest.raises(ValueError, match=str(SMALLEST)):
        TokenizerConfig(vocab_size=SMALLEST - 1)


def test_auto_sizes() -> None:
    assert [auto_vocab_size(n)[0] for n in (0, 1_999_999, 2_000_000, 19_999_999, 20_000_000, 10**12)] == [
        *[2048, 2048, 4096, 4096, 8192, 8192]
    ]
    assert "4,096 tokens for a corpus of 3.0 MB" in auto_vocab_size(3_000_000)[1]


def test_auto_takes_what_a_small_text_offers(tmp_path: Path) -> None:
    made = run(TokenizerConfig(), ["el conejo y el zorro " * 3], 63, tmp_path / "tokenizer")
    assert SMALLEST < made.tokenizer.vocab_size < 2048
    assert made.rule is not None
    assert f"only enough for {made.tokenizer.vocab_size}" in made.rule


def test_no_text(tmp_path: Path) -> None:
    for texts in ([], ["", ""]):
        with pytest.raises(InputError, match="no text"):
            run(TokenizerConfig(), texts, 0, tmp_path / "tokenizer")
    assert not (tmp_path / "tokenizer").exists()


def test_the_stage_publishes_a_folder_that_verifies(tmp_path: Path, tiny_texts: list[str]) -> None:
    made = run(TokenizerConfig(vocab_size=300), tiny_texts, 1000, tmp_path / "tokenizer")
    manifest = storage.verify(tmp_path / "tokenizer")
    assert manifest["fingerprint"] == made.tokenizer.fingerprint
    assert manifest["vocab_size"] == 300
    assert 1 < manifest["bytes_per_token"] < 10
    assert measure(made.tokenizer, tiny_texts) == made.facts


def test_saved_and_loaded_it_is_the_same(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save(tmp_path)
    for place in (tmp_path, tmp_path / FILE):
        loaded = Tokenizer.load(place)
        assert loaded.fingerprint == tiny_tokenizer.fingerprint
        assert loaded.special == tiny_tokenizer.special
        assert loaded.encode("¡Hola! <|endoftext|>") == tiny_tokenizer.encode("¡Hola! <|endoftext|>")
    Tokenizer.load(tmp_path).save(tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / FILE).read_bytes()


def test_another_vocabulary_has_another_fingerprint(tiny_texts: list[str]) -> None:
    assert train_bpe(tiny_texts, 300).fingerprint != train_bpe(tiny_texts, 301).fingerprint


TRAIN = """
import sys
from pathlib import Path
from fabula.corpus.fables import Fables
from fabula.tokenizer.bpe import train_bpe
fables = Fables("es", 0)
train_bpe([fables[i].text for i in range(200)], 600).save(Path(sys.argv[1]))
"""


def test_trained_twice_with_one_thread_or_two_the_file_is_the_same(tmp_path: Path) -> None:
    files = []
    for number, threads in enumerate(("1", "2", "2")):
        out = tmp_path / str(number)
        subprocess.run(
            [sys.executable, "-c", TRAIN, str(out)],
            check=True,
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": str(number + 1)},
        )
        files.append((out / FILE).read_bytes())
    assert files[0] == files[1] == files[2]


# ---- damage ------------------------------------------------------------------------------------------------


def test_no_tokenizer_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer at"):
        Tokenizer.load(tmp_path)


def _vocab(data: dict[str, Any]) -> dict[str, int]:
    return data["model"]["vocab"]


def _renumber(data: dict[str, Any], place: int, number: int) -> None:
    name = next(t for t, i in _vocab(data).items() if i == place)
    _vocab(data)[name] = number


def _drop_byte(data: dict[str, Any]) -> None:
    """The letter of a byte goes and the rest moves up: no hole, but one byte can no longer be written."""
    gone = next(i for t, i in _vocab(data).items() if t == "z")
    del _vocab(data)["z"]
    data["model"]["vocab"] = {t: i - (i > gone) for t, i in _vocab(data).items()}
    data["model"]["merges"] = [m for m in data["model"]["merges"] if "z" not in "".join(m)]


MUTATIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no model": lambda d: d.pop("model"),
    "model null": lambda d: d.update(model=None),
    "vocab empty": lambda d: d["model"].update(vocab={}),
    "vocab list": lambda d: d["model"].update(vocab=[1, 2]),
    "merge of unknown": lambda d: d["model"]["merges"].append(["qqq", "zzz"]),
    "merges numbers": lambda d: d["model"].update(merges=[1, 2]),
    "merge of three": lambda d: d["model"]["merges"].append("a b c"),
    "no merges": lambda d: d["model"].pop("merges"),
    "hole": lambda d: _renumber(d, 100, 5000),
    "two of one id": lambda d: _renumber(d, 100, 101),
    "id huge": lambda d: _renumber(d, 100, 2**32 - 1),
    "id negative": lambda d: _renumber(d, 100, -1),
    "id text": lambda d: _vocab(d).update(a="x"),
    "no specials": lambda d: (
        d.update(added_tokens=[]),
        [_vocab(d).pop(t) for t in SPECIAL_TEXT.values()],
    ),
    "a special renamed": lambda d: d["added_tokens"][0].update(content="<|other|>"),
    "a special elsewhere": lambda d: d["added_tokens"][0].update(id=100),
    "specials share": lambda d: d["added_tokens"][1].update(id=d["added_tokens"][0]["id"]),
    "added not a list": lambda d: d.update(added_tokens=3),
    "version": lambda d: d.update(version="9"),
    "not byte-level": lambda d: _vocab(d).update({"→": 320}),
    "a byte missing": _drop_byte,
    "no pre-tokenizer": lambda d: d.update(pre_tokenizer=None),
    "a prefix space": lambda d: d["pre_tokenizer"].update(add_prefix_space=True),
    "lower case": lambda d: d.update(normalizer={"type": "Lowercase"}),
    "normal form": lambda d: d.update(normalizer={"type": "NFKC"}),
    "another decoder": lambda d: d.update(decoder={"type": "Nope"}),
    "template of unknown": lambda d: d.update(
        post_processor={"type": "BertProcessing", "sep": ["x", 1], "cls": ["y", 2]}
    ),
    "truncation": lambda d: d.update(
        truncation={"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    ),
    "truncation that panics": lambda d: d.update(
        truncation={"max_length": 2, "stride": 5, "strategy": "LongestFirst", "direction": "Right"}
    ),
    "padding": lambda d: d.update(
        padding={
            **{"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None},
            **{"pad_id": 1, "pad_type_id": 0, "pad_token": "<|pad|>"},
        }
    ),
    "ignored merges": lambda d: d["model"].update(continuing_subword_prefix="##"),
    "end of word": lambda d: d["model"].update(end_of_word_suffix="</w>"),
    "dropout": lambda d: d["model"].update(dropout=0.5),
    "kind": lambda d: d["model"].update(type="WordPiece"),
}


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_damaged_file_is_damaged_or_keeps_its_promise(tiny_tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    """Whatever was changed: it is refused, or every text still comes back. Nothing in between, and no panic."""
    tiny_tokenizer.save(tmp_path)
    data = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    MUTATIONS[name](data)
    (tmp_path / FILE).write_text(json.dumps(data), encoding="utf-8")
    refusal = ""
    try:
        loaded = Tokenizer.load(tmp_path)
    except DamagedError as error:
        refusal = str(error)
    if refusal:
        assert str(tmp_path) in refusal
        assert len(refusal.splitlines()) == 1
        return
    for text in ("Él zurció diez ñoquis ¿no? 🦊 \n  <|endoftext|>", "a" * 3000, *NASTY):
        assert loaded.decode(loaded.encode(text)) == text
        assert [loaded.decode(ids) for ids in loaded.encode_batch([text, "x"])] == [text, "x"]
        assert not set(loaded.encode(text)) & set(loaded.special.ids())


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"\x00" * 100, b"<html>", b'{"model": {"type": "BPE"}}']
)
def test_files_that_are_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DamagedError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_file_cut_anywhere_is_damaged(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for cut in range(0, len(whole) - 3, len(whole) // 40):
        (tmp_path / FILE).write_bytes(whole[:cut])
        with pytest.raises(DamagedError):
            Tokenizer.load(tmp_path)


@given(place=st.integers(0, 10**6), letter=st.integers(0, 255))
def test_a_changed_byte_never_gives_another_tokenizer(
    tiny_tokenizer: Tokenizer, tmp_path: Path, place: int, letter: int
) -> None:
    tiny_tokenizer.save(tmp_path)
    content = bytearray((tmp_path / FILE).read_bytes())
    content[place % len(content)] = letter
    (tmp_path / FILE).write_bytes(content)
    try:
        loaded = Tokenizer.load(tmp_path)
    except DamagedError:
        return
    text = "Él zurció diez ñoquis"
    assert loaded.decode(loaded.encode(text)) == text
