"""`ModelConfig`: what a decoder is made of, and the arithmetic of it.

A configuration prices itself: parameters, FLOPs a token, bytes of cache. A test builds every preset and holds it to
that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fabula.config import setting
from fabula.model.attention import MixerConfig
from fabula.model.block import Placement, norms_in_block
from fabula.model.cache import positions_held
from fabula.model.ffn import FFNConfig
from fabula.model.init import InitConfig
from fabula.model.norms import NormConfig
from fabula.model.positions import PositionConfig, Shape
from fabula.model.spans import Full, SpanConfig

# More is a slip of the keyboard: what a model costs is added up layer by layer.
MOST_LAYERS = 10_000


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
    norm: NormConfig = setting(doc="the normalisation around each part and at the end")
    pattern: str = setting("G", "kinds of layers, repeated over the depth: G sees everything, L what `local` says")
    local: SpanConfig = setting(factory=Full, doc="what the L layers of the pattern see")
    placement: Placement = setting(
        "pre", "norms before each part, after the sum (post), or before and after (sandwich)"
    )
    final_norm: bool = setting(True, "a norm after the last block; post-norm blocks end with one of their own")
    embedding_scale: float | Literal["sqrt_width"] = setting(1.0, "what token embeddings are multiplied by")
    tied: bool = setting(True, "the head uses the embedding's weights")
    head_bias: bool = setting(False, "bias of the head")
    logit_cap: float = setting(0.0, "logits are bent to stay within this, by tanh (Gemma 2); 0: as they are")
    dropout: float = setting(0.0, "share of activations dropped in training")
    init: InitConfig = setting(factory=InitConfig, doc="the weights before the first step")

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "d_model", "n_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.n_layers > MOST_LAYERS:
            raise ValueError(f"n_layers={self.n_layers:,} must be at most {MOST_LAYERS:,}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")
        if self.placement == "sandwich" and self.init.output == "zero":
            raise ValueError(
                'placement="sandwich" normalises what each part gives: init.output="zero" would divide nothing by '
                'nothing; use init.output = "same" or "depth_scaled"'
            )
        if self.embedding_scale != "sqrt_width" and not 0 < self.embedding_scale < math.inf:
            raise ValueError(f"embedding_scale={self.embedding_scale} must be above 0, or sqrt_width")
        if not 0 <= self.logit_cap < math.inf:
            raise ValueError(f"logit_cap={self.logit_cap} must be at least 0; 0 is none")
        self._check_pattern()
        self.position.check(self.shape())

    def _check_pattern(self) -> None:
        if not self.pattern or set(self.pattern) - {"G", "L"}:
            raise ValueError(f'pattern="{self.pattern}" must be made of G (sees everything) and L (local), as "LLLLLG"')
        if len(self.pattern) > self.n_layers:
            raise ValueError(
                f'pattern="{self.pattern}" names {len(self.pattern)} layers, n_layers={self.n_layers}: shorten it, or '
                "use more layers"
            )
        local = self.local.most() is not None
        if ("L" in self.pattern) != local:
            way = "give local.kind (sliding, blocks)" if not local else 'put an L into the pattern, as "LLLLLG"'
            raise ValueError(
                f'pattern="{self.pattern}" and local of kind {SpanConfig.variants.name_of(type(self.local))} '
                f"contradict each other: {way}"
            )

    def shape(self) -> Shape:
        """What position schemes depend on."""
        return Shape(self.d_model, self.context_length, *self.attention.heads())

    def kinds(self) -> str:
        """The kind of every layer, G or L."""
        return (self.pattern * self.n_layers)[: self.n_layers]

    def reaches(self) -> list[int | None]:
        """How many tokens each layer looks back at most; None: to the beginning."""
        return [self.local.most() if kind == "L" else None for kind in self.kinds()]

    def embedding_factor(self) -> float:
        """What token embeddings are multiplied by; the square root of the width in the first Transformer and Gemma."""
        return self.d_model**0.5 if self.embedding_scale == "sqrt_width" else float(self.embedding_scale)

    def parts(self) -> dict[str, int]:
        """Parameters by part, in the order a token meets them; their sum is `n_params()`."""
        d, n = self.d_model, self.n_layers
        return {
            "embedding": self.vocab_size * d,
            "positions": self.position.n_params(self.shape()),
            "attention": n * self.attention.n_params(d),
            "ffn": n * self.ffn.n_params(d),
            "norms": (norms_in_block(self.placement) * n + self.final_norm) * self.norm.n_params(d),
            "head": (0 if self.tied else self.vocab_size * d) + self.vocab_size * self.head_bias,
        }

    def n_params(self) -> int:
        """Trained numbers in the model."""
        return sum(self.parts().values())

    def n_active_params(self) -> int:
        """Those that one token meets: fewer than all of them in a mixture of experts."""
        idle = self.ffn.n_params(self.d_model) - self.ffn.n_active_params(self.d_model)
        return self.n_params() - self.n_layers * idle

    def flops_per_token(self, context: int | None = None) -> int:
        """Forward FLOPs of the matrix products for one token (a multiply and an add are 2 FLOPs).

        `context` keys are attended to (default: context_length), in a local layer those that it sees; the causal half
        is not subtracted, and what is not a matrix product is not counted, as is usual. Training costs three times
        this: forward, and backward for activations and for weights.
        """
        keys = self.context_length if context is None else context
        attended = [keys if most is None else min(keys, most + 1) for most in self.reaches()]
        attention = sum(self.attention.flops_per_token(self.d_model, seen) for seen in attended)
        return attention + self.n_layers * self.ffn.flops_per_token(self.d_model) + 2 * self.d_model * self.vocab_size

    def training_flops_per_token(self) -> int:
        """FLOPs of forward and backward for one token in rows of context_length."""
        return 3 * self.flops_per_token()

    def cache_bytes(self, context: int | None = None, bytes_per_number: int = 4) -> int:
        """Memory of the keys and values of one text of `context` tokens (default: context_length)."""
        keys = self.context_length if context is None else context
        held = [keys if most is None else min(keys, positions_held(keys, most)) for most in self.reaches()]
        return sum(self.attention.cache_bytes(kept, bytes_per_number) for kept in held)
