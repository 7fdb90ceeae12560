"""Who may ask? Every request passes here before any route sees it: limits, names, origins, the token, the body.

Closed by default. The host must be one of ours (another page's name that leads here is refused: DNS rebinding), an
`Origin` must be the server itself, no CORS header is ever sent, a body must say that it is JSON. With a token, every
route needs it but the static files and /health.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fabula.serve.config import MOST_BODY, MOST_HEADERS, ServeConfig
from fabula.serve.metrics import Metrics
from fabula.serve.protocol import ABORT
from fabula.serve.refusal import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# The key of a request's scope that holds its body.
BODY = "fabula.body"
# A body that is too large is read to its end up to here, so that the client hears why.
_LINGER = 16 << 20

# What every answer says: no guessing of types, no framing, nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", POLICY.encode()),
]


class Gone(Exception):
    """The client has left."""


class Stalled(Exception):
    """The client takes nothing."""


class Gate:
    """The outermost layer."""

    def __init__(
        self,
        app: App,
        config: ServeConfig,
        metrics: Metrics,
        token: str | None,
        open_paths: frozenset[str],
        routes: Callable[[str], str],
        note: Callable[[str], None],
    ) -> None:
        self._note = note
        self._app, self._config, self._metrics, self._open, self._route = app, config, metrics, open_paths, routes
        self._token = None if token is None else token.encode("utf-8")
        self._hosts = config.names()
        # Where it listens on every address it has, it may be called by any: names are what lies.
        self._everywhere = config.host in ("0.0.0.0", "::")
        self.stopping = False
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, started = 500, False

        async def told(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                message["headers"] = [*message.get("headers", []), *_ALWAYS]
            try:
                async with asyncio.timeout(self._config.stall_seconds):
                    await send(message)
            except TimeoutError:
                raise Stalled from None

        counted = scope["path"] != "/health"
        self.active += counted
        try:
            await self._checked(scope, receive, told)
        except Refusal as refusal:
            if not started:
                await self._refuse(refusal, told)
        except Gone:
            status = 499
        except Stalled:
            self._metrics.count("fabula_streams_dropped_total")
            scope.get(ABORT, lambda: None)()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            where = "".join(traceback.format_exception(error, limit=-4))
            self._note(f"{scope['method']} {scope['path']!a} failed, a fault of the server\n{where}")
            if not started:
                await self._refuse(Refusal(500, f"a fault of the server ({type(error).__name__})"), told)
            else:
                scope.get(ABORT, lambda: None)()
        finally:
            self.active -= counted
            self._metrics.count("fabula_requests_total", route=self._route(scope["path"]), status=str(status))

    @staticmethod
    async def _refuse(refusal: Refusal, send: Send) -> None:
        await send({"type": "http.response.start", "status": refusal.status, "headers": refusal.headers()})
        await send({"type": "http.response.body", "body": refusal.to_json()})

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], scope["headers"]
        if sum(len(name) + len(value) + 4 for name, value in headers) > MOST_HEADERS:
            raise Refusal(431, f"the headers are larger than {MOST_HEADERS:,} bytes", close=True)
        found = _Headers(headers)
        self._check_host(found)
        self._check_origin(found, path)
        if path not in self._open:
            self._check_token(found)
        if self.stopping and path != "/health":
            raise Refusal(503, "the server stops", retry=5, close=True)
        if scope["method"] == "POST":
            self._check_type(found)
        scope[BODY] = await self._body(found, receive)
        await self._app(scope, receive, send)

    def _check_host(self, headers: _Headers) -> None:
        host = headers.one("host")
        if host is None or not (_name(host) in self._hosts or (self._everywhere and _is_address(_name(host)))):
            raise Refusal(
                403, "the host of this request is not one of this server's names (--allow-host adds one)", code="host"
            )

    def _check_origin(self, headers: _Headers, path: str) -> None:
        # A link to one of our pages may be followed from anywhere.
        page = path in self._open and path != "/health" and headers.one("sec-fetch-mode") == "navigate"
        origin, host = headers.one("origin"), headers.one("host") or ""
        if origin is not None:
            try:
                place = urlsplit(origin)
            except ValueError:
                place = urlsplit("")
            if place.scheme not in ("http", "https") or place.netloc.lower() != host.lower():
                raise Refusal(403, "pages of other origins may not call this server", code="origin")
        elif headers.one("sec-fetch-site") in ("cross-site", "same-site") and not page:
            raise Refusal(403, "pages of other origins may not call this server", code="origin")

    def _check_token(self, headers: _Headers) -> None:
        if self._token is None:
            return
        kind, _, given = (headers.one("authorization") or "").partition(" ")
        # Compared in a time that does not tell how much of it is right.
        if not hmac.compare_digest(given.strip().encode("utf-8"), self._token) or kind.lower() != "bearer":
            raise Refusal(401, "a token is needed: Authorization: Bearer TOKEN", code="invalid_api_key")

    @staticmethod
    def _check_type(headers: _Headers) -> None:
        kind = (headers.one("content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, "the body must be JSON: Content-Type: application/json", close=True)

    async def _body(self, headers: _Headers, receive: Receive) -> bytes:
        told = headers.one("content-length")
        size = int(told) if told is not None and told.isascii() and told.isdigit() and len(told) < 19 else None
        too_large = Refusal(413, f"the body is larger than {MOST_BODY:,} bytes", close=True)
        if size is not None and size > _LINGER:
            raise too_large
        parts, length = [], 0
        try:
            async with asyncio.timeout(self._config.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    length += len(part)
                    if length <= MOST_BODY:
                        parts.append(part)
                    else:
                        parts.clear()
                        if length > _LINGER:
                            raise too_large
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            late = Refusal(408, f"the body took longer than {self._config.body_seconds:g} s", close=True)
            raise (too_large if length > MOST_BODY else late) from None
        if length > MOST_BODY:
            raise too_large
        return b"".join(parts)


class _Headers:
    """The headers of a request; one that may stand once and stands twice is none."""

    def __init__(self, given: list[tuple[bytes, bytes]]) -> None:
        self._given = given

    def one(self, name: str) -> str | None:
        wanted = name.encode()
        values = [value for key, value in self._given if key == wanted]
        if len(values) > 1:
            raise Refusal(400, f"the header {name} stands {len(values)} times")
        return values[0].decode("latin-1") if values else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """The name of a Host header, without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1 : host.find("]")] if "]" in host else ""
    return host.rpartition(":")[0] if host.count(":") == 1 else host
