"""How do gradients become steps? The settings of every optimizer, and the rule that sorts parameters into groups.

The rule: matrices inside blocks are decayed (and are Muon's when it is chosen); embeddings and heads are decayed only
when that is asked for, norms and biases never. Rates may follow the width of the model (muP). Weights are float32 and
so is every optimizer's state. torch is imported when an optimizer is built, so that help stays quick; the updates
that torch does not have are in `muon.py`, `lion.py`, `sophia.py` and `adafactor.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from fabula.config import setting
from fabula.registry import Registry

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

optimizers: Registry[type[OptimizerConfig]] = Registry("optimizer")

# What torch's fused kernels run on; elsewhere its plain ones do.
_FUSED = ("cpu", "cuda", "mps", "xpu")

# How the rate of a role goes with the model's width, as a power of it: table 3 of arXiv:2203.03466 for optimizers whose
# update has the same size whatever the gradient's. An embedding that is the head as well counts as an embedding.
_ADAM = MappingProxyType({"matrices": -1.0, "heads": -1.0, "embeddings": 0.0, "vectors": 0.0})


@dataclass(frozen=True, slots=True)
class Groups:
    """Parameters by their role in the model, each with its name."""

    matrices: list[tuple[str, nn.Parameter]]  # two-dimensional weights of linears inside the blocks
    embeddings: list[tuple[str, nn.Parameter]]
    heads: list[tuple[str, nn.Parameter]]  # of their own, not tied to an embedding
    vectors: list[tuple[str, nn.Parameter]]  # norms' scales, biases

    @property
    def tables(self) -> list[tuple[str, nn.Parameter]]:
        """Whatever has a row for each word or place."""
        return self.embeddings + self.heads


_ROLES = tuple(field.name for field in dataclasses.fields(Groups))


def group_parameters(model: nn.Module) -> Groups:
    """Sort a model's trained parameters by the kind of module that owns them, each parameter once.

    ValueError when one is not float32: small steps on coarser numbers are lost to rounding.
    """
    import torch
    from torch import nn

    groups = Groups([], [], [], [])
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            full = f"{module_name}.{name}" if module_name else name
            if parameter.dtype != torch.float32:
                raise ValueError(f"{full} is {parameter.dtype}; weights that are trained are float32")
            if parameter.ndim < 2:
                groups.vectors.append((full, parameter))
            elif isinstance(module, nn.Embedding):
                groups.embeddings.append((full, parameter))
            elif module_name == "head":
                groups.heads.append((full, parameter))
            else:
                groups.matrices.append((full, parameter))
    return groups


# ---- what all have -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """What every optimizer answers. Rates are peaks: the schedule multiplies them."""

    variants: ClassVar[Registry[type[OptimizerConfig]]] = optimizers

    # Powers of the width by role, and the share of a step's work that comes on top of the usual one now and then.
    powers: ClassVar[Mapping[str, float]] = _ADAM

    lr: float = setting(1e-3, "peak learning rate")
    weight_decay: float = setting(0.0, "decay of matrices; norms and biases are never decayed")
    decay_tables: bool = setting(False, "embeddings and heads are decayed too")
    base_width: int = setting(0, "the d_model that the rates are for; another width scales them (muP); 0: as given")

    def __post_init__(self) -> None:
        for name, rate in self.rates().items():
            if not rate > 0:
                raise ValueError(f"{name}={rate} must be above 0")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0")
        if self.base_width < 0:
            raise ValueError(f"base_width={self.base_width} must be at least 0 (0 leaves the rates as they are)")
        for name in ("momentum", "beta1", "beta2"):
            share = getattr(self, name, 0.0)
            if not 0 <= share < 1:
                raise ValueError(f"{name}={share} must be at least 0 and below 1")
        if getattr(self, "eps", 0.0) < 0:
            raise ValueError(f"eps={getattr(self, 'eps', 0.0)} must be at least 0")

    def build(self, model: nn.Module) -> list[Optimizer]:
        """Optimizers that together move every trained parameter of a model."""
        raise NotImplementedError

    def rates(self) -> dict[str, float]:
        """Every setting that is a learning rate."""
        names = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name == "lr" or name.endswith("_lr")}

    def scaled(self, factor: float) -> Self:
        """The same optimizer with all of its rates multiplied."""
        return dataclasses.replace(self, **cast(Any, {name: rate * factor for name, rate in self.rates().items()}))

    @property
    def extra_work(self) -> float:
        """Work beside the usual steps, as a share of theirs."""
        return 0.0

    def width_factor(self, role: str, width: int) -> float:
        """What the rate of a role is multiplied by in a model of that width."""
        return (width / self.base_width) ** self.powers[role] if self.base_width else 1.0

    def notes(self, width: int) -> list[str]:
        """What a watcher should know of the rates in a model of that width."""
        factors = {role: self.width_factor(role, width) for role in _ROLES}
        told = ", ".join(f"{role} x {factor:.4g}" for role, factor in factors.items() if factor != 1)
        return [f"train.optimizer: rates for width {self.base_width:,} in a model of {width:,}: {told}"] if told else []

    def _rate(self, role: str) -> float:
        """The peak rate of a role, before the width is looked at."""
        return self.lr

    def _tables(self, model: nn.Module, roles: tuple[str, ...] = _ROLES) -> list[dict[str, Any]]:
        """torch's parameter groups, one for each role that has parameters."""
        groups = group_parameters(model)
        width = cast(Any, model).config.d_model if self.base_width else 0
        decayed = {"matrices", *(("embeddings", "heads") if self.decay_tables else ())}
        return [
            {
                "params": [parameter for _, parameter in getattr(groups, role)],
                "lr": self._rate(role) * self.width_factor(role, width),
                "weight_decay": self.weight_decay if role in decayed else 0.0,
            }
            for role in roles
            if getattr(groups, role)
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoupledConfig(OptimizerConfig):
    """An optimizer whose decay does not pass through the gradient (arXiv:1711.05101): weights shrink by rate x decay.

    Cautious decay (arXiv:2510.12402) acts only on those that the update pulls towards zero as well.
    """

    cautious: bool = setting(False, "decay only where it pulls the way of the update")


# ---- of torch ----------------------------------------------------------------------------------------------


@optimizers.register("adamw")
@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWConfig(DecoupledConfig):
    """Adam whose weight decay does not pass through the gradient.

    arXiv:1711.05101; torch's, in one fused pass where it has one.
    """

    lr: float = setting(3e-3, "peak learning rate")
    weight_decay: float = setting(0.1, "decay of matrices; norms and biases are never decayed")
    beta1: float = setting(0.9, "decay of the mean of gradients")
    beta2: float = setting(0.95, "decay of the mean of squared gradients")
    eps: float = setting(1e-8, "added to the root")

    def build(self, model: nn.Module) -> list[Optimizer]:
        return [_adamw(self._tables(model), (self.beta1, self.beta2), self.eps, self.cautious)]


@optimizers.register("adam")
@dataclass(frozen=True, kw_only=True, slots=True)
class AdamConfig(OptimizerConfig):
    """Adam; weight decay is L2, added to the gradient.

    arXiv:1412.6980; torch's.
    """

    lr: float = setting(3e-3, "peak learning rate")
    beta1: float = setting(0.9, "decay of the mean of gradients")
    beta2: float = setting(0.95, "decay of the mean of squared gradients")
    eps: float = setting(1e-8, "added to the root")

    def build(self, model: nn.Module) -> list[Optimizer]:
        import torch

        tables = self._tables(model)
        return [torch.optim.Adam(tables, betas=(self.beta1, self.beta2), eps=self.eps, fused=_fused(tables))]


@optimizers.register("sgd")
@dataclass(frozen=True, kw_only=True, slots=True)
class SgdConfig(OptimizerConfig):
    """Gradient descent with momentum; weight decay is L2.

    torch's; the momentum is Nesterov's or plain.
    """

    # Table 3 of arXiv:2203.03466: without Adam's division the rates of what does not multiply the width grow with it.
    powers: ClassVar[Mapping[str, float]] = MappingProxyType(
        {"matrices": 0.0, "heads": -1.0, "embeddings": 1.0, "vectors": 1.0}
    )

    lr: float = setting(0.3, "peak learning rate")
    momentum: float = setting(0.9, "share of the last step that is taken again; 0: none")
    nesterov: bool = setting(True, "look ahead along the momentum")

    def build(self, model: nn.Module) -> list[Optimizer]:
        import torch

        tables = self._tables(model)
        ahead = self.nesterov and self.momentum > 0
        # torch's fused pass of this one does not take weights that are spread over processes (DTensor).
        spread = any(hasattr(p, "device_mesh") for table in tables for p in table["params"])
        fused = _fused(tables) and not spread
        return [torch.optim.SGD(tables, momentum=self.momentum, nesterov=ahead, fused=fused)]


# ---- our own -----------------------------------------------------------------------------------------------


@optimizers.register("lion")
@dataclass(frozen=True, kw_only=True, slots=True)
class LionConfig(DecoupledConfig):
    """The sign of a momentum: half of Adam's state.

    arXiv:2302.06675, which says: a third to a tenth of AdamW's rate, and as much more decay.
    """

    lr: float = setting(1e-3, "peak learning rate")
    weight_decay: float = setting(0.3, "decay of matrices; norms and biases are never decayed")
    beta1: float = setting(0.9, "share of the momentum in an update")
    beta2: float = setting(0.99, "decay of the momentum")

    def build(self, model: nn.Module) -> list[Optimizer]:
        from fabula.train.lion import Lion

        return [Lion(self._tables(model), beta1=self.beta1, beta2=self.beta2, cautious=self.cautious)]


@optimizers.register("muon")
@dataclass(frozen=True, kw_only=True, slots=True)
class MuonConfig(DecoupledConfig):
    """Orthogonal updates for matrices, AdamW for the rest.

    Jordan et al. (2024), arXiv:2502.16982; see `Muon`.
    """

    # An orthogonal update changes a matrix's outputs as much at any width (arXiv:2310.17813).
    powers: ClassVar[Mapping[str, float]] = MappingProxyType({**_ADAM, "matrices": 0.0})

    lr: float = setting(0.02, "peak learning rate of the matrices")
    weight_decay: float = setting(0.0, "decay of matrices; norms and biases are never decayed")
    cautious: bool = setting(True, "decay only where it pulls the way of the update")
    momentum: float = setting(0.95, "Nesterov momentum")
    ns_steps: int = setting(5, "Newton-Schulz iterations")
    table_lr: float = setting(6e-3, "peak learning rate of embeddings and head (AdamW)")
    vector_lr: float = setting(6e-3, "peak learning rate of norms and biases (AdamW)")
    beta1: float = setting(0.9, "AdamW: decay of the mean of gradients")
    beta2: float = setting(0.95, "AdamW: decay of the mean of squared gradients")
    eps: float = setting(1e-8, "AdamW: added to the root")

    def __post_init__(self) -> None:
        super(MuonConfig, self).__post_init__()
        if self.ns_steps < 1:
            raise ValueError(f"ns_steps={self.ns_steps} must be at least 1")

    def build(self, model: nn.Module) -> list[Optimizer]:
        from fabula.train.muon import Muon

        built: list[Optimizer] = []
        matrices = self._tables(model, ("matrices",))
        if matrices:
            built.append(Muon(matrices, momentum=self.momentum, ns_steps=self.ns_steps, cautious=self.cautious))
        rest = self._tables(model, ("embeddings", "heads", "vectors"))
        built.append(_adamw(rest, (self.beta1, self.beta2), self.eps, self.cautious))
        return built

    def _rate(self, role: str) -> float:
        return {"matrices": self.lr, "vectors": self.vector_lr}.get(role, self.table_lr)


@optimizers.register("sophia")
@dataclass(frozen=True, kw_only=True, slots=True)
class SophiaConfig(DecoupledConfig):
    """Momentum over curvature; each step clipped to the rate.

    Sophia-G, arXiv:2305.14342; see `Sophia`.
    """

    lr: float = setting(2e-3, "peak learning rate, the most that a weight moves in a step")
    weight_decay: float = setting(0.2, "decay of matrices; norms and biases are never decayed")
    beta1: float = setting(0.96, "decay of the mean of gradients")
    beta2: float = setting(0.99, "decay of the mean of curvatures")
    gamma: float = setting(0.05, "weight of the curvature: the larger, the fewer steps are clipped")
    every: int = setting(10, "steps between two estimates of the curvature, each as dear as a step")
    eps: float = setting(1e-12, "least curvature that is divided by")

    def __post_init__(self) -> None:
        super(SophiaConfig, self).__post_init__()
        if not self.gamma > 0:
            raise ValueError(f"gamma={self.gamma} must be above 0")
        if self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1 step")

    @property
    def extra_work(self) -> float:
        # Where every other step has its estimate, the usual step is one that has.
        return 1 / self.every if self.every > 2 else 0.0

    def build(self, model: nn.Module) -> list[Optimizer]:
        from fabula.train.sophia import Sophia

        return [
            Sophia(
                self._tables(model),
                beta1=self.beta1,
                beta2=self.beta2,
                gamma=self.gamma,
                every=self.every,
                eps=self.eps,
                cautious=self.cautious,
            )
        ]


@optimizers.register("adafactor")
@dataclass(frozen=True, kw_only=True, slots=True)
class AdafactorConfig(DecoupledConfig):
    """Adam's division from row and column means: almost no state.

    arXiv:1804.04235, without momentum; see `Adafactor`.
    """

    # Steps are relative to weights, which begin as the inverse root of the width where they multiply it.
    powers: ClassVar[Mapping[str, float]] = MappingProxyType(
        {"matrices": -0.5, "heads": -0.5, "embeddings": 0.0, "vectors": 0.0}
    )

    lr: float = setting(0.05, "peak learning rate, as a share of the weights' root mean square")
    decay_power: float = setting(0.8, "squared gradients are forgotten at the rate of step to minus this power")
    least: float = setting(1e-3, "least root mean square that steps are relative to: what begins at 0 can move")
    largest: float = setting(1.0, "largest root mean square of an update before the rate")

    def __post_init__(self) -> None:
        super(AdafactorConfig, self).__post_init__()
        if not 0 < self.decay_power <= 1:
            raise ValueError(f"decay_power={self.decay_power} must be above 0 and at most 1")
        for name in ("least", "largest"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")

    def build(self, model: nn.Module) -> list[Optimizer]:
        from fabula.train.adafactor import Adafactor

        return [
            Adafactor(
                self._tables(model),
                decay_power=self.decay_power,
                least=self.least,
                largest=self.largest,
                cautious=self.cautious,
            )
        ]


def _fused(tables: list[dict[str, Any]]) -> bool:
    """Whether torch has a fused pass where the parameters are."""
    return all(parameter.device.type in _FUSED for table in tables for parameter in table["params"])


def _adamw(tables: list[dict[str, Any]], betas: tuple[float, float], eps: float, cautious: bool) -> Optimizer:
    import torch

    from fabula.train.decay import decay_cautiously

    if not cautious or not any(table["weight_decay"] for table in tables):
        return torch.optim.AdamW(tables, betas=betas, eps=eps, fused=_fused(tables))
    # torch decays everywhere or nowhere: here nowhere, and before each step we do where it is wanted.
    ours = [{**table, "weight_decay": 0.0, "cautious_decay": table["weight_decay"]} for table in tables]
    made = torch.optim.AdamW(ours, betas=betas, eps=eps, fused=_fused(tables))
    made.register_step_pre_hook(decay_cautiously)
    return made
