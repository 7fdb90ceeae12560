"""Sources: every kind of file gives exactly its documents, and what cannot be read is named and located."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabula.corpus import document as document_module
from fabula.corpus import json_values, readers, streams
from fabula.corpus.document import Document, Quarantined
from fabula.corpus.readers import READERS, Mode, Reading
from fabula.corpus.sources import Files, find, kind_of
from fabula.errors import MachineError, SourceError

zstandard = pytest.importorskip("zstandard")

MARKER = "<|endoftext|>"
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
# A NUL in the first block is how binary files are known; JSON writes it as an escape.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ANY_RAW_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
# Characters at which some tool or other breaks lines; only LF may.
BREAKERS = st.text(st.sampled_from("ab \r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029é😀"), max_size=12)


def read(
    path: Path | str, split: Mode | str = "auto", limit: int = 0, **reading: object
) -> tuple[list[Document], list[Quarantined]]:
    bad: list[Quarantined] = []
    documents: list[Document] = []
    for source in find(str(path), Reading(**reading), split, limit, seed=0):  # type: ignore[arg-type]
        documents += source.documents(bad.append)
    return documents, bad


def texts(path: Path | str, split: str = "auto", **reading: object) -> list[str]:
    documents, bad = read(path, split, **reading)
    assert bad == []
    return [d.text for d in documents]


def compress(path: Path) -> None:
    """Write a content under the name it will have, compressed by its suffix."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(raw))
    elif path.suffix == ".bz2":
        path.write_bytes(bz2.compress(raw))
    elif path.suffix == ".xz":
        path.write_bytes(lzma.compress(raw, preset=0))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.ZstdCompressor().compress(raw))


# ---- plain text ----------------------------------------------------------------------------------------------


def test_marker_on_its_own_line_and_inline(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"uno\ndos\n{MARKER}\n  tres{MARKER}cuatro\n\ncinco {MARKER}\n")
    assert texts(path) == ["uno\ndos", "tres", "cuatro\n\ncinco"]
    documents, _ = read(path)
    assert [d.origin for d in documents] == ["a.txt, line 1", "a.txt, line 4", "a.txt, line 4"]


def test_empty_documents_between_markers_are_passed_on_to_be_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(f"{MARKER}\nuno\n{MARKER}\n{MARKER}\ndos\n{MARKER}\n\n")
    assert texts(path) == ["uno", "", "dos"]


@pytest.mark.parametrize("block", [1, 2, 5, 13, 14, 1000])
def test_marker_is_found_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(readers, "BLOCK_BYTES", block)
    path = tmp_path / "a.txt"
    path.write_text(f"uno{MARKER}<|endof{MARKER}{MARKER}niño<|\n{MARKER}fin")
    assert texts(path) == ["uno", "<|endof", "", "niño<|", "fin"]


def test_blank_lines_join_blocks_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\nuno\nbis\n\ndos\n \t\n\ntres\n\n\ncuatro")
    assert texts(path, "blank", document_bytes=0) == ["uno\nbis", "dos", "tres", "cuatro"]
    assert texts(path, "blank", document_bytes=9) == ["uno\nbis\n\ndos", "tres\n\n\ncuatro"]
    assert texts(path, "blank", document_bytes=9999) == ["uno\nbis\n\ndos\n \t\n\ntres\n\n\ncuatro"]
    assert [d.origin for d in read(path, "blank", document_bytes=0)[0]][1:3] == ["a.txt, line 6", "a.txt, line 9"]


def test_lines_join_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"uno\r\ndos\n\ntres\ncuatro")
    assert texts(path, "line", document_bytes=0) == ["uno", "dos", "tres", "cuatro"]
    assert texts(path, "line", document_bytes=7) == ["uno\ndos", "tres\ncuatro"]


