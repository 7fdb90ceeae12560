"""What would a recipe take on this machine? Real steps are timed, nothing is trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fabula import recipe
from fabula.config import Data, to_data
from fabula.corpus.run import Corpus
from fabula.data.packing import Packing, figures
from fabula.data.shards import dtype_for
from fabula.device import Device
from fabula.model.kinds import AnyConfig, described
from fabula.pipeline.recipes import choices, load_or_choose
from fabula.plan import hardware
from fabula.plan import measure as plan_memory
from fabula.plan import run as plan_stage
from fabula.plan.estimate import training_bytes
from fabula.progress import Progress, Silent, stop_on_signals
from fabula.recipe import Recipe
from fabula.tokenizer import run as tokenizer_stage
from fabula.train.forecast import forecast
from fabula.train.precision import place


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
        made, speed = forecast(
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
