"""The stage: disjoint splits, duplicates, quarantine limits, fingerprints, samples, and the real corpora."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabula.config import build, to_data
from fabula.corpus.document import Document, Quarantined
from fabula.corpus.funnel import between
from fabula.corpus.run import Corpus, CorpusConfig, Funnel, _pieces, run
from fabula.corpus.survey import survey
from fabula.errors import ConfigError, SourceError

REPOSITORY = Path(__file__).parents[2]
CORPORA = Path(os.environ.get("FABULA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return path


def corpus(source: Path | str, **fields: object) -> Corpus:
    return run(CorpusConfig(source=str(source), **fields))  # type: ignore[arg-type]


def read(made: Corpus) -> tuple[dict[str, list[str]], Funnel]:
    funnel = Funnel()
    splits: dict[str, list[str]] = {"train": [], "validation": []}
    for split, document in made.documents(funnel):
        splits[split].append(document.text)
    return splits, funnel


def stories(n: int, start: int = 0) -> list[str]:
    return [f"Cuento {i}. " + "Había una vez. " * (i % 7) for i in range(start, start + n)]


# ---- splits and duplicates -----------------------------------------------------------------------------------


def test_planted_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    """1,000 copies planted all over the corpus: none stays, and none is on both sides (reliability D12)."""
    texts = stories(3000)
    planted = texts + texts[:1000]
    splits, funnel = read(corpus(write_lines(tmp_path / "a.jsonl", planted), validation=0.3))
    assert sorted(splits["train"] + splits["validation"]) == sorted(texts)
    assert not set(splits["train"]) & set(splits["validation"])
    assert funnel.duplicates == 1000
    assert funnel.documents == {s: len(t) for s, t in splits.items()}
    assert funnel.bytes == {s: sum(len(x.encode()) for x in t) for s, t in splits.items()}
    assert funnel.records == 4000


def test_adding_text_never_moves_a_document_across(tmp_path: Path) -> None:
    before, _ = read(corpus(write_lines(tmp_path / "a.jsonl", stories(500))))
    write_lines(tmp_path / "0.jsonl", stories(500, start=300)[::-1])
    after, _ = read(corpus(tmp_path))
    assert set(before["train"]) <= set(after["train"])
    assert set(before["validation"]) <= set(after["validation"])
    assert sum(map(len, after.values())) == 800


def test_two_passes_are_the_same(tmp_path: Path) -> None:
    made = corpus(write_lines(tmp_path / "a.jsonl", stories(300)))
    first, second = (list(made.documents(Funnel())) for _ in range(2))
    assert first == second
    assert [d.origin for _, d in first][:2] == ["a.jsonl, line 1", "a.jsonl, line 2"]
    other = read(corpus(tmp_path, seed=1))[0]
    assert set(other["validation"]) != {d.text for s, d in first if s == "validation"}


def test_a_validation_source_is_kept_out_of_training(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "train.jsonl", [*stories(50), *stories(5)])
    held_out = write_lines(tmp_path / "held.jsonl", [*stories(20, start=40), *stories(2, start=40), " "])
    splits, funnel = read(corpus(train, validation_source=str(held_out)))
    assert splits == {"validation": stories(20, start=40), "train": stories(40)}
    assert (funnel.in_validation, funnel.duplicates, funnel.empty) == (10, 2 + 5, 1)
    with pytest.raises(SourceError, match=r"no documents for training \(1 empty, 2 repeated.*20 that are in"):
        read(corpus(write_lines(tmp_path / "b.jsonl", stories(20, start=40)), validation_source=str(held_out)))


def test_empty_documents_are_counted(tmp_path: Path) -> None:
    _, funnel = read(corpus(write_lines(tmp_path / "a.jsonl", ["", " \n\u2028", *stories(100)])))
    assert (funnel.empty, sum(funnel.documents.values())) == (2, 100)


# ---- too little, too bad -------------------------------------------------------------------------------------


def problem_of(made: Corpus) -> str:
    """The message with which reading a corpus ends, "" when it does not and both splits have documents."""
    try:
        splits, _ = read(made)
    except SourceError as error:
        return str(error)
    assert all(splits.values())
    return ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(n=st.integers(0, 12), share=st.sampled_from([0.01, 0.05, 0.3, 0.5]), seed=st.integers(0, 50))
def test_a_tiny_corpus_works_or_says_what_would(tmp_path: Path, n: int, share: float, seed: int) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["", *stories(n)])
    problem = problem_of(corpus(path, validation=share, seed=seed))
    if n == 0:
        assert "no documents (1 empty, 0 repeated, 0 unreadable)" in problem
    elif n == 1:
        assert "one document cannot be split" in problem
    elif problem:
        assert f"of {n} documents none is for" in problem
    if n and problem:
        assert "--corpus.split blank" in problem
        assert "--corpus.validation_source FILE" in problem
    if "use --corpus.validation" in problem:
        advised = float(problem.split("use --corpus.validation ")[1].split(",")[0])
        assert problem_of(corpus(path, validation=advised, seed=seed)) == ""


def test_one_document_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("uno\n\ndos\n")
    with pytest.raises(SourceError, match="one document cannot be split into training and validation"):
        read(corpus(tmp_path / "a.txt"))


def bad_lines(path: Path, good: int, bad: int) -> Path:
    lines = [json.dumps({"text": t}) for t in stories(good)]
    step = max(1, good // max(1, bad))
    for i in range(bad):
        lines.insert(min(len(lines), i * (step + 1)), '{"text": ')
    path.write_text("\n".join(lines))
    return path


def test_few_bad_records_are_reported_and_many_stop(tmp_path: Path) -> None:
    kept: list[Quarantined] = []
    funnel = Funnel(sink=kept.append)
    made = corpus(bad_lines(tmp_path / "a.jsonl", 29_970, 30))
    assert sum(1 for _ in made.documents(funnel)) == 29_970
    assert (funnel.quarantined, len(kept), len(funnel.first_quarantined)) == (30, 30, 10)
    assert kept[0].line == 1
    made = corpus(bad_lines(tmp_path / "a.jsonl", 3000, 4))
    with pytest.raises(SourceError, match=r"(?s)line 1 \(byte 9\): broken JSON.*max_quarantined") as caught:
        read(made)
    advised = float(str(caught.value).rsplit(" ", 1)[1])
    _, funnel = read(corpus(tmp_path / "a.jsonl", max_quarantined=advised))
    assert funnel.quarantined == 4


def test_too_many_bad_records_stop_the_pass_early(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("broken\n" * 50_000)
    funnel = Funnel()
    with pytest.raises(SourceError, match=r"1,000 of 1,000 records so far \(100.000%\)"):
        list(corpus(path).documents(funnel))
    assert funnel.quarantined == 1000
    path.write_text("broken\n" * 10)
    with pytest.raises(SourceError, match=r"10 of 10 records \(100.000%\) cannot be read.*max_quarantined 1$"):
        read(corpus(path))
    with pytest.raises(SourceError, match=r"no documents \(0 empty, 0 repeated, 10 unreadable\)"):
        read(corpus(path, max_quarantined=1.0))


def test_text_of_another_encoding_is_refused_with_a_way_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("El ñandú corre.\n\n".encode("cp1252") * 100)
    with pytest.raises(SourceError, match=r"(?s)not UTF-8: byte 0xf1.*iconv -f WINDOWS-1252 -t UTF-8"):
        read(corpus(path))


def test_a_missing_source_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        corpus(tmp_path / "none.txt")
    write_lines(tmp_path / "a.jsonl", stories(10))
    with pytest.raises(SourceError, match="no such file"):
        corpus(tmp_path, validation_source="none.txt")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"source": " ,"}, "names nothing"),
        ({"validation_source": ""}, "names nothing"),
        ({"validation": 0.0}, r"validation=0.0 must be above 0 and at most 0.5"),
        ({"validation": 0.6}, r"validation=0.6"),
        ({"max_quarantined": -0.1}, "max_quarantined=-0.1"),
        ({"marker": " "}, 'split = "blank"'),
        ({"marker": "a\nb"}, "without line ends"),
        ({"documents": -1}, "documents=-1 must not be negative"),
        ({"seed": -1}, "seed=-1"),
        ({"split": "lines"}, '"lines" is not allowed'),
    ],
)
def test_settings_are_checked(fields: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        build(CorpusConfig, fields, "corpus")


def test_settings_survive_plain_data() -> None:
    config = CorpusConfig(source="a", validation_source="b", split="blank")
    assert build(CorpusConfig, to_data(config)) == config


# ---- fingerprint ---------------------------------------------------------------------------------------------


def test_the_fingerprint_follows_content_and_settings(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    path = write_lines(tmp_path / "x" / "a.jsonl", stories(20))
    first = corpus(path).fingerprint()
    assert corpus(path, max_quarantined=0.5).fingerprint() == first
    os.utime(path, ns=(1, 1))
    (tmp_path / "x").rename(tmp_path / "y")
    path = tmp_path / "y" / "a.jsonl"
    assert corpus(path).fingerprint() == first
    changes: list[dict[str, object]] = [
        {"seed": 1}, {"documents": 5}, {"split": "file"}, {"validation": 0.1}, {"validation_source": str(path)}
    ]  # fmt: skip
    others = [corpus(path, **change).fingerprint() for change in changes]
    content = bytearray(path.read_bytes())
    content[12] ^= 1
    path.write_bytes(content)
    others.append(corpus(path).fingerprint())
    assert len({first, *others}) == len(others) + 1


def test_large_files_are_known_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabula.corpus.run._SMALL_CORPUS_BYTES", 10)
    monkeypatch.setattr("fabula.corpus.sources.hash_file", lambda path: pytest.fail("a large file was read"))
    path = write_lines(tmp_path / "a.jsonl", stories(20))
    first = corpus(path).fingerprint()
    assert corpus(path).fingerprint() == first
    os.utime(path, ns=(1, 1))
    assert corpus(path).fingerprint() != first


# ---- sample --------------------------------------------------------------------------------------------------


def test_a_sample_of_a_small_corpus_is_all_of_its_training_text(tmp_path: Path) -> None:
    made = corpus(write_lines(tmp_path / "a.jsonl", stories(200)))
    splits, _ = read(made)
    assert list(made.sample(1 << 30)) == splits["train"]


@pytest.mark.parametrize("estimated", [False, True])
def test_a_sample_is_spread_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimated: bool) -> None:
    if estimated:
        monkeypatch.setattr("fabula.corpus.run._SMALL_CORPUS_BYTES", 10)
    texts = [f"{n:06d} " + "palabra " * 100 for n in range(5000)]
    made = corpus(write_lines(tmp_path / "a.jsonl", texts), validation=0.1)
    sample = list(made.sample(400_000))
    validation = set(read(made)[0]["validation"])
    assert sample == list(made.sample(400_000))
    assert 320_000 < sum(len(s.encode()) for s in sample) <= 400_000
    assert not validation & set(sample)
    places = [int(s[:6]) for s in sample]
    assert all(30 < sum(1000 * i <= p < 1000 * (i + 1) for p in places) < 170 for i in range(5))


def test_a_sample_of_one_long_document_is_spread_too(tmp_path: Path) -> None:
    words = [f"w{n}" for n in range(100_000)]
    write_lines(tmp_path / "a.jsonl", [" ".join(words)])
    write_lines(tmp_path / "b.jsonl", ["fin"])
    made = corpus(tmp_path / "a.jsonl", validation_source=str(tmp_path / "b.jsonl"))
    sample = list(made.sample(50_000))
    assert 20_000 < sum(map(len, sample)) <= 50_000
    found = [int(w[1:]) for s in sample for w in s.split()]
    assert all(0 <= n < 100_000 for n in found)
    assert min(found) < 30_000
    assert max(found) > 70_000


@given(st.text(st.sampled_from("ab \n😀"), max_size=200), st.integers(1, 50))
def test_pieces_are_the_text(text: str, length: int) -> None:
    pieces = list(_pieces(text, length))
    assert "".join(pieces) == text
    assert all(0 < len(p) <= length for p in pieces)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_suggested_number_lies_between(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    value = between(low, high)
    assert low < value <= high or value == 0
    assert value or high - low < 1e-6 or math.isclose(low, high, rel_tol=1e-6)


# ---- the generator -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FakeFable:
    text: str
    surprisal_bits: float


class FakeFables:
    def __init__(self, language: str, seed: int) -> None:
        self.language, self.seed = language, seed

    def __getitem__(self, index: int) -> FakeFable:
        return FakeFable(f"{self.language} {self.seed} {index % 900}", 8.0)


@pytest.fixture
def fake_fables(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("fabula.corpus.fables")
    fake.LANGUAGES, fake.Fables = ("es", "en"), FakeFables  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fabula.corpus.fables", fake)


@pytest.mark.usefixtures("fake_fables")
def test_fables_take_turns_and_know_their_surprisal() -> None:
    made = corpus("fables:es+en", documents=2000)
    funnel = Funnel()
    documents: list[Document] = [d for _, d in made.documents(funnel)]
    assert [(d.text, d.origin) for d in documents[:3]] == [
        ("es 0 0", "fables:es[0]"), ("en 0 0", "fables:en[0]"), ("es 0 1", "fables:es[1]")
    ]  # fmt: skip
    assert (len(documents), funnel.duplicates) == (1800, 200)
    assert funnel.surprisal_bits is not None
    assert sum(funnel.surprisal_bits.values()) == 1800 * 8
    assert "2,000 fables" in made.notes()[0]
    assert sum(1 for _ in corpus("fables:es").documents(Funnel())) == 900
    assert 0 < sum(map(len, made.sample(3000))) <= 3000
    prints = {
        corpus(s, **f).fingerprint() for s in ("fables:es", "fables:en") for f in ({}, {"documents": 9}, {"seed": 1})
    }  # type: ignore[arg-type]
    assert len(prints) == 6


@pytest.mark.usefixtures("fake_fables")
def test_a_generator_may_validate_itself() -> None:
    splits, _ = read(corpus("fables:es", validation_source="fables:es", documents=10))
    assert splits == {
        "validation": [f"es 1 {n}" for n in range(10)], "train": [f"es 0 {n}" for n in range(10)]
    }  # fmt: skip


@pytest.mark.usefixtures("fake_fables")
def test_surprisal_is_unknown_once_other_text_is_added(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", stories(30))
    _, funnel = read(corpus(f"fables:es,{path}", documents=100))
    assert sum(funnel.documents.values()) == 130
    assert funnel.to_data()["surprisal_bits"] is None


@pytest.mark.usefixtures("fake_fables")
def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(SourceError, match='no fables in "e"; did you mean "es"'):
        corpus("fables:e")


def test_the_real_generator() -> None:
    made = corpus("fables:es+en", documents=200)
    splits, funnel = read(made)
    assert sum(map(len, splits.values())) + funnel.duplicates == 200
    assert funnel.surprisal_bits is not None
    assert min(funnel.surprisal_bits.values()) > 0
    assert made.fingerprint() == corpus("fables:es+en", documents=200).fingerprint()


# ---- survey --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_fables")
def test_survey_of_the_generator() -> None:
    shown = survey(CorpusConfig(source="fables:es", documents=900))
    assert shown["entropy_bits_per_byte"] == 900 * 8 / shown["bytes"]
    assert (shown["documents"], shown["words"], shown["distinct_words"]["count"]) == (900, 2700, 902 - 1)


def test_survey_of_files(tmp_path: Path) -> None:
    texts = ["a " * n for n in range(1, 102)]
    write_lines(tmp_path / "a.jsonl", [*texts, *texts[:3], ""])
    shown = survey(CorpusConfig(source=str(tmp_path)))
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert (shown["documents"], shown["bytes"], shown["words"]) == (101, 10302, 5151)
    assert shown["document_bytes"] == {
        "mean": 102, "least": 2, "p5": 12, "p25": 52, "p50": 102, "p75": 152, "p95": 192, "most": 202
    }  # fmt: skip
    assert shown["distinct_words"] == {"count": 1, "among_first": 5151}
    assert (shown["funnel"]["duplicates"], shown["funnel"]["empty"]) == (3, 1)
    assert shown["entropy_bits_per_byte"] is None
    assert [f["text"] for f in shown["first"]] == texts[:3]
    assert any("0.05 of the documents are for validation" in note for note in shown["notes"])


# ---- the whole -----------------------------------------------------------------------------------------------


@pytest.mark.corpora
@pytest.mark.parametrize(
    ("name", "count"),
    [("tinystories-v1.txt", 2316), ("tinystories-v2.txt", 1400), ("cuentos-es.txt", 253), ("c4-300.jsonl", 300)],
)
def test_real_corpora_have_all_their_documents(name: str, count: int) -> None:
    path = CORPORA / name
    if not path.exists():
        pytest.skip(f"no {path}: set FABULA_CORPORA to the folder that holds the shared corpora")
    splits, funnel = read(corpus(path))
    assert funnel.records == count
    assert sum(map(len, splits.values())) + funnel.duplicates == count
    assert not any("<|endoftext|>" in text for texts in splits.values() for text in texts)
    assert splits["train"]
    assert splits["validation"]


def test_the_corpus_needs_no_torch() -> None:
    code = "import fabula.corpus.run, fabula.corpus.tables, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
