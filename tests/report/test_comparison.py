"""The page of a comparison: whole or unfinished it says what there is, loads nothing, and is no way in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fabula import storage
from fabula.errors import DamagedError
from fabula.report import comparison
from tests.report.test_run import Page

Data = dict[str, Any]


def a_run(seed: int, bits: float | None, status: str = "finished", reason: str | None = None) -> Data:
    curve = [{"step": s, "tokens": s * 100, "bits_per_byte": (bits or 3.0) + 2.0 / s} for s in (1, 2, 4, 8)]
    return {
        "seed": seed,
        "folder": f"muon ñ-seed{seed}",
        "status": status,
        "reason": reason,
        "bits_per_byte": bits,
        "curve": [] if status == "waiting" else curve,
    }


def a_row(label: str, runs: list[Data], difference: Data | None = None) -> Data:
    found = [run["bits_per_byte"] for run in runs if run["bits_per_byte"] is not None]
    spread = {"n": len(found), "mean": sum(found) / max(1, len(found)), "standard_deviation": 0.01}
    return {
        "label": label,
        "settings": {"train.optimizer.kind": label},
        "parameters": 1_066_624,
        "steps": 8,
        "tokens": 800,
        "flops": 2_350_000_000_000,
        "runs": runs,
        "bits_per_byte": {**spread, "low": min(found), "high": max(found)} if found else None,
        "tokens_per_second": 8000.0 if found else None,
        "difference": difference,
    }


def a_comparison(**changes: Any) -> Data:
    pair = {"n": 2, "mean": 0.2, "standard_deviation": 0.01, "standard_error": 0.007, "uncertainty": 0.09}
    data: Data = {
        "name": "fables-compare",
        "started": "2026-03-02T14:05:09+00:00",
        "fabula": "0.1.0",
        "status": "finished",
        "asked": {"vary": {"train.optimizer.kind": ["muon", "adamw"]}, "match": "tokens"},
        "seeds": 2,
        "budget": {"given": "8steps", "match": "tokens", "tokens": 800, "flops": 2_350_000_000_000, "rule": "8: given"},
        "notes": [],
        "variants": [
            a_row("muon", [a_run(0, 1.0), a_run(1, 1.02)]),
            a_row("adamw", [a_run(0, 1.21), a_run(1, 1.21)], pair),
        ],
    }
    return {**data, **changes}


def page(data: Data) -> tuple[Page, str]:
    html = comparison.render(data)
    return Page(html), html


def test_a_whole_comparison() -> None:
    found, html = page(a_comparison())
    for word in ("1.0100", "+0.2000 ± 0.0900", "worse", "2.35e12", "1,066,624", "n = 2", "2 March 2026", "8: given"):
        assert word in found.text, word
    assert "runs are not done" not in found.text
    assert len(found.all("path", "band")) == 2
    assert [a["href"] for a in found.all("a") if (a["href"] or "").startswith("..")] == [
        f"../muon%20%C3%B1-seed{s}/report/index.html" for s in (0, 1, 0, 1)
    ]
    assert len(found.all("svg", "strip")) == 2
    stored = re.search(r'data-points="loss">(.*?)</script>', html)
    assert stored is not None
    read = json.loads(stored[1])
    assert read["x"]["tokens"] == [0.125, 0.25, 0.5, 1]
    assert all(0 <= y <= 1 for y in read["y"])
    assert "muon 1.2600, adamw 1.4600" in read["say"][-1]


def test_nothing_is_loaded_and_nothing_gets_in() -> None:
    evil = '</script><script>alert(1)</script><img src="http://x.invalid/">\x1b[31m'
    runs = [a_run(0, 1.0), a_run(1, None, "failed", evil)]
    found, html = page(a_comparison(name=evil, notes=[evil], variants=[a_row(evil, runs), a_row("b", [a_run(0, 1.1)])]))
    assert len(found.all("script")) == 2
    assert found.all("img") == []
    assert "\x1b" not in html
    loaded = [a for _, attributes in found.elements for a in ("src", "srcset", "action") if a in attributes]
    assert loaded == []
    policy = next(m["content"] for m in found.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize(("status", "told"), [("running", "is going on"), ("stopped", "was stopped")])
def test_an_unfinished_one(status: str, told: str) -> None:
    waiting = [a_run(s, None, "waiting") for s in (0, 1)]
    found, _ = page(
        a_comparison(status=status, variants=[a_row("muon", [a_run(0, 1.0), waiting[1]]), a_row("b", waiting)])
    )
    assert f"This comparison {told}: 3 of 4 runs are not done." in found.text
    found, _ = page(a_comparison(status=status, variants=[a_row("a", waiting), a_row("b", waiting)]))
    assert "No measurements yet" in found.text
    found, _ = page(a_comparison(status=status, variants=[], budget=None))
    assert "The budget is not fixed yet." in found.text


def test_what_failed_says_why() -> None:
    runs = [a_run(0, 1.0), a_run(1, None, "diverged", "loss is NaN at step 3"), a_run(2, None, "failed", "no room")]
    rows = [a_row("muon", runs), a_row("adamw", [a_run(0, 1.1)])]
    assert comparison.troubles(rows) == ["muon, seed 1, diverged: loss is NaN at step 3; also seed 2 (failed)"]
    found, _ = page(a_comparison(variants=rows))
    assert comparison.troubles(rows)[0] in found.text
    assert "failed: no room" in found.text, "among the runs"


def test_one_seed_is_no_comparison_of_luck() -> None:
    pair = {"n": 1, "mean": -0.2, "standard_deviation": None, "standard_error": None, "uncertainty": None}
    rows = [a_row("muon", [a_run(0, 1.2)]), a_row("adamw", [a_run(0, 1.0)], pair)]
    found, _ = page(a_comparison(seeds=1, variants=rows))
    assert "−0.2000" in found.text
    assert "one pair only" in found.text
    assert "nobody can tell a difference from luck" in found.text
    assert found.all("path", "band") == []


def test_differences_in_words() -> None:
    row = a_row("adamw", [a_run(0, 1.0)])
    for mean, uncertainty, verdict in ((-0.2, 0.1, "better"), (0.2, 0.1, "worse"), (0.2, 0.3, "may be chance")):
        row["difference"] = {"n": 2, "mean": mean, "uncertainty": uncertainty}
        assert comparison.difference(row, first=False)[1] == verdict
    row["difference"] = None
    assert comparison.difference(row, first=True) == ("the first", "")
    assert comparison.difference(row, first=False) == ("–", "")


def test_more_variants_than_colours() -> None:
    rows = [a_row(f"v{i}", [a_run(0, 1.0 + i / 10), a_run(1, 1.01 + i / 10)]) for i in range(12)]
    found, _ = page(a_comparison(variants=rows))
    assert len(found.all("svg", "strip")) == 12
    assert len(found.all("path", "v7")) == 2 * 5


def test_written_and_read(tmp_path: Path) -> None:
    storage.write_json(tmp_path / comparison.FILE, a_comparison())
    assert comparison.run(tmp_path) == tmp_path / "report" / "index.html"
    (tmp_path / comparison.FILE).write_text("{")
    with pytest.raises(DamagedError, match=r"comparison\.json"):
        comparison.run(tmp_path)
