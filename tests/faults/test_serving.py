"""Rows S1 to S16: what comes from the network cannot stop, swell or mislead the server."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests import serving, tiny
from tests.serving import JSON, Asking, head, until

if TYPE_CHECKING:
    from fabula.language_model import LanguageModel

WRITE = "/v1/completions"
TALK = "/v1/chat/completions"
# A text that lasts: it never ends by itself.
LONG = {"prompt": "El", "max_tokens": 2000, "logit_bias": {"0": -100}, "seed": 1}


@pytest.fixture(scope="module")
def small(toy: LanguageModel) -> Iterator[Asking]:
    """A server with room for four texts, and with little patience."""
    with serving.serving(toy, slots=2, queue=2, head_seconds=1.0, body_seconds=1.0, stall_seconds=1.0) as made:
        yield made


@pytest.fixture
def endless(toy: LanguageModel) -> dict[str, Any]:
    """A text that lasts."""
    end = toy.tokenizer.special.end_of_document
    return {**LONG, "logit_bias": {str(end): -100}}


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


# ---- S1 ----------------------------------------------------------------------------------------------------------

_VALUES = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 5000, b"true", b"[]", b"{}", b'""', b'"1"', b"[[1]]",
    b"-1", b"0.5", b"null,", b'"\\ud800"', b"'x'", b"01", b"+1", b".5", b'{"a":{"a":1,"a":2}}', b"[null]", b"\xff",
)  # fmt: skip
_KEYS = ("max_tokens", "temperature", "n", "seed", "stop", "logit_bias", "top_k", "stream", "logprobs", "best_of")
_WHOLE = (
    b"", b" ", b"null", b"1", b'"x"', b"[]", b"{", b"}", b"{}{}", b'{"prompt"}', b'{"prompt":}', b'{"prompt":"x",}',
    b'{"prompt":"x" "n":1}', b"{'prompt':'x'}", b'\xef\xbb\xbf{"prompt":"x"}', b'{"prompt":"\xc3"}', b"\x00",
    b'{"prompt":"x","prompt":"y"}', b'{"prompt":["x"],"n":1,"n":1}', b'{"promt":"x"}', b'{"prompt":"x","Prompt":1}',
    b'{"prompt":"x","model":"../toy"}', b'{"prompt":"x","__class__":1}', b'{"prompt":"x","chat_template":"{{1}}"}',
    b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"prompt":[[[[1]]]]}', b"prompt=x", b"\x1f\x8b\x08\x00",
)  # fmt: skip


def bad_bodies() -> Iterator[bytes]:
    """Bodies that are wrong in one way each."""
    yield from _WHOLE
    for key in _KEYS:
        for value in _VALUES:
            yield b'{"prompt":"x","max_tokens":1,"' + key.encode() + b'":' + value + b"}"


def mutated(body: bytes, random: random.Random) -> bytes:
    made = bytearray(body)
    for _ in range(random.randrange(1, 6)):
        place = random.randrange(len(made) + 1)
        match random.randrange(4):
            case 0:
                made[place : place + random.randrange(1, 4)] = b""
            case 1:
                made[place:place] = random.choice(_VALUES)
            case 2:
                made[place:place] = bytes([random.randrange(256)])
            case _:
                made[place:place] = random.choice((b"{", b"[", b'"', b",", b":", b"\\", b"}", b"]"))
    return bytes(made)


@pytest.mark.row("S1", cases=259, nightly=20_000)
def test_bodies_that_are_none(asking: Asking, cases: int) -> None:
    bodies = list(bad_bodies())
    assert len(bodies) == 259
    good = json.dumps({"prompt": "x", "max_tokens": 1, "n": 1, "stop": ["a"], "logit_bias": {"5": 1.5}, "seed": 3})
    drawn = random.Random(1)
    for number in range(cases):
        sure = number < len(bodies)
        body = bodies[number] if sure else mutated(good.encode(), drawn)
        found = asking.post(WRITE, body)
        assert found.status in ((400, 404) if sure and not _harmless(body) else (200, 400, 404)), (
            body[:200],
            found.body,
        )
        if found.status != 200:
            assert found.error["type"] == "invalid_request_error"
    assert asking.get("/health").status == 200


def _harmless(body: bytes) -> bool:
    """What looks wrong and is not: a stream, a choice of none, one choice, an empty list or table, a lone surrogate."""
    doubled = b'"max_tokens":1,"max_tokens"' in body
    fine = (
        b'"seed":-1}', b'"stream":true}', b'"temperature":0.5}', b'"stop":[]}', b'"stop":"1"}', b'"logit_bias":{}}',
        b'"stop":"\\ud800"}', b'"stop":[]',
    )  # fmt: skip
    return not doubled and body.endswith(fine)


@pytest.mark.row("S1", cases=60)
def test_no_route_knows_bodies_that_are_none(asking: Asking, cases: int) -> None:
    from fabula.serve.api import ROUTES

    paths = [route.path for route in ROUTES if route.method == "POST"]
    bodies = [b"", b"[]", b"null", b'{"a":NaN}', b'{"a":1,"a":1}', b'{"x":1e999}', b"{", b'{"unknown":1}']
    asked = [(path, body) for path in paths for body in bodies]
    for path, body in asked[:cases]:
        found = asking.post(path, body)
        assert (found.status, found.error["type"]) == (400, "invalid_request_error"), (path, body)


# ---- S2 ----------------------------------------------------------------------------------------------------------


def answers(raw: bytes, *statuses: int) -> bool:
    """Whether the first answer in these bytes has one of the statuses, and, if any, OpenAI's form of an error."""
    status = int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/1.1 ") else 0
    return status in statuses and "error" in json.loads(raw.partition(b"\r\n\r\n")[2])


