"""The chunked loss against the textbook form: values, gradients, corners, and the memory it is there to save."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from fabula import losses
from fabula.losses import IGNORE, draw_targets, linear_cross_entropy, linear_cross_entropy_explicit, token_nll


@pytest.fixture(params=[None, 64 * 7, 1], ids=["one chunk of default size", "chunks of 64 rows", "least chunk"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param is not None:
        monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", request.param)
        monkeypatch.setattr(losses, "_MOST_ELEMENTS", request.param)
    return


def inputs(
    n: int, d: int, v: int, bias: bool, ignore: float = 0.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(n * 1000 + v)
    hidden = torch.randn(n, d, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(v, d, generator=generator).requires_grad_()
    targets = torch.randint(0, v, (n,), generator=generator)
    targets[torch.rand(n, generator=generator) < ignore] = IGNORE
    return hidden, weight, targets, torch.randn(v, generator=generator).requires_grad_() if bias else None


def both(factor: float, *given: Any, logit_cap: float = 0.0, **settings: Any) -> list[list[Tensor]]:
    """[loss, gradients ...] of the chunked and of the explicit form."""
    results = []
    for loss in (linear_cross_entropy, linear_cross_entropy_explicit):
        hidden, weight, targets, bias = inputs(*given, **settings)
        total = loss(hidden, weight, targets, bias, logit_cap)
        (total * factor).backward()
        results.append([total.detach(), *(t.grad for t in (hidden, weight, bias) if t is not None)])
    return results


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("ignore", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("n", "v"), [(1, 7), (63, 7), (64, 7), (65, 7), (200, 7), (130, 1), (130, 31)])
def test_chunked_is_explicit(n: int, v: int, bias: bool, ignore: float) -> None:
    for chunked, explicit in zip(*both(1.0, n, 5, v, bias, ignore), strict=True):
        assert chunked.dtype == torch.float32
        torch.testing.assert_close(chunked, explicit, rtol=1e-5, atol=2e-5)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("logit_cap", [0.5, 30.0])
def test_capped_chunked_is_capped_explicit(bias: bool, logit_cap: float) -> None:
    for chunked, explicit in zip(*both(1.0, 130, 5, 31, bias, 0.2, logit_cap=logit_cap), strict=True):
        torch.testing.assert_close(chunked, explicit, rtol=1e-5, atol=2e-5)


def test_nll_of_capped_logits() -> None:
    hidden, weight, targets, bias = inputs(70, 5, 31, True)
    nats = token_nll(hidden, weight, targets, bias, 2.0)
    explicit = linear_cross_entropy_explicit(hidden, weight, targets, bias, 2.0)
    torch.testing.assert_close(nats.sum(), explicit.detach())


def test_a_vocabulary_larger_than_a_chunk() -> None:
    """The most that is allowed holds 41 such rows; 64 are taken all the same."""
    assert [part.stop - part.start for part in losses._chunks(70, 200_000)] == [64, 6]
    assert [part.stop - part.start for part in losses._chunks(300, 100_000)] == [83, 83, 83, 51]
    assert [part.stop - part.start for part in losses._chunks(300, 8192)] == [128, 128, 44]
    for chunked, explicit in zip(*both(1.0, 70, 2, 200_000, True), strict=True):
        torch.testing.assert_close(chunked, explicit, rtol=1e-4, atol=1e-5)


def test_several_chunks_of_the_default_size() -> None:
    assert len(losses._chunks(600, 9001)) == 5
    for chunked, explicit in zip(*both(1.0, 600, 4, 9001, True, 0.2), strict=True):
        torch.testing.assert_close(chunked, explicit, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 3000), st.integers(1, 100_000))
def test_chunks_cover_each_row_once(n: int, v: int) -> None:
    rows = [row for part in losses._chunks(n, v) for row in range(part.start, part.stop)]
    assert rows == list(range(n))


@pytest.mark.parametrize("factor", [0.0, 1 / 128, -3.0])
def test_a_factor_reaches_the_gradients(factor: float) -> None:
    for chunked, explicit in zip(*both(factor, 70, 5, 9, True, 0.1), strict=True):
        torch.testing.assert_close(chunked, explicit, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_bfloat16_states_under_float32_weights(bias: bool) -> None:
    """As with autocast: products in bfloat16, sums in float32, each gradient in the format of what it is of."""
    hidden, weight, targets, shift = inputs(200, 16, 33, bias, 0.2, dtype=torch.bfloat16)
    total = linear_cross_entropy(hidden, weight, targets, shift)
    total.backward()
    assert total.dtype == torch.float32
    exact_hidden, exact_weight = hidden.detach().float().requires_grad_(), weight.detach().requires_grad_()
    exact = linear_cross_entropy_explicit(exact_hidden, exact_weight, targets, shift)
    exact.backward()
    assert float(total.detach()) == pytest.approx(float(exact.detach()), rel=1e-2)
    for rough, fine in ((hidden.grad, exact_hidden.grad), (weight.grad, exact_weight.grad)):
        assert rough is not None
        assert fine is not None
        assert (rough.float() - fine).norm() < 0.02 * fine.norm()
    assert hidden.grad is not None
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)  # type: ignore[union-attr]


def test_autocast_rules_the_products() -> None:
    """Float32 states under autocast: products in bfloat16 as a linear layer's would be, gradients in float32."""
    results = []
    for loss in (linear_cross_entropy, linear_cross_entropy_explicit):
        hidden, weight, targets, bias = inputs(200, 16, 33, True, 0.2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total = loss(hidden, weight, targets, bias)
        total.backward()
        results.append([total.detach(), *(t.grad for t in (hidden, weight, bias) if t is not None)])
    for chunked, explicit in zip(*results, strict=True):
        assert chunked.dtype == torch.float32
        assert (chunked - explicit).norm() < 0.02 * explicit.norm()
    exact = linear_cross_entropy(*inputs(200, 16, 33, True, 0.2))
    assert float(exact.detach()) != float(results[0][0])


@pytest.mark.parametrize("wanted", range(3), ids=["hidden", "weight", "bias"])
def test_only_what_wants_a_gradient_gets_one(wanted: int) -> None:
    results = []
    for loss in (linear_cross_entropy, linear_cross_entropy_explicit):
        hidden, weight, targets, bias = inputs(70, 5, 9, True)
        parts = [t.detach() for t in (hidden, weight, bias) if t is not None]
        parts[wanted].requires_grad_()
        loss(parts[0], parts[1], targets, parts[2]).backward()
        assert [p.grad is not None for p in parts] == [i == wanted for i in range(3)]
        results.append(parts[wanted].grad)
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_sums_add_up_over_parts() -> None:
    hidden, weight, targets, _ = inputs(100, 5, 9, False, 0.3)
    whole = linear_cross_entropy(hidden, weight, targets)
    parts = sum(linear_cross_entropy(hidden[a:b], weight, targets[a:b]) for a, b in ((0, 1), (1, 40), (40, 100)))
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(whole, token_nll(hidden, weight, targets).sum())


def test_a_uniform_model_needs_log_v_nats_a_row() -> None:
    total = linear_cross_entropy(torch.randn(10, 4), torch.zeros(37, 4), torch.arange(10))
    assert float(total) == pytest.approx(10 * math.log(37), rel=1e-6)


def test_no_rows_and_only_ignored_rows_cost_nothing() -> None:
    hidden, weight, targets, bias = inputs(5, 4, 6, True, ignore=1.0)
    for rows in (slice(0, 0), slice(0, 5)):
        total = linear_cross_entropy(hidden[rows], weight, targets[rows], bias)
        assert float(total.detach()) == 0
        total.backward()
    for tensor in (hidden, weight, bias):
        assert tensor is not None
        assert tensor.grad is not None
        assert (tensor.grad == 0).all()
    assert token_nll(hidden[:0], weight, targets[:0]).shape == (0,)


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4], [-1e4], [1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    total = linear_cross_entropy(hidden, weight, torch.tensor([0, 0, 1]))
    total.backward()
    assert float(total.detach()) == pytest.approx(4e4)
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [9, -1, -99, 10_000])
def test_a_target_outside_the_vocabulary_is_an_error(wrong: int) -> None:
    """Only IGNORE is ignored: any other negative id is a mistake that must not be counted as word 0."""
    hidden, weight, targets, _ = inputs(5, 4, 9, False)
    targets[2] = wrong
    for loss in (linear_cross_entropy, linear_cross_entropy_explicit, token_nll):
        with pytest.raises((RuntimeError, IndexError)):
            loss(hidden, weight, targets)


