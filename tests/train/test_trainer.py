"""The loop: the same whatever the micro-batch, exactly resumable, and it never applies what is not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fabula import checkpoint, storage
from fabula.data.batch import Batch
from fabula.data.loader import Loader
from fabula.data.shards import Shards
from fabula.device import Device
from fabula.errors import DamagedError, FabulaError, PromptError, Stopped
from fabula.generate.config import GenerateConfig
from fabula.model.decoder import Decoder
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.base import Tokenizer
from fabula.train.callbacks import Evaluate, Latest, Metrics, milestones
from fabula.train.clipping import clip_gradients
from fabula.train.config import TrainConfig
from fabula.train.objective import Loss, NextToken
from fabula.train.optimizers import AdamWConfig, MuonConfig, OptimizerConfig
from fabula.train.planning import make_plan
from fabula.train.run import TrainResult, run
from fabula.train.saving import Save
from fabula.train.schedules import Cosine, WarmupStableDecay
from fabula.train.speed import Speed
from fabula.train.trainer import Callback, StepRecord, Trainer
from tests import tiny

CPU = Device("cpu", "float32", 1, "a test")
ADAMW = AdamWConfig(lr=3e-3, weight_decay=0.1)
MUON = MuonConfig(lr=0.02, weight_decay=0.1, table_lr=6e-3, vector_lr=6e-3)
SCHEDULE = WarmupStableDecay(warmup=0.1, final=0.0, decay=0.5)


class Record(Callback):
    """Keeps what the trainer says."""

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


def make(
    data: Shards, optimizer: OptimizerConfig = MUON, steps: int = 12, callbacks: tuple[Callback, ...] = (), **over: Any
) -> Trainer:
    torch.manual_seed(3)
    model = Decoder(tiny.model_config())
    settings: dict[str, Any] = dict(
        model=model,
        objective=NextToken(),
        optimizers=optimizer.build(model),
        schedule=SCHEDULE,
        source=Loader(data.train, tiny.CONTEXT, 0, True),
        steps=steps,
        batch_rows=4,
        micro_rows=4,
        clip=1.0,
        device=CPU,
        stop=StopFlag(),
        callbacks=callbacks,
    )
    return Trainer(**{**settings, **over})


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.state_dict().items()}


# ---- steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_accumulation_changes_nothing_but_memory(tiny_data: Shards, optimizer: OptimizerConfig) -> None:
    made = []
    for micro in (4, 3, 2, 1):
        record = Record()
        trainer = make(tiny_data, optimizer, steps=6, callbacks=(record,), micro_rows=micro)
        trainer.fit()
        made.append((record.losses, weights(trainer), [r.grad_norm for r in record.records]))
    losses, first, norms = made[0]
    for other_losses, other, other_norms in made[1:]:
        assert other_losses == pytest.approx(losses, abs=1e-5)
        assert other_norms == pytest.approx(norms, rel=1e-4)
        # Adam divides by the root of tiny squares: where those begin at nothing, rounding shows.
        assert all(torch.allclose(first[n], other[n], atol=2e-4) for n in first)


def test_accumulated_gradients_are_equal(tiny_data: Shards) -> None:
    gradients = []
    for micro in (4, 2, 1):
        trainer = make(tiny_data, micro_rows=micro, clip=0.0, optimizers=[])
        trainer.take_step(Loader(tiny_data.train, tiny.CONTEXT, 0, True).batch(0, 4))
        gradients.append([p.grad.clone() for p in trainer.model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_it_learns(tiny_data: Shards) -> None:
    for optimizer in (ADAMW, MUON):
        record = Record()
        make(tiny_data, optimizer, steps=40, callbacks=(record,)).fit()
        assert record.losses[0] == pytest.approx(math.log(tiny.VOCABULARY), abs=0.3)
        assert np.mean(record.losses[-5:]) < record.losses[0] - 0.7


def test_the_schedule_is_stepped_once_an_optimizer_step(tiny_data: Shards) -> None:
    record = Record()
    trainer = make(tiny_data, MUON, steps=10, callbacks=(record,), micro_rows=1)
    peaks = [[g["lr"] for g in o.param_groups] for o in trainer.optimizers]
    trainer.fit()
    assert [r.lr for r in record.records] == [SCHEDULE.multiplier(s, 10) for s in range(10)]
    assert record.records[-1].lr == 0
    assert [[g["lr"] for g in o.param_groups] for o in trainer.optimizers] == [[0.0] * len(p) for p in peaks]


def test_records_count(tiny_data: Shards) -> None:
    record = Record()
    trainer = make(tiny_data, steps=5, callbacks=(record,))
    trainer.fit()
    assert [r.step for r in record.records] == [1, 2, 3, 4, 5]
    assert [r.tokens for r in record.records] == [128 * i for i in range(1, 6)]
    seconds = [r.seconds for r in record.records]
    assert seconds == sorted(seconds)
    assert sum(r.step_seconds for r in record.records) == pytest.approx(trainer.seconds)
    assert trainer.position == 20


def test_clipping() -> None:
    p, q = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    p.grad, q.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert clip_gradients([p, q, nn.Parameter(torch.zeros(1))], 1.0) == pytest.approx(5.0)
    assert p.grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-5)
    assert q.grad.tolist() == pytest.approx([0.0, 0.8], abs=1e-5)
    assert clip_gradients([p, q], 2.0) == pytest.approx(1.0, abs=1e-5)
    assert p.grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-5)
    assert clip_gradients([p, q], 0.0) == pytest.approx(1.0, abs=1e-5)


class Broken:
    """An objective that goes wrong at one call."""

    def __init__(self, at: int, value: float) -> None:
        self.at, self.value, self.calls, self.inner = at, value, 0, NextToken()

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        self.calls += 1
        made = self.inner(model, batch)
        return Loss(made.total * self.value, made.count) if self.calls == self.at else made


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("micro", [4, 2])
def test_what_is_not_finite_is_not_applied(tiny_data: Shards, value: float, micro: int) -> None:
    record = Record()
    objective = Broken(3 * (4 // micro), value)
    trainer = make(tiny_data, steps=6, callbacks=(record,), objective=objective, micro_rows=micro)
    kept: dict[str, torch.Tensor] = {}

    class Keep(Callback):
        def on_step(self, trainer: Trainer, record: StepRecord) -> None:
            kept.update(weights(trainer))

    trainer.callbacks.append(Keep())
    trainer.steps = 2
    trainer.fit()
    before, moments = dict(kept), bits(trainer.state()[1])
    trainer.steps = 3
    trainer.fit()
    assert trainer.step == 3
    found = record.records[2].unapplied
    assert found is not None
    assert "not finite" in found.reason
    assert (found.first_row, found.rows, found.in_row, found.bad_weights) == (8, 4, 1, 0)
    assert found.bad_gradients > 0
    assert all(torch.equal(before[n], w) for n, w in weights(trainer).items())
    assert bits(trainer.state()[1]) == moments
    trainer.steps = 6
    trainer.fit()
    assert [r.unapplied is None for r in record.records] == [True, True, False, True, True, True]
    assert trainer.unapplied_in_row == 0


# ---- exact resume ------------------------------------------------------------------------------------------


def bits(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {n: t.contiguous().numpy().tobytes() for n, t in state.items()}


@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("stop_at", [1, 5, 11])
def test_stopped_and_continued_is_straight_through(
    tiny_data: Shards, tmp_path: Path, tiny_tokenizer: Tokenizer, optimizer: OptimizerConfig, stop_at: int
) -> None:
    straight_record = Record()
    straight = make(tiny_data, optimizer, callbacks=(straight_record,))
    straight.fit()

    stop = StopFlag()
    first_record = Record(stop, stop_at)
    first = make(tiny_data, optimizer, callbacks=(first_record,), stop=stop)
    with pytest.raises(Stopped):
        first.fit()
    assert first.step == stop_at
    data, tensors = first.state()
    saved = checkpoint.save(tmp_path, first.step, first.model, tiny_tokenizer, data, tensors, {})  # type: ignore[arg-type]

    torch.manual_seed(99)  # whatever this process did before must not matter
    second_record = Record()
    second = make(tiny_data, optimizer, callbacks=(second_record,))
    with torch.no_grad():
        for p in second.model.parameters():
            p.add_(1.0)
    checkpoint.restore_weights(second.model, saved)  # type: ignore[arg-type]
    second.restore(*checkpoint.trainer_state(saved))
    second.fit()

    assert tiny.same(first_record.losses + second_record.losses, straight_record.losses)
    assert bits(weights(second)) == bits(weights(straight))
    data_a, tensors_a = straight.state()
    data_b, tensors_b = second.state()
    assert bits(tensors_a) == bits(tensors_b)
    for data in (data_a, data_b):
        data.pop("seconds")
    assert data_a["rng"]["python"][0] == data_b["rng"]["python"][0]
    data_a.pop("rng")
    data_b.pop("rng")
    assert data_a == data_b


def test_the_generators_come_back(tiny_data: Shards) -> None:
    import random

    trainer = make(tiny_data)
    state = trainer.state()
    state = (json.loads(json.dumps(state[0])), state[1])
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)])
    trainer.restore(*state)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), [random.random() for _ in range(3)]) == expected


def test_a_state_of_another_model_is_refused(tiny_data: Shards) -> None:
    trainer = make(tiny_data)
    data, tensors = trainer.state()
    with pytest.raises(DamagedError, match="does not have"):
        trainer.restore(data, {**tensors, "0.no.such.weight.momentum": torch.zeros(2)})


# ---- around the steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (1, 8), (3, 8), (10, 4), (1000, 8), (7, 7)])
def test_milestones_end_at_the_end(steps: int, count: int) -> None:
    made = milestones(steps, count)
    assert made[-1] == steps
    assert made[0] >= 1
    assert made == sorted(set(made))
    assert len(made) == min(steps, count)


def test_metrics_lines(tiny_data: Shards, tmp_path: Path) -> None:
    record = Record()
    path = tmp_path / "metrics.jsonl"
    make(tiny_data, steps=11, callbacks=(record, Metrics(path, 4, 0.5))).fit()
    lines = storage.read_json_lines(path)
    assert [line["step"] for line in lines] == [1, 4, 8, 11]
    assert lines[1]["loss"] == pytest.approx(np.mean(record.losses[1:4]))
    assert lines[3]["loss"] == pytest.approx(np.mean(record.losses[8:]))
    assert lines[3]["bits_per_byte"] == pytest.approx(0.5 * lines[3]["loss"])
    assert all(line["tokens_per_second"] > 0 and math.isfinite(line["grad_norm"]) for line in lines)


def test_metrics_are_cut_back_to_where_a_run_goes_on(tiny_data: Shards, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    make(tiny_data, steps=9, callbacks=(Metrics(path, 1, 0.5),)).fit()
    with path.open("ab") as file:
        file.write(b'{"kind": "train", "st')  # a killed writer
    trainer = make(tiny_data, steps=9, callbacks=(Metrics(path, 1, 0.5),))
    trainer.step = 5
    trainer.fit()
    assert [line["step"] for line in storage.read_json_lines(path)] == list(range(1, 10))


def evaluator(data: Shards, tokenizer: Tokenizer, steps: list[int], path: Path, stop: StopFlag) -> Evaluate:
    lengths = np.array(tokenizer.byte_lengths(), dtype=np.int64)
    loader = Loader(data.validation, tiny.CONTEXT, 0, True)
    starts = loader.fixed(5)
    return Evaluate(steps, loader, starts, 4, lengths, path, Latest(), stop)


def test_evaluation_at_milestones_and_of_the_final_weights(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    stop = StopFlag()
    path = tmp_path / "metrics.jsonl"
    check = evaluator(tiny_data, tiny_tokenizer, [3, 7, 10], path, stop)
    trainer = make(tiny_data, steps=10, callbacks=(check,))
    trainer.fit()
    lines = storage.read_json_lines(path)
    assert [line["step"] for line in lines] == [3, 7, 10]
    assert check.score(trainer.model, CPU, 4).bits_per_byte == lines[-1]["bits_per_byte"]
    assert check.latest.score_step == 10
    assert check.latest.best_bits_per_byte == min(line["bits_per_byte"] for line in lines)
    assert trainer.model.training


@pytest.mark.parametrize("at", [5, 10])
def test_a_signal_at_a_milestone_does_not_cost_its_evaluation(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, at: int
) -> None:
    stop = StopFlag()
    path = tmp_path / "metrics.jsonl"
    first = make(
        tiny_data,
        steps=10,
        callbacks=(Record(stop, at), evaluator(tiny_data, tiny_tokenizer, [5, 10], path, stop)),
        stop=stop,
    )
    with pytest.raises(Stopped):
        first.fit()
    assert [line["step"] for line in storage.read_json_lines(path)] == [s for s in (5, 10) if s < at]
    second = make(tiny_data, steps=10, callbacks=(evaluator(tiny_data, tiny_tokenizer, [5, 10], path, StopFlag()),))
    second.model.load_state_dict(first.model.state_dict())
    second.restore(*first.state())
    second.fit()
    assert [line["step"] for line in storage.read_json_lines(path)] == [5, 10]


def test_checkpoints_are_pruned_to_the_best_and_the_newest(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    class Scores(Callback):
        """Makes up how good each step was: the third is the best."""

        def __init__(self, latest: Latest) -> None:
            self.latest = latest

        def on_step(self, trainer: Trainer, record: StepRecord) -> None:
            from fabula.evaluate.intrinsic import Score

            self.latest.score = Score(nats=10.0 + abs(record.step - 3), tokens=10, bytes=10)
            self.latest.score_step = record.step

    latest = Latest()
    config = TrainConfig(keep=2)
    run = checkpoint.RunFolder(tmp_path)
    save = Save([2, 3, 5, 6, 7, 8], run, tiny_tokenizer, config, {}, latest, Silent(), {})
    make(tiny_data, steps=8, callbacks=(Scores(latest), save)).fit()
    assert [c.step for c in checkpoint.checkpoints(tmp_path)] == [3, 7, 8]
    best, last = checkpoint.best(tmp_path), checkpoint.last(tmp_path)
    assert best is not None
    assert last is not None
    assert (best.step, last.step) == (3, 8)


# ---- the stage ---------------------------------------------------------------------------------------------

SPEED = Speed(step=0.1, evaluation_row=0.01, sampled_token=0.001, save=0.05)


def plan(**settings: Any) -> Any:
    config = TrainConfig(**{"batch_tokens": 128, "checkpoints": 4, **settings})
    sampling = GenerateConfig(max_new_tokens=10)
    return make_plan(config, tiny.model_config(), SPEED, 100, 50, sampling)


def test_a_plan_from_each_budget() -> None:
    assert plan(budget="24steps").steps == 24
    assert plan(budget="1280tokens").steps == 10
    assert plan(budget="2epochs").steps == 50
    timed = plan(budget="1m")
    # A twentieth for evaluation, and four times the samples and a save: the rest is steps.
    assert timed.steps == int((60 * 0.95 - 4 * (10 * 0.001 + 0.05)) / 0.1)
    assert timed.milestones[-1] == timed.steps
    assert plan(budget="0.01s").steps == 1


def test_evaluation_takes_at_most_its_share() -> None:
    for share in (0.05, 0.2):
        made = plan(budget="100steps", evaluation_share=share)
        assert made.evaluation_rows * SPEED.evaluation_row * len(made.milestones) <= share * 100 * SPEED.step + 1e-9
    assert plan(budget="100000steps").evaluation_rows == 50  # all there are


def test_evaluation_rows_may_be_given() -> None:
    made = plan(budget="100steps", evaluation_rows=40)
    assert made.evaluation_rows == 40
    assert "40 of 50 validation rows, 4 times: given" in made.rules["train.evaluation_rows"]
    assert plan(budget="1m", evaluation_rows=400).evaluation_rows == 50
    with pytest.raises(ValueError, match="evaluation_rows=-1"):
        TrainConfig(evaluation_rows=-1)
    assert plan(budget="1steps").evaluation_rows == 1


def test_rows_and_micro_rows() -> None:
    assert (plan(batch_tokens=128).batch_rows, plan(batch_tokens=128).micro_rows) == (4, 4)
    assert plan(batch_tokens=1).batch_rows == 1
    assert plan(batch_tokens=128, micro_rows=3).micro_rows == 3
    assert plan(batch_tokens=128, micro_rows=100).micro_rows == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("budget", "soon"), ("batch_tokens", 0), ("micro_rows", -1), ("clip", -1.0), ("evaluation_share", 0.0)],
        *[("evaluation_share", 0.6), ("checkpoints", 0), ("threads", -1)],
    ],
)
def test_impossible_settings(name: str, value: Any) -> None:
    with pytest.raises((ValueError, FabulaError)):
        TrainConfig(**{name: value})


def train(
    data: Shards, tokenizer: Tokenizer, folder: Path, stop: StopFlag | None = None, **settings: Any
) -> TrainResult:
    config = TrainConfig(
        **{
            **dict(budget="10steps", batch_tokens=128, checkpoints=2, log_every=1, threads=1, device="cpu"),
            **dict(optimizer=MUON, schedule=Cosine(), evaluation_share=0.5),
            **settings,
        }
    )
    return run(
        config,
        tiny.model_config(),
        tokenizer,
        data,
        folder,
        seed=1,
        sampling=GenerateConfig(max_new_tokens=3, prompts=("El",)),
        facts={},
        progress=Silent(),
        stop=StopFlag() if stop is None else stop,  # an unset flag is false
    )


@pytest.fixture
def fixed_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs have one plan only if both measure the same."""
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)


