"""Which Hugging Face class is the same model under other names? One table per family, read in both directions.

A table has two halves. `fields` say how the keys of config.json and the settings of a model are made of each other;
`rows` say which tensors are which, and how they lie. Import reads the table from left to right, export from right to
left. Whether a model has an exact twin is asked of the table itself: its configuration is written, read back, and
whatever comes back different is in the way.

Settings of a model are handled as dotted names ("attention.n_heads"); keys of config.json as they stand there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fabula.config import build, nest, to_data
from fabula.errors import ConfigError, InputError
from fabula.export.fields import (
    GATED,
    LOCAL_SCALING,
    LOOKED_AT,
    PLAIN,
    UNSCALED,
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
    kinds_of,
)
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.kinds import DECODER, ENCODER_DECODER, AnyConfig, class_of, kind_of
from fabula.registry import Registry

# What config.json may hold without any bearing on what the model computes: notes, training, generation, tokens (they
# are read with the tokenizer).
HARMLESS = {
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "use_cache", "_name_or_path",
    "initializer_range", "initializer_factor", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "dropout_rate", "classifier_dropout", "hidden_dropout", "bos_token_id", "eos_token_id", "pad_token_id",
    "decoder_start_token_id", "unk_token_id", "sep_token_id", "cache_implementation", "task_specific_params",
    "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "return_dict", "output_attentions",
    "output_hidden_states", "return_dict_in_generate", "output_past", "chunk_size_feed_forward", "tokenizer_class",
    "is_llama_config", "transformers.js_config", "gradient_checkpointing", "n_ctx", "pretraining_tp",
    "_attn_implementation_autoset", "_attn_implementation", "attn_implementation", "is_encoder_decoder",
    "router_aux_loss_coef", "unsloth_version", "unsloth_fixed", "tie_encoder_decoder", "prefix",
    # Settings of generation that older versions kept here.
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature", "top_k", "top_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "num_return_sequences",
    "diversity_penalty", "num_beam_groups", "encoder_no_repeat_ngram_size", "bad_words_ids", "begin_suppress_tokens",
    "suppress_tokens", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "output_scores",
    "exponential_decay_length_penalty",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of theirs: ours, or several of ours joined along their outputs; transposed if it lies the other way.

    `{i}` stands for the layer, `{e}` and `{d}` for those that read and that write. `when` names a key of config.json
    that must be true (with `!`: false) for it to exist.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    when: str = ""

    def exists(self, theirs: Theirs) -> bool:
        if not self.when:
            return True
        return not theirs.get(self.when[1:]) if self.when.startswith("!") else bool(theirs.get(self.when))

    def of(self, letter: str, layer: int) -> Row:
        place = {letter: layer}
        names = tuple(name.format(**place) for name in self.ours)
        return Row(self.theirs.format(**place), names, self.transposed, self.when)


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of Hugging Face and what it is here."""

    name: str
    architecture: str
    fields: tuple[Field, ...]
    rows: tuple[Row, ...]
    # What every name of a tensor begins with but the head's; some older files leave it out.
    prefix: str
    # What older files hold beside the weights, as a pattern; and tensors that may stand there twice when they are tied.
    leftovers: str = r"(?!)"
    twins: tuple[tuple[str, str], ...] = ()
    # What their class demands of a configuration beyond the table.
    demands: Callable[[Ours], list[str]] = lambda ours: []
    kind: str = DECODER

    def keys(self) -> set[str]:
        """The keys of config.json that the table knows."""
        return {key for field in self.fields for key in field.keys}

    def rows_of(self, theirs: Theirs, config: AnyConfig) -> Iterator[Row]:
        """The tensors of one model; `theirs` as this table writes it."""
        if isinstance(config, EncoderDecoderConfig):
            layers = {"e": config.encoder_layers, "d": config.decoder_layers}
        else:
            layers = {"i": config.n_layers}
        for row in self.rows:
            if row.exists(theirs):
                letter = next((letter for letter in layers if f"{{{letter}}}" in row.theirs), None)
                yield from [row] if letter is None else (row.of(letter, i) for i in range(layers[letter]))


families: Registry[Family] = Registry("family")


def flat(data: Mapping[str, Any], before: str = "") -> Ours:
    """Nested data as dotted names."""
    found: Ours = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[before + name] = value
    return found


def to_ours(family: Family, theirs: Theirs) -> AnyConfig:
    """The settings of a model from config.json; ConfigError listing everything that has no exact meaning here."""
    wrong: list[str] = []
    known = family.keys() | HARMLESS
    for key, value in theirs.items():
        if key not in known and value not in (None, False, [], {}):
            wrong.append(f"{key} = {value!r:.60} is not known to change nothing")
    ours = _read(family, theirs, wrong)
    if "L" in str(ours.get("pattern", "")) and ours.get(LOCAL_SCALING, "none") != "none":
        wrong.append("sliding layers with scaled angles: local layers are never scaled here")
    ours.pop(LOCAL_SCALING, None)
    if wrong:
        raise ConfigError(wrong, f"config.json ({family.name})")
    try:
        return build(class_of(family.kind, family.name), nest(ours.items()))
    except ConfigError as error:
        raise ConfigError(error.problems, f"config.json ({family.name})") from None


