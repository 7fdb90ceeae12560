"""Which parameter gets which update, and are the updates those of the papers?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.ffn import GeluFFN
from fabula.model.norms import LayerNormConfig
from fabula.model.positions import LearnedPositions
from fabula.train.muon import Muon, orthogonalise
from fabula.train.optimizers import AdamWConfig, MuonConfig, group_parameters
from tests import tiny


def model(**changes: object) -> Decoder:
    torch.manual_seed(0)
    return Decoder(tiny.model_config(**changes))


def full(config: ModelConfig | None = None) -> Decoder:
    """A model with every kind of parameter: biases, learned positions, a head of its own."""
    return model(
        position=LearnedPositions(),
        ffn=GeluFFN(d_ff=64, bias=True),
        norm=LayerNormConfig(eps=1e-5),
        tied=False,
        head_bias=True,
    )


@pytest.mark.parametrize("make", [model, full])
def test_every_parameter_is_in_one_group(make) -> None:  # type: ignore[no-untyped-def]
    made = make()
    groups = group_parameters(made)
    names = [n for part in (groups.matrices, groups.tables, groups.vectors) for n, _ in part]
    assert sorted(names) == sorted(n for n, _ in made.named_parameters())
    assert all(p.ndim == 2 for _, p in groups.matrices)
    assert all(p.ndim < 2 for _, p in groups.vectors)
    assert any(made.head_weight is p for _, p in groups.tables)


def test_norms_biases_and_embeddings_are_not_decayed() -> None:
    made = full()
    (optimizer,) = AdamWConfig(weight_decay=0.1).build(made)
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    for name, p in made.named_parameters():
        inside = p.ndim == 2 and not any(word in name for word in ("embed", "head", "position"))
        assert (id(p) in decayed) == inside, name
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(made.parameters()))


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    made = full()
    muon, adamw = MuonConfig(lr=0.02, table_lr=0.005, vector_lr=0.003).build(made)
    groups = group_parameters(made)
    assert {id(p) for g in muon.param_groups for p in g["params"]} == {id(p) for _, p in groups.matrices}
    rates = {id(p): g["lr"] for g in adamw.param_groups for p in g["params"]}
    assert rates == {**{id(p): 0.005 for _, p in groups.tables}, **{id(p): 0.003 for _, p in groups.vectors}}
    assert all(g["weight_decay"] == 0 for g in adamw.param_groups)


def test_frozen_parameters_are_left_alone() -> None:
    made = model()
    frozen = next(p for n, p in made.named_parameters() if p.ndim == 2 and "embed" not in n)
    frozen.requires_grad_(False)
    for built in (AdamWConfig().build(made), MuonConfig().build(made)):
        assert all(p is not frozen for o in built for g in o.param_groups for p in g["params"])


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (AdamWConfig, {"lr": 0.0}),
        (AdamWConfig, {"lr": -1.0}),
        (AdamWConfig, {"beta1": 1.0}),
        (AdamWConfig, {"beta2": -0.1}),
        (AdamWConfig, {"weight_decay": -1.0}),
        (AdamWConfig, {"eps": -1.0}),
        (MuonConfig, {"momentum": 1.0}),
        (MuonConfig, {"ns_steps": 0}),
        (MuonConfig, {"table_lr": -1.0}),
        (MuonConfig, {"vector_lr": 0.0}),
    ],
)
def test_impossible_settings(make, wrong: dict[str, float]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make(**wrong)


# ---- Muon --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 32), (2, 16, 17), (1, 1, 5)])
def test_orthogonalise_brings_singular_values_into_its_band(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    matrices = torch.randn(shape)
    made = orthogonalise(matrices, 5)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.3
    assert values.max() < 1.3
    # Where the singular values are not too different, the band is the narrow one.
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    even = u @ torch.diag_embed(torch.linspace(0.5, 1.0, shape[1]).expand(shape[0], -1)) @ v
    values = torch.linalg.svdvals(orthogonalise(even, 5))
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_orthogonalise_keeps_the_singular_vectors() -> None:
    torch.manual_seed(2)
    matrix = torch.randn(1, 6, 9)
    u, _, v = torch.linalg.svd(matrix[0], full_matrices=False)
    core = u.t() @ orthogonalise(matrix, 5)[0] @ v.t()
    assert torch.allclose(core, torch.diag(core.diag()), atol=1e-4)
    assert (core.diag() > 0).all()


def test_orthogonalise_does_not_care_for_scale_and_stands_nothing() -> None:
    torch.manual_seed(3)
    matrix = torch.randn(2, 6, 9)
    assert torch.allclose(orthogonalise(matrix, 5), orthogonalise(matrix * 1000, 5), atol=1e-4)
    assert orthogonalise(torch.zeros(1, 4, 4), 5).abs().max() == 0


def newton_schulz(matrix: Tensor, steps: int) -> Tensor:
    """Of Jordan et al. (2024), one matrix, as their page writes it."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Plain:
    """Muon, matrix by matrix, written down from the paper, with cautious decay."""

    def __init__(self, weights: list[Tensor], lr: float, momentum: float, steps: int, decay: float) -> None:
        self.weights, self.lr, self.momentum, self.steps, self.decay = weights, lr, momentum, steps, decay
        self.means = [torch.zeros_like(w) for w in weights]

    def step(self, gradients: list[Tensor]) -> None:
        for w, mean, g in zip(self.weights, self.means, gradients, strict=True):
            mean.copy_(self.momentum * mean + (1 - self.momentum) * g)
            nesterov = self.momentum * mean + (1 - self.momentum) * g
            update = newton_schulz(nesterov, self.steps)
            pulls = (update * w > 0).to(w.dtype)
            w -= self.lr * self.decay * w * pulls
            w -= self.lr * max(1.0, w.shape[0] / w.shape[1]) ** 0.5 * update


