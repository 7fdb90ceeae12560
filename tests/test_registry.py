"""Names to variants: lazily, once, with the nearest name on a miss."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fabula.errors import InputError
from fabula.registry import Registry


def shapes() -> Registry[type]:
    registry: Registry[type] = Registry("shape")

    @registry.register("circle")
    class Circle: ...

    registry.add("square", int)
    return registry


def test_what_was_entered_comes_back_in_order() -> None:
    registry = shapes()
    assert list(registry) == ["circle", "square"]
    assert len(registry) == 2
    assert registry.get("circle").__name__ == "Circle"
    assert registry.get("square") is int
    assert registry.name_of(int) == "square"
    assert "circle" in registry
    assert "Circle" not in registry
    assert 3 not in registry


def test_a_decorator_gives_its_class_back() -> None:
    registry: Registry[type] = Registry("shape")

    @registry.register("line")
    class Line: ...

    assert registry.get("line") is Line


def test_a_miss_names_the_nearest_or_all() -> None:
    with pytest.raises(InputError) as error:
        shapes().get("cirkle")
    assert str(error.value) == 'unknown shape "cirkle": did you mean "circle"?'
    with pytest.raises(InputError) as error:
        shapes().get("xyzzy")
    assert str(error.value) == 'unknown shape "xyzzy": valid: circle, square'
    empty: Registry[type] = Registry("shape")
    with pytest.raises(InputError) as error:
        empty.get("circle")
    assert str(error.value) == 'unknown shape "circle": nothing is registered'


def test_a_name_is_taken_once() -> None:
    registry = shapes()
    with pytest.raises(ValueError, match="'circle' is registered twice"):
        registry.add("circle", str)
    assert registry.get("circle").__name__ == "Circle"


def test_an_unregistered_object_has_no_name() -> None:
    with pytest.raises(KeyError):
        shapes().name_of(str)


def test_an_import_string_is_resolved_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "costly_shape.py").write_text("class Shape: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry: Registry[type] = Registry("shape")
    registry.add("costly", "costly_shape:Shape")
    assert list(registry) == ["costly"]
    assert "costly_shape" not in sys.modules, "listing imports nothing"
    made = registry.get("costly")
    assert made.__name__ == "Shape"
    assert registry.get("costly") is made
    assert registry.name_of(made) == "costly"
    monkeypatch.delitem(sys.modules, "costly_shape")
