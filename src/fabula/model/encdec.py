"""The encoder-decoder: one text is read whole, another is written after it (arXiv:1706.03762; T5, arXiv:1910.10683).

    source (B, S) ─► embedding ─► encoder blocks ─► norm ─► states (B, S, D)
                                                                 │ keys and values, once a source
    tokens (B, T) ─► embedding ─► decoder blocks ◄───────────────┘
                                     └─► norm ─► hidden (B, T, D) ─► head ─► logits (B, T, V)

The encoder sees its text both ways, the decoder its own only backwards and the source whole. What a source's length
leaves over is padding, which nothing sees: the result does not depend on it. Targets are padded at their end, where
causality hides it. Positions act inside each of the two texts and not between them; a position scheme with weights has
one set for each stack, shared by its layers, as in T5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fabula.config import setting
from fabula.model.attention import Attention, CrossAttention, GroupedQueryAttention, MixerConfig, set_path
from fabula.model.block import Block, Placement, normalised, norms_in_block
from fabula.model.cache import Cache, LayerCache
from fabula.model.config import MOST_LAYERS
from fabula.model.ffn import FFN, FFNConfig
from fabula.model.init import InitConfig, initialise
from fabula.model.masks import Sight
from fabula.model.norms import NormConfig
from fabula.model.positions import Position, PositionConfig, Shape, Tables


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderDecoderConfig:
    """A model that reads one text and writes another."""

    vocab_size: int = setting(doc="number of token ids of what is written")
    source_vocab_size: int = setting(0, "number of token ids of what is read; 0: the same vocabulary")
    context_length: int = setting(doc="most tokens of a source, and of a target")
    d_model: int = setting(doc="width of the residual stream")
    encoder_layers: int = setting(doc="number of blocks that read")
    decoder_layers: int = setting(doc="number of blocks that write")
    attention: MixerConfig = setting(doc="how positions exchange information, also from decoder to encoder")
    position: PositionConfig = setting(doc="how positions are told apart inside each text")
    ffn: FFNConfig = setting(doc="the network at each position")
    norm: NormConfig = setting(doc="the normalisation around each part and at the end of each stack")
    placement: Placement = setting(
        "pre", "norms before each part, after the sum (post), or before and after (sandwich)"
    )
    final_norm: bool = setting(True, "a norm after each stack; post-norm blocks end with one of their own")
    embedding_scale: float | Literal["sqrt_width"] = setting(1.0, "what token embeddings are multiplied by")
    shared_embedding: bool = setting(True, "sources and targets have the same embedding")
    tied: bool = setting(True, "the head uses the weights of the targets' embedding")
    head_bias: bool = setting(False, "bias of the head")
    head_scale: float | Literal["inverse_sqrt_width"] = setting(
        1.0, "what hidden states are multiplied by before the head (T5 when tied: inverse_sqrt_width)"
    )
    logit_cap: float = setting(0.0, "logits are bent to stay within this, by tanh; 0: as they are")
    target_start: Literal["end_of_document", "padding"] = setting(
        "end_of_document", "the special id that a target begins with (T5 as published: padding)"
    )
    dropout: float = setting(0.0, "share of activations dropped in training")
    init: InitConfig = setting(factory=InitConfig, doc="the weights before the first step")

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "d_model", "encoder_layers", "decoder_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("encoder_layers", "decoder_layers"):
            if getattr(self, name) > MOST_LAYERS:
                raise ValueError(f"{name}={getattr(self, name):,} must be at most {MOST_LAYERS:,}")
        if self.source_vocab_size < 0:
            raise ValueError(f"source_vocab_size={self.source_vocab_size} must be at least 0 (0: as vocab_size)")
        if self.shared_embedding and self.source_vocab_size not in (0, self.vocab_size):
            raise ValueError(
                f"source_vocab_size={self.source_vocab_size} and vocab_size={self.vocab_size} cannot share one "
                "embedding: leave out source_vocab_size, or use shared_embedding = false"
            )
        if not isinstance(self.attention, GroupedQueryAttention):
            raise ValueError('attention: only kind "gqa" can look from one text into another')
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")
        if self.placement == "sandwich" and self.init.output == "zero":
            raise ValueError(
                'placement="sandwich" normalises what each part gives: init.output="zero" would divide nothing by '
                'nothing; use init.output = "same" or "depth_scaled"'
            )
        for name, words in (("embedding_scale", "sqrt_width"), ("head_scale", "inverse_sqrt_width")):
            value = getattr(self, name)
            if value != words and not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be above 0, or {words}")
        if not 0 <= self.logit_cap < math.inf:
            raise ValueError(f"logit_cap={self.logit_cap} must be at least 0; 0 is none")
        self.position.check(self.shape())

    @property
    def n_layers(self) -> int:
        """Blocks of both stacks."""
        return self.encoder_layers + self.decoder_layers

    @property
    def source_vocabulary(self) -> int:
        """Number of token ids of what is read."""
        return self.source_vocab_size or self.vocab_size

    def shape(self) -> Shape:
        """What position schemes depend on."""
        return Shape(self.d_model, self.context_length, *self.attention.heads())

    def embedding_factor(self) -> float:
        """What token embeddings are multiplied by."""
        return self.d_model**0.5 if self.embedding_scale == "sqrt_width" else float(self.embedding_scale)

    def head_factor(self) -> float:
        """What hidden states are multiplied by before the head."""
        return self.d_model**-0.5 if self.head_scale == "inverse_sqrt_width" else float(self.head_scale)

    def parts(self) -> dict[str, int]:
        """Parameters by part, in the order in which texts meet them; their sum is `n_params()`."""
        d, n = self.d_model, self.n_layers
        # A decoder block has the norms of a block and those around its cross-attention.
        around = norms_in_block(self.placement)
        norms = around * n + around // 2 * self.decoder_layers + 2 * self.final_norm
        return {
            "embedding": self.vocab_size * d + (0 if self.shared_embedding else self.source_vocabulary * d),
            "positions": 2 * self.position.n_params(self.shape()),
            "attention": n * self.attention.n_params(d),
            "cross-attention": self.decoder_layers * self.attention.n_params(d),
            "ffn": n * self.ffn.n_params(d),
            "norms": norms * self.norm.n_params(d),
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
        """Forward FLOPs of the matrix products for one token that is written and one that is read.

        Both texts have `context` tokens (default: context_length); the rest is as for a decoder.
        """
        length = self.context_length if context is None else context
        attention, ffn = self.attention.flops_per_token(self.d_model, length), self.ffn.flops_per_token(self.d_model)
        # Between texts of one length, cross-attention costs what self-attention does.
        layers = self.encoder_layers * (attention + ffn) + self.decoder_layers * (2 * attention + ffn)
        return layers + 2 * self.d_model * self.vocab_size

    def training_flops_per_token(self) -> int:
        """FLOPs of forward and backward for one token of target and of source in rows of context_length."""
        return 3 * self.flops_per_token()

    def cache_bytes(self, context: int | None = None, bytes_per_number: int = 4) -> int:
        """Memory of the keys and values for one target and one source of `context` tokens (default: context_length)."""
        length = self.context_length if context is None else context
        return 2 * self.decoder_layers * self.attention.cache_bytes(length, bytes_per_number)


@dataclass(frozen=True, slots=True)
class Memory:
    """What was read, as the decoder's layers see it: keys and values (B, K, S, H) of each; `seen` (B, S) is false for
    padding (None: there is none)."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    seen: Tensor | None

    @property
    def length(self) -> int:
        """Tokens of the longest source."""
        return self.layers[0][0].shape[2]

    def select(self, rows: Tensor) -> Memory:
        """Sources in a new order, repeated or left out."""
        layers = tuple((k.index_select(0, rows), v.index_select(0, rows)) for k, v in self.layers)
        return Memory(layers, None if self.seen is None else self.seen.index_select(0, rows))

    def n_bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)


