"""Files that were made to break a promise: by a way that a look at a few texts does not show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula.errors import DamagedError, InputError, Stopped
from fabula.progress import StopFlag
from fabula.tokenizer import foreign, imports, published
from fabula.tokenizer.base import FILE, Tokenizer
from fabula.tokenizer.bpe import train_bpe, without_endless
from fabula.tokenizer.characters import byte_tokenizer
from fabula.tokenizer.cuts import CUTS
from fabula.tokenizer.foreign import Special
from fabula.tokenizer.forms import LARGEST
from fabula.tokenizer.run import TokenizerConfig, run
from fabula.tokenizer.special import SPECIAL_TEXT
from tests.tokenizer.test_foreign import make
from tests.tokenizer.test_imports import spm

Cli = Callable[..., tuple[int, str, str]]


def write(data: Any, folder: Path, **beside: Any) -> Path:
    """A folder with a tokenizer.json and other files of JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(data), encoding="utf-8")
    for name, content in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


# ---- control tokens that text would become ---------------------------------------------------------------------


def spelling(word: str) -> dict[str, Any]:
    """Bytes and merges that make a word of its letters, unless `>` or a space stands before it."""
    data: dict[str, Any] = json.loads(byte_tokenizer().to_json())
    vocabulary, merges = data["model"]["vocab"], data["model"]["merges"]
    pairs = [(">", "<"), ("Ġ", "<"), *((word[:i], word[i]) for i in range(1, len(word)))]
    for left, right in pairs:
        vocabulary.setdefault(left + right, len(vocabulary))
        merges.append([left, right])
    return data


@pytest.mark.parametrize("old_style", [False, True])
def test_merges_make_no_special_token(old_style: bool, tmp_path: Path) -> None:
    data = spelling("<|user|>")
    if old_style:
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    with pytest.raises(DamagedError, match=r"its merges make the special token <\|user\|>"):
        Tokenizer.load(write(data, tmp_path))
    harmless = write(spelling("<|USER|>"), tmp_path / "harmless")
    assert len(Tokenizer.load(harmless).encode("hola\n<|USER|>")) == 6


def test_merges_make_no_control_token_of_another_house(tmp_path: Path) -> None:
    data = spelling("<|user|>")
    special = Special({"end_of_document": "<|user|>"}, len(data["model"]["vocab"]))
    folder = write(data, tmp_path, special=special.to_data())
    with pytest.raises(DamagedError, match=r"merges make the control token '<\|user\|>'"):
        Tokenizer.load(folder)


def test_a_control_token_is_not_looked_up_as_a_word(tmp_path: Path, tiny_texts: list[str]) -> None:
    """Where whole words are looked up before anything is merged, a control token may be one; `Ġ` is a space there."""
    data, _ = make("llama3", tiny_texts)
    vocabulary, added = data["model"]["vocab"], data["added_tokens"]
    first = min(token["id"] for token in added)
    names = ["FIN", "ĠFIN", *(token["content"] for token in added)]
    data["added_tokens"] = [{**added[0], "id": first + i, "content": name} for i, name in enumerate(names)]
    vocabulary.update({name: first + i for i, name in enumerate(names)})
    tokenizer = foreign.take(write(data, tmp_path) / FILE, Special({"end_of_document": "FIN"}, len(vocabulary)))
    assert tokenizer.special.end_of_document == first
    for text in ("FIN", " FIN", "el FIN FIN", "FIN.FIN"):
        ids = tokenizer.encode(text)
        assert not tokenizer.controls & set(ids)
        assert tokenizer.decode(ids) == text
    assert tokenizer.decode([first, first + 1], specials=True) == "FINĠFIN"


def test_a_control_token_of_one_letter_is_no_letter(tmp_path: Path, tiny_texts: list[str]) -> None:
    data, special = make("gemma", tiny_texts)
    data["model"]["vocab"]["☂"] = number = len(data["model"]["vocab"])
    added = [{**token, "id": token["id"] + (token["id"] >= number)} for token in data["added_tokens"]]
    data["added_tokens"] = [*added, {**added[0], "id": number, "content": "☂"}]
    roles = {**special.roles, "end_of_turn": "☂"}
    tokenizer = foreign.take(write(data, tmp_path) / FILE, Special(roles, special.vocab_size + 1))
    ids = tokenizer.encode("un ☂ y ☂")
    assert tokenizer.special.end_of_turn == number
    assert not tokenizer.controls & set(ids)
    assert tokenizer.decode(ids) == "un ☂ y ☂"


