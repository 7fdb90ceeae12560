"""Rows D1 to D6: texts that are broken, odd, gigantic or missing. What cannot be read is set aside with its place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fabula import storage
from fabula.config import build
from fabula.corpus.document import MAX_DOCUMENT_BYTES
from fabula.corpus.fables import Fables
from fabula.corpus.run import Corpus, CorpusConfig, Funnel
from fabula.data.run import QUARANTINE, DataConfig
from fabula.data.run import run as prepare
from fabula.data.shards import Split, SplitWriter, dtype_for
from fabula.errors import FabulaError
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.base import Tokenizer
from tests import tiny

Cli = Callable[..., tuple[int, str, str]]

MARKER = "<|endoftext|>"


def corpus(source: object, **changes: object) -> Corpus:
    return Corpus(build(CorpusConfig, {"source": str(source), "validation": 0.2, **changes}))


def shards(folder: Path) -> dict[str, bytes]:
    """The files with ids of a data folder."""
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*-*.*")) if p.suffix in (".tokens", ".documents")}


def prepared(source: Path, folder: Path, tokenizer: Tokenizer, **changes: object) -> dict[str, bytes]:
    prepare(DataConfig(), corpus(source, **changes), tokenizer, folder, Silent(), StopFlag())
    return shards(folder)


# ---- D1 ----------------------------------------------------------------------------------------------------

# (part of the reason, the line and where in it the fault is)
Bad = tuple[str, bytes, int]


def bad_json_lines() -> list[Callable[[random.Random, int], Bad]]:
    """Twelve kinds of JSON lines that are no text."""

    def not_utf8(chance: random.Random, n: int) -> Bad:
        start = b'{"id": %d, "text": "ma' % n
        return "not UTF-8: byte 0xf1", start + b'\xf1ana"}', len(start)

    def encoded_surrogate(chance: random.Random, n: int) -> Bad:
        start = b'{"text": "%d' % n
        return "not UTF-8: byte 0xed", start + b'\xed\xa0\x80"}', len(start)

    def overlong(chance: random.Random, n: int) -> Bad:
        start = b'{"text": "' + "ñ".encode() * chance.randrange(9)
        return "not UTF-8: byte 0xc0", start + b'\xc0\xaf"}', len(start)

    def cut_character(chance: random.Random, n: int) -> Bad:
        whole = '{"text": "zorro 🦊'.encode()
        return "not UTF-8: byte 0xf0", whole[: -chance.randrange(1, 4)], len(whole) - 4

    def no_comma(chance: random.Random, n: int) -> Bad:
        start = '{"título": "ñ %d" '.encode() % n
        return "broken JSON: Expecting ',' delimiter", start + b'"text": "dos"}', len(start)

    def never_closed(chance: random.Random, n: int) -> Bad:
        start = '{"título": "¿%d?", "text": '.encode() % n
        return "broken JSON: Unterminated string", start + b'"sin fin', len(start)

    def no_json(chance: random.Random, n: int) -> Bad:
        return "broken JSON: Expecting value", b"<html>%d</html>" % n, 0

    def two_records(chance: random.Random, n: int) -> Bad:
        start = b'{"text": "%d"}' % n
        return "broken JSON: Extra data", start + b'{"text": "b"}', len(start)

    def no_field(chance: random.Random, n: int) -> Bad:
        return 'no field "text"; the record has: texto', b'{"texto": "%d"}' % n, 0

    def foreign_field(chance: random.Random, n: int) -> Bad:
        kind, value = chance.choice(
            [("null", b"null"), ("a number", b"1e3"), ("a list", b'["a"]'), ("an object", b"{}"), ("true", b"false")]
        )
        return f'the field "text" holds {kind}', b'{"id": %d, "text": %s}' % (n, value), 0

    def no_object(chance: random.Random, n: int) -> Bad:
        kind, value = chance.choice([("a list", b"[%d]"), ("a number", b"%d"), ("a number", b"-%d.5")])
        return f"expected an object or a string, got {kind}", value % n, 0

    def lone_surrogate(chance: random.Random, n: int) -> Bad:
        half = chance.choice([b"d83d", b"dc00", b"dfff"])
        start = str(n)
        return f"at character {len(start)} of", b'{"text": "' + start.encode() + b"\\u" + half + b'"}', 0

    return [
        *(not_utf8, encoded_surrogate, overlong, cut_character, no_comma, never_closed, no_json, two_records),
        *(no_field, foreign_field, no_object, lone_surrogate),
    ]


@dataclass
class Built:
    """A file with and without its bad records, and where those are: (line, byte, part of the reason)."""

    name: str
    clean: bytes
    broken: bytes
    places: list[tuple[int, int, str]]


def good_texts(case: int, chance: random.Random) -> Iterator[str]:
    for number in range(chance.randrange(1, 4)):
        yield f"cuento {case}.{number} del niño\u2028 " + chance.choice(["😀", "e\u0301", "fin", "\u0085 y\x0b"])


def json_lines(name: str, cases: range, end: bytes = b"\n", mark: bytes = b"") -> Built:
    made = Built(name, mark, mark, [])
    kinds = bad_json_lines()
    line = 1
    for case in cases:
        chance = random.Random(case)
        for text in good_texts(case, chance):
            row = json.dumps({"text": text}, ensure_ascii=chance.random() < 0.5).encode() + end
            made.clean += row
            made.broken += row
            line += 1
        reason, row, at = kinds[case % len(kinds)](chance, case)
        made.places.append((line, len(made.broken) + at, reason))
        made.broken += row + end
        line += 1
    return made


def marked_text(name: str, cases: range) -> Built:
    made = Built(name, b"", b"", [])
    for case in cases:
        chance = random.Random(case)
        for text in good_texts(case, chance):
            piece = f"{text}\n{MARKER}\n".encode()
            made.clean += piece
            made.broken += piece
        start = made.broken + b"uno\n" * chance.randrange(3) + "¡dos ".encode()
        bad = chance.choice([b"\xf1", b"\xff", b"\x80", b"\xc3"])
        made.places.append((start.count(b"\n") + 1, len(start), f"not UTF-8: byte 0x{bad.hex()}"))
        made.broken = start + bad + f"\ntres\n{MARKER}\n".encode()
    return made


def table(name: str, cases: range) -> Built:
    made = Built(name, b"id,text\n", b"id,text\n", [])
    for case in cases:
        chance = random.Random(case)
        for text in good_texts(case, chance):
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerow([case, text + chance.choice(["", "\n,", '"'])])
            made.clean += out.getvalue().encode()
            made.broken += out.getvalue().encode()
        line, byte = made.broken.count(b"\n") + 1, len(made.broken)
        if case % 2:
            made.places.append((line, byte, "3 cells, the header has 2"))
            made.broken += b'%d,"uno\ndos",tres\n' % case
        else:
            start = b'%d,"uno\n' % case
            made.places.append((line + 1, byte + len(start), "not UTF-8: byte 0xff"))
            made.broken += start + b'\xff"\n'
    return made


def write(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


@pytest.mark.row("D1", cases=200, nightly=5000)
def test_every_bad_record_is_located_and_changes_nothing(tmp_path: Path, tiny_tokenizer: Tokenizer, cases: int) -> None:
    """File, line, byte and reason of each; the shards are those of a corpus that never had them."""
    starts = [cases * part // 10 for part in (0, 4, 6, 7, 8, 9, 10)]
    parts = [range(a, b) for a, b in pairwise(starts)]
    files = [
        json_lines("a.jsonl", parts[0]),
        json_lines("b.jsonl", parts[1], end=b"\r\n", mark=b"\xef\xbb\xbf"),
        json_lines("c.jsonl.gz", parts[2]),
        json_lines("d.json", parts[3]),
        marked_text("e.txt", parts[4]),
        table("f.csv", parts[5]),
    ]
    for built in files:
        write(tmp_path / "clean", built.name, built.clean)
        write(tmp_path / "broken", built.name, built.broken)
    clean = prepared(tmp_path / "clean", tmp_path / "data-clean", tiny_tokenizer)
    broken = prepared(tmp_path / "broken", tmp_path / "data-broken", tiny_tokenizer, max_quarantined=1.0)
    found = storage.read_json_lines(tmp_path / "data-broken" / QUARANTINE)
    expected = [(str(tmp_path / "broken" / b.name), *place) for b in files for place in b.places]
    assert len(found) == len(expected) == cases
    for record, (file, line, byte, reason) in zip(found, expected, strict=True):
        assert (record["file"], record["line"], record["byte"]) == (file, line, byte), (record, reason)
        assert reason in record["reason"]
        assert record["excerpt"].isprintable()
    assert broken == clean
    assert len(clean) == 4
    funnel = storage.read_json(tmp_path / "data-broken" / "manifest.json")["funnel"]
    assert funnel["quarantined"] == cases
    assert funnel["records"] == cases + sum(funnel["documents"].values()) + funnel["duplicates"]


@pytest.mark.row("D1", cases=50)
def test_fifty_bad_records_among_ten_thousand(cli: Cli, tmp_path: Path, cases: int) -> None:
    """Refused as it is, with nothing made; allowed with a setting, and then as if the bad ones had never been there."""
    kinds = bad_json_lines()[2:]  # ten of them
    chance = random.Random(50)
    at = sorted(chance.sample(range(10_000), cases))
    fables = [Fables("es", 3)[n].text[:60] for n in range(100)]
    clean, broken, places = [], [], []
    size = 0
    for number in range(10_000):
        if number in at:
            case = at.index(number)
            _, line, offset = kinds[case % len(kinds)](random.Random(case), case)
            places.append((number + 1, size + offset))
        else:
            line = json.dumps({"text": f"{fables[number % 100]} {number}"}, ensure_ascii=False).encode()
            clean.append(line)
        broken.append(line)
        size += len(line) + 1
    (tmp_path / "clean.jsonl").write_bytes(b"\n".join(clean) + b"\n")
    (tmp_path / "broken.jsonl").write_bytes(b"\n".join(broken) + b"\n")
    recipe = tiny.write_recipe(tmp_path)
    common = ["data", "prepare", recipe, "--corpus.documents", 0]
    code, out, err = cli(*common, "--out", "refused", "--corpus.source", "broken.jsonl")
    assert (code, out) == (2, "")
    assert f"{places[0][0]:,} (byte {places[0][1]:,})" in err
    assert "--corpus.max_quarantined" in err
    assert not list((tmp_path / "refused").rglob("*.tokens"))
    for name, more in (("clean", []), ("broken", ["--corpus.max_quarantined", "0.01"])):
        code, _, err = cli(*common, "--out", name, "--corpus.source", f"{name}.jsonl", *more)
        assert code == 0, err
    found = storage.read_json_lines(tmp_path / "broken" / "data" / QUARANTINE)
    assert [(r["file"], r["line"], r["byte"]) for r in found] == [("broken.jsonl", *place) for place in places]
    assert len(found) == cases
    assert shards(tmp_path / "broken" / "data") == shards(tmp_path / "clean" / "data")
    one, other = ((tmp_path / n / "tokenizer" / "tokenizer.json").read_bytes() for n in ("clean", "broken"))
    assert one == other


# ---- D2 ----------------------------------------------------------------------------------------------------

ENCODINGS = [
    # (its mark, its codec, a word of the error; none: it is read)
    (b"\xef\xbb\xbf", "utf-8", ""),
    (b"\xff\xfe", "utf-16-le", "UTF-16"),
    (b"\xfe\xff", "utf-16-be", "UTF-16"),
    (b"\xff\xfe\0\0", "utf-32-le", "UTF-32"),
    (b"\0\0\xfe\xff", "utf-32-be", "UTF-32"),
    (b"", "utf-16-le", r"byte \d is NUL\); give text in UTF-8"),
    (b"", "utf-32-be", r"byte \d is NUL\); give text in UTF-8"),
]
SUFFIXES = [".txt", ".md", ".jsonl", ".json", ".csv", ".tsv"]
PACKINGS = ["", ".gz", ".zst"]


def in_format(texts: list[str], suffix: str) -> str:
    if suffix in (".txt", ".md"):
        return "".join(f"{t}\n{MARKER}\n" for t in texts)
    if suffix == ".json":
        return json.dumps(texts, ensure_ascii=False)
    if suffix == ".jsonl":
        return "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts)
    return "text\n" + "".join(f"{t}\n" for t in texts)


def pack(content: bytes, packing: str) -> bytes:
    if packing == ".zst":
        zstandard = pytest.importorskip("zstandard")
        return bytes(zstandard.ZstdCompressor().compress(content))
    return gzip.compress(content) if packing == ".gz" else content


@pytest.mark.row("D2", cases=126, nightly=1260)
def test_marks_are_no_text_and_utf16_is_named(tmp_path: Path, tiny_tokenizer: Tokenizer, cases: int) -> None:
    for case in range(cases):
        mark, codec, word = ENCODINGS[case % 7]
        suffix, packing = SUFFIXES[case // 7 % 6], PACKINGS[case // 42 % 3]
        content = in_format([f"El niño {case} y la cigüeña {n}" for n in range(20)], suffix)
        path, plain = tmp_path / f"marked{suffix}{packing}", tmp_path / f"plain{suffix}{packing}"
        path.write_bytes(pack(mark + content.encode(codec), packing))
        plain.write_bytes(pack(content.encode(), packing))
        expected = [(s, d.text) for s, d in corpus(plain, validation=0.5).documents(Funnel())]
        assert len(expected) == 20
        if word:
            with pytest.raises(FabulaError, match=word) as caught:
                list(corpus(path).documents(Funnel()))
            assert str(path) in str(caught.value)
            assert caught.value.exit_code == 2
        else:
            found = [(s, d.text) for s, d in corpus(path, validation=0.5).documents(Funnel())]
            assert found == expected
            ids = tiny_tokenizer.encode_batch([t for _, t in found])
            assert ids == tiny_tokenizer.encode_batch([t for _, t in expected])


# ---- D3 ----------------------------------------------------------------------------------------------------

# What Python's splitlines would cut at, and what else has to do with lines.
_BREAKERS = ["\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\u00a0", "\ufeff", "\x1a"]


def text_with_breakers(case: int) -> str:
    chance = random.Random(case)
    words = [f"n{case}"]
    for _ in range(chance.randrange(1, 12)):
        words.append(chance.choice([*_BREAKERS, "\n", "niño", " ", "a", "\r\r", ",", '"', "\t"]))
    # Space around a document in plain text is taken off, and CRLF is LF there; that is a rule, not a loss.
    return "".join(words).replace("\r\n", "\r \n") + "."


@pytest.mark.row("D3", cases=10_000, nightly=100_000)
def test_lines_end_at_lf_and_every_text_survives(tmp_path: Path, cases: int) -> None:
    for start in range(0, cases, 500):
        chance = random.Random(start)
        texts = [text_with_breakers(case) for case in range(start, min(start + 500, cases))]
        assert len(set(texts)) == len(texts)
        end = chance.choice(["\n", "\r\n"])
        name = chance.choice(["a.jsonl", "a.json", "a.csv", "a.txt"])
        if name == "a.txt":
            content = "".join(f"{t}{end}{MARKER}{end}" for t in texts)
        elif name == "a.csv":
            out = io.StringIO(newline="")
            csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([["text"], *([t] for t in texts)])
            content = out.getvalue()
        else:
            rows = [json.dumps({"text": t}, ensure_ascii=chance.random() < 0.5) for t in texts]
            content = end.join(rows) + end if name == "a.jsonl" else "[" + f",{end}".join(rows) + "]"
        (tmp_path / name).write_bytes(content.encode())
        found = [d.text for _, d in corpus(tmp_path / name).documents(Funnel())]
        assert found == texts, (start, name)


# ---- D4 ----------------------------------------------------------------------------------------------------

_READ = """
import resource, sys
from fabula.corpus.run import Corpus, CorpusConfig, Funnel
source, split, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
small = CorpusConfig(source=source + ".small", split=split, document_bytes=0, validation=0.5, max_quarantined=1.0)
list(Corpus(small).documents(Funnel()))
before = used()
with open("/proc/self/statm") as file:
    here = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (here + most, here + most))
