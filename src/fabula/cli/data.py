"""Verbs of the stage data: prepare shards, and see what they hold and how they fill rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from fabula.cli import console, overrides
from fabula.cli.recipes import Json, RecipePath, Settings
from fabula.cli.tables import cleaning_table, dropped_words, source_lines
from fabula.config import Data

if TYPE_CHECKING:
    from fabula.data.shards import Shards

data = App(name="data")

# Contexts for which `show` tells what a packing costs where no run says which one it is.
_CONTEXTS = (256, 512, 1024)


@data.command(name="prepare")
def data_prepare(
    recipe: RecipePath,
    /,
    *,
    out: Annotated[Path, Parameter(help="the folder to write: tokenizer/ and data/ appear in it")],
    json: Json = False,
    settings: Settings = (),
) -> None:
    """The first stages of a recipe: tokenizer and shards of ids."""
    from fabula import recipe as recipes
    from fabula import storage
    from fabula.corpus.run import Corpus
    from fabula.data import run as stage
    from fabula.progress import stop_on_signals
    from fabula.tokenizer import run as tokenizer_stage

    loaded = recipes.load(recipe, overrides.split(settings))
    made = Corpus(loaded.corpus)
    with stop_on_signals() as stop, storage.lock(out):
        sample = made.sample(loaded.tokenizer.sample_bytes)
        size, watcher = made.training_bytes(), console.Watcher()
        learnt = tokenizer_stage.run(loaded.tokenizer, sample, size, out / "tokenizer", watcher, stop)
        stage.run(recipes.data_config(loaded), made, learnt.tokenizer, out / "data", watcher, stop)
    data_show(out, json=json)


@data.command(name="show")
def data_show(
    folder: Path,
    /,
    *,
    context: Annotated[int | None, Parameter(help="length of the rows; that of the run, or some usual ones")] = None,
    json: Json = False,
) -> None:
    """What shards of ids hold, and how each packing would fill rows with them.

    Parameters
    ----------
    folder
        a run folder or a data folder
    """
    from fabula.data.shards import Shards
    from fabula.errors import InputError

    if context is not None and context < 1:
        raise InputError(f"--context {context}: a row has at least one token")
    shards = Shards(folder / "data" if (folder / "data").is_dir() else folder)
    contexts = [context] if context else _contexts(folder)
    packings = [] if shards.pairs else _packings(shards, contexts)
    if json:
        console.out_json({**shards.manifest, "packings": packings})
        return
    header = ("split", "documents", "tokens", "bytes", "bytes/token")
    rows = []
    for name, split in shards.splits.items():
        rows.append(_counts(name, split.n_documents, split.n_tokens, split.n_bytes))
        for part in split.components.values():
            rows.append(_counts(f"  {part.name}", part.documents, part.tokens, part.bytes))
    console.out(console.table(rows, header, right=(1, 2, 3, 4)))
    funnel = shards.manifest["funnel"]
    console.out(
        f"ids are {shards.dtype.name}, of a vocabulary of {shards.manifest['vocab_size']:,}; dropped: "
        f"{dropped_words(funnel)}"
    )
    for line in source_lines(shards.manifest.get("sources", [])):
        console.out(f"- {line}")
    if "cleaning" in funnel:
        console.out(f"\n{cleaning_table(funnel)}")
    if packings:
        table = [
            (
                f"{p['context']:,}",
                p["packing"],
                f"{p['rows']:,}",
                f"{p['waste']:.2%}",
                f"{_cut(p):.2%}",
            )
            for p in packings
        ]
        console.out("")
        console.out(console.table(table, ("context", "packing", "rows", "padding", "cut"), right=(0, 2, 3, 4)))
        console.out("padding: places of rows that predict nothing; cut: training documents that lie in several rows")


def _counts(name: str, documents: int, tokens: int, size: int) -> tuple[str, ...]:
    return name, f"{documents:,}", f"{tokens:,}", f"{size:,}", f"{size / max(1, tokens):.3f}"


def _cut(found: Data) -> float:
    return found["cut"] / max(1, found["documents"])


def _contexts(folder: Path) -> list[int]:
    """The context of a run folder's model, or some usual ones."""
    from fabula.checkpoint import RunFolder
    from fabula.config import load_toml

    recipe = RunFolder(folder).recipe
    found = load_toml(recipe).get("model", {}).get("context_length") if recipe.is_file() else None
    return [found] if isinstance(found, int) and found > 0 else list(_CONTEXTS)


def _packings(shards: Shards, contexts: list[int]) -> list[Data]:
    from typing import get_args

    from fabula.data.packing import Packing, figures

    train = shards.train
    end = train.n_tokens - 1
    kinds = get_args(Packing)
    return [figures(kind, train.document_starts, end, size) for size in contexts for kind in kinds]
