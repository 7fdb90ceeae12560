"""The decoder-only language model: tokens in, hidden states or logits out.

    tokens (B, T) ─► embedding ─► blocks ─► norm ─► hidden (B, T, D) ─► head ─► logits (B, T, V)

Training asks for `hidden` and lets `losses` apply the head in chunks; everything else asks for logits. Positions and
document numbers come from the caller; with document numbers, attention stays inside a document.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fabula.model import masks
from fabula.model.block import Block
from fabula.model.cache import Cache
from fabula.model.config import ModelConfig
from fabula.model.init import initialise


class Decoder(nn.Module):
    """Built from a ModelConfig; weights follow torch's generator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position = config.position.build(config.d_model, config.context_length, config.attention.rotary_width())
        self.blocks = nn.ModuleList(
            Block(config.d_model, config.attention, config.ffn, config.norm, config.placement, config.dropout)
            for _ in range(config.n_layers)
        )
        self.norm = config.norm.build(config.d_model) if config.final_norm else nn.Identity()
        self.embedding_factor = config.embedding_factor()
        self.head = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        outputs = [
            linear
            for block in self.blocks
            if isinstance(block, Block)
            for linear in (*block.attention.output_projections(), *block.ffn.output_projections())
        ]
        initialise(self, config.init, outputs, self.embedding, config.n_layers)

    @property
    def head_weight(self) -> Tensor:
        """The weights of the head, (V, D)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def new_cache(self) -> Cache:
        """An empty memory for decoding."""
        return Cache(self.config.n_layers)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The last hidden states (B, T, D), normalised, ready for the head.

        tokens (B, T); positions (B, T) default to counting on from the cache; documents (B, T) are numbers that differ
        between documents packed in one row.
        """
        start = 0 if cache is None else cache.length
        if positions is None:
            positions = torch.arange(start, start + tokens.shape[1], device=tokens.device).unsqueeze(0)
        mask = None
        if documents is not None:
            if cache is not None:
                raise ValueError("documents and a cache cannot be combined: a cache holds one document a row")
            mask = masks.same_document(documents) & masks.causal(tokens.shape[1], tokens.shape[1], tokens.device)
            mask = mask.unsqueeze(1)
        x = self.embedding(tokens)
        if self.embedding_factor != 1:
            x = x * self.embedding_factor
        x = self.position.embed(x, positions)
        tables = self.position.tables(positions)
        for index, block in enumerate(self.blocks):
            x = block(x, tables, mask, None if cache is None else cache.layers[index])
        out: Tensor = self.norm(x)
        return out

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (B, T, V) in float32; arguments as for `hidden`."""
        return self.logits(self.hidden(tokens, positions, documents, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """The head: hidden states (..., D) to logits (..., V) in float32."""
        return F.linear(hidden, self.head_weight.to(hidden.dtype), self.head_bias).float()
