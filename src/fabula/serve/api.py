"""What can be asked? A table of routes, each a function from a checked request to an answer or a stream.

Nothing is computed here: texts go to an engine's thread, cutting texts into tokens goes to a few threads of its own,
and the event loop passes on what they say.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

import psutil
from pydantic import BaseModel

from fabula.generate.config import GenerateConfig
from fabula.serve import answers, constraints, evolution, schema
from fabula.serve import metrics as counting
from fabula.serve.answers import DONE, Form
from fabula.serve.config import ServeConfig
from fabula.serve.gate import BODY, Receive, Scope, Send
from fabula.serve.metrics import Metrics
from fabula.serve.models import Served, Table, run_folder
from fabula.serve.reading import read
from fabula.serve.refusal import Refusal
from fabula.serve.sending import Answer, answer, send_stream, send_whole
from fabula.serve.texts import Texts, Written, told

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

# Bodies and texts up to here are read in the event loop: a thread would cost more.
_SMALL = 4096


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its body, the last part of its path, its query, and where its client's leaving is heard."""

    body: bytes
    name: str
    query: dict[str, list[str]]
    receive: Receive


Files = dict[str, tuple[bytes, str]]
Handler = Callable[["Api", Asked], Awaitable[Answer | AsyncGenerator[bytes, None]]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, and what is asked and answered there. `streams` says what the events of a stream are."""

    method: str
    path: str
    handler: Handler
    summary: str
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    kind: str = "application/json"
    streams: str = ""
    always_streams: bool = False


class Api:
    """The routes on a table of models."""

    def __init__(self, table: Table, config: ServeConfig, metrics: Metrics, files: Files) -> None:
        self.table, self.config, self.metrics, self.files = table, config, metrics, files
        self.stopping: Callable[[], bool] = lambda: False
        self.connections: Callable[[], int] = lambda: 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="fabula-texts")
        self._evolution = evolution.Evolution()
        self._process = psutil.Process()
        self._routes = {route.path: route for route in ROUTES}
        self._document = b""

    def close(self) -> None:
        """End the threads of its own."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def known(self, path: str) -> str:
        """The route of a path, for counting: what clients make up is one."""
        if path in self._routes:
            return path
        if path in self.files:
            return "static"
        return _MODEL if path.startswith(_MODELS) else "unknown"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        if path in self.files:
            _allow(method, "GET")
            body, kind = self.files[path]
            # After an upgrade no page may be made of the files of two versions.
            await send_whole(send, Answer(body, kind), (b"cache-control", b"no-cache"))
            return
        route, name = self._routes.get(path), ""
        if route is None and path.startswith(_MODELS):
            route, name = self._routes[_MODEL], path.removeprefix(_MODELS)
        if route is None:
            raise Refusal(404, "nothing is served at this path; see /openapi.json")
        _allow(method, route.method)
        query = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=16) if scope["query_string"] else {}
        made = await route.handler(self, Asked(scope[BODY], name, query, receive))
        if isinstance(made, Answer):
            await send_whole(send, made)
            return
        await send_stream(send, made)

    # ---- parts -----------------------------------------------------------------------------------------------

    async def read(self, asked: Asked, model: type[M]) -> M:
        """The body, checked."""
        if len(asked.body) <= _SMALL:
            return read(asked.body, model)
        return await self._apart(lambda: read(asked.body, model))

    async def _apart(self, work: Callable[[], T]) -> T:
        """Do something that takes more than an instant outside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _whole(self, form: Form, made: Sequence[Written], read_tokens: int, written: int) -> Answer:
        """The answer of finished texts."""
        if written * (1 + (form.top or 0)) <= _SMALL:
            return answer(form.whole(made, read_tokens, written))
        return await self._apart(lambda: answer(form.whole(made, read_tokens, written)))

    async def _ids(self, served: Served, given: str | list[int]) -> list[int]:
        if len(given) <= _SMALL:
            return served.prompt(given)
        return await self._apart(lambda: served.prompt(given))

    # ---- OpenAI's routes -------------------------------------------------------------------------------------

    async def models(self, asked: Asked) -> Answer:
        return answer({"object": "list", "data": [served.card().model_dump() for served in self.table]})

    async def model(self, asked: Asked) -> Answer:
        return answer(self.table.of(asked.name).card().model_dump())

    async def completions(self, asked: Asked) -> Answer | AsyncGenerator[bytes, None]:
        said = await self.read(asked, schema.CompletionRequest)
        served = self.table.of(said.model)
        prompts, n = said.prompts(), said.n or 1
        best = max(n, said.best_of or 1)
        served.engine.check_room(best * len(prompts))
        constraint = await self._apart_if(said.response_format, served)
        requests, read_tokens = [], 0
        for prompt in prompts:
            ids = await self._ids(served, prompt)
            read_tokens += len(ids)
            requests += served.requests(
                said, ids, best, top=said.logprobs or 0, most=said.max_tokens, constraint=constraint
            )
        echoes = [_echo(served, prompt) if said.echo else "" for prompt in prompts]
        form = Form(served, False, said.logprobs, said.usage)
        texts = Texts(served.engine, requests, said.stops(), asked.receive)
        if said.stream:
            await texts.begun()
            return _chunks(form, texts, read_tokens, [echo for echo in echoes for _ in range(n)])
        found = await texts.whole()
        chosen = []
        for place, echo in enumerate(echoes):
            mine = found[place * best : (place + 1) * best]
            if best > n:
                mine = sorted(mine, key=Written.likelihood, reverse=True)[:n]
            chosen += [Written(echo + made.text, made.tokens, made.finish) for made in mine]
        return await self._whole(form, chosen, read_tokens, texts.written)

    async def chat(self, asked: Asked) -> Answer | AsyncGenerator[bytes, None]:
        said = await self.read(asked, schema.ChatRequest)
        served = self.table.of(said.model)
        served.engine.check_room(said.n or 1)
        constraint = await self._apart_if(said.response_format, served)
        messages = [message.plain() for message in said.messages]
        # A template is a program, and may be someone else's.
        ids = await self._apart(lambda: served.conversation(messages))
        top = (said.top_logprobs or 0) if said.logprobs else None
        requests = served.requests(
            said,
            ids,
            said.n or 1,
            top=top or 0,
            chat=True,
            most=said.max_completion_tokens or said.max_tokens,
            constraint=constraint,
        )
        form = Form(served, True, top, said.usage)
        texts = Texts(served.engine, requests, said.stops(), asked.receive)
        if said.stream:
            await texts.begun()
            return _chunks(form, texts, len(ids), [""] * len(requests))
        return await self._whole(form, await texts.whole(), len(ids), texts.written)

    async def _apart_if(self, wanted: schema.ResponseFormat | None, served: Served) -> Any:
        """What the text must be, if anything."""
        if wanted is None or wanted.type == "text":
            return None
        return await self._apart(lambda: constraints.of(wanted, served))

    async def embeddings(self, asked: Asked) -> Answer:
        said = await self.read(asked, schema.EmbeddingRequest)
        served = self.table.of(said.model)
        width = served.model.config.d_model
        if said.dimensions not in (None, width):
            raise Refusal(400, f"dimensions={said.dimensions}: this model's vectors have {width}", param="dimensions")
        data, read_tokens = [], 0
        for index, given in enumerate(said.texts()):
            ids = await self._ids(served, given)
            read_tokens += len(ids)
            vector = await asyncio.wrap_future(served.engine.call(partial(served.embed, ids)))
            told: Any = vector
            if said.encoding_format == "base64":
                told = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
            data.append({"object": "embedding", "index": index, "embedding": told})
        self.metrics.count("fabula_tokens_total", read_tokens, model=served.name, kind="read")
        used = {"prompt_tokens": read_tokens, "total_tokens": read_tokens}
        made = {"object": "list", "model": served.name, "data": data, "usage": used}
        return await self._apart(lambda: answer(made))

    # ---- tokens ----------------------------------------------------------------------------------------------

    async def tokenize(self, asked: Asked) -> Answer:
        said = await self.read(asked, schema.TokenizeRequest)
        served = self.table.of(said.model)

        def cut() -> Answer:
            if said.messages is not None:
                ids = served.conversation([message.plain() for message in said.messages])
            else:
                ids = served.encode(said.text or "")
            pieces = [answers.piece_of_text(served.tokenizer, number) for number in ids]
            about = {"model": served.name, "count": len(ids), "context_length": served.context_length}
            return answer({**about, "tokens": ids, "pieces": pieces})

        return await self._apart(cut)

    async def detokenize(self, asked: Asked) -> Answer:
        said = await self.read(asked, schema.DetokenizeRequest)
        served = self.table.of(said.model)
        size = served.tokenizer.vocab_size
        outside = next((number for number in said.tokens if number >= size), None)
        if outside is not None:
            raise Refusal(400, f"id {outside} is outside the vocabulary of {size:,}", param="tokens")
        return answer({"model": served.name, "text": served.tokenizer.decode(said.tokens)})

    # ---- for the pages ---------------------------------------------------------------------------------------

    async def generate(self, asked: Asked) -> AsyncGenerator[bytes, None]:
        said = await self.read(asked, schema.GenerateRequest)
        served = self.table.of(said.model)
        served.engine.check_room(said.n or 1)
        ids = await self._ids(served, said.prompt)
        top = 5 if said.alternatives is None else said.alternatives
        # Whichever control token comes, the text ends with it: ids that hold one could not be gone on from.
        requests = served.requests(said, ids, said.n or 1, top=top, chat=True, most=said.max_tokens)
        texts = Texts(served.engine, requests, said.stops(), asked.receive)
        await texts.begun()
        return _tokens(served, texts, ids)

    async def checkpoints(self, asked: Asked) -> Answer:
        served = self.table.of(next(iter(asked.query.get("model", [])), None))
        run = _run_of(served)
        told = await self._apart(lambda: evolution.history(run))
        return answer({"model": served.name, **told})

    async def evolution(self, asked: Asked) -> AsyncGenerator[bytes, None]:
        said = await self.read(asked, schema.EvolutionRequest)
        served = self.table.of(said.model)
        run = _run_of(served)
        await self._ids(served, said.prompt)  # one that does not fit is refused before anything is loaded
        settings: dict[str, Any] = {
            "max_new_tokens": said.max_tokens or 64,
            "temperature": 0.7 if said.temperature is None else said.temperature,
            "top_p": 1.0 if said.top_p is None else said.top_p,
            "seed": said.seed or 0,
        }
        try:
            config = GenerateConfig(**settings)
        except ValueError as error:
            raise Refusal(400, str(error)) from None
        return _evolved(await self._evolution.start(run, said.prompt, config, served.lm.device), asked.receive)

    # ---- the server itself -----------------------------------------------------------------------------------

    async def health(self, asked: Asked) -> Answer:
        status = "stopping" if self.stopping() else "ok"
        if not all(served.engine.alive for served in self.table):
            status = "failed"
        return Answer(json.dumps({"status": status}).encode(), status=200 if status == "ok" else 503)

    async def metrics_(self, asked: Asked) -> Answer:
        gauges: list[tuple[str, dict[str, str], float]] = [("fabula_info", {"version": version("fabula")}, 1)]
        for served in self.table:
            gauges.append(("fabula_running", {"model": served.name}, served.engine.running))
            gauges.append(("fabula_waiting", {"model": served.name}, served.engine.waiting))
        gauges.append(("fabula_connections", {}, self.connections()))
        gauges.append(("fabula_resident_bytes", {}, self._process.memory_info().rss))
        return Answer(self.metrics.text(gauges).encode("utf-8"), counting.CONTENT_TYPE)

    async def openapi(self, asked: Asked) -> Answer:
        from fabula.serve import openapi

        if not self._document:
            made = openapi.document(ROUTES)
            self._document = json.dumps(made, ensure_ascii=False, indent=1).encode("utf-8")
        return Answer(self._document)


# ---- streams -----------------------------------------------------------------------------------------------------


async def _chunks(form: Form, texts: Texts, read_tokens: int, echoes: Sequence[str]) -> AsyncGenerator[bytes, None]:
    """OpenAI's chunks; what came at once goes out at once."""
    try:
        said = b"".join(form.begin(index, echo) for index, echo in enumerate(echoes))
        async for changes in texts.changes():
            for index, pieces, writer in changes:
                if writer is not None and writer.finish == "error":
                    said += form.chunk(index, pieces, None) + answers.event(told(writer.error).body())
                else:
                    said += form.chunk(index, pieces, None if writer is None else answers.reason(writer))
            if said:
                yield said
            said = b""
        yield said + form.end(read_tokens, texts.written)
    finally:
        texts.close()


