"""Verbs that exchange models with other tools: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fabula.cli import console
from fabula.cli.models import Model, Which
from fabula.cli.recipes import Json

Force = Annotated[bool, Parameter(negative=(), help="replace what this command wrote there before")]


def export(
    model: Model,
    /,
    *,
    to: Annotated[str, Parameter(help="the format: hf (Hugging Face) or gguf (llama.cpp)")],
    out: Annotated[Path, Parameter(help="the folder to write, or the file: NAME.gguf")],
    checkpoint: Which = "best",
    family: Annotated[
        str, Parameter(help="the architecture to write; auto: the one that is exactly the model")
    ] = "auto",
    dtype: Annotated[
        str,
        Parameter(
            help="weights as float32, bfloat16 or float16 (gguf: float32 or q8_0); auto: float32, or as imported"
        ),
    ] = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a model in another tool's format; what was written is reloaded there and compared before it is published.

    A model that has no exact twin is refused, naming the fields in the way.
    """
    from fabula.config import build
    from fabula.export import run as stage
    from fabula.export.hf_check import Comparison

    config = build(stage.ExportConfig, {"to": to, "family": family, "dtype": dtype})
    loaded = stage.open_model(model, checkpoint, console.say)
    made = stage.run(config, loaded, out, console.Watcher(), force)
    if json:
        console.out_json({"model": str(model), "checkpoint": loaded.checkpoint.path.name, **made.to_data()})
        return
    for note in made.notes:
        console.say(note)
    seen = made.comparison
    ties = f", {seen.ties} of them between equals" if seen.ties else ""
    if isinstance(seen, Comparison):
        beside, after = f"transformers {seen.transformers}", f'{made.architecture}.from_pretrained("{out}")'
    else:
        beside, after = f"llama.cpp of xllamacpp {seen.llama_cpp}", f"llama-cli -m {out}"
    rows = [
        ("model", f"{model}, {loaded.checkpoint.path.name}"),
        ("written", f"{out}: {made.architecture}, {made.dtype}, {console.n_bytes(made.bytes)}"),
        (
            "logits",
            f"at most {seen.largest_difference:.2g} apart at {seen.logits} positions ({seen.tolerance:.2g} is allowed)",
        ),
        ("greedy tokens", f"{seen.greedy_tokens} equal{ties}"),
        ("tokenizer", f"the same ids for {seen.texts} texts"),
        ("compared with", beside),
        ("next", after),
    ]
    console.out(console.table(rows))


def import_(
    folder: Annotated[Path, Parameter(help="a folder of Hugging Face's format")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="the checkpoint folder to write; models/NAME by default")] = None,
    tokenizer: Annotated[Path | None, Parameter(help="a tokenizer.json, where the folder has none")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Make a checkpoint of a model in Hugging Face's format: generate, evaluate and export take it as any other.

    Only JSON and safetensors are opened and nothing in the folder is run. What has no exact meaning here is refused,
    all of it in one list.
    """
    from fabula.export import run as stage

    final = Path("models") / folder.resolve().name if out is None else out
    made = stage.bring(folder, final, tokenizer, force)
    if json:
        console.out_json(made.to_data())
        return
    for note in made.notes:
        console.say(note)
    console.out(
        console.table(
            [
                ("model", f"{made.family}, {made.n_params:,} parameters, {made.dtype} on the disk"),
                ("checkpoint", str(made.checkpoint.path)),
                ("next", f'fabula generate {made.checkpoint.path} --prompt "..."'),
            ]
        )
    )
