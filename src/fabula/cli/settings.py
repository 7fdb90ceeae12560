"""The settings of a recipe as help text, made from the configurations themselves."""

from __future__ import annotations

import typing
from typing import Any

from fabula import config
from fabula.recipe import Recipe


def epilogue() -> str:
    """Every setting with its default and meaning, for the end of a help page."""
    lines = ["Settings: in a recipe's [section], or as --NAME VALUE (a name without a dot: --set NAME=VALUE).", ""]
    for name, kind, default, doc in config.describe(Recipe):
        if name in ("rules", "model"):
            continue
        variants = _variants(name)
        if variants is not None:
            lines += _variant_lines(name, variants, default, doc)
            continue
        lines.append(_line(name, kind, default, doc))
    lines.append("  model.preset, model.*: see `fabula model list` and `fabula model show PRESET`")
    return "\n".join(lines)


def _line(name: str, kind: str, default: Any, doc: str) -> str:
    shown = "" if default in (None, "", ()) else f" = {str(default).lower() if isinstance(default, bool) else default}"
    return f"  {name}{shown}  ({kind})\n      {doc}"


def _variant_lines(name: str, variants: Any, default: Any, doc: str) -> list[str]:
    lines = [f"  {name}.kind = {variants.name_of(type(default))}  ({' | '.join(variants)})\n      {doc}"]
    width = max(map(len, variants))
    lines += [f"      {kind.ljust(width)}  {_sentence(variants.get(kind))}" for kind in variants]
    for kind in variants:
        for field_name, field_kind, field_default, field_doc in config.describe(variants.get(kind)):
            lines.append(_line(f"{name}.{field_name} [{kind}]", field_kind, field_default, field_doc))
    return lines


def _sentence(kind: Any) -> str:
    """The first line of what a variant says of itself."""
    return str(kind.__doc__).strip().splitlines()[0]


def _variants(name: str) -> Any:
    kind: Any = Recipe
    for part in name.split("."):
        kind = typing.get_type_hints(kind)[part]
    return getattr(kind, "variants", None)
