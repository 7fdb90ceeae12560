"""Is the update of each optimizer that of torch, where torch has it, else that of its paper, over many steps?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fabula.train.adafactor import Adafactor
from fabula.train.lion import Lion
from fabula.train.muon import Muon
from fabula.train.optimizers import (
    AdafactorConfig,
    AdamConfig,
    AdamWConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    SgdConfig,
    SophiaConfig,
    group_parameters,
)
from fabula.train.sophia import Sophia

STEPS = 40


class Net(nn.Module):
    """One parameter of each role."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(6, 5)
        self.inner = nn.Linear(5, 7)
        self.head = nn.Linear(7, 6, bias=False)


def gradients(net: nn.Module, step: int, size: float = 0.1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [size * torch.randn(p.shape, generator=generator) for p in net.parameters()]


def rate(step: int) -> float:
    """A factor that moves, so that what depends on the rate is seen."""
    return 1.0 - step / (2 * STEPS)


def run(config: OptimizerConfig, steps: int = STEPS) -> dict[str, Tensor]:
    """Weights after some steps with gradients that anyone can make again."""
    net = Net()
    optimizers = config.build(net)
    peaks = [[g["lr"] for g in o.param_groups] for o in optimizers]
    for step in range(steps):
        for p, gradient in zip(net.parameters(), gradients(net, step), strict=True):
            p.grad = gradient
        for optimizer, own in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, own, strict=True):
                group["lr"] = peak * rate(step)
            optimizer.step()
    return {name: p.detach() for name, p in net.named_parameters()}


def run_torch(make: Callable[[list[Any]], Optimizer], decayed: tuple[str, ...], lr: float, decay: float) -> Any:
    """The same steps with an optimizer of torch, one group for each weight."""
    net = Net()
    groups = [
        {"params": [p], "lr": lr, "weight_decay": decay if name in decayed else 0.0}
        for name, p in net.named_parameters()
    ]
    optimizer = make(groups)
    for step in range(STEPS):
        for p, gradient in zip(net.parameters(), gradients(net, step), strict=True):
            p.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = lr * rate(step)
        optimizer.step()
    return {name: p.detach() for name, p in net.named_parameters()}


def equal(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.allclose(left[name], right[name], atol=tolerance, rtol=0), name


MATRICES = ("inner.weight",)
WITH_TABLES = ("inner.weight", "embedding.weight", "head.weight")


@pytest.mark.parametrize("tables", [False, True])
def test_adamw_is_that_of_torch(tables: bool) -> None:
    ours = run(AdamWConfig(lr=0.03, weight_decay=0.3, beta1=0.8, beta2=0.9, eps=1e-6, decay_tables=tables))
    decayed = WITH_TABLES if tables else MATRICES
    theirs = run_torch(lambda g: torch.optim.AdamW(g, betas=(0.8, 0.9), eps=1e-6, foreach=False), decayed, 0.03, 0.3)
    equal(ours, theirs)


def test_adam_is_that_of_torch_with_l2() -> None:
    ours = run(AdamConfig(lr=0.03, weight_decay=0.3, beta1=0.8, beta2=0.9, eps=1e-6))
    theirs = run_torch(lambda g: torch.optim.Adam(g, betas=(0.8, 0.9), eps=1e-6, foreach=False), MATRICES, 0.03, 0.3)
    equal(ours, theirs)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, True)])
def test_sgd_is_that_of_torch(momentum: float, nesterov: bool) -> None:
    ours = run(SgdConfig(lr=0.2, weight_decay=0.1, momentum=momentum, nesterov=nesterov))
    settings: Any = dict(momentum=momentum, nesterov=nesterov and momentum > 0, foreach=False)
    equal(ours, run_torch(lambda g: torch.optim.SGD(g, **settings), MATRICES, 0.2, 0.1))


def test_adafactor_is_that_of_torch_where_that_follows_the_rate() -> None:
    # The rate stays below 1 / sqrt(step), where torch caps it.
    ours = run(AdafactorConfig(lr=0.05, weight_decay=0.5, decay_power=0.8, least=1e-3, largest=1.0))
    theirs = run_torch(
        lambda g: torch.optim.Adafactor(g, beta2_decay=-0.8, eps=(1e-30, 1e-3), d=1.0, foreach=False),
        MATRICES,
        0.05,
        0.5,
    )
    equal(ours, theirs)


