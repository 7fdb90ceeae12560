"""Strict frozen configurations: plain data in, a checked dataclass out, every problem reported at once.

A configuration is a frozen dataclass whose fields are made with `setting(default, doc)`. Data comes from TOML, JSON or
dotted overrides of the command line; `build` refuses unknown keys (with the nearest valid name), wrong types and what a
class's own `__post_init__` refuses, and lists all of it in one ConfigError. Nothing is silently converted: the only
conversions are int to float, and text to the field's type when it was typed as text on a command line (`Typed`).

A field whose type has a class attribute `variants` (a Registry) holds one of several kinds: its data is a table with
the key `kind`, the other keys are the fields of that kind.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True, kw_only=True)
... class Garden:
...     trees: int = setting(3, "how many")
>>> build(Garden, {"treees": 4, "trees": "x"}, "garden")
Traceback (most recent call last):
fabula.errors.ConfigError: 2 problems
  - garden.treees: unknown key; did you mean "trees"?
  - garden.trees: expected a whole number, got "x"
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import stat
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast

from fabula.errors import ConfigError, InputError, nearest

C = TypeVar("C")

# A configuration as plain data; its leaves are what TOML and JSON can hold.
Data = dict[str, Any]


class Typed(str):
    """Text from a command line: converted to whatever type its field has."""

    __slots__ = ()


class _Bad:
    """Marks a value that could not be converted; its problem is already listed."""


_BAD = _Bad()

# How a class's own `__post_init__` names the offender: "validation=0.6 must be ...".
_NAMED = re.compile(r"(\w+)=")

# More than that is no recipe: a parser would only be kept busy.
MAX_TOML_BYTES = 64 << 10
_MAX_DOTS = 500
_MAX_DEPTH = 32


def setting(default: Any = dataclasses.MISSING, doc: str = "", factory: Any = None) -> Any:
    """A field of a configuration with its one-line description (shown by --help and in the docs)."""
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata={"doc": doc})
    return dataclasses.field(default=default, metadata={"doc": doc})


def build(cls: type[C], data: Mapping[str, Any], where: str = "") -> C:
    """An instance of `cls` made from plain data; ConfigError with all problems otherwise."""
    problems: list[str] = []
    made = collect(cls, data, where, problems)
    if problems:
        raise ConfigError(problems)
    return cast(C, made)


def collect(cls: type[C], data: Mapping[str, Any], where: str, problems: list[str]) -> C | None:
    """Like `build`, but appends the problems to a list that several sections share; None if there were any."""
    before = len(problems)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls)) if f.init}
    values: Data = {}
    for key, value in data.items():
        path = f"{where}.{key}" if where else key
        if key not in fields:
            problems.append(f"{path}: unknown key; {_known_beside(key, {name: hints[name] for name in fields}, where)}")
            continue
        so_far = len(problems)
        value = _convert(hints[key], _with_default_kind(hints[key], fields[key], value), path, problems)
        if len(problems) == so_far:
            values[key] = value
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            problems.append(f"{where}.{name}: missing" if where else f"{name}: missing")
    made = _made(cls, values, set(data) - set(values), where, problems)
    return made if len(problems) == before else None


def _known_beside(key: str, hints: Mapping[str, Any], where: str) -> str:
    """What was meant by a key that a section lacks: the same key one section below, or its nearest neighbour here."""
    for name, hint in hints.items():
        variants = getattr(hint, "variants", None)
        sections = [hint] if variants is None else [variants.get(kind) for kind in variants]
        if any(dataclasses.is_dataclass(s) and key in {f.name for f in dataclasses.fields(s)} for s in sections):
            return f'did you mean "{where}.{name}.{key}"?' if where else f'did you mean "{name}.{key}"?'
    return nearest(key, hints)


def _made(cls: type[C], values: Data, refused: set[str], where: str, problems: list[str]) -> C | None:
    """An instance, or None and what the class's own `__post_init__` refuses, again and again without what it named.

    A problem that leans on a refused value (which then stands at its default) is not the user's and is left out.
    """

    def tell(problem: str) -> None:
        if not any(re.search(rf"\b{re.escape(name)}=", problem) for name in refused):
            problems.append(f"{where}: {problem}" if where else problem)

    while True:
        try:
            return cls(**values)
        except ConfigError as error:
            for problem in error.problems:
                tell(problem)
            return None
        except (ValueError, InputError) as error:
            tell(str(error))
            name = _offender(str(error), values)
            if name is None:
                return None
            del values[name]
            refused = refused | {name}
        except TypeError:
            if refused or problems:
                return None  # a value that has no default is missing or was refused: that is said already
            raise


def _offender(problem: str, values: Data) -> str | None:
    """Which value a problem begins with: by its name, or as a quoted text."""
    named = _NAMED.match(problem)
    if named is not None:
        return named[1] if named[1] in values else None
    return next((n for n, v in values.items() if isinstance(v, str) and v and problem.startswith(f'"{v}"')), None)


def _with_default_kind(hint: Any, field: dataclasses.Field[Any], value: Any) -> Any:
    """A variant's table without a `kind` means the kind that the field has by default."""
    variants = getattr(hint, "variants", None)
    default = field.default_factory
    if variants is None or default is dataclasses.MISSING or not isinstance(value, Mapping) or "kind" in value:
        return value
    return {"kind": variants.name_of(type(default())), **value}


