"""The encoder-decoder against the field's T5: the same weights, the same logits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fabula.model.attention import GroupedQueryAttention
from fabula.model.encdec import EncoderDecoder, EncoderDecoderConfig
from fabula.model.ffn import GegluFFN
from fabula.model.norms import RMSNormConfig
from fabula.model.positions import RelativePositions

CONFIG = EncoderDecoderConfig(
    vocab_size=61,
    context_length=64,
    d_model=32,
    encoder_layers=2,
    decoder_layers=3,
    attention=GroupedQueryAttention(n_heads=4, n_kv_heads=4, head_dim=16, scale=1.0),
    position=RelativePositions(n_buckets=8, max_distance=20),
    ffn=GegluFFN(d_ff=48, tanh=True),
    norm=RMSNormConfig(eps=1e-6),
    tied=True,
    head_scale="inverse_sqrt_width",
)

_PARTS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}


def named_as_t5(model: EncoderDecoder) -> dict[str, Tensor]:
    """Our weights under the names of T5."""
    found = {"shared.weight": model.embedding.weight, "lm_head.weight": model.head_weight}
    for side in ("encoder", "decoder"):
        stack = getattr(model, side)
        found[f"{side}.embed_tokens.weight"] = model.embedding.weight
        found[f"{side}.final_layer_norm.weight"] = stack.norm.weight
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found[bias] = stack.position.table.weight
        for index, block in enumerate(stack.blocks):
            layer = f"{side}.block.{index}.layer"
            parts = [("attention", "SelfAttention", 0)] + (
                [("cross", "EncDecAttention", 1)] if side == "decoder" else []
            )
            for ours, theirs, place in parts:
                found[f"{layer}.{place}.layer_norm.weight"] = getattr(block, f"{ours}_norm").weight
                for name, short in _PARTS.items():
                    found[f"{layer}.{place}.{theirs}.{short}.weight"] = getattr(getattr(block, ours), name).weight
            last = len(parts)
            found[f"{layer}.{last}.layer_norm.weight"] = block.ffn_norm.weight
            for name, theirs in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
                found[f"{layer}.{last}.DenseReluDense.{theirs}.weight"] = getattr(block.ffn, name).weight
    return {name: weight.detach() for name, weight in found.items()}


@pytest.mark.parametrize("scaled", [True, False])
@torch.no_grad()
def test_the_logits_are_those_of_t5(scaled: bool) -> None:
    """transformers 5 always ties T5's head; what its `tie_word_embeddings` says is whether hidden states are scaled."""
    transformers = pytest.importorskip("transformers")
    config = CONFIG if scaled else dataclasses.replace(CONFIG, head_scale=1.0)
    torch.manual_seed(0)
    ours = EncoderDecoder(config).eval()
    for parameter in ours.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))
    theirs = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=61,
            d_model=32,
            d_kv=16,
            d_ff=48,
            num_layers=2,
            num_decoder_layers=3,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=20,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=scaled,
            layer_norm_epsilon=1e-6,
        )
    ).eval()
    loaded = theirs.load_state_dict(named_as_t5(ours), strict=False)
    assert not loaded.unexpected_keys
    assert not loaded.missing_keys
    generator = torch.Generator().manual_seed(1)
    source, tokens = (torch.randint(0, 61, (3, n), generator=generator) for n in (40, 33))
    lengths = torch.tensor([40, 3, 17])
    mask = (torch.arange(40) < lengths.unsqueeze(1)).long()
    expected = theirs(input_ids=source, attention_mask=mask, decoder_input_ids=tokens).logits
    found = ours(source, lengths, tokens)
    assert float(found.std()) > 0.1, "logits that are all alike would show little"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
