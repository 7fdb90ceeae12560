"""The arithmetic of a plan, with its units, and what it advises."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from fabula.config import dump_json
from fabula.device import Device
from fabula.model.presets import presets
from fabula.plan.estimate import Estimate, advice, estimate
from fabula.plan.hardware import Machine, measure
from fabula.plan.run import PlanConfig, run
from tests.contracts.variants import config

MODEL = presets.get("lillm-39m").config


def priced(**over: Any) -> Estimate:
    settings: dict[str, Any] = {
        "optimizer": "adamw",
        "steps": 1000,
        "batch_rows": 8,
        "epoch_tokens": 10_000_000,
        "step_seconds": 0.5,
        "overhead_seconds": 30.0,
        "peak_flops": 1e12,
    }
    return estimate(over.pop("model", MODEL), **(settings | over))


def test_tokens_time_and_epochs() -> None:
    made = priced()
    assert made.tokens_per_step == 8 * 512
    assert made.tokens == 1000 * 4096
    assert made.epochs == pytest.approx(0.4096)
    assert made.seconds == 530.0
    assert made.to_data()["tokens_per_second"] == 8192


def test_flops_over_speed_is_time() -> None:
    """486 TFLOP at 80 TFLOP/s is 6 s."""
    model = config(context_length=100)
    per_step = 2 * 100 * model.training_flops_per_token()
    steps = round(486e12 / per_step)
    seconds = 486e12 / 80e12
    made = priced(model=model, steps=steps, batch_rows=2, step_seconds=seconds / steps, peak_flops=160e12)
    assert made.total_flops == pytest.approx(486e12, rel=1e-6)
    assert made.flops_per_second == pytest.approx(80e12, rel=1e-6)
    assert made.total_flops / made.flops_per_second == pytest.approx(6.075, rel=1e-6)
    assert made.utilisation == pytest.approx(0.5, rel=1e-6)


def test_work_is_about_six_times_parameters_times_tokens() -> None:
    """Kaplan's rule (arXiv:2001.08361) plus attention, which it leaves out."""
    made = priced()
    rule = 6 * MODEL.n_params() * made.tokens
    assert 1.0 < made.total_flops / rule < 1.3


def test_bytes() -> None:
    n = MODEL.n_params()
    made = priced()
    assert (made.parameters, made.weights_bytes, made.state_bytes) == (n, 4 * n, 16 * n)
    assert made.checkpoint_bytes == 12 * n, "weights and two moments"
    assert priced(optimizer="muon").state_bytes < made.state_bytes
    assert made.cache_bytes == 12 * 2 * 8 * 32 * 512 * 4
    assert sum(made.parts.values()) == n


def test_the_share_of_the_head() -> None:
    made = priced()
    assert made.head_share == pytest.approx(2 * 512 * 8192 / MODEL.flops_per_token())
    wide = dataclasses.replace(MODEL, vocab_size=2_000_000)
    assert priced(model=wide).head_share > 0.9


def test_plain_data_is_json() -> None:
    dump_json(priced().to_data())


# ---- advice -----------------------------------------------------------------------------------------------------


def test_a_sound_plan_needs_no_advice() -> None:
    assert advice(priced()) == []


def test_a_heavy_head() -> None:
    (said,) = advice(priced(model=dataclasses.replace(MODEL, vocab_size=200_000)))
    assert said.startswith("the vocabulary head takes 7")
    assert "% of the work" in said
    assert "--tokenizer.vocab_size" in said


def test_too_few_steps() -> None:
    (said,) = advice(priced(steps=150))
    assert "only 150 steps" in said
    assert "--train.batch_tokens 2048" in said
    assert advice(priced(steps=200)) == []


def test_too_many_epochs() -> None:
    (said,) = advice(priced(epoch_tokens=100_000))
    assert "the text is read 41.0 times" in said
    assert advice(priced(epoch_tokens=1_024_000)) == [], "four passes are still well"


def test_an_empty_text_divides_nothing_by_zero() -> None:
    assert priced(epoch_tokens=0).epochs == 4_096_000


# ---- the stage --------------------------------------------------------------------------------------------------


def planned(machine: Machine, **over: Any) -> Any:
    settings: dict[str, Any] = {
        "model": MODEL,
        "optimizer": "adamw",
        "steps": 1000,
        "batch_rows": 8,
        "epoch_tokens": 10_000_000,
        "step_seconds": 0.5,
        "overhead_seconds": 30.0,
        "kept_checkpoints": 3,
        "data_bytes": 20_000_000,
    }
    return run(PlanConfig(**(settings | over)), machine)


def test_disk_and_memory() -> None:
    checkpoint = 12 * MODEL.n_params()
    needed = 20_000_000 + 5 * checkpoint
    roomy = planned(Machine(1e12, 10**12, needed))
    assert roomy.disk_bytes == needed
    assert roomy.advice == []
    tight = planned(Machine(1e12, 16 * MODEL.n_params() - 1, needed - 1))
    assert [said.split(";")[1].strip() for said in tight.advice] == ["lower --train.keep", "choose a smaller model"]
    assert "the run needs 2.4 GB of disk, 2.4 GB are free" in tight.advice[0]
    assert "weights, gradients and moments need 0.6 GB" in tight.advice[1]
    data = tight.to_data()
    assert data["advice"] == tight.advice
    assert data["estimate"]["parameters"] == MODEL.n_params()
    dump_json(data)


def test_the_machine_is_measured(tmp_path: Path) -> None:
    machine = measure(Device("cpu", "float32", 1, "test"), tmp_path, size=64, rounds=2)
    assert machine.matmul_flops > 1e6
    assert machine.memory_bytes > 0
    assert machine.free_disk_bytes > 0
