"""What is not kept for the backward pass: the gradients are the same to the bit, and memory is what was promised."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fabula.model import recompute
from fabula.model.ffn import GegluFFN, GeluFFN, GluFFN, ReluFFN, SquaredReluFFN, SwigluFFN, squared_relu
from fabula.model.masks import Sight
from fabula.model.recompute import elementwise, gated, made_again
from fabula.model.spans import Sliding
from tests.contracts.variants import build, config, tokens


class _Made(TorchDispatchMode):
    """Remembers the memory of every tensor that an operation makes, without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[int, StorageWeakRef]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.made[storage.data_ptr()] = (storage.nbytes() // 4, StorageWeakRef(storage))
        return out

    def alive(self) -> list[int]:
        """Sizes of what is still held, in numbers."""
        return [size for size, reference in self.made.values() if not reference.expired()]


def test_elementwise_is_the_function() -> None:
    def product(a: Tensor, b: Tensor) -> Tensor:
        return F.silu(a) * b

    gradients = []
    for make in (product, lambda a, b: elementwise(product, a, b)):
        a, b = (torch.randn(5, 7, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (0, 1))
        out = make(a, b)
        out.square().sum().backward()
        gradients.append((out, a.grad, b.grad))
    assert all(torch.equal(x, y) for x, y in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    "activation",
    [F.silu, torch.sigmoid, functools.partial(F.gelu, approximate="tanh"), functools.partial(F.gelu), squared_relu],
    ids=["silu", "sigmoid", "gelu, tanh", "gelu", "relu2"],
)
def test_gradients_of_activations_are_those_of_autograd(activation: Callable[[Tensor], Tensor]) -> None:
    results = []
    for one, two in (
        (activation, lambda a, b: activation(a) * b),
        (lambda a: elementwise(activation, a), lambda a, b: gated(activation, a, b)),
    ):
        a, b = (torch.randn(5, 7, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (0, 1))
        (one(a).square().sum() + two(a, b).square().sum()).backward()
        results.append((a.grad, b.grad))
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.parametrize("rows", [0, 1, 700], ids=["none", "one", "several parts"])
def test_gated_is_the_product(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "_PART", 7 * 100)
    gradients = []
    for make in (lambda a, b: F.silu(a) * b, lambda a, b: gated(F.silu, a, b)):
        # Laid out the other way round, as a projection never is and a caller might.
        a, b = (torch.randn(7, rows, generator=torch.Generator().manual_seed(s)).t().requires_grad_() for s in (0, 1))
        out = make(a, b)
        (out * torch.arange(7.0)).sum().backward()
        gradients.append((out, a.grad, b.grad))
    for product, by_hand in zip(*gradients, strict=True):
        torch.testing.assert_close(by_hand, product)


@pytest.mark.parametrize("linears", [1, 3])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_tensor_made_again_gives_the_same_gradients(linears: int, passes: int) -> None:
    torch.manual_seed(0)
    parts, asked = [nn.Linear(6, 4) for _ in range(linears)], 0
    results = []
    for again in (False, True):
        x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(5)).requires_grad_()
        y = x.square()

        def recipe(x: Tensor = x) -> Tensor:
            nonlocal asked
            asked += 1
            return x.detach().square()

        if again:
            with made_again(y, recipe):
                out = torch.stack([part(y) for part in parts]).sum()
        else:
            out = torch.stack([part(y) for part in parts]).sum()
        for part in parts:
            part.zero_grad()
        for number in range(passes):
            out.backward(retain_graph=number + 1 < passes)
        results.append([x.grad, *(part.weight.grad.clone() for part in parts if part.weight.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert asked == passes, "made once for all who want it"


def test_what_was_made_again_is_let_go() -> None:
    x = torch.randn(4, 4, requires_grad=True)
    y, made = x * 2, []

    def recipe() -> Tensor:
        made.append(x.detach() * 2)
        return made[-1]

    part = nn.Linear(4, 4)
    with made_again(y, recipe):
        out = part(y).sum()
    out.backward()
    gc.collect()
    assert len(gc.get_referrers(made[0])) <= 2, "the list, and this frame"


def test_a_forward_pass_without_a_backward_pass_is_let_go() -> None:
    """As when memory runs out: what the attempt had made must not stay."""
    model = build(config(placement="sandwich"))

    def left() -> list[Tensor]:
        gc.collect()
        return [o for o in gc.get_objects() if type(o) is Tensor and o.grad_fn is not None]

    # What tests before this one left may go in the meantime; it is held, so that no new tensor takes its place.
    before = left()
    known = {id(o) for o in before}
    model.hidden(tokens(2, 8))
    assert [o.shape for o in left() if id(o) not in known] == []


def test_without_gradients_nothing_is_done() -> None:
    with torch.no_grad(), made_again(torch.ones(3), lambda: pytest.fail("asked")):
        pass
    with made_again(torch.ones(3), lambda: pytest.fail("asked")):
        (torch.ones(3, requires_grad=True) * torch.ones(3)).sum().backward()


@pytest.mark.parametrize(
    ("made", "widths"),
    [
        (SwigluFFN(d_ff=100), 2),
        (GegluFFN(d_ff=100), 2),
        (GluFFN(d_ff=100), 2),
        (GeluFFN(d_ff=100), 1),
        (SquaredReluFFN(d_ff=100), 1),
        (ReluFFN(d_ff=100), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_network_keeps_its_projections_and_nothing_else_of_its_width(made: SwigluFFN, widths: int) -> None:
    layer, x = made.build(8), torch.randn(50, 8, requires_grad=True)
    with _Made() as seen:
        out = layer(x)
    assert seen.alive().count(50 * 100) == widths
    out.sum().backward()
    assert seen.alive().count(50 * 100) == 0


def test_a_block_keeps_no_normalised_activation() -> None:
    """Of the width of the stream: two inputs of norms, two sums, and what the projections of attention gave."""
    model, ids = build(config(n_layers=1)), tokens(2, 30)
    held = []
    for direct in (False, True):
        with pytest.MonkeyPatch.context() as patch, _Made() as seen:
            if direct:
                patch.setattr(torch.compiler, "is_compiling", lambda: True)
            hidden = model.hidden(ids)
        held.append(sum(seen.alive()))
        del hidden
    assert held[1] - held[0] == 2 * 30 * (2 * 12 + 2 * 10), "two normalised activations, two of the hidden width"


def test_a_models_gradients_are_those_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, results = tokens(2, 12), []
    for direct in (False, True):
        if direct:
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        model = build(config(placement="sandwich"))
        model(ids).square().sum().backward()
        results.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("local", [None, Sliding(window=9)], ids=["full", "window"])
def test_checkpointing_keeps_the_inputs_of_blocks_alone(local: Sliding | None) -> None:
    """torch asks the innermost hooks only: ours must stand back, or all that is inside of a block would be kept."""
    parts = {} if local is None else {"local": local, "pattern": "L"}
    model, ids = build(config(n_layers=2, context_length=300, **parts)), tokens(1, 300)
    x = model.embedding(ids).detach().requires_grad_()
    tables = model.position.tables(torch.arange(300).unsqueeze(0))
    sight = Sight(300, 300, span=local)
    gradients, held = [], []
    for checkpointed in (False, True):
        model.zero_grad()
        with _Made() as seen:
            out = x
            for block in model.blocks:
                if checkpointed:
                    out = checkpoint(block, out, tables, sight, None, use_reentrant=False)
                else:
                    out = block(out, tables, sight, None)
        masks = sum(piece.mask.numel() for piece in sight.pieces(torch.float32) if piece.mask is not None)
        held.append(sum(seen.alive()) - masks * (not checkpointed))
        out.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.blocks.parameters() if p.grad is not None])
    assert held[1] <= 0.25 * held[0]
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-4)
