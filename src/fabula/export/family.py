"""How is a table of a Hugging Face class read, in both directions?

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
    LOCAL_SCALING,
    LOOKED_AT,
    UNSCALED,
    Biases,
    Field,
    Ours,
    Theirs,
    kinds_of,
)
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.kinds import DECODER, AnyConfig, class_of, kind_of

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
