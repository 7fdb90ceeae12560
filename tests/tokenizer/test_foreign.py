"""Tokenizers of other houses give their own ids, and keep our promises where they can."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula.errors import DamagedError
from fabula.tokenizer import foreign, foreign_forms
from fabula.tokenizer.base import FILE, Tokenizer
from fabula.tokenizer.foreign import ForeignTokenizer, Special
from fabula.tokenizer.foreign_forms import PATTERNS
from tests.faults.test_tokenizer import any_text

_SPLIT = {name: pattern for pattern, name in PATTERNS.items()}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def split(house: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": _SPLIT[house]}, "behavior": "Isolated", "invert": False}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


HOUSES: dict[str, dict[str, Any]] = {
    "gpt2": {"pre_tokenizer": {**_BYTES, "use_regex": True, "trim_offsets": True}, "special": ["<|endoftext|>"]},
    "llama3": {
        "pre_tokenizer": sequence(split("GPT-4 and Llama 3"), _BYTES),
        "special": ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
        "ignore_merges": True,
    },
    "smollm2": {
        "pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, {**_BYTES, "use_regex": True}),
        "special": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    },
    "qwen": {
        "pre_tokenizer": sequence(split("Qwen 2 and 3"), _BYTES),
        "normalizer": {"type": "NFC"},
        "special": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "words": ["<think>", "</think>"],
    },
    "gpt-4o": {"pre_tokenizer": sequence(split("GPT-4o"), _BYTES), "special": ["<|endoftext|>"]},
}


def byte_level(house: str, texts: list[str]) -> dict[str, Any]:
    """A tokenizer.json as this house makes them, learnt from a few texts."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend

    parts = HOUSES[house]
    blank = Backend(models.BPE(ignore_merges=parts.get("ignore_merges", False)))
    data = json.loads(blank.to_str())
    data["pre_tokenizer"], data["normalizer"] = parts["pre_tokenizer"], parts.get("normalizer")
    backend = Backend.from_str(json.dumps(data))
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens(parts["special"])
    backend.add_tokens([AddedToken(word, normalized=False) for word in parts.get("words", [])])
    made: dict[str, Any] = json.loads(backend.to_str())
    return made


