"""Which variants there are, what each is called, and that every problem is told before anything begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabula.compare import variants
from fabula.compare.variants import Variant, Varied
from fabula.errors import ConfigError, InputError
from tests import tiny


def expanded(folder: Path, *vary: str, seeds: int = 1, **overrides: object) -> list[Variant]:
    return variants.expand(tiny.write_recipe(folder), overrides, variants.parse(vary), seeds)


def test_every_combination_the_last_setting_fastest(tmp_path: Path) -> None:
    made = expanded(tmp_path, "train.optimizer.kind=muon,adamw", "model.n_layers=1,2")
    assert [v.label for v in made] == ["muon, n_layers 1", "muon, n_layers 2", "adamw, n_layers 1", "adamw, n_layers 2"]
    assert [v.slug for v in made] == ["muon-n_layers-1", "muon-n_layers-2", "adamw-n_layers-1", "adamw-n_layers-2"]
    assert made[1].settings == {"train.optimizer.kind": "muon", "model.n_layers": "2"}
    assert made[2].recipe.model["n_layers"] == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model.n_layers", "write NAME=VALUE"),
        ("=2,3", "write NAME=VALUE"),
        ("model.n_layers=", "write NAME=VALUE"),
        ("model.n_layers=2,,3", "write NAME=VALUE"),
        ("model.n_layers=2,3,2", "the value 2 stands there twice"),
        ("seed=1,2", "say how many with --seeds"),
        ("name=a,b", "named after their variants"),
        ("train.budget=1m,2m", "give one as --train.budget"),
    ],
)
def test_what_cannot_be_varied(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        variants.parse([text])


def test_names_and_values() -> None:
    assert variants.parse(["a.b-c= x , y"]) == [Varied("a.b_c", ("x", "y"))]
    with pytest.raises(InputError, match="given twice"):
        variants.parse(["a.b=1,2", "a.b=3"])
    assert variants.short_names(["model.ffn.kind", "model.norm.kind", "train.clip"]) == [
        "ffn.kind",
        "norm.kind",
        "clip",
    ]
    assert variants.short_names(["corpus.seed", "generate.seed"]) == ["corpus.seed", "generate.seed"]


def test_nothing_to_compare_or_too_much(tmp_path: Path) -> None:
    for vary in ([], ["model.n_layers=2"]):
        with pytest.raises(InputError, match="nothing to compare"):
            expanded(tmp_path, *vary)
    with pytest.raises(InputError, match="2 variants with 33 seeds are 66 runs, 64 are the most"):
        expanded(tmp_path, "model.n_layers=2,3", seeds=33)
    with pytest.raises(InputError, match="--seeds 0: must be at least 1"):
        expanded(tmp_path, "model.n_layers=2,3", seeds=0)
    with pytest.raises(InputError, match="given both as"):
        expanded(tmp_path, "model.n_layers=2,3", **{"model.n-layers": 4})


def test_all_problems_of_all_variants_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        expanded(tmp_path, "train.optimizer.kind=muon,adamx", "model.n_layers=2,wide", **{"train.clip": -1})
    problems = caught.value.problems
    assert len(problems) == 3
    assert any(p.startswith("train: clip=-1.0") for p in problems), "what all have stands by itself"
    assert any(p.startswith("[adamx, n_layers 2; adamx, n_layers wide] train.optimizer.kind") for p in problems)
    assert any(p.startswith("[muon, n_layers wide; adamx, n_layers wide] model.n_layers") for p in problems)


def test_problems_beyond_the_sections(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        expanded(
            tmp_path, "corpus.source=fables:es,nowhere.txt", "model.context_length=16,32", **{"evaluate.stride": 20}
        )
    told = str(caught.value)
    assert "nowhere.txt" in told
    assert "[fables:es, context_length 16; nowhere.txt, context_length 16] evaluate.stride=20" in told


def test_the_same_settings_in_two_spellings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'"clip 1" and "clip 1\.0" are the same settings'):
        expanded(tmp_path, "train.clip=1,1.0")


@pytest.mark.parametrize(
    "varied", ["train.precision=float32,bfloat16", "train.compile=off,on", "train.recompute=false,true"]
)
def test_how_it_is_computed_may_be_compared(varied: str, tmp_path: Path) -> None:
    assert len(expanded(tmp_path, varied)) == 2


def test_folders_differ_where_values_do(tmp_path: Path) -> None:
    made = expanded(tmp_path, "generate.stop=a b,a-b,A*b")
    assert len({v.slug.casefold() for v in made}) == 3
    assert all("/" not in v.slug and not v.slug.startswith(".") for v in made)
