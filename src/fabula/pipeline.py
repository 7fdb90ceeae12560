"""The stages of a recipe in order: corpus, tokenizer, data, train, evaluate, report. What is up to date is skipped.

Where a launcher has started several processes, they train together: the first one does everything else, and the others
wait for it (`_follow`).

A stage is up to date when the hash of its settings and inputs is the one with which it was done. Nothing that was
trained is ever replaced silently: another recipe in the same run folder is refused with the settings that differ.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fabula import __version__, checkpoint, config, faults, recipe, storage
from fabula.checkpoint import RunFolder
from fabula.config import Data, to_data
from fabula.corpus.run import Corpus, with_stated
from fabula.data import run as data_stage
from fabula.data.packing import Packing, figures
from fabula.data.shards import FORMAT, Shards, dtype_for
from fabula.defaults import request
from fabula.defaults import run as defaults_stage
from fabula.device import Device, versions
from fabula.distributed.group import ALONE, Group, joined, same
from fabula.distributed.launch import Launch
from fabula.energy.account import Account
from fabula.errors import DamagedError, DivergedError, FabulaError, InputError, MachineError, Stopped
from fabula.evaluate import run as evaluate_stage
from fabula.evaluate import translation
from fabula.evaluate.translation import PairEvaluation
from fabula.model.kinds import AnyConfig, described, kind_of
from fabula.plan import hardware
from fabula.plan import measure as plan_memory
from fabula.plan import run as plan_stage
from fabula.plan.estimate import training_bytes
from fabula.progress import Progress, Silent, StopFlag, stop_on_signals
from fabula.recipe import Recipe
from fabula.report import run as report_stage
from fabula.report.comparison import FILE as COMPARISON
from fabula.stages import Logged, Stages, now
from fabula.tokenizer import run as tokenizer_stage
from fabula.tokenizer.base import Tokenizer
from fabula.train import run as train_stage
from fabula.train.material import material
from fabula.train.precision import place
from fabula.train.trackers import config as trackers

RUNS = Path("runs")

# Settings that change how a run is done, not what comes out of it: they may differ between start and resume.
_INCIDENTAL = (
    "device",
    "precision",
    "compile",
    "recompute",
    "threads",
    "keep",
    "log_every",
    "save_minutes",
    "save_steps",
    "failed_save",
    "parallel",
    "peer_timeout",
    "trackers",
    "tracking",
)


# Settings of optimizers that came later and by default change nothing: runs of before go on.
_LATER = ("cautious", "decay_tables", "base_width")


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a recipe came to."""

    folder: Path
    summary: Data
    evaluation: Data
    samples: list[Data]
    report: Path


def run(
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    runs: str | os.PathLike[str] = RUNS,
    fresh: bool = False,
    progress: Progress | None = None,
    until: str | None = None,
    prepared: Sequence[Path] = (),
    launch: Launch | None = None,
) -> RunResult:
    """Every stage of a recipe; a stopped run is continued, what is up to date is skipped.

    `path` is a recipe (.toml) or whatever `corpus.source` may be: then the rest is chosen for that text, each choice is
    told with its reason, and the same call again goes on with what was chosen.

    `fresh` removes an older run of that name first. `until="train"` leaves out evaluation. `prepared` are other run
    folders whose tokenizer and data are taken over where they are what this recipe would make. `launch` is this
    process's place among several that train together; to all but the first one the result tells the folder alone.
    """
    watcher = progress or Silent()
    loaded = load_or_choose(path, overrides, name, runs=None if fresh else Path(runs), progress=watcher)
    folder = RunFolder(Path(runs) / loaded.name)
    if (folder.root / COMPARISON).exists():
        raise InputError(f"{folder.root} holds a comparison; choose another --name")
    # What only a later stage needs is missed before the first one.
    trackers.require(loaded.train.trackers)
    place(loaded.train)
    corpus = Corpus(loaded.corpus)
    if corpus.config.pair is not None and until != "train":
        translation.require()
    if fresh and folder.root.is_dir():
        known = any(p.exists() for p in (folder.log, folder.recipe, folder.root / storage.LOCK))
        if any(folder.root.iterdir()) and not known:
            raise InputError(f"{folder.root} is not a run folder and is not removed; choose another --name")
    with stop_on_signals() as stop, _together(loaded, launch, stop) as group:
        if not group.leads:
            return _follow(loaded, folder, group, stop)
        group.busy("preparing")
        with storage.lock(folder.root):
            stop.check("starting")
            if fresh:
                _clear(folder)
            with _Pipeline(loaded, folder, watcher, stop, prepared, group) as made:
                return made.run(corpus, until)


