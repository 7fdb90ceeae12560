"""Several models that write one text: averaged probabilities; with itself a model is itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fabula.device import Device
from fabula.errors import InputError, MachineError
from fabula.generate.config import GenerateConfig
from fabula.generate.constrained import regex
from fabula.generate.decoding import DecoderBackend
from fabula.generate.ensemble import EnsembleBackend, averaged
from fabula.generate.many import together
from fabula.generate.run import run, search
from fabula.language_model import LanguageModel
from fabula.model.decoder import Decoder
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.forms import SMALLEST
from tests.contracts.variants import build, config

CPU = Device("cpu", "float32", 1, "test")
PLAIN = GenerateConfig(temperature=1.3, max_new_tokens=12, seed=2)
WAYS = [
    PLAIN,
    dataclasses.replace(PLAIN, temperature=0.0),
    dataclasses.replace(PLAIN, repetition_penalty=1.7, top_p=0.9),
    dataclasses.replace(PLAIN, lookup=4),
    dataclasses.replace(PLAIN, temperature=0.0, beams=4),
    dataclasses.replace(PLAIN, temperature=0.0, beams=4, beam_groups=2),
]


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return train_bpe(["nada"], SMALLEST)


def model(letters: Tokenizer, seed: int, context: int = 64) -> Decoder:
    made = config(context_length=context, tied=False)
    return build(dataclasses.replace(made, vocab_size=letters.vocab_size), seed)


def backend(letters: Tokenizer, seed: int, context: int = 64, capacity: int = 40) -> DecoderBackend:
    return DecoderBackend(model(letters, seed, context), CPU, capacity=capacity, n_ids=letters.vocab_size)


def lm(letters: Tokenizer, seed: int, context: int = 64) -> LanguageModel:
    return LanguageModel(model(letters, seed, context), letters, CPU, None)


def test_the_mean_of_probabilities() -> None:
    one, other = torch.randn(3, 9), torch.randn(3, 9) + 5
    found = averaged([one, other]).softmax(dim=-1)
    torch.testing.assert_close(found, (one.softmax(dim=-1) + other.softmax(dim=-1)) / 2)
    torch.testing.assert_close(averaged([one, one, one]), one)
    banned = torch.tensor([0.0, float("-inf"), 1.0])
    assert averaged([banned, banned]).tolist() == pytest.approx(banned.tolist())
    assert bool(averaged([banned, torch.full((3,), float("nan"))]).isnan().any()), "what has diverged stays seen"


@pytest.mark.parametrize("way", WAYS, ids=["drawn", "greedy", "penalty", "lookup", "beams", "groups"])
def test_with_itself_a_model_is_itself(letters: Tokenizer, way: GenerateConfig) -> None:
    single = model(letters, 1)
    both = EnsembleBackend([backend(letters, 1), backend(letters, 1)])
    for prompt in ("", "El ñandú"):
        one = run(single, letters, prompt, way, CPU)
        two = run(single, letters, prompt, way, CPU, backend=both)
        assert (one.ids, one.finish_reason) == (two.ids, two.finish_reason)
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)
    assert [both.open() for _ in range(40)] == list(range(40)), "no sequence is left open"
    with pytest.raises(MachineError, match="40 sequences"):
        both.open()


def test_each_has_a_say(letters: Tokenizer) -> None:
    """Against the means worked out from the models' own logits, token by token."""
    models = [model(letters, seed) for seed in (1, 2, 3)]
    ensemble = EnsembleBackend([backend(letters, seed) for seed in (1, 2, 3)])
    made = run(models[0], letters, "a", dataclasses.replace(PLAIN, temperature=0.0), CPU, backend=ensemble)
    ids = [letters.special.begin, *letters.encode("a")]
    for number, chance in zip(made.ids, made.logprobs, strict=True):
        with torch.inference_mode():
            mean = torch.stack([m.eval()(torch.tensor([ids]))[0, -1].softmax(dim=-1) for m in models]).mean(dim=0)
        assert number == int(mean.argmax())
        assert chance == pytest.approx(float(mean[number].log()), abs=1e-4)
        ids.append(number)


