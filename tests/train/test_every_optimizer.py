"""What holds for each registered optimizer and schedule: it learns, accumulates, keeps float32, and resumes to the last
bit. A new one is met by these tests as soon as it is registered."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabula import checkpoint
from fabula.config import build, to_data
from fabula.data.loader import Loader
from fabula.data.shards import Shards
from fabula.device import Device
from fabula.errors import Stopped
from fabula.model.decoder import Decoder
from fabula.plan.estimate import state_bytes
from fabula.progress import StopFlag
from fabula.tokenizer.base import Tokenizer
from fabula.train.clipping import clip_gradients
from fabula.train.objective import NextToken
from fabula.train.optimizers import OptimizerConfig, SophiaConfig, optimizers
from fabula.train.schedules import Cosine, ScheduleConfig, WarmupStableDecay, schedules
from fabula.train.sophia import Sophia
from fabula.train.trainer import Callback, StepRecord, Trainer
from tests import tiny

CPU = Device("cpu", "float32", 1, "a test")

# Small steps between estimates, so that few steps see some.
CHANGES: dict[str, dict[str, Any]] = {"sophia": {"every": 3}}


def every_optimizer() -> list[OptimizerConfig]:
    """Each kind with every part of it at work: decay, momentum, caution."""
    found = []
    for name in optimizers:
        made = optimizers.get(name)
        fields = made.__dataclass_fields__
        wanted = {"weight_decay": 0.1, **({"cautious": True} if "cautious" in fields else {}), **CHANGES.get(name, {})}
        found.append(build(made, wanted))
    return found


EVERY = pytest.mark.parametrize("config", every_optimizer(), ids=list(optimizers))
KINDS = pytest.mark.parametrize("kind", list(optimizers))
SCHEDULES = pytest.mark.parametrize("schedule", [schedules.get(n)() for n in schedules], ids=list(schedules))


class Record(Callback):
    def __init__(self, stop: StopFlag | None = None, at: int = 0) -> None:
        self.records: list[StepRecord] = []
        self.stop, self.at = stop, at

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        self.records.append(record)
        if self.stop is not None and record.step == self.at:
            self.stop.signal_number = 2

    @property
    def losses(self) -> list[float]:
        return [r.loss for r in self.records]


def make(data: Shards, config: OptimizerConfig, steps: int = 8, **over: Any) -> Trainer:
    torch.manual_seed(3)
    # Dropout makes the generators matter.
    model = Decoder(tiny.model_config(dropout=over.pop("dropout", 0.1)))
    settings: dict[str, Any] = dict(
        model=model,
        objective=NextToken(),
        optimizers=config.build(model),
        schedule=WarmupStableDecay(warmup=0.1, final=0.0, decay=0.5),
        source=Loader(data.train, tiny.CONTEXT, 0, True),
        steps=steps,
        batch_rows=4,
        micro_rows=4,
        clip=1.0,
        device=CPU,
        stop=StopFlag(),
    )
    return Trainer(**{**settings, **over})


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {n: t.detach().contiguous().numpy().tobytes() for n, t in tensors.items()}


def eight_is_four_and_four(
    data: Shards, tokenizer: Tokenizer, folder: Path, config: OptimizerConfig, schedule: ScheduleConfig
) -> None:
    """8 steps straight, and 4 steps, a checkpoint on disk, and 4 steps of another process' worth of state."""
    straight_record = Record()
    straight = make(data, config, schedule=schedule, callbacks=(straight_record,))
    straight.fit()
    stop = StopFlag()
    first_record = Record(stop, 4)
    first = make(data, config, schedule=schedule, callbacks=(first_record,), stop=stop)
    with pytest.raises(Stopped):
        first.fit()
    state, tensors = first.state()
    assert isinstance(first.model, Decoder)
    saved = checkpoint.save(folder, 4, first.model, tokenizer, state, tensors, {})
    torch.manual_seed(99)
    second_record = Record()
    second = make(data, config, schedule=schedule, callbacks=(second_record,))
    with torch.no_grad():
        for p in second.model.parameters():
            p.add_(1.0)
    assert isinstance(second.model, Decoder)
    checkpoint.restore_weights(second.model, saved)
    second.restore(*checkpoint.trainer_state(saved))
    second.fit()
    assert tiny.same(first_record.losses + second_record.losses, straight_record.losses)
    assert bits(dict(second.model.state_dict())) == bits(dict(straight.model.state_dict()))
    ended, expected = second.state()[1], straight.state()[1]
    assert {n: (t.dtype, t.shape) for n, t in ended.items()} == {n: (t.dtype, t.shape) for n, t in expected.items()}
    assert bits(ended) == bits(expected)


@EVERY
def test_eight_steps_are_four_and_four(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, config: OptimizerConfig
) -> None:
    eight_is_four_and_four(tiny_data, tiny_tokenizer, tmp_path, config, Cosine(warmup=0.2))


@SCHEDULES
def test_eight_steps_are_four_and_four_with_each_schedule(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, schedule: ScheduleConfig
) -> None:
    eight_is_four_and_four(tiny_data, tiny_tokenizer, tmp_path, optimizers.get("sgd")(), schedule)