@pytest.fixture
def stops_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets a flag after some steps of the trainer."""

    def arrange(stop: StopFlag, step: int) -> None:
        take = Trainer.take_step

        def counting(self: Trainer, batch: Batch) -> StepRecord:
            made = take(self, batch)
            if self.steps < 1_000_000 and self.step == step:
                stop.signal_number = 15
            return made

        monkeypatch.setattr(Trainer, "take_step", counting)

    yield arrange
    monkeypatch.undo()


@pytest.mark.parametrize("step", [1, 4, 5, 9])
def test_a_stopped_stage_goes_on_exactly(
    tiny_data: Shards,
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
    fixed_speed: None,
    stops_at: Any,
    step: int,
) -> None:
    straight = train(tiny_data, tiny_tokenizer, tmp_path / "straight")
    stop = StopFlag()
    stops_at(stop, step)
    with pytest.raises(Stopped) as caught:
        train(tiny_data, tiny_tokenizer, tmp_path / "stopped", stop)
    assert caught.value.exit_code == 143
    last = checkpoint.last(tmp_path / "stopped")
    assert last is not None
    assert last.step == step
    # The flag of this run is another one, which nobody sets.
    continued = train(tiny_data, tiny_tokenizer, tmp_path / "stopped")
    assert continued.facts["steps"] == straight.facts["steps"] == 10
    assert continued.facts["entered_at_step"] == step
    a, b = (checkpoint.last(tmp_path / name) for name in ("straight", "stopped"))
    assert a is not None
    assert b is not None
    for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):
        assert a.manifest["files"][name]["sha256"] == b.manifest["files"][name]["sha256"], name
    assert b.bits_per_byte == a.bits_per_byte
    curves = []
    for name in ("straight", "stopped"):
        lines = [r for r in storage.read_json_lines(tmp_path / name / "metrics.jsonl") if r["kind"] == "train"]
        assert [r["step"] for r in lines] == list(range(1, 11))
        curves.append([r["loss"] for r in lines])
    assert tiny.same(*curves)
    samples = [storage.read_json_lines(tmp_path / n / "samples.jsonl") for n in ("straight", "stopped")]
    assert samples[1][-1] == samples[0][-1]


def test_a_stage_with_nothing_left_to_do(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, fixed_speed: None
) -> None:
    """Killed between the last checkpoint and the note that training is done."""
    first = train(tiny_data, tiny_tokenizer, tmp_path)
    again = train(tiny_data, tiny_tokenizer, tmp_path)
    assert again.facts["steps"] == first.facts["steps"]
    assert again.facts["tokens"] == first.facts["tokens"]


def test_a_damaged_newest_checkpoint_is_set_aside(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, fixed_speed: None
) -> None:
    train(tiny_data, tiny_tokenizer, tmp_path)
    before = checkpoint.last(tmp_path)
    assert before is not None
    path = before.path / checkpoint.OPTIMIZER
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = train(tiny_data, tiny_tokenizer, tmp_path)
    assert again.facts["entered_at_step"] == 5
    after = checkpoint.last(tmp_path)
    assert after is not None
    for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):  # made again to the last bit
        assert after.manifest["files"][name] == before.manifest["files"][name]
    assert (tmp_path / "checkpoints" / "damaged-step-000010").is_dir()


def test_when_no_checkpoint_is_sound(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, fixed_speed: None
) -> None:
    train(tiny_data, tiny_tokenizer, tmp_path)
    for path in (tmp_path / "checkpoints").glob("step-*"):
        (path / checkpoint.WEIGHTS).write_bytes(b"")
    with pytest.raises(DamagedError, match="none of its 2 checkpoints is sound"):
        train(tiny_data, tiny_tokenizer, tmp_path)


def test_a_prompt_that_does_not_fit_is_told_before_training(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match=r"generate\.prompts.*context holds 32"):
        run(
            TrainConfig(budget="10steps", batch_tokens=128, threads=1),
            tiny.model_config(),
            tiny_tokenizer,
            tiny_data,
            tmp_path / "run",
            seed=1,
            sampling=GenerateConfig(prompts=("El conejo " * 30,)),
            facts={},
            progress=Silent(),
            stop=StopFlag(),
        )
    assert not (tmp_path / "run").exists()
