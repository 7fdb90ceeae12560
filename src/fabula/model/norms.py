"""How is an activation brought to unit scale? LayerNorm and RMSNorm, each a config beside its module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fabula.config import setting
from fabula.registry import Registry

norms: Registry[type[NormConfig]] = Registry("norm")


@dataclass(frozen=True, kw_only=True, slots=True)
class NormConfig:
    """What every norm answers."""

    variants: ClassVar[Registry[type[NormConfig]]] = norms

    eps: float = setting(1e-6, "added under the root")

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ValueError(f"eps={self.eps} must be above 0")

    def n_params(self, d_model: int) -> int:
        raise NotImplementedError

    def build(self, d_model: int) -> nn.Module:
        raise NotImplementedError


@norms.register("layernorm")
@dataclass(frozen=True, kw_only=True, slots=True)
class LayerNormConfig(NormConfig):
    """Mean 0 and variance 1 over the width, then scale and shift (arXiv:1607.06450)."""

    eps: float = setting(1e-5, "added under the root")
    bias: bool = setting(True, "learn a shift")

    def n_params(self, d_model: int) -> int:
        return 2 * d_model if self.bias else d_model

    def build(self, d_model: int) -> nn.Module:
        return nn.LayerNorm(d_model, eps=self.eps, bias=self.bias)


@norms.register("rmsnorm")
@dataclass(frozen=True, kw_only=True, slots=True)
class RMSNormConfig(NormConfig):
    """Root mean square 1 over the width, then scale (arXiv:1910.07467)."""

    centred: bool = setting(False, "scale by 1 + weight, the weight starting at 0 (Gemma): decay pulls towards 1")

    def n_params(self, d_model: int) -> int:
        return d_model

    def build(self, d_model: int) -> nn.Module:
        return RMSNorm(d_model, self.eps, self.centred)


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, computed in float32 whatever the input's format.

    The scale is the weight, or 1 + weight when it is centred.
    """

    def __init__(self, width: int, eps: float, centred: bool = False) -> None:
        super().__init__()
        self.eps, self.centred = eps, centred
        self.weight = nn.Parameter(torch.zeros(width) if centred else torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 + self.weight.float() if self.centred else self.weight.float()
        out: Tensor = _RMSNormFunction.apply(x.float(), scale, self.eps)  # type: ignore[no-untyped-call]
        return out.to(x.dtype)


def rms_norm_explicit(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The readable twin of the function below."""
    return x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * weight


class _RMSNormFunction(torch.autograd.Function):
    """RMSNorm with its gradient by hand: on a CPU torch composes it of many passes, this takes half the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        scale = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad,) = grad_outputs
        x, scale, weight = ctx.saved_tensors
        unit = x * scale
        product = grad * unit
        rows = product.flatten(0, -2)
        grad_weight = rows.sum(dim=0)
        # The part of the gradient along the unit vector is what normalising takes away.
        along = torch.mv(rows, weight).view(scale.shape).div_(unit.shape[-1])
        # In the memory of the product, which is in the cache and has done its work.
        grad_x = torch.mul(grad, weight, out=product).addcmul_(unit, along, value=-1).mul_(scale)
        return grad_x, grad_weight, None