def load(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None, name: str | None = None) -> Recipe:
    """A recipe with overrides of any type laid on top; ConfigError with every problem."""
    given = [(key, _as_text(value)) for key, value in (overrides or {}).items()]
    return recipe.load(Path(path), [*given, ("name", name)] if name else given)


def load_or_choose(
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None,
    name: str | None = None,
    *,
    runs: Path | None = None,
    progress: Progress | None = None,
) -> Recipe:
    """A recipe, or the one that the defaults make for a text; ConfigError with every problem.

    A run among `runs` that was asked for in the same words has its recipe already: nothing is measured again.
    """
    source = os.fspath(path)
    if not request.is_text(source):
        return load(path, overrides, name)
    given = [(key, _as_text(value)) for key, value in (overrides or {}).items()]
    asked = request.asked(source, [(key, value) for key, value in given if not _is_incidental(key)])
    called = name or dict(given).get("name") or request.name_of(source)
    there = None if runs is None else RunFolder(runs / called).recipe
    if there is not None and there.is_file():
        stored = recipe.load(there, [(key, value) for key, value in given if _is_incidental(key)])
        if stored.rules.get(request.ASKED) == asked:
            return replace(stored, name=called)
    made = defaults_stage.run(source, given, name=called, progress=progress)
    return replace(made, rules={request.ASKED: asked, **made.rules})


def choices(loaded: Recipe) -> list[Data]:
    """What was chosen for a text: name, value and reason of each; nothing where a recipe was given."""
    if request.ASKED not in loaded.rules:
        return []
    found = {name: loaded.rules[name].partition(": ") for name in request.CHOSEN if name in loaded.rules}
    return [{"name": name, "value": value, "reason": reason} for name, (value, _, reason) in found.items()]


def told(chosen: Sequence[Data]) -> list[str]:
    """Choices as lines, their columns below each other."""
    widths = [max((len(row[part]) for row in chosen), default=0) for part in ("name", "value")]
    return [f"{row['name'].ljust(widths[0])}  {row['value'].ljust(widths[1])}  {row['reason']}" for row in chosen]


def prepare(
    loaded: Recipe, folder: Path, *, progress: Progress | None = None, prepared: Sequence[Path] = ()
) -> tuple[Tokenizer, Shards]:
    """The stages of a recipe before training: `folder` has a tokenizer and shards afterwards, and `run` goes on there.

    `prepared` is as in `run`.
    """
    corpus = Corpus(loaded.corpus)
    with stop_on_signals() as stop, storage.lock(folder), contextlib.ExitStack() as stack:
        pipeline = _Pipeline(loaded, RunFolder(folder), progress or Silent(), stop, prepared)
        return stack.enter_context(pipeline).prepare(corpus)


def check_fit(loaded: Recipe, model: AnyConfig, tokenizer: Tokenizer, shards: Shards) -> None:
    """InputError for what does not fit together and shows only once there are a tokenizer and shards."""
    check_stride(loaded, model)
    train_stage.check_prompts(loaded.generate, tokenizer, model.context_length)
    material(loaded.train, model, tokenizer, shards, loaded.seed, recipe.feed(loaded)).fixed(None)


def check_stride(loaded: Recipe, model: AnyConfig) -> None:
    """InputError when windows of the evaluation would leave gaps; pairs are read without windows."""
    if loaded.corpus.pair is None and loaded.evaluate.stride > model.context_length:
        raise InputError(
            f"evaluate.stride={loaded.evaluate.stride} is larger than the model's context of {model.context_length:,}"
        )


def _clear(folder: RunFolder) -> None:
    """Remove everything of a run but the lock; first what says that its stages are done."""
    for path in sorted(folder.root.iterdir(), key=lambda p: p != folder.stages):
        if path.name != storage.LOCK:
            storage.remove(path)


