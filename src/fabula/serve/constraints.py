"""What must a text be? A request's `response_format` as a constraint of the engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fabula.errors import InputError, MachineError
from fabula.generate import constrained
from fabula.serve.config import MOST_SCHEMA
from fabula.serve.refusal import Refusal

if TYPE_CHECKING:
    from fabula.generate.constrained import Pattern
    from fabula.serve.models import Served
    from fabula.serve.schema import ResponseFormat


def of(wanted: ResponseFormat, served: Served) -> Pattern:
    """The pattern of a format other than text; Refusal when it cannot be kept."""
    schema = {"type": "object"} if wanted.json_schema is None else wanted.json_schema.schema_
    size = len(json.dumps(schema))
    if size > MOST_SCHEMA:
        raise Refusal(
            400, f"the schema has {size:,} characters, at most {MOST_SCHEMA:,} are read", param="response_format"
        )
    try:
        return constrained.json_schema(served.tokenizer, schema)
    except (InputError, MachineError) as error:
        raise Refusal(400, f"response_format: {error}", param="response_format") from None
