"""How are attention and feed-forward wired into the residual stream? Pre-norm: x + f(norm(x)) (arXiv:2002.04745)."""

from __future__ import annotations

from torch import Tensor, nn

from fabula.model.attention import MixerConfig
from fabula.model.cache import LayerCache
from fabula.model.ffn import FFNConfig
from fabula.model.norms import NormConfig
from fabula.model.positions import Tables


class Block(nn.Module):
    """One layer: (B, T, D) to (B, T, D)."""

    def __init__(self, d_model: int, attention: MixerConfig, ffn: FFNConfig, norm: NormConfig, dropout: float) -> None:
        super().__init__()
        self.attention_norm = norm.build(d_model)
        self.attention = attention.build(d_model)
        self.ffn_norm = norm.build(d_model)
        self.ffn = ffn.build(d_model)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, tables: Tables | None, mask: Tensor | None, cache: LayerCache | None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), tables, mask, cache))
        x = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return x
