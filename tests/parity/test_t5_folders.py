"""Folders of `transformers`' T5, tiny and random, are ours under other names: logits, caches, files, tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fabula
from fabula import checkpoint
from fabula.errors import ConfigError, DamagedError, InputError
from fabula.export import hf, hf_check
from fabula.export import run as stage
from fabula.export.run import ExportConfig
from fabula.model.encdec import EncoderDecoder, EncoderDecoderConfig
from fabula.progress import Silent
from fabula.tokenizer.base import Tokenizer
from tests.parity.test_huggingface import quiet

pytestmark = pytest.mark.filterwarnings("ignore::Warning:transformers", "ignore::UserWarning:torch")

V, S, T = 320, 40, 33


def t5(**changes: Any) -> dict[str, Any]:
    small = dict(
        vocab_size=V, d_model=48, d_kv=12, d_ff=80, num_layers=2, num_heads=4, relative_attention_num_buckets=8,
        relative_attention_max_distance=20, decoder_start_token_id=1, pad_token_id=1, eos_token_id=0,
    )  # fmt: skip
    return {**small, **changes}


# Settings; whether the head has weights of its own.
CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "1.0": (t5(), False),
    "1.1": (t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False), True),
    "deeper-decoder": (t5(num_decoder_layers=3, d_kv=20, num_heads=2, layer_norm_epsilon=1e-3), False),
    "deeper-encoder": (t5(num_layers=3, num_decoder_layers=1, feed_forward_proj="gated-silu"), False),
    "other-buckets": (t5(relative_attention_num_buckets=16, relative_attention_max_distance=24, d_kv=7), False),
    "gelu-1.1": (t5(feed_forward_proj="gelu", tie_word_embeddings=False, num_decoder_layers=1), True),
    # What only transformers 5 can say: the head and its scale apart.
    "tied-unscaled": (t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False), False),
    "untied-scaled": (t5(), True),
    "starts-with-end": (t5(decoder_start_token_id=0), False),
}


@dataclass(frozen=True)
class Pair:
    theirs: Any
    ours: EncoderDecoder
    folder: Path


def save_random(name: str, folder: Path, dtype: str = "float32") -> Any:
    settings, untied = CASES[name]
    with quiet() as transformers:
        torch.manual_seed(1)
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**settings)).eval()
        if untied:
            model.lm_head.weight = torch.nn.Parameter(torch.zeros(V, settings["d_model"]))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        model = model.to(getattr(torch, dtype))
        model.save_pretrained(folder)
        return model


@pytest.fixture(scope="module", params=list(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("t5") / "model"
    theirs = save_random(request.param, folder)
    ours = hf.read(folder).model
    assert isinstance(ours, EncoderDecoder)
    return Pair(theirs, ours, folder)


def rows(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sources with their lengths and mask, and targets."""
    generator = torch.Generator().manual_seed(seed)
    source, tokens = (torch.randint(2, V, (3, n), generator=generator) for n in (S, T))
    lengths = torch.tensor([S, 3, 17])
    return source, lengths, (torch.arange(S) < lengths.unsqueeze(1)).long(), tokens


@torch.inference_mode()
def test_logits_are_equal_and_sources_may_be_padded(pair: Pair) -> None:
    source, lengths, mask, tokens = rows(0)
    expected = pair.theirs(input_ids=source, attention_mask=mask, decoder_input_ids=tokens).logits
    found = pair.ours(source, lengths, tokens)
    assert float(found.std()) > 0.02, "logits that are all alike would show little"
    assert (found - expected).abs().max() < 1e-4


@torch.inference_mode()
def test_caches_are_equal(pair: Pair) -> None:
    source, lengths, mask, tokens = rows(1)
    memory, cache, past = pair.ours.remember(pair.ours.encode(source, lengths), lengths), pair.ours.new_cache(), None
    start = 0
    for length in (7, 1, 1, 4, 20):
        part = tokens[:, start : start + length]
        ours = pair.ours.logits(pair.ours.decode(part, memory, cache))
        out = pair.theirs(
            input_ids=source, attention_mask=mask, decoder_input_ids=part, past_key_values=past, use_cache=True
        )
        past = out.past_key_values
        assert (ours - out.logits).abs().max() < 1e-4
        start += length
    assert start == T


