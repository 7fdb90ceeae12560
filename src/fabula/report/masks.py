"""How do masks become a picture? From the JSON of `fabula model masks` to SVG and PNG.

Both are painted from one layout: texts, lines and squares of cells at places in pixels. A reason has a colour of the
Okabe-Ito palette, which the colour-blind can tell apart, and a mark, so that it survives grey paper.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fabula.errors import require_extra

# What the reasons are called, in the order of their codes.
WORDS = (
    "seen",
    "hidden: it comes later (causal)",
    "hidden: outside the window",
    "hidden: another document",
    "hidden: padding",
)

# (light, dark) of each reason, and of what is not a cell.
_FILLS = (
    ("#0072b2", "#56b4e9"),
    ("#e9e6df", "#34332f"),
    ("#e69f00", "#b57d00"),
    ("#cc79a7", "#a85a86"),
    ("#009e73", "#00795a"),
)
_COLOURS = {"paper": ("#fbfaf7", "#171716"), "ink": ("#1d1c1a", "#e7e4dc"), "soft": ("#62605a", "#a3a098")}

_MARGIN, _GAP, _PANEL, _GRID = 24, 40, 300, 264
_LINE = 1.4  # of the size of a text
_LETTER = 0.5  # mean width of a letter, of the size of its text; a little generous
_MARKED = 8  # pixels of a cell from which on it has room for a mark
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Text:
    """Words whose baseline begins, is centred or ends at a place."""

    x: float
    y: float
    words: str
    size: float = 12
    colour: str = "ink"
    anchor: str = "start"
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A horizontal or vertical stroke."""

    x: float
    y: float
    to_x: float
    to_y: float
    colour: str = "soft"


@dataclass(frozen=True, slots=True)
class Cells:
    """Rows of reasons as squares of `size` pixels."""

    x: float
    y: float
    size: int
    rows: Sequence[Sequence[int]]
    name: str

    def runs(self, reason: int) -> Iterator[tuple[int, int, int]]:
        """(column, row, length) of the runs of a reason, row by row."""
        for y, row in enumerate(self.rows):
            x = 0
            while x < len(row):
                end = x
                while end < len(row) and row[end] == row[x]:
                    end += 1
                if row[x] == reason:
                    yield x, y, end - x
                x = end


@dataclass(frozen=True, slots=True)
class Drawing:
    """What stands where, in pixels."""

    width: int
    height: int
    title: str
    shapes: tuple[Text | Line | Cells, ...]


def document_letters(tokens: Sequence[dict[str, Any]]) -> list[str]:
    """A letter for the document of each token, a dash for padding; after Z comes A again.

    >>> document_letters([{"document": None}, {"document": 0}, {"document": 27}])
    ['-', 'A', 'B']
    """
    return ["-" if t["document"] is None else chr(ord("A") + t["document"] % 26) for t in tokens]


def heading(facts: dict[str, Any]) -> str:
    """The title of a drawing."""
    return f"{facts['preset']}: who may see whom"


def below_heading(facts: dict[str, Any]) -> str:
    """What is drawn, in a sentence or two."""
    parts = [f"{facts['length']} token{'s' * (facts['length'] > 1)}"]
    if len(facts["documents"]) > 1:
        sizes = [str(size) for size in facts["documents"]]
        parts.append(f"documents of {', '.join(sizes[:-1])} and {sizes[-1]}")
    if facts["padding"]:
        parts.append(f"{facts['padding']} of padding on the {facts['side']}")
    return ", ".join(parts) + ". A row is a query, a column a key."


def used_reasons(facts: dict[str, Any]) -> list[int]:
    """The codes that occur in any panel."""
    return sorted({code for panel in facts["panels"] for row in panel["rows"] for code in row})


# ---- layout ----------------------------------------------------------------------------------------------


