"""One file in llama.cpp's format, GGUF: weights, settings and tokenizer of the families that llama.cpp has.

The tensors are those of the Hugging Face export under llama.cpp's names; what llama.cpp lays out otherwise is laid out
here (Llama's rotated pairs lie side by side, Gemma's norms hold 1 + weight). What it cannot represent is refused with
the reason: a cut before the merges that it does not know, sliding layers where its class has none, scaled angles.

float32 is exact up to llama.cpp itself, which looks GELU up in a table of 16-bit numbers. q8_0 holds matrices as blocks
of 32 bytes with a scale each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fabula.errors import ConfigError, InputError, require_extra
from fabula.export import hf
from fabula.export.family import Family
from fabula.export.fields import Theirs
from fabula.generate.ggml import BLOCK
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.ffn import GegluFFN, GeluFFN, SwigluFFN
from fabula.model.positions import Rope, RopePosition
from fabula.tokenizer import cuts
from fabula.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

Weights = Literal["float32", "q8_0"]

_ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "qwen3": "qwen3", "gemma3_text": "gemma3"}
# The cuts that llama.cpp makes as we do, by its names for them.
_CUTS = {"gpt2": "gpt-2", "gpt4": "dbrx"}
# llama.cpp's kinds of tokens.
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5
# Every sixth layer of Gemma 3 sees everything; in files without the list of them llama.cpp assumes this too.
_GEMMA_PATTERN = "LLLLLG"

# Names of tensors: theirs without the layer's prefix to llama.cpp's.
_NAMES = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
# Gemma's blocks have norms on both sides of each part.
_SANDWICH = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
_LAYER = re.compile(r"^(?:transformer\.h|model\.layers)\.(\d+)\.(.+)$")


@dataclass(frozen=True, slots=True)
class Words:
    """A tokenizer as GGUF holds it."""

    cut: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]


def architecture(family: Family) -> str:
    """llama.cpp's name of a family."""
    return _ARCHITECTURES[family.name]


def check(family: Family, config: ModelConfig, tokenizer: Tokenizer) -> Words:
    """The tokenizer for the file; ConfigError with everything that llama.cpp cannot represent."""
    problems = []
    if family.name not in _ARCHITECTURES:
        problems.append(f"family {family.name} is none of llama.cpp's that are written here")
    if family.name == "gpt2" and config.ffn != GeluFFN(d_ff=config.ffn.d_ff, bias=config.ffn.bias, tanh=True):
        problems.append("ffn must be gelu with tanh: llama.cpp's GPT-2 looks for no other")
    if family.name == "gemma3_text" and config.ffn != GegluFFN(d_ff=config.ffn.d_ff, tanh=True):
        problems.append("ffn must be geglu with tanh: llama.cpp's Gemma 3 looks for no other")
    if family.name in ("llama", "qwen3") and not isinstance(config.ffn, SwigluFFN):
        problems.append(f"ffn must be swiglu: llama.cpp's {family.name} looks for no other")
    if "L" in config.kinds():
        if family.name != "gemma3_text":
            problems.append("sliding layers: llama.cpp's class of this family has none")
        elif config.kinds() != (_GEMMA_PATTERN * config.n_layers)[: config.n_layers]:
            problems.append(f'pattern="{config.pattern}": llama.cpp knows Gemma 3 with "{_GEMMA_PATTERN}"')
    position, attention = config.position, config.attention
    if isinstance(position, Rope) and position.scaling == "yarn":
        problems.append("position.scaling=yarn is not written")
    elif isinstance(position, Rope) and position.scaling != "none" and family.name != "llama":
        problems.append(f"position.scaling={position.scaling}: only for llama")
    n_heads, head_dim = attention.heads()
    scale = getattr(attention, "score_scale", lambda: head_dim**-0.5)()
    if abs(scale - head_dim**-0.5) > 1e-9:
        problems.append(f"attention.scale={scale}: llama.cpp has 1/sqrt(head_dim)")
    words = _words(tokenizer, config.vocab_size, problems)
    if problems or words is None:
        raise ConfigError(problems, "llama.cpp cannot represent this model")
    return words


def _words(tokenizer: Tokenizer, vocab_size: int, problems: list[str]) -> Words | None:
    data = json.loads(tokenizer.to_json())
    model, cut = data["model"], cuts.named(data.get("pre_tokenizer"))
    if model.get("type") != "BPE" or model.get("ignore_merges") or data.get("normalizer") is not None:
        problems.append("the tokenizer is not a byte-level BPE of merges alone")
        return None
    if not model["merges"]:
        problems.append("the tokenizer has no merges, which llama.cpp asks for")
    if cut not in _CUTS:
        known = ", ".join(_CUTS)
        problems.append(
            f"the tokenizer cuts texts at {cut or 'a pattern of its own'} before it merges; llama.cpp knows {known}"
        )
        return None
    texts = {number: token for token, number in model["vocab"].items()}
    added = {token["id"]: token["content"] for token in data["added_tokens"]}
    tokens, kinds = [], []
    for number in range(vocab_size):
        text = added.get(number, texts.get(number))
        tokens.append(f"<|unused{number}|>" if text is None else text)
        kinds.append(_UNUSED if text is None else _CONTROL if number in added else _NORMAL)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return Words(_CUTS[cut], tokens, kinds, merges)


