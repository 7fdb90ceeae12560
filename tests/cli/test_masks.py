"""`fabula model masks`: what it draws, writes, says and refuses; the pictures of its chapter."""

from __future__ import annotations

import json
import re
import shlex
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from fabula.cli import masks
from fabula.model.explained import Row, explain
from fabula.model.presets import presets

Cli = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[2]
CHAPTER = (ROOT / "docs" / "masks.md").read_text(encoding="utf-8")
GEMMA = ("model", "masks", "gemma3-270m")


# ---- the terminal ------------------------------------------------------------------------------------------


def test_a_drawing_in_the_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "36")
    code, out, err = cli("model", "masks", "fabula-1m", "--length", 4, "--documents", "2,1", "--padding", 1)
    assert (code, err) == (0, "")
    assert out == (
        "fabula-1m: who may see whom\n"
        "4 tokens, documents of 2 and 1, 1 of\n"
        "padding on the right. A row is a\n"
        "query, a column a key.\n"
        "\n"
        "Causal\n"
        "A token sees itself and what comes\n"
        "before it.\n"
        "    0 1 2 3\n"
        "    A A B -\n"
        "0 A ██· · ·\n"
        "1 A ████· ·\n"
        "2 B ██████·\n"
        "3 - ████████\n"
        "\n"
        "Documents\n"
        "Tokens see their own document only,\n"
        "and positions begin at 0 in each.\n"
        "This mask alone: not causal.\n"
        "    0 1 2 3\n"
        "    A A B -\n"
        "0 A ████• ×\n"
        "1 A ████• ×\n"
        "2 B • • ██×\n"
        "3 - × × × ██\n"
        "\n"
        "Padding on the right\n"
        "Padding is a document of its own: no\n"
        "text sees it, and it sees itself, so\n"
        "that no row is empty. This mask\n"
        "alone: not causal.\n"
        "    0 1 2 3\n"
        "    A A B -\n"
        "0 A ██████×\n"
        "1 A ██████×\n"
        "2 B ██████×\n"
        "3 - × × × ██\n"
        "\n"
        "All layers: all masks together\n"
        "Seen is what no mask hides. The rest\n"
        "shows the first mask that hides it.\n"
        "    0 1 2 3\n"
        "    A A B -\n"
        "0 A ██· · ·\n"
        "1 A ████· ·\n"
        "2 B • • ██·\n"
        "3 - × × × ██\n"
        "\n"
        "██ seen\n"
        "·  hidden: it comes later (causal)\n"
        "•  hidden: another document\n"
        "×  hidden: padding\n"
    )


def drawn(columns: int, length: int = 12, *, coloured: bool = False, refuse: bool = True) -> list[str]:
    found = explain(presets.get("gemma3-270m").config, Row((length,)), 4)
    return masks.drawn({"preset": "gemma3-270m", **found.to_data()}, columns, coloured=coloured, refuse=refuse)


