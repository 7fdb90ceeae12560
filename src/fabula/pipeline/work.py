"""The stages of a recipe in order: corpus, tokenizer, data, train, evaluate, report. What is up to date is skipped.

A stage is up to date when the hash of its settings and inputs is the one with which it was done. Nothing that was
trained is ever replaced silently: another recipe in the same run folder is refused with the settings that differ.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fabula import __version__, checkpoint, config, faults, recipe, storage
from fabula.checkpoint import RunFolder
from fabula.config import Data, to_data
from fabula.corpus.run import Corpus, with_stated
from fabula.data import run as data_stage
from fabula.data.shards import FORMAT, Shards
from fabula.distributed.group import ALONE, Group, same
from fabula.energy.account import Account
from fabula.errors import DamagedError, DivergedError, FabulaError, InputError, MachineError, Stopped
from fabula.evaluate import run as evaluate_stage
from fabula.evaluate.translation import PairEvaluation
from fabula.model.kinds import AnyConfig, kind_of
from fabula.pipeline.identity import completed, differences, feeding, settings_that_matter
from fabula.pipeline.recipes import choices, told
from fabula.progress import Progress, StopFlag
from fabula.recipe import Recipe
from fabula.report import run as report_stage
from fabula.stages import Logged, Stages, now
from fabula.tokenizer import run as tokenizer_stage
from fabula.tokenizer.base import Tokenizer
from fabula.train import run as train_stage
from fabula.train.precision import place


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a recipe came to."""

    folder: Path
    summary: Data
    evaluation: Data
    samples: list[Data]
    report: Path


class Work:
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

    def __enter__(self) -> Work:
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
                clear(self.folder)  # the text was refused: of a run that was never begun nothing is left
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
            **feeding(self.recipe),
        }
        key = storage.hash_data(inputs)
        newest = checkpoint.last(self.folder.root)
        if newest is not None and newest.manifest.get("train_key") != key:
            before = newest.manifest.get("train_inputs", {})
            old, new = self._completed(before, model), self._completed(inputs, model)
            if any(differences(old, new)):
                self._refuse_to_replace("the trained model", old, new)
            # There are settings that came later, and all of them are as if they had not: it is the same run.
            key, inputs = newest.manifest["train_key"], before
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
                same(self.group, learnt_from(tokenizer, shards), "tokenizer or data")
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

    def _completed(self, inputs: Data, model: AnyConfig) -> Data:
        """What a run is known by, with the settings that came after it."""
        sections = {"model": model, "train": self.recipe.train, "generate": self.recipe.generate}
        return {**inputs, **{name: completed(inputs.get(name, {}), now) for name, now in sections.items()}}

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
        before = self.folder.recipe.read_text(encoding="utf-8") if self.folder.recipe.exists() else None
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
        except InputError:
            # What is refused must not be what `resume` finds.
            if before is not None:
                storage.write_text(self.folder.recipe, before)
            self._leave("stopped")
            raise
        except FabulaError:
            self._leave("stopped")
            raise
        self.rules.update(result.plan.rules)
        storage.write_text(self.folder.recipe, recipe.dump(self.recipe, preset, model, self.rules))
        self.summary["train"] = result.facts
        self.summary["environment"] = result.environment
        self._write_summary("running")  # what training did is known to whoever goes on after a kill
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
        # In the format of the training, whatever measuring would say now.
        device = place(self.recipe.train, str((self.summary.get("environment") or {}).get("dtype") or ""))
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
        if not math.isfinite(made.score.nats):
            self._leave("diverged")
            raise DivergedError(
                f"{chosen.path.name}: its score on the validation text is not finite: the model has diverged. Begin "
                "another run with a lower learning rate (--train.optimizer.lr) and another --name"
            )
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


def check_stride(loaded: Recipe, model: AnyConfig) -> None:
    """InputError when windows of the evaluation would leave gaps; pairs are read without windows."""
    if loaded.corpus.pair is None and loaded.evaluate.stride > model.context_length:
        raise InputError(
            f"evaluate.stride={loaded.evaluate.stride} is larger than the model's context of {model.context_length:,}"
        )


def clear(folder: RunFolder) -> None:
    """Remove everything of a run but the lock; first what says that its stages are done."""
    for path in sorted(folder.root.iterdir(), key=lambda p: p != folder.stages):
        if path.name != storage.LOCK:
            storage.remove(path)


def learnt_from(tokenizer: Tokenizer, shards: Shards) -> Data:
    return {"tokenizer": tokenizer.fingerprint, "data": storage.hash_file(shards.folder / storage.MANIFEST)}


def _ended(trained: Data, steps: int) -> str:
    """How many steps a finished run took, and whether it ended before its time."""
    if "ended_early" not in trained:
        return f"{steps:,} steps"
    return f"{steps:,} steps, ended early by train.patience ({trained['planned_steps']:,} were planned)"


def _tokens(shards: Shards) -> str:
    return f"{shards.train.n_tokens:,} training and {shards.validation.n_tokens:,} validation tokens"


def _bits(evaluation: Data) -> str:
    said = f"{evaluation['validation']['bits_per_byte']:.4f} bits per byte"
    found = evaluation.get("translation")
    return f"{said}, BLEU {found['bleu']:.1f}, chrF {found['chrf']:.1f}" if found else said
