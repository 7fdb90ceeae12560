"""What does the server offer, for machines? The OpenAPI 3.1 document, made of the routes and the types themselves."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from fabula.serve import schema
from fabula.serve.api import Route
from fabula.serve.config import MOST_BODY, MOST_DEPTH, MOST_HEADERS

# Status and when it is answered; every route may.
_REFUSALS = {
    "400": "The request is not one that can be answered; the message says why.",
    "401": "A token is needed.",
    "403": "The host or the origin is not this server's.",
    "408": "The request took too long to arrive.",
    "413": f"The body is larger than {MOST_BODY:,} bytes.",
    "415": "The body is not JSON.",
    "429": "The queue is full; Retry-After says when to come back.",
    "431": f"The headers are larger than {MOST_HEADERS:,} bytes.",
    "500": "The model's numbers have diverged, or a fault of the server.",
    "503": "The server stops.",
}
_REFERENCE = "#/components/schemas/{model}"


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document of these routes."""
    types: list[type[BaseModel]] = [schema.Error]
    for route in routes:
        types += [t for t in (route.request, route.response) if t is not None]
    unique = list(dict.fromkeys(types))
    _, definitions = models_json_schema([(t, "validation") for t in unique], ref_template=_REFERENCE, by_alias=True)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fabula",
            "version": version("fabula"),
            "description": "Small language models behind OpenAI's protocol and a few routes of our own. Bodies are "
            f"strict JSON: unknown keys, doubled keys, NaN and nesting deeper than {MOST_DEPTH} levels are refused.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(route: Route) -> dict[str, Any]:
    made: dict[str, Any] = {"summary": route.summary, "operationId": _name(route)}
    if "{model}" in route.path:
        named = {"type": "string", "minLength": 1, "maxLength": 200}
        made["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": named}]
    elif route.path == "/fabula/checkpoints":
        made["parameters"] = [{"name": "model", "in": "query", "schema": {"type": "string", "minLength": 1}}]
    if route.request is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": _of(route.request)}}}
    content: dict[str, Any] = {}
    if not route.always_streams:
        content[route.kind] = {} if route.response is None else {"schema": _of(route.response)}
    if route.streams:
        content["text/event-stream"] = {}
    error = {"application/json": {"schema": _of(schema.Error)}}
    refusals = {
        status: {"description": words, "content": error}
        for status, words in {**_REFUSALS, "404": "There is no such model, or nothing to tell of it."}.items()
    }
    if route.path == "/health":
        refusals["503"] = {"description": "It stops, or has failed.", "content": {route.kind: {}}}
    words = f"{route.summary}. As a stream: {route.streams}." if route.streams else route.summary
    made["responses"] = {"200": {"description": words, "content": content}, **dict(sorted(refusals.items()))}
    if route.path == "/health":
        made["security"] = []
    return made


def _of(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _name(route: Route) -> str:
    return route.handler.__name__.strip("_")
