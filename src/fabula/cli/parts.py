"""Verbs of models: list presets, show layers and prices. Those of the stages are in files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from fabula.cli import console, overrides
from fabula.cli.recipes import Json, Settings
from fabula.errors import ConfigError, InputError

if TYPE_CHECKING:
    from fabula.model.kinds import AnyConfig

model = App(name="model")
model.command("fabula.cli.masks:masks", name="masks", help="Draw who may see whom.")

Source = Annotated[str, Parameter(help="fables:es, fables:en, a file, a folder, a pattern or hf:owner/name")]


@model.command(name="list")
def model_list(*, json: Json = False) -> None:
    """Every preset with its exact parameter count."""
    from fabula.model.kinds import kind_of
    from fabula.model.presets import presets

    found = [(name, presets.get(name)) for name in presets]
    if json:
        console.out_json(
            [
                {"preset": name, "kind": kind_of(p.config), "parameters": p.config.n_params(), "source": p.source}
                for name, p in found
            ]
        )
        return
    rows = [
        (
            name,
            f"{p.config.n_params():,}",
            _layers(p.config),
            str(p.config.d_model),
            f"{p.config.vocab_size:,}",
            f"{p.config.context_length:,}",
            p.source,
        )
        for name, p in found
    ]
    header = ("preset", "parameters", "layers", "d_model", "vocabulary", "context", "source")
    console.out(console.table(rows, header, right=(1, 2, 3, 4, 5)))


@model.command(name="show")
def model_show(
    preset: Annotated[str, Parameter(help="a preset, or a run folder")],
    /,
    *,
    json: Json = False,
    settings: Settings = (),
) -> None:
    """Parts, parameters, FLOPs and cache of a model; its settings can be changed with --model.NAME VALUE."""
    from fabula.config import to_data
    from fabula.model.kinds import kind_of

    name, config = resolve_model(preset, settings)
    parts = {part: count for part, count in config.parts().items() if count}
    facts = {
        "preset": name,
        "kind": kind_of(config),
        "parameters": config.n_params(),
        "parts": parts,
        "flops_per_token": config.flops_per_token(),
        "training_flops_per_token": config.training_flops_per_token(),
        "cache_bytes": config.cache_bytes(),
        "config": to_data(config),
    }
    if json:
        console.out_json(facts)
        return
    total = config.n_params()
    console.out(f"{name}: {total:,} parameters\n")
    rows = [(part, f"{count:,}", f"{count / total:.1%}") for part, count in parts.items()]
    console.out(console.table(rows, ("part", "parameters", "share"), right=(1, 2)))
    console.out("")
    console.out(
        console.table(
            [
                ("layers", f"{_layers(config)} of width {config.d_model}, context {config.context_length:,}"),
                *(
                    (part, _one_line(to_data(getattr(config, part))))
                    for part in ("attention", "position", "ffn", "norm")
                ),
                ("head", "tied to the embedding" if config.tied else "its own weights"),
                (
                    "FLOPs a token",
                    f"{console.quantity(config.flops_per_token())} forward, three times that in training",
                ),
                ("cache", f"{console.n_bytes(config.cache_bytes())} for a full context in float32"),
            ]
        )
    )


def resolve_model(preset: str, settings: Settings) -> tuple[str, AnyConfig]:
    """A preset's or a run's name and configuration, changed by settings; ConfigError lists what is wrong."""
    from fabula.config import Typed, merge, nest
    from fabula.model.presets import resolve

    if Path(preset).is_dir():
        from fabula import checkpoint

        found = checkpoint.find(Path(preset))
        section: dict[str, Any] = {"preset": found.manifest.get("preset", ""), **_config_of(found.path)}
    else:
        section = {"preset": preset}
    changed = nest((name, Typed(value)) for name, value in overrides.split(settings))
    wrong = [f"{name}: only --model.NAME VALUE is understood here" for name in changed if name != "model"]
    section = merge(section, changed.get("model", {}))
    name, config = resolve(section, wrong)
    if config is None or wrong:
        raise ConfigError(wrong)
    return name, config


def _layers(config: Any) -> str:
    """The number of layers; of an encoder-decoder those that read and those that write."""
    both = (getattr(config, "encoder_layers", 0), getattr(config, "decoder_layers", 0))
    return f"{both[0]} + {both[1]}" if all(both) else str(config.n_layers)


def _one_line(table: dict[str, Any]) -> str:
    kind = table.pop("kind")
    return f"{kind} (" + ", ".join(f"{k}={v}" for k, v in table.items()) + ")"


def _config_of(folder: Path) -> dict[str, Any]:
    from fabula import checkpoint, storage

    found: dict[str, Any] = storage.read_json(folder / checkpoint.CONFIG)
    return found


def section(name: str, given: list[tuple[str, str]]) -> Any:
    """A recipe made of settings alone, of which a verb reads one section."""
    from fabula import recipe

    allowed = {"corpus", name}
    foreign = [setting for setting, _ in given if setting.split(".")[0] not in allowed]
    if foreign:
        raise InputError(f"{', '.join(foreign)}: this command takes only {' and '.join(sorted(allowed))} settings")
    # A recipe's model must fit its corpus; here there is none, so one is named that reads pairs.
    pairs = any(setting == "corpus.source_field" for setting, _ in given)
    return recipe.resolve({"model": {"preset": "fabula-translate-4m"}} if pairs else {}, given)