def _drip(part: bytes, seconds: float) -> Callable[[socket.socket], None]:
    def more(made: socket.socket) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            made.sendall(part)
            time.sleep(0.05)

    return more


@pytest.mark.row("S2", cases=30)
def test_clients_that_send_too_much_or_too_slowly(small: Asking, cases: int) -> None:
    port, long = small.port, "x" * 100
    mega = json.dumps({"prompt": "x" * (1 << 20)}).encode()
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    chunked = head("POST", WRITE, port, **JSON, Transfer_Encoding="chunked")
    sent: list[tuple[bytes, Callable[[socket.socket], None] | None, tuple[int, ...]]] = []
    sent += [(head("POST", WRITE, port, **JSON, Content_Length=str(len(mega))) + mega, None, (413,))] * 5
    sent += [(head("POST", WRITE, port, **JSON, Content_Length=str(1 << 40)), None, (413,))] * 3
    sent += [(chunked + chunk * 20 + b"0\r\n\r\n", None, (413,))] * 4
    sent += [(chunked + chunk, _drip(chunk, 3), (413, 408))] * 2
    sent += [(head("GET", "/health", port, **{f"X-{i}": long for i in range(200)}), None, (431,))] * 4
    sent += [(head("GET", "/health", port, X="y" * 200_000), None, (431,))] * 3
    sent += [(b"GET /health HTTP/1.1\r\nX: ", _drip(b"y", 3), (408,))] * 2
    sent += [(head("POST", WRITE, port, **JSON, Content_Length="100") + b"{", _drip(b" ", 3), (408,))] * 2
    sent += [(head("POST", WRITE, port, **JSON, Content_Length="100"), None, (408,))] * 2
    sent += [(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10, None, (400,))] * 2
    sent += [(b"GET /health\r\n\r\n", None, (400,))]
    assert len(sent) == cases
    before = resident()
    with ThreadPoolExecutor(8) as threads:
        heard = list(threads.map(lambda s: small.raw(s[0], s[1]), sent))
    for (data, _, statuses), raw in zip(sent, heard, strict=True):
        assert answers(raw, *statuses), (data[:80], raw[:200])
    assert small.get("/health").status == 200
    assert resident() - before < 20 << 20


@pytest.mark.row("S2", cases=200)
def test_idle_connections_end_and_do_not_stand_in_the_way(small: Asking, cases: int) -> None:
    before = resident()
    idle = [socket.create_connection((small.host, small.port), timeout=60) for _ in range(cases)]
    assert small.complete(max_tokens=2)["finish_reason"] == "length"
    assert resident() - before < 20 << 20
    for made in idle:
        with made:
            assert answers(serving.everything(made), 408)


# ---- S3 ----------------------------------------------------------------------------------------------------------

