"""The pages of the tokenizer laboratory: whole, self-contained, and no way in for what a text holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fabula.corpus.run import Corpus, CorpusConfig
from fabula.plan.vocabulary import cost
from fabula.report import tokenizers, tokens
from fabula.tokenizer import report, showing
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.material import Material
from tests.report.test_run import Page

Data = dict[str, Any]
EVIL = '</script><x-evil onx="1"> \x1b[31m " \' {{7*7}} &lt; | \\ \u202e '


@pytest.fixture
def made(tmp_path: Path, tiny_texts: list[str], tiny_tokenizer: Tokenizer) -> Data:
    """Two tokenizers on two texts, one of them hostile enough to have learnt its payload."""
    from fabula.model.presets import presets

    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(tiny_texts), "utf-8")
    (tmp_path / "b.txt").write_text(EVIL * 200, "utf-8")
    evil = train_bpe([EVIL * 200], 300, exact=False)
    names = {"<x-evil>": evil, "fables": tiny_tokenizer}
    corpus = Corpus(CorpusConfig(source=f"{tmp_path}/a.txt,{tmp_path}/b.txt"))
    found = report.run(names, Material(corpus, 1_000_000))
    for row in found["tokenizers"]:
        row["costs"] = [cost("fabula-1m", presets.get("fabula-1m").config, row["vocab_size"], 3.0, 2.0)]
    return {**found, "fabula": "0.1.0"}


TRAINING: Data = {
    "rows": [
        {
            "name": name,
            "parameters": 1_000_000,
            "steps": 12,
            "tokens": 1200,
            "flops": 10**12,
            "text_bytes": 4000.0,
            "values": [2.0 + place, 2.1 + place],
            "bits_per_byte": {"n": 2, "mean": 2.05 + place, "standard_deviation": 0.05, "low": 2.0, "high": 2.1},
            "difference": "+1.0000 ± 0.1000" if place else "the first",
            "verdict": "worse" if place else "",
            "failed": [],
        }
        for place, name in enumerate(("<x-evil>", "fables"))
    ],
    "notes": ["all alike <x-evil>"],
    "report": "runs/tokenizers/report/index.html",
}


def safe(html: str) -> Page:
    page = Page(html)
    assert not page.all("x-evil")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert not any("style" in attributes for _, attributes in page.elements)  # the policy would not let it through
    assert not re.search(r"""(?:src|href)=["'](?!#|data:,)""", html)
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "Ġ" not in html
    return page


def test_side_by_side(made: Data) -> None:
    page = safe(tokenizers.render(made))
    assert "<x-evil>" in page.text
    assert "a.txt" in page.text
    assert "fabula-1m" in page.text
    assert "--train" in page.text
    assert tokenizers.render(made) == tokenizers.render(made)


def test_one_alone(made: Data) -> None:
    made["tokenizers"] = made["tokenizers"][:1]
    page = safe(tokenizers.render(made))
    assert "Report on a tokenizer" in page.text
    assert "characters cut" in page.text


def test_with_trained_models(made: Data) -> None:
    made["training"] = TRAINING
    page = safe(tokenizers.render(made))
    assert "Trained models" in page.text
    assert "2.0500" in page.text
    assert "worse" in page.text
    made["training"]["rows"][1] |= {"values": [], "bits_per_byte": None}
    safe(tokenizers.render(made))


def test_a_text_in_its_tokens(tiny_tokenizer: Tokenizer) -> None:
    text = EVIL + "uno\ndos 🦊"
    ids = tiny_tokenizer.encode(text)
    raw = showing.pieces(tiny_tokenizer, ids)
    row: Data = {
        "name": "<x-evil>",
        "vocab_size": 320,
        "changes": None,
        "n_bytes": len(text.encode()),
        "words": len(text.split()),
        "ids": ids,
        "pieces": [showing.shown(piece) for piece in raw],
        "bytes": [piece.hex() for piece in raw],
    }
    page = safe(tokens.render({"text": text, "tokenizers": [row, {**row, "name": "other"}]}))
    spans = [span for span in page.all("span") if (span.get("class") or "") in ("t0", "t1", "t2", "t3")]
    assert len(spans) == 2 * len(ids)
    assert spans[0]["title"] is not None
    assert f"id {ids[0]}," in spans[0]["title"]
    assert "<0xF0>" in page.text
    assert len(page.all("br")) == 2
