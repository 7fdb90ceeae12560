"""Both libraries multiply alike, and one of them is taken by what was measured."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fabula.device import choose
from fabula.generate import decoding, products
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from tests.contracts.variants import VARIANTS, config

needed = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@needed
@pytest.mark.parametrize("rows", [1, 3, 8, 33])
@pytest.mark.parametrize("biased", [False, True])
def test_both_libraries_multiply_alike(rows: int, biased: bool) -> None:
    torch.manual_seed(rows)
    x, weight, bias = torch.randn(rows, 48), torch.randn(70, 48), torch.randn(70) if biased else None
    with torch.inference_mode():
        torch.testing.assert_close(products.by_onednn(x, weight, bias), F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_one_is_taken_and_kept() -> None:
    taken = products.quickest(2)
    assert taken in (F.linear, products.by_onednn)
    assert products.quickest(2) is taken, "a text goes on with what it began with"


def test_a_busy_moment_does_not_change_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds are won clearly, one is not."""
    ends = iter([1.0, 2.0, 1.0, 2.0, 1.9, 2.0])
    clock = [0.0]

    def now() -> float:
        if now.begun:  # type: ignore[attr-defined]
            clock[0] += next(ends)
        now.begun = not now.begun  # type: ignore[attr-defined]
        return clock[0]

    now.begun = False  # type: ignore[attr-defined]
    monkeypatch.setattr(products.time, "perf_counter", now)
    products.quickest.cache_clear()
    try:
        assert products.quickest(2) is F.linear
    finally:
        products.quickest.cache_clear()


def test_where_there_is_only_one_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: object) -> None:
        raise AttributeError("no such operation")

    monkeypatch.setattr(products, "by_onednn", missing)
    products.quickest.cache_clear()
    try:
        assert products.quickest(2) is F.linear
    finally:
        products.quickest.cache_clear()


@needed
@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=[name for name, _ in VARIANTS])
def test_a_model_says_the_same_by_either(monkeypatch: pytest.MonkeyPatch, name: str, settings: ModelConfig) -> None:
    torch.manual_seed(0)
    model, found = Decoder(settings).eval(), []
    for linear in (F.linear, products.by_onednn):
        monkeypatch.setattr(decoding, "quickest", lambda threads, linear=linear: linear)
        backend = decoding.DecoderBackend(model, choose("cpu"), capacity=2)
        first, second = backend.open(), backend.open()
        backend.read(first, [1, 2, 3])
        backend.read(second, [4])
        found.append(torch.cat([backend.step([first], [5]), backend.step([first, second], [6, 7])]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_texts_that_must_be_the_same_in_company_keep_one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "quickest", lambda threads: pytest.fail("nothing is to be chosen"))
    model = Decoder(config()).eval()
    assert decoding.DecoderBackend(model, choose("cpu"), deterministic=True)._linear is F.linear