@pytest.mark.usefixtures("chunk")
def test_token_nll_is_the_textbooks_row_by_row() -> None:
    hidden, weight, targets, bias = inputs(150, 5, 11, True, 0.3)
    nats = token_nll(hidden, weight, targets, bias)
    assert not nats.requires_grad
    expected = -torch.log_softmax(hidden @ weight.t() + bias, dim=-1).detach()
    for row, target in enumerate(targets.tolist()):
        assert float(nats[row]) == pytest.approx(0 if target == IGNORE else float(expected[row, target]), abs=1e-5)


def test_the_gradients_are_for_one_backward() -> None:
    hidden, weight, targets, _ = inputs(5, 4, 9, False)
    total = linear_cross_entropy(hidden, weight, targets)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated twice"):
        total.backward()


def test_gradients_add_to_what_is_there() -> None:
    hidden, weight, targets, _ = inputs(70, 4, 9, False)
    for _ in range(2):
        linear_cross_entropy(hidden, weight, targets).backward()
    once = both(1.0, 70, 4, 9, False)[1]
    torch.testing.assert_close(hidden.grad, 2 * once[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight.grad, 2 * once[2], rtol=1e-5, atol=1e-5)


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation gives back, and how many gave one that large."""

    def __init__(self) -> None:
        super().__init__()
        self.numel, self.products = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.products += "mm" in str(func)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_tensor_of_all_logits_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", 64 * 500)
    monkeypatch.setattr(losses, "_MOST_ELEMENTS", 64 * 500)
    n, d, v = 1000, 4, 500
    for dtype in (torch.float32, torch.bfloat16):
        hidden, weight, targets, bias = inputs(n, d, v, True, 0.1, dtype=dtype)
        with _Largest() as seen:
            linear_cross_entropy(hidden, weight, targets, bias).backward()
        assert seen.numel == 64 * v
        with _Largest() as seen:
            token_nll(hidden.float(), weight, targets, bias)
        assert seen.numel == 64 * v
    with _Largest() as seen:
        linear_cross_entropy_explicit(hidden.float(), weight, targets, bias)
    assert seen.numel == n * v, "the instrument sees what it should"


class _Peak(TorchDispatchMode):
    """The most bytes that were held at once by tensors made inside it; views of what was given count nothing."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage()._cdata for tensor in given}
        self.made: dict[int, tuple[int, StorageWeakRef]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.given:
                    self.made[storage._cdata] = (storage.nbytes(), StorageWeakRef(storage))
        self.made = {key: (size, held) for key, (size, held) in self.made.items() if not held.expired()}
        self.bytes = max(self.bytes, sum(size for size, _ in self.made.values()))
        return out


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 80e6), (torch.bfloat16, 850e6)], ids=["float32", "bfloat16"]
)
def test_a_vocabulary_of_262144_at_context_1024_needs_the_memory_that_is_stated(
    dtype: torch.dtype, most: float
) -> None:
    """Gemma 3's vocabulary and width: 1,074 MB of logits are never held, nor their gradient of the same size.

    Beside the weights and their gradient (671 MB each) float32 takes 71 MB, one chunk of 64 rows. In bfloat16 there are
    a rounded copy of the weights and of their gradient of a chunk (336 MB each).
    """
    n, d, v = 1024, 640, 262_144
    with FakeTensorMode():  # sizes without numbers
        hidden, weight = torch.empty(n, d, dtype=dtype, requires_grad=True), torch.empty(v, d, requires_grad=True)
        targets = torch.zeros(n, dtype=torch.long)
        with _Peak(hidden, weight, targets) as seen:
            linear_cross_entropy(hidden, weight, targets).backward()
        assert 4 * v * d < seen.bytes < 4 * v * d + most
        with _Peak(hidden, weight, targets) as all_at_once:
            linear_cross_entropy_explicit(hidden, weight.to(dtype), targets).backward()
        assert all_at_once.bytes > 2 * 4 * n * v, "the instrument sees what it should"


