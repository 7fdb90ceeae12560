"""Norms against their readable twin, finite differences and by hand."""

from __future__ import annotations

import pytest
import torch

from fabula.model.norms import LayerNormConfig, RMSNorm, RMSNormConfig, _RMSNormFunction, rms_norm_explicit


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (2, 3, 4, 8), (1, 1)], ids=str)
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_rms_norm_is_its_explicit_twin(shape: tuple[int, ...], eps: float) -> None:
    torch.manual_seed(0)
    weight, slope = torch.randn(shape[-1]), torch.randn(shape)
    results = []
    for fast in (True, False):
        x = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3).requires_grad_()
        w = weight.clone().requires_grad_()
        out = _RMSNormFunction.apply(x, w, eps) if fast else rms_norm_explicit(x, w, eps)
        (out * slope).sum().backward()
        results.append((out, x.grad, w.grad))
    for fast_one, explicit in zip(*results, strict=True):
        torch.testing.assert_close(fast_one, explicit, rtol=1e-5, atol=1e-5)


def test_rms_norm_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: _RMSNormFunction.apply(a, b, 1e-3), (x, weight))


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    """The gradient written by hand takes what the forward pass kept for constants."""
    x = torch.randn(2, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(RMSNorm(4, 1e-6)(x).square().sum() + x.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()


def test_by_hand() -> None:
    norm = RMSNorm(2, 0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
    # rms(3, 4) = sqrt(25 / 2)
    torch.testing.assert_close(norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 8.0]]) / 12.5**0.5)


@pytest.mark.parametrize("made", [RMSNormConfig(), LayerNormConfig(), LayerNormConfig(bias=False)], ids=str)
def test_the_scale_of_the_input_is_taken_away(made: RMSNormConfig | LayerNormConfig) -> None:
    torch.manual_seed(0)
    norm, x = made.build(16), torch.randn(4, 16)
    torch.testing.assert_close(norm(x), norm(x * 100), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm(x).square().mean(dim=-1), torch.ones(4), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 1e-20, 1e15])
def test_extreme_inputs_stay_finite(value: float) -> None:
    norm = RMSNorm(8, 1e-6)
    x = torch.full((2, 8), value, requires_grad=True)
    out = norm(x)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_half_formats_are_normalised_in_float32() -> None:
    """300 squared is beyond float16: in that format the mean of squares would be infinite."""
    norm = RMSNorm(8, 1e-6)
    x = torch.full((1, 8), 300.0, dtype=torch.float16)
    assert norm(x).dtype == torch.float16
    torch.testing.assert_close(norm(x).float(), torch.ones(1, 8), rtol=1e-3, atol=1e-3)
    half = norm.half()
    torch.testing.assert_close(half(x).float(), torch.ones(1, 8), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("eps", [0.0, -1e-6])
def test_eps_must_be_positive(eps: float) -> None:
    for cls in (RMSNormConfig, LayerNormConfig):
        with pytest.raises(ValueError, match="must be above 0"):
            cls(eps=eps)
