"""How long may a client take to say what it wants? uvicorn's protocol with deadlines, and a bound on connections.

uvicorn waits for ever for the head of a first request and answers what it cannot read in plain text. Here the head has
a deadline, and every answer is JSON.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from fabula.serve.refusal import Refusal

# The key of a request's scope under which its connection can be cut.
ABORT = "fabula.abort"
# Bytes that the system keeps for a reader that is behind.
_SEND_BUFFER = 64 << 10


class Protocol(H11Protocol):
    """A connection. `limits` of the class are set for each server by `bounded`."""

    head_seconds = 10.0
    most_connections = 1024
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
            return
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        inner = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope[ABORT] = transport.abort
            await inner(scope, receive, send)

        self.app = app
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing() or not (self.cycle is None or self.cycle.response_complete):
            self._head_is_here()
        elif self._deadline is None:
            self._wait_for_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:
            self._head_is_here()  # the time between two requests is uvicorn's own to watch

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head_is_here()
        self._deadline = self.loop.call_later(self.head_seconds, self._late)

    def _head_is_here(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self._answer(Refusal(408, f"the head of the request took longer than {self.head_seconds:g} s", close=True))

    def send_400_response(self, msg: str) -> None:
        """What h11 refuses to read; uvicorn calls this while it handles the error."""
        error = sys.exc_info()[1]
        hint = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        told = "the headers are too large" if hint == 431 else f"not HTTP that can be read ({error or msg})"
        self._answer(Refusal(hint if hint in STATUS_PHRASES else 400, told, close=True))

    def _answer(self, refusal: Refusal) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = h11.Response(
                status_code=refusal.status, headers=refusal.headers(), reason=STATUS_PHRASES[refusal.status]
            )
            for event in (response, h11.Data(data=refusal.to_json()), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def bounded(head_seconds: float, connections: int) -> type[Protocol]:
    """The protocol with a server's limits."""
    return type("Bounded", (Protocol,), {"head_seconds": head_seconds, "most_connections": connections})
