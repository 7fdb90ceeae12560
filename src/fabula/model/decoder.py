"""The decoder-only language model: tokens in, hidden states or logits out.

    tokens (B, T) ─► embedding ─► blocks ─► norm ─► hidden (B, T, D) ─► head ─► logits (B, T, V)

Training asks for `hidden` and lets `losses` apply the head in chunks; everything else asks for logits. Positions and
document numbers come from the caller; with document numbers, attention stays inside a document. Padding, on either
side, is a document of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fabula.model.attention import set_path, usual_path
from fabula.model.block import Block
from fabula.model.cache import Cache
from fabula.model.config import ModelConfig
from fabula.model.init import initialise
from fabula.model.masks import Sight


class Decoder(nn.Module):
    """Built from a ModelConfig; weights follow torch's generator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position = config.position.build(config.shape())
        self.blocks = nn.ModuleList(
            Block(config.d_model, config.attention, config.ffn, config.norm, config.placement, config.dropout)
            for _ in range(config.n_layers)
        )
        self.norm = config.norm.build(config.d_model) if config.final_norm else nn.Identity()
        self.kinds = config.kinds()
        self.embedding_factor, self.logit_cap = config.embedding_factor(), config.logit_cap
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
        return Cache(self.config.reaches())

    def choose_path(self, device: str, documents: bool) -> str:
        """Send attention down the road that trains fastest on a device, with packed documents or without; says why."""
        path, reason = usual_path(
            device,
            documents=documents,
            spans="L" in self.kinds,
            capped=self.config.attention.capped(),
            biased=self.position.biased,
        )
        set_path(self, path)
        return reason

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The last hidden states (B, T, D), normalised, ready for the head.

        tokens (B, T); positions (B, T) default to counting on from the cache; documents (B, T) are numbers that differ
        between the documents packed in one row, each an unbroken stretch (rising numbers are the fastest). With a
        cache, tokens without numbers go on with the row's last document.
        """
        start, (batch, length) = 0 if cache is None else cache.length, tokens.shape
        if not batch or not length:
            raise ValueError(f"tokens of shape {(batch, length)}: there is nothing to read")
        if start + length > self.config.context_length:
            raise ValueError(
                f"{start + length:,} tokens are more than the context_length of {self.config.context_length:,}"
            )
        if positions is None:
            positions = torch.arange(start, start + length, device=tokens.device).unsqueeze(0)
        of_keys = documents if cache is None else cache.extend_documents(documents, batch, length)
        if of_keys is not None and documents is None:
            documents = of_keys[:, -length:]
        x = self.embedding(tokens)
        if self.embedding_factor != 1:
            x = x * self.embedding_factor
        x = self.position.embed(x, positions)
        tables = {kind: self.position.tables(positions, local=kind == "L") for kind in set(self.kinds)}
        sights: dict[str, Sight] = {}
        for index, (kind, block) in enumerate(zip(self.kinds, self.blocks, strict=True)):
            layer = None if cache is None else cache.layers[index]
            if kind not in sights:
                n_keys = length if layer is None else layer.n_keys(length)
                sights[kind] = Sight(
                    length,
                    n_keys,
                    tokens.device,
                    span=self.config.local if kind == "L" else None,
                    positions=positions,
                    documents=documents,
                    key_documents=None if of_keys is None else of_keys[:, -n_keys:],
                    bias=self.position.bias if self.position.biased else None,
                )
            x = block(x, tables[kind], sights[kind], layer)
        out: Tensor = self.norm(x)
        return out

    def auxiliary(self) -> Tensor | None:
        """What training adds to the loss of the last forward pass, in nats a token: the mean over the layers that have
        any (mixtures of experts). Asking for it takes it away."""
        found = []
        for block in self.blocks:
            assert isinstance(block, Block)
            if block.ffn.auxiliary is not None:
                found.append(block.ffn.auxiliary)
                block.ffn.auxiliary = None
        return torch.stack(found).mean() if found else None

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (B, T, V) in float32; arguments as for `hidden`."""
        return self.logits(self.hidden(tokens, positions, documents, cache))

    def logits(self, hidden: Tensor, linear: Callable[..., Tensor] = F.linear) -> Tensor:
        """The head: hidden states (..., D) to logits (..., V) in float32, by `linear` or what does as it."""
        logits = linear(hidden, self.head_weight.to(hidden.dtype), self.head_bias).float()
        return self.logit_cap * torch.tanh(logits / self.logit_cap) if self.logit_cap else logits
