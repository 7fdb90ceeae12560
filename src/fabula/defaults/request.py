"""What was asked with a text in the place of a recipe? Apart from `run.py`, so that nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fabula.corpus.hub import HUB
from fabula.corpus.sources import GENERATOR

# How long, where nobody says.
BUDGET = "5m"

# What the rules may choose, in the order in which it is told.
CHOSEN = (
    "corpus.split",
    "corpus.document_bytes",
    "corpus.validation",
    "model.preset",
    "model.n_layers",
    "tokenizer.most_tokens",
    "model.context_length",
    "train.batch_tokens",
    "model.dropout",
    "train.optimizer.kind",
    "train.optimizer.lr",
    "train.optimizer.base_width",
    "train.schedule.kind",
)

# The rule under which a run keeps what was asked, so that the same command goes on with it.
ASKED = "asked"


def is_text(given: str) -> bool:
    """Whether what a user gave is a text to be learnt, not a recipe: recipes end in .toml."""
    return not given.lower().endswith(".toml")


def name_of(source: str) -> str:
    """What the run of a text is called: as its file, its folder or its data set."""
    plain = source.split(",")[0].split("?")[0]
    if plain.startswith(HUB):
        plain = plain.removeprefix(HUB)
    elif plain.startswith(GENERATOR):
        plain = plain.replace(":", "-").replace("+", "-")
    for part in reversed(Path(plain).parts):
        letters = "".join(c if c.isalnum() or c in "-_" else "-" for c in part.lstrip(".").split(".")[0]).strip("-")
        if letters:
            return letters
    return "run"


def asked(source: str, overrides: Iterable[tuple[str, str]]) -> str:
    """What was asked, as a sentence that is equal when it is asked again."""
    return " ".join([source, *(f"--{name} {value}" for name, value in sorted(overrides) if name != "name")])
