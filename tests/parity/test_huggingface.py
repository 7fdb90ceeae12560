"""The classes of `transformers`, as tiny random models, are ours under other names: logits, padding, caches, files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fabula.export import hf
from fabula.export import run as stage
from fabula.export.run import ExportConfig
from fabula.model.decoder import Decoder
from fabula.progress import Silent
from fabula.tokenizer.base import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::Warning:transformers", "ignore::UserWarning:torch")

V, T, CONTEXT = 320, 40, 64


def llama(**changes: Any) -> dict[str, Any]:
    small = dict(
        hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=V, max_position_embeddings=CONTEXT, pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return {**small, **changes}


def gpt2(**changes: Any) -> dict[str, Any]:
    small = dict(n_embd=48, n_layer=2, n_head=4, vocab_size=V, n_positions=CONTEXT, bos_token_id=0, eos_token_id=0)
    return {**small, **changes}


def gemma(**changes: Any) -> dict[str, Any]:
    return llama(num_hidden_layers=7, head_dim=16, sliding_window=8, query_pre_attn_scalar=24, **changes)


def scaled(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500_000.0, "factor": 4.0, **values}}


_LLAMA3 = scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
_YARN = scaled("yarn", original_max_position_embeddings=16)
_HALVES = ["sliding_attention", "full_attention"]

# family, and the settings of its configuration
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", gpt2()),
    "gpt2-untied-relu": ("GPT2", gpt2(tie_word_embeddings=False, activation_function="relu", n_inner=72)),
    "gpt2-gelu": ("GPT2", gpt2(activation_function="gelu", layer_norm_epsilon=1e-3)),
    "llama": ("Llama", llama()),
    "llama-tied-biased": (
        "Llama",
        llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=20, rms_norm_eps=1e-5),
    ),
    "llama-one-kv-head": ("Llama", llama(num_key_value_heads=1, hidden_act="gelu_pytorch_tanh")),
    "llama3-scaling": ("Llama", llama(**_LLAMA3)),
    "llama-yarn": ("Llama", llama(**_YARN)),
    "llama-yarn-set": (
        "Llama",
        llama(**{"rope_parameters": {**_YARN["rope_parameters"], "beta_fast": 8.0, "attention_factor": 1.3}}),
    ),
    "llama-linear": ("Llama", llama(**scaled("linear"))),
    "qwen3": ("Qwen3", llama(head_dim=16, tie_word_embeddings=True)),
    "qwen3-windows": (
        "Qwen3",
        llama(head_dim=24, num_hidden_layers=4, use_sliding_window=True, sliding_window=8, max_window_layers=2),
    ),
    "qwen3-biased": ("Qwen3", llama(head_dim=12, attention_bias=True, rms_norm_eps=1e-5, **_YARN)),
    "gemma3": ("Gemma3", gemma()),
    "gemma3-capped-untied": (
        "Gemma3",
        gemma(
            final_logit_softcapping=3.0, tie_word_embeddings=False, layer_types=[*_HALVES * 3, "full_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 200_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
            },
        ),
    ),
    "gemma3-everywhere": ("Gemma3", gemma(layer_types=["full_attention"] * 7, attention_bias=True)),
}  # fmt: skip

_CLASSES = {
    "GPT2": ("GPT2Config", "GPT2LMHeadModel"),
    "Llama": ("LlamaConfig", "LlamaForCausalLM"),
    "Qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"),
}


@dataclass(frozen=True)
class Pair:
    """Their model, ours, and the folder between them."""

    theirs: Any
    ours: Decoder
    folder: Path


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    yield transformers


def save_random(name: str, folder: Path, dtype: str = "float32") -> Any:
    """A model of their class with random weights everywhere, saved by them."""
    family, settings = CASES[name]
    with quiet() as transformers:
        config_class, model_class = (getattr(transformers, n) for n in _CLASSES[family])
        torch.manual_seed(1)
        model = model_class._from_config(config_class(**settings), attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        model = model.to(getattr(torch, dtype))
        model.save_pretrained(folder)
        return model


@pytest.fixture(scope="module", params=list(CASES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("hf") / "model"
    theirs = save_random(request.param, folder)
    return Pair(theirs, hf.read(folder).model, folder)


def rows(seed: int = 0, shape: tuple[int, int] = (2, T)) -> torch.Tensor:
    return torch.randint(2, V, shape, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_logits_are_equal(pair: Pair) -> None:
    tokens = rows()
    assert (pair.ours(tokens) - pair.theirs(tokens).logits).abs().max() < 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side(pair: Pair, side: str) -> None:
    """Their attention mask; our documents and positions, with padding as a document of its own."""
    tokens, lengths = rows(1, (3, T)), [T, 9, 23]
    kept = torch.zeros_like(tokens, dtype=torch.bool)
    for row, length in enumerate(lengths):
        kept[row, slice(T - length, T) if side == "left" else slice(0, length)] = True
    positions = (kept.cumsum(dim=1) - 1).clamp(min=0)
    theirs = pair.theirs(tokens, attention_mask=kept.long(), position_ids=positions).logits
    ours = pair.ours(tokens, positions=positions, documents=kept.long())
    assert (ours - theirs)[kept].abs().max() < 1e-4


@torch.inference_mode()
def test_caches_are_equal(pair: Pair) -> None:
    """A prompt at once, then some tokens at a time, past the edge of the windows."""
    tokens = rows(2)
    cache, past = pair.ours.new_cache(), None
    start = 0
    for length in (11, 1, 1, 5, 1, 21):
        part = tokens[:, start : start + length]
        ours = pair.ours(part, cache=cache)
        out = pair.theirs(part, past_key_values=past, use_cache=True)
        past = out.past_key_values
        assert (ours - out.logits).abs().max() < 1e-4
        start += length
    assert start == T


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["gpt2", "llama-tied-biased", "qwen3-windows", "gemma3-capped-untied"])
def test_there_and_back_is_the_same_to_the_last_bit(
    name: str, dtype: str, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    """A model of theirs is imported and exported again: every tensor is what it was, in the format that it had."""
    save_random(name, tmp_path / "theirs", dtype)
    tiny_tokenizer.save(tmp_path / "theirs")
    made = stage.bring(tmp_path / "theirs", tmp_path / "ours")
    assert made.dtype == dtype
    loaded = stage.open_model(made.checkpoint.path)
    assert loaded.tokenizer.fingerprint == tiny_tokenizer.fingerprint
    exported = stage.run(ExportConfig(), loaded, tmp_path / "back", Silent())
    assert exported.dtype == dtype
    before, after = (load_file(tmp_path / d / "model.safetensors") for d in ("theirs", "back"))
    assert before.keys() == after.keys()
    for tensor in before:
        assert before[tensor].dtype == after[tensor].dtype
        assert torch.equal(before[tensor], after[tensor]), tensor


def test_every_tensor_of_every_case_comes_back(pair: Pair) -> None:
    """The same without the checkpoint between, for all cases."""
    found = hf.read(pair.folder)
    theirs = hf.config_json(found.family, found.config, "float32", {})
    made = hf.tensors(found.family, theirs, found.model, "float32")
    before = load_file(pair.folder / "model.safetensors")
    assert before.keys() == made.keys()
    assert all(torch.equal(before[name], made[name]) for name in before)


def test_what_is_written_is_read_as_the_same_configuration(pair: Pair, tmp_path: Path) -> None:
    """config.json of ours, read by transformers, computes what theirs did."""
    found = hf.read(pair.folder)
    with quiet() as transformers:
        config = found.family.architecture
        theirs = hf.config_json(found.family, found.config, "float32", {"eos_token_id": 0})
        made = getattr(transformers, config)._from_config(
            transformers.AutoConfig.for_model(**theirs), attn_implementation="eager"
        )
    made.load_state_dict(pair.theirs.state_dict())
    tokens = rows(3)
    with torch.inference_mode():
        assert (made.eval()(tokens).logits - pair.theirs(tokens).logits).abs().max() == 0