def layout(facts: dict[str, Any]) -> Drawing:
    """Panels side by side, at most three, the legend below."""
    length, panels = facts["length"], facts["panels"]
    cell = max(3, min(22, _GRID // length))
    banded = len(facts["documents"]) > 1 or facts["padding"] > 0
    gutter = 24 + (16 if banded else 0)
    panel_width = max(_PANEL, gutter + cell * length)
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    width = 2 * _MARGIN + columns * panel_width + (columns - 1) * _GAP
    shapes: list[Text | Line | Cells] = []
    y = _MARGIN + 18.0
    shapes.append(Text(_MARGIN, y, heading(facts), size=18, bold=True))
    y += 8
    for sentence in (below_heading(facts), *facts["notes"]):
        lines = _wrapped(sentence, width - 2 * _MARGIN, 13)
        for line in lines:
            y += 13 * _LINE
            shapes.append(Text(_MARGIN, y, line, size=13, colour="soft"))
    for first in range(0, len(panels), columns):
        y += 42
        together = panels[first : first + columns]
        titles = [_wrapped(panel["title"], panel_width, 14) for panel in together]
        sentences = [_wrapped(panel["sentence"], panel_width, 12) for panel in together]
        head = 14 * _LINE * max(map(len, titles)) + 12 * _LINE * max(map(len, sentences)) + 10
        for i, panel in enumerate(together):
            x, place = _MARGIN + i * (panel_width + _GAP), y
            for line in titles[i]:
                shapes.append(Text(x, place, line, size=14, bold=True))
                place += 14 * _LINE
            for line in sentences[i]:
                shapes.append(Text(x, place, line, size=12, colour="soft"))
                place += 12 * _LINE
            shapes += _grid(facts, panel, x + gutter, y + head + (gutter - 24), cell, banded)
        y += head + (gutter - 24) + cell * length
    y += 40
    x = float(_MARGIN)
    for code in used_reasons(facts):
        needed = 22 + len(WORDS[code]) * 12 * (_LETTER + 0.02) + 20
        if x > _MARGIN and x + needed > width - _MARGIN:
            x, y = float(_MARGIN), y + 24
        shapes.append(Cells(x, y - 12, 15, ((code,),), ""))
        shapes.append(Text(x + 22, y, WORDS[code]))
        x += needed
    return Drawing(width, math.ceil(y + _MARGIN), f"{heading(facts)}. {below_heading(facts)}", tuple(shapes))


def _grid(
    facts: dict[str, Any], panel: dict[str, Any], x: float, y: float, cell: int, banded: bool
) -> Iterator[Text | Line | Cells]:
    """One panel's cells with the tokens' numbers and, outside of them, their documents."""
    yield Cells(x, y, cell, panel["rows"], panel["title"])
    length = facts["length"]
    every = next(step for step in (1, 2, 4, 8, 16, 32) if step * cell >= 14)
    small = 9.5 if every > 1 else min(11.0, cell * 0.6)
    for number in range(0, length, every):
        middle = (number + 0.5) * cell
        yield Text(x + middle, y - 5, str(number), size=small, colour="soft", anchor="middle")
        yield Text(x - 5, y + middle + small * 0.36, str(number), size=small, colour="soft", anchor="end")
    if not banded:
        return
    # Strokes along the documents, a letter where there is room.
    letters, start = document_letters(facts["tokens"]), 0
    documents = [token["document"] for token in facts["tokens"]]
    while start < length:
        stop = start
        while stop < length and documents[stop] == documents[start]:
            stop += 1
        a, b, middle = start * cell + 1.5, stop * cell - 1.5, (start + stop) / 2 * cell
        name = "padding" if letters[start] == "-" else letters[start]
        yield Line(x + a, y - 19, x + b, y - 19)
        yield Line(x - 24, y + a, x - 24, y + b)
        if b - a >= len(name) * 6:
            yield Text(x + middle, y - 23, name, size=11, anchor="middle")
        if b - a >= 9:
            yield Text(x - 28, y + middle + 4, letters[start], size=11, anchor="end")
        start = stop


def _wrapped(words: str, width: float, size: float) -> list[str]:
    return textwrap.wrap(words, int(width / (size * _LETTER)))


# ---- SVG -------------------------------------------------------------------------------------------------


def svg(facts: dict[str, Any]) -> str:
    """A drawing that needs nothing else: light or dark as the reader's machine is, text that can be selected."""
    drawing = layout(facts)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{drawing.width}" height="{drawing.height}" '
        f'viewBox="0 0 {drawing.width} {drawing.height}" role="img">',
        f"<title>{escape(drawing.title)}</title>",
        f"<style>{_style()}</style>",
        "<defs>",
        '<pattern id="m2" width="1" height="1" patternUnits="userSpaceOnUse"><path d="M.28 .72L.72 .28"/></pattern>',
        '<pattern id="m3" width="1" height="1" patternUnits="userSpaceOnUse"><path d="M.5 .5h0"/></pattern>',
        '<pattern id="m4" width="1" height="1" patternUnits="userSpaceOnUse">'
        '<path d="M.3 .3L.7 .7M.3 .7L.7 .3"/></pattern>',
        "</defs>",
        '<rect class="paper" width="100%" height="100%"/>',
    ]
    for shape in drawing.shapes:
        if isinstance(shape, Text):
            weight = ' font-weight="600"' if shape.bold else ""
            anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
            parts.append(
                f'<text class="{shape.colour}" x="{_number(shape.x)}" y="{_number(shape.y)}" '
                f'font-size="{_number(shape.size)}"{weight}{anchor}>{escape(shape.words)}</text>'
            )
        elif isinstance(shape, Line):
            path = f"M{_number(shape.x)} {_number(shape.y)}L{_number(shape.to_x)} {_number(shape.to_y)}"
            parts.append(f'<path class="stroke" d="{path}"/>')
        else:
            parts.append(_svg_cells(shape))
    return "\n".join([*parts, "</svg>", ""])


def _svg_cells(cells: Cells) -> str:
    place = f"translate({_number(cells.x)} {_number(cells.y)}) scale({cells.size})"
    parts = [f'<g transform="{place}">']
    if cells.name:
        parts.append(f"<title>{escape(cells.name)}</title>")
    for reason in range(len(_FILLS)):
        path = "".join(f"M{x} {y}h{n}v1h-{n}z" for x, y, n in cells.runs(reason))
        if path:
            parts.append(f'<path class="r{reason}" d="{path}"/>')
            if reason >= 2 and cells.size >= _MARKED:
                parts.append(f'<path fill="url(#m{reason})" d="{path}"/>')
    height, width = len(cells.rows), len(cells.rows[0])
    if cells.size >= _MARKED and width > 1:
        lines = "".join(f"M{x} 0v{height}" for x in range(1, width))
        lines += "".join(f"M0 {y}h{width}" for y in range(1, height))
        parts.append(f'<path class="between" d="{lines}"/>')
    return "".join([*parts, "</g>"])


def _style() -> str:
    def rules(which: int) -> str:
        fills = "".join(f".r{i}{{fill:{pair[which]}}}" for i, pair in enumerate(_FILLS))
        paper, ink, soft = (_COLOURS[name][which] for name in ("paper", "ink", "soft"))
        return (
            f"{fills}.paper{{fill:{paper}}}.ink{{fill:{ink}}}.soft{{fill:{soft}}}.stroke{{stroke:{soft}}}"
            f"pattern path{{stroke:{paper}}}.between{{stroke:{paper}}}"
        )

    return (
        f"text{{font-family:{_FONT}}}.stroke{{fill:none}}.between{{fill:none;stroke-width:.06}}"
        "pattern path{fill:none;stroke-width:.11;stroke-linecap:round}#m3 path{stroke-width:.3}"
        f"{rules(0)}@media (prefers-color-scheme:dark){{{rules(1)}}}"
    )


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


# ---- PNG -------------------------------------------------------------------------------------------------

_SCALE = 2  # pixels of the file for one of the layout


def png(facts: dict[str, Any]) -> bytes:
    """The same in light colours. MachineError when Pillow is missing."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise require_extra("pillow", "masks", "a PNG") from None
    drawing, s = layout(facts), _SCALE
    image = Image.new("RGB", (drawing.width * s, drawing.height * s), _COLOURS["paper"][0])
    draw = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        if isinstance(shape, Text):
            draw.text(
                (shape.x * s, shape.y * s),
                shape.words,
                fill=_COLOURS[shape.colour][0],
                font=ImageFont.load_default(shape.size * s),
                anchor={"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor],
                stroke_width=0.4 if shape.bold else 0,
            )
        elif isinstance(shape, Line):
            draw.line((shape.x * s, shape.y * s, shape.to_x * s, shape.to_y * s), _COLOURS[shape.colour][0], s)
        else:
            _paint_cells(draw, shape, shape.size * s)
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()


def _paint_cells(draw: Any, cells: Cells, size: int) -> None:
    left, top, paper = round(cells.x * _SCALE), round(cells.y * _SCALE), _COLOURS["paper"][0]
    gap = 1 if cells.size >= _MARKED else 0
    for y, row in enumerate(cells.rows):
        for x, reason in enumerate(row):
            a, b = left + x * size, top + y * size
            draw.rectangle((a, b, a + size - 1 - gap, b + size - 1 - gap), _FILLS[reason][0])
            if cells.size < _MARKED:
                continue
            middle = (a + size / 2, b + size / 2)
            reach, stroke = size * 0.21, max(2, round(size * 0.1))
            if reason in (2, 4):
                ends = (middle[0] - reach, middle[1] + reach, middle[0] + reach, middle[1] - reach)
                draw.line(ends, paper, stroke)
            if reason == 4:
                ends = (middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach)
                draw.line(ends, paper, stroke)
            if reason == 3:
                radius = size * 0.15
                draw.ellipse((middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius), paper)