def test_the_gradient_of_the_weights_is_handed_over_and_not_copied() -> None:
    hidden, weight, targets, _ = inputs(70, 4, 300, False)
    total = linear_cross_entropy(hidden, weight, targets)
    made: Any = total.grad_fn
    place = made.gradients[1].data_ptr()
    total.backward()
    assert weight.grad is not None
    assert weight.grad.data_ptr() == place


def test_without_gradients_none_are_made() -> None:
    """One product a chunk (the logits), not three."""
    hidden, weight, targets, bias = inputs(70, 4, 9, True)
    with _Largest() as seen, torch.no_grad():
        total = linear_cross_entropy(hidden, weight, targets, bias)
    assert seen.products == 1
    assert not total.requires_grad
    assert float(total) == pytest.approx(float(linear_cross_entropy_explicit(hidden, weight, targets, bias).detach()))
    with torch.inference_mode():
        assert float(linear_cross_entropy(hidden, weight, targets, bias)) == pytest.approx(float(total))


# ---- targets that the model draws --------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [0.0, 3.0])
def test_targets_are_drawn_as_often_as_they_are_probable(cap: float, chunk: None) -> None:
    n, (hidden, weight, targets, bias) = 4000, inputs(1, 5, 7, bias=True)
    chances = torch.rand(n, generator=torch.Generator().manual_seed(1))
    drawn = draw_targets(hidden.expand(n, -1), weight, targets.expand(n), chances, bias, cap)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    expected = (cap * torch.tanh(logits / cap) if cap else logits).softmax(-1)[0]
    assert (torch.bincount(drawn, minlength=7) / n).tolist() == pytest.approx(expected.tolist(), abs=0.025)


