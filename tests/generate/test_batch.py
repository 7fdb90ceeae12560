"""Many requests side by side: each as it would be alone; ends, errors, cancelling, prefixes, a full context."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from fabula.device import Device
from fabula.errors import DivergedError, InputError, MachineError, PromptError
from fabula.generate.batch import Batch, Handle, Request
from fabula.generate.config import Sampling
from fabula.generate.decoding import DecoderBackend
from fabula.generate.engine import Engine, Token
from fabula.model.config import ModelConfig
from fabula.model.presets import presets
from tests.contracts.variants import VARIANTS, V, build, config

CPU = Device("cpu", "float32", 1, "test")
GREEDY = Sampling(temperature=0.0, repetition_penalty=8.0)
NEVER = 10**9


def backend(made: ModelConfig, deterministic: bool = True, fast: bool = True, capacity: int = 12) -> DecoderBackend:
    return DecoderBackend(build(made), CPU, capacity=capacity, deterministic=deterministic, fast=fast)


def requests(n: int, seed: int = 0, most: int = 12) -> list[Request]:
    """Prompts of all lengths, drawn in all manners."""
    draw = random.Random(seed)
    made = []
    for number in range(n):
        manner = draw.choice(
            [
                GREEDY,
                Sampling(temperature=1.5, seed=number),
                Sampling(temperature=3.0, top_k=9, presence_penalty=0.5, seed=number),
                Sampling(temperature=2.0, top_p=0.9, frequency_penalty=0.3, no_repeat_ngram=3, seed=number),
                Sampling(temperature=2.0, typical_p=0.8, seed=number),
            ]
        )
        ids = tuple(draw.randrange(V) for _ in range(draw.randrange(1, 90)))
        made.append(Request(ids=ids, max_new_tokens=draw.randrange(1, most), sampling=manner, top_logprobs=2))
    return made


def finished(batch: Batch, handles: Sequence[Handle], most: int = 2000) -> list[list[Token]]:
    for _ in range(most):
        if not batch.step():
            return [h.take() for h in handles]
    raise AssertionError("the batch does not end")


def alone(made: DecoderBackend, request: Request, **parts: int) -> list[Token]:
    batch = Batch(made, **parts)
    found = finished(batch, [batch.submit(request)])[0]
    batch.close()
    return found


@pytest.mark.parametrize("made", [c for _, c in VARIANTS], ids=[name for name, _ in VARIANTS])
def test_a_step_of_many_rows_is_each_row_alone(made: ModelConfig) -> None:
    """The fast road, deterministic and not, against the model's own forward, row by row."""
    made = dataclasses.replace(made, tied=False)
    roads = [backend(made, False), backend(made, True), backend(made, False, fast=False)]
    assert roads[0]._layers is not None
    texts = [list(range(1, n)) * 3 for n in (3, 9, 17, 5)]
    found = []
    for road in roads:
        open_ = [road.open() for _ in range(6)]
        road.close(open_[1])  # a gap between the rows
        numbers = [open_[n] for n in (4, 0, 2, 5)]
        for number, ids in zip(numbers, texts, strict=True):
            road.read(number, ids, "none")
        steps = [road.step(numbers, [n % V for n in (2 + k, 5, 7 * k, 11)]) for k in range(4)]
        found.append(torch.stack(steps))
    for other in found[:2]:
        torch.testing.assert_close(other, found[2], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("made", [c for _, c in VARIANTS], ids=[name for name, _ in VARIANTS])
def test_in_company_as_alone_to_the_bit(made: ModelConfig) -> None:
    made = dataclasses.replace(made, tied=False)
    asked = requests(9, most=5)
    batch = Batch(backend(made), chunk=32)
    handles, late = [batch.submit(r) for r in asked[:6]], asked[6:]
    for _ in range(8):
        batch.step()
    handles += [batch.submit(r) for r in late]  # others arrive while it writes
    together = finished(batch, handles)
    one = backend(made, capacity=1)
    for request, tokens in zip(asked, together, strict=True):
        assert tokens == alone(one, request, chunk=32)


FAMILIES = ["fabula-1m", "alexandria-9m", "nima-tiny", "lillm-39m", "gemma3-270m", "gpt2", "smollm2-135m", "qwen3-0.6b"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_presets(name: str) -> None:
    """Of its real widths, two layers, few ids: batched = alone, to the bit; = streamed = uncached, id for id."""
    preset = presets.get(name).config
    assert isinstance(preset, ModelConfig)
    local = {"pattern": "LG"} if preset.local.most() is not None else {}
    made = dataclasses.replace(preset, n_layers=2, vocab_size=V, context_length=160, tied=False, **local)
    model = build(made)
    asked = [dataclasses.replace(r, top_logprobs=0) for r in requests(4, seed=4, most=4)]
    batch = Batch(DecoderBackend(model, CPU, capacity=6, deterministic=True))
    found = finished(batch, [batch.submit(r) for r in asked])
    one = DecoderBackend(model, CPU, capacity=1, deterministic=True)
    for request, tokens in zip(asked, found, strict=True):
        assert tokens == alone(one, request)
        for cached in (True, False):
            engine = Engine(model, NEVER, CPU, cached)
            expected = list(engine.stream(request.ids, request.max_new_tokens, request.sampling))
            assert [t.id for t in tokens] == [t.id for t in expected]
            assert [t.logprob for t in tokens] == pytest.approx([t.logprob for t in expected], abs=1e-3)


def test_a_batch_is_what_the_engine_streams() -> None:
    made = config(tied=False)
    for request in requests(12, seed=5):
        request = dataclasses.replace(request, top_logprobs=0)
        expected = list(Engine(build(made), NEVER, CPU).stream(request.ids, request.max_new_tokens, request.sampling))
        found = alone(backend(made, deterministic=False), request, chunk=1000)
        assert [t.id for t in found] == [t.id for t in expected]
        assert [t.logprob for t in found] == pytest.approx([t.logprob for t in expected], abs=1e-3)
        assert found[-1].finish == expected[-1].finish


def test_more_requests_than_places_come_one_after_the_other() -> None:
    made = config(tied=False)
    batch = Batch(backend(made, capacity=3))
    asked = requests(9, seed=1)
    handles = [batch.submit(r) for r in asked]
    batch.step()
    assert len(batch.running) <= 3
    for request, tokens in zip(asked, finished(batch, handles), strict=True):
        assert tokens == alone(backend(made), request)
    assert not batch.backend._lengths  # type: ignore[attr-defined]


def test_cancelling_stops_at_the_next_step_and_frees_the_place() -> None:
    batch = Batch(backend(config(), capacity=2))
    handle, other = (batch.submit(Request(ids=(1, 2), max_new_tokens=50, sampling=GREEDY)) for _ in range(2))
    waiting = batch.submit(Request(ids=(3,), max_new_tokens=2, sampling=GREEDY))
    for _ in range(4):
        batch.step()
    before = handle.written
    handle.cancel()
    batch.step()
    assert handle.finish == "cancelled"
    assert handle.written == before
    finished(batch, [other, waiting])
    assert (other.finish, waiting.finish) == ("length", "length")
    assert other.written == 50


def test_a_request_whose_reader_is_slow_waits() -> None:
    batch = Batch(backend(config()))
    slow = batch.submit(Request(ids=(1,), max_new_tokens=20, sampling=GREEDY, most_pending=3))
    quick = batch.submit(Request(ids=(1,), max_new_tokens=20, sampling=GREEDY))
    for _ in range(30):
        batch.step()
    assert (slow.written, quick.finish) == (3, "length")
    tokens = slow.take()
    while slow.finish is None:
        batch.step()
        tokens += slow.take()
    assert tokens == quick.take()


class Broken(DecoderBackend):
    """Gives NaN for one sequence, and raises for another."""

    nan = error = -1

    def step(self, sequences: Sequence[int], ids: Sequence[int]) -> Tensor:
        if self.error in sequences:
            raise RuntimeError("a fault")
        logits = super().step(sequences, ids)
        logits = torch.tensor(logits.tolist())
        for row, sequence in enumerate(sequences):
            if sequence == self.nan:
                logits[row, 3] = float("nan")
        return logits


def test_an_error_of_one_request_is_its_own() -> None:
    made = config(tied=False)
    broken = Broken(build(made), CPU, capacity=4, deterministic=True)
    broken.nan, broken.error = 1, 2
    batch = Batch(broken)
    asked = [dataclasses.replace(r, max_new_tokens=9) for r in requests(4, seed=3)]
    handles = [batch.submit(r) for r in asked]
    tokens = finished(batch, handles)
    assert [h.finish for h in handles] == ["length", "error", "error", "length"]
    assert isinstance(handles[1].error, DivergedError)
    assert isinstance(handles[2].error, RuntimeError)
    for n in (0, 3):
        assert tokens[n] == alone(backend(made), asked[n])


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_beginning_that_was_read_is_not_read_again(deterministic: bool) -> None:
    made = config(tied=False)
    first = tuple(n % V for n in range(70))
    asked = [
        Request(ids=first, max_new_tokens=5, sampling=GREEDY),
        Request(ids=(*first[:50], 3, 4), max_new_tokens=5, sampling=GREEDY),
        Request(ids=(*first, 9), max_new_tokens=5, sampling=GREEDY),
        Request(ids=(8, 8, 8), max_new_tokens=5, sampling=GREEDY),
    ]
    batch = Batch(backend(made, deterministic, capacity=2), chunk=16, prefixes=2)
    reused = []
    for request in [*asked, *asked]:
        handle = batch.submit(request)
        tokens = finished(batch, [handle])[0]
        expected = alone(backend(made, deterministic), request, chunk=16)
        assert [t.id for t in tokens] == [t.id for t in expected]
        if deterministic:
            assert tokens == expected
            assert handle.reused % 16 == 0
        reused.append(handle.reused)
    assert reused[0] == 0
    assert reused[1] >= 48
    assert reused[2] >= 48
    batch.close()
    assert not batch.backend._lengths  # type: ignore[attr-defined]


def test_requests_that_begin_alike_share_it_while_they_run() -> None:
    made = config(tied=False)
    first = tuple(n % V for n in range(64))
    asked = [Request(ids=(*first, n), max_new_tokens=6, sampling=GREEDY) for n in range(4)]
    batch = Batch(backend(made), chunk=16, prefixes=1)
    handles = [batch.submit(asked[0])]
    batch.step()
    batch.step()
    handles += [batch.submit(r) for r in asked[1:]]
    for request, tokens in zip(asked, finished(batch, handles), strict=True):
        assert tokens == alone(backend(made), request, chunk=16)


def test_the_ways_to_end() -> None:
    made = config(context_length=20, tied=False)
    prompt = tuple(range(10))
    free = Request(ids=prompt, max_new_tokens=100, sampling=GREEDY)
    tokens = alone(backend(made), free)
    assert (len(tokens), tokens[-1].finish) == (11, "context")
    ended = alone(backend(made), dataclasses.replace(free, ends=frozenset({tokens[4].id})))
    assert ended[-1].finish == "end"
    assert ended[-1].id == tokens[4].id
    slid = alone(backend(made), dataclasses.replace(free, at_context_end="slide"))
    assert (len(slid), slid[-1].finish) == (100, "length")
    assert slid[:10] == tokens[:10]
    again = Request(ids=tuple([*prompt, *(t.id for t in slid)][11:21]), max_new_tokens=1, sampling=GREEDY)
    expected = alone(backend(made), dataclasses.replace(again, sampling=Sampling(temperature=0.0)))
    plain = dataclasses.replace(free, at_context_end="slide", sampling=Sampling(temperature=0.0), max_new_tokens=12)
    text = [*prompt, *(t.id for t in alone(backend(made), plain))]
    expected = alone(backend(made), dataclasses.replace(again, ids=tuple(text[11:21]), sampling=plain.sampling))
    assert expected[0].id == text[21]


def test_banned_biased_and_forced() -> None:
    made = config(tied=False)
    free = Request(ids=(1, 2), max_new_tokens=12, sampling=Sampling(temperature=4.0, seed=3))
    first = alone(backend(made), free)
    banned = frozenset(t.id for t in first)
    assert not banned & {t.id for t in alone(backend(made), dataclasses.replace(free, banned=banned))}
    biased = alone(backend(made), dataclasses.replace(free, logit_bias={7: 1e6}))
    assert {t.id for t in biased} == {7}
    assert biased[0].logprob < -0.01, "log-probabilities are the model's own"
    forced = alone(backend(made), dataclasses.replace(free, forced=(5, 6)))
    assert [t.id for t in forced[:2]] == [5, 6]


def test_alternatives_are_the_likeliest_with_their_log_probabilities() -> None:
    model = build(config(tied=False))
    token = alone(DecoderBackend(model, CPU), Request(ids=(1, 2), max_new_tokens=1, sampling=GREEDY, top_logprobs=3))[0]
    chances = model(torch.tensor([[1, 2]])).detach()[0, -1].log_softmax(-1)
    assert [n for n, _ in token.top] == chances.topk(3).indices.tolist()
    assert [p for _, p in token.top] == pytest.approx(chances.topk(3).values.tolist(), abs=1e-4)


def test_what_cannot_be_run_is_refused_at_once() -> None:
    batch = Batch(backend(config(context_length=8)))
    for ids, words in (((), "no ids"), ((1,) * 9, "has 9 tokens"), ((V,), "outside the vocabulary")):
        with pytest.raises(PromptError, match=words):
            batch.submit(Request(ids=ids))
    with pytest.raises(InputError, match="max_new_tokens"):
        batch.submit(Request(ids=(1,), max_new_tokens=0))
    assert not batch.step()


def test_sequences_are_copied_rewound_and_counted() -> None:
    made = backend(config(tied=False), capacity=2)
    one = made.open()
    expected = made.read(one, [1, 2, 3, 4], "all")
    assert expected is not None
    other = made.copy(one, 2)
    with pytest.raises(MachineError, match="all 2 sequences"):
        made.open()
    made.rewind(one, 1)
    assert (made.length(one), made.length(other)) == (1, 2)
    for number, ids in ((one, [2, 3, 4]), (other, [3, 4])):
        found = made.read(number, ids)
        assert found is not None
        torch.testing.assert_close(found, expected[-1], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="rewind"):
        made.rewind(one, 9)
    with pytest.raises(ValueError, match="more than the context"):
        made.read(one, [1] * 200)
    assert made.n_bytes() > 0


def test_a_model_that_someone_listens_to_is_asked_itself() -> None:
    model = build(config(tied=False))
    heard = []
    model.blocks[0].register_forward_hook(lambda *_: heard.append(1))
    made = DecoderBackend(model, CPU)
    tokens = alone(made, Request(ids=(1, 2), max_new_tokens=3, sampling=GREEDY))
    assert len(tokens) == len(heard) == 3
