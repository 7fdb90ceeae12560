"""Verbs that take a finished model: evaluate, report. Those that write are in files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fabula.cli import console
from fabula.cli.recipes import Json
from fabula.cli.tables import example_rows, translation_rows
from fabula.errors import InputError

Model = Annotated[Path, Parameter(help="a run folder, a checkpoint folder or a folder of Hugging Face's format")]
Which = Annotated[str, Parameter(name="--checkpoint", help="best, last or step-N of a run")]
Device = Annotated[str, Parameter(help="auto, cpu, cuda or mps")]


def evaluate(
    model: Model,
    /,
    *,
    on: Annotated[
        str | None, Parameter(help="a text: file, folder or pattern; the run's validation text if left out")
    ] = None,
    checkpoint: Which = "best",
    stride: Annotated[int, Parameter(help="new tokens a window of a long document scores; 0: half the context")] = 0,
    split: Annotated[str, Parameter(help="where plain text is cut: auto, file, marker, blank")] = "auto",
    source_field: Annotated[
        str | None,
        Parameter(help="with --on: the field of a pair that is read; the recipe's by default"),
    ] = None,
    target_field: Annotated[str | None, Parameter(help="with --on: the field of the true answer")] = None,
    beams: Annotated[int, Parameter(help="translations: texts that the search keeps; 1: greedy")] = 4,
    translations: Annotated[int, Parameter(help="sources that are translated; 0: all")] = 1000,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Bits per byte and perplexity of a model on a text, every byte counted once.

    A document is predicted from its very beginning, and so is its end. Bits per byte compare between tokenizers,
    perplexity does not. A model that translates is scored on pairs, its translations by BLEU and chrF.
    """
    from fabula import checkpoint as checkpoints
    from fabula.config import build, load_toml
    from fabula.corpus.run import CorpusConfig
    from fabula.data.shards import Shards
    from fabula.device import choose
    from fabula.evaluate import run as stage
    from fabula.evaluate.config import EvaluateConfig
    from fabula.evaluate.translation import PairEvaluation, require
    from fabula.export.run import open_model
    from fabula.model.encdec import EncoderDecoderConfig
    from fabula.progress import stop_on_signals

    loaded = open_model(model, checkpoint, console.say)
    chosen = choose(device)
    config = build(
        EvaluateConfig,
        {"stride": stride, "validation_bytes": 0, "beams": beams, "translations": translations},
        "evaluate",
    )
    if isinstance(loaded.config, EncoderDecoderConfig):
        require()
    elif config.stride > loaded.config.context_length:
        raise InputError(f"--stride {stride} is larger than the model's context of {loaded.config.context_length:,}")
    fields = {"source_field": source_field, "target_field": target_field}
    known = checkpoints.RunFolder(model).recipe
    if isinstance(loaded.config, EncoderDecoderConfig) and known.exists() and fields["source_field"] is None:
        fields = {name: load_toml(known).get("corpus", {}).get(name) for name in fields}
    corpus = build(CorpusConfig, {"split": split, **fields}, "evaluate")
    loaded.model.to(chosen.torch)
    watcher = console.Watcher()
    with stop_on_signals() as stop:
        if on is not None:
            made = stage.run(config, loaded.model, loaded.tokenizer, on, corpus, chosen, watcher, stop)
        else:
            data = checkpoints.RunFolder(model).data
            if not data.is_dir():
                raise InputError(f"{model} has no data of its own; name a text: --on FILE")
            shards = Shards(data)
            made = stage.run_on_split(config, loaded.model, loaded.tokenizer, shards.validation, chosen, watcher, stop)
    result = {"model": str(model), "checkpoint": loaded.checkpoint.path.name, **made.to_data()}
    if isinstance(made, PairEvaluation):
        result["translation"] = made.translation
    if json:
        console.out_json(result)
        return
    score, of_pairs = made.score, isinstance(made, PairEvaluation)
    what = f"{score.documents:,} {'pairs, targets of' if of_pairs else 'documents,'} {score.bytes:,} bytes"
    rows = [
        ("model", f"{model}, {loaded.checkpoint.path.name}"),
        ("text", f"{made.name}: {what}, {score.tokens:,} tokens"),
        ("bits per byte", f"{score.bits_per_byte:.4f}" + (" (of the target, given the source)" if of_pairs else "")),
        ("perplexity", f"{score.perplexity:.3f} a token (of this tokenizer)"),
    ]
    if isinstance(made, PairEvaluation):
        rows += translation_rows(made.translation)
    console.out(console.table([*rows, ("sha256", made.sha256)]))
    if isinstance(made, PairEvaluation):
        console.out("")
        console.out(console.table(example_rows(made.translation["examples"][:5]), ("source", "written", "reference")))
        if made.too_long:
            console.say(f"{made.too_long:,} pairs are longer than the model's context and are not counted")
    if made.quarantined:
        console.say(f"{made.quarantined:,} records could not be read and are not counted")


def report(
    run_folder: Annotated[Path, Parameter(help="the folder of a run or a comparison")], /, *, json: Json = False
) -> None:
    """Write the HTML report of a run or a comparison, also of one that is stopped or still going."""
    from fabula.report import comparison
    from fabula.report import run as stage

    page = (comparison if (run_folder / comparison.FILE).exists() else stage).run(run_folder)
    if json:
        console.out_json({"report": str(page)})
    else:
        console.out(str(page))
