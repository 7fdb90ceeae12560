"""Stage: data and a model configuration to trained weights. The parts are built in the order in which a batch meets
them.

What is measured at the start (the time of a step, of a scored row, of a generated token, of a save) fixes the number
of steps, the validation set and the milestones. They are stored with the first checkpoint, so a resumed run is the
same run. Of several processes the first one decides, writes and tells; each of the others does the same steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fabula import checkpoint as checkpoints
from fabula import faults, storage
from fabula.checkpoint import RunFolder
from fabula.config import Data, to_data
from fabula.data.batch import Batch
from fabula.data.mixture import Feed
from fabula.data.pairs import PairBatch, PairLoader
from fabula.data.shards import Shards
from fabula.device import (
    Device,
    cores,
    count_devices,
    environment,
    peak_memory_bytes,
    release_memory,
    seed_everything,
    threads_are_given,
    use_threads,
)
from fabula.distributed.group import ALONE, Group
from fabula.distributed.spread import Spread, spread
from fabula.errors import DamagedError, InputError, PromptError
from fabula.generate.config import GenerateConfig
from fabula.generate.run import encode_prompt
from fabula.model.kinds import AnyConfig, AnyModel, described
from fabula.plan import hardware
from fabula.plan.estimate import utilisation
from fabula.progress import Progress, StopFlag
from fabula.tokenizer.base import Tokenizer
from fabula.train.averaging import Average
from fabula.train.budget import parse_budget, steps_for
from fabula.train.callbacks import Bar, Evaluate, Latest, Metrics, Samples, Settle, Watch
from fabula.train.compiling import Compiled, Decision, decide, try_it
from fabula.train.config import TrainConfig
from fabula.train.guard import Guard, Holding
from fabula.train.heap import keep_freed_memory
from fabula.train.material import Material, feeding, material, reading_notes
from fabula.train.objective import NextToken, Objective, SequenceToSequence
from fabula.train.patience import Patience
from fabula.train.planning import Plan, ended, make_plan, settled
from fabula.train.precision import place
from fabula.train.prepared import prepared
from fabula.train.saving import Save
from fabula.train.speed import Speed, Stepper, speed_of
from fabula.train.threads import candidates, fastest
from fabula.train.trackers.mirror import Trackers
from fabula.train.trainer import Callback, Trainer

Lengths = NDArray[np.int64]

# Seconds of compiled and eager steps in turn, where the faster is looked for.
_TRIED_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What training did. `facts` go into the run's summary."""

    plan: Plan
    facts: Data
    environment: Data
    samples: list[Data]


