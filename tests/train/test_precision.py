"""The format of products: chosen by measuring, refused with the figure; weights stay float32; float16 and its scale."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fabula.data.batch import Batch
from fabula.data.loader import Loader
from fabula.data.shards import Shards
from fabula.device import Device
from fabula.errors import MachineError
from fabula.model.decoder import Decoder
from fabula.model.positions import RopePosition, rotate, rotate_explicit
from fabula.plan import hardware
from fabula.train import precision, scaling, trainer
from fabula.train.config import TrainConfig
from fabula.train.objective import Loss, NextToken
from fabula.train.precision import check_masters, place, to_float8
from fabula.train.scaling import FIRST, LossScale
from fabula.train.trainer import StepRecord, Trainer
from tests import tiny
from tests.train.test_trainer import ADAMW, Record, make, weights

HALF = Device("cpu", "float16", 1, "a test")


def measured(monkeypatch: pytest.MonkeyPatch, **times: float) -> None:
    """Products of these formats take so many times as long as those of float32."""
    monkeypatch.setattr(precision, "relative_time", lambda name, dtype, threads: times[dtype])


def asking(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"device": "cpu", "threads": 1, **settings})


# ---- choosing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "dtype", "reason"),
    [
        (126.0, "float32", "float32: with bfloat16 products take 126.00 times as long, measured here"),
        (0.9, "float32", "float32: with bfloat16 products take 0.90 times as long, measured here"),
        (0.12, "bfloat16", "bfloat16: its products take 0.12 times as long as those of float32, measured here"),
    ],
)
def test_what_is_faster_is_taken_and_the_figure_said(
    times: float, dtype: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, bfloat16=times)
    device = place(asking())
    assert (device.dtype, device.dtype_reason) == (dtype, reason)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_slower_on_a_processor_is_refused_with_the_figure(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, **{dtype: 126.4})
    with pytest.raises(MachineError, match=f"products of {dtype} take 126.4 times as long as those of float32"):
        place(asking(precision=dtype))
    measured(monkeypatch, **{dtype: 1.02})
    assert place(asking(precision=dtype)).dtype == dtype, "a little noise is no reason"


def test_a_refused_format_ends_in_one_line_and_leaves_nothing(
    tmp_path: Any, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, bfloat16=126.4)
    tiny.write_recipe(tmp_path)
    code, _, err = cli("run", "tiny.toml", "--train.precision", "bfloat16")
    assert code == 3
    assert "126.4 times as long" in err
    assert not (tmp_path / "runs").exists()


def test_float32_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "relative_time", lambda *given: pytest.fail("measured"))
    device = place(asking(precision="float32"))
    assert (device.dtype, device.dtype_reason) == ("float32", "float32: asked for")


def test_a_run_that_goes_on_keeps_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, bfloat16=2.0, float16=1.0)
    assert place(asking(), "bfloat16").dtype == "bfloat16"
    assert place(asking(precision="float32"), "bfloat16").dtype == "float32", "asked for"
    assert place(asking(), "float8").dtype == "float32", "begun where that is to be had"


def test_float8_is_refused_without_its_hardware_and_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineError, match=r"float8 needs an NVIDIA card of compute capability 8\.9"):
        place(asking(precision="float8"))
    card = Device("cuda", "bfloat16", 1, "a test")
    monkeypatch.setattr(precision, "choose", lambda name, threads: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    with pytest.raises(MachineError, match=r"this card has 8\.6"):
        place(asking(device="cuda", precision="float8"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"pip install 'fabula\[train\]'"):
        place(asking(device="cuda", precision="float8"))


def test_a_card_without_bfloat16_gets_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """V100, T4: torch would emulate bfloat16 there, slowly."""
    monkeypatch.setattr(precision, "choose", lambda name, threads: Device("cuda", "float32", 1, "a test"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    measured(monkeypatch, float16=0.2)
    assert place(asking(device="cuda")).dtype == "float16"
    with pytest.raises(MachineError, match="bfloat16 has no units on this card"):
        place(asking(device="cuda", precision="bfloat16"))


def test_the_probe_measures_products() -> None:
    before = torch.get_rng_state()
    found = hardware.relative_time("cpu", "float64", torch.get_num_threads())
    assert torch.equal(torch.get_rng_state(), before), "a run's generator is not touched"
    assert found > 1.0, "twice the bytes, half the numbers in a register"
    assert hardware.relative_time("cpu", "float64", torch.get_num_threads()) == found, "once a process"


# ---- mistake 8: short formats where they do harm -----------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mistake_8_parameters_held_in_a_short_format_are_refused(tiny_data: Shards, dtype: torch.dtype) -> None:
    model = Decoder(tiny.model_config()).to(dtype)
    with pytest.raises(TypeError, match=r"embedding\.weight is held in .*float16: trained weights are float32"):
        make(tiny_data, model=model, optimizers=[])
    model.requires_grad_(False)
    make(tiny_data, model=model, optimizers=[])  # what is not trained may be short


def test_masters_may_be_longer() -> None:
    check_masters([("a", torch.zeros(1, dtype=torch.float64)), ("b", torch.zeros(1, dtype=torch.int8))])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mistake_8_rope_is_not_lost_in_a_cast(dtype: str) -> None:
    """Neither autocast nor a cast of the model touches the angles: far positions turn as in float32."""
    model = Decoder(tiny.model_config(context_length=4096))
    short = getattr(torch, dtype)
    where = torch.tensor([[0, 1, 1000, 1001, 4095]])
    position = model.position
    assert isinstance(position, RopePosition)
    exact = position.tables(where)
    assert exact is not None
    x = torch.randn(1, 5, 2, 16, generator=torch.Generator().manual_seed(0)).to(short)
    expected = rotate_explicit(x.float(), exact)
    assert (expected[0, 2] - x[0, 2].float()).abs().max() > 0.5, "a far position is turned"
    with Device("cpu", dtype, 1, "a test").autocast():
        tables = model.to(short).position.tables(where)
        assert tables is not None
        turned = rotate(x, tables)
    assert turned.dtype == short
    assert torch.equal(turned, expected.to(short)), "rounded once, after the turn"


class Steep(NextToken):
    """The loss a hundred thousand times: every gradient has to be clipped."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        found = super().__call__(model, batch)
        return Loss(found.total * 1e3, found.count)


