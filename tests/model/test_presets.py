"""Presets: their counts, and recipes that change them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fabula.config import Typed, build, to_data
from fabula.errors import InputError
from fabula.model.attention import GroupedQueryAttention
from fabula.model.config import ModelConfig
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.ffn import GeluFFN, SwigluFFN
from fabula.model.kinds import build_model, described, kind_of, read
from fabula.model.norms import RMSNormConfig
from fabula.model.positions import Rope
from fabula.model.presets import DEFAULT, presets, resolve


@pytest.mark.parametrize("name", list(presets))
def test_the_written_count_is_the_configurations_and_the_modules(name: str) -> None:
    preset = presets.get(name)
    with torch.device("meta"):
        model = build_model(preset.config)
    assert preset.n_params == preset.config.n_params() == sum(p.numel() for p in model.parameters())
    assert preset.source
    assert build(type(preset.config), to_data(preset.config)) == preset.config
    assert read(described(preset.config), "config.json") == preset.config


def test_alexandria_has_the_published_count() -> None:
    config = presets.get("alexandria-9m").config
    assert config.n_params() == 9_028_608
    assert dataclasses.replace(config, head_bias=True).n_params() == 9_036_867


@pytest.mark.parametrize("vocab_size", [2048, 1000, 8192])
def test_nima_has_the_published_count(vocab_size: int) -> None:
    config = dataclasses.replace(presets.get("nima-tiny").config, vocab_size=vocab_size)
    assert config.n_params() == 3_290_624 + 256 * vocab_size


@pytest.mark.parametrize(
    ("name", "without_words"), [("nima-small", 85_842_432), ("nima-medium", 303_360_000), ("nima-tiny", 3_290_624)]
)
def test_post_norm_has_as_many_numbers(name: str, without_words: int) -> None:
    for placement in ("pre", "post"):
        config = dataclasses.replace(presets.get(name).config, placement=placement)
        assert config.n_params() == without_words + config.d_model * config.vocab_size


def test_lillm_has_the_published_count() -> None:
    assert presets.get("lillm-39m").config.n_params() == 39_596_544
    assert presets.get("lillm-300m").config.n_params() == 291_554_304


@pytest.mark.parametrize(("source", "target"), [(8192, 8192), (1000, 3000)])
def test_nimas_encoder_decoder_has_the_published_count(source: int, target: int) -> None:
    config = presets.get("nima-transformer").config
    changed = good({"preset": "nima-transformer", "vocab_size": target, "source_vocab_size": source})
    assert changed.n_params() == 44_138_496 + 512 * (source + target) + 513 * target
    # Every projection has its bias: 6 attentions read, 2 x 6 write.
    attention, network, norm = 4 * (512 * 512 + 512), 2 * 512 * 2048 + 2048 + 512, 2 * 512
    assert 18 * attention + 12 * network + (6 * 2 + 6 * 3) * norm == 44_138_496
    assert config.parts()["attention"] + config.parts()["cross-attention"] == 18 * attention
    pre = dataclasses.replace(config, placement="pre", final_norm=True)
    assert pre.n_params() == config.n_params() + 2 * norm


def test_the_translating_preset_has_the_shape_of_t5() -> None:
    config = presets.get("fabula-translate-4m").config
    assert isinstance(config, EncoderDecoderConfig)
    assert isinstance(config.attention, GroupedQueryAttention)
    assert config.attention.score_scale() == 1.0
    assert config.head_factor() == config.d_model**-0.5
    model = build_model(config)
    assert not [name for name, _ in model.named_parameters() if "bias" in name]


def test_a_kind_of_model_is_known_by_its_name() -> None:
    config = presets.get("fabula-translate-4m").config
    assert described(config)["kind"] == kind_of(config) == "encoder-decoder"
    assert "kind" not in described(presets.get("fabula-1m").config)
    for data, told in (({"kind": "decodr"}, 'did you mean "decoder"'), ([], "not the settings of a model")):
        with pytest.raises(InputError, match=told):
            read(data, "config.json")
    assert bad({"kind": "encoder"})[0].startswith('model.kind: unknown kind of model "encoder"')


def test_published_counts() -> None:
    counts = {
        "gemma3-tinystories": 164_654_976,
        "gemma3-270m": 268_098_176,
        "gpt2": 124_439_808,
        "smollm2-135m": 134_515_008,
        "qwen3-0.6b": 596_049_920,
        "llama-3.2-1b": 1_235_814_400,
    }
    for name, count in counts.items():
        assert presets.get(name).config.n_params() == count
    gemma = presets.get("gemma3-tinystories").config
    assert dataclasses.replace(gemma, tied=True).n_params() == 132_490_496
    assert [i for i, kind in enumerate(gemma.kinds()) if kind == "G"] == [5, 11, 17]


def good(section: dict[str, Any]) -> ModelConfig:
    problems: list[str] = []
    _, config = resolve(section, problems)
    assert problems == []
    assert config is not None
    return config


def bad(section: dict[str, Any]) -> list[str]:
    problems: list[str] = []
    _, config = resolve(section, problems)
    assert config is None
    assert problems
    return problems


def test_without_a_word_the_default_preset() -> None:
    problems: list[str] = []
    assert resolve({}, problems) == (DEFAULT, presets.get(DEFAULT).config)
    assert problems == []


def test_a_value_changes_and_the_rest_stays() -> None:
    base = presets.get("lillm-39m").config
    made = good({"preset": "lillm-39m", "n_layers": 3, "ffn": {"d_ff": 99}, "position": {"theta": 500}})
    assert made == dataclasses.replace(base, n_layers=3, ffn=SwigluFFN(d_ff=99), position=Rope(theta=500.0))


def test_a_changed_kind_keeps_what_both_kinds_have() -> None:
    made = good({"preset": "alexandria-9m", "ffn": {"kind": "gelu", "tanh": False}})
    assert made.ffn == GeluFFN(d_ff=1024, bias=True, tanh=False)
    made = good({"preset": "alexandria-9m", "ffn": {"kind": "swiglu", "d_ff": 64}, "position": {"kind": "rope"}})
    assert made.ffn == SwigluFFN(d_ff=64, bias=True)
    assert made.position == Rope()
    made = good({"preset": "alexandria-9m", "norm": {"kind": "rmsnorm"}})
    assert made.norm == RMSNormConfig(eps=1e-5), "the bias that RMSNorm has not is dropped, eps stays"


def test_the_same_kind_said_again_changes_nothing() -> None:
    assert good({"preset": "lillm-39m", "ffn": {"kind": "swiglu"}}) == presets.get("lillm-39m").config


def test_values_typed_on_a_command_line() -> None:
    section = {
        "preset": Typed("lillm-39m"),
        "n_layers": Typed("2"),
        "tied": Typed("no"),
        "ffn": {"kind": Typed("relu"), "bias": Typed("true")},
        "attention": {"n_kv_heads": Typed("4")},
    }
    made = good(section)
    assert (made.n_layers, made.tied) == (2, False)
    assert to_data(made)["ffn"] == {"kind": "relu", "d_ff": 1408, "bias": True}
    assert made.attention == GroupedQueryAttention(n_heads=16, n_kv_heads=4, head_dim=32)


def test_resolving_leaves_the_preset_alone() -> None:
    before = to_data(presets.get("lillm-39m").config)
    good({"preset": "lillm-39m", "ffn": {"kind": "relu", "d_ff": 3}, "attention": {"n_heads": 8}})
    assert to_data(presets.get("lillm-39m").config) == before


@pytest.mark.parametrize("name", list(presets))
def test_a_resolved_configuration_resolves_to_itself(name: str) -> None:
    data = described(presets.get(name).config)
    assert good({"preset": name, **data}) == presets.get(name).config
    assert good({"preset": DEFAULT, **data}) == presets.get(name).config, "what is written out wins over the preset"


def test_problems_name_value_rule_and_way_out() -> None:
    assert bad({"preset": "lilm-39m"}) == ['model.preset: unknown model preset "lilm-39m": did you mean "lillm-39m"?']
    assert bad({"preset": "lillm-39m", "attention": {"n_kv_heads": 5}}) == [
        "model.attention: n_heads=16 must be a multiple of n_kv_heads=5; try n_kv_heads = 16, 8, 4, 2, 1"
    ]
    assert bad({"preset": "lillm-39m", "attention": {"head_dim": 33}}) == [
        "model: RoPE turns pairs of numbers: head_dim=33 must be even"
    ]
    assert bad({"preset": "lillm-39m", "ffn": {"kind": "swigl"}}) == [
        'model.ffn.kind: unknown ffn "swigl"; did you mean "swiglu"?'
    ]
    assert bad({"preset": "lillm-39m", "ffn": "relu"}) == [
        'model.ffn: expected a table, got "relu"; set model.ffn.kind = "relu"'
    ]
    assert bad({"preset": "lillm-39m", "norm": {"epsilon": 1}, "layers": 3}) == [
        'model.norm.epsilon: unknown key; did you mean "eps"?',
        'model.layers: unknown key; did you mean "n_layers"?',
    ]
    assert bad({"preset": "lillm-39m", "ffn": {"kind": "relu", "tanh": True}}) == [
        "model.ffn.tanh: unknown key; valid: d_ff, bias"
    ]
