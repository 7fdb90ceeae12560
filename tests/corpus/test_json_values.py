"""JSON files: lists piece by piece, objects that hold lists or columns, Wikipedia's files without a suffix."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabula.corpus import json_values
from fabula.corpus.document import Quarantined
from fabula.corpus.json_values import of_file
from fabula.corpus.readers import Reading
from fabula.corpus.sources import find
from fabula.corpus.streams import TextFile
from fabula.errors import SourceError

SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
ANY = st.text(max_size=8)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3),
    max_leaves=8,
)


def texts(path: Path, **reading: Any) -> list[str]:
    bad: list[Quarantined] = []
    (source,) = find(str(path), Reading(**reading), "auto", 0, 0)
    found = [document.text for document in source.documents(bad.append)]
    assert not bad
    return found


@SAME_FOLDER
@given(st.lists(VALUE, max_size=6), st.sampled_from([None, 1, "\t\n"]), st.integers(1, 40), st.booleans())
def test_a_list_is_read_the_same_in_pieces_of_any_size(
    tmp_path: Path, values: list[Any], indent: Any, block: int, ascii_only: bool
) -> None:
    path = tmp_path / "a.json"
    content = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "BLOCK_BYTES", block)
        bad: list[Quarantined] = []
        found = list(of_file(TextFile(path, "a.json"), ["text"], bad.append))
    clean = [v for v in values if ascii_only or "\\ud" not in json.dumps(v)]
    if len(clean) == len(values):
        assert [v.value for v in found] == values
        # The places are those of the elements, to the line and the byte.
        for value in found:
            assert value.byte is not None
            start = content[value.byte :].decode("utf-8", "replace")
            assert json.JSONDecoder().raw_decode(start)[0] == value.value
            assert value.line == 1 + content[: value.byte].count(b"\n")


@SAME_FOLDER
@given(st.lists(VALUE, min_size=1, max_size=4), st.integers(1, 30), st.data())
def test_a_list_that_was_cut_is_refused_and_never_read_wrong(
    tmp_path: Path, values: list[Any], block: int, data: st.DataObject
) -> None:
    path = tmp_path / "a.json"
    content = json.dumps(values).encode()
    path.write_bytes(content[: data.draw(st.integers(1, len(content) - 1))])
    found: list[Any] = []

    def read() -> None:
        for value in of_file(TextFile(path, "a.json"), ["text"], lambda _: None):
            found.append(value.value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "BLOCK_BYTES", block)
        with pytest.raises(SourceError, match="broken JSON"):
            read()
    assert found == values[: len(found)]


def test_a_long_list_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    peaks = []
    for count in (3_000, 60_000):
        path = tmp_path / f"{count}.json"
        path.write_text("[" + ",\n".join(json.dumps({"text": f"{i} " + "palabra " * 20}) for i in range(count)) + "]")
        (source,) = find(str(path), Reading(), "auto", 0, 0)
        tracemalloc.start()
        assert sum(1 for _ in source.documents(lambda _: None)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 9 << 20
    assert peaks[1] < 1.2 * peaks[0] < 4 << 20


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"text": ["uno", "dos"], "n": [1, 2]}, ["uno", "dos"]),
        ({"version": "1", "data": [{"text": "uno"}, {"text": "dos"}]}, ["uno", "dos"]),
        ({"rows": ["uno", "dos"]}, ["uno", "dos"]),
        ({"text": "uno", "tags": ["a", "b"]}, ["uno"]),
        ({"text": "uno"}, ["uno"]),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_one_object(tmp_path: Path, content: dict[str, Any], expected: list[str], indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, indent=indent) + "\n")
    assert texts(path) == expected


def test_columns_of_conversations_and_an_object_that_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"instruction": ["a?", "b?"], "output": ["a!", "b!"]}, indent=1))
    assert texts(path) == ["User: a?\n\nAssistant: a!", "User: b?\n\nAssistant: b!"]
    turns = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "a!"}]
    path.write_text(json.dumps({"messages": turns}, indent=1))
    assert texts(path) == ["User: a?\n\nAssistant: a!"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{\n "train": ["a"],\n "test": ["b"]\n}', r"one object with several lists \(train, test\); take one.*jq"),
        ('{\n "text": ["a"],\n "source": [1],\n "data": 3,}', r"line 4, column 12: broken JSON"),
        ('{\n "text": "a"', r"line 2, column 13: broken JSON"),
    ],
)
def test_objects_that_are_refused(tmp_path: Path, content: str, why: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(SourceError, match=why):
        texts(path)


def test_uneven_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"instruction": ["a", "b"],\n "output": ["c"]}')
    with pytest.raises(SourceError, match=r'the lists "instruction" and "output" are columns.*2 and 1 elements'):
        texts(path)


def test_lines_in_a_json_file_stay_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"text": "uno", "x": []}\n\n{"text": "dos"}\n')
    assert texts(path) == ["uno", "dos"]
    path.write_text('{"text": "uno\n{"text": "dos"}\n')
    bad: list[Quarantined] = []
    (source,) = find(str(path), Reading(), "auto", 0, 0)
    assert [d.text for d in source.documents(bad.append)] == ["dos"]
    assert [b.line for b in bad] == [1]


# ---- Wikipedia -----------------------------------------------------------------------------------------------

ARTICLES = [
    {
        "id": "1",
        "url": "https://example.org/1",
        "title": "Zorro",
        "text": "El zorro es un animal.\n\nVive en el bosque.",
    },
    {"id": "2", "url": "https://example.org/2", "title": "Liebre", "text": "Liebre\n\nLa liebre corre."},
    {"id": "3", "url": "https://example.org/3", "title": "Vacío", "text": ""},
]


@pytest.fixture
def wiki(tmp_path: Path) -> Path:
    folder = tmp_path / "extracted" / "AA"
    folder.mkdir(parents=True)
    content = "".join(json.dumps(article, ensure_ascii=False) + "\n" for article in ARTICLES)
    (folder / "wiki_00").write_text(content, encoding="utf-8")
    import bz2

    (folder / "wiki_01.bz2").write_bytes(bz2.compress(content.encode()))
    return folder.parent


def test_the_files_of_wikiextractor(wiki: Path) -> None:
    plain = [article["text"] for article in ARTICLES]
    assert texts(wiki) == plain * 2
    assert texts(wiki / "AA" / "wiki_00") == plain
    titled = ["Zorro\n\nEl zorro es un animal.\n\nVive en el bosque.", "Liebre\n\nLa liebre corre.", ""]
    assert texts(wiki, title_field="title") == titled * 2


def test_wikipedia_with_tags_is_refused(wiki: Path) -> None:
    (wiki / "AA" / "wiki_00").write_text('<doc id="1" url="" title="Zorro">\nZorro\n</doc>\n')
    with pytest.raises(SourceError, match="run WikiExtractor with --json"):
        texts(wiki)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_titles_in_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    rows = [{"title": "Zorro", "text": "Corre."}, {"title": "", "text": "Salta."}]
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = "," if suffix == ".csv" else "\t"
        lines = [("title", "text"), *(row.values() for row in rows)]
        path.write_text("".join(separator.join(line) + "\n" for line in lines))
    assert texts(path, title_field="title") == ["Zorro\n\nCorre.", "Salta."]
    if suffix != ".jsonl":
        with pytest.raises(SourceError, match=r'no column "titel".*did you mean "title"\?'):
            texts(path, title_field="titel")