def test_every_tensor_of_every_case_comes_back(pair: Pair) -> None:
    found = hf.read(pair.folder)
    theirs = hf.config_json(found.family, found.config, "float32", {})
    made = hf.tensors(found.family, theirs, found.model, "float32")
    before = load_file(pair.folder / "model.safetensors")
    assert before.keys() == made.keys()
    assert all(torch.equal(before[name], made[name]) for name in before)


# Of what they write, ours says all but what only training asks for; one key differs: theirs is true whatever is tied.
_NOT_SAID = {"dropout_rate", "classifier_dropout", "initializer_factor", "transformers_version", "is_decoder"}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in CASES), *((n, d) for n in ("1.0", "1.1") for d in ("bfloat16", "float16"))],
)
def test_there_and_back_is_the_same_to_the_last_bit(
    name: str, dtype: str, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    save_random(name, tmp_path / "theirs", dtype)
    tiny_tokenizer.save(tmp_path / "theirs")
    made = stage.bring(tmp_path / "theirs", tmp_path / "ours")
    assert (made.family, made.dtype) == ("t5", dtype)
    loaded = stage.open_model(made.checkpoint.path)
    exported = stage.run(ExportConfig(), loaded, tmp_path / "back", Silent())
    assert (exported.architecture, exported.dtype) == ("T5ForConditionalGeneration", dtype)
    assert exported.comparison.greedy_tokens > 0
    before, after = (load_file(tmp_path / d / "model.safetensors") for d in ("theirs", "back"))
    assert before.keys() == after.keys()
    for tensor in before:
        assert before[tensor].dtype == after[tensor].dtype
        assert torch.equal(before[tensor], after[tensor]), tensor
    first, second = (json.loads((tmp_path / d / "config.json").read_text()) for d in ("theirs", "back"))
    for key in first.keys() - _NOT_SAID - {"tie_word_embeddings"}:
        assert second[key] == first[key], key
    assert second["tie_word_embeddings"] is not CASES[name][1]
    with quiet() as transformers:
        again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "back")
    assert again.generation_config.decoder_start_token_id == CASES[name][0]["decoder_start_token_id"]
    assert (again.lm_head.weight is again.shared.weight) is not CASES[name][1]


@pytest.mark.parametrize("name", ["1.0", "1.1"])
def test_the_style_of_transformers_4(name: str, tmp_path: Path) -> None:
    """One key said whether the head was tied and scaled; tables may stand there several times, one of them unread."""
    theirs = save_random(name, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    data = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "generation_config.json").unlink()
    for key in ("scale_decoder_outputs", "dense_act_fn", "is_gated_act", "tie_word_embeddings"):
        data.pop(key)
    if name == "1.1":
        data["tie_word_embeddings"] = False
    else:
        tensors["lm_head.weight"] = tensors["shared.weight"].clone()
    # Any of equal tables may be the one that was kept.
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    tensors["decoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 4)
    (tmp_path / "model" / "config.json").write_text(json.dumps(data))
    checkpoint.write_tensors(tmp_path / "model" / "model.safetensors", tensors)
    found = hf.read(tmp_path / "model")
    assert len(found.notes) == 1
    assert "1 tensors that are no weights were left out" in found.notes[0]
    source, lengths, mask, tokens = rows(2)
    with torch.inference_mode():
        expected = theirs(input_ids=source, attention_mask=mask, decoder_input_ids=tokens).logits
        assert isinstance(found.model, EncoderDecoder)
        assert (found.model(source, lengths, tokens) - expected).abs().max() < 1e-4


def test_tables_that_are_no_longer_equal_are_refused(tmp_path: Path) -> None:
    save_random("1.0", tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"] + 1
    checkpoint.write_tensors(tmp_path / "model" / "model.safetensors", tensors)
    with pytest.raises(ConfigError, match=r"encoder.embed_tokens.weight is tied to shared.weight .*, but differs"):
        hf.read(tmp_path / "model")


def change(folder: Path, file: str, **values: Any) -> None:
    data = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**data, **values}))


