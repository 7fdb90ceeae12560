"""The rules are pure, monotone where they must be, bounded for absurd inputs, and step back before what is given."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from fabula.defaults import request, rules
from fabula.defaults.rules import Choice, Facts, choose
from fabula.model.config import ModelConfig
from fabula.model.presets import presets
from fabula.train.budget import parse_budget

KB, MB, GB = 1e3, 1e6, 1e9
SIZES = [10 * KB, 100 * KB, 1 * MB, 2 * MB, 4 * MB, 20 * MB, 300 * MB, 5 * GB, 100 * GB]
BUDGETS = ["5s", "30s", "3m", "5m", "10m", "30m", "1h", "6h", "1d", "3d"]
AMOUNTS = [
    "1steps",
    "200steps",
    "1000000steps",
    "1000tokens",
    "2Mtokens",
    "10Gtokens",
    "0.1epochs",
    "3epochs",
    "1000epochs",
]
PACES = [1e9, 50e9, 120e9, 1e12, 400e12]


def facts(size: float = 1 * MB, budget: str = "3m", pace: float = 120e9, **more: Any) -> Facts:
    settings: dict[str, Any] = {"document_bytes": 4000.0, "memory_bytes": 16_000_000_000, **more}
    return Facts(text_bytes=int(size), budget=parse_budget(budget), flops_per_second=pace, **settings)


def values(made: list[Choice]) -> dict[str, Any]:
    return {choice.name: choice.value for choice in made}


def weights(made: list[Choice]) -> int:
    """Beside the vocabulary, with the layers that were chosen."""
    found = values(made)
    config = presets.get(found["model.preset"]).config
    assert isinstance(config, ModelConfig)
    config = replace(config, n_layers=found.get("model.n_layers", config.n_layers))
    return config.n_params() - config.parts()["embedding"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("budget", [*BUDGETS, *AMOUNTS])
def test_whatever_is_asked_the_choices_are_possible(size: float, budget: str) -> None:
    for pace, document in ((PACES[0], 1.0), (PACES[2], 700.0), (PACES[-1], 1e7)):
        made = choose(facts(size, budget, pace, document_bytes=document))
        found = values(made)
        names = [choice.name for choice in made]
        assert names == [name for name in request.CHOSEN if name in names]
        # base_width is AdamW's, three are about the text, n_layers is for models below the smallest preset
        assert len(names) >= len(request.CHOSEN) - 5
        assert found["model.preset"] in presets
        assert 1 <= found.get("model.n_layers", 1) < 4
        assert 512 <= found["tokenizer.most_tokens"] <= 32_768
        assert 64 <= found["model.context_length"] <= 2048
        assert 512 <= found["train.batch_tokens"] <= 1 << 19
        assert found["train.batch_tokens"] >= found["model.context_length"]
        assert 0 <= found["model.dropout"] <= 0.3
        assert 0.001 <= found["train.optimizer.lr"] <= 0.05
        for choice in made:
            assert choice.reason
            assert "\n" not in choice.reason
            assert len(choice.reason) < 150, choice.reason


def rising(numbers: list[float]) -> bool:
    return all(a <= b for a, b in itertools.pairwise(numbers))


@pytest.mark.parametrize("size", SIZES[::2])
@pytest.mark.parametrize("pace", PACES[::2])
def test_more_time_is_never_a_smaller_model_or_batch(size: float, pace: float) -> None:
    made = [choose(facts(size, budget, pace)) for budget in BUDGETS]
    assert rising([weights(choices) for choices in made])
    assert rising([values(choices)["tokenizer.most_tokens"] for choices in made])
    assert rising([values(choices)["model.context_length"] for choices in made])


@pytest.mark.parametrize("budget", BUDGETS[::3])
@pytest.mark.parametrize("pace", PACES[::2])
def test_more_text_is_never_a_smaller_vocabulary_or_model(budget: str, pace: float) -> None:
    made = [choose(facts(size, budget, pace)) for size in SIZES]
    assert rising([values(choices)["tokenizer.most_tokens"] for choices in made])
    assert rising([weights(choices) for choices in made])


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_faster_machine_never_gets_a_smaller_model(budget: str) -> None:
    assert rising([weights(choose(facts(300 * MB, budget, pace))) for pace in PACES])


def test_text_that_is_read_often_gets_dropout() -> None:
    shares = [values(choose(facts(size, "10m")))["model.dropout"] for size in (10 * MB, 2 * MB, 1 * MB, 100 * KB)]
    assert rising(shares)
    assert shares[0] == 0.0
    assert shares[-1] > 0.0


def test_the_model_fits_into_memory() -> None:
    sizes = [weights(choose(facts(GB, "3d", 400e12, memory_bytes=int(free)))) for free in (1e9, 4e9, 16e9, 64e9)]
    assert rising(sizes)
    assert sizes[0] < sizes[-1]
    small = choose(facts(GB, "3d", 400e12, memory_bytes=1_000_000_000))
    assert "free memory" in small[0].reason


def test_what_is_given_is_not_chosen_and_the_rest_is_chosen_around_it() -> None:
    given = {"model.preset": "fabula-10m", "model.context_length": 64, "tokenizer.vocab_size": 5000}
    model = {"preset": "fabula-10m", "context_length": 64}
    made = choose(facts(given=given, model=model))
    assert given.keys().isdisjoint(values(made))
    assert "tokenizer.most_tokens" not in values(made)
    free = choose(facts())
    assert (
        values(made)["train.batch_tokens"] <= values(free)["train.batch_tokens"]
    )  # a step of a larger model is dearer


def test_another_optimizer_or_schedule_is_left_alone() -> None:
    given = {"train.optimizer.kind": "adamw", "train.schedule.warmup": 0.1}
    found = values(choose(facts(given=given)))
    assert not any(name.startswith(("train.optimizer", "train.schedule")) for name in found)


def test_little_time_takes_fewer_layers_than_the_smallest_preset_has() -> None:
    layers = [values(choose(facts(budget=budget))).get("model.n_layers") for budget in ("5s", "1m", "2m", "5m")]
    assert layers[0] == 1
    assert layers[-1] is None, "then the preset's own are best"
    assert rising([4 if count is None else count for count in layers])
    (why,) = [choice.reason for choice in choose(facts(budget="1m")) if choice.name == "model.n_layers"]
    assert "k weights beside the vocabulary" in why


def test_layers_of_a_preset_that_was_given_are_left_alone() -> None:
    for given, model in (
        ({"model.preset": "fabula-1m"}, {"preset": "fabula-1m"}),
        ({"model.n_layers": 4}, {"n_layers": 4}),
    ):
        assert "model.n_layers" not in values(choose(facts(budget="5s", given=given, model=model)))


def test_the_same_facts_give_the_same_choices() -> None:
    assert choose(facts()) == choose(facts())


def test_the_ladder_is_the_house_s_own_presets() -> None:
    sizes = [rules.ladder()[i][0] for i in range(len(rules.ladder()))]
    assert sizes == ["fabula-1m", "fabula-3m", "fabula-10m", "fabula-30m", "fabula-100m", "fabula-350m"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("cuentos-es.txt", "cuentos-es"),
        ("texts/", "texts"),
        ("a/b/books.jsonl.gz", "books"),
        ("hf:roneneldan/TinyStories?split=validation", "TinyStories"),
        ("fables:es+en", "fables-es-en"),
        ("texts/*.txt", "texts"),
        ("*", "run"),
        ("más cuentos.txt", "más-cuentos"),
        (".hidden", "hidden"),
        ("a.txt,b.txt", "a"),
    ],
)
def test_names_of_runs(source: str, name: str) -> None:
    assert request.name_of(source) == name


@pytest.mark.parametrize(("given", "text"), [("a.toml", False), ("A.TOML", False), ("a.txt", True), ("hf:a/b", True)])
def test_recipes_end_in_toml(given: str, text: bool) -> None:
    assert request.is_text(given) is text


def test_asked_is_the_same_in_any_order() -> None:
    one, other = [("train.budget", "3m"), ("seed", "1")], [("seed", "1"), ("train.budget", "3m"), ("name", "x")]
    assert request.asked("a.txt", one) == request.asked("a.txt", other)
    assert request.asked("a.txt", one) != request.asked("b.txt", one)
