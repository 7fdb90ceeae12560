"""Strict configurations: everything wrong at once, nothing converted silently, there and back unchanged."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula.config import (
    Typed,
    build,
    collect,
    describe,
    dump_json,
    dump_toml,
    load_toml,
    merge,
    nest,
    setting,
    to_data,
    type_name,
)
from fabula.errors import ConfigError, InputError
from fabula.registry import Registry

plants: Registry[type[Plant]] = Registry("plant")


@dataclass(frozen=True, kw_only=True)
class Plant:
    variants: ClassVar[Registry[type[Plant]]] = plants

    height: float = setting(1.0, "in metres")

    def __post_init__(self) -> None:
        if self.height <= 0:
            raise ValueError(f"height={self.height} must be above 0")


@plants.register("tree")
@dataclass(frozen=True, kw_only=True)
class Tree(Plant):
    rings: int = setting(1, "years")


@plants.register("rose")
@dataclass(frozen=True, kw_only=True)
class Rose(Plant):
    colour: Literal["red", "white"] = setting("red", "of the petals")


@dataclass(frozen=True, kw_only=True)
class Fence:
    planks: int = setting(10, "how many")
    painted: bool = setting(False, "is it")


@dataclass(frozen=True, kw_only=True)
class Garden:
    name: str = setting(doc="what it is called")
    area: float = setting(2.5, "square metres")
    beds: int = setting(3, "how many")
    open: bool = setting(True, "to visitors")
    limit: int | None = setting(None, "most visitors")
    size: int | Literal["auto"] = setting("auto", "or a number")
    tags: tuple[str, ...] = setting((), "words")
    rows: tuple[int, ...] = setting((), "numbers")
    notes: dict[str, int] = setting(factory=dict, doc="by name")
    season: Literal["spring", "autumn"] = setting("spring", "when")
    fence: Fence = setting(factory=Fence, doc="around it")
    plant: Plant = setting(factory=Tree, doc="in the middle")
    extra: Any = setting(None, "anything")
    secret: int = field(default=7, init=False)

    def __post_init__(self) -> None:
        if self.beds == 13:
            raise ValueError("beds=13 brings bad luck")


def problems(data: dict[str, Any], where: str = "garden") -> list[str]:
    with pytest.raises(ConfigError) as error:
        build(Garden, {"name": "g"} | data, where)
    return error.value.problems


def made(**data: Any) -> Garden:
    return build(Garden, {"name": "g"} | data)


def test_defaults_and_values() -> None:
    assert made() == Garden(name="g")
    full = made(
        area=4, beds=1, open=False, limit=9, size=5, tags=["a", "b"], rows=[1, 2], notes={"x": 1}, season="autumn",
        fence={"planks": 2}, plant={"kind": "rose", "colour": "white"}, extra={"any": ["thing"]},
    )  # fmt: skip
    assert full.area == 4.0
    assert isinstance(full.area, float), "a whole number is a number"
    assert (full.tags, full.rows, full.notes) == (("a", "b"), (1, 2), {"x": 1})
    assert full.fence == Fence(planks=2)
    assert full.plant == Rose(colour="white")
    assert full.extra == {"any": ["thing"]}


def test_unknown_keys_get_the_nearest_name() -> None:
    assert problems({"bedz": 1}) == ['garden.bedz: unknown key; did you mean "beds"?']
    assert problems({"fence": {"plank": 1}}) == ['garden.fence.plank: unknown key; did you mean "planks"?']
    assert problems({"plant": {"kind": "rose", "rings": 3}}) == [
        "garden.plant.rings: unknown key; valid: height, colour"
    ]
    assert problems({"secret": 1})[0].startswith("garden.secret: unknown key"), "what is not settable is not a key"
    assert problems({"bedz": 1}, where="") == ['bedz: unknown key; did you mean "beds"?']


def test_a_key_of_the_section_below_is_found() -> None:
    assert problems({"planks": 2}) == ['garden.planks: unknown key; did you mean "garden.fence.planks"?']
    assert problems({"colour": "red"}) == ['garden.colour: unknown key; did you mean "garden.plant.colour"?']
    assert problems({"planks": 2}, where="") == ['planks: unknown key; did you mean "fence.planks"?']


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"beds": 1.5}, "garden.beds: expected a whole number, got 1.5"),
        ({"beds": 1.0}, "garden.beds: expected a whole number, got 1.0"),
        ({"beds": True}, "garden.beds: expected a whole number, got True"),
        ({"beds": "3"}, 'garden.beds: expected a whole number, got "3"'),
        ({"beds": None}, "garden.beds: expected a whole number, got None"),
        ({"area": True}, "garden.area: expected a number, got True"),
        ({"area": "big"}, 'garden.area: expected a number, got "big"'),
        ({"area": math.nan}, "garden.area: expected a number, got nan"),
        ({"area": -math.inf}, "garden.area: expected a number, got -inf"),
        ({"open": 1}, "garden.open: expected true | false, got 1"),
        ({"open": "yes"}, 'garden.open: expected true | false, got "yes"'),
        ({"name": 3}, "garden.name: expected text, got 3"),
        ({"tags": "a,b"}, 'garden.tags: expected a list, got "a,b"'),
        ({"tags": ["a", 2]}, "garden.tags[1]: expected text, got 2"),
        ({"limit": "few"}, 'garden.limit: expected whole number | none, got "few"'),
        ({"size": "big"}, 'garden.size: expected whole number | auto, got "big"'),
        ({"season": "winter"}, 'garden.season: "winter" is not allowed; valid: spring, autumn'),
        ({"season": "sprung"}, 'garden.season: "sprung" is not allowed; did you mean "spring"?'),
        ({"fence": 3}, "garden.fence: expected a table, got 3"),
        ({"notes": [1]}, "garden.notes: expected table, got [1]"),
        ({"notes": {"x": "y"}}, 'garden.notes.x: expected a whole number, got "y"'),
        ({"plant": {"kind": "bush"}}, 'garden.plant.kind: unknown plant "bush"; valid: tree, rose'),
        ({"plant": {"kind": "tre"}}, 'garden.plant.kind: unknown plant "tre"; did you mean "tree"?'),
        ({"plant": "tree"}, 'garden.plant: expected a table, got "tree"; set garden.plant.kind = "tree"'),
        ({"plant": {"kind": "tree", "height": -1}}, "garden.plant: height=-1.0 must be above 0"),
        ({"beds": 13}, "garden: beds=13 brings bad luck"),
        ({"tags": ["x" * 200, 5]}, "garden.tags[1]: expected text, got 5"),
    ],
    ids=str,
)
def test_wrong_values(data: dict[str, Any], message: str) -> None:
    assert problems(data) == [message]


def test_a_number_beyond_floats_is_refused() -> None:
    (message,) = problems({"area": 10**400})
    assert message.startswith("garden.area: expected a number, got 1000")
    assert len(message) < 200, "long values are shortened"


def test_several_problems_come_together_in_order() -> None:
    with pytest.raises(ConfigError) as error:
        build(
            Garden, {"bedz": 1, "area": "x", "fence": {"planks": "y", "painted": 0}, "plant": {"height": 0}}, "garden"
        )
    assert error.value.problems == [
        'garden.bedz: unknown key; did you mean "beds"?',
        'garden.area: expected a number, got "x"',
        'garden.fence.planks: expected a whole number, got "y"',
        "garden.fence.painted: expected true | false, got 0",
        "garden.plant: height=0.0 must be above 0",
        "garden.name: missing",
    ]
    assert str(error.value).startswith("6 problems\n  - garden.bedz: unknown key")


def test_collect_goes_on_with_a_shared_list() -> None:
    shared = ["something before"]
    assert collect(Garden, {"name": "g"}, "garden", shared) == Garden(name="g")
    assert collect(Garden, {}, "garden", shared) is None
    assert shared == ["something before", "garden.name: missing"]


# ---- variants ---------------------------------------------------------------------------------------------------


def test_a_table_without_a_kind_means_the_default_one() -> None:
    assert made(plant={"rings": 5}).plant == Tree(rings=5)
    assert problems({"plant": {"colour": "red"}}) == ["garden.plant.colour: unknown key; valid: height, rings"]


def test_a_variant_without_a_default_needs_its_kind() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Pot:
        plant: Plant = setting(doc="in it")

    with pytest.raises(ConfigError, match=r'pot.plant: needs a "kind"; valid: tree, rose'):
        build(Pot, {"plant": {"height": 2}}, "pot")
    assert build(Pot, {"plant": {"kind": "rose"}}).plant == Rose()
    assert to_data(build(Pot, {"plant": {"kind": "rose"}})) == {
        "plant": {"kind": "rose", "height": 1.0, "colour": "red"}
    }


def test_an_instance_may_stand_for_its_table() -> None:
    assert made(plant=Rose(), fence=Fence(planks=1)) == Garden(name="g", plant=Rose(), fence=Fence(planks=1))


# ---- text from a command line -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("beds", "4", 4),
        ("beds", "1_000", 1000),
        ("beds", "-2", -2),
        ("area", "1e-3", 0.001),
        ("area", "5", 5.0),
        ("open", "false", False),
        ("open", "No", False),
        ("open", "on", True),
        ("name", "7", "7"),
        ("name", "none", "none"),
        ("limit", "none", None),
        ("limit", "12", 12),
        ("size", "auto", "auto"),
        ("size", "12", 12),
        ("season", "autumn", "autumn"),
        ("tags", "a, b,c", ("a", "b", "c")),
        ("tags", "", ()),
        ("rows", "1,2", (1, 2)),
    ],
)
def test_typed_text_becomes_its_fields_type(name: str, text: str, value: object) -> None:
    got = getattr(build(Garden, {"name": "g", name: Typed(text)}), name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("beds", "1.5", 'garden.beds: expected a whole number, got "1.5"'),
        ("beds", "", 'garden.beds: expected a whole number, got ""'),
        ("beds", "none", 'garden.beds: expected a whole number, got "none"'),
        ("area", "nan", 'garden.area: expected a number, got "nan"'),
        ("area", "1e999", 'garden.area: expected a number, got "1e999"'),
        ("open", "maybe", 'garden.open: expected true | false, got "maybe"'),
        ("rows", "1,x", 'garden.rows[1]: expected a whole number, got "x"'),
        ("season", "Spring", 'garden.season: "Spring" is not allowed; did you mean "spring"?'),
        ("fence", "x", 'garden.fence: expected a table, got "x"'),
    ],
)
def test_typed_text_that_does_not_fit(name: str, text: str, message: str) -> None:
    assert problems({name: Typed(text)}) == [message]


def test_a_typed_kind_chooses_the_variant() -> None:
    data = nest([("plant.kind", Typed("rose")), ("plant.height", Typed("2"))])
    assert made(**data).plant == Rose(height=2.0)


# ---- there and back ---------------------------------------------------------------------------------------------

FULL = Garden(
    name='quotes " and ñ\n', area=0.1, limit=3, size=4, tags=("a", ""), rows=(0, -1), notes={"x y": 2}, season="autumn",
    fence=Fence(painted=True), plant=Rose(height=3.0, colour="white"), extra={"list": [1, "two"]},
)  # fmt: skip


def settable(config: Garden) -> dict[str, Any]:
    return {k: v for k, v in to_data(config).items() if k != "secret"}


@pytest.mark.parametrize("config", [Garden(name="g"), FULL], ids=["defaults", "full"])
def test_plain_data_builds_an_equal_configuration(config: Garden) -> None:
    assert build(Garden, settable(config)) == config


@pytest.mark.parametrize("config", [Garden(name="g"), FULL], ids=["defaults", "full"])
def test_toml_builds_an_equal_configuration(config: Garden, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(dump_toml({"garden": settable(config)}), encoding="utf-8")
    assert build(Garden, load_toml(path)["garden"]) == config


def test_toml_leaves_out_what_has_no_value() -> None:
    assert tomllib.loads(dump_toml({"a": None, "b": {"c": None, "d": 1}})) == {"b": {"d": 1}}


def test_json_has_no_nan() -> None:
    assert dump_json({"ñ": [1]}) == '{\n  "ñ": [\n    1\n  ]\n}\n'
    with pytest.raises(ValueError):
        dump_json({"x": math.nan})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = \n", "not valid TOML.*line 1"),
        (b"a = 1\na = 2\n", "not valid TOML.*line 2"),
        (b"a = '\xff'", r"not UTF-8 \(byte 5\)"),
    ],
)
def test_broken_recipes_say_where(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"broken.toml: {message}"):
        load_toml(path)


def test_missing_recipes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such recipe: .*nowhere.toml"):
        load_toml(tmp_path / "nowhere.toml")
    with pytest.raises(InputError, match="is a folder"):
        load_toml(tmp_path)


# ---- merging ----------------------------------------------------------------------------------------------------


def test_leaves_are_laid_on_top() -> None:
    base = {"a": 1, "t": {"x": 1, "u": {"y": 2}}, "list": [1, 2]}
    over = {"t": {"u": {"z": 3}}, "list": [9], "new": {"k": 1}}
    assert merge(base, over) == {"a": 1, "t": {"x": 1, "u": {"y": 2, "z": 3}}, "list": [9], "new": {"k": 1}}
    assert base == {"a": 1, "t": {"x": 1, "u": {"y": 2}}, "list": [1, 2]}, "neither is changed"
    assert over == {"t": {"u": {"z": 3}}, "list": [9], "new": {"k": 1}}


def test_a_table_and_a_value_replace_each_other() -> None:
    assert merge({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}
    assert merge({"a": {"b": 2}}, {"a": 1}) == {"a": 1}


def test_another_kind_forgets_the_old_ones_values() -> None:
    base = {"plant": {"kind": "tree", "rings": 9, "height": 4}}
    assert merge(base, {"plant": {"kind": "rose"}}) == {"plant": {"kind": "rose"}}
    assert merge(base, {"plant": {"kind": "tree", "height": 5}}) == {"plant": {"kind": "tree", "rings": 9, "height": 5}}
    assert merge(base, {"plant": {"kind": Typed("tree")}}) == base
    assert merge(base, {"plant": {"height": 5}})["plant"]["rings"] == 9


trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
tables = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(tables, tables)
def test_merging_again_changes_nothing(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert merge(one, one) == one
    assert merge({}, one) == one == merge(one, {})
    assert merge(merge(one, two), two) == merge(one, two)
    assert set(merge(one, two)) == set(one) | set(two)


def test_nest() -> None:
    assert nest([("train.optimizer.lr", 1), ("train.seed", 2), ("name", "x"), ("a-b.c-d", 3)]) == {
        "train": {"optimizer": {"lr": 1}, "seed": 2},
        "name": "x",
        "a_b": {"c_d": 3},
    }
    assert nest([("a", 1), ("a", 2)]) == {"a": 2}, "the last one wins"


@pytest.mark.parametrize("pairs", [[("a", 1), ("a.b", 2)], [("a.b", 2), ("a", 1)], [("a.b", 1), ("a.b.c", 2)]])
def test_a_name_is_a_value_or_a_table(pairs: list[tuple[str, int]]) -> None:
    with pytest.raises(ConfigError, match="both as a value and as a table"):
        nest(pairs)


# ---- description ------------------------------------------------------------------------------------------------


def test_describe_lists_dotted_names_types_defaults_and_docs() -> None:
    rows = {name: (kind, default, doc) for name, kind, default, doc in describe(Garden, "garden") if name != "x"}
    assert rows["garden.beds"] == ("whole number", 3, "how many")
    assert rows["garden.size"] == ("whole number | auto", "auto", "or a number")
    assert rows["garden.limit"] == ("whole number | none", None, "most visitors")
    assert rows["garden.tags"] == ("list of text", (), "words")
    assert rows["garden.fence.planks"] == ("whole number", 10, "how many")
    assert rows["garden.name"] == ("text", None, "what it is called")
    assert type_name(dict[str, int]) == "table"
