"""Published tokenizers over characters: unigram models as T5 and ALBERT have them, byte-pair models as Llama 2 does."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula.errors import DamagedError
from fabula.export import hf_tokenizer
from fabula.tokenizer import charsmap, foreign_forms, imports, trials
from fabula.tokenizer.base import FILE, Tokenizer
from fabula.tokenizer.foreign import ForeignTokenizer
from fabula.tokenizer.pieces import _model
from tests.tokenizer.test_imports import spm

_SPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_AFTER = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
}


def control(text: str, number: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": text, **flags}


def t5(texts: list[str]) -> dict[str, Any]:
    """Unigram with the table nmt_nfkc, padding first, a hundred tokens to fill in at the end."""
    model = _model(spm(texts, pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    vocab: list[list[Any]] = [[piece.text, piece.score] for piece in model.pieces]
    vocab += [[f"<extra_id_{99 - i}>", 0.0] for i in range(100)]
    names = ["<pad>", "</s>", "<unk>", *(row[0] for row in vocab[-100:])]
    places = {row[0]: place for place, row in enumerate(vocab)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [control(name, places[name]) for name in names],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, _SPACE]},
        "post_processor": _AFTER,
        "decoder": _SPACE,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": False},
    }


def t5_new(texts: list[str]) -> dict[str, Any]:
    """As newer conversions write it: spaces are kept, but not their number."""
    data = t5(texts)
    data["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            data["normalizer"],
            {"type": "Strip", "strip_left": False, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
        ],
    }
    data["pre_tokenizer"] = _SPACE
    return data


def albert(texts: list[str]) -> dict[str, Any]:
    """Unigram without case and accents."""
    data = t5([text.lower() for text in texts])
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
        {"type": "Replace", "pattern": {"String": "''"}, "content": '"'},
        {"type": "NFKD"},
        {"type": "StripAccents"},
        {"type": "Lowercase"},
        data["normalizer"],
    ]
    data["normalizer"] = {"type": "Sequence", "normalizers": steps}
    return data


def llama2(texts: list[str]) -> dict[str, Any]:
    """Pairs of characters with bytes as the last resort, a space before every text."""
    model = _model(spm(texts, model_type="bpe", byte_fallback=True, vocab_size=600, normalization_rule_name="identity"))
    from fabula.tokenizer.pieces import _data

    data = _data(model, {"<unk>": 0, "<s>": 1, "</s>": 2})
    steps = [foreign_forms.PREPEND, foreign_forms.FROM_SPACE]
    data["normalizer"] = {"type": "Sequence", "normalizers": steps}
    return data


KINDS: dict[str, tuple[Callable[[list[str]], dict[str, Any]], str]] = {
    "t5": (t5, "white space becomes one space, none at the ends"),
    "t5-new": (t5_new, "runs of spaces become one"),
    "albert": (albert, "accents are taken off; lower case"),
    "llama2": (llama2, "▁ (U+2581) is read as a space"),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(kind: str, tiny_texts: list[str], tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    data = KINDS[kind][0](tiny_texts)
    (tmp_path / "in" / FILE).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    said = {"eos_token": "</s>", **({"bos_token": "<s>"} if kind == "llama2" else {"pad_token": "<pad>"})}
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(said))
    return tmp_path / "in"


def test_the_ids_are_theirs(kind: str, folder: Path, tiny_texts: list[str], tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend

    made = imports.bring(folder)
    imports.write(made, tmp_path / "out")
    ours = Tokenizer.load(tmp_path / "out")
    assert isinstance(ours, ForeignTokenizer)
    assert KINDS[kind][1] in (ours.changes or "")
    theirs = Backend.from_file(str(folder / FILE))
    names = list(ours.control_texts()) + (["<unk>"] if kind != "llama2" else [])
    for text in [*trials.nasty(21), *tiny_texts]:
        ids = ours.encode(text)
        if not any(name in text for name in names):
            assert ids == theirs.encode(text, add_special_tokens=False).ids, text
        assert not ours.controls & set(ids)
        if ours.form.unknown not in ids:
            assert ours.decode(ids) == ours.reading(text)
    plain = "El niño saltó."
    expected = "el nino salto." if kind == "albert" else plain
    assert ours.decode(ours.encode(plain)) == expected
    assert ours.shown().to_str() == theirs.to_str()


def test_no_text_is_a_control_token(folder: Path) -> None:
    """The library finds `</s>` in a text among the pieces of a unigram model; here it is letters."""
    tokenizer = imports.bring(folder).tokenizer
    for text in tokenizer.control_texts():
        for content in (text, f"a{text}", f"{text} b", text * 2):
            assert not tokenizer.controls & set(tokenizer.encode(content))


def test_transformers_reads_what_we_write(kind: str, folder: Path, tiny_texts: list[str], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = imports.bring(folder).tokenizer
    (tmp_path / "hf").mkdir()
    for name, text in hf_tokenizer.files(tokenizer, 64).items():
        (tmp_path / "hf" / name).write_text(text, encoding="utf-8")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "hf" / FILE))
    for text in [*trials.ordinary(), *tiny_texts]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    again = hf_tokenizer.read(tmp_path / "hf", {}, tokenizer.vocab_size)
    assert again.encode("El niño") == tokenizer.encode("El niño")


_REFUSED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "two ids for one text": lambda d: d["model"]["vocab"].append(["▁", -9.0]),
    "the score of 'qx' is": lambda d: d["model"]["vocab"].append(["qx", float("nan")]),
    "the score of 'qxx' is": lambda d: d["model"]["vocab"].append(["qxx", 1e300]),
    "a token is empty or longer": lambda d: d["model"]["vocab"].append(["", -9.0]),
    "is not a list of pieces and scores": lambda d: d["model"]["vocab"].append("x"),
    "no token for characters that it does not know": lambda d: d["model"].update(unk_id=None),
    "model.unk_id is 99999": lambda d: d["model"].update(unk_id=99999),
    r"normalizer .*Prepend": lambda d: d.update(normalizer={"type": "Prepend", "prepend": "x"}),
    r"normalizer .*\(a\+\)\+": lambda d: d.update(
        normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    ),
    "pre_tokenizer .*first": lambda d: d.update(pre_tokenizer={**_SPACE, "prepend_scheme": "first"}),
    "it does not keep spaces": lambda d: d.update(pre_tokenizer=None),
    "decoder .*WordPiece": lambda d: d.update(decoder={"type": "WordPiece"}),
    "tokens of text that were added": lambda d: d["added_tokens"][0].update(special=False),
    "precompiled_charsmap is not base64": lambda d: d["normalizer"].update(precompiled_charsmap="!"),
    "precompiled_charsmap is cut off": lambda d: d["normalizer"].update(precompiled_charsmap="AAAA"),
    "not a tokenizer.json": lambda d: d.update(added_tokens=None),
    "added_tokens is not a list of tokens": lambda d: d["added_tokens"].append({"id": [], "content": 7}),
    "not a tokenizer that can be read": lambda d: d.update(post_processor={"type": "TemplateProcessing", "single": 5}),
    "precompiled_charsmap is not a table": lambda d: d["normalizer"].update(precompiled_charsmap=7),
}


@pytest.mark.parametrize("said", _REFUSED)
def test_what_cannot_be_held_is_said(said: str, tiny_texts: list[str], tmp_path: Path) -> None:
    data = t5(tiny_texts)
    _REFUSED[said](data)
    (tmp_path / FILE).write_text(json.dumps(data), encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(DamagedError, match=said):
        imports.bring(tmp_path)


def test_every_changed_table_is_refused_or_harmless(tiny_texts: list[str]) -> None:
    """What the check lets through never leads the library's reader out of the table."""
    import random

    from tokenizers import normalizers

    table = _model(spm(tiny_texts)).charsmap
    assert charsmap.problem(base64.b64encode(table).decode()) is None
    refused = 0
    for case in range(60):
        chance = random.Random(case)
        raw = bytearray(table)
        for _ in range(chance.choice([1, 3, 30])):
            raw[chance.randrange(4 if case % 3 else 0, len(raw))] = chance.randrange(256)
        if case % 7 == 0:
            del raw[chance.randrange(len(raw)) :]
        if charsmap.problem(base64.b64encode(bytes(raw)).decode()) is not None:
            refused += 1
            continue
        normalizer = normalizers.Precompiled(bytes(raw))
        for text in trials.nasty(case, 60):
            normalizer.normalize_str(text)
    assert refused > 10
