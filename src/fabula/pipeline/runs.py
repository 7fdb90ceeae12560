"""How does a run begin, and how does it go on? With the lock of its folder, alone or with other processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fabula import checkpoint, recipe, storage
from fabula.checkpoint import RUNS, RunFolder
from fabula.config import Data, to_data
from fabula.corpus.run import Corpus
from fabula.data.shards import Shards
from fabula.device import threads_restored, versions
from fabula.distributed.group import Group, joined, same
from fabula.distributed.launch import Launch
from fabula.errors import InputError
from fabula.evaluate import translation
from fabula.model.kinds import AnyConfig
from fabula.pipeline.identity import INCIDENTAL, is_incidental
from fabula.pipeline.recipes import as_text, load_or_choose
from fabula.pipeline.work import RunResult, Work, check_stride, clear, learnt_from
from fabula.progress import Progress, Silent, StopFlag, stop_on_signals
from fabula.recipe import Recipe
from fabula.report.comparison import FILE as COMPARISON
from fabula.tokenizer.base import Tokenizer
from fabula.train import run as train_stage
from fabula.train.material import material
from fabula.train.precision import place
from fabula.train.trackers import config as trackers


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
    with threads_restored():
        return _run(path, overrides, name, runs, fresh, progress or Silent(), until, prepared, launch)


def _run(
    path: str | os.PathLike[str],
    overrides: Mapping[str, Any] | None,
    name: str | None,
    runs: str | os.PathLike[str],
    fresh: bool,
    watcher: Progress,
    until: str | None,
    prepared: Sequence[Path],
    launch: Launch | None,
) -> RunResult:
    loaded = load_or_choose(path, overrides, name, runs=None if fresh else Path(runs), progress=watcher)
    folder = RunFolder(Path(runs) / loaded.name)
    if (folder.root / COMPARISON).exists():
        raise InputError(f"{folder.root} holds a comparison; choose another --name")
    # What only a later stage needs is missed before the first one.
    trackers.require(loaded.train.trackers)
    place(loaded.train, "" if fresh else _format_of(folder))
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
                clear(folder)
            with Work(loaded, folder, watcher, stop, prepared, group) as made:
                return made.run(corpus, until)


def prepare(
    loaded: Recipe, folder: Path, *, progress: Progress | None = None, prepared: Sequence[Path] = ()
) -> tuple[Tokenizer, Shards]:
    """The stages of a recipe before training: `folder` has a tokenizer and shards afterwards, and `run` goes on there.

    `prepared` is as in `run`.
    """
    corpus = Corpus(loaded.corpus)
    with stop_on_signals() as stop, storage.lock(folder), contextlib.ExitStack() as stack:
        pipeline = Work(loaded, RunFolder(folder), progress or Silent(), stop, prepared)
        return stack.enter_context(pipeline).prepare(corpus)


def check_fit(loaded: Recipe, model: AnyConfig, tokenizer: Tokenizer, shards: Shards) -> None:
    """InputError for what does not fit together and shows only once there are a tokenizer and shards."""
    check_stride(loaded, model)
    train_stage.check_prompts(loaded.generate, tokenizer, model.context_length)
    material(loaded.train, model, tokenizer, shards, loaded.seed, recipe.feed(loaded)).fixed(None)


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
    given = [(key, as_text(value)) for key, value in (overrides or {}).items()]
    refused = [key for key, _ in given if not is_incidental(key)]
    if refused:
        allowed = ", ".join(f"train.{name}" for name in INCIDENTAL)
        raise InputError(f"{', '.join(refused)}: a resumed run is the same run; only {allowed} may change")
    loaded = recipe.load(folder.recipe, given)
    trackers.require(loaded.train.trackers)
    with threads_restored():
        place(loaded.train, _format_of(folder))
        with stop_on_signals() as stop, _together(loaded, launch, stop) as group:
            if not group.leads:
                return _follow(loaded, folder, group, stop)
            group.busy("preparing")
            with storage.lock(folder.root):
                stop.check("starting")
                with Work(loaded, folder, progress or Silent(), stop, group=group) as made:
                    return made.resume()


def _format_of(folder: RunFolder) -> str:
    """The number format that a run has so far; empty where there is none."""
    newest = checkpoint.last(folder.root)
    made_in = {} if newest is None else newest.manifest.get("environment") or {}
    return str(made_in.get("dtype") or "")


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
        same(group, learnt_from(tokenizer, shards), "tokenizer or data")
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
