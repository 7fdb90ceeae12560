"""A toy model behind a server of this process, and ways to ask it: well-behaved clients and raw sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests import tiny

if TYPE_CHECKING:
    from fabula.language_model import LanguageModel
    from fabula.serve.run import Server

CONTEXT = 2048
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Heard:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, which must have OpenAI's form."""
        found = self.data["error"]
        assert set(found) == {"message", "type", "param", "code"}, found
        assert isinstance(found["message"], str)
        assert found["message"]
        return dict(found)


class Asking:
    """Asks one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.host, self.port = str(urlsplit(server.address).hostname), int(urlsplit(server.address).port or 0)

    def send(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> Heard:
        """One request as it is given."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            found = connection.getresponse()
            return Heard(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Heard:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, data: Any, **headers: str) -> Heard:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        return self.send("POST", path, body, {**JSON, **headers})

    def complete(self, prompt: Any = "El", **settings: Any) -> dict[str, Any]:
        """The one choice of a completion."""
        found = self.post("/v1/completions", {"prompt": prompt, **settings})
        assert found.status == 200, found.body
        return dict(found.data["choices"][0])

    @contextlib.contextmanager
    def stream(self, path: str, data: Any, receive_buffer: int = 0) -> Iterator[tuple[socket.socket, Iterator[Any]]]:
        """The events of a stream, as they come; and its socket."""
        with socket.socket() as made:
            if receive_buffer:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            made.settimeout(60)
            made.connect((self.host, self.port))
            body = json.dumps({"stream": True, **data} if path.startswith("/v1") else data).encode()
            made.sendall(head("POST", path, self.port, **JSON, Content_Length=str(len(body))) + body)
            with made.makefile("rb") as file:
                yield made, _events(file)

    def streamed(self, path: str, data: Any) -> list[Any]:
        """All events of a stream but its end."""
        with self.stream(path, data) as (_, events):
            return list(events)

    def raw(self, data: bytes, more: Callable[[socket.socket], None] | None = None) -> bytes:
        """What comes back for these bytes, up to the end of the connection."""
        with socket.create_connection((self.host, self.port), timeout=60) as made:
            with contextlib.suppress(ConnectionError):
                made.sendall(data)
                if more is not None:
                    more(made)
            return everything(made)

    def quiet(self) -> None:
        """Wait until no text is written any more."""
        until(lambda: all(served.engine.outstanding == 0 for served in self.server.table))


def head(method: str, path: str, port: int, **headers: str) -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    return "\r\n".join([*lines, *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items()), "", ""]).encode("latin-1")


def everything(made: socket.socket) -> bytes:
    """What a socket still gives."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := made.recv(65536):
            found += part
    return found


def until(what: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for something; fails when it does not come."""
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, "it does not come"
        time.sleep(0.005)


def _events(file: Any) -> Iterator[Any]:
    status = file.readline()
    assert b" 200 " in status, status + file.read()
    while file.readline().strip():
        pass
    for line in file:
        if line.startswith(b"data: [DONE]"):
            return
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


@pytest.fixture(scope="session")
def toy(tiny_tokenizer: Any) -> LanguageModel:
    """A model of 45,000 numbers that were drawn: it writes anything, and never ends by itself soon."""
    return make_toy(tiny_tokenizer)


def make_toy(tokenizer: Any, context: int = CONTEXT) -> LanguageModel:
    import torch

    from fabula.device import choose
    from fabula.language_model import LanguageModel
    from fabula.model.kinds import build_model

    torch.manual_seed(0)
    model = build_model(tiny.model_config(context_length=context, tied=False))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return LanguageModel(model, tokenizer, choose("cpu", 1), None)


@contextlib.contextmanager
def serving(lm: LanguageModel, *, token: str | None = None, folder: str = "toy", **settings: Any) -> Iterator[Asking]:
    """A server of a model, and its client."""
    from fabula.serve.config import ServeConfig
    from fabula.serve.run import background

    with background(ServeConfig(port=0, **settings), [lm], [Path(folder)], token) as server:
        yield Asking(server)


@pytest.fixture(scope="session")
def asking(toy: LanguageModel) -> Iterator[Asking]:
    """A server with the usual settings."""
    with serving(toy) as made:
        yield made