def resume(
    run_folder: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    overrides: Mapping[str, Any] | None = None,
    launch: Launch | None = None,
) -> RunResult:
    """Continue a stopped run from its newest checkpoint; needs nothing but its folder. `launch` is as in `run`."""
    folder = RunFolder(Path(run_folder))
    if not folder.recipe.exists():
        raise InputError(f"{folder.root} is not a run folder: it has no {folder.recipe.name}")
    given = [(key, _as_text(value)) for key, value in (overrides or {}).items()]
    refused = [key for key, _ in given if not _is_incidental(key)]
    if refused:
        allowed = ", ".join(f"train.{name}" for name in _INCIDENTAL)
        raise InputError(f"{', '.join(refused)}: a resumed run is the same run; only {allowed} may change")
    loaded = recipe.load(folder.recipe, given)
    trackers.require(loaded.train.trackers)
    place(loaded.train)
    with stop_on_signals() as stop, _together(loaded, launch, stop) as group:
        if not group.leads:
            return _follow(loaded, folder, group, stop)
        group.busy("preparing")
        with storage.lock(folder.root):
            stop.check("starting")
            with _Pipeline(loaded, folder, progress or Silent(), stop, group=group) as made:
                return made.resume()


@contextlib.contextmanager
def _together(loaded: Recipe, launch: Launch | None, stop: StopFlag) -> Iterator[Group]:
    """The group of this run's processes; InputError, with what differs, unless all mean the same run."""
    with joined(launch, loaded.train.peer_timeout, loaded.train.device, stop) as group:
        if group.world > 1:
            same(group, {**_flat(to_data(loaded)), **versions()}, "recipe or versions")
        yield group


def _flat(data: Mapping[str, Any], prefix: str = "") -> Data:
    """Nested tables as one, by dotted names."""
    found: Data = {}
    for name, value in data.items():
        found.update(_flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value})
    return found


def _follow(loaded: Recipe, folder: RunFolder, group: Group, stop: StopFlag) -> RunResult:
    """What a process does that is not the first: wait for text, tokenizer and data, and train."""
    told = group.share(None, "waiting for tokenizer and data")
    if told["train"]:
        if not folder.data.is_dir():
            raise InputError(
                f"rank {group.rank} does not see {folder.root.absolute()}: all processes of a run need the folder of "
                "runs on a disk that they share"
            )
        tokenizer, shards = Tokenizer.load(folder.tokenizer), Shards(folder.data)
        same(group, _learnt_from(tokenizer, shards), "tokenizer or data")
        _, model = recipe.model_config(loaded, tokenizer.vocab_size)
        train_stage.run(
            loaded.train,
            model,
            tokenizer,
            shards,
            folder.root,
            seed=loaded.seed,
            sampling=loaded.generate,
            facts={},
            progress=Silent(),
            stop=stop,
            feed=recipe.feed(loaded),
            group=group,
        )
    # What follows the training is the first one's alone.
    group.share(None, "ending")
    return RunResult(folder.root, {}, {}, [], folder.root)


def _learnt_from(tokenizer: Tokenizer, shards: Shards) -> Data:
    return {"tokenizer": tokenizer.fingerprint, "data": storage.hash_file(shards.folder / storage.MANIFEST)}


def plan(
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    memory: bool = False,
) -> Data:
    """What a recipe would take on this machine: real steps are timed on made-up ids, nothing is trained or kept.

    `memory`: the table of memory by rows at once and number format as well, each tried in a process of its own.
    """
    watcher = progress or Silent()
    loaded = load_or_choose(path, overrides, progress=watcher)
    corpus = Corpus(loaded.corpus)
    size = corpus.training_bytes()
    vocab, rule = tokenizer_stage.wanted_size(loaded.tokenizer, size)
    preset, model = recipe.model_config(loaded, vocab)
    token_bytes = tokenizer_stage.bytes_per_token(vocab)
    epoch_tokens, pair_tokens = int(size * corpus.times_read() / token_bytes), (0.0, 0.0)
    longest = (0, model.context_length)
    if loaded.corpus.pair is not None:
        source, target = corpus.pair_bytes()
        epoch_tokens = int(size / (source + target) * (1 + target / token_bytes))
        pair_tokens = (1 + source / token_bytes, 1 + target / token_bytes)
        widest = (min(model.context_length, 1 + round(n / token_bytes)) for n in corpus.longest_pair())
        longest = (next(widest), next(widest))
    packed: Data = {}
    row_tokens = float(model.context_length)
    if loaded.data.packing != "concat":
        packed = _packed(loaded.data.packing, corpus.document_bytes(), token_bytes, model.context_length)
        row_tokens *= 1 - packed["waste"]
    device = place(loaded.train)
    with watcher.task("measuring this machine", None, ""):
        made, speed = train_stage.rehearse(
            loaded.train, model, loaded.generate, epoch_tokens, device, pair_tokens, row_tokens, longest
        )
        machine = hardware.measure(device, Path.cwd())
    overhead = speed.overhead(len(made.milestones), made.evaluation_rows, loaded.generate, model.context_length)
    planned = plan_stage.run(
        plan_stage.PlanConfig(
            model=model,
            optimizer=to_data(loaded.train)["optimizer"]["kind"],
            steps=made.steps,
            batch_rows=made.batch_rows,
            row_tokens=min(pair_tokens[1], model.context_length) or row_tokens,
            epoch_tokens=epoch_tokens,
            step_seconds=speed.step,
            overhead_seconds=overhead,
            kept_checkpoints=loaded.train.keep,
            data_bytes=int(size / token_bytes) * dtype_for(vocab).itemsize,
            micro_rows=made.micro_rows,
            peak_memory_bytes=speed.peak_memory_bytes,
            averaged=loaded.train.average.keeps,
            patience=loaded.train.patience,
        ),
        machine,
    )
    rules = {"tokenizer.vocab_size": rule or "given", **loaded.rules, **made.rules}
    facts = {"preset": preset, "vocab_size": vocab, "corpus_bytes": size, "epoch_tokens": epoch_tokens, "rules": rules}
    if packed:
        facts["packing"] = packed
    if memory:
        facts["memory_table"] = _memory_table(loaded, model, made.batch_rows, longest, device, watcher)
    return {**facts, **planned.to_data(), "choices": choices(loaded), "notes": corpus.notes()}