def test_auto_says_what_it_decided_and_why(tmp_path: Path) -> None:
    def decision(path: Path) -> str:
        (source,) = find(str(path), Reading(), "auto", 0, 0)
        return " ".join(source.notes())

    (tmp_path / "marked.txt").write_text(f"a{MARKER}b")
    (tmp_path / "small.txt").write_text("a\n\nb")
    (tmp_path / "large.txt").write_text("word\n\n" * 20_000)
    assert "cut at every <|endoftext|>, because the marker is in the first MiB" in decision(tmp_path / "marked.txt")
    assert "one document a file, because it is small" in decision(tmp_path / "small.txt")
    assert "at least 4,096 bytes, because it is one larger file" in decision(tmp_path / "large.txt")
    (tmp_path / "lines.txt").write_text("word word\n" * 20_000)
    assert "at least 4,096 bytes, because it is one larger file" in decision(tmp_path / "lines.txt")
    assert "cut at line ends, lines joined" in decision(tmp_path / "lines.txt")
    (tmp_path / "lines.txt").unlink()
    assert "one document a file, because it is one of several files" in decision(tmp_path)
    assert len(texts(tmp_path)) == 2 + 1 + 1
    assert len(texts(tmp_path / "large.txt")) == -(
        -20_000 // 683
    )  # 683 words and their blank lines are the first 4,096 bytes


@SAME_FOLDER
@given(documents=st.lists(BREAKERS, min_size=1, max_size=6), crlf=st.booleans(), mark=st.booleans())
def test_only_lf_ends_lines(tmp_path: Path, documents: list[str], crlf: bool, mark: bool) -> None:
    """CRLF files and files with a byte-order mark give the same documents; no other character cuts anything."""
    documents = [d.strip(" \r") + "." for d in documents]
    ends = "\r\n" if crlf else "\n"
    lead = b"\xef\xbb\xbf" if mark else b""
    path = tmp_path / "marker.txt"
    path.write_bytes(lead + "".join(f"{d}{ends}{MARKER}{ends}" for d in documents).encode())
    assert texts(path) == documents
    path = tmp_path / "blank.txt"
    path.write_bytes(lead + "".join(f"{d}{ends}{d}{ends}{ends}" for d in documents).encode())
    assert texts(path, "blank", document_bytes=0) == [f"{d}\n{d}" for d in documents]
    path = tmp_path / "lines.jsonl"
    path.write_bytes(lead + "".join(json.dumps({"text": d}, ensure_ascii=False) + ends for d in documents).encode())
    assert texts(path) == documents


@pytest.mark.parametrize("size", [0, 10, 50])
def test_crlf_does_not_move_the_cuts(tmp_path: Path, size: int) -> None:
    content = "".join("línea\n" * (n % 5 + 1) + "\n" for n in range(40))
    for name, ends in (("lf.txt", "\n"), ("crlf.txt", "\r\n")):
        (tmp_path / name).write_bytes(content.replace("\n", ends).encode())
    unix = texts(tmp_path / "lf.txt", "blank", document_bytes=size)
    assert texts(tmp_path / "crlf.txt", "blank", document_bytes=size) == unix


# ---- records -------------------------------------------------------------------------------------------------


@SAME_FOLDER
@given(documents=st.lists(ANY_TEXT, min_size=1, max_size=5), ascii=st.booleans())
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2", ".xz"])
def test_any_text_survives_records(tmp_path: Path, suffix: str, documents: list[str], ascii: bool) -> None:
    rows = [json.dumps({"id": 1, "text": d}, ensure_ascii=ascii) for d in documents]
    for name, content in (
        ("a.jsonl", "\n".join(rows)),
        ("a.json", "[" + " ,\n".join(rows) + "]\n"),
        ("b.json", "\n".join(rows)),
        ("c.json", json.dumps(documents, ensure_ascii=ascii)),
    ):
        path = tmp_path / (name + suffix)
        path.write_bytes(content.encode())
        compress(path)
        assert texts(path) == documents, name