@pytest.mark.parametrize(
    ("config", "generation", "start"),
    [
        ({}, {}, "padding"),
        ({}, {"decoder_start_token_id": 0}, "end_of_document"),  # what their generate looks at first
        ({"eos_token_id": [0, 5]}, {"eos_token_id": None, "decoder_start_token_id": 0}, "end_of_document"),
        ({"pad_token_id": 0}, {"pad_token_id": 0, "decoder_start_token_id": 0}, "end_of_document"),
        (
            {},
            {"decoder_start_token_id": 7},
            "_token_id is 7, neither pad_token_id \\(1\\) nor eos_token_id",
        ),
        ({"decoder_start_token_id": None, "pad_token_id": None}, {"decoder_start_token_id": None}, "_id is None"),
    ],
)
def test_what_a_target_begins_with(
    config: dict[str, Any], generation: dict[str, Any], start: str, tmp_path: Path
) -> None:
    save_random("1.0", tmp_path / "model")
    change(tmp_path / "model", "config.json", **config)
    change(tmp_path / "model", "generation_config.json", **{**generation, **dict.fromkeys(_unsaid(generation))})
    if " " in start:
        with pytest.raises(ConfigError, match=start):
            hf.read(tmp_path / "model")
        return
    found = hf.read(tmp_path / "model").config
    assert isinstance(found, EncoderDecoderConfig)
    assert found.target_start == start


def _unsaid(generation: dict[str, Any]) -> list[str]:
    """Of the file beside config.json, what is not said is taken away, so that config.json is asked."""
    names = ("decoder_start_token_id", "pad_token_id", "eos_token_id")
    return [name for name in names if name not in generation]


def test_a_tokenizer_whose_padding_is_another_id_is_refused(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    save_random("1.0", tmp_path / "model")
    for file in ("config.json", "generation_config.json"):
        change(tmp_path / "model", file, decoder_start_token_id=9, pad_token_id=9)
    tiny_tokenizer.save(tmp_path / "model")
    with pytest.raises(InputError, match=r"begins with id 9 \(padding\), but that of the tokenizer is 1"):
        stage.open_model(tmp_path / "model")


def test_a_tokenizer_that_cannot_be_held(tmp_path: Path) -> None:
    """That is said, and nothing is made."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import Unigram

    save_random("1.0", tmp_path / "model")
    (tmp_path / "model" / "spiece.model").write_bytes(b"\n\x0e")
    with pytest.raises(InputError, match=r"no tokenizer.json, only spiece.model"):
        stage.bring(tmp_path / "model", tmp_path / "ours")
    backend = Backend(Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)], unk_id=2))
    backend.save(str(tmp_path / "model" / "tokenizer.json"))
    change_roles = {"eos_token": "</s>", "pad_token": "<pad>"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(change_roles))
    with pytest.raises(DamagedError, match=r"it does not keep spaces; decoder null"):
        stage.bring(tmp_path / "model", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_ours_is_theirs_without_sentencepiece(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    """What a source is there: its ids and the one that ends it, as in training here."""
    save_random("starts-with-end", tmp_path / "theirs")
    tiny_tokenizer.save(tmp_path / "theirs")
    stage.run(ExportConfig(), stage.open_model(tmp_path / "theirs"), tmp_path / "out", Silent())
    with quiet() as transformers:
        words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    end = tiny_tokenizer.special.end_of_document
    rows = words(["El conejo", "Había una vez un zorro"], padding=True, return_tensors="pt")
    assert words("El conejo")["input_ids"] == [*tiny_tokenizer.encode("El conejo"), end]
    lm = fabula.load(tmp_path / "out", device="cpu")
    found = model.generate(**rows, do_sample=False, max_new_tokens=9)
    for row, text in zip(found.tolist(), ("El conejo", "Había una vez un zorro"), strict=True):
        ids = list(lm.generate(text, max_new_tokens=9).ids)
        assert row[: 1 + len(ids)] == [end, *ids]
    assert all(word not in repr(type(words)).lower() for word in ("t5", "sentencepiece"))


@pytest.mark.parametrize("what", ["ids", "start"])
def test_tokens_that_differ_are_not_published(what: str, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    save_random("1.0", tmp_path / "model")
    ours = hf.read(tmp_path / "model").model
    assert isinstance(ours, EncoderDecoder)

    class Theirs:
        def generate(
            self, max_new_tokens: int, decoder_input_ids: torch.Tensor | None = None, **_: Any
        ) -> torch.Tensor:
            begun = [1 if what == "ids" else 0] if decoder_input_ids is None else decoder_input_ids[0].tolist()
            return torch.tensor([begun + [7] * max_new_tokens])

    arguments = (ours, Theirs(), tiny_tokenizer, [50, 60, 0])
    with pytest.raises(InputError, match="transformers writes other tokens"):
        hf_check._same_translation(*arguments, 1e-4)
    if what == "ids":
        n, ties = hf_check._same_translation(*arguments, 1e9)
        assert n >= ties > 0