_OUT_OF_RANGE: dict[str, list[Any]] = {
    "n": [0, -1, 17, 10**6, 10**30, 1.5, "2"],
    "best_of": [0, -1, 17, 10**6],
    "max_tokens": [0, -1, 10**9, 10**30, 1.0],
    "temperature": [-0.1, 2.1, 1e308, "0", True],
    "top_p": [0, -0.1, 1.1],
    "top_k": [-1, 1 << 40, 1.5],
    "min_p": [-0.1, 1.1],
    "typical_p": [0, 1.5],
    "repetition_penalty": [0, -1, 11],
    "presence_penalty": [-2.1, 2.1, 1e300],
    "frequency_penalty": [-2.1, 2.1],
    "no_repeat_ngram": [-1, 65],
    "logprobs": [-1, 21, 10**6, True],
    "seed": [1 << 63, -(1 << 63) - 1, 1.5, 10**100],
    "stop": ["", [""], ["x"] * 17, "x" * 201, ["x" * 201], [1], 5],
    "logit_bias": [{"x": 1}, {"-1": 1}, {"5": 101}, {"5": -101}, {"5": "1"}, {"320": 1}, {"999999999": 1}, {"1.0": 1}],
    "prompt": [[], [[]], ["x"] * 17, [-1], [320], [1 << 40], [1.5], [True], [["x"]], [1], None, {}],
    "stream_options": [{}, {"include_usage": True}, {"include": 1}],
    "echo": [1, "yes"],
    "user": ["x" * 513],
    "model": ["", "x" * 201, 5],
    "response_format": [{}, {"type": "x"}, {"type": "json_schema"}, {"type": "text", "json_schema": {}}, "text"],
}


@pytest.mark.row("S3", cases=90)
def test_settings_out_of_range(asking: Asking, cases: int) -> None:
    asked = [(key, value) for key, values in _OUT_OF_RANGE.items() for value in values]
    assert len(asked) == cases
    for key, value in asked:
        found = asking.post(WRITE, {"prompt": "x", "max_tokens": 1, key: value})
        assert found.status == 400, (key, value, found.body)
        assert key in found.error["message"] + str(found.error["param"]) or key == "prompt", found.body


@pytest.mark.row("S3", cases=4)
def test_settings_that_contradict_each_other(asking: Asking, cases: int) -> None:
    talk = {"messages": [{"role": "user", "content": "x"}]}
    for path, data in (
        (WRITE, {"prompt": ["x"] * 9, "n": 2}),
        (WRITE, {"prompt": "x", "n": 3, "best_of": 2}),
        (TALK, {**talk, "top_logprobs": 3}),
        (TALK, {**talk, "max_tokens": 3, "max_completion_tokens": 3}),
    ):
        assert asking.post(path, data).status == 400, data


@pytest.mark.row("S3", cases=6)
def test_temperature_0_is_greedy_whatever_else_is_set(asking: Asking, cases: int) -> None:
    settings = [{}, {"seed": 7}, {"top_p": 0.1}, {"top_k": 50}, {"min_p": 1.0}, {"typical_p": 0.5}]
    assert len({asking.complete(max_tokens=12, temperature=0, **s)["text"] for s in settings}) == 1


# ---- S4 ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("S4", cases=20)
def test_prompts_around_the_context(asking: Asking, cases: int) -> None:
    context, letter = serving.CONTEXT, asking.post("/tokenize", {"text": "z"}).data["tokens"]
    for extra in (-9, -3, -2, -1, 0, 1, 2, 100, 3000, 30_000):
        ids = letter * (context - 1 + extra)  # one more is put before them
        for most in (1, 50):
            found = asking.post(WRITE, {"prompt": ids, "max_tokens": most, "temperature": 0, "logit_bias": {"0": -100}})
            if extra > 0:
                assert found.status == 400
                assert found.error["code"] == "context_length_exceeded"
                assert f"{context + extra:,} tokens" in found.error["message"]
                assert f"holds {context:,}" in found.error["message"]
                continue
            # The last id that is chosen needs no place of its own.
            room = 1 - extra
            assert found.data["choices"][0]["finish_reason"] == "length"
            assert found.data["usage"] == {
                "prompt_tokens": context + extra,
                "completion_tokens": min(most, room),
                "total_tokens": context + extra + min(most, room),
            }


# ---- S5 ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("S5", cases=40, nightly=4000)
def test_ten_times_as_many_as_there_is_room_for(small: Asking, cases: int) -> None:
    request = {"prompt": "El", "max_tokens": 30, "logit_bias": {"0": -100}, "seed": 1}
    alone = small.complete(**request)["text"]
    small.quiet()
    before = resident()
    with ThreadPoolExecutor(40) as threads:
        found = list(threads.map(lambda _: small.post(WRITE, request), range(cases)))
    refused = [f for f in found if f.status == 429]
    assert {f.status for f in found} == {200, 429}
    for heard in refused:
        assert heard.error["code"] == "queue_full"
        assert int(heard.headers["retry-after"]) >= 1
    assert all(f.data["choices"][0]["text"] == alone for f in found if f.status == 200)
    assert resident() - before < 20 << 20
    small.quiet()


