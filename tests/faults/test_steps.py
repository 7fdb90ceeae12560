"""Steps that go wrong: numbers that are not finite, spikes, nothing to predict, no memory, no data (rows R1 to R5)."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fabula import checkpoint, pipeline, storage
from fabula.data.batch import Batch
from fabula.data.loader import Loader
from fabula.data.shards import Shards
from fabula.device import Device
from fabula.errors import DivergedError, MachineError, Stopped
from fabula.generate.config import GenerateConfig
from fabula.losses import IGNORE, linear_cross_entropy_explicit
from fabula.model.decoder import Decoder
from fabula.progress import Silent, StopFlag
from fabula.train import callbacks, speed
from fabula.train.callbacks import Metrics
from fabula.train.config import TrainConfig
from fabula.train.guard import Guard
from fabula.train.objective import Loss, NextToken
from fabula.train.optimizers import AdamWConfig, MuonConfig, OptimizerConfig
from fabula.train.planning import make_plan
from fabula.train.schedules import WarmupStableDecay
from fabula.train.speed import Speed
from fabula.train.spikes import WINDOW, Spikes
from fabula.train.trainer import Callback, StepRecord, Trainer
from tests import tiny
from tests.faults.alike import assert_alike

CPU = Device("cpu", "float32", 1, "a test")
OPTIMIZERS: dict[str, OptimizerConfig] = {
    "adamw": AdamWConfig(lr=3e-3, weight_decay=0.1),
    "muon": MuonConfig(lr=0.02, weight_decay=0.1, table_lr=6e-3, vector_lr=6e-3),
}
SCHEDULE = WarmupStableDecay(warmup=0.1, final=0.0, decay=0.5)
SPEED = Speed(step=0.1, evaluation_row=0.01, sampled_token=0.001, save=0.05)


class Record(Callback):
    """Keeps what the trainer says."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        self.records.append(record)

    @property
    def unapplied(self) -> list[int]:
        return [r.step for r in self.records if r.unapplied is not None]


class Watched(Loader):
    """A loader that remembers which batches went out."""

    def __init__(self, data: Shards) -> None:
        super().__init__(data.train, tiny.CONTEXT, 0, True)
        self.given: list[tuple[int, int]] = []

    def batch(self, position: int, rows: int) -> Batch:
        self.given.append((position, rows))
        return super().batch(position, rows)


def make(data: Shards, optimizer: str = "muon", callbacks: tuple[Callback, ...] = (), **over: Any) -> Trainer:
    torch.manual_seed(3)
    model = Decoder(tiny.model_config())
    settings: dict[str, Any] = dict(
        model=model,
        objective=NextToken(),
        optimizers=OPTIMIZERS[optimizer].build(model),
        schedule=SCHEDULE,
        source=Loader(data.train, tiny.CONTEXT, 0, True),
        steps=8,
        batch_rows=4,
        micro_rows=4,
        clip=1.0,
        device=CPU,
        stop=StopFlag(),
        callbacks=callbacks,
    )
    return Trainer(**{**settings, **over})


def digest(trainer: Trainer) -> tuple[str, str]:
    """SHA-256 of the weights, and of the optimizer's tensors."""
    found = []
    tensors = {n: t for n, t in trainer.state()[1].items() if not n.startswith("rng.")}
    for named in (trainer.model.state_dict(), tensors):
        made = hashlib.sha256()
        for name, tensor in sorted(named.items()):
            made.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
        found.append(made.hexdigest())
    return found[0], found[1]


def plant(monkeypatch: pytest.MonkeyPatch, place: str, steps: Callable[[int], bool], value: float) -> None:
    """Put a value into the loss, one gradient or one weight at some steps of every trainer but the measuring one."""
    accumulate = Trainer._accumulate

    def planted(self: Trainer, batch: Batch, count: int, chances: torch.Tensor | None) -> float:
        if self.steps == 1_000_000 or not steps(self.step + 1):
            return accumulate(self, batch, count, chances)
        parameter = dict(self.model.named_parameters())["blocks.1.ffn.down.weight"]
        if place == "weight":
            parameter.data.view(-1)[5] = value
        whole = self.objective
        if place == "loss":

            def objective(model: nn.Module, part: Batch) -> Loss:
                made = whole(model, part)
                return Loss(made.total * value, made.count)

            self.objective = objective
        try:
            total = accumulate(self, batch, count, chances)
        finally:
            self.objective = whole
        if place == "gradient":
            assert parameter.grad is not None
            parameter.grad.view(-1)[5] = value
        return total

    monkeypatch.setattr(Trainer, "_accumulate", planted)


