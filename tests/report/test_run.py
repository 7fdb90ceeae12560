"""The page of a run: whole, partial, damaged or hostile, it is written, says what is missing, and loads nothing."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fabula import config
from fabula.errors import ConfigError, InputError
from fabula.report.run import ReportConfig, run
from tests.report.a_run import FILES, GENTLE, HOSTILE, make

VOID = {"meta", "link", "input", "br", "img", "wbr"}


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, and text. Fails on elements left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str, css: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and css in ["", *(a.get("class") or "").split()]]


def written(folder: Path, report: ReportConfig | None = None) -> tuple[Page, str]:
    path = run(folder, report)
    assert path == folder / "report" / "index.html"
    html = path.read_text("utf-8")
    return Page(html), html


def test_a_run_that_met_trouble_says_so(tmp_path: Path) -> None:
    folder = make(tmp_path / "fables")
    lines = [{"step": s, "reason": "the loss is not finite (loss nan, norm nan)"} for s in (30, 31, 32)]
    (folder / "unapplied.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "3 steps were not applied, the first at step 30: the loss is not finite" in written(folder)[0].text
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "status": "diverged"}))
    assert "This run diverged" in written(folder)[0].text


def test_a_finished_run(tmp_path: Path) -> None:
    page, _ = written(make(tmp_path / "fables"))
    text = page.text.replace("\u00a0", " ")
    assert "A language model of 4.98 M parameters (lillm-5m), trained on 118 k documents" in text
    assert "of generated fables in Spanish and English (47.3 MB of text) for 5 min 4 s on a CPU." in text
    for said in ("0.624", "0.073", "this is 13% more", "perplexity 4.38", "2,113", "4% of the steps", "EPYC"):
        assert said in text
    assert not page.all("p", "absent")
    assert not page.all("p", "banner")
    assert len(page.all("svg", "chart")) == 4 * 3


@pytest.mark.parametrize("kept", [c for n in range(6) for c in itertools.combinations(FILES, n)])
def test_any_files_may_be_missing(tmp_path: Path, kept: tuple[str, ...]) -> None:
    make(tmp_path, records=12)
    for name in set(FILES) - set(kept):
        (tmp_path / name).unlink()
    page, _ = written(tmp_path)
    absent = len(page.all("p", "absent"))
    assert (absent == 0) == ((set(FILES) - {"evaluation.json"}) <= set(kept))
    assert bool(page.all("svg", "chart")) == ("metrics.jsonl" in kept)
    assert bool(page.all("span", "written")) == ("samples.jsonl" in kept)
    assert ("3.2 Wh" in page.text.replace("\u00a0", " ")) == ("emissions.json" in kept)
    assert bool(page.all("table", "rules")) == ("recipe.toml" in kept)


SUMMARY = ("name", "status", "started", "stages", "model", "tokenizer", "data", "train", "environment")


@pytest.mark.parametrize("key", SUMMARY)
@pytest.mark.parametrize("value", [None, 7, "text", [], [None, 3], {"x": {"y": []}}, {"seconds": "soon"}])
def test_any_part_of_the_summary_may_be_missing_or_odd(tmp_path: Path, key: str, value: object) -> None:
    make(tmp_path, records=12)
    path = tmp_path / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, key: value}))
    written(tmp_path)
    del summary[key]
    path.write_text(json.dumps(summary))
    written(tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"{", b"[]", b"null", b"3\n{}\n", b"[" * 100_000, b"1" * 5000, b'{"kind": "train"}\n'],
)
def test_damaged_files_are_named_not_fatal(tmp_path: Path, name: str, content: bytes) -> None:
    make(tmp_path, records=12)
    (tmp_path / name).write_bytes(content)
    written(tmp_path)


def test_damage_is_told(tmp_path: Path) -> None:
    make(tmp_path, records=12)
    (tmp_path / "evaluation.json").write_text('{"validation": ')
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    lines[2] = lines[2][:20]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, lines[0][:30]]))
    page, _ = written(tmp_path)
    assert "evaluation.json cannot be read" in page.text
    assert "metrics.jsonl: 1 line could not be read and are left out (the first is line 3)." in page.text


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).mkdir()
    page, _ = written(tmp_path)
    assert page.text.count("cannot be read (Is a directory)") == len(FILES)


@pytest.mark.parametrize(
    ("status", "said"),
    [("stopped", "was stopped at step 60 of 60"), ("running", "is not over"), ("", "How this run ended")],
)
def test_a_run_that_is_not_finished_says_so(tmp_path: Path, status: str, said: str) -> None:
    make(tmp_path, records=12)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "status": status}))
    page, _ = written(tmp_path)
    assert said in page.text


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    odd = ["NaN", "Infinity", "-Infinity", "null", '"x"', "true", "1e999", "9" * 400, "[]"]
    records = [
        f'{{"kind": "{kind}", "step": {step}, "tokens": {a}, "seconds": {a}, "bits_per_byte": {b}, "lr": {b}}}'
        for kind in ("train", "evaluation")
        for step, (a, b) in enumerate(itertools.product([*odd, "5"], [*odd, "0.7"]))
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(records))
    page, _ = written(tmp_path)
    assert "without a finite loss" in page.text
    assert "nan" not in page.text.lower().split()


@pytest.mark.parametrize("records", [1, 2, 9, 121, 5000])
def test_runs_of_any_length(tmp_path: Path, records: int) -> None:
    page, html = written(make(tmp_path, records=records))
    assert len(page.all("svg", "chart")) == 12
    assert max(len(p.get("d") or "") for p in page.all("path")) < 1000 * 14
    assert len(html) < 600_000


def test_the_entropy_line_stands_if_and_only_if_it_is_known(tmp_path: Path) -> None:
    known, _ = written(make(tmp_path / "known", records=12))
    unknown, _ = written(make(tmp_path / "unknown", records=12, entropy=False))
    assert len(known.all("line", "limit")) == 3
    assert not unknown.all("line", "limit")
    assert "entropy of the generator, 0.551" in known.text
    assert "not known: only text from a generator has a known entropy" in unknown.text


def test_better_than_the_entropy_is_questioned(tmp_path: Path) -> None:
    make(tmp_path, records=12)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    evaluation["validation"]["bits_per_byte"] = 0.5
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert "below the entropy" in written(tmp_path)[0].text


def test_hostile_content_stays_text(tmp_path: Path) -> None:
    page, html = written(make(tmp_path, records=12, hostile=True))
    scripts = page.all("script")
    assert [s for s in scripts if "type" not in s] == [{}]
    assert all(s.get("type") in (None, "application/json") for s in scripts)
    assert len(scripts) == 4 + 1
    assert len(page.all("style")) == 1
    assert not page.all("img")
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]
    assert all((a.get("href") or "#").startswith(("#", "data:,")) for a in page.all("a") + page.all("link"))
    for evil in HOSTILE[:6]:
        assert evil in page.text
    for kind in GENTLE:
        assert kind in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", html)
    assert "49" not in re.findall(r"\{\{(.*?)\}\}", page.text)


def test_hostile_settings_stay_text(tmp_path: Path) -> None:
    for i, evil in enumerate(HOSTILE[:6]):
        quoted = json.dumps(evil)
        recipe = f"[{quoted}]\n{quoted} = {quoted}\n[corpus]\nsource = {quoted}\n[rules]\n{quoted} = {quoted}\n"
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "recipe.toml").write_text(recipe, "utf-8")
        page, _ = written(tmp_path / str(i))
        assert page.text.count(evil) >= 4
        assert len(page.all("script")) == 1


def test_whitespace_of_samples_is_kept(tmp_path: Path) -> None:
    record = {"step": 1, "prompt": "A\n", "text": "A\n\n  b\t\u00a0c \n", "finish_reason": "end"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(record))
    _, html = written(tmp_path)
    assert '<b class="prompt">A\n</b><span class="written">\n  b\t\u00a0c \n</span>' in html


def test_text_without_its_prompt_is_the_continuation(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text(json.dumps({"step": 1, "prompt": "One", "text": " day"}))
    assert '<b class="prompt">One</b><span class="written"> day</span>' in written(tmp_path)[1]


def test_many_checkpoints_and_long_samples_are_cut_with_a_word(tmp_path: Path) -> None:
    records = [{"step": s, "prompt": "p", "text": "x" * 7000} for s in range(1, 101)]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, records)))
    page, _ = written(tmp_path)
    assert len(page.all("details")) == 60
    assert "Of 100 checkpoints, 60 evenly spaced ones are shown." in page.text
    assert "7,000 characters; the rest is in samples.jsonl" in page.text
    assert re.findall(r"Step (\d+)", page.text)[::59] == ["1", "100"]


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page, html = written(make(tmp_path, records=30))
    assert not re.search(r"https?://|//[a-z]|@import|url\(|fetch\(|XMLHttpRequest|import\(", html)
    loading = {"src", "srcset", "action", "data", "poster", "background", "xlink:href"}
    assert not [a for _, a in page.elements if loading & a.keys()]
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy


def test_equal_runs_give_equal_pages(tmp_path: Path) -> None:
    make(tmp_path, records=30)
    assert written(tmp_path)[1] == written(tmp_path)[1]


def test_the_first_axis_can_be_chosen(tmp_path: Path) -> None:
    make(tmp_path, records=12)
    page, _ = written(tmp_path, ReportConfig(axis="steps"))
    assert [a["value"] for a in page.all("input") if "checked" in a] == ["steps"]


def test_an_axis_that_was_not_recorded_is_not_offered(tmp_path: Path) -> None:
    record = {"kind": "train", "step": 5, "tokens": 100, "bits_per_byte": 2.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record))
    page, _ = written(tmp_path)
    assert [a["value"] for a in page.all("input") if a.get("type") == "radio"] == ["tokens", "steps"]


def test_a_missing_folder_and_bad_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="points"):
        config.build(ReportConfig, {"points": 3}, "report")


def test_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, fabula.report.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
