"""From a text and a budget to a whole recipe: look at the text, measure this machine, apply the rules.

What comes back is a recipe like any other, its rules filled in: it is stored in the run folder, resumed, copied and
edited like one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fabula import config, device, recipe
from fabula.config import Data
from fabula.corpus.readers import Mode
from fabula.corpus.run import Corpus, CorpusConfig
from fabula.defaults.request import BUDGET, name_of
from fabula.defaults.rules import Choice, Facts, choose, usual_document
from fabula.device import Device
from fabula.errors import InputError, SourceError
from fabula.model.config import ModelConfig
from fabula.model.presets import presets
from fabula.plan import hardware
from fabula.progress import Progress, Silent, stop_on_signals
from fabula.recipe import Recipe
from fabula.train import precision
from fabula.train.budget import parse_budget
from fabula.train.material import step_rows
from fabula.train.rehearsal import made_up
from fabula.train.speed import measure

# Documents that are many enough: below, a text is cut into smaller ones or a larger share of it kept for validation, so
# that about so many of them are.
_MANY, _VALIDATED = 100, 5
_SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
_LEAST_DOCUMENT = 200  # bytes

# The machine is measured at the size that the rules choose, which may then choose another: so often at most. Before
# that, steps are taken to reach this share of the peak of matrix products.
_MEASURED, _USUAL_SHARE = 3, 0.5


def run(
    source: str, overrides: Sequence[tuple[str, str]], *, name: str | None = None, progress: Progress | None = None
) -> Recipe:
    """The recipe for a text; InputError where it is no text, or settings do not fit.

    `overrides` are settings of a recipe as they were typed: they stand, and the rest is chosen around them. Takes some
    seconds, as real steps are timed.
    """
    watcher = progress or Silent()
    given = [(key, value) for key, value in overrides if key != "name"]
    _check(source, dict(given))
    base: Data = {"name": name or name_of(source), "corpus": {"source": source}, "train": {"budget": BUDGET}}
    # Whatever is wrong with the settings is told before the text is read.
    draft = recipe.resolve(base, given, source)
    if draft.corpus.pair is not None:
        raise InputError(
            f"{source}: the records are pairs, and the defaults are for texts; take the recipe of a translation: "
            f"fabula run recipes/translate.toml --corpus.source {source}"
        )
    with watcher.task("looking at the text", None, ""):
        corpus, about_text = _corpus(draft.corpus, {_plain(key) for key, _ in given})
        text_bytes, sizes = corpus.training_bytes(), corpus.document_bytes()
    place = precision.place(draft.train)
    facts = Facts(
        text_bytes=max(1, text_bytes),
        document_bytes=usual_document(sizes),
        budget=parse_budget(draft.train.budget),
        flops_per_second=0.0,
        memory_bytes=device.free_memory_bytes(place),
        cpu=place.name == "cpu",
        given=_given(draft, given),
        model=draft.model,
    )
    if facts.budget.unit == "seconds":
        with watcher.task("measuring this machine", None, ""):
            chosen = _settled(facts, base, given, place)
    else:
        chosen = choose(facts)
    made = [*about_text, *chosen]
    rules = {choice.name: f"{shown(choice.value)}: {choice.reason}" for choice in made}
    return replace(_with(made, base, given, source), rules=rules)


def _check(source: str, given: Data) -> None:
    """InputError for what can be no text, or makes no sense beside one."""
    if (Path(source) / "recipe.toml").is_file():
        raise InputError(f"{source} is a run, not a text; go on with it: fabula resume {source}")
    if Path(source + ".toml").is_file() and not Path(source).exists():
        raise InputError(f"{source} is neither a text nor a recipe; did you mean {source}.toml?")
    if source in presets and not Path(source).exists():
        raise InputError(f"{source} is a model's preset, not a text; give it beside one: TEXT --model.preset {source}")
    if not any(mark in source for mark in "*?[,:") and source.strip() and not Path(source).exists():
        raise InputError(
            f"no such text: {source} (seen from {Path.cwd()}); give a file, a folder, a pattern, hf:owner/name or "
            "fables:es, or a recipe, which ends in .toml"
        )
    if "corpus.source" in given:
        raise InputError(f"the text is given already ({source}): leave out --corpus.source")
    if given.get("scale"):
        raise InputError(f"{source} is a text, not a recipe: there are no scales; give --budget instead of --scale")


def _given(draft: Recipe, given: Sequence[tuple[str, str]]) -> Data:
    """What the user decided, each value of its type."""
    _, model = recipe.model_config(draft)
    data = {**config.to_data(draft), "model": {**config.to_data(model), "preset": str(draft.model.get("preset", ""))}}
    found: Data = {}
    for name, _ in given:
        value: Any = data
        for part in _plain(name).split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found[_plain(name)] = value
    return found


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _corpus(asked: CorpusConfig, given: set[str]) -> tuple[Corpus, list[Choice]]:
    """The text, and how it is cut and divided where the usual way would leave nothing for validation."""
    made: list[Choice] = []
    if given.isdisjoint(("corpus.split", "corpus.document_bytes", "corpus.validation_source", "corpus.documents")):
        made = _cut(asked)
        asked = replace(asked, **{choice.name.removeprefix("corpus."): choice.value for choice in made})
    if given.isdisjoint(("corpus.validation", "corpus.validation_source")):
        few = len(Corpus(asked).document_bytes(_MANY))
        for share in _SHARES if few < _MANY else ():
            if share * few < _VALIDATED and share < _SHARES[-2]:
                continue
            corpus = Corpus(replace(asked, validation=share))
            try:
                corpus.training_bytes()
            except SourceError:
                continue
            if share != asked.validation:
                made.append(
                    Choice("corpus.validation", share, f"of {few} documents a smaller share is hardly a measure")
                )
            return corpus, made
    return Corpus(asked), made


def _cut(asked: CorpusConfig) -> list[Choice]:
    """How a text is cut that would be one document, of which none could be kept for validation."""
    sizes = Corpus(asked).document_bytes(2)
    if len(sizes) != 1:
        return []
    size = max(_LEAST_DOCUMENT, sizes[0] // _MANY)
    ways: tuple[Mode, ...] = ("blank", "line")
    for split in ways:
        if len(Corpus(replace(asked, split=split, document_bytes=size)).document_bytes(2)) > 1:
            why = f"the text is one document of {sizes[0]:,} bytes, and some of it is needed for validation"
            return [
                Choice("corpus.split", split, why),
                Choice("corpus.document_bytes", size, f"about {max(2, sizes[0] // size):,} documents"),
            ]
    return []


def _settled(facts: Facts, base: Data, given: Sequence[tuple[str, str]], place: Device) -> list[Choice]:
    """The choices for a time, once the size that they name is the size whose steps were timed."""
    facts = replace(facts, flops_per_second=_USUAL_SHARE * hardware.peak(place).flops_per_second)
    timed: set[tuple[str, int, int]] = set()
    made = choose(facts)
    for _ in range(_MEASURED):
        chosen = _with(made, base, given, "")
        preset, model = recipe.model_config(chosen)
        if not isinstance(model, ModelConfig) or (preset, model.n_layers, chosen.train.batch_tokens) in timed:
            break
        timed.add((preset, model.n_layers, chosen.train.batch_tokens))
        facts = replace(facts, flops_per_second=_training_flops(chosen, model, place))
        made = choose(facts)
    return made


def _training_flops(chosen: Recipe, model: ModelConfig, place: Device) -> float:
    """FLOP/s of real steps of a recipe, on made-up ids."""
    rows = step_rows(chosen.train, model.context_length)
    batch = made_up(model, rows, (0, model.context_length), chosen.train)
    lengths = np.ones(model.vocab_size, dtype=np.int64)
    with stop_on_signals() as stop:
        speed = measure(chosen.train, model, batch, batch.rows(0, 1), lengths, rows, place, 0.0, stop)
    return model.training_flops_per_token() * rows * model.context_length / speed.step


def _with(made: Sequence[Choice], base: Data, given: Sequence[tuple[str, str]], where: str) -> Recipe:
    """The recipe with these choices; what the user gave lies on top."""
    return recipe.resolve(config.merge(base, config.nest((c.name, c.value) for c in made)), given, where)


def setting_of(made: Recipe, name: str) -> Any:
    """A setting of a recipe by its dotted name; None where the recipe does not have it."""
    value: Any = {**config.to_data(made), "model": made.model}
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def shown(value: Any) -> str:
    """A value as a rule tells it."""
    return f"{value:,}" if isinstance(value, int) else str(value)
