"""What are the weights before the first step?

Linears start with a normal distribution of a fixed width (GPT-2: 0.02), of 1/sqrt(fan-in), or of sqrt(2 / (fan-in +
fan-out)) (Xavier; Glorot and Bengio, 2010, equation 12). What writes into the
residual stream may start smaller by 1/sqrt(2 layers) (GPT-2) or at zero, so that every block begins as the identity
and the signal of the first steps is clean (as in nanochat and modded-nanogpt; measured in docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fabula.config import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class InitConfig:
    """An initialisation scheme."""

    linear: Literal["normal", "fan_in", "xavier"] = setting(
        "normal", "linears: normal(std), normal(1/sqrt(fan-in)), or normal(sqrt(2/(fan-in + fan-out)))"
    )
    std: float = setting(0.02, "standard deviation of linears (normal) and of learned positions")
    embedding_std: float = setting(0.02, "standard deviation of the token embedding")
    output: Literal["same", "depth_scaled", "zero"] = setting(
        "depth_scaled", "linears that write into the residual stream: like the others, / sqrt(2 layers), or 0"
    )

    def __post_init__(self) -> None:
        for name in ("std", "embedding_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")


def initialise(
    model: nn.Module, config: InitConfig, outputs: list[nn.Linear], token_embedding: nn.Embedding, n_layers: int
) -> None:
    """Fill the weights of a model in place; `outputs` are the linears that write into the residual stream."""
    is_output = {id(linear) for linear in outputs}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            std = _width(module, config)
            if id(module) in is_output:
                std *= {"same": 1.0, "depth_scaled": (2 * n_layers) ** -0.5, "zero": 0.0}[config.output]
            nn.init.normal_(module.weight, std=std) if std else nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=config.embedding_std if module is token_embedding else config.std)


def _width(linear: nn.Linear, config: InitConfig) -> float:
    """The standard deviation of a linear's weights."""
    if config.linear == "normal":
        return config.std
    if config.linear == "fan_in":
        return float(linear.in_features**-0.5)
    return float((2 / (linear.in_features + linear.out_features)) ** 0.5)