@pytest.fixture
def one_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs have one plan only if both measure the same."""
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)


def assert_finite(run: Path) -> int:
    """Every weight of every checkpoint is a number; returns how many checkpoints there are."""
    found = checkpoint.checkpoints(run)
    for one in found:
        for name, tensor in load_file(one.path / checkpoint.WEIGHTS).items():
            assert bool(tensor.isfinite().all()), f"{one.path.name}: {name}"
    return len(found)


# ---- R1: what is not finite ---------------------------------------------------------------------------------


@pytest.mark.row("R1", cases=1)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("value", "micro"), [(math.nan, 4), (math.nan, 1), (math.inf, 4), (math.inf, 3), (-math.inf, 2)]
)
@pytest.mark.parametrize("place", ["loss", "gradient", "weight"])
def test_a_step_that_is_not_finite_is_not_applied(
    tiny_data: Shards,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    value: float,
    micro: int,
    optimizer: str,
    cases: int,
) -> None:
    record, loader = Record(), Loader(tiny_data.train, tiny.CONTEXT, 0, True)
    guard = Guard(tmp_path / "unapplied.jsonl", 99, loader, Silent())
    trainer = make(tiny_data, optimizer, (record, guard), micro_rows=micro)
    plant(monkeypatch, place, lambda step: step == 4, value)
    trainer.steps = 3
    trainer.fit()
    if place == "weight":  # as it will be planted: the step itself must not move anything
        dict(trainer.model.named_parameters())["blocks.1.ffn.down.weight"].data.view(-1)[5] = value
    before = digest(trainer)
    trainer.steps = 4
    trainer.fit()
    assert digest(trainer) == before
    (line,) = storage.read_json_lines(tmp_path / "unapplied.jsonl")
    epochs, starts = loader.places(12, 4)
    assert (line["step"], line["rows"], line["epochs"], line["token_positions"]) == (4, [12, 16], epochs, starts)
    assert line["bad_gradients"] == len(line["gradients"]) or line["bad_gradients"] > 20
    assert line["bad_weights"] == (place == "weight")
    assert isinstance(line["loss"], float) == (place == "gradient")
    if place == "gradient":
        assert line["gradients"] == {"blocks.1.ffn.down.weight": str(abs(value))}
    assert line["grad_norm"] in ("nan", "inf")
    assert "not finite" in line["reason"]
    trainer.steps = 6
    trainer.fit()
    if place == "weight":
        assert record.unapplied == [4, 5, 6], "a weight does not heal"
        assert [r["in_a_row"] for r in storage.read_json_lines(tmp_path / "unapplied.jsonl")] == [1, 2, 3]
        assert digest(trainer) == before
    else:
        assert record.unapplied == [4]
        assert digest(trainer) != before


@pytest.mark.row("R1", cases=1)
@pytest.mark.parametrize("in_a_row", [3, 2])
@pytest.mark.parametrize("place", ["loss", "gradient", "weight"])
def test_too_many_in_a_row_end_the_run(
    tmp_path: Path, one_speed: None, monkeypatch: pytest.MonkeyPatch, place: str, in_a_row: int, cases: int
) -> None:
    plant(monkeypatch, place, lambda step: step >= 9, math.nan)
    with pytest.raises(DivergedError) as caught:
        pipeline.run(tiny.write_recipe(tmp_path), {"train.unapplied": in_a_row}, runs=tmp_path)
    assert caught.value.exit_code == 1
    told = str(caught.value)
    assert f"in {in_a_row} steps in a row" in told
    assert "the newest checkpoint is of step 6" in told
    for advice in ("--train.optimizer.lr", "--name", "unapplied.jsonl"):
        assert advice in told
    run = tmp_path / "tiny"
    assert storage.read_json(run / "summary.json")["status"] == "diverged"
    lines = storage.read_json_lines(run / "unapplied.jsonl")
    assert [r["step"] for r in lines] == list(range(9, 9 + in_a_row))
    assert assert_finite(run) == 1


@pytest.mark.row("R1", cases=3)
def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, one_speed: None, monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    """A save may come before the run is given up: it refuses, and what was saved stays."""
    for number, value in zip(range(cases), (math.nan, math.inf, -math.inf), strict=True):
        with monkeypatch.context() as patch:
            plant(patch, "weight", lambda step: step >= 9, value)
            with pytest.raises(DivergedError, match="not saved, and nothing older was touched"):
                pipeline.run(tiny.write_recipe(tmp_path), {"train.save_steps": 3}, name=f"run-{number}", runs=tmp_path)
        run = tmp_path / f"run-{number}"
        assert storage.read_json(run / "summary.json")["status"] == "diverged"
        assert assert_finite(run) == 2
        newest = checkpoint.last(run)
        assert newest is not None
        assert newest.step == 6
        assert not list((run / "checkpoints").glob(".writing-*"))


@pytest.mark.row("R1", cases=3, nightly=6)
def test_a_run_with_a_bad_step_is_exact_when_resumed(
    tmp_path: Path, one_speed: None, monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    path = tiny.write_recipe(tmp_path)
    done = 0
    for place in ("loss", "gradient")[: cases // 3]:
        plant(monkeypatch, place, lambda step: step == 9, math.nan)
        settings = {"train.budget": "12steps"}
        pipeline.run(path, settings, name=f"{place}-straight", runs=tmp_path)
        assert len(storage.read_json_lines(tmp_path / f"{place}-straight" / "unapplied.jsonl")) == 1
        for at in (8, 9, 10):
            name = f"{place}-{at}"
            with monkeypatch.context() as patch:
                take = Trainer.take_step

                def stopping(self: Trainer, batch: Batch, at: int = at, take: Any = take) -> StepRecord:
                    made: StepRecord = take(self, batch)
                    if self.step == at:
                        self.stop.signal_number = 15
                    return made

                patch.setattr(Trainer, "take_step", stopping)
                with pytest.raises(Stopped):
                    pipeline.run(path, settings, name=name, runs=tmp_path)
            pipeline.resume(tmp_path / name)
            assert_alike(tmp_path / f"{place}-straight", tmp_path / name, name)
            done += 1
        monkeypatch.undo()
        monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)
    assert done == cases


# ---- R2: spikes ---------------------------------------------------------------------------------------------


@pytest.mark.row("R2", cases=20, nightly=500)
def test_planted_spikes_are_skipped_and_nothing_else(cases: int) -> None:
    """A falling, noisy curve with spikes of loss or norm in it."""
    for number in range(cases):
        chance = np.random.default_rng(number)
        # What is skipped widens the window: a second one within 128 steps is always seen, a third not always.
        planted = {*range(int(chance.integers(WINDOW + 1, 180)), 600, int(chance.integers(65, 130)))}
        spikes, idle = Spikes(6.0), Spikes(0.0)
        found = []
        for step in range(600):
            loss = 2 + 3 * math.exp(-step / 200) + chance.normal(0, 0.05)
            norm = 0.6 + chance.normal(0, 0.03)
            if step in planted:
                loss, norm = (loss * 4, norm) if number % 2 else (loss, norm * 20)
            assert idle.judge(loss, norm) is None
            if spikes.judge(loss, norm) is not None:
                found.append(step)
        assert found == sorted(planted), number


@pytest.mark.row("R2", cases=2)
def test_a_trainer_skips_the_planted_steps(tiny_data: Shards, monkeypatch: pytest.MonkeyPatch, cases: int) -> None:
    planted = {140, 141, 170}
    plant(monkeypatch, "loss", lambda step: step in planted, 30.0)
    done = 0
    for sigma, expected in ((6.0, sorted(planted)), (0.0, [])):
        record = Record()
        trainer = make(tiny_data, "adamw", (record,), steps=200, skip_spikes=sigma)
        before: dict[int, tuple[str, str]] = {}

        class Keep(Callback):
            def on_step(self, trainer: Trainer, record: StepRecord, before: Any = before) -> None:
                before[record.step] = digest(trainer)

        trainer.callbacks.append(Keep())
        trainer.fit()
        assert record.unapplied == expected
        for step in expected:
            assert before[step] == before[step - 1], "a skipped step moves nothing"
            found = record.records[step - 1].unapplied
            assert found is not None
            assert "spike" in found.reason
            assert found.in_row == 0, "spikes do not end a run"
        done += 1
    assert done == cases


@pytest.mark.row("R2", cases=3)
def test_nothing_that_is_not_finite_enters_the_window(
    tiny_data: Shards, monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    for place in ("loss", "gradient", "loss")[:cases]:
        with monkeypatch.context() as patch:
            plant(patch, place, lambda step: step in (3, 5), math.nan)
            record = Record()
            trainer = make(tiny_data, callbacks=(record,), skip_spikes=6.0)
            trainer.fit()
        state = trainer.spikes.state()
        assert record.unapplied == [3, 5]
        assert [len(state[name]) for name in ("losses", "norms")] == [6, 6]
        assert all(math.isfinite(x) for name in state for x in state[name])


@pytest.mark.row("R2", cases=20, nightly=500)
def test_a_lasting_change_of_level_locks_nothing_out(cases: int) -> None:
    for number in range(cases):
        chance = np.random.default_rng(number)
        spikes, factor = Spikes(6.0), 1.5 + number % 10
        for _ in range(300):
            spikes.judge(2 + chance.normal(0, 0.02), 1 + chance.normal(0, 0.02))
        skipped = [
            spikes.judge(2 * factor + chance.normal(0, 0.02), factor + chance.normal(0, 0.02)) is not None
            for _ in range(300)
        ]
        assert skipped[0]
        assert sum(skipped) <= 8, f"{sum(skipped)} steps skipped after a change by {factor}"
        assert not any(skipped[10:])


@pytest.mark.row("R2", cases=2, nightly=4)
def test_the_window_survives_a_resume(tiny_data: Shards, monkeypatch: pytest.MonkeyPatch, cases: int) -> None:
    planted = {140, 150}
    plant(monkeypatch, "loss", lambda step: step in planted, 30.0)
    record = Record()
    straight = make(tiny_data, callbacks=(record,), steps=160, skip_spikes=6.0)
    straight.fit()
    assert record.unapplied == sorted(planted)
    for at in (60, 141, 139, 140)[:cases]:
        first = make(tiny_data, steps=160, skip_spikes=6.0)
        first.steps = at
        first.fit()
        first.steps = 160
        data, tensors = first.state()
        second = make(tiny_data, callbacks=(after := Record(),), steps=160, skip_spikes=6.0)
        second.model.load_state_dict(first.model.state_dict())
        second.restore(json.loads(json.dumps(data)), tensors)
        assert second.spikes.state() == first.spikes.state()
        second.fit()
        # `first` was planned for fewer steps: the schedule is another one, the window is what it saw.
        assert after.unapplied == [step for step in sorted(planted) if step > at]
        assert len(second.spikes.state()["losses"]) == WINDOW


# ---- R3: nothing to predict ---------------------------------------------------------------------------------


def layout(number: int, data: Shards) -> tuple[Batch, int]:
    """A batch with ignored targets, and the rows to compute at once."""
    chance = np.random.default_rng(number)
    rows = int(chance.integers(2, 8))
    micro = int(chance.integers(1, rows + 1))
    whole = Loader(data.train, tiny.CONTEXT, number, number % 2 == 0).batch(number, rows)
    hidden = np.zeros((rows, tiny.CONTEXT), dtype=bool)
    kind = number % 5
    if kind == 0:  # rows
        hidden[chance.choice(rows, size=rows - 1, replace=False)] = True
    elif kind == 1:  # the first micro-batch (all but one row of a batch that has no second)
        hidden[: min(micro, rows - 1)] = True
    elif kind == 2:  # the last micro-batch
        hidden[max(1, (rows - 1) // micro * micro) :] = True
    elif kind == 3:  # rows, and places of the others, as prompts are
        hidden[int(chance.integers(rows))] = True
        hidden[:, : int(chance.integers(1, tiny.CONTEXT))] = True
        hidden[int(chance.integers(rows)), -1] = False
    else:  # all but one prediction
        hidden[:] = True
        hidden[int(chance.integers(rows)), int(chance.integers(tiny.CONTEXT))] = False
    targets = whole.targets.masked_fill(torch.from_numpy(hidden), IGNORE)
    return Batch(whole.tokens, targets, whole.positions, whole.documents), micro


def reference(model: Decoder, batch: Batch) -> tuple[float, list[Tensor]]:
    """Loss and gradients of a batch without the rows that predict nothing, written out."""
    kept = (batch.targets != IGNORE).any(dim=1)
    parts = [None if t is None else t[kept] for t in (batch.tokens, batch.targets, batch.positions, batch.documents)]
    tokens, targets, positions, documents = parts
    assert tokens is not None
    assert targets is not None
    hidden = model.hidden(tokens, positions, documents)
    total = linear_cross_entropy_explicit(hidden.flatten(0, 1), model.head_weight, targets.flatten(), model.head_bias)
    loss = total / int((targets != IGNORE).sum())
    made = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    return float(loss.detach()), [torch.zeros(()) if g is None else g for g in made]


@pytest.mark.row("R3", cases=40, nightly=1000)
def test_rows_without_a_prediction_add_nothing(tiny_data: Shards, cases: int) -> None:
    trainer = make(tiny_data, clip=0.0, optimizers=[], steps=cases)
    assert isinstance(trainer.model, Decoder)
    # Where the gradient of the output begins at zero weights it is zero: weights that are not tell more.
    torch.manual_seed(11)
    for p in trainer.model.parameters():
        p.data.add_(torch.randn_like(p) * 0.05)
    masked = 0
    for number in range(cases):
        batch, micro = layout(number, tiny_data)
        trainer.batch_rows, trainer.micro_rows = batch.tokens.shape[0], micro
        rows = (batch.targets != IGNORE).any(dim=1)
        masked += int((~rows).sum())
        assert bool(rows.any())
        expected, gradients = reference(trainer.model, batch)
        record = trainer.take_step(batch)
        assert record.unapplied is None
        assert record.loss == pytest.approx(expected, abs=1e-5)
        for p, g in zip(trainer.model.parameters(), gradients, strict=True):
            assert p.grad is not None
            assert bool(p.grad.isfinite().all())
            assert float((p.grad - g).abs().max()) <= 1e-6 * max(1.0, float(g.abs().max())), f"layout {number}"
            p.grad = None
    assert masked >= cases
    assert trainer.tokens < trainer.step * 8 * tiny.CONTEXT


@pytest.mark.row("R3", cases=8)
@pytest.mark.parametrize("sigma", [0.0, 6.0])
def test_a_step_without_any_prediction_counts_nothing(
    tiny_data: Shards, tmp_path: Path, sigma: float, cases: int
) -> None:
    class Masked(Loader):
        """Some batches of it have no target."""

        def batch(self, position: int, rows: int) -> Batch:
            made = super().batch(position, rows)
            if position // rows not in (2, 3, 4, 5):
                return made
            return Batch(made.tokens, torch.full_like(made.targets, IGNORE), made.positions, made.documents)

    done = 0
    for optimizer in ("adamw", "muon"):
        for micro in (4, 3, 2, 1):
            name = f"{optimizer}-{micro}"
            record = Record()
            metrics = Metrics(tmp_path / f"{name}.jsonl", 4, 1.0)
            loader = Masked(tiny_data.train, tiny.CONTEXT, 0, True)
            guard = Guard(tmp_path / f"{name}-unapplied.jsonl", 3, loader, Silent())
            trainer = make(
                tiny_data, optimizer, (record, metrics, guard), micro_rows=micro, source=loader, skip_spikes=sigma
            )
            seen: list[Any] = []

            class Seen(Callback):
                def on_step(self, trainer: Trainer, record: StepRecord, seen: Any = seen) -> None:
                    seen.append((digest(trainer), trainer.tokens))

            trainer.callbacks.append(Seen())
            trainer.fit()
            assert seen[1] == seen[5] != seen[6]
            assert record.unapplied == [3, 4, 5, 6], "four in a row do not end the run either"
            assert all(math.isnan(r.loss) for r in record.records[2:6])
            lines = storage.read_json_lines(tmp_path / f"{name}.jsonl")
            assert [(line["step"], line.get("unapplied", 0)) for line in lines] == [(1, 0), (4, 2), (8, 2)]
            # Lines average the steps that had a loss; a 0 among them would look like success.
            assert lines[1]["loss"] == record.records[1].loss
            assert lines[2]["loss"] == pytest.approx(np.mean([r.loss for r in record.records[6:]]))
            reasons = [r["reason"] for r in storage.read_json_lines(tmp_path / f"{name}-unapplied.jsonl")]
            assert reasons == ["none of its rows has anything to predict"] * 4
            if sigma:
                assert len(trainer.spikes.state()["losses"]) == 4
            done += 1
    assert done == cases


# ---- R4: out of memory --------------------------------------------------------------------------------------

SHORT: dict[str, Callable[[], Exception]] = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "python": lambda: MemoryError(),
    "allocator": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)"
    ),
}


class _FailsBackward(torch.autograd.Function):
    """Hands its input on; going back there is no memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, error: Callable[[], Exception]) -> Tensor:
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise ctx.error()


