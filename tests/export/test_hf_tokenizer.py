"""Tokenizer files both ways: roles, templates, what is missing; transformers reads what we write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fabula.errors import DamagedError, InputError
from fabula.export import hf_tokenizer
from fabula.tokenizer.base import FILE, Tokenizer
from fabula.tokenizer.foreign import ForeignTokenizer
from fabula.tokenizer.special import SPECIAL_TEXT
from tests import tiny
from tests.tokenizer.test_foreign import make

_TEXTS = ["El niño saltó.", "", "  a\n\n\tb 123 ", "don't 漢字 🦊", "x" * 40]


def write(folder: Path, name: str, data: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture
def gpt2(tmp_path: Path, tiny_texts: list[str]) -> Path:
    """A folder with a tokenizer of GPT-2's kind (id 329: <|endoftext|>) and nothing said about it."""
    data, _ = make("gpt2", tiny_texts)
    write(tmp_path / "gpt2", FILE, data)
    return tmp_path / "gpt2"


def end_of(folder: Path) -> int:
    data = json.loads((folder / FILE).read_text())
    return int(data["added_tokens"][0]["id"])


def test_ours_goes_and_comes_back_as_it_was(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    for name, text in hf_tokenizer.files(tiny_tokenizer, 64).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    back = hf_tokenizer.read(tmp_path, {}, tiny.VOCABULARY)
    assert type(back) is Tokenizer
    assert back.fingerprint == tiny_tokenizer.fingerprint


def test_ours_with_more_ids_in_the_model(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    """A table of embeddings that was made larger: the tokenizer answers for the ids beyond."""
    tiny_tokenizer.save(tmp_path)
    back = hf_tokenizer.read(tmp_path, {}, tiny.VOCABULARY + 64)
    assert back.vocab_size == tiny.VOCABULARY + 64
    assert back.special == tiny_tokenizer.special
    assert back.decode([*back.encode("hola"), tiny.VOCABULARY + 1]) == "hola"
    with pytest.raises((InputError, DamagedError), match=r"tokens"):
        hf_tokenizer.read(tmp_path, {}, tiny.VOCABULARY - 10)


def test_transformers_reads_ours(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    """A text gets the begin of a document before it, as the model read it in training."""
    transformers = pytest.importorskip("transformers")
    for name, text in hf_tokenizer.files(tiny_tokenizer, 64).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    special = tiny_tokenizer.special
    for text in _TEXTS:
        assert theirs(text)["input_ids"] == [special.end_of_document, *tiny_tokenizer.encode(text)]
        assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == text
    assert (theirs.eos_token_id, theirs.bos_token_id) == (special.end_of_document,) * 2
    assert theirs.pad_token_id == special.padding != special.end_of_document
    assert theirs.model_max_length == 64


def test_roles_come_from_the_files_or_from_the_ids(gpt2: Path) -> None:
    end = end_of(gpt2)
    with pytest.raises(InputError, match=r"no eos_token in tokenizer_config.json or config.json"):
        hf_tokenizer.read(gpt2, {}, 352)
    for theirs in ({"eos_token_id": end}, {"eos_token_id": [end, 7], "bos_token_id": end}):
        assert hf_tokenizer.read(gpt2, theirs, 352).special.end_of_document == end
    write(gpt2, "generation_config.json", {"eos_token_id": end})
    assert hf_tokenizer.read(gpt2, {}, 352).special.begin == end
    (gpt2 / "generation_config.json").unlink()
    write(gpt2, "special_tokens_map.json", {"eos_token": "<|endoftext|>"})
    hf_tokenizer.read(gpt2, {}, 352)
    write(gpt2, "special_tokens_map.json", {"eos_token": {"content": "<|endoftext|>", "lstrip": False}})
    write(gpt2, "tokenizer_config.json", {"bos_token": None, "pad_token": "<|endoftext|>"})
    found = hf_tokenizer.read(gpt2, {}, 352).special
    assert found.padding is None  # padding that is also an end is none
    assert found.begin == found.end_of_document == end


def test_the_begin_of_a_document_is_what_their_template_puts_there(tmp_path: Path, tiny_texts: list[str]) -> None:
    data, _ = make("llama3", tiny_texts)
    tokens = {t["content"]: t["id"] for t in data["added_tokens"]}
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    template = hf_tokenizer._template_of(begin, tokens[begin])
    data["post_processor"] = {"type": "Sequence", "processors": [{**_BYTE_LEVEL}, template]}
    write(tmp_path, FILE, data)
    found = hf_tokenizer.read(tmp_path, {"eos_token_id": tokens[end]}, 352)
    assert (found.special.begin, found.special.end_of_document) == (tokens[begin], tokens[end])
    assert found.encode("hola")[0] != tokens[begin]


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


@pytest.mark.parametrize("where", ["config", "file"])
def test_chat_templates_are_kept_and_never_run(where: str, gpt2: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ 1/0 }}"
    said = {"eos_token": "<|endoftext|>"}
    if where == "config":
        write(gpt2, "tokenizer_config.json", {**said, "chat_template": template})
    else:
        write(gpt2, "tokenizer_config.json", said)
        (gpt2 / "chat_template.jinja").write_text(template)
    found = hf_tokenizer.read(gpt2, {}, 352)
    assert found.chat_template == template
    made = hf_tokenizer.files(found, 64)
    assert made["chat_template.jinja"] == template
    assert json.loads(made["tokenizer_config.json"])["chat_template"] == template


def test_no_tokenizer(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"no tokenizer.json; name the model's tokenizer: --tokenizer PATH"):
        hf_tokenizer.read(tmp_path, {}, 320)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"only vocab.json, merges.txt; AutoTokenizer"):
        hf_tokenizer.read(tmp_path, {}, 320)
    given = tmp_path / "given"
    given.mkdir()
    tiny_tokenizer.save(given)
    for place in (given, given / FILE):
        assert hf_tokenizer.read(tmp_path, {}, 320, place).fingerprint == tiny_tokenizer.fingerprint
    with pytest.raises(InputError, match=r"nothing: no tokenizer.json"):
        hf_tokenizer.read(tmp_path, {}, 320, tmp_path / "nothing")


def test_a_kept_tokenizer_is_given(gpt2: Path, tmp_path: Path) -> None:
    """A tokenizer folder of a checkpoint that was imported, for another folder of weights."""
    kept = tmp_path / "kept"
    kept.mkdir()
    first = hf_tokenizer.read(gpt2, {"eos_token_id": end_of(gpt2)}, 352)
    first.save(kept)
    again = hf_tokenizer.read(tmp_path, {}, 352, kept)
    assert isinstance(again, ForeignTokenizer)
    assert again.fingerprint == first.fingerprint
    with pytest.raises(InputError, match="352 ids, but the model has 400"):
        hf_tokenizer.read(tmp_path, {}, 400, kept)


def test_specials_of_ours_are_theirs_too(tiny_tokenizer: Tokenizer) -> None:
    data = json.loads(hf_tokenizer.files(tiny_tokenizer, 64)[FILE])
    assert {t["content"] for t in data["added_tokens"] if t["special"]} == set(SPECIAL_TEXT.values())