def run(
    config: TrainConfig,
    model_config: AnyConfig,
    tokenizer: Tokenizer,
    shards: Shards,
    run_folder: Path,
    *,
    seed: int,
    sampling: GenerateConfig,
    facts: Data,
    progress: Progress,
    stop: StopFlag,
    feed: Feed | None = None,
    group: Group = ALONE,
) -> TrainResult:
    """Train in a run folder, from its newest checkpoint if there is one. `facts` go into every manifest.

    Every process of a group calls it with the same arguments.
    """
    folder = RunFolder(run_folder)
    shards.check_tokenizer(tokenizer.fingerprint, tokenizer.vocab_size)
    keep_freed_memory()
    config = replace(config, threads=config.threads or group.threads)
    over = spread(config.parallel, group)
    made = material(config, model_config, tokenizer, shards, seed, feed)
    over.check(made.rows)
    resumed = _newest(run_folder, progress, group)
    begun, state, tensors = _begun(resumed)
    device = _place(config, "" if begun is None else begun.dtype or _dtype_of(resumed), group)
    progress.note(f"train.precision: {device.dtype_reason}")
    if group.leads:
        _require_disk(folder, model_config, config)
    seed_everything(seed)
    model, notes = prepared(config, model_config, device)
    for sentence in (*notes, *_company(over, config, made.rows, device)):
        progress.note(sentence)
    byte_lengths = np.array(tokenizer.byte_lengths(), dtype=np.int64)
    check_prompts(sampling, tokenizer, model_config.context_length)
    if resumed is None or begun is None:
        with progress.task("measuring this machine", None, "") as _:
            everything = made.fixed(None)
            scored = made.checker.rows_at(everything[: made.rows])
            faults.point("train.measuring")
            stop.check("measuring this machine")
            device, threads_rule = _with_threads(config, model_config, made, device, stop)
            speed = speed_of(config, model_config, made.typical, scored, byte_lengths, device, stop, over)

            def planned(speed: Speed, spent: float) -> Plan:
                made_plan = make_plan(
                    config, model_config, speed, made.loader.n_rows, len(everything), sampling, made.row_tokens, spent
                )
                return replace(made_plan, dtype=device.dtype, threads=device.threads if threads_rule else 0)

            plan = planned(speed, 0.0)
        decision = _compiling(config, model_config, made, device, plan, progress, stop)
        if decision.seconds:
            # The time is part of the budget; compiled steps are more of them.
            plan = planned(replace(speed, step=decision.step_seconds or speed.step), decision.seconds)
        rules = {"train.compile": decision.reason, **({"train.threads": threads_rule} if threads_rule else {})}
        plan = replace(plan, compiled=decision.compiled, rules={**plan.rules, **rules})
        plan = Plan(**group.share(asdict(plan), "planning"))
        seed_everything(seed)
    else:
        checkpoints.restore_weights(model, resumed)
        plan = begun
        if plan.threads and not config.threads and not threads_are_given():
            device = replace(device, threads=use_threads(min(plan.threads, cores())))
        asked = plan.compiled if config.compile == "auto" else config.compile == "on"
        plan = replace(plan, compiled=asked and not _why_not_compiled(config, made))
        changed = checkpoints.changed_environment(resumed, _environment(device, plan))
        if changed:
            progress.note(
                f"{resumed.path.name} was made elsewhere ({'; '.join(changed)}): the run goes on, its last bits will "
                "not be those of a run that was never stopped"
            )
    for name, rule in plan.rules.items():
        progress.note(f"{name}: {rule}")
    reading = reading_notes(made.loader, plan.steps * plan.batch_rows)
    for sentence in (*made.notes, *reading, *config.optimizer.notes(model_config.d_model)):
        progress.note(sentence)

    model = over.wrap(model)
    if group.rank and over.own_generators():
        seed_everything(seed + group.rank)  # each drops out its own
    latest, watch = Latest(), Watch()
    peak, devices = hardware.peak(device), count_devices()
    flops = 3 * model_config.flops_per_token(max(1, round(made.row_tokens)))

    def using(tokens_per_second: float) -> Data:
        share = utilisation(flops, tokens_per_second, peak.flops_per_second, devices)
        return {"mfu": share, "memory_bytes": peak_memory_bytes(device)}

    factor = made.bits_per_token_byte
    starts = made.fixed(plan.evaluation_rows)
    # A time budget has no milestones until its steps are settled, within the first minute.
    settling = resumed is None and plan.seconds > 0
    marks: set[int] = set() if settling else set(plan.milestones)
    stored = asdict(plan)

    def end_early(trainer: Trainer) -> None:
        nonlocal plan
        share = config.schedule.multiplier(trainer.step - 1, trainer.steps)
        plan = ended(plan, trainer.step, latest, share, config.patience)
        trainer.steps = plan.steps
        marks.intersection_update(plan.milestones)
        stored.update(asdict(plan))
        progress.note(f"train.patience: {plan.rules['train.patience']}")

    average = Average(config.average)
    patience = Patience(config.patience, marks, latest, end_early)
    samples = Samples(marks, tokenizer, sampling, folder.samples, stop, made.examples, average)
    evaluate = Evaluate(
        marks,
        made.checker,
        starts,
        plan.batch_rows,
        byte_lengths,
        folder.metrics,
        latest,
        stop,
        average,
        patience.judge,
        progress.note,
    )
    save_facts = {**facts, "environment": _environment(device, plan)}
    save = Save(marks, folder, tokenizer, config, save_facts, latest, progress, stored, average)
    rate = getattr(config.optimizer, "lr", 0.0)
    mirrors = Trackers(config.trackers, config.tracking, folder, rate, progress.note)
    callbacks: list[Callback] = [evaluate, samples, watch, save]
    if group.leads:
        callbacks = [
            Holding(folder.root),
            Metrics(folder.metrics, config.log_every, factor, plan.steps, using, marks if config.patience else ()),
            Guard(folder.unapplied, config.unapplied, made.loader, progress),
            *callbacks,
            mirrors,
        ]
    callbacks.insert(0, average)
    made.loader.pinned = device.name == "cuda"
    # Fewer rows at once than planned, where memory has run out on the way.
    example = made.typical.rows(0, min(plan.micro_rows, int(state.get("micro_rows", plan.micro_rows))))
    objective = _objective(plan.compiled, shards.pairs, model, example, device, progress)
    with progress.task("training", plan.steps, "steps") as task:

        def settle(steps: int, step_seconds: float) -> None:
            nonlocal plan
            if steps == plan.steps:
                marks.update(plan.milestones)
                return
            plan = settled(plan, steps, step_seconds, config)
            marks.update(plan.milestones)
            stored.update(asdict(plan))
            evaluate.starts = made.fixed(plan.evaluation_rows)
            task.resize(steps)
            progress.note(f"train.steps: {plan.rules['train.steps']}")
            for sentence in reading_notes(made.loader, steps * plan.batch_rows):
                progress.note(sentence)

        if settling:
            extra = config.optimizer.extra_work
            callbacks.insert(0, Settle(plan.seconds, plan.step_seconds, settle, extra))
        trainer = Trainer(
            model=model,
            objective=objective,
            optimizers=config.optimizer.build(model),
            schedule=config.schedule,
            source=made.loader,
            steps=plan.steps,
            batch_rows=plan.batch_rows,
            micro_rows=plan.micro_rows,
            clip=config.clip,
            device=device,
            stop=stop,
            callbacks=[*callbacks, Bar(task, latest, factor)],
            skip_spikes=config.skip_spikes,
            note=progress.note,
            spread=over,
        )
        if resumed is not None:
            _resume(trainer, resumed, state, tensors, latest)
            progress.note(f"resumed from {resumed.path.name} of {plan.steps:,} steps")
        with contextlib.closing(mirrors):
            trainer.fit()
    result = {
        **watch.facts,
        "planned_steps": plan.planned_steps or plan.steps,
        "mfu": using(watch.facts["tokens_per_second"])["mfu"],
        "peak_flops_per_second": peak.flops_per_second,
        "peak_source": peak.source,
        "devices": devices,
        "epochs": trainer.position / made.loader.n_rows,
        **feeding(made.loader, trainer.position),
        **({"ended_early": plan.rules["train.patience"]} if plan.planned_steps else {}),
        **({"weights": average.weights} if config.average.keeps else {}),
        "best_step": latest.best_step,
        "last_step": trainer.step,
        "validation": None if latest.score is None else latest.score.to_data(),
        "saving_seconds": save.seconds,
        "entered_at_step": 0 if resumed is None else resumed.step,
    }
    return TrainResult(plan, result, _environment(device, plan), samples.newest)


