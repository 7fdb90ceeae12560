"""A recipe: one TOML file, one whole run. Its sections are the stages.

Precedence: preset < recipe < its scale < overrides of the command line. A recipe may hold itself in several sizes: a
table [scales.NAME] has what differs, and `--scale NAME` chooses it. Everything that is wrong is reported at once,
before anything is created. The resolved recipe, with every default written out and the rule behind every derived value,
is stored in the run and is itself a recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabula import config
from fabula.config import Data, Typed, setting
from fabula.corpus.run import CorpusConfig
from fabula.data.run import DataConfig
from fabula.energy.config import EnergyConfig
from fabula.errors import ConfigError, nearest
from fabula.evaluate.config import EvaluateConfig
from fabula.generate.config import GenerateConfig
from fabula.report.run import ReportConfig
from fabula.tokenizer.run import TokenizerConfig
from fabula.train.config import TrainConfig

if TYPE_CHECKING:
    from fabula.data.mixture import Feed
    from fabula.model.kinds import AnyConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every stage's configuration."""

    name: str = setting("run", "the run's name: its folder is runs/NAME")
    scale: str = setting("", "which of the recipe's scales this is; empty: the recipe as it stands")
    description: str = setting("", "a sentence for the report")
    seed: int = setting(0, "of the weights and of the order of the data")
    corpus: CorpusConfig = setting(factory=CorpusConfig, doc="where the text comes from")
    tokenizer: TokenizerConfig = setting(factory=TokenizerConfig, doc="how text becomes ids")
    data: DataConfig = setting(factory=DataConfig, doc="how ids are stored")
    model: dict[str, Any] = setting(factory=dict, doc="a preset's name and what differs from it")
    train: TrainConfig = setting(factory=TrainConfig, doc="how the model is trained")
    evaluate: EvaluateConfig = setting(factory=EvaluateConfig, doc="how it is scored")
    generate: GenerateConfig = setting(factory=GenerateConfig, doc="how samples are drawn")
    energy: EnergyConfig = setting(factory=EnergyConfig, doc="how its electricity is counted")
    report: ReportConfig = setting(factory=ReportConfig, doc="how the report is drawn")
    rules: dict[str, str] = setting(factory=dict, doc="why derived values are what they are (written by a run)")

    def __post_init__(self) -> None:
        if not self.name or any(c in self.name for c in "/\\\0") or self.name.startswith("."):
            raise ValueError(f"name={self.name!r} must be usable as a folder's name")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} must be at least 0 and below 2^63")


def load(path: Path, overrides: Iterable[tuple[str, str]] = ()) -> Recipe:
    """A recipe file with overrides laid on top; ConfigError with every problem otherwise."""
    given = list(overrides)
    data = config.load_toml(path)
    if isinstance(data.get("name", ""), str):  # anything else is refused with the other problems
        data["name"] = run_name(data, path, dict(given))
    return resolve(data, given, str(path))


def run_name(data: Mapping[str, Any], path: Path, overrides: Mapping[str, str]) -> str:
    """What the run of a recipe file is called: its own name or the file's, and after it the scale's."""
    called = str(overrides.get("name") or data.get("name") or path.stem)
    scale = overrides.get("scale")
    return called if "name" in overrides or not scale else f"{called}-{scale}"


def resolve(data: Mapping[str, Any], overrides: Iterable[tuple[str, str]] = (), where: str = "") -> Recipe:
    """A recipe from plain data and overrides; the [model] section is checked against its preset as well."""
    from fabula.model.presets import resolve as resolve_model

    problems: list[str] = []
    given = list(overrides)
    merged = config.merge(
        _scaled(data, dict(given).get("scale", ""), problems),
        config.nest((name, Typed(value)) for name, value in given),
    )
    recipe = config.collect(Recipe, merged, "", problems)
    section = merged.get("model", {})
    if isinstance(section, Mapping):
        _, model = resolve_model(section, problems)
        if recipe is not None and model is not None:
            recipe = replace(recipe, model=_of_their_types(recipe.model, config.to_data(model)))
            check_kinds(recipe.corpus, model, problems)
            if recipe.corpus.pair is not None and recipe.data.packing != "concat":
                problems.append(
                    f'data.packing="{recipe.data.packing}" is for texts; pairs come by their length: leave it out'
                )
    if problems or recipe is None:
        raise ConfigError(problems, where)
    return recipe


