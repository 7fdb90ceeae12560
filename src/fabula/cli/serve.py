"""The verb `serve`: models behind HTTP until a signal comes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from fabula.cli import console
from fabula.cli.models import Device, Model, Which
from fabula.cli.recipes import Json
from fabula.errors import InputError, require_extra

if TYPE_CHECKING:
    from fabula.serve.run import Server

TOKEN = "FABULA_TOKEN"
_MOST_TOKEN = 4096


def serve(
    model: Model,
    /,
    *,
    also: Annotated[
        tuple[Path, ...],
        Parameter(negative=(), help="a further model; may be repeated"),
    ] = (),
    host: Annotated[str, Parameter(help="address; one that others can reach needs a token")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="0: any that is free")] = 8080,
    token_file: Annotated[
        Path | None, Parameter(help=f"a file with the token that requests must carry; or the variable {TOKEN}")
    ] = None,
    allow_host: Annotated[
        tuple[str, ...],
        Parameter(negative=(), help="a further name by which the server is called; may be repeated"),
    ] = (),
    slots: Annotated[int, Parameter(help="texts that are written at the same time, a model")] = 32,
    queue: Annotated[int, Parameter(help="texts that may wait, a model; further ones are refused with 429")] = 64,
    prefixes: Annotated[int, Parameter(help="ended texts whose memory is kept for others that begin alike")] = 8,
    threads: Annotated[int, Parameter(help="threads of a model's computations; 0: as many as torch takes")] = 0,
    deterministic: Annotated[
        bool, Parameter(negative="--fast", help="texts do not depend on each other, to the last bit; --fast: they may")
    ] = True,
    weights: Annotated[str, Parameter(help="with --fast: float32, or int8 (faster, less exact)")] = "float32",
    connections: Annotated[int, Parameter(help="open connections")] = 1024,
    stall_seconds: Annotated[float, Parameter(help="a reader that takes nothing for so long is dropped")] = 30.0,
    drain_seconds: Annotated[float, Parameter(help="time for what runs when the server is to stop")] = 30.0,
    checkpoint: Which = "best",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Serve models over HTTP, with OpenAI's routes and pages of its own, until Ctrl-C or SIGTERM.

    Only this machine can reach it unless an address is given; then a token is required. /openapi.json has every route.
    """
    from fabula.config import build
    from fabula.serve.config import ServeConfig

    config = build(
        ServeConfig,
        {
            "host": host,
            "port": port,
            "allow_host": list(allow_host),
            "slots": slots,
            "queue": queue,
            "prefixes": prefixes,
            "threads": threads,
            "deterministic": deterministic,
            "weights": weights,
            "connections": connections,
            "stall_seconds": stall_seconds,
            "drain_seconds": drain_seconds,
        },
    )
    token = _token(token_file)
    try:
        from fabula.serve import run as stage
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "pydantic"):
            raise
        raise require_extra(error.name, "serve", "serving") from None

    def ready(server: Server) -> None:
        data = stage.describe(server)
        if json:
            console.out_json(data)
            return
        rows = [("address", data["address"] + (" (with a token)" if token else ""))]
        for card in data["models"]:
            made = f"{card['parameters']:,} parameters, context {card['context_length']:,}, {card['checkpoint'] or '-'}"
            rows.append(("model", f"{card['id']}: {made}"))
        limits = data["limits"]
        rows.append(("limits", f"{limits['slots']} texts at a time, {limits['queue']} wait, then 429"))
        most = console.n_bytes(limits["memory_bytes"])
        rows.append(("memory", f"at most {most} beside the weights, when every text fills its context (--slots)"))
        rows.append(("stop", "Ctrl-C; once more, without waiting for what runs"))
        console.out(console.table(rows))

    stage.run(
        config,
        [model, *also],
        checkpoint=checkpoint,
        device=device,
        token=token,
        note=console.say,
        ready=ready,
    )


def _token(file: Path | None) -> str | None:
    """The token of a file or the environment: on a command line every user of the machine could read it."""
    if file is None:
        return os.environ.get(TOKEN) or None
    try:
        with file.open("rb") as opened:
            raw = opened.read(_MOST_TOKEN)
    except OSError as error:
        raise InputError(f"{file}: the token cannot be read ({error.strerror})") from None
    return raw.decode("utf-8", "replace").strip()