def _packed(kind: Packing, sizes: list[int], token_bytes: float, context: int) -> Data:
    """What a packing would do to documents of some bytes; a document's end is predicted too."""
    ends = np.cumsum([1 + round(size / token_bytes) for size in sizes], dtype=np.int64)
    return figures(kind, np.concatenate([[0], ends[:-1]]), int(ends[-1]), context)


def _memory_table(
    loaded: Recipe, model: AnyConfig, batch_rows: int, lengths: tuple[int, int], device: Device, watcher: Progress
) -> list[Data]:
    """Measured peaks beside the predicted; of pairs with the longest batch."""
    optimizer = to_data(loaded.train)["optimizer"]["kind"]

    def predict(rows: int, dtype: str) -> int:
        width, cpu = 4 if dtype == "float32" else 2, device.name == "cpu"
        kept, again = loaded.train.average.keeps, loaded.train.recompute
        return training_bytes(model, optimizer, rows, lengths, width, cpu, averaged=kept, recompute=again)

    job = {
        "train": to_data(loaded.train),
        "model": described(model),
        "source_tokens": lengths[0],
        "target_tokens": lengths[1],
    }
    found, total = [], plan_memory.count(batch_rows, device)
    with stop_on_signals() as stop, watcher.task("measuring memory", total, "trials") as bar:
        for trial in plan_memory.run("fabula.train.rehearsal", job, batch_rows, device, predict, stop):
            found.append(trial.to_data())
            bar.advance(1, f"{trial.rows} rows, {trial.dtype}: {trial.outcome}")
    return found