def test_mistake_8_gradients_are_unscaled_before_they_are_clipped(
    tiny_data: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipped while it is scaled, a gradient of any size would come out 65,536 times too small."""
    norms = []
    clip = trainer.clip_gradients

    def watching(parameters: Any, most: float) -> float:
        before = clip(parameters, most)
        norms.append((before, clip(parameters, 0.0)))
        return before

    monkeypatch.setattr(trainer, "clip_gradients", watching)
    batch = Loader(tiny_data.train, tiny.CONTEXT, 0, True).batch(0, 4)
    for device in (HALF, Device("cpu", "float32", 1, "a test")):
        made = make(tiny_data, ADAMW, device=device, objective=Steep(), clip=1.0)
        made.scale.value = min(made.scale.value, 16.0)  # the loss is steep already
        assert made.take_step(batch).unapplied is None
    (half, half_clipped), (exact, exact_clipped) = norms
    assert exact > 100, "there is something to clip"
    assert half == pytest.approx(exact, rel=0.02)
    assert half_clipped == pytest.approx(1.0, rel=1e-3)
    assert exact_clipped == pytest.approx(1.0, rel=1e-3)


# ---- float16 and its scale ---------------------------------------------------------------------------------


def test_float16_learns_what_float32_learns(tiny_data: Shards) -> None:
    losses = []
    for device in (HALF, Device("cpu", "float32", 1, "a test")):
        record = Record()
        made = make(tiny_data, ADAMW, steps=10, callbacks=(record,), device=device)
        made.fit()
        assert all(r.unapplied is None for r in record.records)
        assert all(p.dtype == torch.float32 for p in made.model.parameters())
        losses.append(record.losses)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


class Overflowing(NextToken):
    """Gradients that float16 cannot hold until the scale is down to `most`."""

    def __init__(self, most: float) -> None:
        self.most, self.scale = most, LossScale("float16")

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        found = super().__call__(model, batch)
        if self.scale.value <= self.most:
            return found
        return Loss(found.total, found.count, _Overflow.apply(found.total))


class _Overflow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * math.inf


def overflowing(data: Shards, most: float, steps: int) -> tuple[Trainer, list[StepRecord]]:
    record, objective = Record(), Overflowing(most)
    made = make(data, ADAMW, steps=steps, callbacks=(record,), device=HALF, objective=objective)
    objective.scale = made.scale
    made.fit()
    return made, record.records


def test_an_overflow_halves_the_scale_and_is_not_counted_as_a_bad_step(tiny_data: Shards) -> None:
    made, records = overflowing(tiny_data, FIRST / 32, 8)
    assert [r.unapplied is None for r in records] == [False] * 5 + [True] * 3
    assert all(r.unapplied.in_row == 0 for r in records if r.unapplied is not None)
    assert "beyond float16 with the loss scaled by 65,536, which is halved" in records[0].unapplied.reason  # type: ignore[union-attr]
    assert (made.scale.value, made.unapplied_in_row) == (FIRST / 32, 0)


def test_what_is_not_finite_without_a_scale_is_counted(tiny_data: Shards) -> None:
    _, records = overflowing(tiny_data, 0.5, 19)
    counts = [r.unapplied.in_row for r in records if r.unapplied is not None]
    assert counts == [0] * 16 + [1, 2, 3], "65,536 is halved sixteen times"


def test_a_loss_that_is_not_finite_is_never_the_scales_fault() -> None:
    scale = LossScale("float16")
    assert scale.blames(1.0, math.inf)
    assert not scale.blames(math.nan, math.nan)
    assert not LossScale("bfloat16").blames(1.0, math.inf)


def test_the_scale_moves_as_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.amp.GradScaler("cpu").get_growth_interval() == scaling.GROWTH_STEPS
    assert torch.amp.GradScaler("cpu").get_scale() == FIRST
    monkeypatch.setattr(scaling, "GROWTH_STEPS", 20)
    finite = [True] * 23 + [False, True, False] + [True] * 41
    ours, theirs = LossScale("float16"), torch.amp.GradScaler("cpu", growth_interval=20)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scales = []
    for fine in finite:
        theirs.scale(weight.sum()).backward()
        assert weight.grad is not None
        if not fine:
            weight.grad.fill_(math.inf)
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours.follow(1.0 if fine else math.inf)
        scales.append((ours.value, theirs.get_scale()))
    assert all(a == b for a, b in scales)
    assert {a for a, _ in scales} == {FIRST / 2, FIRST, 2 * FIRST}


def test_a_resumed_run_of_float16_is_the_same_to_the_last_bit(tiny_data: Shards) -> None:
    straight, _ = overflowing(tiny_data, FIRST / 4, 8)
    first, _ = overflowing(tiny_data, FIRST / 4, 8)
    objective = Overflowing(FIRST / 4)
    half = make(tiny_data, ADAMW, steps=8, device=HALF, objective=objective)
    objective.scale = half.scale
    source = Loader(tiny_data.train, tiny.CONTEXT, 0, True)
    for step in range(5):
        half.take_step(source.batch(4 * step, 4))
    data, tensors = half.state()
    assert data["scale"] == {"value": FIRST / 4, "steps": 3}
    objective = Overflowing(FIRST / 4)
    rest = make(tiny_data, ADAMW, steps=8, device=HALF, objective=objective)
    objective.scale = rest.scale
    rest.model.load_state_dict(half.model.state_dict())
    rest.restore(data, tensors)
    assert rest.scale.value == FIRST / 4
    rest.fit()
    for other in (first, rest):
        assert all(torch.equal(a, b) for a, b in zip(weights(straight).values(), weights(other).values(), strict=True))
        assert other.scale.state() == straight.scale.state()


def test_other_formats_have_no_scale(tiny_data: Shards) -> None:
    made = make(tiny_data, ADAMW)
    assert made.state()[0]["scale"] == {}
    made.scale.restore({"value": 4.0, "steps": 1})
    assert made.scale.value == 1.0


# ---- float8 ------------------------------------------------------------------------------------------------


def test_float8_reaches_the_layers_of_the_blocks_and_keeps_their_weights() -> None:
    pytest.importorskip("torchao", reason="comes with the extra train")
    torch.manual_seed(0)
    model = Decoder(tiny.model_config(tied=False))
    before, names = {n: p.clone() for n, p in model.state_dict().items()}, list(dict(model.named_parameters()))
    ids = torch.randint(tiny.VOCABULARY, (2, 16))
    exact = model.hidden(ids)
    found = to_float8(model, emulate=True)
    assert len(found) == 2 * 7
    assert all(name.startswith("blocks.") for name in found)
    assert list(dict(model.named_parameters())) == names
    assert all(torch.equal(before[n], p) for n, p in model.state_dict().items())
    check_masters(model.named_parameters())
    rough = model.hidden(ids)
    assert not torch.equal(rough, exact)
    assert (rough - exact).norm() < 0.2 * exact.norm()
    rough.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.blocks.parameters())
