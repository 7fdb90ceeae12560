"""Masks, printed: a row is a query, a column a key, 1 may be seen."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fabula.model.masks import causal, same_document


def show(mask: Tensor) -> list[str]:
    return ["".join(str(int(x)) for x in row) for row in mask]


def test_causal() -> None:
    assert show(causal(4, 4)) == [
        "1000",
        "1100",
        "1110",
        "1111",
    ]


def test_causal_after_a_cache_of_three() -> None:
    assert show(causal(2, 5)) == [
        "11110",
        "11111",
    ]
    assert show(causal(1, 4)) == ["1111"]
    assert show(causal(1, 1)) == ["1"]


def test_same_document() -> None:
    assert show(same_document(torch.tensor([[0, 0, 1, 1, 1]]))[0]) == [
        "11000",
        "11000",
        "00111",
        "00111",
        "00111",
    ]


def test_a_number_that_comes_back_is_the_same_document() -> None:
    assert show(same_document(torch.tensor([[7, 2, 7]]))[0]) == [
        "101",
        "010",
        "101",
    ]


def test_causal_inside_documents() -> None:
    both = same_document(torch.tensor([[0, 0, 1, 1, 1]])) & causal(5, 5)
    assert show(both[0]) == [
        "10000",
        "11000",
        "00100",
        "00110",
        "00111",
    ]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_every_query_sees_itself_and_nothing_later(numbers: list[int]) -> None:
    n = len(numbers)
    mask = same_document(torch.tensor([numbers])) & causal(n, n)
    for query in range(n):
        seen = [key for key in range(n) if mask[0, query, key]]
        assert seen == [key for key in range(query + 1) if numbers[key] == numbers[query]]