@pytest.mark.row("S5", cases=1)
def test_health_answers_while_the_queue_is_full(small: Asking, endless: dict[str, Any], cases: int) -> None:
    with small.stream(WRITE, {**endless, "n": 4}) as (_, events):
        next(events)
        assert small.post(WRITE, endless).status == 429
        assert small.get("/health").status == 200
        text = small.get("/metrics").body.decode()
        assert 'fabula_running{model="toy"} 2' in text
        assert 'fabula_waiting{model="toy"} 2' in text
    small.quiet()


# ---- S6 ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("S6", cases=24, nightly=500)
def test_clients_that_leave(asking: Asking, endless: dict[str, Any], cases: int) -> None:
    drawn, metrics = random.Random(2), asking.server.metrics
    asking.quiet()
    descriptors, before = psutil.Process().num_fds(), metrics.value("fabula_texts_total", reason="cancelled")
    for number in range(cases):
        data = {**endless, "n": drawn.randrange(1, 4)}
        if number % 2:
            with asking.stream(WRITE, data) as (_, events):
                for _ in range(drawn.randrange(1, 20)):
                    next(events)
        else:
            body = json.dumps(data).encode()
            with socket.create_connection((asking.host, asking.port)) as made:
                made.sendall(head("POST", WRITE, asking.port, **JSON, Content_Length=str(len(body))) + body)
                time.sleep(drawn.random() * 0.02)
        asking.quiet()
    assert metrics.value("fabula_texts_total", reason="cancelled") >= before + cases // 2
    until(lambda: psutil.Process().num_fds() <= descriptors)


# ---- S7 ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("S7", cases=2)
def test_readers_that_take_nothing(small: Asking, endless: dict[str, Any], cases: int) -> None:
    from fabula.serve.scheduler import MOST_UNREAD

    engine, metrics = next(iter(small.server.table)).engine, small.server.metrics
    dropped = metrics.value("fabula_streams_dropped_total")
    data = {**endless, "logprobs": 20}
    with small.stream(WRITE, data, receive_buffer=4096) as (_, first):
        next(first)
        # Beside it others are written from beginning to end.
        assert len({small.complete(max_tokens=20, seed=1)["text"] for _ in range(8)}) == 1
        until(lambda: metrics.value("fabula_streams_dropped_total") == dropped + 1)
        assert all(len(writer._pieces) <= MOST_UNREAD for writer in engine._active)
    small.quiet()
    with small.stream(WRITE, {**data, "n": 2}, receive_buffer=4096):
        until(lambda: metrics.value("fabula_streams_dropped_total") == dropped + 2)
    small.quiet()


@pytest.mark.row("S7", cases=1)
def test_a_reader_that_is_behind_loses_nothing(asking: Asking, endless: dict[str, Any], cases: int) -> None:
    data = {**endless, "max_tokens": 300, "logprobs": 20}
    whole = asking.post(WRITE, data).data["choices"][0]["text"]
    with asking.stream(WRITE, data, receive_buffer=4096) as (_, events):
        text = ""
        for number, event in enumerate(events):
            text += event["choices"][0]["text"]
            if number in (3, 30):
                time.sleep(0.3)  # meanwhile the text pauses
    assert text == whole


# ---- S8 ----------------------------------------------------------------------------------------------------------


def settings_drawn(drawn: random.Random) -> dict[str, Any]:
    return {
        "prompt": drawn.choice(["", "El", "Había una vez", "z" * drawn.randrange(1, 600)]),
        "max_tokens": drawn.randrange(1, 40),
        "temperature": drawn.choice([0, 0.3, 1.0, 1.9]),
        "top_k": drawn.choice([0, 1, 20]),
        "top_p": drawn.choice([1.0, 0.9]),
        "min_p": drawn.choice([0.0, 0.05]),
        "repetition_penalty": drawn.choice([1.0, 1.3]),
        "seed": drawn.randrange(1 << 62),
        "stop": drawn.choice([None, ["a"], ["on", "zz"]]),
        "logprobs": 1,
    }


