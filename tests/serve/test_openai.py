"""The official client against a running server: what it sends is understood, and what it reads is what was meant."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator

import pytest

from tests.serving import Asking, until

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(asking: Asking) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{asking.server.address}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


HELLO = [{"role": "user", "content": "Hola, ¿quién eres?"}]


def test_models(client: openai.OpenAI) -> None:
    assert [card.id for card in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").id == "toy"
    with pytest.raises(openai.NotFoundError, match="valid: toy"):
        client.models.retrieve("other")


def test_a_completion_is_what_the_model_writes(client: openai.OpenAI, asking: Asking) -> None:
    made = client.completions.create(model="toy", prompt="El conejo", max_tokens=12, temperature=0)
    lm = next(iter(asking.server.table)).lm
    alone = lm.generate("El conejo", max_new_tokens=12, temperature=0.0)
    assert made.choices[0].text == alone.text
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (alone.prompt_tokens, len(alone.ids))


def test_streams_say_what_whole_answers_say(client: openai.OpenAI) -> None:
    settings = dict(model="toy", prompt="El conejo", max_tokens=40, seed=3, temperature=1.0)
    whole = client.completions.create(**settings)
    chunks = list(client.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.text for chunk in chunks for c in chunk.choices) == whole.choices[0].text
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["length"]
    assert not chunks[-1].choices
    assert chunks[-1].usage == whole.usage


def test_chat_and_its_stream(client: openai.OpenAI) -> None:
    settings = dict(model="toy", messages=HELLO, max_completion_tokens=20, seed=1)
    whole = client.chat.completions.create(**settings)
    assert whole.choices[0].message.role == "assistant"
    chunks = list(client.chat.completions.create(**settings, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == whole.choices[0].message.content


def test_parts_and_the_newer_name_of_the_system_are_the_older_ones(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Ho"}, {"type": "text", "text": "la"}]
    one = client.chat.completions.create(
        model="toy", messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}], seed=1
    )
    other = client.chat.completions.create(
        model="toy", messages=[{"role": "system", "content": "x"}, {"role": "user", "content": "Hola"}], seed=1
    )
    assert one.choices[0].message.content == other.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_n_texts_are_those_of_the_seeds_that_follow(client: openai.OpenAI, stream: bool) -> None:
    settings = dict(model="toy", prompt="La rana", max_tokens=10)
    if stream:
        texts = ["", "", ""]
        for chunk in client.completions.create(**settings, n=3, seed=5, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
    else:
        found = client.completions.create(**settings, n=3, seed=5).choices
        texts = [choice.text for choice in sorted(found, key=lambda c: c.index)]
    assert texts == [client.completions.create(**settings, seed=5 + i).choices[0].text for i in range(3)]
    assert len(set(texts)) == 3


def test_several_prompts(client: openai.OpenAI) -> None:
    settings = dict(model="toy", max_tokens=6, temperature=0)
    together = client.completions.create(prompt=["El", "La"], **settings)
    assert [c.text for c in together.choices] == [
        client.completions.create(prompt=p, **settings).choices[0].text for p in ("El", "La")
    ]


def test_ids_are_as_good_as_text(client: openai.OpenAI, asking: Asking) -> None:
    ids = asking.post("/tokenize", {"text": "El conejo"}).data["tokens"]
    settings = dict(model="toy", max_tokens=6, temperature=0)
    of_ids = client.completions.create(prompt=ids, **settings).choices[0].text
    assert of_ids == client.completions.create(prompt="El conejo", **settings).choices[0].text


def test_the_same_seed_gives_the_same_text_and_no_seed_another(client: openai.OpenAI) -> None:
    def texts(**seed: int) -> set[str]:
        settings = dict(model="toy", prompt="Una", max_tokens=16)
        return {client.completions.create(**settings, **seed).choices[0].text for _ in range(3)}

    assert len(texts(seed=9)) == 1
    assert len(texts()) == 3


def test_a_stop_ends_the_text_before_it(client: openai.OpenAI) -> None:
    settings = dict(model="toy", prompt="Una", max_tokens=30, seed=2)
    whole = client.completions.create(**settings).choices[0].text
    for stop in (whole[5:8], whole[3:4], ["never said", whole[10:13]]):
        made = client.completions.create(**settings, stop=stop).choices[0]
        last = stop if isinstance(stop, str) else stop[1]
        assert made.text == whole[: whole.index(last)]
        assert made.finish_reason == "stop"
        chunks = client.completions.create(**settings, stop=stop, stream=True)
        assert "".join(c.choices[0].text for c in chunks) == made.text


def test_logprobs_of_completions(client: openai.OpenAI) -> None:
    made = client.completions.create(model="toy", prompt="Una", max_tokens=8, temperature=0, logprobs=3).choices[0]
    told = made.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.token_logprobs is not None
    assert told.top_logprobs is not None
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset or []) == 8
    for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert len(top) == 3
        assert max(top.values()) == top[token] == logprob <= 0


def test_logprobs_of_chats_and_their_streams(client: openai.OpenAI) -> None:
    settings = dict(model="toy", messages=HELLO, max_tokens=8, seed=4, logprobs=True, top_logprobs=2)
    made = client.chat.completions.create(**settings).choices[0]
    assert made.logprobs is not None
    told = made.logprobs.content or []
    assert b"".join(bytes(t.bytes or []) for t in told).decode("utf-8", "replace") == made.message.content
    assert all(len(t.top_logprobs) == 2 for t in told)
    streamed = [
        token
        for chunk in client.chat.completions.create(**settings, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert streamed == told


def test_a_bias_makes_and_bans(client: openai.OpenAI, asking: Asking) -> None:
    number = asking.post("/tokenize", {"text": "z"}).data["tokens"][0]
    settings = dict(model="toy", prompt="Una", max_tokens=5, temperature=0)
    assert client.completions.create(**settings, logit_bias={str(number): 100}).choices[0].text == "zzzzz"
    first = client.completions.create(**settings, logprobs=1).choices[0].text
    wanted = asking.post("/tokenize", {"text": first}).data["tokens"][0]
    assert not client.completions.create(**settings, logit_bias={str(wanted): -100}).choices[0].text.startswith(first)


def test_the_best_of_several_is_the_likeliest(client: openai.OpenAI) -> None:
    settings = dict(model="toy", prompt="Una", max_tokens=6, seed=1, logprobs=0)

    def likely(choice: openai.types.CompletionChoice) -> float:
        assert choice.logprobs is not None
        return sum(choice.logprobs.token_logprobs or [])

    best = client.completions.create(**settings, n=1, best_of=4).choices
    every = client.completions.create(**settings, n=4).choices
    assert [c.text for c in best] == [max(every, key=likely).text]


def test_settings_of_ours_travel_as_extra_ones(client: openai.OpenAI) -> None:
    settings = dict(model="toy", prompt="Una", max_tokens=12)
    greedy = client.completions.create(**settings, temperature=0).choices[0].text
    assert client.completions.create(**settings, extra_body={"top_k": 1}).choices[0].text == greedy


def test_embeddings_in_numbers_and_in_base64(client: openai.OpenAI, asking: Asking) -> None:
    made = client.embeddings.create(model="toy", input=["hola", "adiós", "hola"])
    assert [len(e.embedding) for e in made.data] == [32, 32, 32]
    assert made.data[0].embedding == made.data[2].embedding != made.data[1].embedding
    plain = asking.post("/v1/embeddings", {"input": "hola"}).data["data"][0]["embedding"]
    packed = asking.post("/v1/embeddings", {"input": "hola", "encoding_format": "base64"}).data["data"][0]["embedding"]
    assert list(struct.unpack("<32f", base64.b64decode(packed))) == plain == made.data[0].embedding


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.completions.create(model="tyo", prompt="x")
    with pytest.raises(openai.BadRequestError, match="context holds 2,048") as told:
        client.completions.create(model="toy", prompt="z" * 5000)
    assert told.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="toy", prompt="x", temperature=3)
    with pytest.raises(openai.BadRequestError, match="refuses this conversation"):
        client.chat.completions.create(model="toy", messages=[{"role": "tool", "content": "x"}])


def test_a_stream_that_is_closed_ends_its_text(client: openai.OpenAI, asking: Asking) -> None:
    before = asking.server.metrics.value("fabula_texts_total", reason="cancelled")
    stream = client.completions.create(model="toy", prompt="Una", max_tokens=2000, seed=1, stream=True)
    next(iter(stream))
    stream.close()
    until(lambda: asking.server.metrics.value("fabula_texts_total", reason="cancelled") == before + 1)
    asking.quiet()
