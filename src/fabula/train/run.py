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
from fabula.data.loader import Loader
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
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.kinds import AnyConfig, AnyModel, described
from fabula.plan import hardware
from fabula.plan.estimate import WORN, repeats, utilisation
from fabula.progress import Progress, StopFlag
from fabula.tokenizer.base import Tokenizer
from fabula.train.averaging import Average
from fabula.train.budget import Budget, parse_budget, steps_for
from fabula.train.callbacks import Bar, Evaluate, Latest, Metrics, Samples, Settle, Watch, milestones
from fabula.train.compiling import Compiled, Decision, decide, try_it
from fabula.train.config import TrainConfig
from fabula.train.guard import Guard, Holding
from fabula.train.heap import keep_freed_memory
from fabula.train.material import Material, material, step_rows
from fabula.train.objective import NextToken, Objective, SequenceToSequence
from fabula.train.patience import Patience
from fabula.train.precision import place
from fabula.train.prepared import prepared
from fabula.train.rehearsal import made_up, peak_of_steps
from fabula.train.saving import Save
from fabula.train.speed import Speed, Stepper, measure
from fabula.train.threads import candidates, fastest
from fabula.train.trackers.mirror import Trackers
from fabula.train.trainer import Callback, Trainer

Lengths = NDArray[np.int64]

