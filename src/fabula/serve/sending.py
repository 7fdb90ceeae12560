"""How does an answer reach its client? Whole and in parts, or event by event."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fabula.serve.gate import Send

# Bytes of an answer that are handed over at once.
_PART = 1 << 16
_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    body: bytes
    kind: str = "application/json"
    status: int = 200


def answer(data: Any) -> Answer:
    """Data as JSON."""
    return Answer(json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8"))


async def send_whole(send: Send, made: Answer, *more: tuple[bytes, bytes]) -> None:
    """Send an answer, with `more` headers."""
    headers = [(b"content-type", made.kind.encode()), (b"content-length", str(len(made.body)).encode()), *more]
    await send({"type": "http.response.start", "status": made.status, "headers": headers})
    # In parts, so that a reader that is behind is waited for, and not for ever.
    for start in range(0, len(made.body) - _PART, _PART):
        await send({"type": "http.response.body", "body": made.body[start : start + _PART], "more_body": True})
    last = (max(0, len(made.body) - 1)) // _PART * _PART
    await send({"type": "http.response.body", "body": made.body[last:]})


async def send_stream(send: Send, parts: AsyncGenerator[bytes, None]) -> None:
    """Send events as they come; whatever happens, their source is closed."""
    started = False
    try:
        async for part in parts:
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
            if part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await parts.aclose()