@SAME_FOLDER
@given(documents=st.lists(ANY_RAW_TEXT, min_size=1, max_size=5), all_quoted=st.booleans())
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_any_text_survives_csv(
    tmp_path: Path, suffix: str, delimiter: str, documents: list[str], all_quoted: bool
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(
        out, delimiter=delimiter, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL, escapechar=None
    )
    writer.writerow(["id", "text", "x"])
    for n, d in enumerate(documents):
        writer.writerow([n, d, 'say "a,b;\n"'])
    path = tmp_path / f"a.csv{suffix}"
    path.write_bytes(out.getvalue().encode())
    compress(path)
    assert texts(path) == documents


def test_tsv_takes_quotes_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b'text\tid\r\n"Hola", dijo.\t1\n"abre\t2\n"todo ""entre"" comillas"\t3\r\n')
    assert texts(path) == ['"Hola", dijo.', '"abre', 'todo "entre" comillas']


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    documents = [f"niño {n}\r\n\u2028" for n in range(1000)]
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        column = pyarrow.array(documents, pyarrow.string()).cast(kind)
        parquet.write_table(
            pyarrow.table({"n": list(range(1000)), "text": column}), tmp_path / "a.parquet", row_group_size=300
        )
        assert texts(tmp_path / "a.parquet") == documents
    values = pyarrow.array([b"uno", None, b"ma\xf1ana", b"dos"], pyarrow.binary())
    parquet.write_table(pyarrow.table({"body": values}), tmp_path / "b.parquet")
    found, bad = read(tmp_path / "b.parquet", text_field="body")
    assert [(d.text, d.origin) for d in found] == [("uno", "b.parquet, row 1"), ("dos", "b.parquet, row 4")]
    assert [(b.line, b.byte) for b in bad] == [(2, None), (3, None)]
    assert "null" in bad[0].reason
    assert "0xf1" in bad[1].reason
    with pytest.raises(SourceError, match=r'no column "text".*"body"'):
        read(tmp_path / "b.parquet")
    parquet.write_table(pyarrow.table({"text": [[1], [2]]}), tmp_path / "c.parquet")
    with pytest.raises(SourceError, match="holds no text"):
        read(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 this is none PAR1")
    with pytest.raises(SourceError, match="not a readable Parquet file"):
        read(tmp_path / "d.parquet")


# ---- what cannot be read -------------------------------------------------------------------------------------

BAD_LINES: list[tuple[str, Callable[[int], tuple[bytes, int]]]] = [
    # (part of the reason, the line and where in it the fault is)
    (
        "not UTF-8: byte 0xf1",
        lambda n: (b'{"id": %d, "text": "ma\xf1ana"}' % n, len(b'{"id": , "text": "ma') + len(str(n))),
    ),
    ("not UTF-8: byte 0xed", lambda n: (b'{"text": "\xed\xa0\x80"}', 10)),  # a surrogate, encoded
    ("not UTF-8: byte 0xc3", lambda n: (b'{"text": "cut \xc3', 14)),
    ("not UTF-8: byte 0xc0", lambda n: (b'{"text": "\xc0\xaf"}', 10)),  # an overlong slash
    ("broken JSON: Expecting ',' delimiter", lambda n: (b'{"text": "uno" "dos"}', 15)),
    ("broken JSON: Unterminated string", lambda n: ('{"título": "ñ", "text": "sin fin'.encode(), 26)),
    ("broken JSON: Expecting value", lambda n: (b"<html>", 0)),
    ("broken JSON: Extra data", lambda n: (b'{"text": "a"}{"text": "b"}', 13)),
    ('no field "text"; the record has: texto, id', lambda n: (b'{"texto": "a", "id": 1}', 0)),
    ("holds null, not text", lambda n: (b'{"text": null}', 0)),
    ("holds a number, not text", lambda n: (b'{"text": 1.5}', 0)),
    ("holds a list, not text", lambda n: (b'{"text": ["a"]}', 0)),
    ("expected an object or a string, got a list", lambda n: (b"[1, 2]", 0)),
    ("lone surrogate U+D83D at character 3", lambda n: (b'{"text": "abc\\ud83d"}', 0)),
    ("cannot be read", lambda n: (b'{"n": ' + b"[" * 200_000 + b"]" * 200_000 + b', "text": "a"}', 0)),
]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_bad_json_lines_are_located_and_the_rest_goes_on(tmp_path: Path, suffix: str, ends: bytes) -> None:
    chance = random.Random(7)
    content, expected, good = b"\xef\xbb\xbf", [], []
    kinds = BAD_LINES[:-1] * 15
    chance.shuffle(kinds)
    number = 0
    for reason, make in [*kinds[:199], BAD_LINES[-1]]:
        for _ in range(chance.randrange(4)):
            good.append(f"cuento {number} niño\u2028 😀")
            content += json.dumps({"text": good[-1]}, ensure_ascii=chance.random() < 0.5).encode() + ends
            number += 1
        line, at = make(number)
        number += 1
        expected.append((number, len(content) + at, reason))
        content += line + ends
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(content)
    compress(path)
    documents, bad = read(path)
    assert [d.text for d in documents] == good
    assert len(bad) == len(expected) == 200
    for record, (line_number, byte, reason) in zip(bad, expected, strict=True):
        assert (record.file, record.line, record.byte) == (str(path), line_number, byte), reason
        assert reason in record.reason
        assert record.excerpt.isprintable()


def test_bad_bytes_in_plain_text_set_their_document_aside(tmp_path: Path) -> None:
    content = f"uno\n{MARKER}\ndos\nmás".encode() + b" ma\xf1ana\n" + f"fin\n{MARKER}\ntres\n\n".encode()
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    at = content.index(b"\xf1")
    documents, bad = read(path)
    assert [d.text for d in documents] == ["uno", "tres"]
    assert [(b.line, b.byte, b.reason) for b in bad] == [(4, at, "not UTF-8: byte 0xf1 (invalid continuation byte)")]
    assert "ma\\xf1ana" in bad[0].excerpt
    documents, bad = read(path, "blank", document_bytes=0)
    assert (len(documents), [(b.line, b.byte) for b in bad]) == (0, [(4, at)])
    documents, bad = read(path, "file")
    assert (len(documents), [(b.line, b.byte) for b in bad]) == (0, [(4, at)])


def test_bad_rows_of_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    content = b'id,text\n1,"uno\ndos"\n2,a,b\n3,"x\ny\xff"\n\n4\n5,fin'
    path.write_bytes(content)
    documents, bad = read(path)
    assert [(d.text, d.origin) for d in documents] == [("uno\ndos", "a.csv, line 2"), ("fin", "a.csv, line 9")]
    assert [(b.line, b.byte) for b in bad] == [(4, 20), (6, content.index(b"\xff")), (8, content.index(b"4\n5"))]
    assert bad[0].reason == "3 cells, the header has 2"
    path.write_bytes(b'id,text\n1,"uno\n2,dos\n')
    with pytest.raises(SourceError, match="line 2: a quote opens in this row and does not close before the end"):
        read(path)
    path.write_text("id,body\n1,a\n")
    with pytest.raises(SourceError, match=r'no column "text".*"id", "body".*--corpus.text_field'):
        read(path)
    assert texts(path, text_field="body") == ["a"]


def test_bad_elements_of_a_json_list(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    content = '[{"text": "uno"},\n "dós",\n null, {"text": "ma'.encode() + b'\xf1"}, {"text": "\\udc80"}, "fin"]'
    path.write_bytes(content)
    documents, bad = read(path)
    assert [d.text for d in documents] == ["uno", "dós", "fin"]
    assert [(b.line, b.byte) for b in bad] == [
        (3, content.index(b"null")),
        (3, content.index(b"\xf1")),
        (3, content.index(b'{"text": "\\udc80"')),
    ]
    path.write_text('[{"text": "uno"},\n {"text" "dos"}]')
    with pytest.raises(SourceError, match=r"line 2, column 10: broken JSON.*\.jsonl"):
        read(path)
    path.write_text("[]")
    assert texts(path) == []


def test_an_element_of_a_json_list_that_does_not_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_values, "_MAX_ELEMENT_CHARACTERS", 1 << 20)
    path = tmp_path / "a.json"
    path.write_text('["uno",\n "' + "a" * (3 << 20))
    with pytest.raises(SourceError, match=r"line 2: an element of the list does not end within 1 Mi characters.*jsonl"):
        read(path)


def test_documents_above_the_limit_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (document_module, readers, streams):
        monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", 1 << 20)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 1 << 16)
    long = "larga " * (1 << 19)
    (tmp_path / "a.txt").write_text(f"uno\n{MARKER}\n{long}\n\n{MARKER}\ndos\n{MARKER}")
    (tmp_path / "a.jsonl").write_text(f'{{"text": "uno"}}\n{{"text": "{long}"}}\n{{"text": "dos"}}\n')
    for name, split, expected in (
        ("a.txt", "marker", ["uno", "dos"]),
        ("a.txt", "blank", [f"{MARKER}\ndos\n{MARKER}"]),
        ("a.txt", "file", []),
        ("a.jsonl", "auto", ["uno", "dos"]),
    ):
        documents, bad = read(tmp_path / name, split, document_bytes=0)
        assert [d.text for d in documents] == expected, (name, split)
        assert [b.reason for b in bad] == ["longer than 1 MiB"]
        assert bad[0].line == (2 if name == "a.jsonl" or split == "marker" else 1)
    documents, _ = read(tmp_path / "a.txt", "marker")
    assert documents[1].origin == "a.txt, line 6"


# ---- files that cannot be used -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-16-le", b"\xff\xfe"),
        ("utf-16-be", b"\xfe\xff"),
        ("utf-32-le", b"\xff\xfe\0\0"),
        ("utf-32-be", b"\0\0\xfe\xff"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.csv.zst", "a.json"])
def test_utf16_is_named(tmp_path: Path, encoding: str, mark: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(mark + "hola".encode(encoding))
    compress(path)
    with pytest.raises(SourceError, match=rf"{encoding[:6].upper()}, only UTF-8 is read.*iconv"):
        read(path)


def test_binary_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\x7fELF\0\0\0")
    with pytest.raises(SourceError, match="not a text file"):
        read(path)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.txt.bz2", "a.txt.xz"])
def test_damaged_compressed_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    chance = random.Random(1)
    path.write_text("".join(f"cuento {chance.random()}\n{MARKER}\n" for _ in range(50_000)))
    compress(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-5], b"not compressed at all"):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match="the compressed file is damaged"):
            read(path)
    path.write_bytes(whole + whole)
    assert len(texts(path)) == 100_000


def test_an_xz_file_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 << 20}]
    with lzma.open(path, "wb", format=lzma.FORMAT_XZ, filters=filters) as file:
        file.write(b"uno\n")
    with pytest.raises(SourceError, match=r"it asks for more than 128 MiB of memory"):
        read(path)


