"""The models of other houses in a shape of ours, each with the optimizer and the loss that its own loop uses.

nanoGPT (github.com/karpathy/nanoGPT) and nanochat (github.com/karpathy/nanochat) come from checkouts, litgpt from a
folder made by `pip install --no-deps --target FOLDER litgpt lightning lightning-utilities torchmetrics
pytorch-lightning`, `transformers` from the environment. None of their code is here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What the models have in common. A family is the parts: GPT-2's or Llama's."""

    family: str  # "gpt2": learned positions, LayerNorm, GELU; "llama": RoPE, RMSNorm, SwiGLU
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_ff: int
    context: int
    vocabulary: int

    def attention_flops(self) -> int:
        """Of a token, forwards and backwards, at the full context (the causal half is not subtracted)."""
        return 12 * self.n_layers * self.d_model * self.context


@dataclass(frozen=True)
class Peer:
    """A model that trains. `loss` is the mean of nats over (rows, context) ids and targets."""

    model: Any
    optimizer: Any
    loss: Callable[[Any, Any], Any]
    clip: float  # largest norm of the gradient; 0: its loop does not clip
    weights: int  # numbers that each token is multiplied with


def matrices(model: Any, looked_up: list[Any]) -> int:
    """Numbers in the matrices of a model, but for tables that are only looked up."""
    tables = {id(table) for table in looked_up}
    return sum(p.numel() for p in model.parameters() if p.ndim == 2 and id(p) not in tables)


def nanogpt(shape: Shape, checkout: str, compiled: bool = False) -> Peer:
    """GPT-2's parts, tied head, AdamW at the rates of its README's recipe for processors."""
    import torch

    sys.path.insert(0, checkout)
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    with contextlib.redirect_stdout(io.StringIO()):
        model = GPT(
            GPTConfig(
                block_size=shape.context,
                vocab_size=shape.vocabulary,
                n_layer=shape.n_layers,
                n_head=shape.n_heads,
                n_embd=shape.d_model,
                dropout=0.0,
                bias=False,
            )
        )
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    weights = matrices(model, [model.transformer.wpe.weight])
    run = torch.compile(model) if compiled else model
    return Peer(model, optimizer, lambda x, y: run(x, y)[1], 1.0, weights)


def nanochat(shape: Shape, checkout: str, rate: float = 1.0) -> Peer:
    """Its own parts on the same trunk (untied head, value embeddings, ReLU² of 4 x width), Muon and AdamW with every
    learning rate multiplied; full attention, as its script for processors has it. Its optimizer's kernels are compiled.
    """
    import torch

    sys.path.insert(0, checkout)
    from nanochat.gpt import GPT, GPTConfig  # type: ignore[import-not-found]

    logging.getLogger("nanochat").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        config = GPTConfig(
            sequence_len=shape.context,
            vocab_size=shape.vocabulary,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            n_kv_head=shape.n_kv_heads,
            n_embd=shape.d_model,
            window_pattern="L",
        )
        with torch.device("meta"):
            model = GPT(config)
        model.to_empty(device="cpu")
        model.init_weights()
        # The rates of its training script, multiplied.
        optimizer = model.setup_optimizer(
            unembedding_lr=0.008 * rate,
            embedding_lr=0.3 * rate,
            scalar_lr=0.5 * rate,
            matrix_lr=0.02 * rate,
            weight_decay=0.0,
        )
    looked_up = [model.transformer.wte.weight, *(table.weight for table in model.value_embeds.values())]
    return Peer(model, optimizer, model, 0.0, matrices(model, looked_up))


def transformers(shape: Shape, rate: float = 1e-3, dropout: float = 0.0) -> Peer:
    """GPT-2's or Llama's class with fused AdamW and clipping at 1, as the library's Trainer has it."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    if shape.family == "llama":
        config: Any = LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.d_model,
            intermediate_size=shape.d_ff,
            num_hidden_layers=shape.n_layers,
            num_attention_heads=shape.n_heads,
            num_key_value_heads=shape.n_kv_heads,
            max_position_embeddings=shape.context,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
        )
    else:
        config = GPT2Config(
            vocab_size=shape.vocabulary,
            n_positions=shape.context,
            n_embd=shape.d_model,
            n_layer=shape.n_layers,
            n_head=shape.n_heads,
            n_inner=shape.d_ff,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=0,
            eos_token_id=0,
        )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1, fused=True)

    def loss(x: Any, y: Any) -> Any:
        return model(input_ids=x, labels=y, shift_labels=y, use_cache=False).loss

    looked_up = [] if shape.family == "llama" else [model.transformer.wpe.weight]
    # GPT-2's class stores its matrices the other way round; the count is the same.
    return Peer(model, optimizer, loss, 1.0, matrices(model, looked_up))


def litgpt(shape: Shape, folder: str) -> Peer:
    """Its GPT with the MLP and norm of the family (positions are always RoPE), tied head, its chunked loss, AdamW."""
    import torch

    sys.path.insert(0, folder)
    from litgpt.config import Config  # type: ignore[import-not-found]
    from litgpt.model import GPT  # type: ignore[import-not-found]
    from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found]

    llama = shape.family == "llama"
    config = Config(
        block_size=shape.context,
        vocab_size=shape.vocabulary,
        padded_vocab_size=shape.vocabulary,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_query_groups=shape.n_kv_heads,
        n_embd=shape.d_model,
        intermediate_size=shape.d_ff,
        norm_class_name="RMSNorm" if llama else "LayerNorm",
        mlp_class_name="LLaMAMLP" if llama else "GptNeoxMLP",
        bias=False,
        parallel_residual=False,
        rotary_percentage=1.0,
    )
    model = GPT(config)
    model.transformer.wte.weight = model.lm_head.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1, betas=(0.9, 0.95))
    return Peer(model, optimizer, lambda x, y: chunked_cross_entropy(model(x), y), 1.0, matrices(model, []))


def train(peer: Peer, x: Any, y: Any) -> float:
    """One step; returns the loss."""
    import torch

    loss = peer.loss(x, y)
    loss.backward()
    if peer.clip:
        torch.nn.utils.clip_grad_norm_(peer.model.parameters(), peer.clip)
    peer.optimizer.step()
    peer.optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())