@pytest.mark.row("S8", cases=32, nightly=2000)
def test_a_request_does_not_change_when_others_come(asking: Asking, cases: int) -> None:
    drawn = random.Random(3)
    asked = [settings_drawn(drawn) for _ in range(cases)]
    with ThreadPoolExecutor(32) as threads:
        together = list(threads.map(lambda s: asking.complete(**s), asked))
    for settings, made in zip(asked, together, strict=True):
        assert asking.complete(**settings) == made, settings


# ---- S9 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def says(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], None]:
    """Make the model write these ids, then end."""
    from fabula.serve.models import Served

    usual, end = Served.requests, next(iter(asking.server.table)).tokenizer.special.end_of_document

    def speak(ids: list[int]) -> None:
        def forced(self: Served, *arguments: Any, **settings: Any) -> Any:
            made = usual(self, *arguments, **settings)
            return [dataclasses.replace(r, forced=(*ids, end), max_new_tokens=len(ids) + 1) for r in made]

        monkeypatch.setattr(Served, "requests", forced)

    return speak


@pytest.mark.row("S9", cases=50, nightly=500)
def test_characters_over_several_tokens(
    asking: Asking, says: Callable[[list[int]], None], tiny_texts: list[str], cases: int
) -> None:
    drawn, tokenizer = random.Random(4), next(iter(asking.server.table)).tokenizer
    letters = "aé\u0301ñ漢字🦊👩\u200d👩\u200d👧\x00\n 한글ıÅ𝔘\ufffd\U0010ffff"
    texts = ["".join(drawn.choices(letters, k=drawn.randrange(1, 30))) for _ in range(cases - 10)] + tiny_texts[:10]
    for text in texts:
        says(tokenizer.encode(text[:40]))
        heard = [event["choices"][0] for event in asking.streamed(WRITE, {"prompt": "x"})]
        assert "".join(choice["text"] for choice in heard) == text[:40]
        assert heard[-1]["finish_reason"] == "stop"
        if "\ufffd" not in text:
            assert all("\ufffd" not in choice["text"] for choice in heard)


@pytest.mark.row("S9", cases=40, nightly=500)
def test_bytes_that_are_no_characters(asking: Asking, says: Callable[[list[int]], None], cases: int) -> None:
    drawn, tokenizer = random.Random(5), next(iter(asking.server.table)).tokenizer
    for _ in range(cases):
        ids = [drawn.choice(sorted(set(range(tokenizer.vocab_size)) - tokenizer.controls)) for _ in range(12)]
        says(ids)
        heard = "".join(event["choices"][0]["text"] for event in asking.streamed(WRITE, {"prompt": "x"}))
        assert heard == tokenizer.decode(ids)


@pytest.mark.row("S9", cases=24, nightly=500)
def test_stops_over_several_tokens(asking: Asking, says: Callable[[list[int]], None], cases: int) -> None:
    drawn, tokenizer = random.Random(6), next(iter(asking.server.table)).tokenizer
    for _ in range(cases):
        before, stop = "".join(drawn.choices("abñ🦊", k=9)), "".join(drawn.choices("xy漢🦊", k=drawn.randrange(2, 6)))
        text = before + stop + "after"
        says([number for letter in text for number in tokenizer.encode(letter)])
        heard = [event["choices"][0] for event in asking.streamed(WRITE, {"prompt": "x", "stop": [stop, "never"]})]
        assert "".join(choice["text"] for choice in heard) == text[: text.index(stop)]
        assert heard[-1]["finish_reason"] == "stop"
        # Where the stop does not come to its end, nothing is held back.
        says(tokenizer.encode(before + stop[:-1]))
        heard = [event["choices"][0] for event in asking.streamed(WRITE, {"prompt": "x", "stop": stop})]
        said = (before + stop[:-1]).partition(stop)[0]
        assert "".join(choice["text"] for choice in heard) == said


# ---- S10 ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisoned(toy: LanguageModel) -> Iterator[Asking]:
    """A server whose model is ill where it reads a tilde."""
    import torch

    lm = copy.copy(toy)
    lm.model = copy.deepcopy(toy.model)
    with torch.no_grad():
        lm.model.embedding.weight[toy.tokenizer.encode("~")] = float("nan")
    with serving.serving(lm, slots=8) as made:
        yield made


