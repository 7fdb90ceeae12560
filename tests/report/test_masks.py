"""Masks as pictures: the right cell in the right place, in both kinds of file."""

from __future__ import annotations

import io
import re
import sys
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from fabula.errors import MachineError
from fabula.model.explained import Row, Side, explain
from fabula.model.presets import presets
from fabula.report import masks

NS = "{http://www.w3.org/2000/svg}"


def facts(
    documents: tuple[int, ...] = (5, 3, 2), padding: int = 2, side: Side = "left", window: int | None = 3
) -> dict[str, Any]:
    found = explain(presets.get("gemma3-270m").config, Row(documents, padding, side), window)
    return {"preset": "gemma3-270m", **found.to_data()}


def cells_of(group: ET.Element, length: int) -> list[list[int]]:
    """The reasons that a group of an SVG draws."""
    rows = [[-1] * length for _ in range(length)]
    for path in group.findall(f"{NS}path"):
        found = re.fullmatch(r"r(\d)", path.get("class", ""))
        if found:
            for x, y, n in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", path.get("d", "")):
                for column in range(int(x), int(x) + int(n)):
                    assert rows[int(y)][column] == -1
                    rows[int(y)][column] = int(found[1])
    return rows


@pytest.mark.parametrize("given", [facts(), facts((12,), 0), facts((60, 40, 8), 20, "right", 16), facts((1,), 0)])
def test_an_svg_draws_every_panel(given: dict[str, Any]) -> None:
    text = masks.svg(given)
    root = ET.fromstring(text)
    assert root.tag == f"{NS}svg"
    groups = [g for g in root.findall(f"{NS}g") if g.find(f"{NS}title") is not None]
    assert [g.findtext(f"{NS}title") for g in groups] == [p["title"] for p in given["panels"]]
    assert [cells_of(g, given["length"]) for g in groups] == [p["rows"] for p in given["panels"]]
    words = " ".join("".join(t.itertext()) for t in root.findall(f"{NS}text"))
    for wanted in (*(p["title"] for p in given["panels"]), *(p["sentence"] for p in given["panels"]), *given["notes"]):
        for word in wanted.split():
            assert word in words
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")  # needs nothing from elsewhere
    assert "prefers-color-scheme:dark" in text


def test_nothing_leaves_the_drawing() -> None:
    for given in (facts(), facts((60, 40, 8), 20, "right", 16), facts((1,), 0), facts((1,) * 40, 3)):
        drawing = masks.layout(given)
        for shape in drawing.shapes:
            assert 0 <= shape.x <= drawing.width
            assert 0 <= shape.y <= drawing.height
            if isinstance(shape, masks.Cells):
                assert shape.x + shape.size * len(shape.rows[0]) <= drawing.width
                assert shape.y + shape.size * len(shape.rows) <= drawing.height


def test_only_reasons_that_occur_are_in_the_legend() -> None:
    words = [s.words for s in masks.layout(facts((4,), 0, window=9)).shapes if isinstance(s, masks.Text)]
    assert masks.WORDS[1] in words
    assert not {masks.WORDS[2], masks.WORDS[3], masks.WORDS[4]} & set(words)


def test_a_png_has_the_colours_where_the_cells_are() -> None:
    image_module = pytest.importorskip("PIL.Image")
    given = facts()
    image = image_module.open(io.BytesIO(masks.png(given)))
    drawing = masks.layout(given)
    assert image.size == (drawing.width * 2, drawing.height * 2)
    squares = [s for s in drawing.shapes if isinstance(s, masks.Cells) and s.name]
    assert len(squares) == 6
    for square in squares:
        for y, row in enumerate(square.rows):
            for x, reason in enumerate(row):
                # Near the corner, beside the mark.
                at = ((square.x + x * square.size) * 2 + 3, (square.y + y * square.size) * 2 + 3)
                assert "#{:02x}{:02x}{:02x}".format(*image.getpixel(at)) == masks._FILLS[reason][0]


def test_every_reason_has_a_word_and_colours_of_its_own() -> None:
    for which in (0, 1):
        assert len({pair[which] for pair in masks._FILLS}) == len(masks._FILLS) == len(masks.WORDS)


def test_a_png_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MachineError, match=r"pillow.*fabula\[masks\]"):
        masks.png(facts())


def test_letters_of_documents_begin_again_after_z() -> None:
    tokens = [{"document": n} for n in range(28)]
    assert "".join(masks.document_letters(tokens)) == "ABCDEFGHIJKLMNOPQRSTUVWXYZAB"
