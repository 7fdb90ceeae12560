"""The document and what it promises: schemathesis asks every route for whatever the document allows, and for what it
does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

import fabula
from fabula.serve.api import ROUTES
from tests import serving
from tests.serving import Asking

schemathesis = pytest.importorskip("schemathesis")


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Iterator[Asking]:
    """A server of a run with checkpoints and a short context."""
    with serving.serving(fabula.load(tiny_run), folder=str(tiny_run)) as made:
        yield made


def test_every_route_and_every_type_is_in_the_document(asking: Asking) -> None:
    found = asking.get("/openapi.json")
    document, text = found.data, found.body.decode()
    assert {(path, method.upper()) for path, of in document["paths"].items() for method in of} == {
        (route.path, route.method) for route in ROUTES
    }
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(document["components"]["schemas"])
    for words in ('"maximum": 16', '"maxItems": 16', '"additionalProperties": false'):
        assert words in text


@pytest.mark.parametrize("path", [route.path for route in ROUTES])
def test_whatever_is_sent_gets_an_answer_of_the_document(run: Asking, path: str) -> None:
    ask(run, path, 12)


@pytest.mark.slow
@pytest.mark.parametrize("path", [route.path for route in ROUTES])
def test_whatever_is_sent_gets_an_answer_of_the_document_for_long(run: Asking, path: str) -> None:
    ask(run, path, 1000)


def ask(run: Asking, path: str, examples: int) -> None:
    """Send that many requests that the document allows, and as many that it does not."""
    from schemathesis.specs.openapi import checks

    schema = schemathesis.openapi.from_dict(run.get("/openapi.json").data)
    (operation,) = [found.ok() for found in schema.get_all_operations() if found.ok().path == path]
    wanted = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    if path == "/health":
        wanted = wanted[1:]
    if path == "/fabula/evolution":
        examples = min(examples, 40)  # each loads every checkpoint
    modes = schemathesis.GenerationMode
    for mode in (modes.POSITIVE, modes.NEGATIVE):
        if mode == modes.NEGATIVE and "requestBody" not in operation.definition.raw:
            continue

        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(mode))
        def one(case: Any) -> None:
            case.call_and_validate(base_url=run.server.address, checks=wanted, timeout=60)

        one()
    assert run.get("/health").status == 200
