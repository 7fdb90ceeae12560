"""Which Hugging Face class is the same model under other names? One table per family (`family.py` reads them)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fabula.errors import InputError
from fabula.export.family import Family, Row, twin
from fabula.export.fields import (
    GATED,
    PLAIN,
    Always,
    Biases,
    Cap,
    Choice,
    FeedForward,
    Field,
    HeadAndScale,
    HeadDim,
    Layers,
    NormOfHeads,
    Only,
    Ours,
    RopeAngles,
    Same,
    ScoreScale,
    Theirs,
)
from fabula.model.kinds import ENCODER_DECODER, AnyConfig, kind_of
from fabula.registry import Registry

families: Registry[Family] = Registry("family")


def _heads_divide_width(ours: Ours) -> list[str]:
    d, n = ours["d_model"], ours.get("attention.n_heads", 1)
    return [f"d_model={d} must be a multiple of attention.n_heads={n}"] if d % n else []


def _linear(theirs: str, ours: str, transposed: bool = False, bias: str | None = None) -> tuple[Row, ...]:
    """The weight of a linear, and its bias where the key `bias` is true ("": always)."""
    parts = tuple(ours.split(" + "))
    weight = Row(f"{theirs}.weight", tuple(f"{part}.weight" for part in parts), transposed)
    if bias is None:
        return (weight,)
    return (weight, Row(f"{theirs}.bias", tuple(f"{part}.bias" for part in parts), when=bias))


_NO_CAPS = Always(logit_cap=0.0, attention__logit_cap=0.0)
_EVERYWHERE = Always(pattern="G", local__kind="full")

families.add(
    "gpt2",
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        (
            Same("vocab_size", "vocab_size", default=50257),
            Same("n_positions", "context_length", default=1024),
            Same("n_embd", "d_model", default=768),
            Same("n_layer", "n_layers", default=12),
            Same("n_head", "attention.n_heads", default=12),
            Same("n_head", "attention.n_kv_heads", default=12, written=False),
            HeadDim(),
            Same("n_inner", "ffn.d_ff", default=lambda theirs: 4 * theirs.get("n_embd", 768)),
            Choice("activation_function", PLAIN, "gelu_new"),
            Same("layer_norm_epsilon", "norm.eps", float, 1e-5),
            Same("tie_word_embeddings", "tied", bool, True),
            Always(
                attention__kind="gqa", attention__scale=0.0, attention__qk_norm=False, position__kind="learned",
                norm__kind="layernorm", placement="pre", final_norm=True, embedding_scale=1.0, head_bias=False,
            ),
            _NO_CAPS,
            _EVERYWHERE,
            Biases(
                None, "attention.q_bias", "attention.k_bias", "attention.v_bias", "attention.out_bias", "ffn.bias",
                "norm.bias",
            ),
            Only("scale_attn_weights", True, written=True),
            Only("scale_attn_by_inverse_layer_idx", False),
            Only("reorder_and_upcast_attn", False),
            Only("add_cross_attention", False),
        ),
        (
            Row("transformer.wte.weight", ("embedding.weight",)),
            Row("transformer.wpe.weight", ("position.table.weight",)),
            *_linear("transformer.h.{i}.ln_1", "blocks.{i}.attention_norm", bias=""),
            *_linear(
                "transformer.h.{i}.attn.c_attn",
                "blocks.{i}.attention.q_proj + blocks.{i}.attention.k_proj + blocks.{i}.attention.v_proj",
                transposed=True, bias="",
            ),
            *_linear("transformer.h.{i}.attn.c_proj", "blocks.{i}.attention.out_proj", transposed=True, bias=""),
            *_linear("transformer.h.{i}.ln_2", "blocks.{i}.ffn_norm", bias=""),
            *_linear("transformer.h.{i}.mlp.c_fc", "blocks.{i}.ffn.up", transposed=True, bias=""),
            *_linear("transformer.h.{i}.mlp.c_proj", "blocks.{i}.ffn.down", transposed=True, bias=""),
            *_linear("transformer.ln_f", "norm", bias=""),
            Row("lm_head.weight", ("head.weight",), when="!tie_word_embeddings"),
        ),
        prefix="transformer.",
        leftovers=r"transformer\.h\.\d+\.attn\.(masked_)?bias",
        twins=(("lm_head.weight", "transformer.wte.weight"),),
    ),
)  # fmt: skip


def _by_heads(theirs: Theirs) -> Any:
    width, heads = theirs.get("hidden_size"), theirs.get("num_attention_heads")
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None


def _rope_decoder(default_heads: Any, head_dim: Any) -> tuple[Field, ...]:
    """What the decoders with rotary positions have in common."""
    return (
        Same("vocab_size", "vocab_size"),
        Same("max_position_embeddings", "context_length"),
        Same("hidden_size", "d_model"),
        Same("num_hidden_layers", "n_layers"),
        Same("num_attention_heads", "attention.n_heads"),
        Same("num_key_value_heads", "attention.n_kv_heads", default=default_heads),
        Same("head_dim", "attention.head_dim", default=head_dim),
        Same("intermediate_size", "ffn.d_ff"),
        Same("rms_norm_eps", "norm.eps", float, 1e-6),
        Always(attention__kind="gqa", norm__kind="rmsnorm", final_norm=True, head_bias=False),
        Biases(
            "attention_bias", "attention.q_bias", "attention.k_bias", "attention.v_bias", "attention.out_bias"
        ),
    )  # fmt: skip


def _rope_rows(qk_norm: bool, sandwich: bool, mlp_bias: str | None) -> tuple[Row, ...]:
    before = "model.layers.{i}."
    norms = ("q_norm", "k_norm") if qk_norm else ()
    ffn_norm = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
    around = (("post_attention_layernorm", "attention_out_norm"), ("post_feedforward_layernorm", "ffn_out_norm"))
    return (
        Row("model.embed_tokens.weight", ("embedding.weight",)),
        *_linear(before + "input_layernorm", "blocks.{i}.attention_norm"),
        *(
            row
            for name, ours in (("q_proj", "q_proj"), ("k_proj", "k_proj"), ("v_proj", "v_proj"), ("o_proj", "out_proj"))
            for row in _linear(f"{before}self_attn.{name}", f"blocks.{{i}}.attention.{ours}", bias="attention_bias")
        ),
        *(row for n in norms for row in _linear(f"{before}self_attn.{n}", f"blocks.{{i}}.attention.{n}")),
        *_linear(before + ffn_norm, "blocks.{i}.ffn_norm"),
        *(
            row
            for part in ("gate", "up", "down")
            for row in _linear(f"{before}mlp.{part}_proj", f"blocks.{{i}}.ffn.{part}", bias=mlp_bias)
        ),
        *(row for n, ours in (around if sandwich else ()) for row in _linear(before + n, f"blocks.{{i}}.{ours}")),
        Row("model.norm.weight", ("norm.weight",)),
        Row("lm_head.weight", ("head.weight",), when="!tie_word_embeddings"),
    )


_PRE = Always(placement="pre", norm__centred=False, embedding_scale=1.0)
_TWIN = (("lm_head.weight", "model.embed_tokens.weight"),)
_ANGLES = r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"

families.add(
    "llama",
    Family(
        "llama",
        "LlamaForCausalLM",
        (
            *_rope_decoder(lambda theirs: theirs.get("num_attention_heads"), _by_heads),
            Choice("hidden_act", GATED, "silu"),
            Same("tie_word_embeddings", "tied", bool, False),
            Biases("mlp_bias", "ffn.bias"),
            RopeAngles(10_000.0),
            Always(attention__qk_norm=False, attention__scale=0.0),
            _PRE,
            _NO_CAPS,
            _EVERYWHERE,
        ),
        _rope_rows(qk_norm=False, sandwich=False, mlp_bias="mlp_bias"),
        prefix="model.",
        leftovers=_ANGLES,
        twins=_TWIN,
        demands=_heads_divide_width,
    ),
)


families.add(
    "qwen3",
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        (
            *_rope_decoder(lambda theirs: theirs.get("num_attention_heads"), 128),
            Choice("hidden_act", GATED, "silu"),
            Same("tie_word_embeddings", "tied", bool, False),
            RopeAngles(10_000.0),
            Layers(switch=True),
            NormOfHeads(centred=False),
            Always(attention__scale=0.0, ffn__bias=False),
            _PRE,
            _NO_CAPS,
        ),
        _rope_rows(qk_norm=True, sandwich=False, mlp_bias=None),
        prefix="model.",
        leftovers=_ANGLES,
        twins=_TWIN,
    ),
)

families.add(
    "gemma3_text",
    Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        (
            *_rope_decoder(4, 256),
            Choice("hidden_activation", GATED, "gelu_pytorch_tanh"),
            Same("tie_word_embeddings", "tied", bool, True),
            RopeAngles(1_000_000.0, by_type=True, local_theta=10_000.0),
            Layers(switch=False),
            NormOfHeads(centred=True),
            ScoreScale(),
            Cap("final_logit_softcapping", "logit_cap"),
            # Their class keeps this value and does not use it (seen in 5.23).
            Only("attn_logit_softcapping", None),
            Only("use_bidirectional_attention", False),
            Always(
                placement="sandwich", norm__centred=True, embedding_scale="sqrt_width", ffn__bias=False,
                attention__logit_cap=0.0,
            ),
        ),
        _rope_rows(qk_norm=True, sandwich=True, mlp_bias=None),
        prefix="model.",
        leftovers=_ANGLES,
        twins=_TWIN,
        demands=_heads_divide_width,
    ),
)  # fmt: skip


_T5_STACKS = (("encoder", "e"), ("decoder", "d"))


def _t5_rows() -> Iterator[Row]:
    yield Row("shared.weight", ("embedding.weight",))
    for side, letter in _T5_STACKS:
        blocks, ours = f"{side}.block.{{{letter}}}.layer.", f"{side}.blocks.{{{letter}}}."
        parts = [("SelfAttention", "attention")] + ([("EncDecAttention", "cross")] if side == "decoder" else [])
        for place, (part, name) in enumerate(parts):
            for short, long in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "out_proj")):
                yield from _linear(f"{blocks}{place}.{part}.{short}", f"{ours}{name}.{long}")
            yield from _linear(f"{blocks}{place}.layer_norm", f"{ours}{name}_norm")
        # Their first block holds the table of a whole stack.
        yield from _linear(f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias", f"{side}.position.table")
        last = f"{blocks}{len(parts)}."
        for theirs, name, when in (
            ("wi", "up", "!is_gated_act"), ("wi_0", "gate", "is_gated_act"), ("wi_1", "up", "is_gated_act"),
            ("wo", "down", ""),
        ):  # fmt: skip
            yield Row(f"{last}DenseReluDense.{theirs}.weight", (f"{ours}ffn.{name}.weight",), when=when)
        yield from _linear(f"{last}layer_norm", f"{ours}ffn_norm")
        yield from _linear(f"{side}.final_layer_norm", f"{side}.norm")
    yield Row("lm_head.weight", ("head.weight",), when="!tie_word_embeddings")


families.add(
    "t5",
    Family(
        "t5",
        "T5ForConditionalGeneration",
        (
            Same("vocab_size", "vocab_size", default=32128),
            # Their class has no limit; this key stood in the first ones that were published.
            Same("n_positions", "context_length", default=512),
            Same("d_model", "d_model", default=512),
            Same("num_layers", "encoder_layers", default=6),
            Same("num_decoder_layers", "decoder_layers", default=lambda theirs: theirs.get("num_layers", 6)),
            Same("num_heads", "attention.n_heads", default=8),
            Same("num_heads", "attention.n_kv_heads", default=8, written=False),
            Same("d_kv", "attention.head_dim", default=64),
            Same("d_ff", "ffn.d_ff", default=2048),
            Same("relative_attention_num_buckets", "position.n_buckets", default=32),
            Same("relative_attention_max_distance", "position.max_distance", default=128),
            Same("layer_norm_epsilon", "norm.eps", float, 1e-6),
            FeedForward(),
            HeadAndScale(),
            Only("is_encoder_decoder", True, written=True),
            Only("is_decoder", False),
            Always(
                attention__kind="gqa", attention__scale=1.0, attention__qk_norm=False, attention__q_bias=False,
                attention__k_bias=False, attention__v_bias=False, attention__out_bias=False, position__kind="relative",
                norm__kind="rmsnorm", norm__centred=False, ffn__bias=False, placement="pre", final_norm=True,
                embedding_scale=1.0, source_vocab_size=0, shared_embedding=True, head_bias=False,
            ),
            _NO_CAPS,
        ),
        tuple(_t5_rows()),
        prefix="",
        # A table that nothing ever read.
        leftovers=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
        twins=tuple(
            (name, "shared.weight")
            for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
        ),
        kind=ENCODER_DECODER,
    ),
)  # fmt: skip


def fitting(config: AnyConfig, wanted: str | None = None) -> tuple[Family, list[str]]:
    """The family that a model belongs to and the biases that are written as zeros.

    InputError when there is none: for each family of the model's kind, the fields in the way.
    """
    tried: list[str] = []
    for name in [n for n in families if families.get(n).kind == kind_of(config)] if wanted is None else [wanted]:
        family = families.get(name)
        problems, zeros = twin(family, config)
        if not problems:
            return family, zeros
        tried.append(f"{name}: {', '.join(problems)}")
    known = "this configuration has no exact twin among Hugging Face's classes" if wanted is None else "no exact twin"
    raise InputError(f"{known}; the fields in the way, by family:\n" + "\n".join(f"  {line}" for line in tried))
