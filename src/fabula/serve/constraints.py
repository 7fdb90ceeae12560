"""What must a text be? A request's `response_format` as a constraint of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fabula.serve.refusal import Refusal

if TYPE_CHECKING:
    from fabula.serve.models import Served
    from fabula.serve.schema import ResponseFormat


def of(wanted: ResponseFormat, served: Served) -> Any:
    """The constraint of a format other than text; Refusal when it cannot be kept."""
    raise Refusal(400, f"response_format {wanted.type} is not served yet", param="response_format")
