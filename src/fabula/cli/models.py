"""Verbs that take a finished model: evaluate, generate, report."""

from __future__ import annotations

import dataclasses
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


def generate(
    model: Model,
    /,
    *,
    prompt: Annotated[str, Parameter(allow_leading_hyphen=True, help="the beginning; empty: from nothing")] = "",
    max_new_tokens: Annotated[int, Parameter(help="most tokens to add")] = 200,
    temperature: Annotated[
        float | None, Parameter(help="0 is greedy; 0.7 by default, 0 of a model that translates")
    ] = None,
    beams: Annotated[int, Parameter(help="texts that a search keeps (nothing is drawn); 1: no search")] = 1,
    top_k: Annotated[int, Parameter(help="keep the k likeliest tokens; 0: all")] = 0,
    top_p: Annotated[float, Parameter(help="keep the likeliest tokens up to this probability")] = 1.0,
    min_p: Annotated[float, Parameter(help="keep tokens of this share of the likeliest one's probability")] = 0.0,
    typical_p: Annotated[float, Parameter(help="keep the typical tokens up to this probability")] = 1.0,
    repetition_penalty: Annotated[float, Parameter(help="above 1 makes seen tokens less likely")] = 1.0,
    presence_penalty: Annotated[float, Parameter(help="taken off the logits of written tokens")] = 0.0,
    frequency_penalty: Annotated[float, Parameter(help="taken off them for each time they were written")] = 0.0,
    no_repeat_ngram: Annotated[int, Parameter(help="no sequence of this many tokens comes twice; 0: it may")] = 0,
    lookup: Annotated[
        int, Parameter(help="tokens guessed from earlier text and verified at once: the same text, sooner; 0: none")
    ] = 0,
    stop: Annotated[
        tuple[str, ...],
        Parameter(negative=(), allow_leading_hyphen=True, help="a text that ends the generation; may be repeated"),
    ] = (),
    seed: Annotated[int, Parameter(help="the same seed gives the same text")] = 0,
    engine: Annotated[
        str, Parameter(help="torch, compiled (a CPU; faster), or auto: compiled where it can be")
    ] = "auto",
    weights: Annotated[
        str, Parameter(help="of the compiled engine: float32, or int8 (faster, less exact)")
    ] = "float32",
    checkpoint: Which = "best",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Continue a prompt; the text appears as it is made. A model that translates writes the prompt's translation."""
    from fabula.config import build
    from fabula.generate.config import GenerateConfig
    from fabula.generate.run import encode_prompt, gather
    from fabula.language_model import load
    from fabula.model.encdec import EncoderDecoder

    prompt = console.typed(prompt)
    # What is wrong with a setting is said before the model is read.
    drawn = 0.7 if beams == 1 else 0.0
    config = build(
        GenerateConfig,
        {
            "max_new_tokens": max_new_tokens,
            "temperature": drawn if temperature is None else temperature,
            "beams": beams,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "typical_p": typical_p,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "no_repeat_ngram": no_repeat_ngram,
            "lookup": lookup,
            "stop": [console.typed(s) for s in stop],
            "seed": seed,
        },
    )
    lm = load(model, checkpoint, device, console.say, engine, weights)
    translates = isinstance(lm.model, EncoderDecoder)
    if translates and temperature is None:
        config = dataclasses.replace(config, temperature=0.0)
    settings = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    pieces = []
    for index, piece in enumerate(lm.pieces(prompt, **settings)):
        pieces.append(piece)
        if not json:
            # The prompt is shown only once it is known to fit.
            console.out((prompt if index == 0 and not translates else "") + piece.text, end="")
    made = gather(prompt, len(encode_prompt(lm.tokenizer, prompt)), pieces)
    if json:
        console.out_json(
            {
                "model": str(model),
                "checkpoint": None if lm.checkpoint is None else lm.checkpoint.path.name,
                "prompt": prompt,
                "text": made.text,
                "finish_reason": made.finish_reason,
                "prompt_tokens": made.prompt_tokens,
                "tokens": len(made.ids),
                "ids": list(made.ids),
                "logprobs": list(made.logprobs),
                "seed": seed,
                "temperature": config.temperature,
                "beams": beams,
                "engine": lm.engine[0],
                "engine_reason": lm.engine[1],
            }
        )
        return
    console.out("")


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
