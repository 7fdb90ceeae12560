"""How do gradients become steps? AdamW and Muon, and the rule that sorts parameters into groups.

The rule: matrices inside blocks are decayed (and are Muon's when it is chosen); embeddings, heads, norms and biases
are neither decayed nor given to Muon. Every optimizer keeps its state in float32. torch is imported when one is
built, so that help stays quick; Muon itself is in `muon.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fabula.config import setting
from fabula.registry import Registry

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

optimizers: Registry[type[OptimizerConfig]] = Registry("optimizer")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """What every optimizer answers. Rates are peaks: the schedule multiplies them."""

    variants: ClassVar[Registry[type[OptimizerConfig]]] = optimizers

    def build(self, model: nn.Module) -> list[Optimizer]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Groups:
    """Parameters by their role in the model, each with its name."""

    matrices: list[tuple[str, nn.Parameter]]  # two-dimensional weights of linears inside the blocks
    tables: list[tuple[str, nn.Parameter]]  # embeddings and heads
    vectors: list[tuple[str, nn.Parameter]]  # norms' scales, biases


def group_parameters(model: nn.Module) -> Groups:
    """Sort a model's trained parameters by the kind of module that owns them, each parameter once."""
    from torch import nn

    groups = Groups([], [], [])
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            full = f"{module_name}.{name}" if module_name else name
            if parameter.ndim < 2:
                groups.vectors.append((full, parameter))
            elif isinstance(module, nn.Embedding) or module_name == "head":
                groups.tables.append((full, parameter))
            else:
                groups.matrices.append((full, parameter))
    return groups


@optimizers.register("adamw")
@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWConfig(OptimizerConfig):
    """Adam with decoupled weight decay (arXiv:1711.05101), in one fused pass where torch has it."""

    lr: float = setting(3e-3, "peak learning rate")
    beta1: float = setting(0.9, "decay of the mean of gradients")
    beta2: float = setting(0.95, "decay of the mean of squared gradients")
    eps: float = setting(1e-8, "added to the root")
    weight_decay: float = setting(0.1, "decay of matrices; embeddings, norms and biases are not decayed")

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.beta1, self.beta2, self.weight_decay, self.eps)

    def build(self, model: nn.Module) -> list[Optimizer]:
        groups = group_parameters(model)
        return [
            _adamw(
                [
                    (groups.matrices, self.lr, self.weight_decay),
                    (groups.tables + groups.vectors, self.lr, 0.0),
                ],
                (self.beta1, self.beta2),
                self.eps,
            )
        ]


@optimizers.register("muon")
@dataclass(frozen=True, kw_only=True, slots=True)
class MuonConfig(OptimizerConfig):
    """Muon for the matrices of the blocks, AdamW for everything else (see `Muon`)."""

    lr: float = setting(0.02, "peak learning rate of the matrices")
    momentum: float = setting(0.95, "Nesterov momentum")
    ns_steps: int = setting(5, "Newton-Schulz iterations")
    weight_decay: float = setting(0.0, "decay of the matrices, only where update and weight agree in sign")
    table_lr: float = setting(6e-3, "peak learning rate of embeddings and head (AdamW)")
    vector_lr: float = setting(6e-3, "peak learning rate of norms and biases (AdamW)")
    beta1: float = setting(0.9, "AdamW: decay of the mean of gradients")
    beta2: float = setting(0.95, "AdamW: decay of the mean of squared gradients")
    eps: float = setting(1e-8, "AdamW: added to the root")

    def __post_init__(self) -> None:
        _check_rates(self.lr, self.beta1, self.beta2, self.weight_decay, self.eps)
        for name in ("table_lr", "vector_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must be at least 0 and below 1")
        if self.ns_steps < 1:
            raise ValueError(f"ns_steps={self.ns_steps} must be at least 1")

    def build(self, model: nn.Module) -> list[Optimizer]:
        from fabula.train.muon import Muon

        groups = group_parameters(model)
        built: list[Optimizer] = []
        if groups.matrices:
            built.append(
                Muon(
                    [p for _, p in groups.matrices],
                    lr=self.lr,
                    momentum=self.momentum,
                    ns_steps=self.ns_steps,
                    weight_decay=self.weight_decay,
                )
            )
        built.append(
            _adamw(
                [(groups.tables, self.table_lr, 0.0), (groups.vectors, self.vector_lr, 0.0)],
                (self.beta1, self.beta2),
                self.eps,
            )
        )
        return built


def _check_rates(lr: float, beta1: float, beta2: float, weight_decay: float, eps: float) -> None:
    if not lr > 0:
        raise ValueError(f"lr={lr} must be above 0")
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise ValueError(f"{name}={beta} must be at least 0 and below 1")
    if weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay} must be at least 0")
    if eps < 0:
        raise ValueError(f"eps={eps} must be at least 0")


def _adamw(
    groups: list[tuple[list[tuple[str, nn.Parameter]], float, float]], betas: tuple[float, float], eps: float
) -> Optimizer:
    import torch

    tables: list[dict[str, Any]] = [
        {"params": [p for _, p in parameters], "lr": lr, "weight_decay": decay}
        for parameters, lr, decay in groups
        if parameters
    ]
    return torch.optim.AdamW(tables, betas=betas, eps=eps, fused=True)