def to_data(config: Any) -> Data:
    """A configuration as plain data that `build` turns back into an equal one."""
    data: Data = {}
    variants = getattr(type(config), "variants", None)
    if variants is not None:
        data["kind"] = variants.name_of(type(config))
    for field in dataclasses.fields(config):
        data[field.name] = _plain(getattr(config, field.name))
    return data


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_data(value)
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Data:
    """`base` with the leaves of `over` laid on top.

    When a table changes its `kind`, the base's values for other keys stay only where the caller restates them:
    what described the old kind does not describe the new one.

    >>> merge({"a": 1, "ffn": {"kind": "relu", "d_ff": 8}}, {"ffn": {"d_ff": 16}})
    {'a': 1, 'ffn': {'kind': 'relu', 'd_ff': 16}}
    """
    merged: Data = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            changed = "kind" in value and "kind" in old and str(value["kind"]) != str(old["kind"])
            merged[key] = dict(value) if changed else merge(old, value)
        else:
            merged[key] = dict(value) if isinstance(value, Mapping) else value
    return merged


def nest(pairs: Iterable[tuple[str, Any]]) -> Data:
    """Dotted names to nested tables.

    >>> nest([("train.budget", "2m"), ("train.seed", 1)])
    {'train': {'budget': '2m', 'seed': 1}}
    """
    tree: Data = {}
    for name, value in pairs:
        *path, leaf = name.replace("-", "_").split(".")
        table = tree
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ConfigError([f"{name}: {part} is given both as a value and as a table"])
        if isinstance(table.get(leaf), dict) and not isinstance(value, dict):
            raise ConfigError([f"{name}: given both as a value and as a table"])
        table[leaf] = value
    return tree


def load_toml(path: Path) -> Data:
    """The tables of a TOML file; InputError naming file, line and reason otherwise.

    What a recipe never needs is refused before it is parsed, because it would keep the parser busy for minutes: more
    than 64 KiB, a line with more than 500 dots (keys of keys of keys), tables in tables 32 deep.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise InputError(f"{path}: not a regular file; write the recipe to a file first")
        with path.open("rb") as file:
            raw = file.read(MAX_TOML_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"no such recipe: {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, a recipe is a TOML file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(raw) > MAX_TOML_BYTES:
        raise InputError(f"{path}: larger than {MAX_TOML_BYTES >> 10} KiB; a recipe is a few settings")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: the text is UTF-16, a recipe is UTF-8; save it as UTF-8")
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if line.count(b".") > _MAX_DOTS:
            raise InputError(f"{path}, line {number}: more than {_MAX_DOTS} dots; no setting lies that deep")
    try:
        data = tomllib.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start + (len(raw) - len(error.object))})") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: not a recipe: tables or lists in each other more than {_MAX_DEPTH} deep") from None
    except ValueError as error:
        # A whole number of thousands of digits; Python does not read it.
        raise InputError(f"{path}: a number that cannot be read ({str(error).split(';')[0]})") from None
    _check_leaves(data, path)
    return data


def _check_leaves(data: Data, path: Path) -> None:
    """InputError for what no setting is: too deep, or a whole number beyond TOML's 64 bits."""
    found: list[tuple[str, Any, int]] = [("", data, 0)]
    while found:
        name, value, depth = found.pop()
        if depth > _MAX_DEPTH:
            raise InputError(f"{path}: {name[:60]}...: tables or lists in each other more than {_MAX_DEPTH} deep")
        if isinstance(value, Mapping):
            found += [(f"{name}.{key}" if name else key, item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list):
            found += [(f"{name}[{i}]", item, depth + 1) for i, item in enumerate(value)]
        elif isinstance(value, int) and value.bit_length() > 64:
            raise InputError(f"{path}: {name}: a whole number of {value.bit_length():,} bits; 64 are the most")


def dump_toml(data: Mapping[str, Any]) -> str:
    """Plain data as TOML; keys without a value (None) are left out, as TOML has no null."""
    import tomli_w

    return tomli_w.dumps(_without_none(data))


def _without_none(data: Mapping[str, Any]) -> Data:
    return {k: _without_none(v) if isinstance(v, Mapping) else v for k, v in data.items() if v is not None}


def dump_json(data: Any) -> str:
    """Plain data as readable JSON, key order kept, no NaN (JSON has none)."""
    return json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def describe(cls: type, prefix: str = "") -> list[tuple[str, str, Any, str]]:
    """The settings of a configuration class as (dotted name, type, default, description)."""
    rows: list[tuple[str, str, Any, str]] = []
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cast(Any, cls)):
        name = f"{prefix}.{field.name}" if prefix else field.name
        if dataclasses.is_dataclass(hints[field.name]) and not hasattr(hints[field.name], "variants"):
            rows += describe(hints[field.name], name)
            continue
        default = field.default
        if default is dataclasses.MISSING:
            factory = field.default_factory
            default = None if factory is dataclasses.MISSING else factory()
        rows.append((name, type_name(hints[field.name]), default, str(field.metadata.get("doc", ""))))
    return rows


