"""The README tells the truth about the house, its verbs and its links."""

from __future__ import annotations

import re
from pathlib import Path

from fabula.cli.main import _VERBS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_is_the_real_one() -> None:
    block = README.split("src/fabula/\n", 1)[1].split("```", 1)[0]
    named = {line.split()[0] for line in block.splitlines() if line.strip()}
    folder = ROOT / "src" / "fabula"
    real = {p.name + "/" for p in folder.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    real |= {p.name for p in folder.glob("*.py") if not p.name.startswith("__")}
    assert named == real


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_commands_that_are_shown_exist() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for verb in re.findall(r"^(?:\$ )?fabula ([a-z]+)", document.read_text(encoding="utf-8"), re.MULTILINE):
            assert verb in _VERBS, f"{document.name} shows fabula {verb}"
    for recipe in set(re.findall(r"recipes/[a-z-]+\.toml", README)):
        assert (ROOT / recipe).exists()


def test_the_recipes_are_valid() -> None:
    from fabula import recipe

    for path in sorted((ROOT / "recipes").glob("*.toml")):
        assert recipe.load(path).name == path.stem
