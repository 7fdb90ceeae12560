"""What a corpus is made of: figures that can be checked by hand, topics, remarks, and the command."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula.corpus.composition import formulas, richness
from fabula.corpus.composition.run import run
from fabula.corpus.run import CorpusConfig
from fabula.corpus.words import sentences, words

Cli = Callable[..., tuple[int, str, str]]


def _listed(text: str) -> list[str]:
    return text.split()


ABOUT = {
    "geography": _listed("municipality province population mayor river district border capital census county"),
    "music": _listed("guitar melody singer concert drum orchestra violin rhythm chorus piano"),
    "kitchen": _listed("flour sugar oven recipe butter onion pepper soup bread garlic"),
}
MORALS = ("And so they learned that sharing makes us strong.", "The moral: whoever helps is never alone.")


def made_up(subject: str, number: int) -> str:
    chance = random.Random(f"{subject} {number}")
    said = [
        f"In the {chance.choice(ABOUT[subject])} there was a {chance.choice(ABOUT[subject])} number {chance.random()}."
        for _ in range(12)
    ]
    return f"Long ago in {subject}.\n" + " ".join(said)


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Fifty documents: 28 about geography, half of them with one of two morals; one near copy and one exact one."""
    texts = [made_up("geography", i) for i in range(28)]
    texts += [made_up("music", i) for i in range(12)] + [made_up("kitchen", i) for i in range(10)]
    texts = [f"{text}\n{MORALS[i % 2]}" if i % 5 < 2 else text for i, text in enumerate(texts)]
    texts += [texts[30], texts[31].replace("In the", "Within the", 1)]
    path = tmp_path_factory.mktemp("composition") / "lopsided.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def found(lopsided: str) -> dict[str, Any]:
    pytest.importorskip("sklearn")
    pytest.importorskip("py3langid")
    return run(CorpusConfig(source=lopsided))


# ---- figures ------------------------------------------------------------------------------------------------


def test_vocabulary_by_hand() -> None:
    made = richness.vocabulary([["a", "b", "a"], ["c"]])
    assert (made["words"], made["types"], made["hapax"]) == (4, 3, 2)
    assert made["mattr"] is None
    assert made["zipf"][0] == [1, 2]
    assert made["heaps"][-1] == [4, 3]


def test_the_moving_ratio_is_what_it_says() -> None:
    chance = random.Random(0)
    found = [chance.choice("abcdefghij") + str(chance.randrange(80)) for _ in range(1200)]
    windows = [found[i : i + richness.WINDOW] for i in range(len(found) - richness.WINDOW + 1)]
    mean = sum(len(set(window)) for window in windows) / len(windows) / richness.WINDOW
    assert richness.vocabulary([found[:700], found[700:]])["mattr"] == pytest.approx(mean)