def type_name(kind: Any) -> str:
    """A type in words a user knows."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " | ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(a) for a in args)
    if origin is tuple:
        return f"list of {type_name(args[0])}"
    if origin is dict:
        return "table"
    return {int: "whole number", float: "number", bool: "true | false", str: "text", type(None): "none"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )


def _convert(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(kind, args, value, path, problems)
    if origin is Literal:
        return _convert_literal(args, value, path, problems)
    if origin is tuple:
        return _convert_sequence(args[0], value, path, problems)
    if origin is dict:
        if not isinstance(value, Mapping):
            return _refuse(kind, value, path, problems)
        return {str(k): _convert(args[1], v, f"{path}.{k}", problems) for k, v in value.items()}
    if dataclasses.is_dataclass(kind) or hasattr(kind, "variants"):
        return _convert_table(kind, value, path, problems)
    return _convert_scalar(kind, value, path, problems)


def _convert_table(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        named = f"; set {path}.kind = {_show(value)}" if str(value) in getattr(kind, "variants", ()) else ""
        problems.append(f"{path}: expected a table, got {_show(value)}{named}")
        return _BAD
    variants = getattr(kind, "variants", None)
    if variants is not None:
        if "kind" not in value:
            problems.append(f'{path}: needs a "kind"; {nearest("", variants)}')
            return _BAD
        name = str(value["kind"])
        if name not in variants:
            problems.append(f'{path}.kind: unknown {variants.noun} "{name}"; {nearest(name, variants)}')
            return _BAD
        kind, value = variants.get(name), {k: v for k, v in value.items() if k != "kind"}
        if value and not dataclasses.fields(kind):
            for key in value:
                having = [n for n in variants if key in {f.name for f in dataclasses.fields(variants.get(n))}]
                hint = f'; set {path}.kind = "{having[0]}" for it' if having else ""
                problems.append(f'{path}.{key}: the {variants.noun} "{name}" has no settings{hint}')
            return _BAD
    made = collect(kind, value, path, problems)
    return _BAD if made is None else made


def _convert_union(kind: Any, args: Sequence[Any], value: Any, path: str, problems: list[str]) -> Any:
    nothing = value is None or (isinstance(value, Typed) and value.lower() in ("none", "null"))
    if nothing and type(None) in args:
        return None
    for option in args:
        if option is type(None):
            continue
        attempt: list[str] = []
        made = _convert(option, value, path, attempt)
        if not attempt:
            return made
    return _refuse(kind, value, path, problems)


def _convert_literal(options: Sequence[Any], value: Any, path: str, problems: list[str]) -> Any:
    for option in options:
        if value == option and type(value) is type(option):
            return option
        if isinstance(value, Typed) and str(value) == str(option):
            return option
    hint = nearest(str(value), [str(o) for o in options])
    problems.append(f"{path}: {_show(value)} is not allowed; {hint}")
    return _BAD


def _convert_sequence(item: Any, value: Any, path: str, problems: list[str]) -> Any:
    if isinstance(value, Typed):
        value = [Typed(v.strip()) for v in value.split(",") if v.strip()]
    if not isinstance(value, (list, tuple)):
        problems.append(f"{path}: expected a list, got {_show(value)}")
        return _BAD
    return tuple(_convert(item, v, f"{path}[{i}]", problems) for i, v in enumerate(value))


def _convert_scalar(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    if isinstance(value, Typed):
        parsed = _parse(kind, value)
        return _refuse(kind, str(value), path, problems) if parsed is None else parsed
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return _refuse(kind, value, path, problems)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        return _refuse(kind, value, path, problems)
    return value


def _parse(kind: Any, text: str) -> Any:
    """Text as a value of a scalar type, None when it is not one."""
    if kind is str:
        return str(text)
    if kind is bool:
        return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(text.lower())
    try:
        if kind is int:
            return int(text.replace("_", ""))
        number = float(text)
        return number if math.isfinite(number) else None
    except ValueError:
        return None


def _refuse(kind: Any, value: Any, path: str, problems: list[str]) -> _Bad:
    article = "a " if kind in (int, float) else ""
    problems.append(f"{path}: expected {article}{type_name(kind)}, got {_show(value)}")
    return _BAD


def _show(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
