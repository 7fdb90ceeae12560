"""Bits per byte: every prediction once, every byte once, and the same number however the work is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fabula.data.batch import Batch
from fabula.device import Device
from fabula.errors import InputError
from fabula.evaluate.intrinsic import Score, score_documents, score_rows, windows
from fabula.model.decoder import Decoder
from tests.contracts.variants import V, build, config

CPU = Device("cpu", "float32", 1, "test")
END = 0


def documents(*lengths: int) -> list[tuple[list[int], int]]:
    """(ids, bytes) with bytes that have nothing to do with the number of ids."""
    generator = torch.Generator().manual_seed(7)
    return [(torch.randint(1, V, (n,), generator=generator).tolist(), 3 * n + 1) for n in lengths]


def naive(model: Decoder, texts: list[tuple[list[int], int]], stride: int | None = None) -> float:
    """One prediction at a time, each with the past its window gives it, from the definition."""
    context, total = model.config.context_length, 0.0
    step = context // 2 if stride is None else stride
    for ids, _ in texts:
        stream = [END, *ids, END]
        for target in range(1, len(stream)):
            # The first window predicts up to `context`; then every `step` predictions a new one, which ends with them.
            last = context if target <= context else context + -(-(target - context) // step) * step
            first = max(0, min(last, len(stream) - 1) - context)
            with torch.no_grad():
                logits = model(torch.tensor([stream[first:target]]))[0, -1]
            total -= float(logits.log_softmax(-1)[stream[target]])
    return total


@given(st.integers(0, 200), st.integers(1, 40), st.data())
def test_windows_cover_each_prediction_once(length: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    scored: list[int] = []
    for number, window in enumerate(windows(length, context, stride)):
        assert 0 <= window.start < window.stop <= length - 1
        assert window.stop - window.start <= context
        assert 1 <= window.scored <= (context if number == 0 else stride)
        past = window.stop - window.scored - window.start
        assert number == 0 or past >= min(context - stride, window.stop - window.scored)
        scored += range(window.stop - window.scored + 1, window.stop + 1)
    assert scored == list(range(1, length))


def test_windows_by_hand() -> None:
    def plain(length: int, context: int, stride: int) -> list[tuple[int, int, int]]:
        return [(w.start, w.stop, w.scored) for w in windows(length, context, stride)]

    assert plain(0, 4, 2) == plain(1, 4, 2) == []
    assert plain(2, 4, 2) == [(0, 1, 1)]
    assert plain(5, 4, 2) == [(0, 4, 4)]
    assert plain(6, 4, 4) == [(0, 4, 4), (1, 5, 1)]
    assert plain(9, 4, 4) == [(0, 4, 4), (4, 8, 4)]
    assert plain(6, 3, 1) == [(0, 3, 3), (1, 4, 1), (2, 5, 1)]


@pytest.mark.parametrize("stride", [None, 1, 3, 8])
def test_a_score_is_the_sum_of_its_predictions(stride: int | None) -> None:
    model, texts = build(config(context_length=8)), documents(0, 1, 5, 7, 8, 9, 20)
    score = score_documents(model, texts, END, CPU, stride)
    assert score.nats == pytest.approx(naive(model, texts, stride), rel=1e-4)
    assert score.tokens == sum(len(ids) + 1 for ids, _ in texts)
    assert score.bytes == sum(n for _, n in texts)
    assert score.documents == 7


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
def test_batching_and_padding_change_nothing(batch_rows: int) -> None:
    model, texts = build(config(context_length=8)), documents(3, 30, 0, 8, 1, 12, 7)
    alone = sum((score_documents(model, [text], END, CPU) for text in texts), Score())
    together = score_documents(model, texts, END, CPU, batch_rows=batch_rows)
    assert together.nats == pytest.approx(alone.nats, rel=1e-6)
    assert (together.tokens, together.bytes, together.documents) == (alone.tokens, alone.bytes, alone.documents)


def test_many_documents_are_scored_in_several_goes() -> None:
    model, texts = build(config(context_length=8, n_layers=1)), documents(*range(40)) * 3
    one_by_one = sum((score_documents(model, [text], END, CPU) for text in texts), Score())
    assert score_documents(model, iter(texts), END, CPU, batch_rows=1).nats == pytest.approx(one_by_one.nats, rel=1e-5)


def test_a_document_that_fits_the_context_does_not_feel_the_stride() -> None:
    model, texts = build(config(context_length=40)), documents(30, 39)
    scores = [score_documents(model, texts, END, CPU, stride).nats for stride in (1, 10, 40)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6) == pytest.approx(scores[2], rel=1e-6)


def test_a_model_that_reads_far_gains_from_a_past() -> None:
    """Text of period 6 and a model that copies what stood 6 tokens ago: only with enough past can it know."""

    class Copier(torch.nn.Module):
        config = config(context_length=12)
        head_bias = None
        logit_cap = 0.0
        head_weight = torch.eye(V)

        def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
            out = torch.zeros(*tokens.shape, V)
            for place in range(5, tokens.shape[1]):
                out[torch.arange(len(tokens)), place, tokens[:, place - 5]] = 20.0
            return out

    texts = [([1, 2, 3, 4, 5, 6] * 20, 120)]
    scores = [score_documents(Copier(), texts, END, CPU, stride).loss for stride in (1, 6, 12)]  # type: ignore[arg-type]
    assert scores[0] < scores[2]
    assert scores[1] < scores[2]


@pytest.mark.parametrize("stride", [0, -1, 9])
def test_a_stride_out_of_range_is_the_users_error(stride: int) -> None:
    with pytest.raises(InputError, match=f"stride={stride} must be between 1 and the context length 8"):
        score_documents(build(config(context_length=8)), documents(3), END, CPU, stride)


def test_a_uniform_model_needs_log2_v_bits_a_token() -> None:
    model, texts = build(config(context_length=8)), documents(3, 30)
    with torch.no_grad():
        model.embedding.weight.zero_()
    score = score_documents(model, texts, END, CPU)
    assert score.bits_per_byte == pytest.approx(math.log2(V) * (4 + 31) / (10 + 91), rel=1e-5)
    assert score.perplexity == pytest.approx(V, rel=1e-5)
    assert score.loss == pytest.approx(math.log(V), rel=1e-5)


def test_progress_is_told_every_byte_once() -> None:
    told: list[int] = []
    texts = documents(3, 30, 0)
    score_documents(build(config(context_length=8)), texts, END, CPU, each=told.append)
    assert told == [n for _, n in texts]


def test_no_documents_and_empty_ones() -> None:
    model = build(config(context_length=8))
    nothing = score_documents(model, [], END, CPU)
    assert nothing == Score()
    assert (nothing.bits_per_byte, nothing.loss) == (math.inf, math.inf)
    empty = score_documents(model, [([], 0)], END, CPU)
    assert (empty.tokens, empty.bytes, empty.documents) == (1, 0, 1), "that an empty text ends is predicted too"
    assert empty.nats == pytest.approx(naive(model, [([], 0)]), rel=1e-5)


def test_the_mode_of_the_model_is_left_as_it_was() -> None:
    model = build(config(context_length=8, dropout=0.5))
    quiet = score_documents(model, documents(9), END, CPU).nats
    model.train()
    assert score_documents(model, documents(9), END, CPU).nats == quiet
    assert model.training
    with pytest.raises(IndexError):
        score_documents(model, [([V + 5], 1)], END, CPU)
    assert model.training


def test_scores_add_up() -> None:
    one, other = Score(1.5, 2, 3, 1), Score(0.5, 4, 5, 2)
    assert one + other == Score(2.0, 6, 8, 3)
    assert (one + other).bits_per_byte == pytest.approx(2.0 / math.log(2) / 8)
    assert one + Score() == one
    assert (one + other).to_data() | {"nats": 2.0, "tokens": 6, "bytes": 8, "documents": 3} == (one + other).to_data()
    assert Score(1e6, 1, 1).perplexity < math.inf, "a diverged model has a number too"


def test_rows_of_the_loader() -> None:
    """Packed rows: with document numbers each document is scored alone; bytes are those of the targets."""
    model = build(config(context_length=8))
    stream = torch.tensor([END, 5, 6, END, 7, 8, 9, 10, END])
    lengths = np.array([0] + [2 + i % 3 for i in range(1, V)])
    numbers = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    places = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    batch = Batch(stream[None, :-1], stream[None, 1:], places, numbers)
    told: list[int] = []
    score = score_rows(model, [batch, batch], lengths, CPU, told.append)
    n_bytes = int(lengths[stream[1:].numpy()].sum())
    alone = score_documents(model, [([5, 6], 0), ([7, 8, 9, 10], 0)], END, CPU)
    assert score.nats == pytest.approx(2 * alone.nats, rel=1e-5)
    assert (score.tokens, score.bytes) == (16, 2 * n_bytes)
    assert told == [1, 1]
    without = score_rows(model, [Batch(batch.tokens, batch.targets)], lengths, CPU)
    assert without.nats != pytest.approx(alone.nats, rel=1e-3)


def test_bfloat16_scores_are_near() -> None:
    model, texts = build(config(context_length=8, head_bias=True)), documents(5, 20)
    rough = score_documents(model, texts, END, Device("cpu", "bfloat16", 1, "test"))
    assert rough.nats == pytest.approx(score_documents(model, texts, END, CPU).nats, rel=0.03)
