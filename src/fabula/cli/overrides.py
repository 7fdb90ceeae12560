"""Dotted settings on the command line: `--train.budget 10m`, `--train.budget=10m`.

They are taken out before the other options are parsed and handed on as `--set NAME=VALUE`, so that a recipe's
settings need no declaration here; the recipe itself checks them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fabula.errors import InputError

_DOTTED = re.compile(r"--([A-Za-z_][\w-]*(?:\.[\w-]+)+)(?:=(.*))?", re.DOTALL)

# A dash where the dot belongs. No verb has options of its own that begin like this.
_DASHED = re.compile(r"--(corpus|tokenizer|data|model|train|evaluate|generate|report)-([\w.-]+)(?:=.*)?", re.DOTALL)


def gather(arguments: Sequence[str]) -> list[str]:
    """The arguments with every dotted setting rewritten as `--set NAME=VALUE`.

    >>> gather(["run", "r.toml", "--train.budget", "10m", "--name", "a"])
    ['run', 'r.toml', '--set', 'train.budget=10m', '--name', 'a']
    >>> gather(["--model.n-layers=4"])
    ['--set', 'model.n_layers=4']
    """
    rewritten: list[str] = []
    index = 0
    while index < len(arguments):
        argument = arguments[index]
        index += 1
        found = _DOTTED.fullmatch(argument)
        dashed = _DASHED.fullmatch(argument)
        if dashed is not None:
            raise InputError(f"unknown option {argument}; settings are written with a dot: --{dashed[1]}.{dashed[2]}")
        if found is None:
            rewritten.append(argument)
            if argument == "--":
                rewritten += arguments[index:]
                break
            continue
        value = found[2]
        if value is None:
            if index == len(arguments) or _DOTTED.fullmatch(arguments[index]):
                raise InputError(f"{argument}: a value is missing; write {argument} VALUE")
            value = arguments[index]
            index += 1
        rewritten += ["--set", f"{found[1].replace('-', '_')}={value}"]
    return rewritten


def split(settings: Sequence[str]) -> list[tuple[str, str]]:
    """NAME=VALUE texts as pairs."""
    pairs = []
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f'"{text}" is not a setting; write NAME=VALUE, for example train.budget=10m')
        pairs.append((name, value))
    return pairs
