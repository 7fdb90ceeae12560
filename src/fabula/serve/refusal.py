"""How is a request refused? One exception, told in OpenAI's form of an error."""

from __future__ import annotations

import json
from typing import Any

# The kinds of error of OpenAI's protocol, by status.
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_MOST_SHOWN = 500


class Refusal(Exception):
    """A request that is not answered, with its status. `retry` are seconds after which to try again; `close` ends the
    connection, whose next bytes could not be told from the rest of this request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry: int | None = None,
        close: bool = False,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry, self.close = status, param, code, retry, close
        self.allow = allow

    def body(self) -> dict[str, Any]:
        """The error as data."""
        usual = "invalid_request_error" if self.status < 500 else "server_error"
        said = str(self)
        return {
            "error": {
                "message": said if len(said) <= _MOST_SHOWN else said[: _MOST_SHOWN - 3] + "...",
                "type": _KINDS.get(self.status, usual),
                "param": self.param,
                "code": self.code,
            }
        }

    def to_json(self) -> bytes:
        """The error as JSON in ASCII: it may quote what is no valid text."""
        return json.dumps(self.body(), ensure_ascii=True).encode("ascii")

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that belong to it."""
        made = [(b"content-type", b"application/json"), (b"content-length", str(len(self.to_json())).encode())]
        if self.retry is not None:
            made.append((b"retry-after", str(self.retry).encode()))
        if self.status == 401:
            made.append((b"www-authenticate", b"Bearer"))
        if self.allow is not None:
            made.append((b"allow", self.allow.encode("ascii", "replace")))
        if self.close:
            made.append((b"connection", b"close"))
        return made