class Hungry:
    """Next-token prediction with noise of the global generator, which fits no more than some rows at once."""

    def __init__(self, most: int, error: str = "torch", where: str = "forward", from_step: int = 1) -> None:
        self.most, self.error, self.where, self.from_step = most, SHORT[error], where, from_step
        self.trainer: Trainer | None = None
        self.noise = True
        self.failed = 0

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        made = NextToken()(model, batch)
        total = made.total
        if self.noise:
            total = total * (0.5 + torch.rand(()))  # drawn before the failure: it must be undone
        rows = batch.tokens.shape[0]
        if rows > self.most and (self.trainer is None or self.trainer.step + 1 >= self.from_step):
            self.failed += 1
            if self.where == "forward":
                raise self.error()
            total = _FailsBackward.apply(total, self.error)  # type: ignore[no-untyped-call]
        return Loss(total, made.count)


def halved(rows: int, most: int) -> int:
    """The rows at once that are left when no more than `most` fit."""
    while rows > most:
        rows //= 2
    return rows


# batch rows, rows at once, rows that fit, the error, where, at which step first
OUT_OF_MEMORY = [
    *[(7, 7, 3, "torch", "forward", 1), (7, 7, 2, "python", "forward", 1), (7, 7, 6, "allocator", "backward", 1)],
    *[(6, 6, 1, "torch", "backward", 1), (5, 5, 4, "python", "backward", 1), (12, 12, 5, "allocator", "forward", 1)],
    *[(7, 5, 3, "torch", "forward", 1), (13, 9, 2, "python", "forward", 1), (3, 3, 2, "allocator", "backward", 1)],
    *[(9, 9, 1, "torch", "forward", 1), (11, 7, 6, "allocator", "forward", 1), (10, 10, 3, "python", "backward", 1)],
    *[(7, 7, 3, "torch", "forward", 4), (7, 7, 1, "python", "backward", 2), (6, 6, 2, "allocator", "forward", 5)],
    *[(5, 5, 2, "torch", "backward", 3), (12, 12, 7, "python", "forward", 4), (9, 9, 4, "allocator", "backward", 2)],
    *[(13, 13, 3, "torch", "forward", 5), (3, 3, 1, "allocator", "forward", 3)],
]