@pytest.mark.row("S10", cases=20)
def test_numbers_that_are_none_meet_one_request(poisoned: Asking, cases: int) -> None:
    good = {"prompt": "El", "max_tokens": 30, "seed": 1, "logit_bias": {str(_tilde(poisoned)): -100}}
    alone = poisoned.complete(**good)
    with ThreadPoolExecutor(10) as threads:
        others = [threads.submit(poisoned.complete, **good) for _ in range(cases)]
        for number in range(cases):
            path = WRITE if number % 2 else "/v1/embeddings"
            found = poisoned.post(path, {"prompt" if number % 2 else "input": "El ~"})
            assert found.status == 500
            assert found.error["type"] == "server_error"
        assert all(other.result() == alone for other in others)


@pytest.mark.row("S10", cases=2)
def test_numbers_that_are_none_in_the_middle_of_a_stream(poisoned: Asking, cases: int) -> None:
    tilde = _tilde(poisoned)
    for stream in (True, False):
        data = {"prompt": "El", "max_tokens": 30, "temperature": 0, "logit_bias": {str(tilde): 100}}
        if stream:
            *heard, last = poisoned.streamed(WRITE, data)
            assert heard[0]["choices"][0]["text"] == "~"
            assert last["error"]["code"] == "diverged"
        else:
            assert poisoned.post(WRITE, data).error["code"] == "diverged"


def _tilde(asking: Asking) -> int:
    return int(asking.post("/tokenize", {"text": "~"}).data["tokens"][0])


@pytest.mark.row("S10", cases=3)
def test_a_fault_of_ours_ends_what_it_meets_and_no_more(
    poisoned: Asking, endless: dict[str, Any], monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    good = {"prompt": "El", "max_tokens": 5, "seed": 1}
    alone, engine = poisoned.complete(**good), next(iter(poisoned.server.table)).engine
    for _ in range(cases):
        with poisoned.stream(WRITE, endless) as (_, events):
            next(events)

            def broken(*_: Any) -> Any:
                raise ZeroDivisionError("made by a test")

            monkeypatch.setattr(engine._batch, "_read", broken)
            *_, last = events
            assert last["error"]["type"] == "server_error"
            assert "made by a test" not in last["error"]["message"]
        assert poisoned.complete(**good) == alone
    assert poisoned.get("/health").status == 200


# ---- S11 ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("S11", cases=3, nightly=20)
def test_a_server_that_is_asked_to_stop_lets_what_runs_finish(
    toy: LanguageModel, endless: dict[str, Any], cases: int
) -> None:
    for number in range(cases):
        data = {**endless, "max_tokens": 1200 if number % 2 else 2000}
        with (
            serving.serving(toy, drain_seconds=30.0 if number % 2 else 0.6) as asking,
            asking.stream(WRITE, data) as (
                _,
                events,
            ),
        ):
            next(events)
            asking.server.stop()
            until(lambda: asking.server.gate.stopping)
            refused = asking.post(WRITE, {"prompt": "x"})
            assert refused.status == 503
            assert "retry-after" in refused.headers
            assert asking.get("/health").status == 503
            *_, last = events
            if number % 2:
                assert last["choices"][0]["finish_reason"] == "length"
            else:
                assert last["error"]["code"] == "server_stops"


@pytest.mark.row("S11", cases=1, nightly=20)
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_sigterm_ends_the_command_with_0(tiny_run: Path, cases: int) -> None:
    for _ in range(cases):
        made = subprocess.Popen(
            tiny.command("serve", tiny_run, "--port", "0", "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=tiny.environment(),
            text=True,
        )
        try:
            assert made.stdout is not None
            said = ""
            while not said.rstrip().endswith("\n}"):
                line = made.stdout.readline()
                assert line, made.communicate()[1]
                said += line
            told = json.loads(said)
            assert [card["id"] for card in told["models"]] == ["tiny"]
            port = int(told["address"].rpartition(":")[2])
            body = b'{"prompt": "El", "max_tokens": 20, "stream": true}'
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(head("POST", WRITE, port, **JSON, Content_Length=str(len(body))) + body)
                first = client.recv(100)
                made.send_signal(signal.SIGTERM)
                heard = first + serving.everything(client)
            assert b"[DONE]" in heard
            out, err = made.communicate(timeout=60)
            assert (made.returncode, out, err) == (0, "", "")
        finally:
            made.kill()
            made.communicate()


# ---- S12 ---------------------------------------------------------------------------------------------------------

TOKEN = "a-token-for-the-tests-0123456789"


@pytest.mark.row("S12", cases=120)
def test_every_route_needs_the_token(toy: LanguageModel, cases: int) -> None:
    from fabula.serve.api import ROUTES

    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"X-Api-Key": TOKEN},
        {"Authorization": "Bearer \xe9\xff"},
    ]
    asked = 0
    with serving.serving(toy, token=TOKEN) as asking:
        for route in ROUTES:
            path = route.path.replace("{model}", "toy")
            if path == "/health":
                continue
            for headers in wrong:
                found = asking.send(route.method, path, b"{}" if route.method == "POST" else None, {**JSON, **headers})
                assert (found.status, found.headers["www-authenticate"]) == (401, "Bearer"), (path, headers)
                asked += 1
            found = asking.send(route.method, path, b"{}", {**JSON, "Authorization": f"Bearer {TOKEN}"})
            assert found.status in (200, 400, 404), (path, found.body)
        assert asked == cases
        assert asking.send("GET", f"/nothing?token={TOKEN}").status == 401
        assert asking.get("/health").status == 200
        for path in asking.server.api.files:
            assert asking.get(path).status == 200


