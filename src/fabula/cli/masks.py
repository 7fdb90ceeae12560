"""`fabula model masks`: who may see whom, in the terminal or as a picture."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from fabula.cli import console
from fabula.cli.parts import resolve_model
from fabula.cli.recipes import Json, Settings
from fabula.errors import ConfigError, InputError
from fabula.report import masks as pictures

MOST = 128  # tokens; more cannot be told apart

# Two columns for a cell, or the first of them where there is little room. Different without colours too.
_SIGNS = ("██", "· ", "╱ ", "• ", "× ")
# The nearest of the terminal's 256 colours to those of the pictures.
_COLOURS = ("38;5;32", "38;5;245", "38;5;214", "38;5;175", "38;5;36")
_GAP = 4


def masks(
    preset: Annotated[str, Parameter(help="a preset, or a run folder")],
    /,
    *,
    length: Annotated[int, Parameter(help=f"tokens to draw, padding among them; 1 to {MOST}")] = 12,
    documents: Annotated[str, Parameter(help="lengths of the documents packed in the row, as 5,4,3")] = "",
    padding: Annotated[int, Parameter(help="tokens of padding")] = 0,
    side: Annotated[Literal["left", "right"], Parameter(help="where the padding is")] = "right",
    window: Annotated[int | None, Parameter(help="draw the local layers' window (blocks: their size) so small")] = None,
    out: Annotated[Path | None, Parameter(help="write a picture instead, a file that ends with .svg or .png")] = None,
    json: Json = False,
    settings: Settings = (),
) -> None:
    """Draw who may see whom: the causal, window, document and padding masks, and what they hide together.

    Each kind of layer is drawn once. Settings of the model can be changed with --model.NAME VALUE.
    """
    from fabula.model.config import ModelConfig
    from fabula.model.explained import Row, explain

    problems = []
    if out is not None and out.suffix.lower() not in (".svg", ".png"):
        problems.append(f"--out {out}: a picture is .svg or .png")
    sizes = _sizes(documents, length, padding, problems)
    try:
        name, config = resolve_model(preset, settings)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if not isinstance(config, ModelConfig):
        raise InputError(f"{name} is not a decoder; masks are drawn for decoders only")
    if 0 < config.context_length < length <= MOST:
        problems.append(f"--length {length} is above the context_length of {name}, {config.context_length:,}")
    if window is not None:
        if config.local.most() is None:
            problems.append(
                f"--window {window}: every layer of {name} sees back to the beginning; to draw a window, add for "
                "example --model.pattern LG --model.local.kind sliding --model.local.window 4"
            )
        elif window < 1 or (sizes and window > length):
            problems.append(f"--window {window}: from 1 to the tokens that are drawn, --length {length}")
    if problems:
        raise ConfigError(problems)
    found = explain(config, Row(sizes, padding, side), window)
    facts = {"preset": name, **found.to_data()}
    if out is not None:
        from fabula import storage

        content = pictures.png(facts) if out.suffix.lower() == ".png" else pictures.svg(facts).encode()
        storage.write_bytes(out, content)
        console.say(f"{len(found.panels)} mask{'s' * (len(found.panels) > 1)} in {out}")
    if json:
        console.out_json(facts)
    elif out is None:
        _draw(facts)
    if found.idle_window:
        console.say(f"--window {max(1, length // 3)} draws the window smaller than it is")


def _sizes(documents: str, length: int, padding: int, problems: list[str]) -> tuple[int, ...]:
    """The documents' lengths; all the text is one if none are named."""
    if not 1 <= length <= MOST:
        problems.append(f"--length {length}: from 1 to {MOST}")
        return ()
    if not 0 <= padding < length:
        problems.append(f"--padding {padding}: from 0 to {length - 1}, since --length {length} includes the padding")
        return ()
    text = length - padding
    if not documents:
        return (text,)
    try:
        sizes = tuple(int(size) for size in documents.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        problems.append(f'--documents "{documents}": lengths of 1 or more with commas between them, as 5,4,3')
        return ()
    if sum(sizes) != text:
        less = f" less {padding} of padding" if padding else ""
        problems.append(f"--documents {documents} are {sum(sizes)} tokens; --length {length}{less} is {text}")
    return sizes


# ---- the terminal ------------------------------------------------------------------------------------------


def _draw(facts: dict[str, Any]) -> None:
    terminal = sys.stdout is not None and sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns
    coloured = console.coloured()
    for line in drawn(facts, columns, coloured=coloured, refuse=terminal):
        console.out(line, own=coloured)


def drawn(facts: dict[str, Any], columns: int, *, coloured: bool = False, refuse: bool = True) -> list[str]:
    """The lines of a drawing, panels side by side as far as `columns` allow; colours are codes for a terminal.

    InputError when one panel alone is wider, if it is to be refused.
    """
    length = facts["length"]
    banded = len(facts["documents"]) > 1 or facts["padding"] > 0
    label = len(str(length - 1)) + 1 + 2 * banded
    cell = 2 if label + 2 * length <= columns else 1
    grid = label + cell * length
    if refuse and grid > columns:
        fits = columns - label
        way = f"--length {fits} fits; " if fits >= 1 else ""
        raise InputError(
            f"a drawing of {length} tokens is {grid} columns wide, the terminal has {columns}: {way}--out FILE.svg "
            "writes a picture"
        )
    width = max(grid, min(36, columns))
    beside = max(1, (columns + _GAP) // (width + _GAP))
    if len(facts["panels"]) == 4 and beside == 3:
        beside = 2
    lines = [pictures.heading(facts)]
    for sentence in (pictures.below_heading(facts), *facts["notes"]):
        lines += textwrap.wrap(sentence, max(columns, 36))
    for first in range(0, len(facts["panels"]), beside):
        together = facts["panels"][first : first + beside]
        blocks = [_block(facts, panel, width, label, cell, coloured) for panel in together]
        heads = max(len(head) for head, _ in blocks)
        for head, _ in blocks:
            head += [(" " * width, width)] * (heads - len(head))
        lines.append("")
        for parts in zip(*(head + body for head, body in blocks), strict=True):
            padded = [text + " " * (width + _GAP - wide) for text, wide in parts]
            lines.append("".join(padded).rstrip())
    lines.append("")
    for code in pictures.used_reasons(facts):
        lines.append(f"{_painted(_SIGNS[code], code, coloured)} {pictures.WORDS[code]}")
    return lines


Piece = tuple[str, int]  # a text and the columns that it takes


def _block(
    facts: dict[str, Any], panel: dict[str, Any], width: int, label: int, cell: int, coloured: bool
) -> tuple[list[Piece], list[Piece]]:
    """One panel: its words, and the cells with their numbers."""
    numbers = range(facts["length"])
    letters = pictures.document_letters(facts["tokens"])
    banded = len(facts["documents"]) > 1 or facts["padding"] > 0
    head = textwrap.wrap(panel["title"], width) + textwrap.wrap(panel["sentence"], width)
    # Digits of a column's number stand above each other.
    digits = len(str(numbers[-1]))
    above = ["".join(str(n).rjust(digits)[place].ljust(cell) for n in numbers) for place in range(digits)]
    if banded:
        above.append("".join(letter.ljust(cell) for letter in letters))
    body = [(" " * label + line, label + len(line)) for line in above]
    for number, row in zip(numbers, panel["rows"], strict=True):
        start = f"{number:>{digits}} " + (f"{letters[number]} " if banded else "")
        body.append((start + _cells(row, cell, coloured), label + cell * len(row)))
    return [(line, len(line)) for line in head], body


def _cells(row: Sequence[int], cell: int, coloured: bool) -> str:
    parts, start = [], 0
    for end in range(1, len(row) + 1):
        if end == len(row) or row[end] != row[start]:
            parts.append(_painted(_SIGNS[row[start]][:cell] * (end - start), row[start], coloured))
            start = end
    return "".join(parts)


def _painted(text: str, code: int, coloured: bool) -> str:
    return f"\x1b[{_COLOURS[code]}m{text}\x1b[0m" if coloured else text
