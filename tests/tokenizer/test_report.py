"""The figures of a tokenizer on a text, against the same figures counted the slow way."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabula.corpus.run import Corpus, CorpusConfig
from fabula.errors import InputError, Stopped
from fabula.progress import Silent, StopFlag
from fabula.tokenizer import findings, report
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.material import Material, cut
from fabula.tokenizer.scripts import NAMES, Scripts, code_points, script_of, utf8_sizes

Data = dict[str, Any]

MIXED = "El zorro vivía en el bosque. Ёж сказал: «привет» 12 раз. Η αλεπού · 漢字かな e\u0301l 🦊!\n"


def material(*files: Path, most: int = 16_000_000) -> Material:
    return Material(Corpus(CorpusConfig(source=",".join(str(file) for file in files))), most)


def measured(tokenizer: Tokenizer, *files: Path, **more: int) -> Data:
    made: Data = report.run({"a": tokenizer}, material(*files, **more))
    return made


@pytest.fixture
def mixed(tmp_path: Path, tiny_texts: list[str]) -> Path:
    file = tmp_path / "mixed.txt"
    file.write_text("\n<|endoftext|>\n".join([*tiny_texts, MIXED * 3, MIXED]) + "\n<|endoftext|>\n", "utf-8")
    return file


def texts_of(file: Path) -> list[str]:
    return [d.text for source in material(file)._corpus.sources for d in source.documents(lambda record: None)]


def test_sums(mixed: Path, tiny_tokenizer: Tokenizer) -> None:
    texts = texts_of(mixed)
    ids = [tiny_tokenizer.encode(text) for text in texts]
    counts = Counter(i for row in ids for i in row)
    made = measured(tiny_tokenizer, mixed)
    row = made["tokenizers"][0]
    n_bytes, n_words = sum(len(t.encode()) for t in texts), sum(len(t.split()) for t in texts)
    tokens = sum(map(len, ids))
    assert (made["text"]["documents"], made["text"]["bytes"], made["text"]["words"]) == (62, n_bytes, n_words)
    assert row["tokens"] == tokens
    assert row["bytes_per_token"] == n_bytes / tokens
    assert row["characters_per_token"] == sum(map(len, texts)) / tokens
    assert row["tokens_per_word"] == tokens / n_words
    learnt = [i for i, size in enumerate(tiny_tokenizer.byte_lengths()) if size > 1]
    assert row["learnt"] == len(learnt) == 320 - 256 - 6
    assert row["unused"]["tokens"] == sum(counts[i] == 0 for i in learnt)
    assert row["rare"]["tokens"] == sum(0 < counts[i] < report.RARE for i in learnt)
    single = sum(counts[i] for i, size in enumerate(tiny_tokenizer.byte_lengths()) if size == 1)
    assert row["single_byte_share"] == single / tokens


def test_scripts_against_the_slow_way(mixed: Path, tiny_tokenizer: Tokenizer) -> None:
    """Character by character, without an array."""
    made = measured(tiny_tokenizer, mixed)["tokenizers"][0]
    found = {row["name"]: row for row in made["scripts"]}
    expected: dict[str, list[float]] = {}
    for text in texts_of(mixed):
        lengths = [tiny_tokenizer.byte_lengths()[i] for i in tiny_tokenizer.encode(text)]
        owner = [number for number, length in enumerate(lengths) for _ in range(length)]
        at, before = 0, ""
        for character in text:
            size = len(character.encode())
            name = before if unicodedata.combining(character) else NAMES[script_of(character)]
            row = expected.setdefault(name, [0, 0, 0, 0])
            row[0] += 1
            row[1] += sum(1 / lengths[owner[place]] for place in range(at, at + size))
            row[2] += owner[at] != owner[at + size - 1]
            row[3] += name != before
            at, before = at + size, name
    assert set(found) == set(expected) >= {"Latin", "Cyrillic", "Greek", "Han", "Hiragana", "Common"}
    for name, (characters, tokens, is_cut, words) in expected.items():
        row = found[name]
        assert (row["characters"], row["cut_characters"]) == (characters, is_cut)
        assert math.isclose(row["tokens"], tokens)
        if name != "Common":
            assert math.isclose(row["tokens_per_word"], tokens / words)
    assert math.isclose(
        sum(row["tokens"] for row in found.values()), measured(tiny_tokenizer, mixed)["tokenizers"][0]["tokens"]
    )
    assert found["Cyrillic"]["cut_share"] == 1.0
    assert found["Latin"]["cut_share"] < 0.2


def test_every_script_is_unicodes() -> None:
    points = code_points("aéñ0 ~ЖΩאعक漢かカ한ไ\u0301ꙮ🦊")
    names = [NAMES[code] for code in Scripts().of(points)]
    assert names[:3] == ["Latin"] * 3
    assert names[6:14] == ["Cyrillic", "Greek", "Hebrew", "Arabic", "Devanagari", "Han", "Hiragana", "Katakana"]
    # The accent belongs to what it stands on.
    assert names[-5:] == ["Hangul", "Thai", "Thai", "Cyrillic", "Common"]
    assert list(utf8_sizes(points)) == [len(chr(point).encode()) for point in points]


def test_domains_and_languages_add_up(mixed: Path, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Once upon a time there was a fox that lived in the wood, and it was kind. " * 4, "utf-8")
    row = measured(tiny_tokenizer, mixed, other)["tokenizers"][0]
    assert [group["name"] for group in row["domains"]] == [str(mixed), str(other)]
    for key in ("domains", "languages"):
        assert sum(group["tokens"] for group in row[key]) == row["tokens"]
    assert {"es", "en"} <= {group["name"] for group in row["languages"]}
    es, en = row["domains"]
    assert es["bytes_per_token"] > en["bytes_per_token"]


def test_the_same_text_gives_the_same_figures(mixed: Path, tiny_tokenizer: Tokenizer) -> None:
    made = [measured(tiny_tokenizer, mixed) for _ in range(2)]
    for one in made:
        del one["tokenizers"][0]["speed"]
    assert made[0] == made[1]


def test_tokenizers_are_measured_on_the_same_text(mixed: Path, tiny_tokenizer: Tokenizer) -> None:
    larger = train_bpe(texts_of(mixed), 500)
    both = report.run({"small": tiny_tokenizer, "large": larger}, material(mixed))["tokenizers"]
    alone = measured(larger, mixed)["tokenizers"][0]
    assert both[1]["tokens"] == alone["tokens"] < both[0]["tokens"]
    assert both[1]["scripts"] == alone["scripts"]
    assert both[1]["domains"] == alone["domains"]


def test_a_part_of_a_large_text_is_spread_and_stays_the_same(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    file = tmp_path / "large.txt"
    file.write_text("".join(f"cuento {n} del zorro\n<|endoftext|>\n" for n in range(20_000)), "utf-8")
    part, again = (list(material(file, most=40_000).pieces()) for _ in range(2))
    assert part == again
    assert 20_000 < sum(len(piece.text.encode()) for piece in part) <= 40_000
    numbers = [int(piece.text.split()[1]) for piece in part]
    assert numbers[0] < 1_000
    assert numbers[-1] > 19_000
    made = measured(tiny_tokenizer, file, most=40_000)
    assert made["text"]["cut"] == [str(file)]
    assert any("--most-bytes" in sentence for sentence in report.summary(made))


def test_long_documents_are_cut_at_spaces() -> None:
    text = "palabra " * 1000
    found = list(cut(text, 100))
    assert "".join(found) == text
    assert max(map(len, found)) <= 100
    assert all(piece.startswith(" ") for piece in found[1:])
    assert list(cut("a" * 250, 100)) == ["a" * 100, "a" * 100, "a" * 50]


def test_vocabulary_with_tokens_of_several_words() -> None:
    table = [b"", b"a", b" de la", b"o d", " niño".encode(), b", y", " Había una vez un".encode()]
    counts = np.array([0, 10, 6, 3, 1, 0, 0])
    found = findings.describe(table, counts, rare=5)
    several = found["multi_word"]
    assert several["tokens"] == 3
    assert several["vocabulary_share"] == 3 / 5
    assert several["text_share"] == 9 / 20
    assert several["bytes_share"] == (6 * 6 + 3 * 3) / (10 + 36 + 9 + 6)
    assert [token["text"] for token in several["most_used"]] == ["·de·la", "o·d", "·Había·una·vez·un"]
    assert found["unused"]["tokens"] == 2
    assert found["rare"]["tokens"] == 2
    assert found["longest"][0]["text"] == "·Había·una·vez·un"
    odd = {kind["name"]: kind["tokens"] for kind in found["artefacts"]}
    assert odd["phrases"] == 1


def test_renyi_efficiency() -> None:
    assert findings.renyi_efficiency(np.array([5, 5, 5, 5])) == pytest.approx(1.0)
    assert findings.renyi_efficiency(np.array([5, 0, 0, 0])) == pytest.approx(0.0)
    shares = np.array([0.5, 0.25, 0.25])
    entropy = math.log(float((shares**2.5).sum())) / (1 - 2.5)
    assert findings.renyi_efficiency(np.array([2, 1, 1])) == pytest.approx(entropy / math.log(3))


def test_warnings(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    file = tmp_path / "russian.txt"
    file.write_text("Жил-был ёж в лесу и говорил со всеми зверями. " * 300, "utf-8")
    said = " ".join(measured(tiny_tokenizer, file)["tokenizers"][0]["warnings"])
    assert "Cyrillic (100% of" in said
    assert "only 2" in said  # so little text says nothing of the vocabulary


@pytest.mark.parametrize("most", [0, -5])
def test_bounds_that_are_none(mixed: Path, most: int) -> None:
    with pytest.raises(InputError, match="most-bytes"):
        material(mixed, most=most)


def test_no_text_and_no_count(tmp_path: Path, mixed: Path, tiny_tokenizer: Tokenizer) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("  \n\n", "utf-8")
    with pytest.raises(InputError, match=r"empty\.txt"):
        measured(tiny_tokenizer, empty)
    with pytest.raises(InputError, match="rare"):
        report.run({"a": tiny_tokenizer}, material(mixed), rare=0)
    with pytest.raises(InputError, match="no tokenizer"):
        report.run({}, material(mixed))


def test_it_can_be_stopped(mixed: Path, tiny_tokenizer: Tokenizer) -> None:
    stop = StopFlag()
    stop.signal_number = 2
    with pytest.raises(Stopped):
        report.run({"a": tiny_tokenizer}, material(mixed), progress=Silent(), stop=stop)


@pytest.mark.corpora
def test_a_sampler_of_all_scripts(corpora: Path, tiny_tokenizer: Tokenizer) -> None:
    row = measured(tiny_tokenizer, corpora / "utf8-demo.txt", corpora / "blns.txt")["tokenizers"][0]
    names = {group["name"] for group in row["scripts"]}
    assert {"Latin", "Greek", "Thai", "Georgian", "Ethiopic", "Cyrillic", "Runic", "Braille"} <= names
    assert sum(group["bytes"] for group in row["scripts"]) == sum(group["bytes"] for group in row["domains"])
