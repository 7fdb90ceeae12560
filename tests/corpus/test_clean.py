"""Cleaning as a whole: what is switched on, the accounts, the split, the fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fabula.config import build
from fabula.corpus.clean.config import PRESETS, CleanConfig
from fabula.corpus.fables import Fables
from fabula.corpus.run import Corpus, CorpusConfig, Funnel
from fabula.errors import ConfigError, MachineError, SourceError, Stopped

Cli = Callable[..., tuple[int, str, str]]


def written(folder: Path, texts: list[str], name: str = "texts.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def read(source: str, both: bool = False, **clean: Any) -> tuple[list[str], Funnel]:
    funnel = Funnel()
    corpus = Corpus(CorpusConfig(source=source, clean=CleanConfig(**clean)))
    return [document.text for _, document in corpus.documents(funnel, both=both)], funnel


@pytest.fixture(scope="module")
def fables() -> list[str]:
    return [Fables("en", 0)[i].text for i in range(40)]


# ---- settings -----------------------------------------------------------------------------------------------


def test_nothing_is_cleaned_by_default(tmp_path: Path) -> None:
    texts = ["â€œyes\u200b  a\r\nb", "ana@correo.es"]
    kept, funnel = read(written(tmp_path, texts))
    assert kept == texts
    assert funnel.cleaning is None
    assert "cleaning" not in funnel.to_data()
    assert CleanConfig().active() == {}


def test_the_fingerprint_is_what_it_was_without_cleaning() -> None:
    config = CorpusConfig(source="fables:es", documents=50)
    # Of prepared data that existed before there was cleaning.
    assert Corpus(config).fingerprint() == "6d346cad483b0d3882bb275a62166c631a80ce51aa89ed6159e74d7683b7a490"


def test_the_fingerprint_follows_what_is_done(tmp_path: Path) -> None:
    source = written(tmp_path, ["one text", "two texts"])
    sets = tmp_path / "set.txt"
    sets.write_text("a stretch of text that has at least eight words", encoding="utf-8")

    def fingerprint(**clean: Any) -> str:
        return Corpus(CorpusConfig(source=source, clean=CleanConfig(**clean))).fingerprint()

    plain = fingerprint()
    light = fingerprint(preset="light")
    assert light == fingerprint(**PRESETS["light"]) != plain
    # A setting of a step that is off changes nothing.
    assert fingerprint(language_probability=0.9, redact_with="placeholder") == plain
    assert fingerprint(preset="web", near_duplicates=0.7) != fingerprint(preset="web")
    before = fingerprint(decontaminate=(str(sets),))
    sets.write_text("another stretch of text that has at least eight words", encoding="utf-8")
    assert fingerprint(decontaminate=(str(sets),)) != before


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"preset": "wbe"}, 'did you mean "web"'),
        ({"qualty": ["c4"]}, 'did you mean "quality"'),
        ({"quality": ["c5"]}, "quality='c5' is not known"),
        ({"redact": ["email", "fax"]}, "redact='fax'"),
        ({"limits": {"words_lest": 3}}, "words_least"),
        ({"near_duplicates": 1.2}, "from 0 to 1"),
        ({"near_duplicates": 0.1}, "below 0.3"),
        ({"repeated_lines": 1}, "every line"),
        ({"least_words": -1}, "must not be negative"),
        ({"languages": ["Spanish"]}, "ISO 639"),
        ({"decontaminate_words": 3}, "from 8 to 50"),
    ],
)
def test_bad_settings_are_told(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(CorpusConfig, {"clean": settings}, "corpus")
    assert problem in str(error.value)


def test_what_is_missing_is_told_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path, ["one"])
    with pytest.raises(SourceError, match=r"no such file.*decontaminate"):
        read(source, decontaminate=("nowhere.jsonl",))
    pytest.importorskip("py3langid")
    with pytest.raises(ConfigError, match='"xx" is no language'):
        read(source, languages=("xx",))
    from fabula.corpus.clean import language

    language._identifier.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "py3langid", None)
    with pytest.raises(MachineError, match=r"fabula\[corpus\]"):
        read(source, languages=("es",))


# ---- accounts -----------------------------------------------------------------------------------------------


def test_every_document_and_byte_is_accounted_for(tmp_path: Path, fables: list[str]) -> None:
    texts = [
        *fables[:30],
        "buy this and that now " * 40,
        "short",
        fables[1],
        " ".join(fables[2].split()[:-2]) + ".",
        fables[3].replace(" ", "  ", 3),
        f"Write to ana@correo.es!\n{fables[31]}",
        "\u200b\u200b",
    ]
    kept, funnel = read(written(tmp_path, texts), preset="web", repeated_lines=0)
    assert funnel.records == len(texts)
    assert funnel.cleaning is not None
    steps = {step["step"]: step for step in funnel.cleaning.to_data()}
    names = list(steps)
    assert names == [
        "mojibake",
        "unicode",
        "control",
        "whitespace",
        "navigation",
        "quality",
        "redact",
        "near_duplicates",
    ]
    for before, after in pairwise(names[:-1]):
        assert steps[after]["documents_in"] == steps[before]["documents_out"]
        assert steps[after]["bytes_in"] == steps[before]["bytes_out"]
    assert steps["mojibake"]["documents_in"] == len(texts)
    assert steps["mojibake"]["bytes_in"] == sum(len(text.encode()) for text in texts)
    assert steps["control"]["dropped"] == 1
    assert steps["control"]["examples"][0]["reason"] == "nothing is left of it"
    assert steps["quality"]["dropped"] == 2
    assert {e["reason"].split(" (")[-1] for e in steps["quality"]["examples"]} == {"gopher)", "repetition)"}
    assert steps["redact"]["changed"] == 1
    example = steps["redact"]["examples"][0]
    assert "ana@correo.es" in example["before"]
    assert "name@example.com" in example["after"]
    # The copy with double spaces is an exact one once these are gone.
    assert funnel.duplicates == 2
    assert steps["near_duplicates"]["dropped"] == 1
    assert "texts.jsonl, line 3" in steps["near_duplicates"]["examples"][0]["reason"]
    assert steps["near_duplicates"]["documents_out"] == len(kept) == 31
    assert steps["near_duplicates"]["bytes_out"] == sum(len(text.encode()) for text in kept)
    assert sum(funnel.bytes.values()) == steps["near_duplicates"]["bytes_out"]


def test_a_corpus_of_which_nothing_stays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="2 in cleaning"):
        read(written(tmp_path, ["one", "two"]), least_words=5)


def test_examples_are_few(tmp_path: Path) -> None:
    _, funnel = read(written(tmp_path, [f"a{i}  b" for i in range(50)]), whitespace=True)
    assert funnel.cleaning is not None
    (account,) = funnel.cleaning.to_data()
    assert account["changed"] == 50
    assert len(account["examples"]) == 3


def test_lines_that_repeat_go_whatever_the_order(tmp_path: Path) -> None:
    texts = [f"Story number {i} is here.\nShare this story" for i in range(12)]
    kept, funnel = read(written(tmp_path, texts), repeated_lines=10)
    assert kept == [f"Story number {i} is here." for i in range(12)]
    turned, _ = read(written(tmp_path, texts[::-1]), repeated_lines=10)
    assert sorted(turned) == sorted(kept)
    assert funnel.cleaning is not None
    assert funnel.cleaning.accounts[0].changed == 12
    # Exact copies of one document do not make its lines common.
    same, _ = read(written(tmp_path, ["The only line.\nAnd another."] * 12 + ["x"]), repeated_lines=10)
    assert same == ["The only line.\nAnd another.", "x"]


def test_preferences_are_read_as_they_are_beside_cleaning(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "preferences.jsonl"
    records = [{"prompt": f"How many are {n} and {n}?", "chosen": str(2 * n), "rejected": "none"} for n in range(40)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    code, out, err = cli("corpus", "show", path, "--corpus.clean.repeated_lines", 5, "--corpus.validation", 0.2)
    assert (code, err) == (0, "")
    assert "preferences      40" in out


def test_all_that_was_dropped_is_told(tmp_path: Path, cli: Cli, fables: list[str]) -> None:
    source, validation = written(tmp_path, fables), written(tmp_path, fables[:7], "validation.jsonl")
    code, out, _ = cli("corpus", "clean", source, "--corpus.validation_source", validation)
    assert code == 0
    assert "7 in the validation source too" in out


def test_no_near_copy_stands_on_both_sides(tmp_path: Path, fables: list[str]) -> None:
    copies = [" ".join(text.split()[:-1]) for text in fables]
    source = written(tmp_path, [*fables, *copies])
    kept, funnel = read(source, both=True, near_duplicates=0.8)
    assert kept == fables
    assert all(funnel.documents.values())


def test_the_validation_source_stays_and_its_near_copies_in_training_go(tmp_path: Path, fables: list[str]) -> None:
    validation = written(tmp_path, fables[:5], "validation.jsonl")
    training = written(tmp_path, [" ".join(text.split()[:-1]) for text in fables], "training.jsonl")
    config = CorpusConfig(source=training, validation_source=validation, clean=CleanConfig(near_duplicates=0.8))
    funnel = Funnel()
    made = list(Corpus(config).documents(funnel))
    assert funnel.documents == {"train": 35, "validation": 5}
    assert [document.text for split, document in made if split == "validation"] == fables[:5]


def test_a_half_of_a_pair_takes_the_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("en\tes\nGo  on.\tSigue.\nHi there you.\tx\nOne two.\tUno  dos.\n", encoding="utf-8")
    config = CorpusConfig(
        source=str(path), source_field="en", target_field="es", clean=CleanConfig(whitespace=True, most_bytes=12)
    )
    funnel = Funnel()
    kept = [document.texts for _, document in Corpus(config).documents(funnel, both=False)]
    assert kept == [("Go on.", "Sigue."), ("One two.", "Uno dos.")]
    assert funnel.cleaning is not None
    assert funnel.cleaning.dropped == 1


def test_a_changed_text_has_no_known_probability() -> None:
    funnel = Funnel()
    clean = CleanConfig(redact=("email",))
    made = list(Corpus(CorpusConfig(source="fables:es", documents=30, clean=clean)).documents(funnel, both=False))
    assert all(document.surprisal_bits is not None for _, document in made)
    assert funnel.to_data()["surprisal_bits"] is not None


def test_reading_twice_gives_the_same(tmp_path: Path, fables: list[str]) -> None:
    source = written(tmp_path, [*fables, *(text[:-20] for text in fables)])
    clean = CleanConfig(preset="web", repeated_lines=3)
    corpus = Corpus(CorpusConfig(source=source, validation=0.3, clean=clean))
    first, second = Funnel(), Funnel()
    assert list(corpus.documents(first)) == list(corpus.documents(second))
    assert first.to_data() == second.to_data()
    assert corpus.training_bytes() == first.bytes["train"]


def test_a_signal_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fabula import progress

    flag = progress.StopFlag()
    flag.signal_number = 2
    monkeypatch.setattr(progress, "_heard", [flag])
    source = written(tmp_path, [f"text number {i}" for i in range(600)])
    with pytest.raises(Stopped):
        read(source, control=True)
    with pytest.raises(Stopped, match="lines that repeat"):
        read(source, repeated_lines=5)


# ---- the command line ---------------------------------------------------------------------------------------


def test_a_dry_run_shows_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    source = written(tmp_path, ["â€œyesâ€\u200b", "two"])
    before = sorted(tmp_path.iterdir())
    code, out, err = cli("corpus", "clean", source)
    assert code == 0
    assert "preset light" in err
    assert "mojibake" in out
    assert "â€œyesâ€" in out
    assert "+ “yes”" in out
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_kept_can_be_written_and_read_again(cli: Cli, tmp_path: Path, fables: list[str]) -> None:
    source = written(tmp_path, [*fables, "too short"])
    code, out, _ = cli("corpus", "clean", source, "--corpus.clean.preset", "web", "--out", "clean.jsonl", "--json")
    assert code == 0
    found = json.loads(out)
    assert sum(found["funnel"]["documents"].values()) == 40
    again, funnel = read(str(tmp_path / "clean.jsonl"), preset="web")
    assert again == fables
    assert funnel.cleaning is not None
    assert funnel.cleaning.dropped == 0
    code, out, _ = cli("corpus", "show", source, "--corpus.clean.preset", "web")
    assert code == 0
    assert "1 in cleaning" in out
    assert "documents that break a rule of gopher" in out


def test_bad_orders_are_refused(cli: Cli, tmp_path: Path) -> None:
    source = written(tmp_path, ["one"])
    assert cli("corpus", "clean", source, "--out", "x.csv")[0] == 2
    code, _, err = cli("corpus", "clean", source, "--train.budget", "1m")
    assert code == 2
    assert "only corpus settings" in err
