"""A recipe is right as a whole or refused as a whole."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fabula import config, recipe
from fabula.config import to_data
from fabula.errors import ConfigError, InputError
from tests import tiny


def problems(path: Path, *overrides: tuple[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        recipe.load(path, overrides)
    return caught.value.problems


def test_the_name_is_the_files_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert recipe.load(tiny.write_recipe(tmp_path, name="mis cuentos 🦊.toml")).name == "mis cuentos 🦊"
    path = tiny.write_recipe(tmp_path, 'name = "otro"\n' + tiny.RECIPE)
    assert recipe.load(path).name == "otro"
    assert recipe.load(path, [("name", "tercero")]).name == "tercero"


def test_all_problems_at_once_each_with_its_way_out(tmp_path: Path) -> None:
    text = tiny.RECIPE.replace("[train]", "[train]\nbugdet = '5m'\n").replace("d_model = 32", 'd_model = "wide"')
    text = text.replace("validation = 0.2", "validation = 0.9").replace('kind = "wsd"', 'kind = "wsdd"')
    found = "\n".join(problems(tiny.write_recipe(tmp_path, text), ("toknizer.vocab_size", "300"), ("train.keep", "x")))
    for expected in (
        'train.bugdet: unknown key; did you mean "budget"?',
        "model.d_model: expected a whole number",
        "validation=0.9",
        'train.schedule.kind: unknown schedule "wsdd"; did you mean "wsd"?',
        'toknizer: unknown key; did you mean "tokenizer"?',
        "train.keep: expected a whole number",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.budget", "soon", "is not a budget"),
        ("train.optimizer.kind", "adamww", 'did you mean "adamw"'),
        ("train.optimizer.lr", "-1", "above 0"),
        ("train.schedule.final", "2", "between 0 and 1"),
        ("model.preset", "fabula-1mm", 'did you mean "fabula-1m"'),
        ("model.d_modle", "3", 'did you mean "d_model"'),
        ("model.ffn.kind", "swigloo", 'did you mean "swiglu"'),
        ("model.n_layers", "0", "at least 1"),
        ("tokenizer.vocab_size", "12", "at least"),
        ("tokenizer.vocab_size", "many", "vocab_size"),
        ("corpus.split", "blanks", 'did you mean "blank"'),
        ("corpus.source", "", "names nothing"),
        ("evaluate.checkpoint", "bets", "must be best, last or step-N"),
        ("evaluate.stride", "-1", "at least 0"),
        ("generate.temperature", "-1", "at least 0"),
        ("generate.temperature", "nan", "expected a number"),
        ("generate.max_new_tokens", "0", "at least 1"),
        ("data.shard_tokens", "0", "at least 1"),
        ("seed", "-1", "seed"),
        ("seed", "99999999999999999999999", "seed"),
        ("name", "../up", "folder's name"),
        ("name", "..", "folder's name"),
        ("name", ".hidden", "folder's name"),
        ("name", "", "folder's name"),
        ("train", "5m", "expected a table"),
        ("model", "fabula-1m", "expected"),
    ],
)
def test_bad_values(tmp_path: Path, name: str, value: str, message: str) -> None:
    assert message in "\n".join(problems(tiny.write_recipe(tmp_path), (name, value)))


def test_overrides_win(tmp_path: Path) -> None:
    made = recipe.load(
        tiny.write_recipe(tmp_path),
        [
            ("train.budget", "7steps"),
            ("train.optimizer.lr", "0.5"),
            ("generate.prompts", "a, b"),
            ("model.d_model", "64"),
        ],
    )
    assert made.train.budget == "7steps"
    assert to_data(made.train)["optimizer"]["lr"] == 0.5
    assert made.generate.prompts == ("a", "b")
    assert recipe.model_config(made, 320)[1].d_model == 64


def test_an_override_may_change_the_kind(tmp_path: Path) -> None:
    made = recipe.load(
        tiny.write_recipe(tmp_path), [("train.optimizer.kind", "adamw"), ("train.optimizer.lr", "0.001")]
    )
    assert to_data(made.train)["optimizer"]["kind"] == "adamw"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[train", "not valid TOML"),
        (b"a = 1\na = 2", "not valid TOML"),
        (b'description = "ma\xf1ana"', "not UTF-8"),
        (b"\x00", "not valid TOML"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        recipe.load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such recipe"):
        recipe.load(tmp_path / "none.toml")
    with pytest.raises(InputError, match="is a folder"):
        recipe.load(tmp_path)


def test_the_resolved_recipe_is_a_recipe(tmp_path: Path) -> None:
    made = recipe.load(tiny.write_recipe(tmp_path))
    preset, model = recipe.model_config(made, 320)
    text = recipe.dump(made, preset, model, {"train.steps": "24: given — ñ"})
    data = tomllib.loads(text)
    assert data["model"]["vocab_size"] == 320
    assert data["train"]["schedule"] == {"kind": "wsd", "warmup": 0.1, "final": 0.0, "decay": 0.5}
    path = tiny.write_recipe(tmp_path, text, "resolved.toml")
    again = recipe.load(path)
    assert to_data(again.train) == to_data(made.train)
    assert to_data(again.corpus) == to_data(made.corpus)
    assert recipe.model_config(again, 320) == (preset, model)
    assert recipe.dump(again, *recipe.model_config(again, 320), again.rules) == text


def test_the_models_vocabulary_is_the_tokenizers(tmp_path: Path) -> None:
    made = recipe.load(tiny.write_recipe(tmp_path))
    assert recipe.model_config(made, 333)[1].vocab_size == 333
    fixed = recipe.load(tiny.write_recipe(tmp_path), [("model.vocab_size", "300")])
    with pytest.raises(ConfigError, match=r"model\.vocab_size=300 is smaller than the tokenizer's 320"):
        recipe.model_config(fixed, 320)
    larger = recipe.load(tiny.write_recipe(tmp_path), [("model.vocab_size", "512")])
    assert recipe.model_config(larger, 320)[1].vocab_size == 512


SCALED = tiny.RECIPE + "\n[scales.small.model]\nn_layers = 1\n[scales.small.train]\nkeep = 2\n"


def test_a_scale_is_laid_on_the_recipe_and_under_the_overrides(tmp_path: Path) -> None:
    path = tiny.write_recipe(tmp_path, SCALED, name="r.toml")
    plain, small = recipe.load(path), recipe.load(path, [("scale", "small")])
    assert (plain.name, small.name) == ("r", "r-small")
    assert (plain.scale, small.scale) == ("", "small")
    assert plain.model["n_layers"] != 1
    assert (small.model["n_layers"], small.train.keep) == (1, 2)
    assert small.model["d_model"] == plain.model["d_model"], "what the scale does not name stays"
    assert recipe.load(path, [("scale", "small"), ("model.n_layers", "3")]).model["n_layers"] == 3
    assert recipe.load(path, [("scale", "small"), ("name", "x")]).name == "x"


def test_what_a_run_wrote_of_a_scale_is_a_recipe_of_that_scale(tmp_path: Path) -> None:
    small = recipe.load(tiny.write_recipe(tmp_path, SCALED), [("scale", "small")])
    preset, model = recipe.model_config(small, 320)
    (tmp_path / "recipe.toml").write_text(recipe.dump(small, preset, model, {}), encoding="utf-8")
    again = recipe.load(tmp_path / "recipe.toml")
    assert (again.scale, again.name, again.train) == (small.scale, small.name, small.train)


def test_scales_that_are_not_there(tmp_path: Path) -> None:
    path = tiny.write_recipe(tmp_path, SCALED)
    assert problems(path, ("scale", "smal")) == ['scale: there is no [scales.smal]; did you mean "small"?']
    plain = tiny.write_recipe(tmp_path, name="plain.toml")
    assert problems(plain, ("scale", "cpu")) == ["scale: there is no [scales.cpu]; this recipe has none"]
    assert "expected tables" in problems(tiny.write_recipe(tmp_path, "scales = 3\n" + tiny.RECIPE))[0]
    wrong = SCALED.replace("keep = 2", "kep = 2")
    assert 'did you mean "keep"' in problems(tiny.write_recipe(tmp_path, wrong), ("scale", "small"))[0]


def test_a_recipe_does_not_choose_its_own_scale(tmp_path: Path) -> None:
    path = tiny.write_recipe(tmp_path, 'scale = "small"\n' + SCALED)
    assert 'scale="small" in a recipe chooses nothing: leave it out and give --scale' in problems(path)
    inner = SCALED.replace("[scales.small.model]", '[scales.small]\nscale = "x"\n[scales.small.model]')
    assert "scales.small.scale: a scale has no scales" in problems(tiny.write_recipe(tmp_path, inner))


RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_ours_is_right_at_every_scale(path: Path) -> None:
    scales = tomllib.loads(path.read_text(encoding="utf-8")).get("scales", {})
    for scale in ("", *scales):
        loaded = recipe.load(path, [("scale", scale)] if scale else [])
        size = loaded.tokenizer.vocab_size
        recipe.model_config(loaded, size if isinstance(size, int) else 2048)


def test_what_is_typed_for_the_model_is_stored_as_what_it_is(tmp_path: Path) -> None:
    typed = [("model.n_layers", "3"), ("model.ffn.d_ff", "48"), ("model.tied", "false")]
    loaded = recipe.load(tiny.write_recipe(tmp_path), typed)
    again = tmp_path / "again.toml"
    again.write_text(config.dump_toml(config.to_data(loaded)), encoding="utf-8")
    assert recipe.load(again) == loaded
    assert (loaded.model["n_layers"], loaded.model["ffn"]["d_ff"], loaded.model["tied"]) == (3, 48, False)
