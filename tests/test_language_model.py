"""The object of the Python API, on a tiny checkpoint saved and loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fabula import checkpoint
from fabula.errors import ConfigError, DamagedError, InputError, MachineError, PromptError
from fabula.generate.run import encode_prompt
from fabula.language_model import LanguageModel, load
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.presets import resolve
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe

TEXT = "El conejo saltó la cerca y la niña rió. ¡Qué día! 🐇 " * 20
CONTEXT = 40


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_bpe([TEXT], 300)
    problems: list[str] = []
    _, config = resolve(
        {
            "vocab_size": 300,
            "context_length": CONTEXT,
            "d_model": 16,
            "n_layers": 2,
            "attention": {"n_heads": 2, "n_kv_heads": 1, "head_dim": 8},
            "ffn": {"d_ff": 24},
            "init": {"output": "same", "embedding_std": 1.0},
            "tied": False,
        },
        problems,
    )
    assert isinstance(config, ModelConfig)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    return checkpoint.save(folder, 7, Decoder(config), tokenizer, {}, {"state": torch.zeros(1)}, {}).path


@pytest.fixture
def lm(saved: Path) -> LanguageModel:
    return load(saved, device="cpu")


def test_the_package_gives_the_same_object_without_importing_torch_first(saved: Path) -> None:
    import fabula

    assert isinstance(fabula.load(str(saved), device="cpu"), LanguageModel)


def test_what_was_saved_is_what_is_loaded(lm: LanguageModel, saved: Path) -> None:
    assert lm.checkpoint is not None
    assert lm.checkpoint.step == 7
    assert not lm.model.training
    again = load(saved, device="cpu")
    ids = lm.encode("El conejo")
    assert torch.equal(again.logits(ids), lm.logits(ids))


def test_generate(lm: LanguageModel) -> None:
    made = lm.generate("El conejo", max_new_tokens=8, temperature=0.5, seed=0)
    assert made == lm.generate("El conejo", max_new_tokens=8, temperature=0.5, seed=0)
    assert made != lm.generate("El conejo", max_new_tokens=8, temperature=5.0, seed=1)
    assert made.prompt == "El conejo"
    assert made.prompt_tokens == 1 + len(lm.encode("El conejo"))
    assert len(made.ids) == len(made.logprobs) <= 8
    assert made.text == lm.decode(made.ids)
    assert made.finish_reason in ("length", "end")
    assert all(x <= 0 for x in made.logprobs)
    assert lm.generate(max_new_tokens=1).prompt_tokens == 1, "from nothing: the end-of-document id alone"


def test_stream_and_pieces_are_generate(lm: LanguageModel) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.5, "seed": 3}
    made = lm.generate("La", **settings)
    shown = list(lm.stream("La", **settings))
    assert "".join(shown) == made.text
    assert all(shown), "no empty pieces"
    pieces = list(lm.pieces("La", **settings))
    assert tuple(i for p in pieces for i in p.ids) == made.ids
    assert pieces[-1].finish_reason == made.finish_reason


def test_greedy_ids_and_log_probabilities_are_those_of_the_logits(lm: LanguageModel) -> None:
    made = lm.generate("El conejo", max_new_tokens=5, temperature=0)
    ids = encode_prompt(lm.tokenizer, "El conejo")
    for number, logprob in zip(made.ids, made.logprobs, strict=True):
        logits = lm.logits(ids)[-1]
        assert number == int(logits.argmax())
        assert logprob == pytest.approx(float(logits.log_softmax(-1)[number]), abs=1e-4)
        ids.append(number)


def test_a_stop_may_be_one_text(lm: LanguageModel) -> None:
    made = lm.generate("El", max_new_tokens=12, temperature=0)
    letter = made.text[3]
    stopped = lm.generate("El", max_new_tokens=12, temperature=0, stop=letter)
    assert stopped.finish_reason == "stop"
    assert stopped.text == made.text[: made.text.index(letter)]
    assert stopped == lm.generate("El", max_new_tokens=12, temperature=0, stop=[letter])


def test_the_context_is_filled_and_no_further(lm: LanguageModel) -> None:
    found = [lm.generate("a", max_new_tokens=500, temperature=3.0, seed=seed) for seed in range(5)]
    full = [made for made in found if made.finish_reason == "context"]
    assert full
    assert all(made.prompt_tokens + len(made.ids) == CONTEXT + 1 for made in full)
    with pytest.raises(PromptError, match=r"context holds 40.*it is 320 characters long"):
        lm.generate("ñu 🐇" * 80)


def test_settings_that_are_wrong(lm: LanguageModel) -> None:
    with pytest.raises(ConfigError) as error:
        lm.generate("a", temprature=1, top_k="many", max_new_tokens=-1)
    assert error.value.problems == [
        'generate.temprature: unknown key; did you mean "temperature"?',
        'generate.top_k: expected a whole number, got "many"',
        "generate: max_new_tokens=-1 must be at least 1",
    ]
    with pytest.raises(ConfigError, match="max_new_tokens=-1 must be at least 1"):
        lm.generate("a", max_new_tokens=-1)


@pytest.fixture(scope="module")
def tokenizer(saved: Path) -> Tokenizer:
    return Tokenizer.load(saved)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_decode_is_the_exact_inverse_of_encode(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["", " ", "\x00", "<|endoftext|>", "a\r\n\tb", "e\u0301 é", "🐇👩‍👩‍👧", "\ufeff¿"])
def test_round_trips(lm: LanguageModel, text: str) -> None:
    ids = lm.encode(text)
    assert lm.decode(ids) == text
    assert not set(ids) & set(lm.tokenizer.special.ids())


def test_logits_are_of_the_ids_as_they_are(lm: LanguageModel) -> None:
    ids = lm.encode("El conejo saltó")
    logits = lm.logits(ids)
    assert logits.shape == (len(ids), 300)
    assert logits.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(logits, lm.model(torch.tensor([ids]))[0])
    assert lm.logits(iter(ids)).shape == logits.shape
    assert not torch.allclose(lm.logits([lm.tokenizer.special.end_of_document, *ids])[1:], logits)


def test_logits_refuse_what_the_model_cannot_read(lm: LanguageModel) -> None:
    with pytest.raises(PromptError, match="0 ids: the model reads between 1 and 40"):
        lm.logits([])
    with pytest.raises(PromptError, match="41 ids"):
        lm.logits([1] * 41)
    assert lm.logits([1] * 40).shape == (40, 300)
    for wrong in (-1, 300):
        with pytest.raises(PromptError, match=f"id {wrong} is outside the vocabulary of 300"):
            lm.logits([1, wrong])
        with pytest.raises(InputError, match=f"id {wrong} is outside the vocabulary of 300"):
            lm.decode([wrong])


def test_a_score_is_that_of_a_document(lm: LanguageModel) -> None:
    text = "El conejo saltó. 🐇"
    score = lm.score(text)
    ids = encode_prompt(lm.tokenizer, text)
    logprobs = lm.logits(ids).log_softmax(-1)
    targets = [*ids[1:], lm.tokenizer.special.end_of_document]
    nats = -float(sum(logprobs[i, t] for i, t in enumerate(targets)))
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert (score.tokens, score.bytes, score.documents) == (len(ids), len(text.encode()), 1)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)


def test_long_and_empty_scores(lm: LanguageModel) -> None:
    long = lm.score(TEXT)
    assert long.bytes == len(TEXT.encode())
    assert long.tokens == len(lm.encode(TEXT)) + 1 > CONTEXT
    assert lm.score(TEXT, stride=CONTEXT).tokens == long.tokens
    assert lm.score("").bytes == 0
    with pytest.raises(InputError, match="stride=0 must be between 1 and the context length 40"):
        lm.score(TEXT, stride=0)


def test_a_lone_surrogate_is_an_error_that_says_where(lm: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"character 1 .*U\+D800"):
        lm.encode("a\ud800")


def test_wrong_devices_and_places(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match='unknown device "gpu": did you mean "cpu"'):
        load(saved, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match='"cuda" is not available here'):
            load(saved, device="cuda")
    with pytest.raises(InputError, match="no model at"):
        load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no checkpoints here"):
        load(tmp_path)


def test_a_damaged_model_is_not_loaded(saved: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    weights = copy / checkpoint.WEIGHTS
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(DamagedError):
        load(copy, device="cpu")
