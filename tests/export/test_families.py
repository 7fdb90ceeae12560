"""The tables: published configurations, both styles of config.json, and what has no twin."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fabula.config import to_data
from fabula.errors import ConfigError, InputError
from fabula.export.families import families, fitting
from fabula.export.family import canonical, flat, to_ours, to_theirs, twin
from fabula.model.attention import GroupedQueryAttention
from fabula.model.config import ModelConfig
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.ffn import GegluFFN, GeluFFN, GluFFN, ReluFFN, SquaredReluFFN, SwigluFFN
from fabula.model.kinds import DECODER, AnyConfig, build_model
from fabula.model.norms import LayerNormConfig, RMSNormConfig
from fabula.model.positions import Alibi, LearnedPositions, NoPositions, RelativePositions, Rope
from fabula.model.presets import presets
from fabula.model.spans import Blocks, Sliding
from tests import tiny
from tests.export.published import PARAMETERS, config

DECODERS = [name for name in families if families.get(name).kind == DECODER]


def ours(name: str, **changes: Any) -> AnyConfig:
    theirs = config(name, **changes)
    return to_ours(families.get(theirs["model_type"]), theirs)


def same(left: AnyConfig, right: AnyConfig) -> bool:
    return canonical(flat(to_data(left))) == canonical(flat(to_data(right)))


# ---- what is published -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_configurations(name: str) -> None:
    """The model is of the published size, and that of the preset of this name, where there is one."""
    made = ours(name)
    assert made.n_params() == PARAMETERS[name]
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(made).parameters()) == PARAMETERS[name]
    assert name not in presets or same(made, presets.get(name).config)


@pytest.mark.parametrize("name", PARAMETERS)
def test_they_are_written_as_they_are_read(name: str) -> None:
    """In the style of transformers 5 beside the older one; each alone says the same."""
    made = ours(name)
    family, zeros = fitting(made)
    assert (family.name, zeros) == (config(name)["model_type"], [])
    theirs = to_theirs(family, made)
    assert to_ours(family, theirs) == made
    if "rope_parameters" in theirs:
        older = {k: v for k, v in theirs.items() if k not in ("rope_parameters", "layer_types")}
        if name == "gemma3-270m":
            older["sliding_window_pattern"] = 6
        newer = {k: v for k, v in theirs.items() if k not in ("rope_theta", "rope_scaling", "rope_local_base_freq")}
        assert to_ours(family, older) == to_ours(family, newer) == made


def test_transformers_reads_them_alike() -> None:
    """What we make of a published file is what transformers makes of it."""
    transformers = pytest.importorskip("transformers")
    for name in PARAMETERS:
        theirs = config(name)
        read = transformers.AutoConfig.for_model(**theirs).to_dict()
        read = {k: v for k, v in read.items() if k not in ("rope_theta", "rope_scaling", "rope_local_base_freq")}
        if theirs["model_type"] == "t5":
            # Theirs calls every head tied, and sees by the weights whether it is; so does `hf.read`.
            assert read["tie_word_embeddings"] is True
            read["tie_word_embeddings"] = theirs.get("tie_word_embeddings", True)
        assert to_ours(families.get(theirs["model_type"]), read) == ours(name), name


def test_the_first_t5_and_its_revision() -> None:
    """Tied, scaled and with ReLU; untied, unscaled and gated."""
    first, second = ours("t5-small"), ours("t5-v1_1-small")
    assert isinstance(first, EncoderDecoderConfig)
    assert isinstance(second, EncoderDecoderConfig)
    assert (first.tied, first.head_factor(), first.ffn) == (True, 512**-0.5, ReluFFN(d_ff=2048))
    assert (second.tied, second.head_factor(), second.ffn) == (False, 1.0, GegluFFN(d_ff=1024, tanh=True))
    assert (first.context_length, second.context_length) == (512, 512)
    assert [made.attention.heads() for made in (first, second)] == [(8, 64), (6, 64)]


def test_every_decoder_among_the_presets_has_a_twin() -> None:
    decoders = {name: presets.get(name).config for name in presets}
    found = {name: fitting(made) for name, made in decoders.items() if isinstance(made, ModelConfig)}
    assert {family.name for family, _ in found.values()} == set(DECODERS)
    zeros = {name: len(zeros) for name, (_, zeros) in found.items() if zeros}
    assert zeros == {"alexandria-9m": 3}  # its queries, keys and values have no biases, GPT-2's have


# ---- what is not understood ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"activation_function": "gelu_fast"}, "activation_function is 'gelu_fast'; did you mean"),
        ("gpt2", {"n_head": 7}, "n_embd=768 is not a multiple of n_head=7"),
        ("gpt2", {"n_layer": "12"}, "n_layer is '12', not a whole number"),
        ("gpt2", {"n_layer": True}, "n_layer is True"),
        ("gpt2", {"n_layer": 0}, "n_layers=0 must be at least 1"),
        ("llama-3.2-1b", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is 'dynamic'"),
        ("llama-3.2-1b", {"rope_scaling": {"rope_type": "linear"}}, "factor of linear is None"),
        ("llama-3.2-1b", {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "turbo": 1}}, "turbo"),
        ("llama-3.2-1b", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("llama-3.2-1b", {"residual_multiplier": 0.22}, "residual_multiplier = 0.22 is not known to change nothing"),
        ("llama-3.2-1b", {"num_key_value_heads": 5}, "n_heads=32 must be a multiple of n_kv_heads=5"),
        ("smollm2-135m", {"rope_interleaved": True}, "half-split"),
        ("smollm2-135m", {"hidden_size": None}, "hidden_size is missing"),
        ("smollm2-135m", {"head_dim": 33}, "head_dim=33 must be even"),
        ("qwen3-0.6b", {"layer_types": ["sliding_attention"] * 28}, "sliding_window is None"),
        ("qwen3-0.6b", {"layer_types": ["full_attention"]}, "layer_types does not name 28 layers"),
        ("qwen3-0.6b", {"layer_types": ["linear_attention"] * 28}, "layer_types has linear_attention"),
        (
            "qwen3-0.6b",
            {
                "use_sliding_window": True,
                "sliding_window": 8,
                "max_window_layers": 3,
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
            },
            "local layers are never scaled here",
        ),
        ("gemma3-270m", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3-270m", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("gemma3-270m", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        ("t5-small", {"feed_forward_proj": "gated-mish"}, "feed_forward_proj is 'gated-mish'; did you mean"),
        ("t5-small", {"feed_forward_proj": 7}, "feed_forward_proj is 7"),
        ("t5-small", {"dense_act_fn": "gelu"}, "dense_act_fn is 'gelu', but feed_forward_proj is 'relu'"),
        ("t5-small", {"is_gated_act": True}, "is_gated_act is True, but feed_forward_proj is 'relu'"),
        ("t5-small", {"is_decoder": True}, "is_decoder is True, only False"),
        ("t5-small", {"is_encoder_decoder": False}, "is_encoder_decoder is False, only True"),
        ("t5-small", {"tie_word_embeddings": "yes"}, "'yes', 'yes', not true or false"),
        ("t5-small", {"relative_attention_num_buckets": 30}, "n_buckets=30 must be a multiple of 4"),
        ("t5-small", {"num_layers": 0}, "encoder_layers=0 must be at least 1"),
        ("gemma3-270m", {"rope_parameters": {"rope_type": "default"}}, "not for full_attention and sliding_attention"),
    ],
)
def test_what_would_change_the_mathematics_is_refused(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        ours(name, **changes)


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ours("gemma3-270m", hidden_size="x", mixing="y", attn_logit_softcapping=1.0, query_pre_attn_scalar="z")
    assert len(caught.value.problems) == 4


def test_what_says_nothing_is_let_through() -> None:
    assert ours("smollm2-135m", some_future_switch=False, other=None, more={}) == ours("smollm2-135m")


def test_a_file_that_says_almost_nothing_takes_the_defaults_of_the_class() -> None:
    made = to_ours(families.get("gpt2"), {})
    assert made.n_params() == PARAMETERS["gpt2"]


# ---- what has no twin ------------------------------------------------------------------------------------------

_QWEN = tiny.model_config()
_T5 = EncoderDecoderConfig(
    vocab_size=320,
    context_length=32,
    d_model=32,
    encoder_layers=1,
    decoder_layers=2,
    attention=GroupedQueryAttention(n_heads=2, n_kv_heads=2, head_dim=16, scale=1.0),
    position=RelativePositions(),
    ffn=GegluFFN(d_ff=64, tanh=True),
    norm=RMSNormConfig(eps=1e-6),
    head_scale="inverse_sqrt_width",
)
_GPT = tiny.model_config(
    attention=GroupedQueryAttention(n_heads=2, n_kv_heads=2, head_dim=16),
    position=LearnedPositions(),
    ffn=ReluFFN(d_ff=64),
    norm=LayerNormConfig(),
)


@pytest.mark.parametrize(
    ("family", "base", "changes", "in_the_way"),
    [
        ("qwen3", _QWEN, {}, []),
        ("llama", _QWEN, {}, ["attention.qk_norm=true must be false"]),
        (
            "gpt2",
            _QWEN,
            {},
            [
                "attention.n_kv_heads=1 must be 2",
                "attention.qk_norm=true must be false",
                "position.kind=rope must be learned",
                "ffn.kind=swiglu must be gelu",
                "norm.kind=rmsnorm must be layernorm",
            ],
        ),
        ("gpt2", _GPT, {}, []),
        ("gpt2", _GPT, {"head_bias": True}, ["head_bias=true must be false"]),
        ("gpt2", _GPT, {"ffn": SquaredReluFFN(d_ff=64)}, []),
        ("gpt2", _GPT, {"placement": "post"}, ["placement=post must be pre"]),
        ("gpt2", _GPT, {"final_norm": False}, ["final_norm=false must be true"]),
        ("gpt2", _GPT, {"logit_cap": 30.0}, ["logit_cap=30.0 must be 0.0"]),
        ("gpt2", _GPT, {"position": NoPositions()}, ["position.kind=none must be learned"]),
        ("gpt2", _GPT, {"position": Alibi()}, ["position.kind=alibi must be learned"]),
        ("gpt2", _GPT, {"dropout": 0.1}, []),  # changes nothing but training
        ("gpt2", _GPT, {"norm": LayerNormConfig(bias=False)}, []),  # a bias of zeros
        ("qwen3", _QWEN, {"embedding_scale": "sqrt_width"}, [f"embedding_scale={32**0.5} must be 1.0"]),
        ("qwen3", _QWEN, {"norm": RMSNormConfig(eps=1e-5)}, ["attention.qk_norm_eps=1e-06 must be 1e-05"]),
        ("qwen3", _QWEN, {"ffn": SwigluFFN(d_ff=64, bias=True)}, ["ffn.bias=true must be false"]),
        ("qwen3", _QWEN, {"ffn": GluFFN(d_ff=64)}, []),
        ("qwen3", _QWEN, {"pattern": "LG", "local": Sliding(window=8)}, []),
        ("qwen3", _QWEN, {"pattern": "LG", "local": Blocks(size=8)}, ["pattern=LG must be GG", "local.kind=blocks"]),
        (
            "qwen3",
            _QWEN,
            {"pattern": "LG", "local": Sliding(window=8), "position": Rope(theta=1e4, local_theta=5e3)},
            ["position.local_theta=5000.0 must be 10000.0"],
        ),
        (
            "qwen3",
            _QWEN,
            {"pattern": "LG", "local": Sliding(window=8), "position": Rope(scaling="linear", factor=2.0)},
            ["position.scaling of local layers=none must be linear"],
        ),
        # Another base by another name: NTK scaling is a larger theta.
        ("qwen3", _QWEN, {"position": Rope(scaling="ntk", factor=4.0)}, []),
        ("qwen3", _QWEN, {"d_model": 33}, []),
        (
            "llama",
            _QWEN,
            {"d_model": 33, "attention": GroupedQueryAttention(n_heads=2, n_kv_heads=1, head_dim=16)},
            ["d_model=33 must be a multiple of attention.n_heads=2"],
        ),
        ("gemma3_text", presets.get("gemma3-tinystories").config, {"ffn": GegluFFN(d_ff=64, tanh=False)}, []),
        ("t5", _T5, {}, []),
        ("t5", _T5, {"target_start": "padding", "dropout": 0.1}, []),  # change no logits
        ("t5", _T5, {"tied": False, "head_scale": 32**-0.5}, []),
        ("t5", _T5, {"head_scale": 0.5}, ["head_scale=0.5 must be 1.0"]),
        ("t5", _T5, {"source_vocab_size": 320}, []),
        ("t5", _T5, {"source_vocab_size": 300, "shared_embedding": False}, ["source_vocab_size=300", "shared_embed"]),
        ("t5", _T5, {"ffn": GegluFFN(d_ff=64, tanh=False)}, ["ffn.tanh=false must be true"]),
        *(("t5", _T5, {"ffn": f}, []) for f in (ReluFFN(d_ff=64), GeluFFN(d_ff=64, tanh=False), GluFFN(d_ff=64))),
        *(("t5", _T5, {"ffn": f}, []) for f in (SquaredReluFFN(d_ff=64), SwigluFFN(d_ff=64))),
        ("t5", _T5, {"ffn": ReluFFN(d_ff=64, bias=True)}, ["ffn.bias=true must be false"]),
        ("t5", _T5, {"logit_cap": 30.0}, ["logit_cap=30.0 must be 0.0"]),
        ("t5", _T5, {"position": Alibi()}, ["position.kind=alibi must be relative"]),
        ("t5", _T5, {"head_bias": True}, ["head_bias=true must be false"]),
        (
            "t5",
            _T5,
            {"attention": GroupedQueryAttention(n_heads=2, n_kv_heads=1, head_dim=16)},
            ["attention.n_kv_heads=1 must be 2", "attention.scale=0.0 must be 1.0"],
        ),
        ("t5", _QWEN, {}, ["kind=decoder must be encoder-decoder"]),
        ("llama", _T5, {}, ["kind=encoder-decoder must be decoder"]),
    ],
)
def test_the_fields_in_the_way(family: str, base: AnyConfig, changes: dict[str, Any], in_the_way: list[str]) -> None:
    made = dataclasses.replace(base, **changes)
    problems, _ = twin(families.get(family), made)
    assert len(problems) == len(in_the_way), problems
    for problem, expected in zip(problems, in_the_way, strict=True):
        assert problem.startswith(expected), problems
    if not in_the_way:
        back = to_ours(families.get(family), to_theirs(families.get(family), made))
        assert twin(families.get(family), back) == ([], [])


def test_no_twin_names_them_for_each_family() -> None:
    made = dataclasses.replace(_QWEN, position=Alibi(), placement="post")
    with pytest.raises(InputError) as caught:
        fitting(made)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == DECODERS
    assert "  qwen3: position.kind=alibi must be rope, placement=post must be pre" in lines


def test_biases_that_a_class_always_has_are_named() -> None:
    _, zeros = fitting(_GPT)
    names = ("attention.q_bias", "attention.k_bias", "attention.v_bias", "attention.out_bias", "ffn.bias")
    assert zeros == list(names)
    some = dataclasses.replace(
        _QWEN, attention=GroupedQueryAttention(n_heads=2, n_kv_heads=1, head_dim=16, out_bias=True)
    )
    family, zeros = fitting(some)
    assert (family.name, zeros) == ("llama", list(names[:3]))


def test_an_unknown_family_is_told() -> None:
    with pytest.raises(InputError, match='unknown family "lama": did you mean "llama"'):
        fitting(_QWEN, "lama")
