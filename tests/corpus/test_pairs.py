"""Pairs: two texts a record, read from tables and JSON, split by their source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fabula.config import build
from fabula.corpus.document import Document, Quarantined
from fabula.corpus.readers import READERS, Reading, TextFile
from fabula.corpus.run import Corpus, CorpusConfig, Funnel
from fabula.corpus.survey import survey
from fabula.errors import ConfigError, SourceError

PAIRS = [("Go.", "Ve."), ("Hi.", "Hola."), ("Fire!", "¡Fuego!"), ('Say "no".', "Di «no».")]


def read(path: Path, *pair: str) -> tuple[list[Document], list[Quarantined]]:
    rejected: list[Quarantined] = []
    reader = READERS.get(path.suffix)
    return list(reader(TextFile(path, path.name), Reading(pair=(pair[0], pair[1])), rejected.append)), rejected


def halves(documents: list[Document]) -> list[tuple[str, str | None]]:
    return [(d.text, d.target) for d in documents]


def table(path: Path, rows: list[tuple[str, ...]], separator: str) -> Path:
    lines = []
    for row in rows:
        cells = [f'"{c.replace(chr(34), chr(34) * 2)}"' if separator == "," else c for c in row]
        lines.append(separator.join(cells) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


# ---- readers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "separator"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_tables_with_and_without_a_row_of_names(tmp_path: Path, name: str, separator: str) -> None:
    plain = table(tmp_path / name, PAIRS, separator)
    documents, rejected = read(plain, "1", "2")
    assert halves(documents) == PAIRS
    assert not rejected
    assert documents[2].origin == f"{name}, line 3"
    assert halves(read(plain, "2", "1")[0]) == [(b, a) for a, b in PAIRS]
    named = table(tmp_path / f"named-{name}", [("en", "id", "es"), *((a, "7", b) for a, b in PAIRS)], separator)
    documents, rejected = read(named, "en", "es")
    assert halves(documents) == PAIRS
    assert not rejected
    assert documents[0].origin == f"named-{name}, line 2"


def test_json_lines_lists_and_objects_in_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"en": a, "es": b}) + "\n" for a, b in PAIRS))
    assert halves(read(path, "en", "es")[0]) == PAIRS
    deep = tmp_path / "b.json"
    deep.write_text(json.dumps([{"translation": {"en": a, "es": b}} for a, b in PAIRS]))
    assert halves(read(deep, "translation.en", "translation.es")[0]) == PAIRS


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    target = [b for _, b in PAIRS] + [None]
    parquet.write_table(pyarrow.table({"es": target, "en": [a for a, _ in PAIRS] + ["alone"], "n": range(5)}), path)
    documents, rejected = read(path, "en", "es")
    assert halves(documents) == PAIRS
    assert [(r.line, r.byte, r.reason) for r in rejected] == [(5, None, 'the field "es" holds null, not text')]
    with pytest.raises(SourceError, match='no column "fr"'):
        read(path, "en", "fr")
    with pytest.raises(SourceError, match='the column "n" holds no text'):
        read(path, "en", "n")


def test_bad_records_are_set_aside_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"Go.\tVe.\nalone\nHi.\tHol\xffa.\nOne.\tUno.\tthree\nFire!\tFuego\n")
    documents, rejected = read(path, "1", "2")
    assert halves(documents) == [("Go.", "Ve."), ("Fire!", "Fuego")]
    assert [(r.line, r.byte, r.reason) for r in rejected] == [
        (2, 8, "1 cells, the first row has 2"),
        (3, 21, "not UTF-8: byte 0xff (invalid start byte)"),
        (4, 25, "3 cells, the first row has 2"),
    ]
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"en": "a"}\n"a"\n{"en": "a", "es": 3}\n{"en": "a", "es": "b"}\n')
    documents, rejected = read(lines, "en", "es")
    assert halves(documents) == [("a", "b")]
    assert [r.reason for r in rejected] == [
        'no field "es"; the record has: en',
        "expected an object with a source and a target, got text",
        'the field "es" holds a number, not text',
    ]


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", PAIRS, "\t")
    with pytest.raises(SourceError, match=r"there is no column 3; its first row has 2"):
        read(path, "1", "3")
    with pytest.raises(SourceError, match=r"there is no column 0"):
        read(path, "0", "1")
    with pytest.raises(SourceError, match=r'no column "en".*numbers from 1 if it has no row of names'):
        read(path, "en", "es")


# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"source_field": "en"}, "needs target_field"),
        ({"target_field": "es"}, "needs source_field"),
        ({"source_field": "1", "target_field": "es"}, "two names of fields, or the numbers"),
        ({"source_field": "en", "target_field": "en"}, "two names of fields, or the numbers"),
        ({"source_field": "", "target_field": "en"}, "two names of fields, or the numbers"),
    ],
)
def test_halves_of_a_setting_are_refused(settings: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(CorpusConfig, settings, "corpus")


def test_what_has_no_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("Go.\tVe.\n")
    for source, told in ((str(path), "plain text has no fields"), ("fables:es", "the generator makes no pairs")):
        with pytest.raises(SourceError, match=told):
            Corpus(CorpusConfig(source=source, source_field="1", target_field="2"))


def test_older_corpora_keep_their_fingerprint_and_pairs_have_their_own(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", [("text", "es"), *PAIRS], "\t")
    texts = Corpus(CorpusConfig(source=str(path)))
    pairs = Corpus(CorpusConfig(source=str(path), source_field="text", target_field="es"))
    other = Corpus(CorpusConfig(source=str(path), source_field="es", target_field="text"))
    assert len({c.fingerprint() for c in (texts, pairs, other)}) == 3


# ---- the split ---------------------------------------------------------------------------------------------


def corpus(path: Path, **settings: object) -> Corpus:
    given = {"source": str(path), "source_field": "1", "target_field": "2", "validation": 0.3, **settings}
    return Corpus(build(CorpusConfig, given, "corpus"))


def test_a_source_is_never_on_both_sides(tmp_path: Path) -> None:
    rows = [(f"sentence {i}", f"frase {i} {j}") for j in range(4) for i in range(60)]
    path = table(tmp_path / "a.tsv", [*rows, *rows[:30], ("", "nada"), ("nothing", " ")], "\t")
    funnel = Funnel()
    found = list(corpus(path).documents(funnel))
    sides: dict[str, set[str]] = {}
    for split, document in found:
        sides.setdefault(document.text, set()).add(split)
    assert len(sides) == 60
    assert all(len(s) == 1 for s in sides.values())
    assert {s for side in sides.values() for s in side} == {"train", "validation"}
    assert len(found) == 240
    assert (funnel.duplicates, funnel.empty, funnel.records) == (30, 2, 272)
    assert sum(funnel.bytes.values()) == sum(len((a + b).encode()) for a, b in rows)


def test_text_moved_between_the_halves_makes_another_pair(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", [(str(i), "x") for i in range(20)] + [("a b", "c"), ("a", "b c")], "\t")
    assert len(list(corpus(path).documents(Funnel()))) == 22


def test_sources_of_a_validation_file_are_dropped_from_training(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", [("Hi.", "Hola."), ("Hi.", "Buenas."), ("Go.", "Ve.")], "\t")
    held = table(tmp_path / "v.tsv", [("Hi.", "¡Hola!"), ("Hi.", "Hola."), ("Hi.", "Hola.")], "\t")
    funnel = Funnel()
    found = list(corpus(path, validation_source=str(held)).documents(funnel))
    assert [(s, d.text, d.target) for s, d in found] == [
        ("validation", "Hi.", "¡Hola!"),
        ("validation", "Hi.", "Hola."),
        ("train", "Go.", "Ve."),
    ]
    assert (funnel.in_validation, funnel.duplicates) == (2, 1)


def test_the_tokenizer_sees_both_languages(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", [(f"sentence {i}", f"frase {i}") for i in range(40)], "\t")
    made = corpus(path)
    sample = list(made.sample(10_000))
    training = [d for split, d in made.documents(Funnel()) if split == "train"]
    assert sample == [text for d in training for text in (d.text, d.target)]
    assert 0 < sum(len(s) for s in made.sample(100)) <= 100


def test_the_survey_shows_both_halves(tmp_path: Path) -> None:
    path = table(tmp_path / "a.tsv", [(f"sentence {i}", f"frase {i}") for i in range(40)], "\t")
    found = survey(corpus(path).config)
    assert found["first"][0]["text"] == "sentence 0"
    assert found["first"][0]["target"] == "frase 0"
    assert found["words"] == 160
    assert any("so that none is on both sides" in note for note in found["notes"])


@pytest.mark.corpora
def test_the_shared_pairs(corpora: Path) -> None:
    path = corpora / "eng-spa.tsv"
    if not path.exists():
        pytest.skip(f"no {path}")
    funnel = Funnel()
    sides: dict[str, set[str]] = {}
    for split, document in corpus(path, validation=0.05).documents(funnel):
        sides.setdefault(document.text, set()).add(split)
    assert (funnel.records, funnel.quarantined, funnel.empty) == (29_741, 0, 0)
    assert all(len(s) == 1 for s in sides.values())