@KINDS
def test_it_learns_with_its_own_settings(tiny_data: Shards, kind: str) -> None:
    record = Record()
    make(tiny_data, optimizers.get(kind)(), steps=40, dropout=0.0, callbacks=(record,)).fit()
    assert record.losses[0] == pytest.approx(math.log(tiny.VOCABULARY), abs=0.3)
    assert np.mean(record.losses[-5:]) < record.losses[0] - 0.5, record.losses[-5:]


@EVERY
def test_accumulation_changes_nothing_but_memory(tiny_data: Shards, config: OptimizerConfig) -> None:
    if isinstance(config, SophiaConfig):
        # Where h begins at nothing, the sign of a rounding error decides: more weight keeps that apart.
        config = SophiaConfig(every=2, gamma=10.0, lr=1e-3)
    found = []
    for micro in (4, 3, 1):
        record = Record()
        trainer = make(tiny_data, config, steps=6, dropout=0.0, micro_rows=micro, callbacks=(record,))
        trainer.fit()
        found.append(record.losses)
    for losses in found[1:]:
        assert losses == pytest.approx(found[0], abs=2e-4)


@EVERY
def test_mistake_8_masters_and_state_stay_float32(
    tiny_data: Shards, config: OptimizerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where products are of bfloat16, weights, gradients and everything that an optimizer keeps are not."""
    gradients = set()
    move = Trainer._move

    def watching(self: Trainer) -> None:
        gradients.update(p.grad.dtype for p in self.model.parameters() if p.grad is not None)
        move(self)

    monkeypatch.setattr(Trainer, "_move", watching)
    halved = Device("cpu", "bfloat16", 1, "a test")
    trainer = make(tiny_data, config, steps=2, batch_rows=1, micro_rows=1, device=halved)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.fit()
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(trainer.model.parameters(), before, strict=True))
    assert gradients == {torch.float32}
    assert {t.dtype for o in trainer.optimizers for s in o.state.values() for t in s.values()} == {torch.float32}


@EVERY
def test_what_it_keeps_is_what_the_plan_says(tiny_data: Shards, config: OptimizerConfig) -> None:
    trainer = make(tiny_data, config, steps=2)
    trainer.fit()
    kept = sum(t.nbytes for o in trainer.optimizers for s in o.state.values() for t in s.values() if t.ndim)
    assert isinstance(trainer.model, Decoder)
    made = trainer.model.config
    planned = state_bytes(made, str(to_data(config)["kind"])) - 8 * made.n_params()
    # Vectors among the matrices' modules (norms of queries and keys), and Adafactor's rows and columns.
    assert abs(kept - planned) < 0.06 * 8 * made.n_params(), (kept, planned)


# ---- what Sophia asks for ----------------------------------------------------------------------------------


def test_sophia_is_given_estimates_at_its_steps(tiny_data: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    usual = Sophia.estimate
    trainer = make(tiny_data, SophiaConfig(every=3), steps=7)

    def watching(self: Sophia, count: int) -> None:
        asked.append((trainer.step, count))
        usual(self, count)

    monkeypatch.setattr(Sophia, "estimate", watching)
    trainer.fit()
    assert asked == [(0, 128), (3, 128), (6, 128)]
    assert all(bool((s["hessian"] >= 0).all()) for s in trainer.optimizers[0].state.values())
    assert any(bool((s["hessian"] > 0).any()) for s in trainer.optimizers[0].state.values())


def test_the_usual_gradient_is_what_moves_the_weights(tiny_data: Shards) -> None:
    """An estimate leaves the gradient of the step as it would be without it."""
    batch = Loader(tiny_data.train, tiny.CONTEXT, 0, True).batch(0, 4)
    trainer = make(tiny_data, SophiaConfig(every=1, beta1=0.5), dropout=0.0)
    trainer.take_step(batch)
    assert all(p.grad is None for p in trainer.model.parameters())
    plain = make(tiny_data, SophiaConfig(), dropout=0.0)
    NextToken()(plain.model, batch).total.div(batch.n_targets).backward()
    clip_gradients(list(plain.model.parameters()), 1.0)
    for p, q in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert q.grad is not None
        assert torch.allclose(trainer.optimizers[0].state[p]["exp_avg"], 0.5 * q.grad, atol=1e-7)


def test_an_estimate_that_is_not_finite_is_left_out(tiny_data: Shards) -> None:
    class Torn(NextToken):
        def drawn(self, model: Any, batch: Any, chances: torch.Tensor) -> Any:
            made = super().drawn(model, batch, chances)
            return type(made)(made.total * math.inf, made.count)

    record = Record()
    trainer = make(tiny_data, SophiaConfig(every=2), steps=4, objective=Torn(), callbacks=(record,))
    trainer.fit()
    assert all(r.unapplied is None for r in record.records)
    assert all(bool((s["hessian"] == 0).all()) for s in trainer.optimizers[0].state.values())
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_step_that_is_not_applied_leaves_the_curvature_alone(tiny_data: Shards) -> None:
    class Torn(NextToken):
        def __call__(self, model: Any, batch: Any) -> Any:
            made = super().__call__(model, batch)
            return type(made)(made.total * math.nan, made.count)

    trainer = make(tiny_data, SophiaConfig(every=1), steps=2, objective=Torn())
    trainer.fit()
    assert not trainer.optimizers[0].state