def _of_their_types(section: Mapping[str, Any], model: Mapping[str, Any]) -> Data:
    """The [model] section with what was typed on a command line as the number or text that the model made of it."""
    found: Data = {}
    for name, value in section.items():
        made = model.get(name)
        if isinstance(value, Mapping) and isinstance(made, Mapping):
            found[name] = _of_their_types(value, made)
        else:
            found[name] = (str(value) if made is None else made) if isinstance(value, Typed) else value
    return found


def _scaled(data: Mapping[str, Any], scale: str, problems: list[str]) -> Data:
    """A recipe's data with one of its scales laid on top, and without the scales."""
    plain = {name: value for name, value in data.items() if name != "scales"}
    scales = data.get("scales", {})
    if not isinstance(scales, Mapping) or not all(isinstance(table, Mapping) for table in scales.values()):
        problems.append("scales: expected tables, as [scales.cpu.train]")
        return plain
    if scales and plain.get("scale"):
        problems.append(f'scale="{plain["scale"]}" in a recipe chooses nothing: leave it out and give --scale')
    for name, table in scales.items():
        problems += [f"scales.{name}.{key}: a scale has no scales" for key in ("scale", "scales") if key in table]
    if not scale:
        return plain
    if scale not in scales:
        known = nearest(scale, list(scales)) if scales else "this recipe has none"
        problems.append(f"scale: there is no [scales.{scale}]; {known}")
        return plain
    return config.merge(plain, scales[scale])


def data_config(recipe: Recipe) -> DataConfig:
    """How ids are stored, with the model's context in numbers: a document and its end must fit into a row."""
    if recipe.data.longest != "context":
        return recipe.data
    _, model = model_config(recipe)
    return replace(recipe.data, longest=model.context_length - 1)


def feed(recipe: Recipe) -> Feed:
    """How a run reads its data."""
    from fabula.data.mixture import Feed

    return Feed(recipe.data.packing, recipe.corpus.mixture)


def check_kinds(corpus: CorpusConfig, model: AnyConfig, problems: list[str]) -> None:
    """A model that translates needs pairs, a decoder-only one has no use for them."""
    from fabula.model.encdec import EncoderDecoderConfig

    translates = isinstance(model, EncoderDecoderConfig)
    if translates and corpus.pair is None:
        problems.append(
            "corpus: the model reads one text and writes another, but the records are no pairs: name their two fields "
            "(--corpus.source_field, --corpus.target_field), or choose a decoder-only --model.preset"
        )
    elif not translates and corpus.pair is not None:
        problems.append(
            "model: the corpus has pairs, but the model is decoder-only: choose one that translates (--model.preset "
            "fabula-translate-4m), or leave out corpus.source_field and corpus.target_field"
        )


def model_config(recipe: Recipe, vocab_size: int | None = None) -> tuple[str, AnyConfig]:
    """The preset's name and the model's configuration, with the tokenizer's vocabulary where none is given."""
    from fabula.model.presets import resolve as resolve_model

    section: Data = dict(recipe.model)
    if vocab_size is not None and "vocab_size" not in section:
        section["vocab_size"] = vocab_size
    problems: list[str] = []
    preset, made = resolve_model(section, problems)
    if made is None:
        raise ConfigError(problems)
    if vocab_size is not None and made.vocab_size < vocab_size:
        raise ConfigError(
            [
                f"model.vocab_size={made.vocab_size:,} is smaller than the tokenizer's {vocab_size:,}; leave it out, "
                f"or give --tokenizer.vocab_size {made.vocab_size}"
            ]
        )
    return preset, made


def dump(recipe: Recipe, preset: str, model: AnyConfig, rules: Mapping[str, str]) -> str:
    """The resolved recipe as TOML: every default written out, and the rules."""
    from fabula.model.kinds import described

    data = config.to_data(recipe)
    data["model"] = {"preset": preset, **described(model)}
    data["rules"] = dict(rules)
    return config.dump_toml(data)