@pytest.mark.row("S12", cases=7)
def test_no_open_address_without_a_token(cases: int) -> None:
    from fabula.errors import InputError
    from fabula.serve.config import ServeConfig
    from fabula.serve.run import check

    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org"):
        with pytest.raises(InputError, match="token is needed"):
            check(ServeConfig(host=host), None)
        check(ServeConfig(host=host), TOKEN)
    for token in ("", "short", "with a blank in it and long enough"):
        with pytest.raises(InputError, match="at least 16"):
            check(ServeConfig(), token)


# ---- S13 ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("S13", cases=25)
def test_other_pages_and_names(asking: Asking, cases: int) -> None:
    own, port = f"127.0.0.1:{asking.port}", asking.port
    refused: list[dict[str, str]] = [
        *({"Host": host} for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::2]", "")),
        *({"Host": host} for host in ("0.0.0.0", "192.0.2.7", "localhost.", "127.0.0.1@evil.example", "[", "a:b:c")),
        *({"Origin": origin} for origin in ("http://evil.example", "null", "file://", f"https://evil.example:{port}")),
        *(
            {"Origin": origin}
            for origin in (f"http://127.0.0.1:{port + 1}", f"http://localhost:{port}", "http://[", "x")
        ),
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": own, "Origin": f"http://{own}.evil.example"},
    ]
    plain = [{"Content-Type": kind} for kind in ("text/plain", "application/x-www-form-urlencoded", "")]
    assert len(refused) + len(plain) == cases
    body = b'{"prompt": "x", "max_tokens": 1}'
    for headers in refused:
        for method, path in (("POST", WRITE), ("GET", "/v1/models"), ("GET", "/health")):
            found = asking.send(method, path, body if method == "POST" else None, {**JSON, **headers})
            assert found.status == 403, (path, headers, found.body)
    for headers in plain:
        assert asking.send("POST", WRITE, body, headers).status == 415
    for headers in ({}, {"Host": f"localhost:{port}"}, {"Host": own, "Origin": f"http://{own}"}, {"Host": "[::1]"}):
        found = asking.send("POST", WRITE, body, {**JSON, **headers})
        assert found.status == 200
        assert not [name for name in found.headers if name.startswith("access-control")]
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert asking.send("OPTIONS", WRITE, headers=asked).status == 403
    assert asking.send("OPTIONS", WRITE).status == 405


@pytest.mark.row("S13", cases=5)
def test_a_server_on_every_address_may_be_called_by_any_of_them_and_by_no_name(cases: int) -> None:
    from fabula.serve.config import ServeConfig
    from fabula.serve.gate import Gate
    from fabula.serve.metrics import Metrics

    async def app(*_: Any) -> None:
        raise AssertionError("it came through")

    config = ServeConfig(host="0.0.0.0", allow_host=("models.example",), body_seconds=0.1)
    gate = Gate(app, config, Metrics(), TOKEN, frozenset(), lambda path: path, print)

    def status(host: str) -> int:
        heard: list[Any] = []

        async def send(message: Any) -> None:
            heard.append(message)

        scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [(b"host", host.encode())]}
        asyncio.run(gate(scope, send, send))  # type: ignore[arg-type]
        return int(heard[0]["status"])

    for host in ("192.0.2.7:80", "[2001:db8::7]:80", "models.example"):
        assert status(host) == 401  # past the names, up to the token
    for host in ("evil.example", "192.0.2.7.evil.example"):
        assert status(host) == 403


