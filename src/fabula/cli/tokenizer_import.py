"""The verb that brings a tokenizer from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fabula.cli import console
from fabula.cli.recipes import Json


def tokenizer_import(
    path: Annotated[Path, Parameter(help="a tokenizer's file or folder")],
    /,
    *,
    out: Annotated[Path, Parameter(help="the folder to write")],
    format: Annotated[
        str, Parameter(help="auto, gpt2, tiktoken, huggingface, sentencepiece or alexandria; auto: by the name")
    ] = "auto",
    pattern: Annotated[
        str | None, Parameter(help="how a file of tiktoken ranks cuts words: gpt2, cl100k or o200k")
    ] = None,
    end_of_document: Annotated[
        str | None, Parameter(help="the text of the token that ends a document, where the file does not say it")
    ] = None,
    json: Json = False,
) -> None:
    """Make a tokenizer of one from elsewhere: GPT-2's two files, ranks of tiktoken, a tokenizer.json, a .model file of
    SentencePiece, the JSON of Alexandria.

    Its ids are compared with those of the tool that it comes from before anything is written; nothing in it is run.
    """
    from fabula.tokenizer import imports

    made = imports.bring(path, format, pattern, end_of_document)
    imports.write(made, out)
    if json:
        console.out_json({"folder": str(out), **made.to_data()})
        return
    tokenizer = made.tokenizer
    controls = list(tokenizer.control_texts())
    named = ", ".join(controls[:6]) + (f" and {len(controls) - 6:,} more" if len(controls) > 6 else "")
    rows = [
        ("tokenizer", f"{out}: {tokenizer.vocab_size:,} ids, {made.format}"),
        ("control tokens", named),
        ("compared", f"the same ids as {made.library} on {made.texts:,} texts"),
        ("changes", tokenizer.changes or "none: every text comes back as it was"),
    ]
    console.out(console.table(rows))
    for note in made.notes:
        console.out(f"- {note}")
