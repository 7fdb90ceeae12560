"""Which engine generates, and why; the same text from both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fabula
from fabula.device import Device
from fabula.errors import InputError, MachineError
from fabula.generate import compiled, runtime
from fabula.generate.runtime import choose_engine
from fabula.model.positions import Alibi
from tests.contracts.variants import build, config

CPU = Device("cpu", "float32", 1, "test")


def test_pytorch_is_there_when_asked_for() -> None:
    assert choose_engine(build(config()), CPU, "torch") == (None, "asked for")
    with pytest.raises(InputError, match="weights=int8: only the compiled engine has them"):
        choose_engine(build(config()), CPU, "torch", "int8")


@pytest.mark.parametrize(("name", "weights"), [("compile", "float32"), ("auto", "int4")])
def test_names_are_checked(name: str, weights: str) -> None:
    with pytest.raises(InputError, match="unknown"):
        choose_engine(build(config()), CPU, name, weights)


def test_what_cannot_be_compiled_is_told_and_pytorch_taken() -> None:
    model = build(config(position=Alibi()))
    made, reason = choose_engine(model, CPU)
    assert made is None
    assert reason == "the compiled engine does not cover this model: positions are told by a bias of the scores"
    with pytest.raises(InputError, match="does not cover this model"):
        choose_engine(model, CPU, "compiled")
    made, reason = choose_engine(build(config()), Device("cuda", "float32", 1, "test"))
    assert (made, reason) == (None, "the compiled engine runs on the CPU, not on cuda")


def test_without_the_extra_pytorch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MachineError("the compiled engine needs the library xllamacpp")

    monkeypatch.setattr(compiled.ggml, "library", missing)
    made, reason = choose_engine(build(config()), CPU)
    assert (made, reason) == (None, "the compiled engine needs the library xllamacpp")
    with pytest.raises(MachineError, match="needs the library xllamacpp"):
        choose_engine(build(config()), CPU, "auto", "int8")


def test_an_engine_that_gives_other_logits_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `generate` (xllamacpp) is not installed")
    monkeypatch.setattr(compiled.CompiledDecoder, "_reach", lambda self, positions: 1)
    from fabula.model.spans import Sliding

    made, reason = choose_engine(build(config(local=Sliding(window=5), pattern="L")), CPU)
    assert made is None
    assert reason.startswith("the compiled engine gives other logits than the model here")
    with torch.no_grad():
        model = build(config())
        model.embedding.weight.fill_(float("nan"))
    assert choose_engine(model, CPU)[0] is None


def test_both_engines_write_the_same(tiny_run: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `generate` (xllamacpp) is not installed")
    lm, twin = (
        fabula.load(tiny_run, device="cpu", engine="compiled"),
        fabula.load(tiny_run, device="cpu", engine="torch"),
    )
    assert (lm.engine, twin.engine) == (("compiled", "asked for"), ("torch", "asked for"))
    for settings in ({"temperature": 0.0}, {"temperature": 0.9, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.2}):
        made, expected = (each.generate("El", max_new_tokens=20, **settings) for each in (lm, twin))
        assert made.ids == expected.ids
        assert made.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    # A stream that is left half-way gives its place back.
    for _ in zip(lm.stream("El", max_new_tokens=20), range(2), strict=False):
        pass
    engine = lm._engine[0]
    assert engine is not None
    assert engine._slots == []
    assert runtime.choose_engine(lm.model, CPU)[1] == "faster on a CPU"
