"""Verbs of the tokenizer: learn one, and see what it does to a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from fabula.cli import console, overrides
from fabula.cli.parts import Source, section
from fabula.cli.recipes import Json, Settings
from fabula.errors import InputError

tokenizer = App(name="tokenizer")

TokenizerPath = Annotated[Path, Parameter(help="a run folder, a tokenizer's folder or its tokenizer.json")]


@tokenizer.command(name="train")
def tokenizer_train(
    source: Source,
    /,
    *,
    out: Annotated[Path, Parameter(help="the folder to write")],
    vocab_size: Annotated[str, Parameter(help="tokens, or auto")] = "auto",
    json: Json = False,
    settings: Settings = (),
) -> None:
    """Learn a byte-level BPE tokenizer from a corpus."""
    from fabula.corpus.run import Corpus
    from fabula.tokenizer import run as stage
    from fabula.tokenizer.base import FILE

    given = [("corpus.source", source), ("tokenizer.vocab_size", vocab_size), *overrides.split(settings)]
    recipe = section("tokenizer", given)
    if out.is_dir() and any(out.iterdir()) and not (out / FILE).exists():
        raise InputError(f"{out}: a folder with other things in it would be replaced; name a new one")
    made = Corpus(recipe.corpus)
    result = stage.run(recipe.tokenizer, made.sample(recipe.tokenizer.sample_bytes), made.training_bytes(), out)
    if json:
        console.out_json({"folder": str(out), **result.facts})
        return
    if result.rule:
        console.say(f"vocabulary: {result.rule}")
    facts = result.facts
    console.out(
        f"{out}: {facts['vocab_size']:,} tokens, {facts['bytes_per_token']:.3f} bytes a token, "
        f"{facts['tokens_per_word']:.3f} tokens a word"
    )


@tokenizer.command(name="view")
def tokenizer_view(
    tokenizer: TokenizerPath,
    text: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    json: Json = False,
) -> None:
    """Show how a text is cut: |to|ken|s|.

    Parameters
    ----------
    text
        the text to cut
    """
    loaded, text = _tokenizer(tokenizer), console.typed(text)
    ids = loaded.encode(text)
    pieces = [loaded.decode([number]) for number in ids]
    if json:
        console.out_json({"text": text, "ids": ids, "pieces": pieces})
        return
    console.out("|" + "|".join(pieces) + "|")
    size = len(text.encode("utf-8"))
    console.out(f"{len(ids):,} tokens, {size:,} bytes, {size / max(1, len(ids)):.2f} bytes a token")


def _tokenizer(path: Path) -> Any:
    from fabula.tokenizer.base import Tokenizer

    return Tokenizer.load(path / "tokenizer" if (path / "tokenizer").is_dir() else path)