def test_xz_streams_may_have_padding_between(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.xz"
    streams = [lzma.compress(f'{{"text": "{name}"}}\n'.encode()) for name in ("uno", "dos", "tres")]
    path.write_bytes(streams[0] + streams[1] + b"\0" * 8 + streams[2] + b"\0" * 4)
    assert texts(path) == ["uno", "dos", "tres"]


def test_missing_empty_and_unknown(tmp_path: Path) -> None:
    def refused(spec: Path | str, match: str) -> None:
        with pytest.raises(SourceError, match=match):
            find(str(spec), Reading(), "auto", 0, 0)

    (tmp_path / "stories.txt").write_text("a")
    refused(tmp_path / "storys.txt", 'no such file or folder.*did you mean "stories.txt"')
    refused("fabels:es", 'the generator is written "fables:es"')
    refused(tmp_path / "*.jsonl", "no file matches this pattern")
    (tmp_path / "empty.txt").touch()
    refused(tmp_path / "empty.txt", "empty")
    (tmp_path / "a.pdf").touch()
    for archive, command in (("a.zip", "unzip -d FOLDER a.zip"), ("b.tar.gz", "tar -C FOLDER -xf b.tar.gz")):
        (tmp_path / archive).touch()
        refused(tmp_path / archive, f"an archive of files; unpack it with: {command}, and name the folder")
    refused(tmp_path / "a.pdf", r"unknown kind of file; known: .markdown .md .txt .csv .json .*\.gz.*\.zst.*\.parquet")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    refused(tmp_path / "folder", "none of its 0 files is of a known kind")
    (tmp_path / "folder" / "a.png").touch()
    refused(tmp_path / "folder", "none of its 1 files")
    (tmp_path / "folder" / "inner" / "a.txt").touch()
    refused(tmp_path / "folder", "empty")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.txt")
        refused(tmp_path / "pipe.txt", "neither a file nor a folder")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(SourceError, match="no permission"):
        read(tmp_path)


@pytest.mark.parametrize(("module", "name"), [("zstandard", "a.txt.zst"), ("pyarrow", "a.parquet")])
def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(b"some")
    with pytest.raises(MachineError, match=rf"{module}.*fabula\[corpus\]"):
        read(tmp_path / name)


# ---- folders, patterns, several ------------------------------------------------------------------------------


def test_folders_are_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b.jsonl", "c.markdown", ".git/x.txt", "a/.hidden.txt", "photo.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)
    documents, _ = read(tmp_path)
    assert [d.text for d in documents] == ["a/b.jsonl", "a/z.md", "b.txt", "c.markdown"]
    assert documents[1].origin == "a/z.md, line 1"
    (source,) = find(str(tmp_path), Reading(), "auto", 0, 0)
    assert any("1 files of other kinds were left out" in note for note in source.notes())
    assert [d.text for d in read(tmp_path / "**" / "*.m*")[0]] == ["a/z.md", "c.markdown"]
    assert [d.text for d in read(f"{tmp_path / 'b.txt'}, {tmp_path / 'c.markdown'}")[0]] == ["b.txt", "c.markdown"]
    assert [d.text for d in read(tmp_path, limit=2)[0]] == ["a/b.jsonl", "a/z.md"]