# Seconds of compiled and eager steps in turn, where the faster is looked for.
_TRIED_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What was fixed before the first step. Rows are rows of context_length tokens."""

    steps: int
    batch_rows: int
    micro_rows: int
    evaluation_rows: int
    milestones: list[int]
    seconds: float  # of a time budget: what is left for steps; 0 for other budgets
    step_seconds: float  # a step, measured
    rules: dict[str, str]  # dotted name of a value to the sentence that explains it
    dtype: str = ""  # the format of the products; empty in runs that began before it was kept
    threads: int = 0  # as many as were measured to be fastest; 0: they were not measured
    compiled: bool = False
    planned_steps: int = 0  # what patience ended early was planned for so many steps; 0: nothing was ended


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
    device = _place(config, "" if begun is None else begun.dtype, group)
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
            speed = _speed(config, model_config, made.typical, scored, byte_lengths, device, stop, over)

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
        plan = replace(plan, compiled=plan.compiled if config.compile == "auto" else config.compile == "on")
        changed = checkpoints.changed_environment(resumed, _environment(device, plan))
        if changed:
            progress.note(
                f"{resumed.path.name} was made elsewhere ({'; '.join(changed)}): the run goes on, its last bits will "
                "not be those of a run that was never stopped"
            )
    for name, rule in plan.rules.items():
        progress.note(f"{name}: {rule}")
    reading = _reading_notes(made.loader, plan.steps * plan.batch_rows)
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
    example = made.typical.rows(0, plan.micro_rows)
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
            for sentence in _reading_notes(made.loader, steps * plan.batch_rows):
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
        **_feeding(made.loader, trainer.position),
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

    pairs, several = isinstance(made.loader, PairLoader), count_devices() > 1
    if config.compile == "on" and (pairs or several):
        why = "batches of pairs have many widths" if pairs else "several processes train together"
        raise InputError(f"train.compile: it is not to be had where {why}; use --train.compile off")
    if several:
        return Decision(False, "off: several processes train together")
    return decide(config.compile, device, pairs=pairs, steps=plan.steps, step_seconds=plan.step_seconds, trial=trial)


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


def _feeding(loader: Loader | PairLoader, position: int) -> Data:
    """What became of the packing and of the shares of a mixture, where there is something to tell."""
    if isinstance(loader, PairLoader):
        return {}
    found: Data = {}
    if loader.rows.kind != "concat":
        found["packing"] = loader.figures()
    if len(loader.shares) > 1:
        passes = loader.passes(position)
        found["mixture"] = {name: {"share": loader.shares[name], "passes": passes[name]} for name in loader.shares}
    return found


def _reading_notes(loader: Loader | PairLoader, rows: int) -> list[str]:
    """How often the text, or each component of a mixture, is read in so many rows; advice where that is too often."""
    if isinstance(loader, PairLoader) or len(loader.shares) < 2:
        passes = rows / loader.n_rows
        return [repeats("the text", passes)] if passes > WORN else []
    each = loader.passes(rows)
    told = (f"{name} {loader.shares[name]:.1%} of the tokens, read {each[name]:,.2f} times" for name in each)
    worn = [repeats(name, times, mixed=True) for name, times in each.items() if times > WORN]
    return [f"mixture: {'; '.join(told)}", *worn]


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


def rehearse(
    config: TrainConfig,
    model_config: AnyConfig,
    sampling: GenerateConfig,
    epoch_tokens: int,
    device: Device,
    pair_tokens: tuple[float, float] = (0.0, 0.0),
    row_tokens: float = 0.0,
    longest: tuple[int, int] = (0, 0),
) -> tuple[Plan, Speed]:
    """The plan of a run whose data does not exist yet: real steps on made-up ids of an epoch of `epoch_tokens`.

    Of pairs these are those of the targets; `pair_tokens` are the mean lengths of a source and a target, and `longest`
    the longest: time is that of a usual batch, memory that of the one with the longest pairs. Rows of text have
    `row_tokens` predictions on average, the rest is padding; 0: context_length.
    """
    context = model_config.context_length
    if isinstance(model_config, EncoderDecoderConfig):
        row_tokens = min(pair_tokens[1], context)
        rows = step_rows(config, row_tokens)
        widths = [max(2, min(context, round(n))) for n in pair_tokens]
        batch = made_up(model_config, rows, (widths[0], widths[1]), config)
        ones = np.ones(model_config.vocab_size, dtype=np.int64)
        speed = _speed(config, model_config, batch, batch, ones, device, StopFlag())
        epoch_rows = max(1, round(epoch_tokens / row_tokens))
        plan = make_plan(config, model_config, speed, epoch_rows, max(1, epoch_rows // 20), sampling, row_tokens)
        if longest[1]:
            wide = made_up(model_config, rows, longest, config)
            speed = replace(
                speed, peak_memory_bytes=peak_of_steps(config, model_config, wide, plan.micro_rows, device)[0]
            )
        return plan, speed
    row_tokens = row_tokens or context
    rows = step_rows(config, row_tokens)
    batch = made_up(model_config, rows, (0, context), config)
    lengths = np.ones(model_config.vocab_size, dtype=np.int64)
    speed = _speed(config, model_config, batch, batch, lengths, device, StopFlag())
    epoch_rows = max(1, int(epoch_tokens / row_tokens))
    plan = make_plan(config, model_config, speed, epoch_rows, max(1, epoch_rows // 20), sampling, row_tokens)
    return plan, speed


def _speed(
    config: TrainConfig,
    model_config: AnyConfig,
    batch: Batch | PairBatch,
    scored: Batch | PairBatch,
    lengths: Lengths,
    device: Device,
    stop: StopFlag,
    over: Spread | None = None,
) -> Speed:
    budget = parse_budget(config.budget)
    seconds = 0.03 * budget.amount if budget.unit == "seconds" else 0.0
    rows = batch.tokens.shape[0]
    micro_rows = min(rows, config.micro_rows or rows)
    over = (over or Spread()).fresh()
    return measure(config, model_config, batch, scored, lengths, micro_rows, device, seconds, stop, over)


def settled(plan: Plan, steps: int, step_seconds: float, config: TrainConfig) -> Plan:
    """A plan of other steps for the same time; scored rows follow the pace, so that their share of the time stays."""
    pace = 1.0 if config.evaluation_rows else min(1.0, plan.step_seconds / step_seconds)
    rows = max(1, round(plan.evaluation_rows * pace))
    rule = f"{steps:,}: {plan.seconds:,.0f} s at {step_seconds * 1e3:,.1f} ms a step, the pace of the first steps"
    rules = {**plan.rules, "train.steps": f"{rule}; before the run it was {plan.step_seconds * 1e3:,.1f} ms"}
    return replace(
        plan,
        steps=steps,
        evaluation_rows=rows,
        milestones=milestones(steps, config.checkpoints),
        step_seconds=step_seconds,
        rules=rules,
    )


def ended(plan: Plan, step: int, latest: Latest, rate: float, patience: int) -> Plan:
    """A plan that patience ended after a step; `rate` is the multiplier that the schedule had come down to.

    The schedule was made for the whole run and is cut off: that is said, and which run would have come down to its end.
    """
    told = (
        f"ended after {step:,} of {plan.steps:,} steps: {patience} evaluations in a row were not better than "
        f"{latest.best_bits_per_byte:.4f} bits per byte of step {latest.best_step:,}, which is what is kept as the best"
    )
    if rate > 0.1:
        told += (
            f". The learning rate was still at {rate:.0%} of its peak: a run planned to end about there "
            f"(--train.budget {latest.best_step}steps) comes down to its end and may be better"
        )
    marks = [mark for mark in plan.milestones if mark <= step]
    rules = {**plan.rules, "train.patience": told}
    return replace(plan, steps=step, milestones=marks, rules=rules, planned_steps=plan.steps)


def make_plan(
    config: TrainConfig,
    model_config: AnyConfig,
    speed: Speed,
    epoch_rows: int,
    validation_rows: int,
    sampling: GenerateConfig,
    row_tokens: float = 0.0,
    spent: float = 0.0,
) -> Plan:
    """Fix the number of steps, the validation set and the milestones of a run.

    A row has `row_tokens` predictions on average; 0: context_length. `spent` are seconds of the budget that are gone.
    """
    context = model_config.context_length
    row_tokens = row_tokens or context
    rows = step_rows(config, row_tokens)
    step_tokens, epoch_tokens = round(rows * row_tokens), round(epoch_rows * row_tokens)
    budget = parse_budget(config.budget)
    pause = config.checkpoints * speed.pause(sampling, context)
    net = 0.0
    if budget.unit == "seconds":
        # What evaluation, samples and saves will take is set aside first; the rest is steps.
        net = max(budget.amount * 0.5, budget.amount * (1 - config.evaluation_share) - pause - spent)
        steps, rule = steps_for(Budget(net, "seconds"), step_tokens, epoch_tokens, speed.step)
        rule += f"; {budget.amount - net:,.0f} s of {budget.amount:,.0f} s set aside for evaluation, samples and saving"
    else:
        steps, rule = steps_for(budget, step_tokens, epoch_tokens, None)
    marks = milestones(steps, config.checkpoints)
    # Where a mean of weights is kept, the end of the run scores it and the last step's weights.
    times = len(marks) + config.average.keeps
    affordable = int(config.evaluation_share * steps * speed.step / times / speed.evaluation_row)
    evaluated = max(1, min(validation_rows, config.evaluation_rows or affordable))
    share = "given" if config.evaluation_rows else f"at most {config.evaluation_share:.0%} of the training time"
    rules = {
        "train.steps": f"{steps:,}: {rule}",
        "train.epochs": f"{steps * rows / epoch_rows:.2f} passes over {epoch_tokens:,} training tokens",
        "train.evaluation_rows": f"{evaluated:,} of {validation_rows:,} validation rows, {times} times: {share}",
    }
    # Fewer rows at once than were asked for, where memory has already shown to be short.
    micro_rows = min(rows, config.micro_rows or rows, speed.micro_rows or rows)
    if speed.micro_rows and micro_rows < min(rows, config.micro_rows or rows):
        rules["train.micro_rows"] = f"{micro_rows}: more rows at once did not fit into memory"
    return Plan(steps, rows, micro_rows, evaluated, marks, net, speed.step, rules)
