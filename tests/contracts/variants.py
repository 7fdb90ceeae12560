"""Tiny models of every registered variant: what is registered is tested, nothing is listed by hand.

A variant whose settings have no default needs an example: `EXAMPLES` has one for each name of a setting. A new variant
with settings of other names makes `example` fail and say so.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from fabula.model.attention import mixers
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.ffn import ffns
from fabula.model.init import InitConfig
from fabula.model.norms import norms
from fabula.model.positions import positions
from fabula.model.spans import Blocks, Sliding, spans

D, V, CONTEXT = 12, 23, 160

# A value for each setting that has no default. Odd widths on purpose: d_model is not n_heads * head_dim.
EXAMPLES: dict[str, Any] = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6, "d_ff": 10, "window": 5, "size": 4}

FAMILIES = {"attention": mixers, "position": positions, "ffn": ffns, "norm": norms, "local": spans}

# Every switch of a variant is tried as well: its booleans one by one turned over.
ALL = [(family, name) for family, registry in FAMILIES.items() for name in registry]


def example(cls: type, **over: Any) -> Any:
    """An instance of a variant's configuration."""
    required = {
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    unknown = required - EXAMPLES.keys()
    assert not unknown, f"{cls.__name__}: add examples of {sorted(unknown)} to tests/contracts/variants.py"
    return cls(**({name: EXAMPLES[name] for name in required} | over))


def config(n_layers: int = 2, context_length: int = CONTEXT, **parts: Any) -> ModelConfig:
    """A tiny configuration; parts that are not given are the first registered ones with RoPE."""
    chosen = {
        "attention": example(mixers.get("gqa")),
        "position": example(positions.get("rope")),
        "ffn": example(ffns.get("swiglu")),
        "norm": example(norms.get("rmsnorm")),
        # Large enough that every part shows in the logits, which a zero or small initialisation would hide.
        "init": InitConfig(linear="normal", std=0.3, embedding_std=1.0, output="same"),
    } | parts
    if isinstance(chosen.get("local"), (Sliding, Blocks)):
        chosen.setdefault("pattern", "LG")
    return ModelConfig(vocab_size=V, context_length=context_length, d_model=D, n_layers=n_layers, **chosen)


def variants() -> list[tuple[str, ModelConfig]]:
    """(id, configuration) of every registered variant, of each of its switches, and of the model's own."""
    found: list[tuple[str, ModelConfig]] = []
    for family, name in ALL:
        cls = FAMILIES[family].get(name)
        found.append((f"{family}-{name}", config(**{family: example(cls)})))
        for field in dataclasses.fields(cls):
            if isinstance(field.default, bool):
                part = example(cls, **{field.name: not field.default})
                found.append((f"{family}-{name}-{field.name}", config(**{family: part})))
    for heads, n_kv_heads in (("multi_head", 4), ("one_shared_head", 1)):
        found.append((heads, config(attention=example(mixers.get("gqa"), n_kv_heads=n_kv_heads))))
    found += [("untied", config(tied=False)), ("head_bias", config(head_bias=True)), ("dropout", config(dropout=0.5))]
    found += [(placement, config(placement=placement)) for placement in ("post", "sandwich")]
    found += [("no_final_norm", config(placement="post", final_norm=False))]
    found += [("scaled_embedding", config(embedding_scale="sqrt_width")), ("capped_logits", config(logit_cap=2.0))]
    gqa, rope = mixers.get("gqa"), positions.get("rope")
    found += [
        ("capped_scores", config(attention=example(gqa, logit_cap=1.0))),
        ("scale", config(attention=example(gqa, scale=0.1))),
    ]
    scaled = {"linear": {}, "ntk": {}, "yarn": {"original_context": 40}, "llama3": {"original_context": 40}}
    found += [(f"rope_{s}", config(position=rope(scaling=s, factor=4.0, **more))) for s, more in scaled.items()]
    window = example(spans.get("sliding"))
    found += [
        (f"window_with_{name}", config(local=window, position=example(positions.get(name)))) for name in positions
    ]
    found += [
        ("window_everywhere", config(local=window, pattern="L")),
        ("two_bases", config(local=window, position=rope(theta=1e6, local_theta=1e4))),
        ("capped_window", config(local=window, attention=example(gqa, logit_cap=1.0))),
        ("one_active_expert", config(ffn=example(ffns.get("moe"), n_active=1, n_experts=2))),
    ]
    return found


VARIANTS = variants()


def build(made: ModelConfig, seed: int = 0) -> Decoder:
    """A model in evaluation mode. Vectors (norms, biases) get random values too: at 1 and 0 a mistake can hide."""
    torch.manual_seed(seed)
    model = Decoder(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def tokens(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    """Random ids (B, T)."""
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(seed))