# ---- texts that would take for ever ----------------------------------------------------------------------------


def unigram(pieces: list[str]) -> dict[str, Any]:
    """A small unigram model as SentencePiece's are published."""
    spaces = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **flags} for i, text in enumerate(("<unk>", "</s>"))],
        "normalizer": None,
        "pre_tokenizer": spaces,
        "post_processor": None,
        "decoder": spaces,
        "model": {
            "type": "Unigram",
            "unk_id": 0,
            "byte_fallback": False,
            "vocab": [["<unk>", 0.0], ["</s>", 0.0], *([piece, -2.0 - i] for i, piece in enumerate(pieces))],
        },
    }


def test_pieces_that_begin_with_each_other(tmp_path: Path) -> None:
    special = Special({"end_of_document": "</s>"}, 68)
    for most, said in ((64, ""), (65, "65 of its pieces begin with each other")):
        data = unigram(["\u2581", *("a" * i for i in range(1, most + 1))])
        folder = write(data, tmp_path / str(most))
        if said:
            with pytest.raises(DamagedError, match=said):
                foreign.take(folder / FILE, special)
        else:
            assert foreign.take(folder / FILE, special).decode_bytes([66]) == b"a" * 64


def test_a_long_piece_in_a_unigram_of_ours(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    from tests.tokenizer import variants

    data = json.loads(variants.make("unigram", ["el búho"]).to_json())
    at = next(place for place, (piece, _) in enumerate(data["model"]["vocab"]) if len(piece) > 1)
    data["model"]["vocab"][at][0] = "a" * 16
    assert Tokenizer.load(write(data, tmp_path / "16")).decode_bytes([at]) == b"a" * 16
    data["model"]["vocab"][at][0] = "a" * 17
    with pytest.raises(DamagedError, match="not a list of different pieces"):
        Tokenizer.load(write(data, tmp_path / "17"))


@pytest.mark.parametrize("control", "\x1c\x1d\x1e\x1f")
def test_what_only_python_takes_for_space_ends_no_word(control: str) -> None:
    """Words are cut by patterns for which U+001C is a letter like any other: a word may be full of them."""
    from tokenizers import Regex, pre_tokenizers

    text = f"!{control}" * 1000 + " y " + control * 600
    pieces = list(without_endless([text]))
    assert "".join(pieces) == text
    split = pre_tokenizers.Split(Regex(CUTS["gpt2"].pattern), "isolated")
    assert max(len(word) for word, _ in split.pre_tokenize_str(text)) > 1999
    assert max(len(word) for piece in pieces for word, _ in split.pre_tokenize_str(piece)) <= 513


def test_a_vocabulary_of_any_size_is_no_crash(tmp_path: Path, cli: Cli) -> None:
    for size in (LARGEST + 1, 1 << 70):
        with pytest.raises(ValueError, match="must be at most 4,194,304"):
            TokenizerConfig(vocab_size=size)
        with pytest.raises(InputError, match="use 4,194,304 or less"):
            train_bpe(["la niña"], size)
    code, out, err = cli("tokenizer", "train", "fables:es:60", "--vocab-size", 1 << 70, "--out", "made")
    assert (code, out) == (2, "")
    assert "must be at most 4,194,304" in err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", ["word", "byte"])
def test_a_signal_that_came_while_it_learnt(kind: str, tmp_path: Path, tiny_texts: list[str]) -> None:
    """Some kinds learn in one call to a library; what came meanwhile is heard before anything is written."""

    class During(StopFlag):
        """Set once the text has been read."""

        def check(self, doing: str) -> None:
            self.signal_number = 15 if "reading" not in doing else 0
            super().check(doing)

    config = TokenizerConfig() if kind == "word" else TokenizerConfig(kind="byte")
    with pytest.raises(Stopped):
        run(config, tiny_texts, 1000, tmp_path / "made", stop=During())
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["word", "none", "unigram"])
def test_a_long_text_has_the_ids_of_a_batch(name: str, tiny_texts: list[str]) -> None:
    """What `tokenizers` encodes, by the call for long texts: spaces that no pattern steps through."""
    pytest.importorskip("sentencepiece")
    from tests.tokenizer import variants

    tokenizer = variants.make(name, tiny_texts)
    text = "El búho  " + " " * (3 << 16) + tiny_texts[0]
    slow = tokenizer._backend.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == tokenizer.encode_batch([text])[0] == slow
    assert tokenizer.decode(slow) == text