def _read(family: Family, theirs: Theirs, wrong: list[str]) -> Ours:
    ours: Ours = {}
    for field in family.fields:
        ours |= field.read(theirs, wrong)
    return ours


def to_theirs(family: Family, config: AnyConfig) -> Theirs:
    """The keys of config.json that say what the model is; InputError naming the fields in the way."""
    problems, _ = twin(family, config)
    if problems:
        raise InputError(f"no exact twin: {'; '.join(problems)}")
    return {"architectures": [family.architecture], "model_type": family.name, **written(family, config)}


def written(family: Family, config: AnyConfig) -> Theirs:
    """The keys of config.json, of a model that has a twin or of the nearest one."""
    return _write(family, canonical(flat(to_data(config))))


def _write(family: Family, ours: Ours) -> Theirs:
    theirs: Theirs = {}
    for field in family.fields:
        theirs |= field.write(ours)
    return theirs


def twin(family: Family, config: AnyConfig) -> tuple[list[str], list[str]]:
    """The fields in the way of an exact twin, and the biases that would be written as zeros."""
    if kind_of(config) != family.kind:
        return [f"kind={kind_of(config)} must be {family.kind}"], []
    ours = canonical(flat(to_data(config)))
    back = canonical({**ours, **_read(family, _write(family, ours), [])})
    biases = {name for field in family.fields if isinstance(field, Biases) for name in field.ours}
    problems, zeros = [], []
    kinds = [name for name in ours if name.endswith(".kind") and ours[name] != back.get(name)]
    # What only sliding layers have says nothing where there are to be none.
    idle = {"position.local_theta", LOCAL_SCALING} if back.get("pattern") != ours.get("pattern") else set()
    for name, value in ours.items():
        if name not in back or back[name] == value or name in idle:
            continue
        if name not in kinds and any(name.startswith(kind.removesuffix("kind")) for kind in kinds):
            continue  # of a part that is of another kind altogether
        if name in biases and back[name] and not value:
            zeros.append(name)
        else:
            problems.append(f"{name}={_shown(value)} must be {_shown(back[name])}")
    return problems + family.demands(ours), zeros


# Settings without a bearing on logits; what a target begins with stands in config.json as an id, with the tokens.
_NO_LOGITS = ("dropout", "target_start")


def canonical(ours: Ours) -> Ours:
    """Settings without what does not change the logits, and with one way of saying what can be said in several."""
    found = {name: value for name, value in ours.items() if not name.startswith("init.") and name not in _NO_LOGITS}
    kinds = ""
    if "pattern" in ours:
        found["pattern"] = kinds = kinds_of(ours)
    if found.get("embedding_scale") == "sqrt_width":
        found["embedding_scale"] = ours["d_model"] ** 0.5
    if found.get("head_scale") == "inverse_sqrt_width":
        found["head_scale"] = ours["d_model"] ** -0.5
    if found.get("source_vocab_size") == ours.get("vocab_size"):
        found["source_vocab_size"] = 0
    if found.get("attention.kind") == "gqa":
        if found["attention.scale"] == found["attention.head_dim"] ** -0.5:
            found["attention.scale"] = 0.0
        if not found["attention.qk_norm"]:
            found = {name: v for name, v in found.items() if not name.startswith("attention.qk_norm_")}
    if found.get("position.kind") == "rope":
        found = _canonical_rope(found, "L" in kinds)
    return found


def _canonical_rope(found: Ours, local: bool) -> Ours:
    theta, size = found["position.theta"], found.get("attention.head_dim", 2)
    found["position.local_theta"] = (found["position.local_theta"] or theta) if local else 0.0
    if found["position.scaling"] == "ntk":  # is nothing but another base
        found["position.theta"] = theta * found["position.factor"] ** (size / max(size - 2, 1))
        found["position.scaling"] = "none"
    scaling = found["position.scaling"]
    if local and scaling != "none":
        found.setdefault(LOCAL_SCALING, "none")
    else:
        found.pop(LOCAL_SCALING, None)
    looked_at = {f"position.{name}" for name in LOOKED_AT[scaling]}
    found |= {name: value for name, value in UNSCALED.items() if name not in looked_at and name != "position.scaling"}
    if scaling == "yarn" and not found["position.attention_factor"]:
        factor = found["position.factor"]
        found["position.attention_factor"] = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    return found


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


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