# ---- S14 ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("S14", cases=60)
def test_names_are_no_paths(asking: Asking, cases: int) -> None:
    names = [
        "../toy", "..", ".", "/", "//", "/etc/passwd", "../../../../etc/passwd", "toy/../toy", "toy/", "./toy",
        "toy\x00", "toy.html", "%2e%2e", "%2e%2e%2f", "..%2f..%2fetc%2fpasswd", "..\\..\\x", "C:\\x",
        "file:///etc/passwd", "~", "$HOME",
    ]  # fmt: skip
    asked = 0
    for name in names:
        for place in ("body", "path", "static"):
            if place == "body":
                found = asking.post(WRITE, {"prompt": "x", "model": name})
            else:
                path = ("/v1/models/" if place == "path" else "/") + name.replace("\x00", "%00").replace("\\", "%5C")
                found = asking.get(path)
            # A few of them are the paths of pages: those are in the table.
            assert found.status == 404 or (place == "static" and name in ("/", ".", "..")), (place, name, found.body)
            assert b"root:" not in found.body
            asked += 1
    assert asked == cases


@pytest.mark.row("S14", cases=20)
def test_templates_come_from_the_model_alone(asking: Asking, cases: int) -> None:
    talk = {"messages": [{"role": "user", "content": "{{ messages }} {% for i in range(9) %}x{% endfor %}"}]}
    keys = ["chat_template", "template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"]
    values: list[Any] = ["{{ 1 }}", "{{ ''.__class__ }}", {"x": 1}, True]
    for key in keys:
        for value in values:
            found = asking.post(TALK, {**talk, key: value})
            assert (found.status, found.error["code"]) == (400, "unknown_parameter")
    # What a message says is text.
    tokens = asking.post("/tokenize", talk).data
    said = "".join(piece["text"] for piece in tokens["pieces"])
    assert talk["messages"][0]["content"] in said


@pytest.mark.row("S14", cases=7)
def test_no_message_and_no_prompt_is_a_control_token(asking: Asking, cases: int) -> None:
    tokenizer = next(iter(asking.server.table)).tokenizer
    for text, number in tokenizer.control_texts().items():
        found = asking.post("/tokenize", {"text": text}).data
        assert not any(piece["control"] for piece in found["pieces"])
        if number != tokenizer.special.begin:
            assert asking.post(WRITE, {"prompt": [number]}).status == 400
        assert asking.post("/v1/embeddings", {"input": [5, number]}).status == 400


# ---- S15 ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("S15", cases=40)
def test_no_answer_is_a_page(asking: Asking, cases: int) -> None:
    marks = [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "javascript:alert(1)",
        "</title><script>", "<iframe srcdoc='<script>'>", "&lt;b&gt;", "<!--", "{{7*7}}", "\x1b]0;x\x07",
    ]  # fmt: skip
    asked = 0
    for mark in marks:
        for found in (
            asking.post("/tokenize", {"text": mark}),
            asking.post(WRITE, {"prompt": mark, "max_tokens": 1, "echo": True}),
            asking.post(WRITE, {"prompt": "x", mark: 1}),
            asking.get("/v1/models/" + mark.replace("\x1b", "").replace("\x07", "").replace(" ", "%20")),
        ):
            assert found.headers["content-type"] == "application/json"
            assert found.headers["x-content-type-options"] == "nosniff"
            assert "script-src 'self'" in found.headers["content-security-policy"]
            assert "unsafe" not in found.headers["content-security-policy"]
            json.loads(found.body)
            asked += 1
    assert asked == cases


# ---- S16 ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("S16", cases=300, nightly=50_000)
def test_long_use(asking: Asking, endless: dict[str, Any], cases: int) -> None:
    drawn = random.Random(7)

    def use(number: int) -> None:
        if number % 3:
            asking.complete(prompt="x" * (number % 40), max_tokens=3, seed=number)
        else:
            with asking.stream(WRITE, {**endless, "n": 2}) as (_, events):
                next(events)

    def some(count: int) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(use, (drawn.randrange(1000) for _ in range(count))))
        asking.quiet()

    some(max(100, cases // 10))  # until everything is there that is made once
    before, descriptors, threads = resident(), psutil.Process().num_fds(), threading.active_count()
    some(cases)
    until(lambda: psutil.Process().num_fds() <= descriptors + 2)
    assert threading.active_count() <= threads + 2
    assert resident() < before * 1.05 + (4 << 20)