class DecoderBlock(nn.Module):
    """One layer that writes: self-attention, attention to the source, network; (B, T, D) to (B, T, D)."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        assert isinstance(config.attention, GroupedQueryAttention)
        d, norm = config.d_model, config.norm
        outer = config.placement == "sandwich"
        self.placement = config.placement
        self.attention_norm = norm.build(d)
        self.attention = config.attention.build(d)
        self.cross_norm = norm.build(d)
        self.cross = CrossAttention(config.attention, d)
        self.ffn_norm = norm.build(d)
        self.ffn: FFN = config.ffn.build(d)
        self.attention_out_norm = norm.build(d) if outer else nn.Identity()
        self.cross_out_norm = norm.build(d) if outer else nn.Identity()
        self.ffn_out_norm = norm.build(d) if outer else nn.Identity()
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self,
        x: Tensor,
        tables: Tables | None,
        sight: Sight,
        cache: LayerCache | None,
        source: tuple[Tensor, Tensor],
        source_sight: Sight,
    ) -> Tensor:
        def attend(normed: Tensor) -> Tensor:
            out: Tensor = self.attention(normed, tables, sight, cache)
            return out

        def look(normed: Tensor) -> Tensor:
            return self.cross.mix(self.cross.queries(normed).transpose(1, 2), *source, source_sight)

        if self.placement == "post":
            x = self.attention_norm(x + self.dropout(attend(x)))
            x = self.cross_norm(x + self.dropout(look(x)))
            out: Tensor = self.ffn_norm(x + self.dropout(self.ffn(x)))
            return out
        x = x + self.dropout(self.attention_out_norm(normalised(self.attention_norm, x, attend)))
        x = x + self.dropout(self.cross_out_norm(normalised(self.cross_norm, x, look)))
        return x + self.dropout(self.ffn_out_norm(normalised(self.ffn_norm, x, self.ffn)))


class Stack(nn.Module):
    """The blocks of one side with its positions and its last norm."""

    def __init__(self, config: EncoderDecoderConfig, blocks: list[nn.Module], both_ways: bool) -> None:
        super().__init__()
        self.position: Position = config.position.build(config.shape(), both_ways=both_ways)
        self.blocks = nn.ModuleList(blocks)
        self.norm = config.norm.build(config.d_model) if config.final_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()


class EncoderDecoder(nn.Module):
    """Built from an EncoderDecoderConfig; weights follow torch's generator."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.source_embedding = (
            None if config.shared_embedding else nn.Embedding(config.source_vocabulary, config.d_model)
        )
        reading: list[nn.Module] = [
            Block(config.d_model, config.attention, config.ffn, config.norm, config.placement, config.dropout)
            for _ in range(config.encoder_layers)
        ]
        self.encoder = Stack(config, reading, both_ways=True)
        self.decoder = Stack(config, [DecoderBlock(config) for _ in range(config.decoder_layers)], both_ways=False)
        self.embedding_factor, self.head_factor = config.embedding_factor(), config.head_factor()
        self.logit_cap = config.logit_cap
        self.head = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        self._initialise()

    def _initialise(self) -> None:
        config = self.config
        outputs: list[nn.Linear] = []
        for block in self._all_blocks():
            outputs += [*block.attention.output_projections(), *block.ffn.output_projections()]
            if isinstance(block, DecoderBlock):
                outputs += block.cross.output_projections()
        # By depth: as many sums as the deeper stack has, three in a block that writes, two in one that reads.
        depth = max(config.encoder_layers, math.ceil(1.5 * config.decoder_layers))
        initialise(self, config.init, outputs, self.embedding, depth)
        if self.source_embedding is not None:
            nn.init.normal_(self.source_embedding.weight, std=config.init.embedding_std)
        attention = config.attention
        assert isinstance(attention, GroupedQueryAttention)
        if not attention.qk_norm:
            # Scores begin as if divided by sqrt(head_dim), whatever they are multiplied by (T5 starts so too).
            factor = attention.head_dim**-0.5 / attention.score_scale()
            with torch.no_grad():
                for module in self.modules():
                    if factor != 1 and isinstance(module, Attention):
                        module.q_proj.weight.mul_(factor)

    def _all_blocks(self) -> list[Block | DecoderBlock]:
        blocks = [*self.encoder.blocks, *self.decoder.blocks]
        return [block for block in blocks if isinstance(block, (Block, DecoderBlock))]

    @property
    def head_weight(self) -> Tensor:
        """The weights of the head, (V, D)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def new_cache(self) -> Cache:
        """An empty memory of what was written; what was read is kept by `remember`."""
        return Cache([None] * self.config.decoder_layers)

    def choose_path(self, device: str, documents: bool = False) -> str:
        """Send attention down its road, the same on every device; says why."""
        set_path(self, "fused")
        return "attention: fused; sources of different lengths are told apart by a mask"

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What was read (B, S, D): source (B, S), of which each row has lengths (B) tokens (None: all of them)."""
        self._check(source.shape[1], "source")
        x = self._embed(source, self.source_embedding or self.embedding)
        positions = torch.arange(source.shape[1], device=source.device).unsqueeze(0)
        stack = self.encoder
        x = stack.dropout(stack.position.embed(x, positions))
        tables = stack.position.tables(positions)
        sight = Sight(
            source.shape[1],
            source.shape[1],
            source.device,
            causal=False,
            seen=_seen(source.shape[1], lengths),
            bias=stack.position.bias if stack.position.biased else None,
        )
        for block in stack.blocks:
            x = block(x, tables, sight, None)
        out: Tensor = stack.dropout(stack.norm(x))
        return out

    def remember(self, states: Tensor, lengths: Tensor | None = None) -> Memory:
        """The keys and values of what was read, for every layer that writes: once a source."""
        found = []
        for block in self.decoder.blocks:
            assert isinstance(block, DecoderBlock)
            found.append(block.cross.keys_values(states))
        return Memory(tuple(found), _seen(states.shape[1], lengths))

    def decode(self, tokens: Tensor, memory: Memory, cache: Cache | None = None) -> Tensor:
        """The last hidden states (B, T, D) of what is written, normalised and scaled, ready for the head.

        tokens (B, T) go on after what is in the cache.
        """
        start, length = 0 if cache is None else cache.length, tokens.shape[1]
        self._check(start + length, "target")
        positions = torch.arange(start, start + length, device=tokens.device).unsqueeze(0)
        stack = self.decoder
        x = stack.dropout(stack.position.embed(self._embed(tokens, self.embedding), positions))
        tables = stack.position.tables(positions)
        bias = stack.position.bias if stack.position.biased else None
        own = Sight(length, start + length, tokens.device, bias=bias)
        source = Sight(length, memory.length, tokens.device, causal=False, seen=memory.seen)
        for index, block in enumerate(stack.blocks):
            layer = None if cache is None else cache.layers[index]
            x = block(x, tables, own, layer, memory.layers[index], source)
        out: Tensor = stack.dropout(stack.norm(x))
        return out * self.head_factor if self.head_factor != 1 else out

    def hidden(self, source: Tensor, lengths: Tensor | None, tokens: Tensor) -> Tensor:
        """The last hidden states (B, T, D) of targets whose true tokens (B, T) are given, after sources (B, S)."""
        return self.decode(tokens, self.remember(self.encode(source, lengths), lengths))

    def forward(self, source: Tensor, lengths: Tensor | None, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) in float32; arguments as for `hidden`."""
        return self.logits(self.hidden(source, lengths, tokens))

    def logits(self, hidden: Tensor) -> Tensor:
        """The head: hidden states (..., D) to logits (..., V) in float32."""
        logits = F.linear(hidden, self.head_weight.to(hidden.dtype), self.head_bias).float()
        return self.logit_cap * torch.tanh(logits / self.logit_cap) if self.logit_cap else logits

    def auxiliary(self) -> Tensor | None:
        """What training adds to the loss of the last forward pass, in nats a token; asking for it takes it away."""
        found = []
        for block in self._all_blocks():
            if block.ffn.auxiliary is not None:
                found.append(block.ffn.auxiliary)
                block.ffn.auxiliary = None
        return torch.stack(found).mean() if found else None

    def _embed(self, tokens: Tensor, embedding: nn.Embedding) -> Tensor:
        x: Tensor = embedding(tokens)
        return x * self.embedding_factor if self.embedding_factor != 1 else x

    def _check(self, length: int, what: str) -> None:
        if length < 1:
            raise ValueError(f"a {what} of no tokens: there is nothing to read")
        if length > self.config.context_length:
            raise ValueError(
                f"a {what} of {length:,} tokens is longer than the context_length of {self.config.context_length:,}"
            )


def _seen(width: int, lengths: Tensor | None) -> Tensor | None:
    """(B, S): which places of sources hold a token."""
    return None if lengths is None else torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)
