"""The compiled decoder against its twin, the PyTorch model: every variant that has a form there, and many texts at
once."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.positions import Alibi, Rope
from fabula.model.presets import presets
from fabula.model.spans import Sliding
from tests.contracts.variants import VARIANTS, build, config

pytest.importorskip("xllamacpp", reason="the extra `generate` (xllamacpp) is not installed")

from fabula.errors import MachineError
from fabula.generate.batch import Batch, Request
from fabula.generate.compiled import CompiledDecoder
from fabula.generate.config import Sampling
from fabula.generate.graphs import in_the_way

COVERED = [(name, made) for name, made in VARIANTS if not in_the_way(made)]
PROMPT = [i % 11 for i in range(40)]


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) < max(1e-4, 2e-5 * float(expected.abs().max()))


def logits(model: Decoder, ids: list[int]) -> Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0]


def compiled(model: Decoder, weights: str = "float32") -> CompiledDecoder:
    return CompiledDecoder(model, weights, threads=1)  # type: ignore[arg-type]


def lively(made: ModelConfig) -> Decoder:
    """A model with random numbers everywhere, so that every part shows in what it writes."""
    model = build(made)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


def test_most_variants_have_a_form_in_ggml() -> None:
    assert len(COVERED) >= 25
    assert in_the_way(config(position=Alibi())) == ["positions are told by a bias of the scores"]


@pytest.mark.parametrize("made", [c for _, c in COVERED], ids=[name for name, _ in COVERED])
def test_reading_and_stepping_give_the_models_logits(made: ModelConfig) -> None:
    model = build(made)
    engine, expected = compiled(model), logits(model, PROMPT)
    slot = engine.open()
    assert close(engine.read(slot, PROMPT[:30], "all"), expected[:30])
    for place in range(30, 40):
        assert close(engine.step([slot], PROMPT[place : place + 1])[0], expected[place])
    engine.release()


@pytest.mark.parametrize(
    "name", ["alexandria-9m", "nima-tiny", "lillm-39m", "fabula-3m", "gemma3-270m", "gpt2", "llama-3.2-1b"]
)
def test_greedy_tokens_of_the_presets_families_are_equal(name: str) -> None:
    preset = presets.get(name).config
    assert isinstance(preset, ModelConfig)
    attention = dataclasses.replace(preset.attention, n_heads=4, n_kv_heads=2 if "3" in name else 4, head_dim=16)  # type: ignore[call-arg]
    local = Sliding(window=9) if "L" in preset.pattern else preset.local
    made = dataclasses.replace(
        preset, vocab_size=300, context_length=160, d_model=64, n_layers=6, attention=attention, local=local,
        ffn=dataclasses.replace(preset.ffn, d_ff=96),
    )  # fmt: skip
    model = lively(made)
    engine, cache, new = compiled(model), model.new_cache(), [5, 7, 9]
    slot, ids = engine.open(), list(new)
    with torch.inference_mode():
        for place in range(100):
            expected = model(torch.tensor([new]), cache=cache)[0, -1]
            found = engine.step([slot], new)[0] if place else engine.read(slot, new)
            # A random model likes to repeat itself: of the ids that have not come yet.
            for each in (expected, found):
                each[ids] = -torch.inf
            assert int(found.argmax()) == int(expected.argmax()), place
            new = [int(expected.argmax())]
            ids += new
    engine.release()


def test_many_texts_at_once_are_as_each_alone() -> None:
    """Of different lengths, some stepped and some not, freed and begun in between: past every growth of the memory."""
    model = lively(config(context_length=600, position=Rope(), tied=False))
    engine = compiled(model)
    texts = {number: [(number + 3 * i) % 11 for i in range(5 + 7 * number)] for number in range(6)}
    slots = {number: engine.open() for number in texts}
    for number, ids in texts.items():
        engine.read(slots[number], ids)
    draw = torch.Generator().manual_seed(0)
    for turn in range(60):
        if turn == 20:
            engine.close(slots.pop(1))
            del texts[1]
        if turn == 30:
            slots[9], texts[9] = engine.open(), [4, 4, 2]
            engine.read(slots[9], texts[9])
        if turn == 40:
            texts[7] = list(texts[3])
            slots[7] = engine.copy(slots[3], len(texts[3]))
        if turn == 45:
            engine.rewind(slots[0], 3)
            del texts[0][3:]
        stepped = [n for n in texts if turn % 3 == 0 or int(torch.randint(2, (1,), generator=draw))]
        if not stepped:
            continue
        new = [(turn + n) % 11 for n in stepped]
        found = engine.step([slots[n] for n in reversed(stepped)], new[::-1]).flip(0)
        for row, n in enumerate(stepped):
            texts[n].append(new[row])
            if turn % 10 == 0 or turn > 55:
                assert close(found[row], logits(model, texts[n])[-1]), (turn, n)
    engine.release()


@pytest.mark.parametrize("local", [False, True])
def test_one_text_alone_read_stepped_and_rewound_in_any_order(local: bool) -> None:
    """What a step shows of the keys is told by what changed since the last one: nothing may be forgotten in between."""
    parts = {"local": Sliding(window=9), "pattern": "LG"} if local else {}
    model = lively(config(context_length=300, position=Rope(), **parts))
    engine, draw = compiled(model), torch.Generator().manual_seed(1)
    texts: dict[int, list[int]] = {engine.open(): [], engine.open(): []}

    def number(below: int) -> int:
        return int(torch.randint(below, (1,), generator=draw))

    for turn in range(160):
        sequence = list(texts)[number(2)]
        ids, act = texts[sequence], number(5)
        if act == 0 and ids:
            del ids[number(len(ids)) :]
            engine.rewind(sequence, len(ids))
            continue
        new = [number(11) for _ in range(1 if act > 1 else 1 + number(40))]
        if len(ids) + len(new) > 300:
            continue
        ids += new
        found = engine.step([sequence], new)[0] if act > 2 else engine.read(sequence, new)
        assert found is not None
        assert close(found, logits(model, ids)[-1]), (turn, act, len(ids))
    engine.release()


def test_a_long_text_is_read_in_parts() -> None:
    model = lively(config(context_length=1200, position=Rope(), pattern="LG", local=Sliding(window=20), n_layers=2))
    engine, ids = compiled(model), [i * i % 11 for i in range(1100)]
    slot = engine.open()
    assert close(engine.read(slot, ids), logits(model, ids)[-1])
    with pytest.raises(ValueError, match="200 new tokens after 1100: the context_length is 1200"):
        engine.read(slot, [0] * 200)
    engine.release()


def test_eight_bits_are_near() -> None:
    """int8 rounds matrices, and what they are multiplied by, to blocks of 8 bits."""
    model = lively(dataclasses.replace(config(tied=False), d_model=64))
    engine, expected = compiled(model, "int8"), logits(model, PROMPT)
    slot = engine.open()
    found = engine.read(slot, PROMPT, "all")
    assert 1e-5 < float((found - expected).norm() / expected.norm()) < 0.15
    engine.release()


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compiled: positions are told by a bias of the scores"):
        compiled(build(config(position=Alibi())))


def test_requests_run_together_as_alone() -> None:
    """Six requests of their own lengths, manners and seeds, more than run at a time."""
    engine = CompiledDecoder(build(config(tied=False)), threads=1, capacity=4)
    manners = (Sampling(temperature=0.0, repetition_penalty=8.0), Sampling(temperature=2.0, top_k=9, seed=5))
    requests = [
        Request(ids=tuple((n + 2 * i) % 11 for i in range(3 + 9 * n)), max_new_tokens=10 + n, sampling=manners[n % 2])
        for n in range(6)
    ]

    def run(several: list[Request]) -> list[list[int]]:
        batch = Batch(engine, chunk=20)
        handles = [batch.submit(request) for request in several]
        for _ in range(500):
            if not batch.step():
                break
        assert [h.error for h in handles] == [None] * len(several)
        batch.close()
        return [[token.id for token in h.take()] for h in handles]

    assert run(requests) == [run([request])[0] for request in requests]
    for _ in range(4):
        engine.open()
    with pytest.raises(MachineError, match="4 texts are open"):
        engine.open()
    engine.release()


def test_the_graph_that_was_used_last_is_kept_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabula.generate.compiled._GRAPHS", 2)
    torch.manual_seed(0)
    engine = CompiledDecoder(Decoder(presets.get("fabula-1m").config).eval(), threads=1)
    sequence = engine.open()
    for count in (1, 2, 1, 3):  # the graph of one id is used again before that of three needs room
        engine.read(sequence, [1] * count, "none")
    assert [key[1] for key in engine._graphs] == [1, 3]