def test_laws_are_found_where_they_hold() -> None:
    words = [f"w{rank}" for rank in range(1, 1201) for _ in range(24000 // rank)]
    random.Random(1).shuffle(words)
    made = richness.vocabulary([words])
    assert made["zipf_slope"] == pytest.approx(1.0, abs=0.02)
    assert 0 < made["heaps_beta"] < 1


def test_readability_by_hand() -> None:
    made = richness.readability([(2, ["short", "considerable", "words", "here"])])
    assert made == {"words_per_sentence": 2.0, "letters_per_word": 26 / 4, "lix": 2 + 25.0}
    assert richness.readability([])["lix"] is None


def test_sentences_and_words() -> None:
    assert sentences('He said "no." Then (why?) he left…\nEnd') == ['He said "no."', "Then (why?) he left…", "End"]
    said = "El 1º de mayo, D'Artagnan fue al café-bar."
    assert words(said) == ["el", "1º", "de", "mayo", "d'artagnan", "fue", "al", "café-bar"]


def test_repetitions_count_documents() -> None:
    texts = ["same line\nother\nsame line", "x\nsame line", "y\nanother"]
    assert formulas.repeated_lines(texts) == [{"text": "same line", "documents": 2, "share": 2 / 3}]
    assert formulas.repeated_lines(["one line", "one line"]) == []
    long = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "near", "the", "river", "bank"]
    eight, four = formulas.repeated_ngrams([long, ["zero", *long], ["nothing", "else"]])
    assert (eight["n"], four["n"]) == (8, 4)
    assert eight["most"][0]["documents"] == 2
    assert len(eight["most"]) == 1
    assert all(set(row["text"].split()) <= set(long) for row in four["most"])


def test_formulas_leave_capitals_and_marks_aside() -> None:
    made = formulas.endings(["A. The end.", "B. The End!", "C. “The end”", "D. Something else."])
    assert made["most"] == [{"text": "The end", "documents": 3, "share": 0.75}]
    begun = formulas.openings([["había", "una", "vez", "x"], ["había", "una", "vez", "y"], ["un", "día"]])
    assert begun["most"] == [{"text": "había una vez", "documents": 2, "share": 2 / 3}]
    assert begun["covered"] == pytest.approx(2 / 3)


# ---- the whole ----------------------------------------------------------------------------------------------


def test_the_lopsided_corpus_is_called_that(found: dict[str, Any]) -> None:
    first = found["topics"][0]
    assert set(first["words"]) <= {*ABOUT["geography"], "geography"}
    assert first["share"] == pytest.approx(28 / 51, abs=0.001)
    assert len(first["examples"]) == 2
    assert sum(topic["documents"] for topic in found["topics"]) == found["documents"] == 51
    said = " ".join(found["remarks"])
    assert "55% of the documents are about one thing" in said
    assert "The last sentences repeat" in said
    assert "near copies of an earlier one" in said
    assert "1 of 52 records repeat another" in said
    assert found["endings"]["covered"] == pytest.approx(21 / 51, abs=0.03)
    assert found["near"]["copies"] == 1
    assert found["languages"][0]["language"] == "en"


def test_it_is_the_same_again(found: dict[str, Any], lopsided: str) -> None:
    assert run(CorpusConfig(source=lopsided)) == found
    json.dumps(found, allow_nan=False)


def test_counts_are_of_all_and_looks_of_a_sample(lopsided: str, found: dict[str, Any]) -> None:
    small = run(CorpusConfig(source=lopsided), sample_bytes=found["bytes"] // 2)
    for name in ("documents", "bytes", "words", "lengths", "funnel", "fingerprint"):
        assert small[name] == found[name]
    assert not small["sample"]["whole"]
    assert 5 < small["sample"]["documents"] < 50
    assert small["sample"]["bytes"] <= found["bytes"]
    assert sum(count for _, _, count in small["lengths"]["histogram"]) == 51


def test_languages_are_cut_one_by_one() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("py3langid")
    made = run(CorpusConfig(source="fables:es+en", documents=160))
    assert {row["language"]: row["documents"] for row in made["languages"]} == {"en": 80, "es": 80}
    assert {topic["language"] for topic in made["topics"]} == {"en", "es"}
    assert made["near"]["copies"] == 0
    assert made["funnel"]["duplicates"] == 0
    assert not any("another language" in remark for remark in made["remarks"])


def test_a_long_line_is_a_document_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "articles.txt"
    path.write_text("".join(f"Article {i}. " + f"word{i} " * (40 if i == 3 else 900) + "\n" for i in range(14)))
    made = run(CorpusConfig(source=str(path)))
    assert made["documents"] == 14
    assert any("--corpus.split line --corpus.document_bytes 0" in note for note in made["notes"])
    joined = run(CorpusConfig(source=str(path), split="line"))
    assert joined["documents"] == 13


@pytest.mark.parametrize("library", ["sklearn", "py3langid"])
def test_without_a_library_the_rest_still_comes(
    lopsided: str, library: str, monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]
) -> None:
    from fabula.corpus.clean import language

    language._identifier.cache_clear()
    monkeypatch.setitem(sys.modules, library, None)
    made = run(CorpusConfig(source=lopsided))
    missing, there = ("topics", "languages") if library == "sklearn" else ("languages", "topics")
    assert made[missing] is None
    assert made[there] == found[there]
    assert made["vocabulary"] == found["vocabulary"]
    assert sum("fabula[corpus]" in note for note in made["notes"]) == 1


def test_odd_corpora_are_no_trouble(tmp_path: Path) -> None:
    for number, texts in enumerate((["one"], ["1 2 3", "!!!"], ["a b c d"] * 30, [f"{i}" for i in range(30)])):
        path = tmp_path / f"odd-{number}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        made = run(CorpusConfig(source=str(path)))
        assert made["documents"] == len(set(texts))
        json.dumps(made, allow_nan=False)


# ---- the command line ---------------------------------------------------------------------------------------


def test_the_report_is_printed(cli: Cli, lopsided: str) -> None:
    code, out, _ = cli("corpus", "report", lopsided)
    assert code == 0
    for title in ("what stands out", "topics", "languages", "lengths, in words", "vocabulary", "how documents end"):
        assert f"\n{title}\n" in out
    assert "55% of the documents are about one thing" in out
    assert max(map(len, out.splitlines())) < 160


def test_the_report_as_json_and_as_a_page(cli: Cli, lopsided: str, tmp_path: Path, found: dict[str, Any]) -> None:
    code, out, err = cli("corpus", "report", lopsided, "--json", "--html", "page.html")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(found))
    assert "page.html" in err
    assert "municipality" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert cli("corpus", "report", lopsided, "--html", "page.pdf")[0] == 2
    assert cli("corpus", "report", lopsided, "--sample", "0")[0] == 2
    assert cli("corpus", "report", "nowhere.txt")[0] == 2


@pytest.mark.corpora
def test_thirty_articles(corpora: Path) -> None:
    made = run(CorpusConfig(source=str(corpora / "wikipedia-30.txt")))
    assert made["documents"] == 30
    assert len(made["topics"]) >= 3
    assert made["languages"][0] == {"language": "en", "documents": 30, "share": 1.0, "bytes_share": 1.0}
    assert all(topic["words"] and topic["examples"] for topic in made["topics"])
