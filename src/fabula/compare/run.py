"""A recipe and settings to vary: trains every variant with every seed, and sets them side by side.

    runs/NAME/comparison.json  report/index.html  VARIANT-seedN/ (a whole run)

Whatever stops it, the same command goes on where it was: what was fixed before the first step (the budget, the number
of seeds) is in `comparison.json`, what was trained is in the run folders.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fabula import __version__, pipeline, recipe, storage
from fabula.checkpoint import RunFolder
from fabula.compare import budget as budgets
from fabula.compare import figures, variants
from fabula.compare.budget import Budget, Match, Portion
from fabula.compare.variants import Variant
from fabula.config import Data
from fabula.corpus.run import Corpus
from fabula.data.shards import Shards
from fabula.errors import BusyError, ConfigError, DamagedError, DivergedError, FabulaError, InputError, Stopped
from fabula.model.config import ModelConfig
from fabula.progress import Progress, Silent, StopFlag, Task, stop_on_signals
from fabula.report import comparison as page
from fabula.stages import now

FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """What is compared. `vary` are texts `NAME=VALUE,VALUE`; the first value of each makes the first variant."""

    recipe: Path
    vary: tuple[str, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 2
    match: Match = "tokens"
    name: str | None = None  # of the comparison; the recipe's with "-compare" by default
    runs: Path = pipeline.RUNS
    fresh: bool = False


def run(config: CompareConfig, progress: Progress | None = None) -> Data:
    """The comparison as it stands in `comparison.json`. A variant that fails has its reason there; others go on.

    InputError for anything wrong with any variant before anything is made, and for another comparison in the same
    folder; Stopped after a signal.
    """
    varied = variants.parse(config.vary)
    made = variants.expand(config.recipe, config.overrides, varied, config.seeds)
    base = made[0].recipe
    name = config.name or f"{base.name}-compare"
    # Refuses what no folder can be called, and seeds beyond the last.
    pipeline.load(config.recipe, {**config.overrides, "seed": base.seed + config.seeds - 1}, name)
    root = config.runs / name
    _refuse_others(root)
    asked: Data = {
        "vary": {v.name: list(v.values) for v in varied},
        "match": config.match,
        "recipe": variants.resolved(base),
        "texts": list(dict.fromkeys(Corpus(v.recipe.corpus).fingerprint() for v in made)),
    }
    with stop_on_signals() as stop, storage.lock(root):
        stop.check("starting")
        before = _before(root)
        if config.fresh or (before and before["budget"] is None):  # without a budget nothing was trained
            _clear(root)
        elif before:
            _refuse_changes(root, before, asked, config.seeds)
        return _Comparison(config, root, made, asked, progress or Silent(), stop).run()


def _refuse_others(root: Path) -> None:
    """InputError when the folder is there and is no comparison: it is neither written to nor, with --fresh, removed."""
    found = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if found - {storage.LOCK} and page.FILE not in found:
        raise InputError(f"{root} is there and is not a comparison; choose another --name")


def _clear(root: Path) -> None:
    for path in sorted(root.iterdir(), key=lambda p: p.name == page.FILE):
        if path.name != storage.LOCK:
            storage.remove(path)


def _before(root: Path) -> Data:
    """What an earlier call left in the folder; empty when there was none."""
    if not (root / page.FILE).exists():
        return {}
    before = storage.read_json(root / page.FILE)
    if not isinstance(before, dict) or before.get("format") != FORMAT:
        raise DamagedError(f"{root / page.FILE}: not a comparison of this version; remove {root} to begin again")
    return before


def _refuse_changes(root: Path, before: Data, asked: Data, seeds: int) -> None:
    """InputError when the folder holds another comparison. More seeds are the same one, gone on with."""
    changed = [
        f"{name}: {was} -> {is_}" for name, was, is_ in pipeline.differences(before["asked"], asked) if name != "texts"
    ]
    if not changed and before["asked"]["texts"] != asked["texts"]:
        changed = ["the text is not the same"]
    if seeds < before["seeds"]:
        changed.append(f"seeds: {before['seeds']} -> {seeds}; leaving out runs that are there is no fair comparison")
    if changed:
        more = f"; and {len(changed) - 6} more" if len(changed) > 6 else ""
        raise InputError(
            f"{root} holds another comparison ({'; '.join(changed[:6])}{more}); choose another --name, or give --fresh "
            "to remove it with all its runs"
        )


class _Once:
    """A watcher that hears every sentence once: the runs have most of them in common."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self._said: set[str] = set()

    def task(self, name: str, total: float | None, unit: str) -> AbstractContextManager[Task]:
        return self._inner.task(name, total, unit)

    def note(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._inner.note(message)


class _Comparison:
    """One comparison in its folder."""

    def __init__(
        self, config: CompareConfig, root: Path, made: list[Variant], asked: Data, progress: Progress, stop: StopFlag
    ) -> None:
        self.config, self.root, self.variants = config, root, made
        self.progress, self.stop = _Once(progress), stop
        self.first_seed = made[0].recipe.seed
        self.seeds = range(self.first_seed, self.first_seed + config.seeds)
        before = storage.read_json(root / page.FILE) if (root / page.FILE).exists() else {}
        self.known = {run["folder"]: run for row in before.get("variants", []) for run in row["runs"]}
        self.budget = Budget(**before["budget"]) if before.get("budget") else None
        self.portions: list[Portion] = []
        self.runs: dict[tuple[int, int], Data] = {}  # by variant and seed
        self.data: Data = {
            "format": FORMAT,
            "kind": "comparison",
            "name": root.name,
            "description": made[0].recipe.description,
            "fabula": __version__,
            "started": before.get("started", now()),
            "status": "running",
            "asked": asked,
            "seeds": config.seeds,
            "first_seed": self.first_seed,
            "budget": before.get("budget"),
            "notes": before.get("notes", []),
            "variants": before.get("variants", []),
            "report": str(root / page.PAGE),
        }

    def run(self) -> Data:
        """Prepare, fix the budget, train what is not trained yet."""
        self._write()
        try:
            self._settle()
            order = [(variant, seed) for seed in self.seeds for variant in range(len(self.variants))]
            for number, (variant, seed) in enumerate(order, start=1):
                self.stop.check("choosing the next run")
                self.progress.note(f"run {number} of {len(order)}: {self.variants[variant].label}, seed {seed}")
                self.runs[variant, seed] = self._train(variant, seed)
                self._tell("running")
        except Stopped as error:
            self._tell("stopped")
            done = sum(run["status"] == "finished" for run in self.runs.values())
            total = len(self.variants) * len(self.seeds)
            raise Stopped(
                f"stopped with {done} of {total} runs finished; what the present one had done is saved in {self.root}. "
                "The same command goes on",
                error.exit_code - 128,
            ) from None
        self._tell("finished")
        return self.data

    # ---- before the first step ---------------------------------------------------------------------------

    def _settle(self) -> None:
        """Tokenizers and shards, each made once; what fits together; the budget of every variant."""
        models: list[ModelConfig] = []
        each: list[float] = []
        problems: list[str] = []
        prepared: list[Path] = []
        first: tuple[ModelConfig, Shards] | None = None
        data: list[tuple[str, str]] = []
        for variant in self.variants:
            folder = self.root / self._run_name(variant, self.first_seed)
            try:
                tokenizer, shards = pipeline.prepare(variant.recipe, folder, progress=self.progress, prepared=prepared)
                _, model = recipe.model_config(variant.recipe, tokenizer.vocab_size)
                if not isinstance(model, ModelConfig):
                    raise InputError("only decoders are compared: their budget is counted in rows of the context")
                pipeline.check_fit(variant.recipe, model, tokenizer, shards)
            except InputError as error:
                problems.append(f"[{variant.label}] {error}")
                continue
            prepared.append(folder)
            models.append(model)
            each.append(budgets.row_tokens(variant.recipe, model, shards))
            data.append((tokenizer.fingerprint, storage.hash_file(shards.folder / storage.MANIFEST)))
            first = first or (model, shards)
        if problems or first is None:
            raise ConfigError(problems, str(self.config.recipe))
        self.prepared = prepared
        if self.budget is None:
            base = self.variants[0].recipe
            self.budget = budgets.settle(base, *first, self.config.match, self.progress)
            self.data["budget"] = asdict(self.budget)
        self.progress.note(
            f"budget of every variant, from {self.budget.given}: {self.budget.rule}; matched by {self.budget.match}"
        )
        self.portions = [
            budgets.portion(self.budget, variant.recipe.train, model, row_tokens)
            for variant, model, row_tokens in zip(self.variants, models, each, strict=True)
        ]
        self.data["notes"] = self._notes(models, data)
        for sentence in self.data["notes"]:
            self.progress.note(sentence)
        self._tell("running")

    def _notes(self, models: list[ModelConfig], data: list[tuple[str, str]]) -> list[str]:
        """What keeps the variants from being equal in all but what was varied."""
        assert self.budget is not None
        notes = []
        if len({fingerprint for fingerprint, _ in data}) > 1:
            notes.append(
                "The tokenizer differs between variants: a token is not the same amount of text for all of them. Bits "
                "per byte compare nevertheless."
            )
        elif len({manifest for _, manifest in data}) > 1:
            notes.append("The data differs between variants.")
        if len({model.context_length for model in models}) > 1:
            notes.append(
                "The context differs between variants: the same text is cut into other rows, in another order."
            )
        if len({(p.tokens_per_step) for p in self.portions}) > 1:
            notes.append(
                "The size of a step differs between variants: the same rows in the same order, in other steps."
            )
        target = self.budget.flops if self.budget.match == "flops" else self.budget.tokens
        worst = max(abs((p.flops if self.budget.match == "flops" else p.tokens) / target - 1) for p in self.portions)
        if worst > 0.01:
            notes.append(f"Steps are whole: the budgets differ by up to {worst:.1%}.")
        if any(variant.recipe.train.patience for variant in self.variants):
            notes.append("train.patience may end runs before their budget is spent: they then saw less text.")
        return notes

    # ---- a run -------------------------------------------------------------------------------------------

    def _run_name(self, variant: Variant, seed: int) -> str:
        return f"{variant.slug}-seed{seed}"

    def _train(self, index: int, seed: int) -> Data:
        """One variant with one seed: its figures, or why there are none."""
        variant, portion = self.variants[index], self.portions[index]
        name = self._run_name(variant, seed)
        known = self.known.get(name)
        if known is not None and known["status"] == "diverged":
            self.progress.note(f"diverged before: {known['reason']}")
            return known  # it would again
        overrides = {
            **variant.overrides,
            "seed": seed,
            "train.budget": f"{portion.steps}steps",
            "train.evaluation_rows": portion.evaluation_rows,
        }
        made: Data = {"seed": seed, "folder": name, "status": "finished", "reason": None}
        try:
            result = pipeline.run(
                self.config.recipe,
                overrides,
                name=name,
                runs=self.root,
                progress=self.progress,
                prepared=[self.prepared[index], *self.prepared],
            )
        except (Stopped, BusyError):
            raise
        except DivergedError as error:
            made |= {"status": "diverged", "reason": str(error)}
        except FabulaError as error:
            made |= {"status": "failed", "reason": str(error)}
        except Exception as error:
            # A fault of ours in one variant must not cost the others their night.
            again = f"fabula resume {self.root / name} --debug"
            made |= {"status": "failed", "reason": f"{type(error).__name__}: {error} (shown in full by: {again})"}
        else:
            scored, trained = result.evaluation["validation"], result.summary["train"]
            bits = scored["bits_per_byte"]
            made |= {
                "bits_per_byte": bits,
                "perplexity": scored["perplexity"],
                "validation": scored["sha256"],
                "tokens": trained["tokens"],
                "steps": trained["steps"],
                "seconds": trained["seconds"],
                "tokens_per_second": trained["tokens_per_second"],
            }
            if not math.isfinite(bits):
                made |= {"status": "failed", "reason": "its bits per byte are not finite", "bits_per_byte": None}
        made["curve"] = _curve(RunFolder(self.root / name))
        if made["reason"] is not None:
            self.progress.note(f"{made['status']}: {made['reason']}")
        return made

    # ---- what came of it ---------------------------------------------------------------------------------

    def _tell(self, status: str) -> None:
        """Write what there is: figures, JSON, page."""
        self.data["status"] = status
        if not self.portions:  # stopped before there was a budget
            self._write()
            return
        rows = [self._row(index) for index in range(len(self.variants))]
        first = _scores(rows[0])
        for row in rows:
            row["difference"] = None if row is rows[0] else figures.paired(first, _scores(row))
        texts = {r["validation"] for row in rows for r in row["runs"] if r.get("validation")}
        strange = "The validation text is not the same for all variants: their bits per byte do not compare."
        self.data["notes"] = [n for n in self.data["notes"] if n != strange] + ([strange] if len(texts) > 1 else [])
        self.data["variants"] = rows
        self._write()
        page.run(self.root)

    def _row(self, index: int) -> Data:
        variant = self.variants[index]
        waiting: Data = {"status": "waiting", "reason": None, "curve": []}
        runs = []
        for seed in self.seeds:
            name = self._run_name(variant, seed)
            known = self.known.get(name, {"seed": seed, "folder": name, **waiting})
            runs.append(self.runs.get((index, seed), known))
        speeds = [run["tokens_per_second"] for run in runs if run.get("tokens_per_second")]
        row: Data = {
            "label": variant.label,
            "settings": variant.settings,
            **self.portions[index].to_data(),
            "runs": runs,
        }
        row["bits_per_byte"] = figures.spread(list(_scores(row).values()))
        row["tokens_per_second"] = statistics.fmean(speeds) if speeds else None
        return row

    def _write(self) -> None:
        storage.check_held(self.root)
        storage.write_json(self.root / page.FILE, self.data)


def _scores(row: Data) -> dict[int, float]:
    """Bits per byte by seed."""
    return {run["seed"]: run["bits_per_byte"] for run in row["runs"] if run.get("bits_per_byte") is not None}


def _curve(folder: RunFolder) -> list[Data]:
    """What was measured on the validation rows while a run was training, by step."""
    try:
        records = storage.read_json_lines(folder.metrics)
    except DamagedError:
        return []
    found = {r["step"]: r for r in records if r.get("kind") == "evaluation" and math.isfinite(r["bits_per_byte"])}
    return [{name: found[step][name] for name in ("step", "tokens", "bits_per_byte")} for step in sorted(found)]


def failures(comparison: Data) -> list[tuple[str, Data]]:
    """The runs that came to nothing, with their variant's label."""
    return [
        (row["label"], run)
        for row in comparison["variants"]
        for run in row["runs"]
        if run["status"] in ("failed", "diverged")
    ]
