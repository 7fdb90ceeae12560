"""What did the client send? Bytes to checked data, stricter than Python's own JSON.

Python reads NaN, Infinity and 1e999, takes the last of doubled keys and recurses as deep as it is asked to. Here all of
these are refused, and so is what no request has: unknown keys, with the nearest name that there is.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from fabula.errors import nearest
from fabula.serve.config import MOST_DEPTH
from fabula.serve.refusal import Refusal

M = TypeVar("M", bound=BaseModel)

# Strings are passed over, so that brackets in texts do not count.
_PARTS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)


def read(body: bytes, model: type[M]) -> M:
    """The request that a body holds; Refusal (400) when it is none."""
    data = parse(body)
    if not isinstance(data, dict):
        raise Refusal(400, "the body must be a JSON object")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _told(error, model) from None
    except (OverflowError, RecursionError) as error:
        raise Refusal(400, f"the body holds a number or a nesting that is too large ({error})") from None


def parse(body: bytes) -> Any:
    """Strict JSON; Refusal (400) otherwise."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8 (byte {error.start})") from None
    if not text.strip():
        raise Refusal(400, "the body is empty; a JSON object is needed")
    if body.count(b"[") + body.count(b"{") > MOST_DEPTH:
        _check_depth(body)
    try:
        return json.loads(text, parse_constant=_constant, parse_float=_finite, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON that can be read: {error}") from None


def _check_depth(body: bytes) -> None:
    depth = 0
    for part in _PARTS.finditer(body):
        sign = part[0]
        if sign in (b"[", b"{"):
            depth += 1
            if depth > MOST_DEPTH:
                raise Refusal(400, f"the body is nested deeper than {MOST_DEPTH} levels")
        elif sign in (b"]", b"}"):
            depth -= 1


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double!r} stands twice in an object")
    return made


def _told(error: ValidationError, model: type[BaseModel]) -> Refusal:
    """The first problem, and how many more there are."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # Of a value that may be of several kinds pydantic tells what is wrong with each: the first will do.
    first = found[0]
    names = [str(part) for part in first["loc"] if part in model.model_fields or isinstance(part, int)]
    place = str(first["loc"][0]) if first["loc"] else "body"
    where = ".".join(names) or place
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        valid = model.model_fields if len(first["loc"]) == 1 else ()
        told = f"{'.'.join(map(str, first['loc']))}: unknown key; {nearest(key, valid)}" if valid else ""
        return Refusal(400, told or f"{where}: unknown key {key!r}", param=place, code="unknown_parameter")
    others = len({tuple(map(str, f["loc"][:1])) for f in found}) - 1
    more = f" (and {others} more)" if others else ""
    return Refusal(400, f"{where}: {first['msg']}{more}", param=place, code="invalid_value")
