"""Which variants are there? The product of the varied settings; each is a whole recipe, checked before any begins."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabula import pipeline, recipe, storage
from fabula.config import Data, to_data
from fabula.corpus.run import Corpus
from fabula.errors import ConfigError, InputError
from fabula.recipe import Recipe

MOST_RUNS = 64

# Settings that a comparison itself gives to each run.
_OURS = {
    "name": "the runs are named after their variants",
    "seed": "every variant is trained with the same seeds; say how many with --seeds",
    "train.budget": "every variant gets the same budget; give one as --train.budget",
    "train.evaluation_rows": "every variant is measured on the same validation text",
}
# A value of these says enough by itself; any other is shown with the setting's name.
_TELLING = ("kind", "preset", "source")

# How a run is computed is no part of what it is, but what may be compared: its speed, its memory, its last bits.
_COMPUTED = ("precision", "compile", "recompute")


@dataclass(frozen=True, slots=True)
class Varied:
    """A setting and the values it takes."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of a comparison. `settings` are the varied ones, `slug` is what the names of its runs begin with."""

    settings: dict[str, str]
    overrides: dict[str, Any]
    label: str
    slug: str
    recipe: Recipe


def parse(texts: Sequence[str]) -> list[Varied]:
    """`NAME=VALUE,VALUE,...` texts; InputError for what cannot be varied.

    >>> parse(["model.n-layers=2,4"])
    [Varied(name='model.n_layers', values=('2', '4'))]
    """
    found: dict[str, Varied] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        name = name.strip().replace("-", "_")
        values = tuple(value.strip() for value in rest.split(","))
        if not equals or not name or not all(values):
            raise InputError(f'--vary "{text}": write NAME=VALUE,VALUE, for example model.preset=fabula-1m,fabula-3m')
        if name in _OURS:
            raise InputError(f"--vary {name}: not possible, {_OURS[name]}")
        if name in found:
            raise InputError(f"--vary {name}: given twice; write all its values behind one =, separated by commas")
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise InputError(f"--vary {name}: the value {twice[0]} stands there twice")
        found[name] = Varied(name, values)
    return list(found.values())


def expand(path: Path, overrides: Mapping[str, Any], varied: Sequence[Varied], seeds: int) -> list[Variant]:
    """Every combination, the last setting moving fastest; ConfigError with all problems of all of them."""
    given = [v.name for v in varied if v.name in {name.replace("-", "_") for name in overrides}]
    if given:
        raise InputError(f"{given[0]}: given both as --{given[0]} and as --vary; leave one out")
    combinations = list(itertools.product(*(v.values for v in varied)))
    if len(combinations) < 2:
        raise InputError("nothing to compare: give --vary with two values or more, such as --vary model.n_layers=2,4")
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: must be at least 1")
    if len(combinations) * seeds > MOST_RUNS:
        raise InputError(
            f"{len(combinations)} variants with {seeds} seeds are {len(combinations) * seeds:,} runs, {MOST_RUNS} are "
            "the most; vary fewer settings, or give fewer values or seeds"
        )
    names = [v.name for v in varied]
    made: list[Variant] = []
    problems: list[list[str]] = []
    for values in combinations:
        settings = dict(zip(names, values, strict=True))
        everything = {**overrides, **settings}
        found: list[str] = []
        loaded = None
        try:
            loaded = pipeline.load(path, everything)
            found += _beyond_the_recipe(loaded)
        except ConfigError as error:
            found += error.problems
        problems.append(found)
        if loaded is not None:
            made.append(Variant(settings, everything, label(settings), "", loaded))
    told = list(_told(problems, [label(dict(zip(names, values, strict=True))) for values in combinations]))
    if told:
        raise ConfigError(told, str(path))
    _refuse_twins(made)
    return [_with_slug(variant, number, made) for number, variant in enumerate(made, start=1)]


def label(settings: Mapping[str, str]) -> str:
    """A variant in few words.

    >>> label({"train.optimizer.kind": "muon", "model.n_layers": "4"})
    'muon, n_layers 4'
    """
    parts = [(name.rpartition(".")[2], value) for name, value in settings.items()]
    return ", ".join(value if last in _TELLING else f"{last} {value}" for last, value in parts)


def short_names(names: Sequence[str]) -> list[str]:
    """Names of settings without the sections that are not needed to tell them apart.

    >>> short_names(["train.optimizer.kind", "model.n_layers"])
    ['optimizer.kind', 'n_layers']
    """
    short = []
    for name in names:
        parts = name.split(".")
        size = 2 if parts[-1] in _TELLING else 1
        while size < len(parts) and sum(other.split(".")[-size:] == parts[-size:] for other in names) > 1:
            size += 1
        short.append(".".join(parts[-size:]))
    return short


def _beyond_the_recipe(loaded: Recipe) -> list[str]:
    """Problems of a recipe that the sections by themselves do not show."""
    found = []
    size = loaded.tokenizer.vocab_size
    try:
        _, model = recipe.model_config(loaded, None if size == "auto" else size)
        pipeline.check_stride(loaded, model)
    except ConfigError as error:
        found += error.problems
    except InputError as error:
        found.append(str(error))
    try:
        Corpus(loaded.corpus)
    except InputError as error:
        found.append(str(error))
    return found


def _told(problems: Sequence[Sequence[str]], labels: Sequence[str]) -> Iterator[str]:
    """Each problem once: by itself where all variants have it, else behind those that do."""
    for problem in dict.fromkeys(itertools.chain.from_iterable(problems)):
        who = [name for name, found in zip(labels, problems, strict=True) if problem in found]
        yield (
            problem if len(who) == len(labels) else f"[{'; '.join(who[:3])}{'; ...' if len(who) > 3 else ''}] {problem}"
        )


def _refuse_twins(variants: Sequence[Variant]) -> None:
    """InputError when two variants would be the same run: a value written twice in two ways."""
    seen: dict[str, str] = {}
    for variant in variants:
        train = to_data(variant.recipe.train)
        key = storage.hash_data({**resolved(variant.recipe), **{name: train[name] for name in _COMPUTED}})
        if key in seen:
            raise InputError(f'"{seen[key]}" and "{variant.label}" are the same settings; leave one out')
        seen[key] = variant.label


def resolved(loaded: Recipe) -> Data:
    """All of a recipe that bears on what comes out, with the model written out."""
    preset, model = recipe.model_config(loaded)
    data = to_data(loaded)
    for name in ("name", "description", "report", "rules"):
        del data[name]
    named = "vocab_size" in loaded.model
    return {
        **data,
        "model": {"preset": preset, **to_data(model), "vocab_size": model.vocab_size if named else "the tokenizer's"},
        "train": pipeline.settings_that_matter(loaded),
    }


def _with_slug(variant: Variant, number: int, others: Sequence[Variant]) -> Variant:
    def slug(of: Variant) -> str:
        return re.sub(r"[^\w.-]+", "-", of.label).strip("-.")[:60] or "variant"

    mine = slug(variant)
    alone = [slug(other).casefold() for other in others].count(mine.casefold()) == 1
    name = mine if alone else f"{mine}-{number}"
    return Variant(variant.settings, variant.overrides, variant.label, name, variant.recipe)