def trained(
    data: Shards, objective: Any, rows: int, micro: int, optimizer: str, switch: tuple[int, int] = (0, 0)
) -> Any:
    """Five steps: the trainer, its records, what it told, the batches it read. `switch`: a step, and rows at once."""
    record, loader, notes = Record(), Watched(data), []

    class Switch(Callback):
        def on_step(self, trainer: Trainer, record: StepRecord) -> None:
            if record.step + 1 == switch[0]:
                trainer.micro_rows = switch[1]

    trainer = make(
        data,
        optimizer,
        (record, Switch()),
        objective=objective,
        steps=5,
        batch_rows=rows,
        micro_rows=micro,
        source=loader,
        note=notes.append,
    )
    if isinstance(objective, Hungry):
        objective.trainer = trainer
    trainer.fit()
    return trainer, record.records, notes, loader.given


@pytest.mark.row("R4", cases=1)
@pytest.mark.parametrize("case", OUT_OF_MEMORY, ids=lambda c: "-".join(map(str, c)))
def test_fewer_rows_at_once_and_the_same_run(tiny_data: Shards, case: Any, cases: int) -> None:
    rows, micro, most, error, where, step = case
    optimizer = "adamw" if rows % 2 else "muon"
    hungry = Hungry(most, error, where, step)
    made, records, notes, given = trained(tiny_data, hungry, rows, micro, optimizer)
    small = halved(micro, most)
    assert made.micro_rows == small < micro
    assert hungry.failed == len(notes)
    assert all("out of memory with" in note and "GB free" in note for note in notes)
    assert notes[-1].startswith(f"step {step}: ")
    # The same as if it had been known before; to the bit, noise and all.
    enough = Hungry(10**6)
    if step == 1:
        other, expected, _, others = trained(tiny_data, enough, rows, small, optimizer)
    else:
        other, expected, _, others = trained(tiny_data, enough, rows, micro, optimizer, (step, small))
    assert digest(made) == digest(other)
    for a, b in zip(records, expected, strict=True):
        assert (a.step, a.tokens, a.lr, a.loss, a.grad_norm) == (b.step, b.tokens, b.lr, b.loss, b.grad_norm)
    assert given[: len(others)] == others[: len(given)], "the same samples in the same order"
    assert torch.equal(made.state()[1]["rng.torch"], other.state()[1]["rng.torch"])
    if step == 1:
        return
    # And but for rounding it is the run that began with few rows (noise is per micro-batch: without it).
    hungry, enough = Hungry(most, error, where, step), Hungry(10**6)
    hungry.noise = enough.noise = False
    finals = [trained(tiny_data, o, rows, m, optimizer)[1][-1].loss for o, m in ((hungry, micro), (enough, small))]
    assert finals[0] == pytest.approx(finals[1], abs=1e-5)


