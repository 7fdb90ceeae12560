"""The server under load: many streams against one, what HTTP adds to a token, overload, many streams for a long time.

    python benchmarks/serve.py [--streams 32] [--tokens 100] [--overload 20] [--hold 200] [--seconds 60]

The server is a process of its own with random weights (alexandria-9m; the smallest toy for overload and holding), the
client is this one, on the same two cores. Prints tokens a second of one stream and of many, with and without HTTP; of
ten times as many requests as there is room for, how long a refusal took; the server's memory before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

PROMPT = "Había una vez, en el barrio de los alfareros, un conejo"


def served(shape: str, **settings: Any) -> None:
    """The server's process: says its address and, without HTTP, its speed; then serves until it is ended."""
    import torch

    from fabula.corpus.fables import Fables
    from fabula.device import choose, use_threads
    from fabula.language_model import LanguageModel
    from fabula.model.decoder import Decoder
    from fabula.model.presets import presets
    from fabula.serve.config import ServeConfig
    from fabula.serve.run import background
    from fabula.tokenizer.bpe import train_bpe

    torch.manual_seed(0)
    fables = Fables("es", 0)
    tokenizer = train_bpe([fables[i].text for i in range(300)], 1024)
    config = presets.get("alexandria-9m").config
    if shape == "toy":
        from dataclasses import replace

        config = replace(presets.get("fabula-1m").config, n_layers=2, d_model=64, vocab_size=1024, context_length=4096)
    if settings.get("threads"):
        use_threads(settings["threads"])
    lm = LanguageModel(Decoder(config).eval(), tokenizer, choose("cpu"), None)
    with background(ServeConfig(port=0, **settings), [lm], [Path(shape)]) as server:
        table = next(iter(server.table))
        alone: dict[str, float] = {}
        if shape == "9m":
            # In a thread, as the engine's is: torch's own threads belong to the one that asks.
            measuring = threading.Thread(target=lambda: alone.update(inside(table, int(settings["slots"]))))
            measuring.start()
            measuring.join()
        print(json.dumps({"address": server.address, "inside": alone}), flush=True)
        sys.stdin.read()


def inside(table: Any, streams: int) -> dict[str, float]:
    """Tokens a second of the engine's batch, with nothing around it."""
    from fabula.generate.batch import Batch

    def speed(count: int) -> float:
        batch = Batch(table.backend, most=count)
        for request in requests(table, count):
            batch.submit(request)
        batch.step()  # reads
        start, steps = time.perf_counter(), 0
        while batch.step():
            steps += 1
            for handle in batch.running:
                handle.take()
        seconds = time.perf_counter() - start
        batch.close()
        return steps * count / seconds

    speed(1)
    return {"one": statistics.median(speed(1) for _ in range(3)), "many": speed(streams)}


def requests(table: Any, count: int) -> list[Any]:
    from fabula.serve.schema import CompletionRequest

    said = CompletionRequest(**asked(100, 1, table.tokenizer.special.end_of_document))
    return list(table.requests(said, table.prompt(PROMPT), count, most=100))


def asked(tokens: int, seed: int, end: int) -> dict[str, Any]:
    return {"prompt": PROMPT, "max_tokens": tokens, "seed": seed, "logit_bias": {str(end): -100}, "stream": True}


@contextmanager
def server(shape: str, **settings: Any) -> Iterator[tuple[psutil.Process, str, int, dict[str, float]]]:
    """A server's process, its address and what it measured itself."""
    command = [sys.executable, __file__, "--served", shape, "--settings", json.dumps(settings)]
    made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None
    try:
        told = json.loads(made.stdout.readline())
        host, port = told["address"].removeprefix("http://").rsplit(":", 1)
        yield psutil.Process(made.pid), host, int(port), told["inside"]
    finally:
        made.communicate()


class Client:
    """Requests to one server, many at a time."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port, self.end = host, port, 0

    async def once(self, data: dict[str, Any], ends: float = math.inf) -> tuple[int, float, list[float]]:
        """Status, seconds to the first byte, and the moment of each chunk; it leaves when the clock says `ends`."""
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection(self.host, self.port)
        body = json.dumps(data).encode()
        writer.write(
            f"POST /v1/completions HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        status = int((await reader.readline()).split()[1])
        first, moments = time.perf_counter() - start, []
        async for line in reader:
            if line.startswith(b'data: {"id"'):
                moments.append(time.perf_counter())
            if time.monotonic() > ends:
                break
        writer.close()
        return status, first, moments


def chunk_speed(found: Sequence[tuple[int, float, list[float]]], tokens: int) -> float:
    """Tokens a second from the first chunk of all to the last."""
    begin, end = min(m[0] for _, _, m in found), max(m[-1] for _, _, m in found)
    return len(found) * (tokens - 1) / (end - begin)


async def throughput(
    client: Client, process: psutil.Process, streams: int, tokens: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Tokens a second of one stream and of many, and the seconds of the server's processor that a token took."""

    async def some(count: int) -> tuple[float, float]:
        before = sum(process.cpu_times()[:2])
        found = await asyncio.gather(*(client.once(asked(tokens, seed, client.end)) for seed in range(count)))
        assert all(status == 200 for status, _, _ in found)
        took = sum(process.cpu_times()[:2]) - before
        return chunk_speed(found, tokens), took / (count * tokens)

    await some(1)
    return sorted([await some(1) for _ in range(3)])[1], await some(streams)


