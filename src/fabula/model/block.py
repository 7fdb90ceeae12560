"""How are attention and feed-forward wired into the residual stream?

pre        x + f(norm(x))           (arXiv:2002.04745)
post       norm(x + f(x))           (arXiv:1706.03762)
sandwich   x + norm(f(norm(x)))     (arXiv:2105.13290; Gemma 2 and 3)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from fabula.model.attention import MixerConfig
from fabula.model.cache import LayerCache
from fabula.model.ffn import FFNConfig
from fabula.model.masks import Sight
from fabula.model.norms import NormConfig
from fabula.model.positions import Tables
from fabula.model.recompute import made_again

Placement = Literal["pre", "post", "sandwich"]


def norms_in_block(placement: Placement) -> int:
    """Norms in one block."""
    return 4 if placement == "sandwich" else 2


class Block(nn.Module):
    """One layer: (B, T, D) to (B, T, D)."""

    def __init__(
        self,
        d_model: int,
        attention: MixerConfig,
        ffn: FFNConfig,
        norm: NormConfig,
        placement: Placement,
        dropout: float,
    ) -> None:
        super().__init__()
        self.placement = placement
        self.attention_norm = norm.build(d_model)
        self.attention = attention.build(d_model)
        self.ffn_norm = norm.build(d_model)
        self.ffn = ffn.build(d_model)
        outer = placement == "sandwich"
        self.attention_out_norm = norm.build(d_model) if outer else nn.Identity()
        self.ffn_out_norm = norm.build(d_model) if outer else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, tables: Tables | None, sight: Sight | None, cache: LayerCache | None) -> Tensor:
        def attend(normed: Tensor) -> Tensor:
            out: Tensor = self.attention(normed, tables, sight, cache)
            return out

        if self.placement == "post":
            x = self.attention_norm(x + self.dropout(attend(x)))
            out: Tensor = self.ffn_norm(x + self.dropout(self.ffn(x)))
            return out
        x = x + self.dropout(self.attention_out_norm(normalised(self.attention_norm, x, attend)))
        return x + self.dropout(self.ffn_out_norm(normalised(self.ffn_norm, x, self.ffn)))


def normalised(norm: nn.Module, x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    """part(norm(x)). The norm keeps x for the backward pass; what it gave is made again from that."""
    normed, kept = norm(x), x.detach()
    with made_again(normed, lambda: norm.forward(kept)):  # without its hooks, which have been called
        return part(normed)
