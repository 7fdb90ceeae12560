"""`ModelConfig`: what a decoder is made of, and the arithmetic of it.

A configuration prices itself: parameters, FLOPs a token, bytes of cache. A test builds every preset and holds it to
that.
"""

from __future__ import annotations

from dataclasses import dataclass

from fabula.config import setting
from fabula.model.attention import MixerConfig
from fabula.model.ffn import FFNConfig
from fabula.model.init import InitConfig
from fabula.model.norms import NormConfig
from fabula.model.positions import PositionConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A decoder-only language model."""

    vocab_size: int = setting(doc="number of token ids")
    context_length: int = setting(doc="most tokens that are seen at once")
    d_model: int = setting(doc="width of the residual stream")
    n_layers: int = setting(doc="number of blocks")
    attention: MixerConfig = setting(doc="how positions exchange information")
    position: PositionConfig = setting(doc="how positions are told apart")
    ffn: FFNConfig = setting(doc="the network at each position")
    norm: NormConfig = setting(doc="the normalisation before each part and at the end")
    tied: bool = setting(True, "the head uses the embedding's weights")
    head_bias: bool = setting(False, "bias of the head")
    dropout: float = setting(0.0, "share of activations dropped in training")
    init: InitConfig = setting(factory=InitConfig, doc="the weights before the first step")

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "d_model", "n_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")
        self.position.check(self.d_model, self.attention.rotary_width())

    def parts(self) -> dict[str, int]:
        """Parameters by part, in the order a token meets them; their sum is `n_params()`."""
        d, n = self.d_model, self.n_layers
        return {
            "embedding": self.vocab_size * d,
            "positions": self.position.n_params(d, self.context_length),
            "attention": n * self.attention.n_params(d),
            "ffn": n * self.ffn.n_params(d),
            "norms": (2 * n + 1) * self.norm.n_params(d),
            "head": (0 if self.tied else self.vocab_size * d) + self.vocab_size * self.head_bias,
        }

    def n_params(self) -> int:
        """Trained numbers in the model."""
        return sum(self.parts().values())

    def flops_per_token(self, context: int | None = None) -> int:
        """Forward FLOPs of the matrix products for one token (a multiply and an add are 2 FLOPs).

        `context` keys are attended to (default: context_length); the causal half is not subtracted, and what is not a
        matrix product is not counted, as is usual. Training costs three times this: forward, and backward for
        activations and for weights.
        """
        keys = self.context_length if context is None else context
        layer = self.attention.flops_per_token(self.d_model, keys) + self.ffn.flops_per_token(self.d_model)
        return self.n_layers * layer + 2 * self.d_model * self.vocab_size

    def training_flops_per_token(self) -> int:
        """FLOPs of forward and backward for one token in rows of context_length."""
        return 3 * self.flops_per_token()

    def cache_bytes(self, context: int | None = None, bytes_per_number: int = 4) -> int:
        """Memory of the keys and values of one text of `context` tokens (default: context_length)."""
        keys = self.context_length if context is None else context
        return self.n_layers * self.attention.cache_bytes(keys, bytes_per_number)
