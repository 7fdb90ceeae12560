"""GGUF: one file that llama.cpp reads as the same model, or none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fabula import checkpoint as checkpoints
from fabula.checkpoint import Loaded
from fabula.errors import ConfigError, InputError
from fabula.export import gguf_check
from fabula.export import run as stage
from fabula.export.run import ExportConfig
from fabula.model.attention import GroupedQueryAttention
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.ffn import GegluFFN, GeluFFN, SwigluFFN
from fabula.model.norms import LayerNormConfig, RMSNormConfig
from fabula.model.positions import LearnedPositions, Rope
from fabula.model.spans import Sliding
from fabula.progress import Silent
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from tests import tiny

pytest.importorskip("xllamacpp", reason="the extra `export` (xllamacpp) is not installed")
pytest.importorskip("gguf", reason="the extra `export` (gguf) is not installed")

GGUF = ExportConfig(to="gguf")


def shape(**parts: object) -> ModelConfig:
    made = tiny.model_config(vocab_size=tiny.VOCABULARY)
    return dataclasses.replace(made, **{"d_model": 64, "context_length": 128, **parts})  # type: ignore[arg-type]


def heads(**switches: object) -> GroupedQueryAttention:
    given = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16, **switches}
    return GroupedQueryAttention(**given)  # type: ignore[arg-type]


FAMILIES = {
    "gpt2": shape(
        attention=heads(n_kv_heads=4, q_bias=True, k_bias=True, v_bias=True, out_bias=True),
        position=LearnedPositions(), ffn=GeluFFN(d_ff=96, bias=True), norm=LayerNormConfig(eps=1e-5),
    ),
    "llama": shape(attention=heads(), ffn=SwigluFFN(d_ff=96), tied=False),
    "llama_scaled": shape(
        attention=heads(), ffn=SwigluFFN(d_ff=96),
        position=Rope(scaling="llama3", factor=4.0, original_context=32),
    ),
    "qwen3": shape(attention=heads(qk_norm=True), ffn=SwigluFFN(d_ff=96)),
    "gemma3_text": shape(
        attention=heads(qk_norm=True, qk_norm_centred=True), ffn=GegluFFN(d_ff=96, tanh=True),
        norm=RMSNormConfig(centred=True), placement="sandwich", pattern="LLLLLG", local=Sliding(window=12), n_layers=6,
        embedding_scale="sqrt_width", position=Rope(theta=1e6, local_theta=1e4),
    ),
}  # fmt: skip


def loaded(config: ModelConfig, tokenizer: Tokenizer, folder: Path) -> Loaded:
    torch.manual_seed(0)
    model = Decoder(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Loaded(model, config, tokenizer, checkpoints.Checkpoint(folder, {}))


@pytest.mark.parametrize(
    ("name", "weights"), [*((name, "float32") for name in FAMILIES), ("llama", "q8_0"), ("gpt2", "q8_0")]
)
def test_llama_cpp_reads_the_same_model(name: str, weights: str, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    config = ExportConfig(to="gguf", dtype=weights)  # type: ignore[arg-type]
    made = stage.run(config, loaded(FAMILIES[name], tiny_tokenizer, tmp_path), tmp_path / "out.gguf", Silent())
    assert made.family == name.removesuffix("_scaled")
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]
    seen = made.comparison
    assert seen.texts == 1000
    assert seen.logits > 100
    if weights == "float32":
        assert seen.greedy_tokens > 0
        exact = name not in ("gpt2", "gemma3_text")  # llama.cpp's GELU is a table of 16-bit numbers
        assert seen.largest_difference <= (1e-4 if exact else seen.tolerance)
    else:
        assert seen.largest_difference > 1e-4
        assert made.notes[-1].startswith("q8_0 rounds the weights to 8 bits")


def test_what_is_not_the_same_is_not_published(
    tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fabula.export import gguf

    monkeypatch.setattr(gguf, "_side_by_side", lambda tensor, n_heads: tensor)
    with pytest.raises(InputError, match=r"llama\.cpp computes other logits from what was written"):
        stage.run(GGUF, loaded(FAMILIES["llama"], tiny_tokenizer, tmp_path), tmp_path / "out.gguf", Silent())
    assert list(tmp_path.iterdir()) == []


def test_another_tokenizer_is_not_published(
    tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fabula.export import gguf

    right = gguf._words

    def wrong(*arguments: Any) -> Any:
        words = right(*arguments)
        assert words is not None
        return dataclasses.replace(words, merges=words.merges[::-1])

    monkeypatch.setattr(gguf, "_words", wrong)
    with pytest.raises(InputError, match=r"llama\.cpp cuts a text otherwise"):
        stage.run(GGUF, loaded(FAMILIES["qwen3"], tiny_tokenizer, tmp_path), tmp_path / "out.gguf", Silent())
    assert list(tmp_path.iterdir()) == []


def test_what_llama_cpp_cannot_represent_is_refused_with_the_reasons(tmp_path: Path) -> None:
    tokenizer = train_bpe(["un zorro y una luna " * 9], tiny.VOCABULARY, exact=False, pattern="spanish")
    config = dataclasses.replace(
        FAMILIES["qwen3"], pattern="LG", local=Sliding(window=8), n_layers=2, ffn=GegluFFN(d_ff=96)
    )
    with pytest.raises(ConfigError) as caught:
        stage.run(GGUF, loaded(config, tokenizer, tmp_path), tmp_path / "out.gguf", Silent())
    assert caught.value.problems == [
        "ffn must be swiglu: llama.cpp's qwen3 looks for no other",
        "sliding layers: llama.cpp's class of this family has none",
        "the tokenizer cuts texts at spanish before it merges; llama.cpp knows gpt2, gpt4",
    ]


def test_names_and_formats(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    model = loaded(FAMILIES["qwen3"], tiny_tokenizer, tmp_path)
    with pytest.raises(InputError, match=r"a name that ends in \.gguf"):
        stage.run(GGUF, model, tmp_path / "out", Silent())
    (tmp_path / "there.gguf").write_text("mine")
    with pytest.raises(InputError, match="exists; name another file"):
        stage.run(GGUF, model, tmp_path / "there.gguf", Silent())
    with pytest.raises(ValueError, match="dtype=bfloat16: --to gguf writes float32, q8_0"):
        ExportConfig(to="gguf", dtype="bfloat16")
    with pytest.raises(ValueError, match="dtype=q8_0: --to hf writes float32, bfloat16, float16"):
        ExportConfig(dtype="q8_0")


def test_the_thousand_strings() -> None:
    made = list(gguf_check.strings(1000))
    assert made == list(gguf_check.strings(1000))
    assert len(set(made)) > 950