def test_a_name_with_a_comma_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "érase, una vez.txt").write_text("a")
    assert texts(tmp_path / "érase, una vez.txt") == ["a"]


def test_kinds() -> None:
    assert kind_of(Path("x/A.TXT.GZ")) == ".txt"
    assert kind_of(Path("a.parquet")) == ".parquet"
    assert kind_of(Path("a.parquet.gz")) == kind_of(Path("a.gz")) == kind_of(Path("a")) == ""


def test_a_new_kind_is_one_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(READERS, "_entries", dict(READERS._entries))

    @READERS.register(".upper")
    def read_upper(file: readers.TextFile, reading: Reading, reject: object) -> Iterator[Document]:
        yield Document(file.path.read_text(encoding="utf-8").upper(), file.name)

    (tmp_path / "a.upper").write_text("hola")
    assert texts(tmp_path / "a.upper") == ["HOLA"]


# ---- memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "piece"),
    [
        ("a.txt", "marker", "x" * 900 + MARKER),
        ("a.txt", "blank", "x" * 900 + "\n\n"),
        ("a.jsonl", "auto", json.dumps({"text": "x" * 900}) + "\n"),
        ("a.csv", "auto", '"' + "x" * 450 + "\n" + "y" * 450 + '"\n'),
        ("a.txt.zst", "marker", "x" * 900 + MARKER),
        ("a.jsonl.gz", "auto", json.dumps({"text": "x" * 900}) + "\n"),
    ],
)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str, split: str, piece: str) -> None:
    path = tmp_path / name
    count = (30 << 20) // len(piece)
    with path.open("w") as file:
        file.write("text\n" if name == "a.csv" else "")
        for _ in range(count):
            file.write(piece)
    compress(path)
    (source,) = find(str(path), Reading(document_bytes=0), split, 0, 0)  # type: ignore[arg-type]
    assert isinstance(source, Files)
    tracemalloc.start()
    try:
        read_back = sum(1 for _ in source.documents(lambda record: pytest.fail(str(record))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read_back == count
    assert peak < 8 << 20


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs getrusage")
def test_a_gigantic_line_is_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    """512 MiB without a line end, in a process of its own: at most four times the document limit (reliability D4)."""
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.write(b"uno\n<|endoftext|>\n")
        for _ in range(512):
            file.write(b"x" * (1 << 20))
        file.write(b"\n<|endoftext|>\n\ndos")
    code = """
import resource, sys
from fabula.corpus.readers import Reading
from fabula.corpus.sources import find
for split in ("marker", "blank", "file"):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bad = []
    (source,) = find(sys.argv[1], Reading(document_bytes=0), split, 0, 0)
    texts = [d.text for d in source.documents(bad.append)]
    print(len(texts), len(bad), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    marker, blank, file_mode = ([int(n) for n in line.split()] for line in out.splitlines())
    assert (marker[:2], blank[:2], file_mode[:2]) == ([2, 1], [1, 1], [0, 1])
    unit = 1 if sys.platform == "darwin" else 1024
    assert max(marker[2], blank[2], file_mode[2]) * unit < 4 * document_module.MAX_DOCUMENT_BYTES