@pytest.mark.row("R4", cases=3, nightly=6)
def test_when_not_even_one_row_fits(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: int) -> None:
    """In the measuring phase and in the run itself: exit code 3, the numbers, and what is saved is whole."""
    tiny.write_recipe(tmp_path)
    for number in range(cases):
        error = list(SHORT)[number % 3]
        where = "fabula.train.speed.NextToken" if number % 2 else "fabula.train.run.NextToken"
        with monkeypatch.context() as patch:
            patch.setattr(where, lambda error=error: Hungry(0, error))
            code, out, err = cli("run", "tiny.toml", "--name", f"run-{number}")
        assert (code, out) == (3, "")
        assert "out of memory with a single row at once" in err
        assert "GB are free; weights and gradients alone take" in err
        assert "--model.context_length" in err
        assert "Traceback" not in err
        assert storage.read_json(tmp_path / "runs" / f"run-{number}" / "summary.json")["status"] == "stopped"
        assert not checkpoint.checkpoints(tmp_path / "runs" / f"run-{number}")


@pytest.mark.row("R4", cases=2, nightly=4)
def test_no_memory_while_the_weights_move(
    tmp_path: Path, one_speed: None, monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    """One optimizer has moved its weights, the other could not: that state is given up, and nothing of it is saved."""
    path = tiny.write_recipe(tmp_path)
    straight = pipeline.run(path, name="straight", runs=tmp_path).folder
    for number, (error, at) in enumerate([("torch", 1), ("allocator", 9), ("python", 9), ("allocator", 24)][:cases]):
        name = f"run-{number}"
        with monkeypatch.context() as patch:
            build = MuonConfig.build

            def building(self: Any, model: nn.Module, build: Any = build, at: int = at, error: str = error) -> Any:
                made = build(self, model)
                assert len(made) == 2
                steps, step = [0], made[-1].step

                def failing() -> None:
                    steps[0] += 1
                    if steps[0] == at:
                        raise SHORT[error]()
                    step()

                made[-1].step = failing
                return made

            patch.setattr(MuonConfig, "build", building)
            with pytest.raises(MachineError) as caught:
                pipeline.run(path, {"train.save_steps": 5}, name=name, runs=tmp_path)
        assert caught.value.exit_code == 3
        told = str(caught.value)
        assert f"step {at}: out of memory while the optimizer moved the weights" in told
        assert "GB are free" in told
        assert "what is saved is whole" in told
        newest = checkpoint.last(tmp_path / name)
        assert (newest.step if newest else 0) == {1: 0, 9: 6, 24: 23}[at]
        assert storage.read_json(tmp_path / name / "summary.json")["status"] == "stopped"
        pipeline.resume(tmp_path / name)
        assert_alike(straight, tmp_path / name, name)


@pytest.mark.row("R4", cases=3)
def test_no_memory_around_the_steps(
    tmp_path: Path, one_speed: None, monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    """While evaluating, sampling or writing metrics: a clear error, and the run goes on from its checkpoint."""
    path = tiny.write_recipe(tmp_path)
    straight = pipeline.run(path, name="straight", runs=tmp_path).folder
    places = ("Evaluate.evaluate", "Samples.draw", "Metrics.write")
    for place, error in list(zip(places, SHORT, strict=True))[:cases]:
        name = place.split(".")[0].lower()

        owner, attribute = place.split(".")
        whole = getattr(getattr(callbacks, owner), attribute)

        def failing(self: Any, at: Any, *more: Any, error: str = error, whole: Any = whole) -> None:
            if at.step >= 12:
                raise SHORT[error]()
            whole(self, at, *more)

        with monkeypatch.context() as patch:
            patch.setattr(f"fabula.train.callbacks.{place}", failing)
            with pytest.raises(MachineError, match=rf"after step 12: out of memory \({name}\).*GB are free"):
                pipeline.run(path, name=name, runs=tmp_path)
        newest = checkpoint.last(tmp_path / name)
        assert newest is not None
        assert newest.step == 6
        pipeline.resume(tmp_path / name)
        assert_alike(straight, tmp_path / name, name)


@pytest.mark.row("R4", cases=3)
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_measuring_phase_halves_too(
    tiny_data: Shards, monkeypatch: pytest.MonkeyPatch, where: str, cases: int
) -> None:
    monkeypatch.setattr(speed, "_SECONDS", (0.0, 0.01))
    lengths = np.ones(tiny.VOCABULARY, dtype=np.int64)
    done = 0
    for error, (rows, most) in zip(SHORT, ((7, 3), (12, 2), (5, 1)), strict=True):
        monkeypatch.setattr(speed, "NextToken", lambda error=error, most=most: Hungry(most, error, where))
        batch = Loader(tiny_data.train, tiny.CONTEXT, 0, True).batch(0, rows)
        sizes: list[int] = []
        score = speed.score_rows

        def scoring(model: Any, parts: Any, *rest: Any, score: Any = score, sizes: Any = sizes) -> Any:
            made = list(parts)
            sizes.extend(part.tokens.shape[0] for part in made)
            return score(model, made, *rest)

        monkeypatch.setattr(speed, "score_rows", scoring)
        config = TrainConfig(budget="9steps", batch_tokens=rows * tiny.CONTEXT)
        found = speed.measure(config, tiny.model_config(), batch, batch, lengths, rows, CPU, 0.0, StopFlag())
        monkeypatch.setattr(speed, "score_rows", score)
        small = halved(rows, most)
        assert found.micro_rows == small
        assert max(sizes) <= small, "what is scored must fit as well"
        assert sum(sizes) == rows
        plan = make_plan(config, tiny.model_config(), found, 100, 50, GenerateConfig(max_new_tokens=4))
        assert (plan.micro_rows, plan.batch_rows) == (small, rows)
        assert plan.rules["train.micro_rows"] == f"{small}: more rows at once did not fit into memory"
        done += 1
    assert done == cases


def child(limit_bytes: int) -> None:
    """The same in a process that may have some memory more than it has now; prints what became of it."""
    import resource

    import psutil

    def limit() -> None:
        most = psutil.Process().memory_info().vms + limit_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    torch.set_num_threads(1)
    print(json.dumps(three_steps(96, limit)))


def three_steps(micro: int, limit: Callable[[], None]) -> dict[str, Any]:
    """Train on 96 rows a step, `micro` of them at once; `limit` is called when everything is built."""
    torch.manual_seed(3)
    model = Decoder(tiny.model_config(context_length=256, d_model=64, n_layers=2))
    generator = torch.Generator().manual_seed(1)
    notes: list[str] = []

    class Made:
        def stream(self, position: int, rows: int, waiting: Any) -> Iterator[Batch]:
            while True:
                ids = torch.randint(tiny.VOCABULARY, (rows, 257), generator=generator)
                yield Batch(ids[:, :-1], ids[:, 1:])

    record = Record()
    trainer = Trainer(
        model=model,
        objective=NextToken(),
        optimizers=OPTIMIZERS["adamw"].build(model),
        schedule=SCHEDULE,
        source=Made(),  # type: ignore[arg-type]
        steps=3,
        batch_rows=96,
        micro_rows=micro,
        clip=1.0,
        device=CPU,
        stop=StopFlag(),
        callbacks=(record,),
        note=notes.append,
    )
    limit()
    trainer.fit()
    return {"losses": [r.loss for r in record.records], "notes": notes, "micro_rows": trainer.micro_rows}


@pytest.mark.row("R4", cases=1, nightly=5)
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_a_limit_of_the_system_on_memory(cases: int) -> None:
    """Not a made-up error: the system has no more to give."""

    def run(limit_bytes: int) -> dict[str, Any]:
        made = subprocess.run(
            [sys.executable, "-c", f"from tests.faults.test_steps import child; child({limit_bytes})"],
            cwd=Path(__file__).parents[2],
            env=tiny.environment(MALLOC_ARENA_MAX="1"),
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert made.returncode == 0, tiny.tail(made.stderr)
        answer: dict[str, Any] = json.loads(made.stdout)
        return answer

    free = three_steps(12, lambda: None)
    for megabytes in (100, 150, 200, 120, 80)[:cases]:
        made = run(megabytes << 20)
        assert made["notes"], f"{megabytes} MB were enough for the whole batch"
        assert made["micro_rows"] < 96
        assert made["losses"] == pytest.approx(free["losses"], abs=1e-5)


# ---- R5: no data --------------------------------------------------------------------------------------------

PATIENCE = 0.05


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabula.data.loader._PATIENCE", PATIENCE)
    monkeypatch.setattr("fabula.data.loader._LOOK", 0.01)


class Troubled(Loader):
    """A loader that has trouble at some of its calls: a number of them from the one that makes `position`."""

    def __init__(self, data: Shards, kind: str, position: int, times: int) -> None:
        super().__init__(data.train, tiny.CONTEXT, 0, True)
        self.kind, self.position, self.times = kind, position, times
        self.released = threading.Event()

    def batch(self, position: int, rows: int) -> Batch:
        if position >= self.position and self.times > 0:
            self.times -= 1
            if self.kind == "hangs":
                self.released.wait(20)
            elif self.kind == "slow":
                time.sleep(1.5 * PATIENCE)
            elif self.kind == "fails":
                raise OSError(5, "Input/output error")
            elif self.kind == "breaks":
                raise ValueError("a fault of ours")
        return super().batch(position, rows)


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "fabula-loader"]


def assert_no_thread_stays() -> None:
    end = time.monotonic() + 3
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert not threads(), "a thread of the loader is left over"


# kind, how often, whether it is survived
TROUBLES = [
    *[("hangs", 1, True), ("hangs", 2, True), ("hangs", 3, True), ("hangs", 4, False), ("hangs", 99, False)],
    *[("fails", 1, True), ("fails", 3, True), ("fails", 4, False), ("slow", 1, True), ("slow", 99, True)],
]


@pytest.mark.row("R5", cases=1)
@pytest.mark.parametrize("place", [0, 1, 5])
@pytest.mark.parametrize(("kind", "times", "survived"), TROUBLES)
def test_a_loader_in_trouble_loses_no_row(
    tiny_data: Shards, impatient: None, kind: str, times: int, survived: bool, place: int, cases: int
) -> None:
    loader = Troubled(tiny_data, kind, 3 + place * 4, times)
    plain = Loader(tiny_data.train, tiny.CONTEXT, 0, True)
    waited = []
    batches = loader.stream(3, 4, lambda: waited.append(1))
    taken, told = 0, ""
    try:
        for number in range(10):
            made, expected = next(batches), plain.batch(3 + 4 * number, 4)
            assert torch.equal(made.tokens, expected.tokens), f"batch {number} is another"
            assert torch.equal(made.targets, expected.targets)
            taken += 1
    except MachineError as error:
        told = str(error)
    finally:
        batches.close()
        loader.released.set()
    if not survived:
        assert taken == place, "what could be made was handed out"
        assert "no batch of the train split came, 4 times in a row" in told
        assert ("Input/output error" if kind == "fails" else "did not answer in") in told
    assert survived == (not told)
    assert waited or kind == "fails"
    assert_no_thread_stays()


@pytest.mark.row("R5", cases=3)
def test_a_fault_of_ours_in_the_thread_is_not_tried_again(tiny_data: Shards, cases: int) -> None:
    for place in range(cases):
        loader = Troubled(tiny_data, "breaks", 4 * place, 1)
        batches = loader.stream(0, 4)
        for _ in range(place):
            next(batches)
        with pytest.raises(ValueError, match="a fault of ours"):
            next(batches)
        assert_no_thread_stays()


@pytest.mark.row("R5", cases=4)
def test_a_run_with_a_troubled_loader_is_the_same_run(tiny_data: Shards, impatient: None, cases: int) -> None:
    straight = make(tiny_data, callbacks=(record := Record(),))
    straight.fit()
    for kind, times in (("hangs", 2), ("fails", 3), ("slow", 99), ("hangs", 1))[:cases]:
        loader = Troubled(tiny_data, kind, 12, times)
        trainer = make(tiny_data, callbacks=(found := Record(),), source=loader)
        trainer.fit()
        loader.released.set()
        assert digest(trainer) == digest(straight)
        assert tiny.same([r.loss for r in found.records], [r.loss for r in record.records])
        assert_no_thread_stays()


@pytest.mark.row("R5", cases=3)
def test_a_stop_is_heard_while_there_is_no_data(tiny_data: Shards, cases: int) -> None:
    """With the patience of a real run."""
    for number in range(cases):
        loader, stop = Troubled(tiny_data, "hangs", 4 * number, 99), StopFlag()
        trainer = make(tiny_data, source=loader, stop=stop)
        asked = [0.0]

        def ask(stop: StopFlag = stop, asked: list[float] = asked) -> None:
            asked[0] = time.monotonic()
            stop.signal_number = 15

        timer = threading.Timer(0.3, ask)
        timer.start()
        with pytest.raises(Stopped):
            trainer.fit()
        took = time.monotonic() - asked[0]
        assert took < 1.0
        assert trainer.step == number
        loader.released.set()
        assert_no_thread_stays()


@pytest.mark.row("R5", cases=4)
def test_no_thread_outlives_a_fit(tiny_data: Shards, monkeypatch: pytest.MonkeyPatch, cases: int) -> None:
    """However it ends, and although the error is kept."""
    kept = []

    class Raises(Callback):
        def on_step(self, trainer: Trainer, record: StepRecord) -> None:
            raise error

    errors: list[BaseException] = [MachineError("full"), DivergedError("nan"), Stopped("stop"), KeyboardInterrupt()]
    for error in errors[:cases]:
        with pytest.raises(type(error)) as caught:
            make(tiny_data, callbacks=(Raises(),)).fit()
        kept.append(caught)
        assert_no_thread_stays()
    make(tiny_data).fit()
    assert_no_thread_stays()
    assert len(kept) == cases