def test_a_sequence_is_one_of_each(letters: Tokenizer) -> None:
    ensemble = EnsembleBackend([backend(letters, 1), backend(letters, 2)])
    first = ensemble.open()
    ensemble.read(first, [1, 2, 3, 4], "none")
    second = ensemble.copy(first, 2)
    ensemble.rewind(first, 2)
    assert ensemble.length(first) == ensemble.length(second) == 2
    rows = ensemble.step([second, first], [7, 7])
    torch.testing.assert_close(rows[0], rows[1])
    ensemble.close(first)
    assert ensemble.open() == first
    whole = ensemble.read(first, [1, 2, 7], "all")
    assert whole is not None
    torch.testing.assert_close(whole[-1], rows[0], atol=1e-4, rtol=1e-4)


def test_the_shortest_context_holds(letters: Tokenizer) -> None:
    ensemble = lm(letters, 1).with_others(lm(letters, 2, context=20))
    made = ensemble.generate("a" * 10, max_new_tokens=60, temperature=1.0)
    assert made.prompt_tokens + len(made.ids) <= 21
    with pytest.raises(InputError, match="holds 20"):
        ensemble.generate("a" * 30)
    with pytest.raises(InputError, match="holds 20"):
        list(ensemble.samples("a" * 30, 2))
    whole = ensemble.generate("a" * 10, max_new_tokens=60, temperature=0.0, beams=2)
    assert whole.prompt_tokens + len(whole.ids) <= 21


def test_models_of_one_tokenizer(letters: Tokenizer) -> None:
    one, other = lm(letters, 1), lm(letters, 2)
    both = one.with_others(other)
    assert both.engine == ("ensemble", "2 models, their probabilities averaged")
    assert one.engine[0] == "torch"
    found = [s.made.ids for s in both.samples(["a", "b"], 2, max_new_tokens=5, temperature=1.0)]
    assert len(found) == 4
    assert found[0] == both.generate("a", max_new_tokens=5, temperature=1.0).ids
    with pytest.raises(InputError, match="scores none"):
        both.score("a")
    with pytest.raises(InputError, match="scores none"):
        both.logits([1])
    stranger = train_bpe(["nada nada nada"], SMALLEST + 1)
    with pytest.raises(InputError, match="different tokenizers"):
        one.with_others(lm(stranger, 1))
    with pytest.raises(InputError, match="one vocabulary"):
        EnsembleBackend([backend(letters, 1), backend(stranger, 1)])


def test_a_pattern_holds_for_all(letters: Tokenizer) -> None:
    pytest.importorskip("llguidance", reason="the extra `generate` is not installed")
    ensemble = EnsembleBackend([backend(letters, 1), backend(letters, 2)])
    digits = regex(letters, "[0-9]{5}")
    for sample in together(model(letters, 1), letters, [""], PLAIN, CPU, 3, backend=ensemble, constraint=digits):
        assert sample.made.text.isdigit()
        assert len(sample.made.text) == 5


def test_the_best_texts_of_a_search(letters: Tokenizer) -> None:
    """`n` texts of a search are the best that it finds; the first is what the search gives alone."""
    single = model(letters, 1)
    for groups in (1, 2):
        way = dataclasses.replace(PLAIN, temperature=0.0, beams=4, beam_groups=groups, diversity=2.0)
        found = search(single, letters, "a", way, CPU)
        assert found[0] == run(single, letters, "a", way, CPU)
        kept = list(together(single, letters, ["a", "b"], way, CPU, 3))
        assert [s.made for s in kept if s.prompt == 0] == found[:3]
        assert len({m.ids for m in found}) == len(found)
    with pytest.raises(InputError, match="no more texts than it has beams"):
        list(together(single, letters, ["a"], way, CPU, 5))