def _environment(device: Device, plan: Plan) -> Data:
    """What the numbers of a run depend on beside its recipe."""
    return {**environment(device), "compiled": plan.compiled}


def _begun(resumed: checkpoints.Checkpoint | None) -> tuple[Plan | None, Data, dict[str, Any]]:
    """The plan of a run that is continued, and its trainer's state and tensors."""
    if resumed is None:
        return None, {}, {}
    state, tensors = checkpoints.trainer_state(resumed)
    with _readable(resumed):
        return Plan(**state["plan"]), state, tensors


def _dtype_of(resumed: checkpoints.Checkpoint | None) -> str:
    """The number format that a checkpoint was made in, of a run whose plan did not keep it; empty when unknown."""
    made_in = {} if resumed is None else resumed.manifest.get("environment") or {}
    return str(made_in.get("dtype") or "")


def _with_threads(
    config: TrainConfig, model_config: AnyConfig, made: Material, device: Device, stop: StopFlag
) -> tuple[Device, str]:
    """The device with as many threads as train fastest, and why; as it is, and nothing, where that is not tried."""
    counts = candidates(cores())
    limited = config.threads or threads_are_given() or device.threads != counts[0]
    if device.name != "cpu" or limited or len(counts) < 2:
        return device, ""
    rows = made.typical.tokens.shape[0]
    stepper = Stepper(config, model_config, made.typical, min(rows, config.micro_rows or rows), device, stop)
    budget = parse_budget(config.budget)
    tokens = (round(rows * made.row_tokens), round(made.loader.n_rows * made.row_tokens))

    def step(count: int) -> float:
        use_threads(count)
        return stepper.seconds()

    found = fastest(counts, step, lambda seconds: steps_for(budget, *tokens, seconds)[0] * seconds)
    chosen, why = found or (device.threads, "")
    return replace(device, threads=use_threads(chosen)), why


def _compiling(
    config: TrainConfig,
    model_config: AnyConfig,
    made: Material,
    device: Device,
    plan: Plan,
    progress: Progress,
    stop: StopFlag,
) -> Decision:
    """Whether the steps of a plan are compiled; MachineError when that is asked for and cannot be done."""
    texts = made.loader.split
    job = {
        "train": to_data(config),
        "model": described(model_config),
        "dtype": device.dtype,
        "threads": device.threads,
        "rows": plan.micro_rows,
        "batch_rows": plan.batch_rows,
        # Where it is asked for, how fast it is decides nothing.
        "seconds": 0.0 if config.compile == "on" else _TRIED_SECONDS,
        "document_tokens": texts.n_tokens / max(1, texts.n_documents),
    }

    def trial() -> Data:
        release_memory(device)
        with progress.task("compiling", None, ""):
            return try_it(job, stop)

    why = _why_not_compiled(config, made)
    if why and config.compile == "auto":
        return Decision(False, f"off: {why}")
    pairs = isinstance(made.loader, PairLoader)
    return decide(config.compile, device, pairs=pairs, steps=plan.steps, step_seconds=plan.step_seconds, trial=trial)


