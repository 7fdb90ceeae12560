"""Ten mistakes of other systems and a resume that is none, each made impossible: one test for each, on the real parts.

The numbers are those of the list that the product is held to. Mistakes 11, 12 and 14 belong to other stages.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fabula import storage
from fabula.checkpoint import RunFolder
from fabula.cli import console
from fabula.corpus.run import CorpusConfig
from fabula.corpus.run import run as open_corpus
from fabula.data.batch import Batch
from fabula.data.loader import Loader
from fabula.data.mixture import Feed
from fabula.data.run import DataConfig
from fabula.data.run import run as prepare
from fabula.data.shards import Shards
from fabula.device import Device
from fabula.generate.config import GenerateConfig, Sampling
from fabula.generate.engine import Engine
from fabula.generate.run import run as generate
from fabula.generate.sampling import choose
from fabula.generate.text import TextStream
from fabula.losses import IGNORE
from fabula.model.attention import set_path
from fabula.model.decoder import Decoder
from fabula.model.positions import Rope, Shape, rotate
from fabula.model.presets import presets
from fabula.model.spans import Sliding
from fabula.plan.estimate import estimate, state_bytes, training_bytes, utilisation
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.base import Tokenizer
from fabula.train.config import TrainConfig
from fabula.train.objective import NextToken
from fabula.train.optimizers import MuonConfig, optimizers
from fabula.train.run import make_plan
from fabula.train.schedules import CosineRestarts, Falling, ScheduleConfig, WarmupStableDecay, schedules
from fabula.train.speed import Speed
from fabula.train.trainer import Callback, StepRecord, Trainer
from tests import tiny
from tests.contracts.variants import build, config

CPU = Device("cpu", "float32", 1, "a test")
BFLOAT16 = Device("cpu", "bfloat16", 1, "a test")


class Record(Callback):
    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        self.records.append(record)


def trainer(data: Shards, steps: int, **over: Any) -> Trainer:
    torch.manual_seed(3)
    model = Decoder(tiny.model_config(dropout=over.pop("dropout", 0.0)))
    settings: dict[str, Any] = dict(
        model=model,
        objective=NextToken(),
        optimizers=over.pop("optimizer", MuonConfig(weight_decay=0.1)).build(model),
        schedule=WarmupStableDecay(warmup=0.1),
        source=Loader(data.train, tiny.CONTEXT, 0, True),
        steps=steps,
        batch_rows=4,
        micro_rows=4,
        clip=1.0,
        device=CPU,
        stop=StopFlag(),
    )
    return Trainer(**{**settings, **over})


# ---- 1: padding that is a real token -----------------------------------------------------------------------


def test_mistake_1_padding_is_known_by_its_place_never_by_its_id(
    tiny_data: Shards, tiny_tokenizer: Tokenizer, tiny_texts: list[str]
) -> None:
    special = tiny_tokenizer.special
    assert len(set(special.ids())) == len(special.ids())
    frequent = int(np.bincount(tiny_tokenizer.encode("\n".join(tiny_texts))).argmax())
    assert not set(special.ids()) & set(tiny_tokenizer.encode("<|pad|> " + "\n".join(tiny_texts)))
    # Even where the filler is the most frequent token of the text, every one of its real places is learnt.
    batches = [
        Loader(tiny_data.train, tiny.CONTEXT, 0, True, Feed("pad"), padding).batch(0, 40)
        for padding in (special.filler, frequent)
    ]
    assert torch.equal(batches[0].targets, batches[1].targets)
    assert int((batches[1].targets == frequent).sum()) > 20
    assert int((batches[1].tokens == frequent).sum()) > int((batches[0].tokens == frequent).sum())
    torch.manual_seed(0)
    model = Decoder(tiny.model_config()).eval()
    losses = [NextToken()(model, batch).total.item() for batch in batches]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6), "what fills a row is seen by nothing that is predicted"


# ---- 2: a model that never stops ---------------------------------------------------------------------------


def test_mistake_2_every_document_ends_in_the_data_and_the_model_learns_to_stop(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    texts = [f"El conejo {name} saltó." for name in ("Ana", "Leo", "Eva", "Paz", "Luz", "Sol", "Mar", "Rey")]
    source = tmp_path / "text.txt"
    source.write_text("\n<|endoftext|>\n".join(f"{a} {b}" for a in texts for b in texts), encoding="utf-8")
    corpus = open_corpus(CorpusConfig(source=str(source), validation=0.2))
    data = prepare(DataConfig(), corpus, tiny_tokenizer, tmp_path / "data", Silent(), StopFlag())
    end = tiny_tokenizer.special.end_of_document
    loader = Loader(data.train, tiny.CONTEXT, 0, True, Feed("pad"), tiny_tokenizer.special.filler)
    assert int((loader.batch(0, loader.n_rows).targets == end).sum()) == data.train.n_documents
    made = trainer(data, 50, source=loader, schedule=WarmupStableDecay(warmup=0.1, decay=0.5))
    made.fit()
    found = generate(
        made.model, tiny_tokenizer, "El conejo Ana", GenerateConfig(max_new_tokens=31 - 8, temperature=0.0), CPU
    )
    assert found.finish_reason == "end"


# ---- 3: a guard against NaN that lets a row see the future -------------------------------------------------


@pytest.mark.parametrize("path", ["fused", "explicit"])
@pytest.mark.parametrize("window", [0, 4], ids=["everything", "a window"])
def test_mistake_3_no_row_is_nan_and_none_sees_the_future(tiny_data: Shards, path: str, window: int) -> None:
    over: dict[str, Any] = {"local": Sliding(window=window), "pattern": "LG"} if window else {}
    torch.manual_seed(0)
    model = Decoder(tiny.model_config(init=config().init, **over)).eval()
    set_path(model, path)  # type: ignore[arg-type]
    # Rows with several documents, and with padding that nothing real may look at and that looks at nothing real.
    loader = Loader(tiny_data.train, tiny.CONTEXT, 0, True, Feed("best-fit"), 0)
    whole = loader.batch(0, loader.n_rows)
    mixed = (whole.targets == IGNORE).any(1) & (whole.documents.diff() != 0).any(1)  # type: ignore[union-attr]
    batch = Batch(*(part[mixed][:16] for part in (whole.tokens, whole.targets, whole.positions, whole.documents)))  # type: ignore[index]
    assert len(batch.tokens) > 3
    before = model(batch.tokens, batch.positions, batch.documents)
    assert bool(before.isfinite().all())
    NextToken()(model, batch).total.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    generator = torch.Generator().manual_seed(1)
    for place in (1, 7, 20, 31):
        changed = batch.tokens.clone()
        changed[:, place:] = torch.randint(tiny.VOCABULARY, changed[:, place:].shape, generator=generator)
        after = model(changed, batch.positions, batch.documents)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(after[:, place:], before[:, place:], atol=1e-2)


# ---- 4: a schedule whose horizon is not the run ------------------------------------------------------------


def test_mistake_4_every_schedule_ends_with_the_run_and_moves_once_a_step(tiny_data: Shards) -> None:
    for name in schedules:
        made = schedules.get(name)()
        horizons = {"steps", "t_max", "horizon", "max_steps", "total_steps", "decay_steps", "warmup_steps"}
        assert not horizons & {field.name.lower() for field in dataclasses.fields(made)}, name
        for steps in (1, 2, 250, 2500, 15_000):
            curve = [made.multiplier(step, steps) for step in range(steps)]
            assert curve[-1] == made.end == min(curve[round(0.1 * steps) :]), (name, steps)
            assert max(curve) <= 1, name
            rises = [a < b for a, b in itertools.pairwise(curve)][max(1, round(made.warmup * steps)) :]
            allowed = made.cycles - 1 if isinstance(made, CosineRestarts) else 0
            assert sum(rises) <= allowed, f"{name} is a saw of {sum(rises)} teeth in {steps} steps"
            with pytest.raises(ValueError, match="outside a run"):
                made.multiplier(steps, steps)
    for kind in (schedules.get(n) for n in schedules):
        if issubclass(kind, Falling):
            with pytest.raises(ValueError, match="between 0 and 1"):
                kind(final=5.0)  # an end above the peak
    record = Record()
    run = trainer(tiny_data, 10, micro_rows=1, callbacks=[record])
    run.fit()
    assert [r.lr for r in record.records] == [run.schedule.multiplier(step, 10) for step in range(10)]


# ---- 5: evaluation that costs more than the training, of rows at random, and not of the end ----------------


def test_mistake_5_evaluation_is_capped_fixed_and_includes_the_final_weights(tiny_run: Path, tiny_data: Shards) -> None:
    for row_seconds, budget in ((0.001, "2000steps"), (0.05, "500steps"), (3.0, "100steps"), (0.02, "10m")):
        speed = Speed(step=0.1, evaluation_row=row_seconds, sampled_token=0.0, save=0.0)
        settings = TrainConfig(budget=budget, batch_tokens=128)
        plan = make_plan(settings, tiny.model_config(), speed, 10_000, 10_000, GenerateConfig())
        spent = len(plan.milestones) * plan.evaluation_rows * row_seconds
        # One row is the least that can be scored.
        assert plan.evaluation_rows == 1 or spent <= settings.evaluation_share * plan.steps * speed.step
        assert plan.milestones[-1] == plan.steps
    rows = [Loader(tiny_data.validation, tiny.CONTEXT, seed, True).fixed(5).tolist() for seed in (0, 9)]
    assert rows[0] == rows[1]
    lines = [r for r in storage.read_json_lines(RunFolder(tiny_run).metrics) if r["kind"] == "evaluation"]
    assert lines[-1]["step"] == tiny.STEPS
    assert len({(r["scored_tokens"], r["bytes"]) for r in lines}) == 1
    assert storage.read_json(RunFolder(tiny_run).evaluation)["validation"]["bits_per_byte"] > 0


# ---- 6: generation that computes everything anew -----------------------------------------------------------


def test_mistake_6_one_token_is_computed_a_step_the_cache_grows_and_temperature_acts_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(config(context_length=4096))
    computed, caches = [], []
    inner = model.hidden

    def counting(tokens: Tensor, **given: Any) -> Tensor:
        computed.append(tokens.numel())
        caches.append(given["cache"])
        return inner(tokens, **given)

    monkeypatch.setattr(model, "hidden", counting)
    list(Engine(model, -1, CPU).stream([1, 2, 3], 20, Sampling(seed=0)))
    assert computed == [3] + [1] * 19
    assert 0 < caches[-1].n_bytes() < model.config.cache_bytes() / 20, "4,096 places are not kept for 23 tokens"
    logits = torch.linspace(0, 3, 8)

    def distinct(temperature: float) -> int:
        generator = torch.Generator().manual_seed(0)
        alone = Sampling(temperature=temperature, top_k=0, top_p=1.0, min_p=0.0)
        return len({choose(logits, [], alone, generator) for _ in range(200)})

    assert (distinct(0.0), distinct(100.0)) == (1, 8)
    assert distinct(0.2) < 6


# ---- 7: strict UTF-8, token by token -----------------------------------------------------------------------


def test_mistake_7_characters_over_several_tokens_come_whole_and_nothing_crashes(tiny_tokenizer: Tokenizer) -> None:
    text = "Había 🐇🏳️‍🌈👩‍👩‍👧 y ñandú — 你好"
    ids = tiny_tokenizer.encode(text)
    assert len(tiny_tokenizer.encode("🐇")) > 1
    shown, stream = [], TextStream()
    for number in ids:
        shown.append(stream.feed(tiny_tokenizer.decode_bytes([number])))
        assert "�" not in shown[-1]
    assert "".join(shown) + stream.finish() == text
    for size in range(len(ids)):
        tiny_tokenizer.decode(ids[:size])  # cut inside a character: a replacement, not an error
    # A model that draws bytes at random is the worst case.
    torch.manual_seed(0)
    model = Decoder(tiny.model_config())
    settings = GenerateConfig(max_new_tokens=25, temperature=3.0, seed=1)
    assert generate(model, tiny_tokenizer, "🐇", settings, CPU).text is not None


# ---- 8: coarse weights, coarse angles ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(optimizers))
def test_mistake_8_weights_and_what_optimizers_keep_are_float32_whatever_the_format(
    tiny_data: Shards, kind: str
) -> None:
    chosen = optimizers.get(kind)()
    with pytest.raises(ValueError, match="bfloat16; weights that are trained are float32"):
        chosen.build(Decoder(tiny.model_config()).to(torch.bfloat16))
    run = trainer(tiny_data, 3, optimizer=chosen, device=BFLOAT16)
    products: list[torch.dtype] = []
    linear = next(m for m in run.model.modules() if isinstance(m, torch.nn.Linear))
    linear.register_forward_hook(lambda m, i, out: products.append(out.dtype))
    run.fit()
    assert set(products) == {torch.bfloat16}, "the products were made in it"
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    kept = [t for o in run.optimizers for s in o.state.values() for t in s.values() if torch.is_tensor(t)]
    assert {t.dtype for t in kept if t.is_floating_point()} <= {torch.float32}


def test_mistake_8_steps_too_small_for_bfloat16_are_not_lost(tiny_data: Shards) -> None:
    """A weight of 1 in bfloat16 has its next neighbour at 1.0078: with coarse weights a norm would never move."""
    run = trainer(tiny_data, 3, optimizer=optimizers.get("adamw")(lr=1e-4), device=BFLOAT16)
    norms = {n: p.detach().clone() for n, p in run.model.named_parameters() if "norm" in n}
    run.fit()
    moved = {n: (p - norms[n]).abs().max().item() for n, p in run.model.named_parameters() if n in norms}
    assert norms
    assert all(0 < by < 2e-3 for by in moved.values())


def test_mistake_8_angles_survive_a_cast_of_the_model() -> None:
    """bfloat16 has eight bits: it cannot tell place 1,000 from 1,001, so a cast table would turn both alike."""
    position = Rope(theta=10_000.0).build(Shape(d_model=64, context_length=4096, n_heads=1, head_dim=64))
    places = torch.arange(4096).unsqueeze(0)
    exact = position.tables(places)
    model = build(config(context_length=4096)).to(torch.bfloat16)
    cast = position.to(torch.bfloat16).tables(places)
    assert exact is not None
    assert cast is not None
    assert all(torch.equal(a, b) and b.dtype == torch.float32 for a, b in zip(exact, cast, strict=True))
    x = torch.ones(1, 4096, 1, 64)
    coarse = rotate(x.to(torch.bfloat16), cast).float()
    torch.testing.assert_close(coarse, rotate(x, exact), rtol=0, atol=2**-6)
    assert not torch.equal(coarse[:, 1000], coarse[:, 1001])
    # In the whole model: distances count, wherever the text stands.
    ids = torch.arange(9).unsqueeze(0)
    near, far = (model(ids, positions=places[:, at : at + 9]).float() for at in (0, 3000))
    torch.testing.assert_close(near, far, rtol=0.1, atol=0.5)


# ---- 9: the wrong number of devices, and of bytes ----------------------------------------------------------


def test_mistake_9_utilisation_counts_every_device_and_memory_all_that_is_kept() -> None:
    alone = utilisation(6e9, 10_000, 1e14, devices=1)
    assert utilisation(6e9, 8 * 10_000, 1e14, devices=8) == pytest.approx(alone) == pytest.approx(0.6)
    model = presets.get("lillm-39m").config
    assert state_bytes(model, "adamw") == 16 * model.n_params()
    peaks = [training_bytes(model, "adamw", rows, (0, 512), 4, False) for rows in (1, 8, 64)]
    assert 16 * model.n_params() < peaks[0] < peaks[1] < peaks[2]
    assert peaks[2] > 2 * peaks[0], "activations, too, want memory"
    # What is predicted is what a trainer keeps, to the byte.
    tiny_model = Decoder(tiny.model_config())
    for name in optimizers:
        built = optimizers.get(name)().build(tiny_model)
        for parameter in tiny_model.parameters():
            parameter.grad = torch.ones_like(parameter)
        for optimizer in built:
            optimizer.step()
        kept = sum(t.nbytes for o in built for s in o.state.values() for t in s.values() if torch.is_tensor(t))
        n = tiny_model.config.n_params()
        assert state_bytes(tiny_model.config, name) - 8 * n == pytest.approx(kept, abs=0.6 * n)


# ---- 10: 486 TFLOP at 80 TFLOP/s are 6 seconds -------------------------------------------------------------


def test_mistake_10_work_over_speed_is_time_and_the_speed_is_measured(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    model = config(context_length=100)
    steps = round(486e12 / (200 * model.training_flops_per_token()))
    made = estimate(
        model,
        optimizer="adamw",
        steps=steps,
        batch_rows=2,
        epoch_tokens=1_000_000,
        step_seconds=200 * model.training_flops_per_token() / 80e12,
        overhead_seconds=0.0,
        peak_flops=160e12,
    )
    assert made.total_flops == pytest.approx(486e12, rel=1e-6)
    assert console.clock(made.seconds) == "6.1 s"
    assert made.utilisation == pytest.approx(0.5)
    # A plan for this machine: its time is that of steps which were really taken.
    tiny.write_recipe(tmp_path)
    code, out, _ = cli("plan", "tiny.toml", "--json")
    assert code == 0
    planned = json.loads(out)["estimate"]
    assert planned["seconds"] >= planned["total_flops"] / planned["flops_per_second"] * 0.999
    assert planned["flops_per_second"] < 10 * planned["peak_flops_per_second"]
    assert planned["seconds"] < 60


# ---- 13: a resume without what it needs --------------------------------------------------------------------


LEFT_OUT: dict[str, Callable[[Any, dict[str, Tensor]], None]] = {
    "nothing": lambda data, tensors: None,
    "the optimizer": lambda data, tensors: [tensors.pop(n) for n in list(tensors) if not n.startswith("rng.")] and None,
    "the generators": lambda data, tensors: tensors.update({"rng.torch": torch.Generator().get_state()}),
    "the data position": lambda data, tensors: data.update(step=0),
}


@pytest.mark.parametrize("missing", list(LEFT_OUT))
def test_mistake_13_a_resume_has_all_that_the_run_had_and_each_part_of_it_matters(
    tiny_data: Shards, missing: str
) -> None:
    straight = trainer(tiny_data, 10, dropout=0.2)
    straight.fit()
    first = trainer(tiny_data, 10, dropout=0.2, callbacks=[_Ends(5)])
    first.fit()
    data, tensors = first.state()
    data = json.loads(json.dumps(data)) | {"steps": 10}
    LEFT_OUT[missing](data, tensors)
    second = trainer(tiny_data, 10, dropout=0.2)
    second.model.load_state_dict(first.model.state_dict())
    second.restore(data, {name: tensor.clone() for name, tensor in tensors.items()})
    second.steps = 5 + second.step  # five more steps, wherever it believes to be
    second.schedule = _Shifted(straight.schedule, 10, 5 - second.step)  # type: ignore[assignment]
    second.fit()
    same = all(
        torch.equal(a, b)
        for a, b in zip(straight.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    )
    assert same == (missing == "nothing")
    assert data["position"] == 5 * first.batch_rows
    assert {"python", "numpy"} <= data["rng"].keys()


class _Ends(Callback):
    """Ends a run after some steps as a stop would, with the schedule of the whole."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        if record.step == self.step:
            trainer.steps = self.step


class _Shifted:
    """The multipliers of the run as it is, so that nothing but what was left out differs."""

    def __init__(self, schedule: ScheduleConfig, steps: int, by: int) -> None:
        self.schedule, self.steps, self.by = schedule, steps, by

    def multiplier(self, step: int, steps: int) -> float:
        return self.schedule.multiplier(step + self.by, self.steps)