@pytest.mark.parametrize("columns", [36, 60, 80, 130, 200])
def test_panels_are_stacked_as_far_as_the_terminal_is_narrow(columns: int) -> None:
    lines = drawn(columns)
    assert max(map(len, lines)) <= columns
    beside = max(line.count("10 ██") for line in lines)
    assert beside <= max(1, (columns + 4) // 40)
    assert sum(line.count("11 ██") + line.count("11 ╱") for line in lines) == 4


def test_long_rows_have_narrow_cells_and_too_long_ones_are_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(line.startswith("59 ") and len(line) == 63 for line in drawn(80, 60))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = cli(*GEMMA, "--length", 100)
    assert (code, out) == (2, "")
    assert "103 columns wide, the terminal has 80" in err
    assert "--length 77 fits" in err
    assert "--out FILE.svg" in err
    assert len(drawn(80, 100, refuse=False)) > 400


def test_colours_only_in_a_terminal_that_wants_them(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in cli(*GEMMA)[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = cli(*GEMMA)[1]
    assert "\x1b[38;5;32m██" in coloured
    assert "\\x1b" not in coloured
    plain = "".join(line.rstrip() + "\n" for line in re.sub(r"\x1b\[[\d;]*m", "", coloured).splitlines())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "".join(line.rstrip() + "\n" for line in cli(*GEMMA)[1].splitlines()) == plain


def test_a_long_window_is_told_and_a_smaller_drawing_offered(cli: Cli) -> None:
    _, out, err = cli(*GEMMA, "--length", 12)
    assert "the last 512 tokens, more than the 12" in " ".join(out.split())
    assert "--window 4" in err
    _, out, err = cli(*GEMMA, "--length", 12, "--window", 4)
    assert "a window of 4 instead of 512" in out
    assert err == ""


# ---- JSON and files ----------------------------------------------------------------------------------------


def test_json(cli: Cli) -> None:
    code, out, _ = cli(
        *(*GEMMA, "--length", 12, "--documents", "5,3,2", "--padding", 2, "--side", "left", "--window", 3, "--json")
    )
    data = json.loads(out)
    assert code == 0
    assert (data["preset"], data["length"], data["documents"], data["padding"]) == ("gemma3-270m", 12, [5, 3, 2], 2)
    assert [p["mask"] for p in data["panels"]] == [
        *["causal", "window", "documents", "padding", "combined", "combined"]
    ]
    assert data["panels"][4]["layers"] == [5, 11, 17]
    assert data["panels"][1]["rows"][4] == [2, 2, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]


def test_settings_of_the_model(cli: Cli) -> None:
    changed = ["--model.pattern", "LG", "--model.local.kind", "sliding", "--model.local.window", 2, "--json"]
    data = json.loads(cli("model", "masks", "fabula-1m", "--length", 3, *changed)[1])
    assert data["panels"][1]["rows"] == [[0, 1, 1], [0, 0, 1], [2, 0, 0]]
    assert data["panels"][1]["layers"] == [0, 2]


def test_a_run_folder(cli: Cli, tiny_run: Path) -> None:
    code, out, _ = cli("model", "masks", tiny_run, "--length", 3, "--json")
    assert code == 0
    assert json.loads(out)["panels"][0]["rows"] == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]


def test_files(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli(*GEMMA, "--window", 3, "--out", "new/a.svg")
    assert (code, out) == (0, "")
    assert "4 masks in new/a.svg" in err
    ET.parse(tmp_path / "new" / "a.svg")
    assert cli(*GEMMA, "--window", 3, "--out", "a.PNG")[0] == 0
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG\r\n")
    code, out, _ = cli(*GEMMA, "--out", "b.svg", "--json")
    assert json.loads(out)["length"] == 12
    assert (tmp_path / "b.svg").exists()


def test_a_png_without_pillow(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    code, out, err = cli(*GEMMA, "--out", "a.png")
    assert (code, out) == (3, "")
    assert "fabula[masks]" in err
    assert len(err.splitlines()) == 1
    assert cli(*GEMMA, "--out", "a.svg")[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.svg"]


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--length", "0"], "from 1 to 128"),
        (["--length", "-3"], "from 1 to 128"),
        (["--length", "129"], "from 1 to 128"),
        (["--length", "many"], "length"),
        (["--padding", "12"], "from 0 to 11"),
        (["--padding", "-1"], "from 0 to 11"),
        (["--documents", "5,4,2"], "--documents 5,4,2 are 11 tokens; --length 12 is 12"),
        (["--documents", "5,4,3", "--padding", "2"], "--length 12 less 2 of padding is 10"),
        (["--documents", "5,x"], "lengths of 1 or more"),
        (["--documents", "12,0"], "lengths of 1 or more"),
        (["--documents", "5,,7"], "lengths of 1 or more"),
        (["--side", "top"], "side"),
        (["--window", "0"], "from 1 to"),
        (["--window", "13"], "from 1 to"),
        (["--out", "a.jpg"], ".svg or .png"),
        (["--out", "a"], ".svg or .png"),
        (["--model.n_layers", "0"], "n_layers"),
        (["--train.budget", "5m"], "only --model.NAME"),
    ],
)
def test_impossible_drawings(cli: Cli, tmp_path: Path, options: list[str], word: str) -> None:
    out_too = [] if "--out" in options else ["--out", "a.svg"]
    code, out, err = cli(*GEMMA, *options, *out_too)
    assert (code, out) == (2, ""), err
    assert word in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_more_than_the_context_holds(cli: Cli) -> None:
    code, _, err = cli("model", "masks", "fabula-1m", "--length", 64, "--model.context_length", 32)
    assert code == 2
    assert "above the context_length of fabula-1m, 32" in err


def test_no_window_to_draw(cli: Cli) -> None:
    code, _, err = cli("model", "masks", "fabula-1m", "--window", 3)
    assert code == 2
    assert "every layer of fabula-1m sees back to the beginning" in err
    assert "--model.pattern LG" in err


def test_all_problems_at_once(cli: Cli) -> None:
    code, _, err = cli("model", "masks", "fabula-1mm", "--documents", "1,2", "--out", "a.gif")
    assert code == 2
    for word in ("3 problems", ".svg or .png", "are 3 tokens", '"fabula-1m"'):
        assert word in err


def test_what_is_no_decoder_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "resolve_model", lambda *_: ("translator", object()))
    code, _, err = cli("model", "masks", "translator")
    assert code == 2
    assert "translator is not a decoder" in err


# ---- the chapter -------------------------------------------------------------------------------------------

COMMANDS = re.findall(r"^fabula (model masks .*--out docs/pictures/\S+\.svg)$", CHAPTER, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_pictures_of_the_chapter_are_what_its_commands_draw(cli: Cli, tmp_path: Path, command: str) -> None:
    arguments = shlex.split(command)
    assert cli(*arguments)[0] == 0
    name = arguments[-1]
    assert (tmp_path / name).read_text() == (ROOT / name).read_text(), f"run in the root: fabula {command}"


def test_every_picture_is_shown_and_has_its_command() -> None:
    shown = set(re.findall(r"\]\((pictures/\S+?)\)", CHAPTER))
    assert shown == {command.rsplit("docs/", 1)[1] for command in COMMANDS}
    assert shown <= {f"pictures/{p.name}" for p in (ROOT / "docs" / "pictures").iterdir()}
    assert len(shown) == 5


def test_the_drawing_in_the_chapter_is_what_its_command_prints(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    blocks = re.findall(r"^\$ fabula (.*)\n((?:(?!```).*\n)+)", CHAPTER, re.MULTILINE)
    assert len(blocks) == 1
    for command, printed in blocks:
        assert cli(*shlex.split(command))[1] == printed


def test_the_numbers_of_pieces_in_the_chapter() -> None:
    import torch

    from fabula.model.masks import Sight
    from fabula.model.spans import Sliding

    pieces = Sight(8192, 8192, span=Sliding(window=512)).pieces(torch.float32)
    sizes = [piece.mask.shape[-2:] for piece in pieces if piece.mask is not None]
    assert f"{len(sizes)} pieces of {sizes[0][0]} queries and at most {max(s[1] for s in sizes)} keys" in CHAPTER
    assert f"hold {sum(a * b for a, b in sizes) // 10**6} million numbers" in " ".join(CHAPTER.split())
    assert f"has {8192**2 // 10**6}," in CHAPTER
