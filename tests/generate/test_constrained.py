"""Texts that match an expression or a schema: every one, whatever the model would rather write."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from fabula.device import Device
from fabula.errors import InputError
from fabula.generate.config import GenerateConfig
from fabula.generate.constrained import Pattern, json_schema, regex
from fabula.generate.many import together
from fabula.generate.run import Generation, run
from fabula.model.decoder import Decoder
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.forms import SMALLEST
from tests.contracts.variants import build, config

pytest.importorskip("llguidance", reason="the extra `generate` is not installed")

CPU = Device("cpu", "float32", 1, "test")
HOT = GenerateConfig(temperature=3.0, max_new_tokens=60)


@pytest.fixture(scope="module", params=["bytes", "pieces"])
def tokenizer(request: pytest.FixtureRequest, tiny_tokenizer: Tokenizer) -> Tokenizer:
    """A token a byte, where characters are split; and pieces of words, which hold several parts of a pattern."""
    return train_bpe(["nada"], SMALLEST) if request.param == "bytes" else tiny_tokenizer


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Decoder:
    # More rows than the tokenizer has tokens: those are never written.
    return build(dataclasses.replace(config(context_length=80, tied=False), vocab_size=tokenizer.vocab_size + 7))


def written(model: Decoder, tokenizer: Tokenizer, pattern: Pattern, n: int = 6, **changes: Any) -> list[Generation]:
    settings = dataclasses.replace(HOT, **changes)
    return [s.made for s in together(model, tokenizer, ["El "], settings, CPU, n, constraint=pattern)]


@pytest.mark.parametrize(
    "expression",
    [
        "[0-9]{3}",
        "(uno|dos|tres)( y (uno|dos))?",
        "[a-zñ]{1,9}[.!]",
        "[ñáé€🦊漢]{2,5}",
        "",
        "El (conejo|zorro)\\n¡[^a-z]{2}!",
    ],
)
def test_every_text_matches(model: Decoder, tokenizer: Tokenizer, expression: str) -> None:
    pattern = regex(tokenizer, expression)
    for made in written(model, tokenizer, pattern):
        assert re.fullmatch(expression, made.text), made
        assert made.finish_reason == "end"
        assert pattern.met(made.ids)
        assert max(made.ids) < tokenizer.vocab_size


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "legs": {"type": "integer", "minimum": 0, "maximum": 8},
        "kind": {"enum": ["zorro", "búho", None]},
        "friends": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "legs", "kind", "friends"],
    "additionalProperties": False,
}


def test_every_text_is_json_that_the_schema_admits(model: Decoder, tokenizer: Tokenizer) -> None:
    pattern = json_schema(tokenizer, SCHEMA)
    made = written(model, tokenizer, pattern, max_new_tokens=200)
    whole = [m for m in made if m.finish_reason == "end"]
    assert whole
    for one in made:
        assert pattern.met(one.ids) == (one.finish_reason == "end")
    for one in whole:
        found = json.loads(one.text)
        assert list(found) == ["name", "legs", "kind", "friends"]
        assert isinstance(found["name"], str)
        assert len(found["name"]) <= 4
        assert type(found["legs"]) is int
        assert 0 <= found["legs"] <= 8
        assert found["kind"] in ("zorro", "búho", None)
        assert len(found["friends"]) <= 2
        assert all(type(friend) is bool for friend in found["friends"])
    assert pattern.met(tokenizer.encode(json.dumps({"name": "Él", "legs": 2, "kind": None, "friends": []}))) is False, (
        "blanks stand only where the schema asks for them"
    )


def test_a_text_that_is_cut_is_not_complete(model: Decoder, tokenizer: Tokenizer) -> None:
    pattern = regex(tokenizer, "[0-9]{30}")
    cut = written(model, tokenizer, pattern, n=1, max_new_tokens=5)[0]
    assert (cut.finish_reason, pattern.met(cut.ids)) == ("length", False)
    assert re.fullmatch("[0-9]+", cut.text)
    endless = written(model, tokenizer, regex(tokenizer, "a+"), n=1, max_new_tokens=500)[0]
    assert endless.finish_reason in ("end", "context"), "it ends at the latest with the context"


def test_one_alone_and_greedy(model: Decoder, tokenizer: Tokenizer) -> None:
    pattern = regex(tokenizer, "[a-z]{4}")
    for temperature in (0.0, 1.0):
        settings = dataclasses.replace(HOT, temperature=temperature)
        alone = run(model, tokenizer, "El ", settings, CPU, constraint=pattern)
        beside = next(together(model, tokenizer, ["El "], settings, CPU, constraint=pattern)).made
        assert (alone.ids, alone.text) == (beside.ids, beside.text)
        assert re.fullmatch("[a-z]{4}", alone.text)
    for changes in ({"beams": 2, "temperature": 0.0}, {"lookup": 2}):
        with pytest.raises(InputError, match="do not go together"):
            run(model, tokenizer, "El ", dataclasses.replace(HOT, **changes), CPU, constraint=pattern)  # type: ignore[arg-type]


def test_no_control_token_passes_for_its_letters(model: Decoder, tokenizer: Tokenizer) -> None:
    pattern = regex(tokenizer, "<\\|user\\|>")
    made = written(model, tokenizer, pattern, n=1)[0]
    assert made.text == "<|user|>"
    assert not set(made.ids[:-1]) & tokenizer.controls


@pytest.mark.parametrize("expression", ["(", "(?=a)", r"(a)\1", "[z-a]"])
def test_expressions_that_cannot_be_read(tokenizer: Tokenizer, expression: str) -> None:
    with pytest.raises(InputError, match=r"the regular expression .* cannot be used: "):
        regex(tokenizer, expression)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "is an object"),
        ("false", "nothing could be written"),
        ('{"type": "foo"}', "Invalid type: foo"),
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "minimum .* is greater than maximum"),
        ('{"not": {"type": "string"}}', "Unimplemented keys"),
        ('{"type": "string", "pattern": "("}', "unclosed group"),
        ('{"$ref": "https://example.org/a"}', "cannot be used"),
    ],
)
def test_schemas_that_cannot_be_met(tokenizer: Tokenizer, schema: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        json_schema(tokenizer, schema)