config = CorpusConfig(source=source, split=split, document_bytes=0, validation=0.5, max_quarantined=1.0)
funnel = Funnel()
texts = [d.text for _, d in Corpus(config).documents(funnel)]
print(len(texts), funnel.quarantined, funnel.first_quarantined[0].line, used() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on memory is Linux's")
@pytest.mark.row("D4", cases=3, nightly=12)
def test_a_gigantic_line_takes_bounded_memory(tmp_path: Path, cases: int, request: pytest.FixtureRequest) -> None:
    """Five times the limit on a document (nightly eight times) in one line; four times the limit is all there is."""
    size = (512 if request.config.getoption("--nightly") else 320) << 20
    most = 4 * MAX_DOCUMENT_BYTES
    assert size > most
    kinds = [
        # (suffix, split, before and after the giant, the line of the giant)
        (".jsonl", "auto", b'{"text": "', b'"}\n', 21),
        (".txt", "blank", b"", b"\n\n", 41),
        (".csv", "auto", b"", b"\n", 22),
        (".txt", "line", b"", b"\n", 21),
        (".txt", "marker", b"", f"\n{MARKER}\n".encode(), 40),  # from the end of the line before
        (".tsv", "auto", b"", b"\n", 22),
    ]
    for case in range(cases):
        suffix, split, lead, tail, line = kinds[case % len(kinds)]
        path = tmp_path / f"giant{case}{suffix}"
        header = b"text\n" if suffix in (".csv", ".tsv") else b""
        rows = [lead + f"cuento {case} {n}".encode() + tail for n in range(40)]
        # The word before the suffix keeps the kind of the file: a source of the same shape without the giant.
        small = tmp_path / f"giant{case}{suffix}.small"
        small.mkdir()
        (small / f"a{suffix}").write_bytes(header + b"".join(rows))
        with path.open("wb") as file:
            file.write(header + b"".join(rows[:20]) + lead)
            for _ in range(size >> 20):
                file.write(b"larga palabra 16" * 65536)
            file.write(tail + b"".join(rows[20:]))
        made = subprocess.run(
            [sys.executable, "-c", _READ, str(path), split, str(most)],
            capture_output=True,
            text=True,
            check=False,
            env=tiny.environment(),
        )
        path.unlink()
        assert made.returncode == 0, (kinds[case % len(kinds)], tiny.tail(made.stderr))
        kept, set_aside, at, grown = map(int, made.stdout.split())
        assert (kept, set_aside, at) == (40, 1, line), kinds[case % len(kinds)]
        assert grown < most


# ---- D5 ----------------------------------------------------------------------------------------------------

_TALE = "El conejo y la tortuga cruzan el río con la niña y el búho. "
# (files, settings, the exit code, a word of the message)
TINY: list[tuple[dict[str, str], list[object], int, str]] = [
    ({"a.txt": ""}, [], 2, "empty (0 bytes)"),
    ({"a.txt": " \n\n \n"}, [], 2, "no documents"),
    ({"a.txt": "\ufeff"}, [], 2, "no documents"),
    ({"a.txt": "x"}, [], 2, "one document cannot be split"),
    ({"a.txt": "", "b.txt": _TALE}, [], 2, "one document cannot be split"),
    ({"a.jsonl": '{"text": ""}\n' * 5}, [], 2, "no documents (5 empty"),
    ({"a.jsonl": '{"text": "igual"}\n' * 5}, [], 2, "one document cannot be split"),
    ({"a.jsonl": "\n\n\n"}, [], 2, "no documents"),
    ({"a.csv": "text\n"}, [], 2, "no documents"),
    ({"a.csv": ""}, [], 2, "empty (0 bytes)"),
    ({"a.json": "[]"}, [], 2, "no documents"),
    ({f"{n}.txt": f"{n}" for n in range(10)}, ["--tokenizer.vocab_size", 262], 2, "token"),
    ({f"{n}.txt": f"{n} {_TALE}" for n in range(12)}, ["--tokenizer.vocab_size", 262], 0, ""),
    (
        {f"{n}.txt": f"{n} {_TALE}" for n in range(60)},
        ["--tokenizer.vocab_size", 262, "--model.context_length", 100_000],
        2,
        "one row needs 100,001",
    ),
    (
        {**{f"{n}.txt": f"{n} {_TALE}" for n in range(60)}, "empty.txt": "", "space.txt": " \n"},
        ["--tokenizer.vocab_size", 262, "--train.batch_tokens", 65_536],
        0,
        "",
    ),
]


@pytest.mark.row("D5", cases=15)
def test_too_little_text_is_explained(cli: Cli, tmp_path: Path, cases: int) -> None:
    """No division by zero, no negative index, no endless loop; and what is enough works."""
    recipe = tiny.write_recipe(tmp_path)
    for case in range(cases):
        files, settings, expected, word = TINY[case]
        source = tmp_path / f"texts{case}"
        source.mkdir()
        for name, content in files.items():
            (source / name).write_text(content, encoding="utf-8")
        given = ["--corpus.source", source, "--corpus.documents", 0, "--train.budget", "2steps", *settings]
        code, out, err = cli("run", recipe, "--name", f"run{case}", *given)
        assert code == expected, (case, err)
        assert word in err, (case, err)
        assert "fault of fabula" not in err
        assert bool(out) == (expected == 0)


# ---- D6 ----------------------------------------------------------------------------------------------------

EDGES = [65_535, 65_536, 65_537, 70_000]


@pytest.mark.row("D6", cases=1_000_000, nightly=10_000_000)
def test_no_id_is_wrapped(tmp_path: Path, cases: int) -> None:
    """Ids of vocabularies around 65,536 go to the disk and come back, the highest ones in every document."""
    there = 0
    for turn in range(0, cases, 50_000):
        vocabulary = EDGES[turn // 50_000 % len(EDGES)]
        chance = np.random.default_rng(turn)
        folder = tmp_path / str(turn)
        folder.mkdir()
        rows = []
        left = min(50_000, cases - turn)
        while left:
            size = min(left, int(chance.integers(1, 5000)))
            low = 0 if len(rows) % 2 else vocabulary - 40
            rows.append(chance.integers(low, vocabulary, size).tolist())
            left -= size
        rows[0][0] = vocabulary - 1
        with SplitWriter(folder, "train", vocabulary, vocabulary - 1, shard_tokens=20_000) as writer:
            for row in rows:
                writer.add(row, len(row))
            facts = writer.finish()
        assert dtype_for(vocabulary).itemsize == (2 if vocabulary <= 65_536 else 4)
        back = [ids for ids, _ in Split(folder, "train", facts, dtype_for(vocabulary), vocabulary).documents()]
        assert back == rows, vocabulary
        there += sum(map(len, back))
    assert there == cases


@pytest.mark.row("D6", cases=40)
def test_an_id_outside_the_vocabulary_is_never_written(tmp_path: Path, cases: int) -> None:
    for case in range(cases):
        vocabulary = EDGES[case % len(EDGES)]
        chance = random.Random(case)
        bad = chance.choice([vocabulary, vocabulary + 1, 1 << 16 if vocabulary < 1 << 16 else 1 << 17, 1 << 32, -1])
        row = [chance.randrange(vocabulary) for _ in range(20)]
        row[chance.randrange(20)] = bad
        with SplitWriter(tmp_path, f"case{case}", vocabulary, 0) as writer, pytest.raises(ValueError, match="does not"):
            writer.add(row, 1)
        assert not any(p.stat().st_size for p in tmp_path.iterdir())