def test_adafactor_follows_the_schedule_where_that_of_torch_does_not() -> None:
    """The reason for our own: at step 100 torch's takes steps of at most a tenth, whatever the schedule says."""
    moved = []
    for kind in (lambda p: Adafactor([p], lr=1.0, decay_power=0.8, least=1e-3, largest=1.0), torch.optim.Adafactor):
        p = nn.Parameter(torch.ones(4, 4))
        optimizer = kind(p) if kind is not torch.optim.Adafactor else kind([p], lr=1.0)
        for _ in range(100):
            p.grad = torch.ones(4, 4)
            with torch.no_grad():
                p.fill_(1.0)
            optimizer.step()
        moved.append(float(1 - p.detach().mean()))
    assert moved == pytest.approx([1.0, 0.1], abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_muon_is_that_of_torch_within_its_bfloat16() -> None:
    torch.manual_seed(1)
    shapes = [(8, 24), (24, 8), (16, 16)]
    ours = [nn.Parameter(torch.randn(s)) for s in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    settings: Any = dict(lr=0.02, momentum=0.9, ns_steps=5, weight_decay=0.1)
    optimizers = [Muon(ours, **settings, cautious=False), torch.optim.Muon(theirs, **settings, adjust_lr_fn="original")]
    for _ in range(10):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(ours, theirs, strict=True):
        # 10 steps of 0.02, each entry rounded to 8 bits on the way.
        assert torch.allclose(p, q, atol=0.01)
        assert (p - q).abs().mean() < 0.002


# ---- written down from the papers --------------------------------------------------------------------------


def plain(update: Callable[[dict[str, Tensor], Tensor, int], Tensor], lr: float, decay: float, cautious: bool) -> Any:
    """Weights after the same steps by an update written down plainly: (state, gradient, step from 1) to direction."""
    net = Net()
    states: list[dict[str, Tensor]] = [{} for _ in net.parameters()]
    with torch.no_grad():
        for step in range(STEPS):
            for (name, p), state, g in zip(net.named_parameters(), states, gradients(net, step), strict=True):
                u = update(state, g, step + 1)
                shrink = lr * rate(step) * decay * p if name in MATRICES else torch.zeros_like(p)
                if cautious:
                    shrink = torch.where(u * p > 0, shrink, 0)
                p.copy_(p - shrink - lr * rate(step) * u)
    return {name: p.detach() for name, p in net.named_parameters()}


@pytest.mark.parametrize("cautious", [False, True])
def test_lion_is_that_of_its_paper(cautious: bool) -> None:
    """Algorithm 2 of arXiv:2302.06675."""

    def update(state: dict[str, Tensor], g: Tensor, step: int) -> Tensor:
        m = state.get("m", torch.zeros_like(g))
        state["m"] = 0.95 * m + 0.05 * g
        return torch.sign(0.8 * m + 0.2 * g)

    ours = run(LionConfig(lr=0.003, weight_decay=1.0, beta1=0.8, beta2=0.95, cautious=cautious))
    equal(ours, plain(update, 0.003, 1.0, cautious))


@pytest.mark.parametrize("cautious", [False, True])
def test_cautious_adamw(cautious: bool) -> None:
    """AdamW's update with the decay of arXiv:2510.12402 around it."""

    def update(state: dict[str, Tensor], g: Tensor, step: int) -> Tensor:
        m, v = state.get("m", torch.zeros_like(g)), state.get("v", torch.zeros_like(g))
        state["m"], state["v"] = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        return state["m"] / (1 - 0.9**step) / ((state["v"] / (1 - 0.95**step)).sqrt() + 1e-8)

    ours = run(AdamWConfig(lr=0.02, weight_decay=0.5, cautious=cautious))
    equal(ours, plain(update, 0.02, 0.5, cautious), 1e-5)


@pytest.mark.parametrize("cautious", [False, True])
def test_cautious_adafactor(cautious: bool) -> None:
    """The paper's algorithms 4 and 5 (arXiv:1804.04235): means instead of sums, which cancels."""
    config = AdafactorConfig(lr=0.05, weight_decay=0.3, cautious=cautious)
    net = Net()
    state: dict[str, Tensor] = {}
    with torch.no_grad():
        for step in range(STEPS):
            b = 1 - (step + 1.0) ** -0.8
            lr = 0.05 * rate(step)
            for (name, p), g in zip(net.named_parameters(), gradients(net, step), strict=True):
                squares = g * g + 1e-30
                if g.ndim == 2:
                    r, c = f"{name}.r", f"{name}.c"
                    state[r] = b * state.get(r, torch.zeros(())) + (1 - b) * squares.sum(1)
                    state[c] = b * state.get(c, torch.zeros(())) + (1 - b) * squares.sum(0)
                    v = torch.outer(state[r], state[c]) / state[r].sum()
                else:
                    v = state[name] = b * state.get(name, torch.zeros(())) + (1 - b) * squares
                u = g / v.sqrt()
                u = u / max(1.0, float((u * u).mean().sqrt()))
                size = max(1e-3, float((p * p).mean().sqrt()))
                agrees = (u * p > 0) if cautious else torch.ones_like(p)
                shrink = lr * 0.3 * p * agrees if name in MATRICES else 0
                p.copy_(p - shrink - lr * size * u)
    equal(run(config), {name: p.detach() for name, p in net.named_parameters()}, 1e-5)


def test_sophia_is_that_of_its_paper() -> None:
    """Algorithm 3 of arXiv:2305.14342, an estimate at steps 1, 5, 9, ..."""
    lr, gamma, b1, b2, count, decay = 0.01, 0.05, 0.9, 0.95, 12, 0.2
    net, mine = Net(), Net()
    (optimizer,) = SophiaConfig(lr=lr, gamma=gamma, beta1=b1, beta2=b2, every=4, weight_decay=decay).build(net)
    assert isinstance(optimizer, Sophia)
    m = {name: torch.zeros_like(p) for name, p in mine.named_parameters()}
    h = {name: torch.zeros_like(p) for name, p in mine.named_parameters()}
    asked = []
    clipped = free = 0
    for step in range(STEPS):
        drawn, given = gradients(net, 1000 + step, 0.3), gradients(net, step)
        if optimizer.wants_estimate():
            asked.append(step)
            for p, gradient in zip(net.parameters(), drawn, strict=True):
                p.grad = gradient
            optimizer.estimate(count)
        for p, gradient in zip(net.parameters(), given, strict=True):
            p.grad = gradient
        optimizer.step()
        with torch.no_grad():
            for (name, p), g, d in zip(mine.named_parameters(), given, drawn, strict=True):
                m[name] = b1 * m[name] + (1 - b1) * g
                if step % 4 == 0:
                    h[name] = b2 * h[name] + (1 - b2) * count * d * d
                ratio = m[name] / torch.maximum(gamma * h[name], torch.tensor(1e-12))
                clipped += int((ratio.abs() > 1).sum())
                free += int((ratio.abs() < 1).sum())
                if name in MATRICES:
                    p -= lr * decay * p
                p -= lr * ratio.clamp(-1, 1)
    assert asked == list(range(0, STEPS, 4))
    assert clipped > 100
    assert free > 100, "both sides of the clipping are seen"
    equal({n: p.detach() for n, p in net.named_parameters()}, {n: p.detach() for n, p in mine.named_parameters()}, 1e-5)


def test_what_has_no_gradient_stays() -> None:
    made: list[Callable[[list[nn.Parameter]], Optimizer]] = [
        lambda p: Lion(p, lr=0.1, weight_decay=0.5, beta1=0.9, beta2=0.9),
        lambda p: Sophia(p, lr=0.1, weight_decay=0.5, beta1=0.9, beta2=0.9, gamma=0.1, every=2, eps=1e-12),
        lambda p: Adafactor(p, lr=0.1, weight_decay=0.5, decay_power=0.8, least=1e-3, largest=1.0),
    ]
    for make in made:
        p, q = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
        p.grad = torch.randn(3, 4)
        make([p, q]).step()
        assert (q == 1).all()
        assert (p != 1).any()


def test_adafactor_stands_a_gradient_of_nothing() -> None:
    p = nn.Parameter(torch.ones(3, 4))
    optimizer = Adafactor([p], lr=0.1, decay_power=0.8, least=1e-3, largest=1.0)
    for gradient in (torch.zeros(3, 4), torch.eye(3, 4), torch.zeros(3, 4), torch.full((3, 4), 1e-12)):
        p.grad = gradient
        optimizer.step()
        assert p.isfinite().all()


# ---- groups ------------------------------------------------------------------------------------------------


def test_embeddings_and_heads_are_decayed_when_asked_for() -> None:
    for config in (AdamWConfig(weight_decay=0.1, decay_tables=True), MuonConfig(weight_decay=0.1, decay_tables=True)):
        net = Net()
        decayed = {
            id(p)
            for o in config.build(net)
            for g in o.param_groups
            if g["weight_decay"] or g.get("cautious_decay")
            for p in g["params"]
        }
        assert {n for n, p in net.named_parameters() if id(p) in decayed} == set(WITH_TABLES)


class Wide(Net):
    """Says how wide it is."""

    class Config:
        d_model = 256

    config = Config()


@pytest.mark.parametrize(
    ("config", "inner", "embedding", "head", "bias"),
    [
        (AdamWConfig(lr=1.0, base_width=64), 0.25, 1.0, 0.25, 1.0),
        (AdamConfig(lr=1.0, base_width=64), 0.25, 1.0, 0.25, 1.0),
        (LionConfig(lr=1.0, base_width=64), 0.25, 1.0, 0.25, 1.0),
        (SophiaConfig(lr=1.0, base_width=64), 0.25, 1.0, 0.25, 1.0),
        (SgdConfig(lr=1.0, base_width=64), 1.0, 4.0, 0.25, 4.0),
        (AdafactorConfig(lr=1.0, base_width=64), 0.5, 1.0, 0.5, 1.0),
        (MuonConfig(lr=1.0, table_lr=3.0, vector_lr=2.0, base_width=64), 1.0, 3.0, 0.75, 2.0),
        (MuonConfig(lr=1.0, table_lr=3.0, vector_lr=2.0, base_width=256), 1.0, 3.0, 3.0, 2.0),
        (MuonConfig(lr=1.0, table_lr=3.0, vector_lr=2.0), 1.0, 3.0, 3.0, 2.0),
    ],
)
def test_rates_by_width(config: OptimizerConfig, inner: float, embedding: float, head: float, bias: float) -> None:
    net = Wide()
    rates = {id(p): g["lr"] for o in config.build(net) for g in o.param_groups for p in g["params"]}
    found = {name: rates[id(p)] for name, p in net.named_parameters()}
    expected = {"inner.weight": inner, "embedding.weight": embedding, "head.weight": head, "inner.bias": bias}
    assert found == pytest.approx(expected)
    told = config.notes(256)
    assert bool(told) == (config.base_width == 64)
    if told:
        assert "rates for width 64 in a model of 256" in told[0]


def test_all_rates_are_scaled_together() -> None:
    scaled = MuonConfig(lr=0.02, table_lr=0.006, vector_lr=0.004, momentum=0.9).scaled(0.5)
    assert (scaled.lr, scaled.table_lr, scaled.vector_lr, scaled.momentum) == (0.01, 0.003, 0.002, 0.9)
    assert AdamWConfig(lr=1e-3, beta1=0.8).scaled(3).rates() == pytest.approx({"lr": 3e-3})


def test_coarse_weights_are_refused() -> None:
    net = Net()
    net.inner.bfloat16()
    with pytest.raises(ValueError, match=r"inner\.weight is torch\.bfloat16; weights that are trained are float32"):
        group_parameters(net)
    for p in net.inner.parameters():
        p.requires_grad_(False)
    assert not group_parameters(net).matrices