def _why_not_compiled(config: TrainConfig, made: Material) -> str:
    """Why no run of this kind is compiled, on any machine; InputError when that is asked for. Empty: it may be."""
    why = ""
    if isinstance(made.loader, PairLoader):
        why = "batches of pairs have many widths, each of which would be compiled"
    elif count_devices() > 1:
        why = "several processes train together"
    if why and config.compile == "on":
        raise InputError(f"train.compile: it is not to be had where {why}; use --train.compile off")
    return why


def _objective(
    compiled: bool, pairs: bool, model: AnyModel, batch: Batch | PairBatch, device: Device, progress: Progress
) -> Objective:
    """What is minimised, compiled for batches like that one where the plan says so."""
    if pairs:
        return SequenceToSequence()
    if not compiled:
        return NextToken()
    made = Compiled(progress.note)
    with progress.task("compiling", None, ""):
        made.warm(model, batch, device)
    return made


def check_prompts(sampling: GenerateConfig, tokenizer: Tokenizer, context: int) -> None:
    """PromptError before the first step, not at the first milestone."""
    for prompt in sampling.prompts:
        size = len(encode_prompt(tokenizer, prompt))
        if size > context:
            raise PromptError(
                f'generate.prompts: "{prompt[:40]}" has {size:,} tokens, the model\'s context holds {context:,}: '
                "shorten it, or raise --model.context_length"
            )


def _newest(run_folder: Path, progress: Progress, group: Group) -> checkpoints.Checkpoint | None:
    """The checkpoint to go on from: the newest that is sound, as the first process finds it."""
    group.busy("looking for checkpoints")
    found = checkpoints.newest_sound(run_folder, progress.note) if group.leads else None
    step = group.share(None if found is None else found.step, "looking for checkpoints")
    return found if group.leads or step is None else checkpoints.find(run_folder, f"step-{step}")


def _place(config: TrainConfig, dtype: str, group: Group) -> Device:
    """Where this process computes, in the format that the first one found to be the fastest."""
    found = place(config, dtype) if group.leads else None
    told = group.share(None if found is None else [found.dtype, found.dtype_reason], "choosing the number format")
    if found is None:
        found = replace(place(config, told[0]), dtype=told[0], dtype_reason=told[1])
    return found


def _company(over: Spread, config: TrainConfig, rows: int, device: Device) -> list[str]:
    """Who trains together, and how."""
    group = over.group
    if group.world == 1:
        return []
    shared = group.threads and config.threads == group.threads
    threads = "cores shared out" if shared else "as OMP_NUM_THREADS or train.threads says"
    told = [f"{group.world} processes, train.parallel = {config.parallel}; {device.threads} threads each ({threads})"]
    if over.largest(rows) * group.world > rows > over.largest(rows):
        told.append(
            f"{rows:,} rows a step are not shared out evenly to {group.world} processes: up to {over.largest(rows):,} "
            "each, and some wait; the result is the same"
        )
    return told


def _resume(
    trainer: Trainer,
    checkpoint: checkpoints.Checkpoint,
    state: Data,
    tensors: dict[str, Any],
    latest: Latest,
) -> None:
    if state.get("steps") != trainer.steps:
        raise DamagedError(f"{checkpoint.path}: planned for {state.get('steps')} steps, the run has {trainer.steps}")
    with _readable(checkpoint):
        trainer.restore(state, tensors)
        latest.restore(state["latest"])


@contextlib.contextmanager
def _readable(checkpoint: checkpoints.Checkpoint) -> Iterator[None]:
    """DamagedError where the trainer's state, though its hash is right, is not what a trainer keeps."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise DamagedError(
            f"{checkpoint.path / checkpoints.TRAINER}: not what this version's trainer keeps "
            f"({type(error).__name__}: {error}); use the version of fabula that wrote it"
        ) from None


def _require_disk(folder: RunFolder, model_config: AnyConfig, config: TrainConfig) -> None:
    """MachineError before the run when its checkpoints would not fit: the newest, the best, one being written."""
    # Weights and two moments in float32 is the most that an optimizer keeps; what is already there needs no more room.
    one, keep = (12 + 4 * config.average.keeps) * model_config.n_params() + (1 << 20), config.keep
    there = sum(f.stat().st_size for f in folder.checkpoints.rglob("*") if f.is_file())
    storage.require_space(
        folder.root, max(one, (keep + 2) * one - there), f"a run that keeps {keep} checkpoints of {one:,} bytes each"
    )
