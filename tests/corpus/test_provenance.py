"""Licence and citation: read from a folder's own papers or said by the user, and carried on to data and report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fabula.corpus.provenance import of_card, of_files
from fabula.corpus.run import Corpus, CorpusConfig
from fabula.errors import SourceError
from tests import tiny

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, tiny_texts: list[str]) -> Path:
    """Two stories with their papers."""
    made = tmp_path / "cuentos"
    made.mkdir()
    for name, some in (("uno", tiny_texts[:30]), ("dos", tiny_texts[30:])):
        (made / f"{name}.txt").write_text("\n<|endoftext|>\n".join(some))
    (made / "LICENSE.txt").write_text("\n  === \nCreative Commons Attribution 4.0 International\n\nmore text")
    (made / "CITATION.bib").write_text("@misc{cuentos, title={Cuentos}}\n")
    return made


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("license: cc-by-4.0", "cc-by-4.0"),
        ("license: 'cc-by-4.0' ", "cc-by-4.0"),
        ("license: mit  # as in LICENSE", "mit"),
        ("license:\n- mit\n- apache-2.0", "mit, apache-2.0"),
        ("license:\n  - mit\nlanguage:\n  - es", "mit"),
        ("license: [mit, apache-2.0]", "mit, apache-2.0"),
        ("license: other\nlicense_name: our-own", "our-own"),
        ("license: other", "other"),
        ("language: es\ntags:\n- license: mit", None),
        ("task: x\n  license: mit", None),
        ("license:", None),
    ],
)
def test_the_licence_of_a_card(metadata: str, licence: str | None) -> None:
    assert of_card(f"---\n{metadata}\n---\n# Tales\nlicense: no\n", "README.md").licence == licence
    assert of_card(f"---\r\n{metadata}\r\n---\r\n", "README.md").licence == licence


def test_the_citation_of_a_card() -> None:
    card = "# Tales\n\n```bibtex\n@misc{tales,\n  title={Tales of {Three}},\n  year={1920}\n}\n```\nmore {text}\n"
    found = of_card(card, "README.md")
    assert found.citation == "@misc{tales,\n  title={Tales of {Three}},\n  year={1920}\n}"
    assert found.licence is None


def test_papers_are_not_text(folder: Path) -> None:
    corpus = Corpus(CorpusConfig(source=str(folder)))
    (said,) = corpus.provenance()
    assert (said["licence"], said["licence_from"]) == ("Creative Commons Attribution 4.0 International", "LICENSE.txt")
    assert (said["citation"], said["citation_from"]) == ("@misc{cuentos, title={Cuentos}}", "CITATION.bib")
    assert [f["name"] for f in said["files"]] == ["dos.txt", "uno.txt"]
    assert "LICENSE.txt: read as what the folder says of itself, not as text" in " ".join(corpus.notes())
    # Where there is nothing else, a licence is a text like any other.
    for name in ("uno", "dos"):
        (folder / f"{name}.txt").unlink()
    assert [f.name for f in Corpus(CorpusConfig(source=str(folder))).sources[0].files] == ["LICENSE.txt"]  # type: ignore[attr-defined]


def test_the_user_says_more_and_nothing_is_made_again_for_it(folder: Path) -> None:
    plain = Corpus(CorpusConfig(source=f"{folder},fables:es", documents=50))
    said = Corpus(CorpusConfig(source=f"{folder},fables:es", documents=50, licence="CC0", citation="Me, 1920"))
    files, fables = said.provenance()
    assert (files["licence"], files["licence_from"], files["citation"]) == ("CC0", "corpus.licence", "Me, 1920")
    assert (fables["licence"], fables["kind"]) == ("Apache-2.0", "generator")
    assert plain.fingerprint() == said.fingerprint()


def test_a_readme_without_metadata_is_text(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# A story\n\nOnce.\n")
    (tmp_path / "b.md").write_text("# Another\n")
    corpus = Corpus(CorpusConfig(source=str(tmp_path)))
    assert [f.name for f in corpus.sources[0].files] == ["README.md", "b.md"]  # type: ignore[attr-defined]
    assert corpus.provenance()[0]["licence"] is None
    assert of_files([tmp_path / "README.md"]).licence is None


def test_the_licence_goes_with_the_data_and_into_the_report(folder: Path, tmp_path: Path, cli: Cli) -> None:
    (folder / "LICENSE.txt").write_text("<b>Free</b> for all\n")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny.RECIPE.replace('"fables:es"', f'"{folder}"'))
    code, out, err = cli("run", recipe, "--name", "one")
    assert code == 0, err
    code, out, _ = cli("data", "show", tmp_path / "runs" / "one")
    assert "licence: <b>Free</b> for all (LICENSE.txt)" in out
    assert "cite: @misc{cuentos, title={Cuentos}}" in out
    summary = json.loads((tmp_path / "runs" / "one" / "summary.json").read_text())
    assert summary["data"]["sources"][0]["licence"] == "<b>Free</b> for all"
    page = (tmp_path / "runs" / "one" / "report" / "index.html").read_text()
    assert "&lt;b&gt;Free&lt;/b&gt; for all" in page
    assert "To cite" in page
    # What is said later stands in the report, and nothing is trained again for it.
    code, out, err = cli("run", recipe, "--name", "one", "--corpus.licence", "CC0-1.0")
    assert code == 0, err
    summary = json.loads((tmp_path / "runs" / "one" / "summary.json").read_text())
    assert summary["data"]["sources"][0]["licence"] == "CC0-1.0"
    assert [stage["skipped"] for stage in summary["stages"] if stage["stage"] in ("data", "train")] == [True, True]


def test_a_text_that_is_refused_leaves_no_run_behind(tmp_path: Path, cli: Cli) -> None:
    bad = tmp_path / "a.jsonl"
    bad.write_text('{"text": "uno"}\n{"text": 2}\n' + "".join(f'{{"text": "{i}"}}\n' for i in range(20)))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny.RECIPE.replace('"fables:es"', f'"{bad}"'))
    code, _, err = cli("run", recipe, "--name", "one")
    assert (code, "1 of 22 records" in err) == (2, True)
    assert not (tmp_path / "runs" / "one").exists()
    prefer = tmp_path / "b.jsonl"
    prefer.write_text("".join(f'{{"prompt": "{i}", "chosen": "y", "rejected": "n"}}\n' for i in range(20)))
    code, _, err = cli("run", recipe, "--name", "one", "--corpus.source", prefer)
    assert (code, "a model would learn both as text" in err) == (2, True)
    assert not (tmp_path / "runs" / "one").exists()


def test_what_was_there_before_stays(tmp_path: Path, cli: Cli) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny.RECIPE)
    assert cli("run", recipe, "--name", "one")[0] == 0
    before = sorted(p for p in (tmp_path / "runs" / "one").rglob("*") if p.is_file())
    (tmp_path / "bad.jsonl").write_text("{\n{\n")
    code, _, _ = cli("run", recipe, "--name", "one", "--corpus.source", tmp_path / "bad.jsonl")
    assert code == 2
    assert set(before) <= {p for p in (tmp_path / "runs" / "one").rglob("*") if p.is_file()}


def test_an_unknown_folder_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("MIT License\n")
    with pytest.raises(SourceError, match="none of its 1 files is of a known kind"):
        Corpus(CorpusConfig(source=str(tmp_path)))
