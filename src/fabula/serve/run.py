"""Stage: models and a configuration to a server that runs until it is asked to stop.

    socket ─► Protocol (deadlines) ─► Gate (who may ask, limits) ─► Api (routes) ─► Engine (one thread a model)

When it is asked to stop (SIGTERM, SIGINT) it takes nothing new, lets what runs come to its end for as long as
`drain_seconds`, tells the rest with an error, and returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from fabula.device import use_threads
from fabula.errors import InputError, MachineError
from fabula.language_model import LanguageModel, load
from fabula.model.config import ModelConfig
from fabula.serve import static
from fabula.serve.api import Api
from fabula.serve.config import ServeConfig
from fabula.serve.gate import Gate
from fabula.serve.metrics import Metrics
from fabula.serve.models import Served, Table, names
from fabula.serve.protocol import bounded
from fabula.serve.refusal import Refusal

# Seconds for what was told of its end to be sent.
_LAST_SECONDS = 2.0
# Most bytes of a head that h11 looks at before it gives up; the gate refuses smaller ones in better words.
_HEAD_BYTES = 64 << 10
_LEAST_TOKEN = 16
# How long one thread may hold Python's lock while another waits for it. Every operation of torch gives the lock away
# and wants it back: with Python's own 5 ms a busy event loop costs the engine that much at each of a step's operations.
_SWITCH_SECONDS = 0.0002


def run(
    config: ServeConfig,
    folders: Sequence[Path],
    *,
    checkpoint: str = "best",
    device: str = "auto",
    token: str | None = None,
    note: Callable[[str], None],
    ready: Callable[[Server], None],
) -> None:
    """Serve models until a signal comes. `ready` is called once requests are taken.

    InputError for an address beyond this machine without a token; MachineError when the address cannot be had.
    """
    check(config, token)
    with contextlib.closing(listen(config)) as bound:
        if config.threads:
            use_threads(config.threads)
        found = [load(folder, checkpoint, device, note) for folder in folders]
        server = Server(config, found, folders, token, bound, note)
        server.when_ready = lambda: ready(server)
        server.serve_here()


def check(config: ServeConfig, token: str | None) -> None:
    """InputError when the server would be open to others without a token, or the token is none."""
    if token is None and not config.loopback:
        raise InputError(
            f"host={config.host}: others can reach this address, so a token is needed: put one into a file and give it "
            "with --token-file (openssl rand -hex 32 makes one)"
        )
    if token is not None and not re.fullmatch(rf"[!-~]{{{_LEAST_TOKEN},}}", token):
        raise InputError(f"the token must be at least {_LEAST_TOKEN} printable characters of ASCII without blanks")


def listen(config: ServeConfig) -> socket.socket:
    """The socket of the address; MachineError when it cannot be had."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind)
    except OSError as error:
        raise InputError(f"host={config.host}: not an address of this machine ({error.strerror})") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.setblocking(False)
    except OSError as error:
        made.close()
        hint = "; --port 0 takes any that is free" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
        raise MachineError(f"{config.host}:{config.port} cannot be had ({error.strerror}){hint}") from None
    return made


class Server(uvicorn.Server):
    """Models on a socket."""

    def __init__(
        self,
        config: ServeConfig,
        models: Sequence[LanguageModel],
        folders: Sequence[Path],
        token: str | None,
        bound: socket.socket,
        note: Callable[[str], None] = lambda message: None,
    ) -> None:
        check(config, token)
        self.settings, self.metrics, self._bound = config, Metrics(), bound
        self.table = Table(
            [
                Served(name, lm, config, self.metrics, folder, note)
                for name, lm, folder in zip(names(folders), models, folders, strict=True)
            ]
        )
        self.api = Api(self.table, config, self.metrics, static.table())
        open_paths = frozenset({"/health", *self.api.files})
        self.gate = Gate(self.api, config, self.metrics, token, open_paths, self.api.known, note)
        self.api.stopping = lambda: self.gate.stopping
        self.api.connections = lambda: len(self.server_state.connections)
        self.when_ready: Callable[[], None] = lambda: None
        self._asked_to_stop = 0
        self._ends = 0.0
        super().__init__(
            uvicorn.Config(
                self.gate,
                http=bounded(config.head_seconds, config.connections),
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=_HEAD_BYTES,
                backlog=2048,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=int(_LAST_SECONDS),
            )
        )

    @property
    def address(self) -> str:
        """Where it is, for this machine."""
        host, port = self._bound.getsockname()[:2]
        if host in ("0.0.0.0", "::"):
            host = "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def serve_here(self) -> None:
        """Serve in this thread until it is asked to stop."""
        for served in self.table:
            served.engine.start()
        usual = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            asyncio.run(self.serve(sockets=[self._bound]))
        finally:
            sys.setswitchinterval(usual)
            self._end_texts()
            for served in self.table:
                served.engine.join()
            self.api.close()

    def stop(self) -> None:
        """Ask it to stop, from any thread; asked twice it does not wait for what runs."""
        self._asked_to_stop += 1

    # ---- uvicorn's hooks -------------------------------------------------------------------------------------

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.when_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        self.stop()

    async def on_tick(self, counter: int) -> bool:
        if self._asked_to_stop and not self.gate.stopping:
            self.gate.stopping = True
            self._ends = time.monotonic() + self.settings.drain_seconds
        if self.gate.stopping and not self.should_exit:
            if self._asked_to_stop > 1 or time.monotonic() > self._ends:
                self._end_texts()
                await asyncio.sleep(0.1)
                self.should_exit = True
            elif not self.gate.active:
                self.should_exit = True
        return await super().on_tick(counter)

    def _end_texts(self) -> None:
        for served in self.table:
            served.engine.end(Refusal(503, "the server stops", code="server_stops"))


def most_memory(model: ModelConfig, config: ServeConfig) -> int:
    """Bytes that keys and values take when every text fills the context."""
    return (config.slots + config.prefixes) * model.cache_bytes()


@contextlib.contextmanager
def background(
    config: ServeConfig, models: Sequence[LanguageModel], folders: Sequence[Path], token: str | None = None
) -> Iterator[Server]:
    """A server in a thread of this process, for as long as the block lasts."""
    with contextlib.closing(listen(config)) as bound:
        server = Server(config, models, folders, token, bound)
        begun = threading.Event()
        server.when_ready = begun.set
        failed: list[BaseException] = []

        def work() -> None:
            try:
                server.serve_here()
            except BaseException as error:
                failed.append(error)
            finally:
                begun.set()

        thread = threading.Thread(target=work, name="fabula-serve")
        thread.start()
        begun.wait()
        try:
            if failed:
                raise failed[0]
            yield server
        finally:
            server.stop()
            thread.join()


def describe(server: Server) -> dict[str, Any]:
    """What is served, as data."""
    config = server.settings
    return {
        "address": server.address,
        "models": [served.card().model_dump() for served in server.table],
        "limits": {
            "slots": config.slots,
            "queue": config.queue,
            "connections": config.connections,
            "memory_bytes": sum(most_memory(served.model.config, config) for served in server.table),
        },
    }