class _Pipeline:
    """One recipe in one run folder."""

    def __init__(
        self,
        loaded: Recipe,
        folder: RunFolder,
        progress: Progress,
        stop: StopFlag,
        prepared: Sequence[Path] = (),
        group: Group = ALONE,
    ) -> None:
        self.group = group
        self.recipe, self.folder, self.stop, self.prepared = loaded, folder, stop, prepared
        self.progress = Logged(progress, folder.log)
        self.stages = Stages.of(folder)
        self.started = now()
        self.rules: dict[str, str] = dict(loaded.rules)
        self.summary: Data = {}
        self.energy = Account(folder.root, loaded.energy, self.progress.note)

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Nothing is left running. What is refused leaves no trace, not even of its electricity."""
        self.energy.close(write=not isinstance(error, InputError))

    def run(self, corpus: Corpus, until: str | None) -> RunResult:
        """All stages."""
        self._sweep()
        new = not self.folder.recipe.exists() and not self.folder.log.exists()
        for line in told(choices(self.recipe)):
            self.progress.note(line)
        if checkpoint.last(self.folder.root) is None:
            # So that `resume` knows what to do with what a killed process leaves.
            storage.write_text(self.folder.recipe, config.dump_toml(to_data(self.recipe)))
        try:
            tokenizer, shards = self.prepare(corpus)
        except InputError:
            if new and not self.stages.done:
                _clear(self.folder)  # the text was refused: of a run that was never begun nothing is left
            raise
        except Stopped as error:
            again = f"nothing was trained yet. Continue with: fabula resume {self.folder.root}"
            raise Stopped(f"{error}; {again}", error.exit_code - 128) from None
        preset, model = recipe.model_config(self.recipe, tokenizer.vocab_size)
        if "vocab_size" not in self.recipe.model:
            self.rules["model.vocab_size"] = f"{model.vocab_size:,}: the tokenizer's"
        return self._train_and_after(preset, model, tokenizer, shards, until)

    def prepare(self, corpus: Corpus) -> tuple[Tokenizer, Shards]:
        """Tokenizer and shards: up to date, taken over, or made."""
        for sentence in corpus.notes():
            self.progress.note(sentence)
        with self.energy.stage("tokenizer"):
            tokenizer = self._tokenizer(corpus)
        with self.energy.stage("data"):
            return tokenizer, self._data(corpus, tokenizer)

    def resume(self) -> RunResult:
        """What is not done yet, from what the run folder holds; its text is needed only until there are shards."""
        if not {"tokenizer", "data"} <= self.stages.done.keys():
            return self.run(Corpus(self.recipe.corpus), None)
        self._sweep()
        tokenizer = Tokenizer.load(self.folder.tokenizer)
        self._verify_data()
        shards = Shards(self.folder.data)
        for stage, detail in (("tokenizer", f"{tokenizer.vocab_size:,} tokens"), ("data", _tokens(shards))):
            self.stages.skip(stage, detail)
        preset, model = recipe.model_config(self.recipe, tokenizer.vocab_size)
        return self._train_and_after(preset, model, tokenizer, shards, None)

    def _verify_data(self) -> None:
        """DamagedError unless the shards are what was written; files that did not change are not read again."""
        known = storage.Known.of(self.folder.verified)
        storage.verify(self.folder.data, known=known)
        known.save()

    def _sweep(self) -> None:
        for folder in (self.folder.root, self.folder.checkpoints, self.folder.root / "report"):
            storage.sweep(folder)

    def _tokenizer(self, corpus: Corpus) -> Tokenizer:
        key = storage.hash_data(
            {
                "corpus": corpus.fingerprint(),
                "tokenizer": tokenizer_stage.identity(self.recipe.tokenizer),
                "format": 1,
            }
        )
        if self.stages.is_done("tokenizer", key) and self._verified(self.folder.tokenizer):
            tokenizer = Tokenizer.load(self.folder.tokenizer)
            self.stages.skip("tokenizer", f"{tokenizer.vocab_size:,} tokens")
            return tokenizer
        if not self.stages.is_done("tokenizer", key):
            self._refuse_to_replace("the tokenizer")
        if self._taken_over("tokenizer", key, self.folder.tokenizer):
            tokenizer = Tokenizer.load(self.folder.tokenizer)
            self.stages.skip("tokenizer", f"{tokenizer.vocab_size:,} tokens")
            return tokenizer
        started = time.monotonic()
        settings = self.recipe.tokenizer
        total = corpus.training_bytes()
        with self.progress.task("learning the tokenizer", None, "") as _:
            result = tokenizer_stage.run(
                settings, self._watched(corpus), total, self.folder.tokenizer, self.progress, self.stop
            )
        if result.rule is not None:
            self.rules["tokenizer.vocab_size"] = result.rule
            self.progress.note(f"tokenizer.vocab_size: {result.rule}")
        self.stages.record(
            "tokenizer",
            key,
            time.monotonic() - started,
            f"{result.tokenizer.vocab_size:,} tokens, {result.facts['bytes_per_token']:.2f} bytes a token",
        )
        return result.tokenizer

    def _watched(self, corpus: Corpus) -> Iterator[str]:
        for text in corpus.sample(self.recipe.tokenizer.sample_bytes):
            faults.point("tokenizer.learning")
            self.stop.check("learning the tokenizer")
            yield text

    def _data(self, corpus: Corpus, tokenizer: Tokenizer) -> Shards:
        key = storage.hash_data(
            {
                "corpus": corpus.fingerprint(),
                "tokenizer": tokenizer.fingerprint,
                "data": data_stage.content_settings(recipe.data_config(self.recipe)),
                "format": FORMAT,
            }
        )
        if self.stages.is_done("data", key) and self._verified(self.folder.data):
            shards = Shards(self.folder.data)
            self.stages.skip("data", _tokens(shards))
            return shards
        if not self.stages.is_done("data", key):
            self._refuse_to_replace("the data")
        if self._taken_over("data", key, self.folder.data):
            shards = Shards(self.folder.data)
            self.stages.skip("data", _tokens(shards))
            return shards
        started = time.monotonic()
        data = recipe.data_config(self.recipe)
        shards = data_stage.run(data, corpus, tokenizer, self.folder.data, self.progress, self.stop)
        quarantined = shards.manifest["funnel"]["quarantined"]
        if quarantined:
            self.progress.note(f"unreadable records: {quarantined:,}, in {self.folder.data / data_stage.QUARANTINE}")
        self.stages.record("data", key, time.monotonic() - started, _tokens(shards))
        return shards

    def _taken_over(self, stage: str, key: str, folder: Path) -> bool:
        """Whether another run had done this stage with the same key, and what it made is now here as well."""
        for other in map(RunFolder, self.prepared):
            if other.root == self.folder.root or not Stages.of(other).is_done(stage, key):
                continue
            try:
                storage.share(other.root / folder.name, folder)
            except DamagedError as error:
                self.progress.note(f"{error}; not taken over")
                continue
            self.stages.mark(stage, key, Stages.of(other).done[stage]["seconds"])
            return True
        return False

    def _verified(self, folder: Path) -> bool:
        """Whether a finished stage's folder is still there and whole; a damaged one is made again, saying so."""
        known = storage.Known.of(self.folder.verified)
        try:
            storage.verify(folder, known=known)
        except DamagedError as error:
            self.progress.note(f"{error}; made again")
            return False
        known.save()
        return True

    def _train_and_after(
        self, preset: str, model: AnyConfig, tokenizer: Tokenizer, shards: Shards, until: str | None
    ) -> RunResult:
        check_stride(self.recipe, model)
        settings = settings_that_matter(self.recipe)
        if not settings["evaluation_rows"]:
            del settings["evaluation_rows"]  # runs of before there was this setting go on
        inputs = {
            "data": storage.hash_file(shards.folder / storage.MANIFEST),
            "model": to_data(model),
            "train": settings,
            "generate": to_data(self.recipe.generate),
            "seed": self.recipe.seed,
            **_feeding(self.recipe),
        }
        key = storage.hash_data(inputs)
        newest = checkpoint.last(self.folder.root)
        if newest is not None and newest.manifest.get("train_key") != key:
            self._refuse_to_replace("the trained model", newest.manifest.get("train_inputs"), inputs)
        self._describe(preset, model, tokenizer, shards)
        if self.stages.is_done("train", key) and newest is not None and self._is_last(newest):
            before = storage.read_json(self.folder.summary) if self.folder.summary.exists() else {}
            self.summary["train"] = before.get("train", {})
            self.summary["environment"] = newest.manifest["environment"]
            self.group.share({"train": False}, "telling the others what there is to do")
            self.stages.skip("train", _ended(self.summary["train"], newest.step))
            samples = [r for r in storage.read_json_lines(self.folder.samples) if r["step"] == newest.step]
        else:
            self.group.share({"train": True}, "telling the others what there is to do")
            if self.group.world > 1:
                same(self.group, _learnt_from(tokenizer, shards), "tokenizer or data")
            with self.energy.stage("train", self.group.world, self.group.machines):
                samples = self._train(preset, model, tokenizer, shards, key, inputs)
        self.group.share(None, "ending")
        evaluation: Data = {}
        if until != "train":
            with self.energy.stage("evaluate"):
                evaluation = self._evaluate(shards)
        self.energy.settle()
        self.summary["energy"] = self.energy.summary()
        return self._report(evaluation, samples)

    def _is_last(self, newest: checkpoint.Checkpoint) -> bool:
        """Whether the newest checkpoint is whole and the end of its run; else the run goes on from what there is."""
        try:
            storage.verify(newest.path)
        except DamagedError:
            return False  # training says so, and goes on from the one before
        return newest.step == checkpoint.trainer_data(newest).get("steps")

    def _train(
        self, preset: str, model: AnyConfig, tokenizer: Tokenizer, shards: Shards, key: str, inputs: Data
    ) -> list[Data]:
        started = time.monotonic()
        storage.write_text(self.folder.recipe, recipe.dump(self.recipe, preset, model, self.rules))
        self._write_summary("running")
        facts = {"train_key": key, "train_inputs": inputs, "fabula": __version__, "preset": preset}
        try:
            result = train_stage.run(
                self.recipe.train,
                model,
                tokenizer,
                shards,
                self.folder.root,
                seed=self.recipe.seed,
                sampling=self.recipe.generate,
                facts=facts,
                progress=self.progress,
                stop=self.stop,
                feed=recipe.feed(self.recipe),
                group=self.group,
            )
        except Stopped as error:
            self._leave("stopped")
            newest = checkpoint.last(self.folder.root)
            place = f"the state at step {newest.step:,} is saved" if newest else "nothing was trained yet"
            raise Stopped(
                f"{error}; {place}. Continue with: fabula resume {self.folder.root}", error.exit_code - 128
            ) from None
        except DivergedError:
            self._leave("diverged")
            raise
        except FabulaError:
            self._leave("stopped")
            raise
        self.rules.update(result.plan.rules)
        storage.write_text(self.folder.recipe, recipe.dump(self.recipe, preset, model, self.rules))
        self.summary["train"] = result.facts
        self.summary["environment"] = result.environment
        self.stages.record(
            "train",
            key,
            time.monotonic() - started,
            f"{_ended(result.facts, result.facts['steps'])}, {result.facts['tokens']:,} tokens",
        )
        return result.samples

    def _evaluate(self, shards: Shards) -> Data:
        loaded = checkpoint.load(self.folder.root, self.recipe.evaluate.checkpoint, self.progress.note)
        chosen = loaded.checkpoint
        key = storage.hash_data(
            {
                "weights": chosen.manifest["files"][checkpoint.WEIGHTS]["sha256"],
                "data": storage.hash_file(shards.folder / storage.MANIFEST),
                "evaluate": to_data(self.recipe.evaluate),
            }
        )
        if self.stages.is_done("evaluate", key) and self.folder.evaluation.exists():
            known: Data = storage.read_json(self.folder.evaluation)
            self.stages.skip("evaluate", _bits(known))
            return known
        started = time.monotonic()
        device = place(self.recipe.train)
        try:
            made = evaluate_stage.run_on_split(
                self.recipe.evaluate,
                loaded.model.to(device.torch),
                loaded.tokenizer,
                shards.validation,
                device,
                self.progress,
                self.stop,
            )
        except Stopped as error:
            self._leave("stopped")
            raise Stopped(
                f"{error}; the trained model is saved. Continue with: fabula resume {self.folder.root}",
                error.exit_code - 128,
            ) from None
        evaluation: Data = {"checkpoint": chosen.path.name, "step": chosen.step, "validation": made.to_data()}
        if isinstance(made, PairEvaluation):
            evaluation["translation"] = made.translation
        storage.write_json(self.folder.evaluation, evaluation)
        self.stages.record("evaluate", key, time.monotonic() - started, _bits(evaluation))
        return evaluation

    def _report(self, evaluation: Data, samples: list[Data]) -> RunResult:
        started = time.monotonic()
        self._write_summary("finished")
        page = report_stage.run(self.folder.root, self.recipe.report)
        self.stages.rows.append(
            {"stage": "report", "seconds": time.monotonic() - started, "skipped": False, "detail": str(page)}
        )
        return RunResult(self.folder.root, self.summary, evaluation, samples, page)

    def _describe(self, preset: str, model: AnyConfig, tokenizer: Tokenizer, shards: Shards) -> None:
        facts = storage.read_json(self.folder.tokenizer / storage.MANIFEST)
        funnel = shards.manifest["funnel"]
        bits = funnel["surprisal_bits"] or {}
        self.summary.update(
            {
                "name": self.folder.root.name,
                "description": self.recipe.description,
                "started": self.started,
                "fabula": __version__,
                "model": {
                    "preset": preset,
                    "kind": kind_of(model),
                    "parameters": model.n_params(),
                    "parts": {k: v for k, v in model.parts().items() if v},
                    "flops_per_token": model.flops_per_token(),
                    "n_layers": model.n_layers,
                    "d_model": model.d_model,
                    "context_length": model.context_length,
                    "vocab_size": model.vocab_size,
                },
                "tokenizer": {
                    "vocab_size": tokenizer.vocab_size,
                    "bytes_per_token": facts["bytes_per_token"],
                    "tokens_per_word": facts["tokens_per_word"],
                    "fingerprint": tokenizer.fingerprint,
                },
                "data": {
                    **{
                        name: {
                            "documents": split.n_documents // (1 + shards.pairs),
                            "tokens": split.n_tokens,
                            "bytes": split.n_bytes,
                            "surprisal_bits": bits.get(name),
                        }
                        for name, split in shards.splits.items()
                    },
                    "records": "pairs" if shards.pairs else "documents",
                    "duplicates": funnel["duplicates"],
                    "empty": funnel["empty"],
                    "quarantined": funnel["quarantined"],
                    **{name: funnel[name] for name in ("cleaning", "too_long") if name in funnel},
                    "notes": shards.manifest["notes"],
                    # What the settings say now stands above what they said when the text was read.
                    "sources": [
                        {name: value for name, value in source.items() if name != "files"}
                        for source in with_stated(shards.manifest.get("sources", []), self.recipe.corpus)
                    ],
                },
            }
        )

    def _write_summary(self, status: str) -> None:
        storage.check_held(self.folder.root)
        self.summary["status"] = status
        self.summary["stages"] = self.stages.rows
        storage.write_json(self.folder.summary, self.summary)

    def _leave(self, status: str) -> None:
        """Say in the summary how the run ended; on a full disk that may fail, and the error at hand says more."""
        with contextlib.suppress(MachineError):
            self._write_summary(status)

    def _refuse_to_replace(self, what: str, old: Data | None = None, new: Data | None = None) -> None:
        """InputError when the folder holds a model that the present recipe would not have made."""
        if checkpoint.last(self.folder.root) is None:
            return
        if old is None or new is None:
            # What comes before training is compared as it was written down.
            stored, present = config.load_toml(self.folder.recipe), to_data(self.recipe)
            old, new = ({s: d.get(s, {}) for s in ("corpus", "tokenizer", "data")} for d in (stored, present))
        changed = [f"{name}: {was} -> {now}" for name, was, now in differences(old, new)]
        detail = f" ({'; '.join(changed[:6]) or 'the text is not the same'})"
        raise InputError(
            f"{self.folder.root} holds a model made with other settings, and {what} would change{detail}; choose "
            "another --name, or give --fresh to remove the old run"
        )


