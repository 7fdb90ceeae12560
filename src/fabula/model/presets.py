"""Named models: one row each, with its source and its parameter count (asserted by tests).

`fabula-*` are the product's own: RoPE, RMSNorm, QK-norm, SwiGLU, no biases (the shape of Qwen3, which stock tools
load). The others are the reference systems' as they stood.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fabula.config import Data, collect, merge, to_data
from fabula.errors import InputError
from fabula.model.attention import GroupedQueryAttention
from fabula.model.config import ModelConfig
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.ffn import GegluFFN, GeluFFN, ReluFFN, SwigluFFN
from fabula.model.init import InitConfig
from fabula.model.kinds import class_of, kind_of
from fabula.model.norms import LayerNormConfig, RMSNormConfig
from fabula.model.positions import LearnedPositions, RelativePositions, Rope, SinusoidalPositions
from fabula.model.spans import Sliding
from fabula.registry import Registry


@dataclass(frozen=True, slots=True)
class Preset:
    """A model with a name; `n_params` is written down here and asserted against the configuration."""

    config: ModelConfig | EncoderDecoderConfig
    n_params: int
    source: str


presets: Registry[Preset] = Registry("model preset")

DEFAULT = "fabula-3m"


def _fabula(
    n_params: int, *, d_model: int, n_layers: int, heads: tuple[int, int], d_ff: int, vocab: int, context: int
) -> Preset:
    n_heads, n_kv_heads = heads
    config = ModelConfig(
        vocab_size=vocab,
        context_length=context,
        d_model=d_model,
        n_layers=n_layers,
        attention=GroupedQueryAttention(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=64, qk_norm=True),
        position=Rope(theta=10_000.0),
        ffn=SwigluFFN(d_ff=d_ff),
        norm=RMSNormConfig(eps=1e-6),
        tied=True,
        init=InitConfig(linear="fan_in", embedding_std=0.02, output="zero"),
    )
    return Preset(config, n_params, "the shape of Qwen3 (arXiv:2505.09388)")


presets.add(
    "fabula-1m",
    _fabula(1_066_624, d_model=128, n_layers=4, heads=(2, 2), d_ff=352, vocab=2048, context=256),
)
presets.add(
    "fabula-3m",
    _fabula(3_050_688, d_model=192, n_layers=6, heads=(3, 3), d_ff=512, vocab=2048, context=256),
)
presets.add(
    "fabula-10m",
    _fabula(9_989_696, d_model=320, n_layers=7, heads=(5, 5), d_ff=864, vocab=4096, context=512),
)
presets.add(
    "fabula-30m",
    _fabula(30_747_264, d_model=512, n_layers=9, heads=(8, 4), d_ff=1408, vocab=8192, context=512),
)
presets.add(
    "fabula-100m",
    _fabula(100_687_360, d_model=768, n_layers=14, heads=(12, 4), d_ff=2048, vocab=16_384, context=1024),
)
presets.add(
    "fabula-350m",
    _fabula(350_175_744, d_model=1280, n_layers=18, heads=(20, 5), d_ff=3392, vocab=32_768, context=2048),
)
presets.add(
    "alexandria-9m",
    Preset(
        ModelConfig(
            vocab_size=8259,
            context_length=256,
            d_model=256,
            n_layers=6,
            attention=GroupedQueryAttention(n_heads=8, n_kv_heads=8, head_dim=32, out_bias=True),
            position=LearnedPositions(),
            ffn=ReluFFN(d_ff=1024, bias=True),
            norm=LayerNormConfig(eps=1e-5),
            tied=False,
            # Without the head's bias, which the original had, a stock GPT-2 class can load it.
            head_bias=False,
        ),
        9_028_608,
        "Alexandria 1.1; head_bias = true is the original",
    ),
)


def _biased_heads(n_heads: int) -> GroupedQueryAttention:
    """Multi-head attention, heads of 64, a bias on every projection."""
    return GroupedQueryAttention(
        n_heads=n_heads, n_kv_heads=n_heads, head_dim=64, q_bias=True, k_bias=True, v_bias=True, out_bias=True
    )


def _nima(*, d_model: int, n_layers: int, context: int, vocab: int, without_words: int) -> Preset:
    heads = d_model // 64
    config = ModelConfig(
        vocab_size=vocab,
        context_length=context,
        d_model=d_model,
        n_layers=n_layers,
        attention=_biased_heads(heads),
        position=LearnedPositions(),
        ffn=ReluFFN(d_ff=4 * d_model, bias=True),
        norm=LayerNormConfig(eps=1e-5),
        tied=True,
    )
    # As many with norms before each part as after it, as long as there is a final norm.
    return Preset(config, without_words + d_model * vocab, f"Nima, GPT-style: {without_words:,} + {d_model:,} a token")


presets.add("nima-tiny", _nima(d_model=256, n_layers=4, context=512, vocab=2048, without_words=3_290_624))
presets.add("nima-small", _nima(d_model=768, n_layers=12, context=1024, vocab=8192, without_words=85_842_432))
presets.add("nima-medium", _nima(d_model=1024, n_layers=24, context=1024, vocab=8192, without_words=303_360_000))


def _lillm(n_params: int, *, d_model: int, n_layers: int, head_dim: int, d_ff: int) -> Preset:
    config = ModelConfig(
        vocab_size=8192,
        context_length=512,
        d_model=d_model,
        n_layers=n_layers,
        attention=GroupedQueryAttention(n_heads=16, n_kv_heads=8, head_dim=head_dim),
        position=Rope(theta=10_000.0),
        ffn=SwigluFFN(d_ff=d_ff),
        norm=RMSNormConfig(eps=1e-6),
        tied=True,
    )
    return Preset(config, n_params, "lilLM; the shape of Llama 3 (arXiv:2407.21783)")


presets.add("lillm-39m", _lillm(39_596_544, d_model=512, n_layers=12, head_dim=32, d_ff=1408))
presets.add("lillm-300m", _lillm(291_554_304, d_model=1024, n_layers=24, head_dim=64, d_ff=2816))


def _gemma3(n_params: int, *, vocab: int, tied: bool, source: str) -> Preset:
    config = ModelConfig(
        vocab_size=vocab,
        context_length=32_768,
        d_model=640,
        n_layers=18,
        # The scale is 1/sqrt(256), the inverse root of query_pre_attn_scalar, which need not be head_dim.
        attention=GroupedQueryAttention(
            n_heads=4, n_kv_heads=1, head_dim=256, scale=256**-0.5, qk_norm=True, qk_norm_centred=True
        ),
        position=Rope(theta=1e6, local_theta=1e4),
        ffn=GegluFFN(d_ff=2048, tanh=True),
        norm=RMSNormConfig(eps=1e-6, centred=True),
        placement="sandwich",
        pattern="LLLLLG",
        local=Sliding(window=512),
        embedding_scale="sqrt_width",
        tied=tied,
        init=InitConfig(linear="normal", std=0.02, embedding_std=0.02, output="same"),
    )
    return Preset(config, n_params, source)


presets.add(
    "gemma3-tinystories",
    _gemma3(164_654_976, vocab=50_257, tied=False, source="Gemma-TinyStories; tied = true has 132,490,496"),
)
presets.add(
    "gemma3-270m",
    _gemma3(268_098_176, vocab=262_144, tied=True, source="Gemma 3 270M (arXiv:2503.19786)"),
)
presets.add(
    "gpt2",
    Preset(
        ModelConfig(
            vocab_size=50_257,
            context_length=1024,
            d_model=768,
            n_layers=12,
            attention=_biased_heads(12),
            position=LearnedPositions(),
            ffn=GeluFFN(d_ff=3072, bias=True, tanh=True),
            norm=LayerNormConfig(eps=1e-5),
            tied=True,
        ),
        124_439_808,
        "GPT-2, the smallest (Radford et al., 2019)",
    ),
)
presets.add(
    "smollm2-135m",
    Preset(
        ModelConfig(
            vocab_size=49_152,
            context_length=8192,
            d_model=576,
            n_layers=30,
            attention=GroupedQueryAttention(n_heads=9, n_kv_heads=3, head_dim=64),
            position=Rope(theta=100_000.0),
            ffn=SwigluFFN(d_ff=1536),
            norm=RMSNormConfig(eps=1e-5),
            tied=True,
        ),
        134_515_008,
        "SmolLM2 135M (arXiv:2502.02737); the shape of Llama",
    ),
)
presets.add(
    "qwen3-0.6b",
    Preset(
        ModelConfig(
            vocab_size=151_936,
            context_length=40_960,
            d_model=1024,
            n_layers=28,
            attention=GroupedQueryAttention(n_heads=16, n_kv_heads=8, head_dim=128, qk_norm=True),
            position=Rope(theta=1e6),
            ffn=SwigluFFN(d_ff=3072),
            norm=RMSNormConfig(eps=1e-6),
            tied=True,
        ),
        596_049_920,
        "Qwen3 0.6B (arXiv:2505.09388)",
    ),
)
presets.add(
    "llama-3.2-1b",
    Preset(
        ModelConfig(
            vocab_size=128_256,
            context_length=131_072,
            d_model=2048,
            n_layers=16,
            attention=GroupedQueryAttention(n_heads=32, n_kv_heads=8, head_dim=64),
            position=Rope(theta=500_000.0, scaling="llama3", factor=32.0, original_context=8192),
            ffn=SwigluFFN(d_ff=8192),
            norm=RMSNormConfig(eps=1e-5),
            tied=True,
        ),
        1_235_814_400,
        "Llama 3.2 1B (arXiv:2407.21783)",
    ),
)


presets.add(
    "nima-transformer",
    Preset(
        EncoderDecoderConfig(
            vocab_size=8192,
            context_length=512,
            d_model=512,
            encoder_layers=6,
            decoder_layers=6,
            attention=_biased_heads(8),
            position=SinusoidalPositions(),
            ffn=ReluFFN(d_ff=2048, bias=True),
            norm=LayerNormConfig(eps=1e-5),
            placement="post",
            final_norm=False,
            embedding_scale="sqrt_width",
            shared_embedding=False,
            tied=False,
            head_bias=True,
            dropout=0.1,
            # Times the root of the width the embedding has the amplitude of the positions added to it.
            init=InitConfig(linear="fan_in", embedding_std=512**-0.5, output="same"),
        ),
        # 18 attentions of 4 (512 x 512 + 512), 12 networks of 2 x 512 x 2048 + 2048 + 512, 30 norms of 2 x 512.
        44_138_496 + 512 * (8192 + 8192) + 513 * 8192,
        "Nima, encoder-decoder: 44,138,496 + 512 a source token + 1,025 a target token",
    ),
)


def _translate(
    n_params: int, *, d_model: int, layers: tuple[int, int], n_heads: int, d_ff: int, vocab: int, context: int
) -> Preset:
    config = EncoderDecoderConfig(
        vocab_size=vocab,
        context_length=context,
        d_model=d_model,
        encoder_layers=layers[0],
        decoder_layers=layers[1],
        attention=GroupedQueryAttention(n_heads=n_heads, n_kv_heads=n_heads, head_dim=64, scale=1.0),
        position=RelativePositions(n_buckets=32, max_distance=128),
        ffn=GegluFFN(d_ff=d_ff, tanh=True),
        norm=RMSNormConfig(eps=1e-6),
        tied=True,
        head_scale="inverse_sqrt_width",
        init=InitConfig(linear="fan_in", embedding_std=1.0, output="zero"),
    )
    return Preset(config, n_params, "the shape of T5 1.1 (arXiv:1910.10683, arXiv:2002.05202), tied")


presets.add(
    "fabula-translate-4m",
    _translate(4_919_616, d_model=192, layers=(4, 4), n_heads=3, d_ff=512, vocab=4096, context=128),
)


def resolve(section: Mapping[str, Any], problems: list[str]) -> tuple[str, ModelConfig | EncoderDecoderConfig | None]:
    """A recipe's [model] section as (preset name, configuration); what is wrong is appended to `problems`.

    The section is a preset's name and whatever differs from it. Changing the `kind` of a part keeps those of the
    preset's values that the new kind has too (a SwiGLU's d_ff becomes a GELU's). With another `kind` of model than the
    preset's nothing of the preset is kept.
    """
    over = {k: v for k, v in section.items() if k not in ("preset", "kind")}
    name = str(section.get("preset", DEFAULT))
    try:
        preset = presets.get(name).config
        kind = str(section.get("kind", kind_of(preset)))
        cls = class_of(kind, "model.kind")
        base = to_data(preset) if kind == kind_of(preset) else {}
    except InputError as error:
        problems.append(str(error) if "model.kind" in str(error) else f"model.preset: {error}")
        return name, None
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key, value in over.items():
        if key in fields and isinstance(value, Mapping) and isinstance(base.get(key), dict):
            over[key] = _with_kept(cls, base[key], value, key)
    return name, collect(cls, merge(base, over), "model", problems)


def _with_kept(cls: type, old: Data, new: Mapping[str, Any], key: str) -> Data:
    """`new`, with those values of `old` that a changed kind still has a field for."""
    kind = str(new.get("kind", old.get("kind", "")))
    if "kind" not in old or kind == old["kind"]:
        return dict(new)
    families = {f.name: f.type for f in dataclasses.fields(cls)}
    registry = _variants(str(families[key]))
    if registry is None or kind not in registry:
        return dict(new)
    names = {f.name for f in dataclasses.fields(registry.get(kind))}
    return {k: v for k, v in old.items() if k in names} | dict(new)


def _variants(type_name: str) -> Registry[Any] | None:
    import fabula.model.config as module

    found: Registry[Any] | None = getattr(getattr(module, type_name, None), "variants", None)
    return found