def write(
    file: Path, family: Family, theirs: Theirs, model: Decoder, tokenizer: Tokenizer, words: Words, weights: Weights
) -> tuple[int, int]:
    """Write a model; returns the number of tensors and their bytes. MachineError when the writer is missing."""
    try:
        import gguf
    except ImportError:
        raise require_extra("gguf", "export", "writing GGUF") from None
    writer = gguf.GGUFWriter(file, _ARCHITECTURES[family.name])
    kind = gguf.LlamaFileType.MOSTLY_Q8_0 if weights == "q8_0" else gguf.LlamaFileType.ALL_F32
    writer.add_file_type(kind)
    if weights == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _settings(writer, family, model.config)
    _vocabulary(writer, tokenizer, words)
    count = size = 0
    for name, tensor in _tensors(family, theirs, model):
        array = tensor.numpy()
        whole_blocks = tensor.ndim == 2 and tensor.shape[1] % BLOCK == 0
        if weights == "q8_0" and whole_blocks and name != "position_embd.weight":
            q8 = gguf.GGMLQuantizationType.Q8_0
            array = gguf.quants.quantize(array, q8)
            writer.add_tensor(name, array, raw_dtype=q8)
        else:
            writer.add_tensor(name, array)
        count, size = count + 1, size + array.nbytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return count, size


def _settings(writer: GGUFWriter, family: Family, config: ModelConfig) -> None:
    attention, position = config.attention, config.position
    n_heads, head_dim = attention.heads()
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.ffn.d_ff)
    writer.add_head_count(n_heads)
    writer.add_vocab_size(config.vocab_size)
    if family.name == "gpt2":
        writer.add_layer_norm_eps(config.norm.eps)
        return
    assert isinstance(position, Rope)
    writer.add_head_count_kv(_kv_heads(config))
    writer.add_layer_norm_rms_eps(config.norm.eps)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(position.theta)
    if family.name == "gemma3_text":
        most = config.local.most()
        if most is not None:
            writer.add_sliding_window(most + 1)
            writer.add_rope_freq_base_swa(position.local_theta or position.theta)
        if config.logit_cap:
            writer.add_final_logit_softcapping(config.logit_cap)


def _kv_heads(config: ModelConfig) -> int:
    return int(getattr(config.attention, "n_kv_heads", config.attention.heads()[0]))


def _vocabulary(writer: GGUFWriter, tokenizer: Tokenizer, words: Words) -> None:
    special = tokenizer.special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.cut)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    writer.add_token_merges(words.merges)
    writer.add_bos_token_id(special.begin)
    writer.add_eos_token_id(special.end_of_document)
    if special.padding is not None:
        writer.add_pad_token_id(special.padding)
    if special.end_of_turn is not None:
        writer.add_eot_token_id(special.end_of_turn)
    # A document is begun by an id, as the model read it in training.
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(family: Family, theirs: Theirs, model: Decoder) -> Iterator[tuple[str, Tensor]]:
    config, gemma = model.config, family.name == "gemma3_text"
    names = {**_NAMES, **(_SANDWICH if gemma else {})}
    n_heads, _ = config.attention.heads()
    turned = {"attn_q": n_heads, "attn_k": _kv_heads(config)} if family.name == "llama" else {}
    for name, tensor in hf.tensors(family, theirs, model, "float32").items():
        whole, suffix = name.rsplit(".", 1)
        layer = _LAYER.match(whole)
        part = names[layer.group(2) if layer else whole]
        if "c_" in whole and suffix == "weight":
            tensor = tensor.t()  # theirs lie the other way
        if gemma and part.endswith("norm"):
            tensor = tensor + 1
        if part in turned:
            tensor = _side_by_side(tensor, turned[part])
        yield f"blk.{layer.group(1)}.{part}.{suffix}" if layer else f"{part}.{suffix}", tensor.contiguous()
    position = model.position
    if isinstance(position, RopePosition) and position.config.scaling != "none":
        frequency, _ = position.frequencies(torch.device("cpu"))
        exponent = torch.arange(0, position.head_dim, 2, dtype=torch.float32) / position.head_dim
        # What llama.cpp divides the usual angles by.
        yield "rope_freqs.weight", (1.0 / position.config.theta**exponent) / frequency


def _side_by_side(tensor: Tensor, n_heads: int) -> Tensor:
    """Rows of a projection so that the pairs that are turned together are neighbours."""
    rows = tensor.view(n_heads, 2, tensor.shape[0] // n_heads // 2, *tensor.shape[1:])
    return rows.transpose(1, 2).reshape(tensor.shape)


def refuse_other_kinds(model: Any) -> Decoder:
    """The model, if it is a decoder; InputError else."""
    if not isinstance(model, Decoder):
        raise InputError("--to gguf writes decoder-only models: llama.cpp's T5 is not written here")
    return model