def settings_that_matter(loaded: Recipe) -> Data:
    """The [train] section without what may differ between two halves of the same run."""
    found = {name: value for name, value in to_data(loaded.train).items() if name not in _INCIDENTAL}
    # Runs of before there were these settings go on.
    if not loaded.train.average.keeps:
        del found["average"]
    if not loaded.train.patience:
        del found["patience"]
    usual = to_data(type(loaded.train.optimizer)())
    found["optimizer"] = {n: v for n, v in found["optimizer"].items() if n not in _LATER or v != usual[n]}
    return found


def _feeding(loaded: Recipe) -> Data:
    """How the data are read, where that is not as it always was: older runs go on."""
    found: Data = {}
    if loaded.data.packing != "concat":
        found["packing"] = loaded.data.packing
    if loaded.corpus.mixture:
        # What the data are made of is in the data; where that lay is of no account.
        parts = loaded.corpus.mixture
        found["mixture"] = {name: {"weight": parts[name].weight, "epochs": parts[name].epochs} for name in parts}
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """What two nested tables have different: dotted name, old value, new value."""
    for name in [*old, *(n for n in new if n not in old)]:
        was, now = old.get(name), new.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from differences(was, now, f"{prefix}{name}.")
        elif was != now:
            yield f"{prefix}{name}", was, now


def _is_incidental(key: str) -> bool:
    """Whether a setting, by its dotted name, changes how a run is done and not what comes out of it."""
    section, _, name = key.replace("-", "_").partition(".")
    return section == "train" and name.split(".")[0] in _INCIDENTAL


def _as_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(str(v) for v in value)
    return str(value)


def _ended(trained: Data, steps: int) -> str:
    """How many steps a finished run took, and whether it ended before its time."""
    early = f", ended early by train.patience ({trained['planned_steps']:,} were planned)"
    return f"{steps:,} steps{early if 'ended_early' in trained else ''}"


def _tokens(shards: Shards) -> str:
    return f"{shards.train.n_tokens:,} training and {shards.validation.n_tokens:,} validation tokens"


def _bits(evaluation: Data) -> str:
    said = f"{evaluation['validation']['bits_per_byte']:.4f} bits per byte"
    found = evaluation.get("translation")
    return f"{said}, BLEU {found['bleu']:.1f}, chrF {found['chrf']:.1f}" if found else said