SHAPES = [(8, 8), (8, 8), (8, 24), (24, 8), (24, 8), (5, 7)]


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_muon_is_the_plain_muon(decay: float) -> None:
    torch.manual_seed(4)
    parameters = [nn.Parameter(torch.randn(s)) for s in SHAPES]
    plain = Plain([p.detach().clone() for p in parameters], 0.05, 0.9, 5, decay)
    muon = Muon(parameters, lr=0.05, momentum=0.9, ns_steps=5, weight_decay=decay)
    for _ in range(4):
        gradients = [torch.randn(s) for s in SHAPES]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        muon.step()
        plain.step(gradients)
        for p, w in zip(parameters, plain.weights, strict=True):
            assert torch.allclose(p, w, atol=2e-5), p.shape


def test_the_grouped_update_equals_one_by_one() -> None:
    torch.manual_seed(5)
    start, gradients = [torch.randn(s) for s in SHAPES], [torch.randn(s) for s in SHAPES]
    settings = dict(lr=0.05, momentum=0.9, ns_steps=5, weight_decay=0.1)
    together = [nn.Parameter(w.clone()) for w in start]
    alone = [nn.Parameter(w.clone()) for w in start]
    optimizers = [Muon(together, **settings), *(Muon([p], **settings) for p in alone)]  # type: ignore[arg-type]
    for p, q, g in zip(together, alone, gradients, strict=True):
        p.grad, q.grad = g.clone(), g.clone()
    for optimizer in optimizers:
        optimizer.step()
    for p, q in zip(together, alone, strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_cautious_decay_acts_only_where_it_agrees() -> None:
    torch.manual_seed(6)
    w = torch.randn(6, 6)
    results = []
    for decay in (0.0, 0.5):
        p = nn.Parameter(w.clone())
        p.grad = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
        Muon([p], lr=0.1, momentum=0.9, ns_steps=5, weight_decay=decay).step()
        results.append(p.detach())
    update = w - results[0]
    agrees = update * w > 0
    shrunk = results[0] - results[1]
    assert torch.allclose(shrunk[agrees], 0.1 * 0.5 * w[agrees], atol=1e-6)
    assert shrunk[~agrees].abs().max() < 1e-7
    assert agrees.any()
    assert (~agrees).any()


def test_parameters_without_gradient_stay() -> None:
    p, q = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    p.grad = torch.randn(3, 4)
    Muon([p, q], lr=0.1, momentum=0.9, ns_steps=5, weight_decay=0.1).step()
    assert (q == 1).all()
    assert (p != 1).any()
