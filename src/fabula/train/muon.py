"""Muon: momentum whose update is made orthogonal, for the matrices of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fabula.train.decay import decay


class Muon(Optimizer):
    """Momentum whose update is replaced by the nearest semi-orthogonal matrix (Jordan et al., 2024; arXiv:2502.16982).

    Matrices of equal shape are orthogonalised together in one batched product. Newton-Schulz runs in bfloat16 on a GPU
    and in float32 on a CPU. torch has a Muon as well: one matrix at a time and always in bfloat16, which is 36 times
    slower here; a test holds both equal. The update is scaled by sqrt(max(1, rows / columns)), as in the original. A
    matrix that is spread over processes (DTensor) is gathered first: its parts have other singular vectors.

    `deal` may share out the matrices of a batch: it is given the batch and what is to be done with each part of it.
    """

    deal: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]

    def __init__(
        self,
        params: Iterable[Any],
        momentum: float,
        ns_steps: int,
        lr: float = 0.0,
        weight_decay: float = 0.0,
        cautious: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "ns_steps": ns_steps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "cautious": cautious})
        self.deal = lambda matrices, work: work(matrices)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    # A wide matrix is its own tall transpose to Newton-Schulz: both join one batch.
                    by_shape.setdefault(tuple(sorted(p.shape)), []).append(p)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        directions = []
        for p in parameters:
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            mean: Tensor = state["momentum"]
            assert p.grad is not None
            mean.lerp_(p.grad, 1 - group["momentum"])
            nesterov = _gathered(p.grad.lerp(mean, group["momentum"]))
            directions.append(nesterov.t() if p.shape[0] > p.shape[1] else nesterov)
        steps = group["ns_steps"]
        orthogonal = self.deal(torch.stack(directions), lambda matrices: orthogonalise(matrices, steps))
        for p, direction in zip(parameters, orthogonal, strict=True):
            update = _spread_as(p, direction.t() if p.shape[0] > p.shape[1] else direction)
            scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
            decay(p, update, group["lr"] * group["weight_decay"], group["cautious"])
            p.sub_(update.to(p.dtype), alpha=group["lr"] * scale)


def _gathered(tensor: Tensor) -> Tensor:
    """A whole tensor, whether it is spread over processes or not."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _spread_as(like: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor, which every process has, spread as `like` is."""
    if not hasattr(like, "device_mesh"):
        return whole
    # Here, because it takes a second to import and one process has no use for it.
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(like, DTensor)
    everywhere = [Replicate()] * like.device_mesh.ndim
    return DTensor.from_local(whole, like.device_mesh, everywhere).redistribute(placements=like.placements)


def orthogonalise(matrices: Tensor, steps: int) -> Tensor:
    """Bring the singular values of each matrix near 1, singular vectors kept; matrices (batch, rows <= columns).

    Newton-Schulz with the quintic of Jordan et al. (2024), whose fixed band is about 0.7 to 1.2; exactness does not
    pay.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x.to(matrices.dtype)
