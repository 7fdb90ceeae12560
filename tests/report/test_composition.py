"""The page of a corpus: complete in itself, the same for the same report, and nothing hostile gets through."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fabula.corpus.composition.run import run
from fabula.corpus.run import CorpusConfig
from fabula.report import composition

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m & "quoted" \u202e'


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    path = folder / "<b>texts.jsonl"
    words = ["zebra", "yodel", "xenon", "walrus", "violet", "umbrella"]
    texts = [f"{HOSTILE}\n{words[i % 6]} and {words[(i + 1) % 6]} number {i}.\n{HOSTILE} the end." for i in range(24)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    from fabula.corpus.clean.config import CleanConfig

    return run(CorpusConfig(source=str(path), clean=CleanConfig(whitespace=True)))


def test_the_page_loads_nothing_and_says_everything(found: dict[str, Any]) -> None:
    page = composition.render(found)
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert "@import" not in page
    assert "url(" not in page
    for title in ("Topics", "Languages", "Lengths", "Vocabulary", "Beginnings and endings", "What repeats"):
        assert f">{title}</h2>" in page
    assert page.count('<svg class="chart"') == 3
    assert "white space and line ends made even" in page
    assert composition.render(found) == page


def test_hostile_text_is_only_text(found: dict[str, Any]) -> None:
    page = composition.render(found)
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "<b>texts" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_poor_report_still_makes_a_page(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("One.", encoding="utf-8")
    made = run(CorpusConfig(source=str(path)))
    page = composition.render({**made, "topics": None, "languages": None})
    assert "No topics" in page
    assert "Not told" in page
    composition.write(tmp_path / "page.html", made)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == composition.render(made)