async def overload(client: Client, at_once: int, seconds: float) -> tuple[list[float], int, int]:
    """Keep so many requests going; seconds of each refusal, texts that were written whole and that were not."""
    refusals, whole, broken, ends = [], 0, 0, time.monotonic() + seconds

    async def one(seed: int) -> None:
        nonlocal whole, broken
        while time.monotonic() < ends:
            status, first, moments = await client.once(asked(50, seed, client.end))
            if status == 429:
                refusals.append(first)
                await asyncio.sleep(0.05)
            elif status == 200 and len(moments) >= 2:
                whole += 1
            else:
                broken += 1

    await asyncio.gather(*(one(seed) for seed in range(at_once)))
    return refusals, whole, broken


async def hold(client: Client, streams: int, seconds: float) -> tuple[int, int, float]:
    """Streams that were written at their end, their tokens, and the longest silence in seconds."""
    ends = time.monotonic() + seconds
    silent = 0.0

    async def one(seed: int) -> int:
        nonlocal silent
        written = 0
        while time.monotonic() < ends:
            status, _, moments = await client.once(asked(2000, seed, client.end), ends)
            assert status == 200, status
            written += len(moments)
            gaps = [b - a for a, b in itertools.pairwise(moments)]
            silent = max([silent, *gaps])
        return written

    found = await asyncio.gather(*(one(seed) for seed in range(streams)))
    return sum(count > 0 for count in found), sum(found), silent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", type=int, default=32, help="0: leave it out")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--overload", type=float, default=20.0, help="seconds; 0: leave it out")
    parser.add_argument("--hold", type=int, default=200, help="streams; 0: leave it out")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--fast", action="store_true", help="not deterministic")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--served", help=argparse.SUPPRESS)
    parser.add_argument("--settings", default="{}", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.served:
        served(given.served, **json.loads(given.settings))
        return
    if given.streams:
        settings = {"slots": given.streams, "queue": 64, "deterministic": not given.fast, "threads": given.threads}
        with server("9m", **settings) as (process, host, port, alone):
            (one, cpu), (many, cpu_many) = asyncio.run(
                throughput(Client(host, port), process, given.streams, given.tokens)
            )
            print(
                f"without HTTP     1 stream {alone['one']:8.1f} tokens/s   {given.streams} streams {alone['many']:8.1f}"
            )
            print(
                f"over HTTP        1 stream {one:8.1f} tokens/s   {given.streams} streams {many:8.1f} "
                f"({many / one:.1f} x)"
            )
            print(f"HTTP adds        {1000 * (1 / one - 1 / alone['one']):.2f} ms to a token of one stream")
            print(
                f"processor        {1000 * cpu:.2f} ms a token of one stream, {1000 * cpu_many:.2f} of "
                f"{given.streams} ({cpu / cpu_many:.1f} x)"
            )
            print(f"memory           {process.memory_info().rss / 1e6:.0f} MB")
    if given.overload:
        with server("toy", slots=4, queue=8, threads=given.threads) as (process, host, port, _):
            asyncio.run(overload(Client(host, port), 12, 2.0))
            before = process.memory_info().rss
            refusals, whole, broken = asyncio.run(overload(Client(host, port), 120, given.overload))
            after, ordered = process.memory_info().rss, sorted(refusals)
            print(
                f"overload 10 x    {len(ordered):,} refused: median {1000 * statistics.median(ordered):.1f} ms, p99 "
                f"{1000 * ordered[int(0.99 * len(ordered))]:.1f} ms; {whole:,} whole, {broken:,} broken; "
                f"memory {before / 1e6:.0f} -> {after / 1e6:.0f} MB"
            )
    if given.hold:
        with server("toy", slots=given.hold, queue=0, threads=given.threads) as (process, host, port, _):
            going, tokens, silent = asyncio.run(hold(Client(host, port), given.hold, given.seconds))
            print(
                f"held             {going} of {given.hold} streams for {given.seconds:.0f} s, {tokens:,} chunks, the "
                f"longest silence {silent:.2f} s, memory {process.memory_info().rss / 1e6:.0f} MB"
            )


if __name__ == "__main__":
    main()