def test_what_is_drawn_depends_on_the_chance_alone(chunk: None) -> None:
    hidden, weight, targets, bias = inputs(300, 6, 40, bias=True, ignore=0.2)
    chances = torch.rand(300, generator=torch.Generator().manual_seed(2))
    drawn = draw_targets(hidden, weight, targets, chances, bias)
    parts = [
        draw_targets(hidden[i : i + 9], weight, targets[i : i + 9], chances[i : i + 9], bias) for i in range(0, 300, 9)
    ]
    assert torch.equal(torch.cat(parts), drawn)
    assert torch.equal(drawn == IGNORE, targets == IGNORE)
    kept = drawn[drawn != IGNORE]
    assert int(kept.min()) >= 0
    assert int(kept.max()) < 40
    assert not drawn.requires_grad


def test_the_least_and_the_greatest_chance_draw_words() -> None:
    hidden, weight, targets, _ = inputs(2, 4, 9, bias=False)
    least, most = torch.zeros(2), torch.full((2,), 1 - 2**-24)
    assert draw_targets(hidden, weight, targets, least).max() < 9
    assert draw_targets(hidden, weight, targets, most).max() < 9
    sure = torch.tensor([[200.0], [-200.0]])  # the other word has no probability at all: no chance may draw it
    assert draw_targets(torch.ones(2, 1), sure, targets[:2] * 0, least).tolist() == [0, 0]
    assert draw_targets(torch.ones(2, 1), -sure, targets[:2] * 0, least).tolist() == [1, 1]


def test_drawn_targets_estimate_the_curvature() -> None:
    """count x squared gradient towards drawn targets is, on average, the diagonal of the Gauss-Newton matrix, which for
    a softmax over W x is the mean of x_j^2 p_k (1 - p_k)."""
    n, (hidden, weight, targets, _) = 6, inputs(6, 3, 4, bias=False)
    p = torch.nn.functional.linear(hidden, weight).softmax(-1).detach()
    exact = torch.einsum("nk,nj->kj", p * (1 - p), hidden.detach().square()) / n
    generator, total = torch.Generator().manual_seed(3), torch.zeros_like(weight)
    for _ in range(3000):
        drawn = draw_targets(hidden.detach(), weight, targets, torch.rand(n, generator=generator))
        (slope,) = torch.autograd.grad(linear_cross_entropy(hidden.detach(), weight, drawn) / n, weight)
        total += n * slope.square()
    assert (total / 3000).flatten().tolist() == pytest.approx(exact.flatten().tolist(), rel=0.12, abs=1e-3)