async def _tokens(served: Served, texts: Texts, ids: Sequence[int]) -> AsyncGenerator[bytes, None]:
    """The tokens of texts with what else was likely."""
    try:
        yield answers.event({"kind": "begin", "model": served.name, "prompt_tokens": len(ids)})
        async for changes in texts.changes():
            said = b""
            for index, pieces, writer in changes:
                tokens = answers.unfolded(served, (token for piece in pieces for token in piece.tokens))
                text = "".join(piece.text for piece in pieces)
                if tokens:
                    said += answers.event({"kind": "tokens", "index": index, "text": text, "tokens": tokens})
                if writer is not None and writer.finish == "error":
                    said += answers.event(told(writer.error).body())
                elif writer is not None:
                    about = {"finish_reason": writer.finish, "tokens": writer.written}
                    said += answers.event({"kind": "end", "index": index, **about})
            yield said
        yield DONE
    finally:
        texts.close()


async def _evolved(tale: evolution.Telling, receive: Receive) -> AsyncGenerator[bytes, None]:
    """What an evolution tells."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        tale.leave()

    listening = asyncio.create_task(listen())
    try:
        async for data in tale:
            yield answers.event(data.body() if isinstance(data, Refusal) else data)
        yield DONE
    finally:
        listening.cancel()
        tale.leave()


def _allow(method: str, wanted: str) -> None:
    allowed = ("GET", "HEAD") if wanted == "GET" else (wanted,)
    if method not in allowed:
        raise Refusal(405, f"{method[:20]} is not answered here; use {wanted}", allow=", ".join(allowed), close=True)


def _echo(served: Served, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else served.tokenizer.decode(prompt)


def _run_of(served: Served) -> Path:
    run = run_folder(served.folder)
    if run is None:
        raise Refusal(404, f"{served.name} is no run: it has no checkpoints to compare", code="no_checkpoints")
    return run


_MODELS = "/v1/models/"
_MODEL = "/v1/models/{model}"

ROUTES = (
    Route("GET", "/v1/models", Api.models, "The models that are served", None, schema.ModelList),
    Route("GET", _MODEL, Api.model, "One of them", None, schema.ModelCard),
    Route(
        "POST",
        "/v1/completions",
        Api.completions,
        "Go on with a text",
        schema.CompletionRequest,
        schema.Completion,
        streams="chunks of the same form as the whole answer, then [DONE]",
    ),
    Route(
        "POST",
        "/v1/chat/completions",
        Api.chat,
        "Answer a conversation",
        schema.ChatRequest,
        schema.ChatCompletion,
        streams="chunks whose choices have a delta instead of a message, then [DONE]",
    ),
    Route(
        "POST",
        "/v1/embeddings",
        Api.embeddings,
        "Texts as vectors: the mean of the last hidden states",
        schema.EmbeddingRequest,
        schema.EmbeddingList,
    ),
    Route("POST", "/tokenize", Api.tokenize, "Cut a text into tokens", schema.TokenizeRequest, schema.Tokens),
    Route("POST", "/detokenize", Api.detokenize, "The text of tokens", schema.DetokenizeRequest, schema.Text),
    Route(
        "POST",
        "/fabula/generate",
        Api.generate,
        "Go on with a text, told token by token with what else was likely",
        schema.GenerateRequest,
        streams='events of kind "begin" (prompt_tokens), "tokens" (text, tokens: id, text, bytes, logprob, top) and '
        '"end" (finish_reason, tokens), each with the index of its text, then [DONE]',
        always_streams=True,
    ),
    Route(
        "GET", "/fabula/checkpoints", Api.checkpoints, "What a run saved and how it learnt", None, schema.Checkpoints
    ),
    Route(
        "POST",
        "/fabula/evolution",
        Api.evolution,
        "The same beginning, gone on with by every checkpoint that a run has kept",
        schema.EvolutionRequest,
        streams='events of kind "begin" (checkpoints), "checkpoint" (step, bits_per_byte, name), "text" (step, text, '
        'ids, logprobs, finish_reason) and "failed" (step, message), then [DONE]',
        always_streams=True,
    ),
    Route("GET", "/health", Api.health, "Whether the server takes requests", None, schema.Health),
    Route("GET", "/metrics", Api.metrics_, "Counters for Prometheus", None, None, counting.CONTENT_TYPE),
    Route("GET", "/openapi.json", Api.openapi, "This document", None, None),
)