# ---- folders as others leave them ------------------------------------------------------------------------------

_JUNK: dict[str, Any] = {
    "no model": {"a": 1},
    "model is a list": {"model": [], "added_tokens": []},
    "vocabulary is a number": {"model": {"vocab": 5}, "added_tokens": 5},
    "ids of nothing": {"model": {"vocab": {"a": "x"}}, "added_tokens": [{"id": None}]},
    "ids of lists": {"model": {"type": "BPE", "vocab": {"a": [1]}, "merges": []}, "added_tokens": []},
    "empty": {"model": {"vocab": {}}, "added_tokens": []},
    "a list": [1],
}


@pytest.mark.parametrize("name", _JUNK)
def test_a_damaged_folder_is_said_everywhere(name: str, tmp_path: Path, cli: Cli) -> None:
    write(_JUNK[name], tmp_path / "bad", tokenizer_config={"eos_token": "</s>"})
    for command in (("view", "bad", "hola"), ("report", "bad", "fables:es:60"), ("import", "bad", "--out", "made")):
        code, out, err = cli("tokenizer", *command)
        assert (code in (2, 4), out) == (True, ""), (command, err)
        assert "This is a fault of fabula" not in err
        assert "bad" in err
    assert not (tmp_path / "made").exists()


def test_a_published_unigram_in_the_laboratory(tmp_path: Path, cli: Cli) -> None:
    write(unigram(["\u2581", "l", "a"]), tmp_path / "theirs", tokenizer_config={"eos_token": "</s>"})
    code, out, err = cli("tokenizer", "view", "theirs", "la la")
    assert (code, err) == (0, "")
    assert out.startswith("|·|l|a|·|l|a|\n")


def test_parts_that_the_library_does_not_know(tmp_path: Path) -> None:
    """Of a tokenizer of ours that went elsewhere what was added there is no part; the library reads it all the same."""
    data = json.loads(byte_tokenizer().to_json())
    data["post_processor"] = {"type": "Nothing"}
    assert published.size(data) == 256 + len(SPECIAL_TEXT)
    with pytest.raises(DamagedError, match="not a tokenizer that can be read"):
        imports.bring(write(data, tmp_path))


# ---- what is not hostile, and was taken for it -----------------------------------------------------------------


def test_ways_of_the_same_probability(tmp_path: Path) -> None:
    """Four dots are `. ...` or `... .`, and sums of 32 bits decide otherwise than those of 64."""
    raw = spm(["Y entonces... nada... El búho... dijo.", "La niña... saltó. Y calló..."] * 30, vocab_size=44)
    (tmp_path / "m.model").write_bytes(raw)
    made = imports.bring(tmp_path / "m.model")
    notes = [note for note in made.notes if "of the same probability" in note]
    assert len(notes) == 1
    count = int(notes[0].split()[0])
    others = sum(int(note.split()[0]) for note in made.notes if "read otherwise" in note)
    assert made.texts + count + others == 724
    assert made.tokenizer.decode(made.tokenizer.encode("nada....")) == "nada...."


def test_another_way_that_is_less_probable_is_refused() -> None:
    model = unigram(["\u2581", "a", "b", "ab"])["model"]
    assert imports._as_probable(model, [3, 4], [3, 4])
    assert imports._as_probable({**model, "vocab": [*model["vocab"][:5], ["ab", -7.0]]}, [3, 4], [5])
    assert not imports._as_probable(model, [3, 4], [4, 3])
    assert not imports._as_probable({**model, "vocab": [*model["vocab"][:5], ["ab", -7.1]]}, [3, 4], [5])
    assert not imports._as_probable({"type": "BPE", "vocab": {}}, [3, 4], [3, 4])
    assert not imports._as_probable(model, [3, 4], [99])