def gemma(texts: list[str]) -> dict[str, Any]:
    """A tokenizer over characters with bytes as the last resort."""
    from tokenizers import AddedToken, models, trainers
    from tokenizers import Tokenizer as Backend

    learnt = Backend(models.BPE())
    learnt.train_from_iterator(
        [t.replace(" ", "\u2581") for t in texts], trainers.BpeTrainer(vocab_size=120, show_progress=False)
    )
    model = json.loads(learnt.to_str())["model"]
    first = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = sorted(model["vocab"], key=model["vocab"].get)
    vocab = {word: i for i, word in enumerate([*first, *words])}
    backend = Backend(
        models.BPE(
            vocab=vocab,
            merges=[tuple(m) for m in model["merges"]],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    backend.add_special_tokens(first[:4])
    backend.add_tokens([AddedToken("\n\n", normalized=False)])
    backend.add_special_tokens(["<image>"])
    data: dict[str, Any] = json.loads(backend.to_str())
    decoding = {"type": "Sequence", "decoders": [foreign_forms.TO_SPACE, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    data["normalizer"], data["pre_tokenizer"] = foreign_forms.FROM_SPACE, foreign_forms.AT_SPACES
    data["decoder"] = decoding
    return data


def make(house: str, texts: list[str]) -> tuple[dict[str, Any], Special]:
    if house == "gemma":
        data = gemma(texts)
        roles = {"end_of_document": "<eos>", "begin_of_document": "<bos>", "padding": "<pad>"}
        # The last id is an image's, which the model does not have.
        return data, Special(roles, len(data["model"]["vocab"]) + 1)
    data = byte_level(house, texts)
    roles = {"end_of_document": HOUSES[house]["special"][0]}
    if house == "llama3":
        roles = {"begin_of_document": "<|begin_of_text|>", "end_of_document": "<|end_of_text|>"}
    # Some models have more ids than their tokenizer.
    return data, Special(roles, 352, "{{ messages }}")


@pytest.fixture(params=[*HOUSES, "gemma"])
def house(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def taken(house: str, tiny_texts: list[str], tmp_path: Path) -> tuple[ForeignTokenizer, dict[str, Any]]:
    data, special = make(house, tiny_texts)
    (tmp_path / FILE).write_text(json.dumps(data), encoding="utf-8")
    return foreign.take(tmp_path / FILE, special), data


def test_the_ids_are_theirs(taken: tuple[ForeignTokenizer, dict[str, Any]], house: str) -> None:
    """Ids of the library as it reads the file by itself, and texts that come back unless the tokenizer changes them."""
    import unicodedata

    from tokenizers import Tokenizer as Backend

    tokenizer, data = taken
    theirs = Backend.from_str(json.dumps(data))
    special = re.compile("|".join(re.escape(t["content"]) for t in data["added_tokens"] if t["special"]))
    for case in range(400):
        text = any_text(case)
        ids = tokenizer.encode(text)
        if not special.search(text):
            assert ids == theirs.encode(text, add_special_tokens=False).ids, text
        assert not tokenizer.controls & set(ids)
        expected = unicodedata.normalize("NFC", text) if house == "qwen" else text
        expected = expected.replace("\u2581", " ") if house == "gemma" else expected
        assert tokenizer.decode(ids) == expected


def test_what_looks_like_their_specials_is_text(taken: tuple[ForeignTokenizer, dict[str, Any]]) -> None:
    tokenizer, data = taken
    for token in data["added_tokens"]:
        text = f"a{token['content']}b"
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert (token["id"] in ids) == (not token["special"])


def test_it_is_kept_with_its_roles(taken: tuple[ForeignTokenizer, dict[str, Any]], house: str, tmp_path: Path) -> None:
    tokenizer, _ = taken
    (tmp_path / "kept").mkdir()
    tokenizer.save(tmp_path / "kept")
    again = Tokenizer.load(tmp_path / "kept")
    assert isinstance(again, ForeignTokenizer)
    assert (again.fingerprint, again.special) == (tokenizer.fingerprint, tokenizer.special)
    assert (again.vocab_size, again.chat_template) == (tokenizer.vocab_size, tokenizer.chat_template)
    begins = house in ("llama3", "gemma")
    assert (again.special.begin != again.special.end_of_document) == begins
    assert (again.changes is not None) == (house in ("qwen", "gemma"))
    assert again.special.user is None
    assert again.decode_bytes(range(again.vocab_size))  # also ids that only the model has
    assert again.decode([again.special.end_of_document], specials=True) == again.given.roles["end_of_document"]


_PATTERN = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
_REFUSED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "WordPiece, which does not keep where the spaces were": lambda d: d["model"].update(type="WordPiece"),
    'model.type is "WordLevel"': lambda d: d["model"].update(type="WordLevel"),
    "longer than 1,024 characters": lambda d: d["model"]["vocab"].update({"a" * 1025: len(d["model"]["vocab"]) + 1}),
    "model.dropout is 0.1": lambda d: d["model"].update(dropout=0.1),
    "model.end_of_word_suffix": lambda d: d["model"].update(end_of_word_suffix="</w>"),
    "normalizer .*Lowercase": lambda d: d.update(normalizer={"type": "Lowercase"}),
    r"pre_tokenizer .*\(a\+\)\+": lambda d: d.update(pre_tokenizer=sequence(_PATTERN, _BYTES)),
    "pre_tokenizer null": lambda d: d.update(pre_tokenizer=None),
    "pre_tokenizer .*true": lambda d: d.update(pre_tokenizer={**_BYTES, "add_prefix_space": True}),
    "pre_tokenizer .*Metaspace": lambda d: d.update(pre_tokenizer={"type": "Metaspace"}),
    "decoder .*Fuse": lambda d: d.update(decoder={"type": "Fuse"}),
    "swallows the space": lambda d: d["added_tokens"].append(
        {**d["added_tokens"][0], "id": len(d["model"]["vocab"]) + 1, "content": "x", "special": False, "lstrip": True}
    ),
    "without a hole": lambda d: d["added_tokens"].append({**d["added_tokens"][0], "id": 9999, "content": "x"}),
    "not a tokenizer.json": lambda d: d.clear(),
    "of the 256 bytes have no token|not a tokenizer that can be read|hole": lambda d: d["model"]["vocab"].pop("Ġ"),
}


@pytest.mark.parametrize("said", _REFUSED)
def test_what_cannot_be_held_exactly_is_said(said: str, tiny_texts: list[str], tmp_path: Path) -> None:
    data, special = make("gpt2", tiny_texts)
    data = copy.deepcopy(data)
    _REFUSED[said](data)
    (tmp_path / FILE).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DamagedError, match=said):
        foreign.take(tmp_path / FILE, special)


def test_tokens_of_text_beyond_the_model_are_refused(tiny_texts: list[str], tmp_path: Path) -> None:
    data, special = make("gpt2", tiny_texts)
    (tmp_path / FILE).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DamagedError, match="30 tokens of text beyond the model's 300 ids"):
        foreign.take(tmp_path / FILE, Special(special.roles, 300))


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "[]",
        "{}",
        '{"roles": {"king": "x"}, "vocab_size": 9, "chat_template": null}',
        '{"roles": {"end_of_document": "<|endoftext|>"}, "vocab_size": "9", "chat_template": null}',
        '{"roles": {"end_of_document": "<|endoftext|>"}, "vocab_size": 1e99, "chat_template": null}',
        '{"roles": {}, "vocab_size": 400, "chat_template": null}',
        '{"roles": {"end_of_document": "missing"}, "vocab_size": 400, "chat_template": null}',
        '{"roles": {"end_of_document": "<|endoftext|>", "padding": "<|endoftext|>"}, "vocab_size": 400, '
        '"chat_template": null}',
    ],
)
def test_damaged_roles(said: str, tiny_texts: list[str], tmp_path: Path) -> None:
    data, _ = make("gpt2", tiny_texts)
    (tmp_path / FILE).write_text(json.dumps(data), encoding="utf-8")
    (tmp_path / foreign.FILE).write_text(said, encoding="utf-8")
    with pytest.raises(DamagedError):
        Tokenizer.load(tmp_path)
