"""Our parts give torch's numbers: attention, norms, feed-forward, loss, and a whole pre-norm layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fabula.losses import linear_cross_entropy
from fabula.model.attention import GroupedQueryAttention, attend_explicit
from fabula.model.block import Block, Placement
from fabula.model.ffn import GegluFFN, GeluFFN, GluFFN, ReluFFN, SquaredReluFFN, SwigluFFN
from fabula.model.masks import Sight, causal
from fabula.model.norms import LayerNormConfig, RMSNormConfig


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("bias", [True, False])
def test_multi_head_attention(bias: bool) -> None:
    reference = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True)
    ours = GroupedQueryAttention(
        n_heads=3, n_kv_heads=3, head_dim=4, q_bias=bias, k_bias=bias, v_bias=bias, out_bias=bias
    ).build(12)
    with torch.no_grad():
        for name, part in zip(("q_proj", "k_proj", "v_proj"), range(3), strict=True):
            getattr(ours, name).weight.copy_(reference.in_proj_weight[12 * part : 12 * (part + 1)])
        ours.out_proj.weight.copy_(reference.out_proj.weight)
        if bias:
            reference.in_proj_bias.normal_()
            reference.out_proj.bias.normal_()
            for name, part in zip(("q_proj", "k_proj", "v_proj"), range(3), strict=True):
                getattr(ours, name).bias.copy_(reference.in_proj_bias[12 * part : 12 * (part + 1)])
            ours.out_proj.bias.copy_(reference.out_proj.bias)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in reference.parameters())
    x = torch.randn(2, 7, 12)
    expected, _ = reference(x, x, x, attn_mask=~causal(7, 7), need_weights=False)
    close(ours(x, None, None, None), expected)


def test_scaled_dot_product_attention_with_groups() -> None:
    q, k, v = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    close(
        attend_explicit(q, k, v, Sight(5, 5), 0.5),
        F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
    )
    sight = Sight(5, 5, documents=torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]]))
    masked = F.scaled_dot_product_attention(q, k, v, attn_mask=sight.allowed(), enable_gqa=True)
    close(attend_explicit(q, k, v, sight, 0.5), masked)


@pytest.mark.parametrize("eps", [1e-6, 1e-3])
def test_norms(eps: float) -> None:
    x, weight = torch.randn(3, 4, 10, requires_grad=True), torch.randn(10)
    slope = torch.randn(3, 4, 10)
    for ours, reference in (
        (RMSNormConfig(eps=eps).build(10), nn.RMSNorm(10, eps=eps)),
        (LayerNormConfig(eps=eps).build(10), nn.LayerNorm(10, eps=eps)),
    ):
        grads = []
        for norm in (ours, reference):
            with torch.no_grad():
                norm.weight.copy_(weight)
            x.grad = None
            out = norm(x)
            (out * slope).sum().backward()
            grads.append((out, x.grad, norm.weight.grad))
        for a, b in zip(*grads, strict=True):
            close(a, b)


def test_feed_forward_networks() -> None:
    x = torch.randn(2, 3, 6)
    for made, activation in (
        (ReluFFN(d_ff=9, bias=True), nn.ReLU()),
        (GeluFFN(d_ff=9, bias=True), nn.GELU("tanh")),
        (GeluFFN(d_ff=9, bias=True, tanh=False), nn.GELU()),
    ):
        ours = made.build(6)
        reference = nn.Sequential(nn.Linear(6, 9), activation, nn.Linear(9, 6))
        reference.load_state_dict(dict(zip(reference.state_dict(), ours.state_dict().values(), strict=True)))
        close(ours(x), reference(x))
    squared = SquaredReluFFN(d_ff=9).build(6)
    up, down = (squared.get_submodule(n).weight for n in ("up", "down"))
    close(squared(x), (x @ up.t()).clamp(min=0).pow(2) @ down.t())
    for made, activate in (
        (SwigluFFN(d_ff=9), F.silu),
        (GluFFN(d_ff=9), torch.sigmoid),
        (GegluFFN(d_ff=9), lambda z: F.gelu(z, approximate="tanh")),
        (GegluFFN(d_ff=9, tanh=False), F.gelu),
    ):
        gated = made.build(6)
        gate, up, down = (gated.get_submodule(n).weight for n in ("gate", "up", "down"))
        close(gated(x), (activate(x @ gate.t()) * (x @ up.t())) @ down.t())


def test_a_gated_linear_unit_is_torchs() -> None:
    x = torch.randn(2, 3, 6)
    ours = GluFFN(d_ff=9).build(6)
    gate, up, down = (ours.get_submodule(n).weight for n in ("gate", "up", "down"))
    close(ours(x), F.linear(F.glu(F.linear(x, torch.cat((up, gate)))), down))


def test_a_centred_norm_scales_by_one_plus_its_weight() -> None:
    x, weight = torch.randn(2, 3, 6), torch.randn(6)
    ours, reference = RMSNormConfig(eps=1e-5, centred=True).build(6), nn.RMSNorm(6, eps=1e-5)
    close(ours(x), reference(x))  # as they start
    with torch.no_grad():
        ours.weight.copy_(weight)
        reference.weight.copy_(1 + weight)
    close(ours(x), reference(x))


def test_cross_entropy() -> None:
    hidden, weight, bias = torch.randn(30, 5), torch.randn(11, 5), torch.randn(11)
    targets = torch.randint(0, 11, (30,))
    targets[::4] = -100
    ours = linear_cross_entropy(hidden, weight, targets, bias)
    close(ours, F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum"))
    counted = int((targets != -100).sum())
    close(ours / counted, F.cross_entropy(F.linear(hidden, weight, bias), targets))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_layer_is_torchs_encoder_layer(activation: str, placement: Placement) -> None:
    reference = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, activation=activation, batch_first=True, norm_first=placement == "pre"
    )
    attention = GroupedQueryAttention(
        n_heads=3, n_kv_heads=3, head_dim=4, q_bias=True, k_bias=True, v_bias=True, out_bias=True
    )
    ffn = ReluFFN(d_ff=20, bias=True) if activation == "relu" else GeluFFN(d_ff=20, bias=True, tanh=False)
    ours = Block(12, attention, ffn, LayerNormConfig(), placement, 0.0)
    theirs = reference.state_dict()
    weights, biases = theirs["self_attn.in_proj_weight"].chunk(3), theirs["self_attn.in_proj_bias"].chunk(3)
    names = {
        "attention.out_proj": "self_attn.out_proj",
        "attention_norm": "norm1",
        "ffn_norm": "norm2",
        "ffn.up": "linear1",
        "ffn.down": "linear2",
    }
    state = {f"{a}.{p}": theirs[f"{b}.{p}"] for a, b in names.items() for p in ("weight", "bias")}
    for i, name in enumerate(("q", "k", "v")):
        state |= {f"attention.{name}_proj.weight": weights[i], f"attention.{name}_proj.bias": biases[i]}
    ours.load_state_dict(state)
    x = torch.randn(2, 6, 12)
    close(ours(x, None, None, None), reference(x, src_mask=~causal(6, 6)))
