"""Datasets of the Hugging Face kind: folders, saved ones, a hub on the loopback; never another machine, never code."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fabula.corpus import hub
from fabula.corpus.document import Document, Quarantined
from fabula.corpus.readers import Reading
from fabula.corpus.run import Corpus, CorpusConfig, DatasetConfig
from fabula.corpus.sources import find
from fabula.errors import MachineError, SourceError
from tests import tiny
from tests.corpus.hub_server import Hub

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")

CARD = """---
license: cc-by-4.0
configs:
- config_name: es
  data_files:
  - split: train
    path: es/train.jsonl
  - split: test
    path: es/test.jsonl
- config_name: en
  data_files: en/*.jsonl
---
# Tales
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The libraries read these when they are imported, hence the modules' own names beside the variables."""
    import datasets.config
    import huggingface_hub.constants

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def tales(tmp_path: Path) -> Path:
    folder = tmp_path / "tales"
    for language in ("es", "en"):
        (folder / language).mkdir(parents=True)
        for split in ("train", "test"):
            rows = [{"body": f"{language} {split} {i}", "n": i} for i in range(30)]
            (folder / language / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text(CARD)
    return folder


def opened(spec: str, reading: Reading | None = None, **dataset: Any) -> Any:
    (source,) = find(spec, reading or Reading(), "auto", 0, 0, dataset)
    return source


def texts(source: Any) -> list[str]:
    bad: list[Quarantined] = []
    found = [document.text for document in source.documents(bad.append)]
    assert not bad
    return found


# ---- names ---------------------------------------------------------------------------------------------------


def test_a_name_says_which_part() -> None:
    part = hub.parse("hf:owner/name?config=en&split=test&revision=v1.0&column=body&streaming=false", {})
    assert part == hub.Part(part.spec, "owner/name", "en", "test", "v1.0", "body", False)
    assert hub.parse("hf:owner/name", {"split": "dev", "streaming": True}).streaming is True
    assert hub.parse("hf:owner/name?split=test", {"split": "dev"}).split == "test"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("hf:owner/name?splt=test", '"splt" is nothing that a dataset is asked for; did you mean "split"?'),
        ("hf:owner/name?split=", '"split=" says nothing'),
        ("hf:owner/name?test", '"test=" says nothing|"test" is nothing'),
        ("hf:owner/name?streaming=yes", "streaming=yes must be true or false"),
        ("hf:owner/name?split=train[:10]", r"must be one name; for the beginning of it give --corpus.documents"),
        ("hf:owner/a b", "a dataset is called owner/name, and a folder begins with"),
        ("hf:", "a dataset is called owner/name"),
        ("hf:./nowhere", r"no such folder \(seen from"),
    ],
)
def test_names_that_are_none(spec: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        opened(spec)


# ---- folders -------------------------------------------------------------------------------------------------


def test_a_column_in_the_name_is_another_corpus(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    rows = [{"long": f"a long text {i}", "short": f"text {i}"} for i in range(30)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [Corpus(CorpusConfig(source=f"hf:{folder}?column={column}")) for column in ("long", "short")]
    assert names[0].fingerprint() != names[1].fingerprint()


def test_a_folder_with_a_card(tales: Path) -> None:
    source = opened(f"hf:{tales}?config=es&column=body")
    assert texts(source) == [f"es train {i}" for i in range(30)]
    assert texts(opened(f"hf:{tales}", Reading(text_field="body"), config="es", split="test"))[0] == "es test 0"
    # Known for a dataset without `hf:`, so that its test split is not learnt.
    assert texts(opened(str(tales), Reading(text_field="body"), config="es")) == [f"es train {i}" for i in range(30)]
    assert "split train, configuration es, as the folder's card" in " ".join(source.notes())
    said = source.provenance()
    assert (said["licence"], said["licence_from"], said["revision"]) == ("cc-by-4.0", "README.md", None)
    assert [f["name"] for f in said["files"]] == ["es/train.jsonl"]
    assert len(said["files"][0]["sha256"]) == 64


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("", "it has several configurations; name one; valid: es, en"),
        ("?config=ess", 'no configuration "ess"; did you mean "es"?'),
        ("?config=es&column=body&split=tset", 'no split "tset"; did you mean "test"?'),
        ("?config=es&column=bdy", r'no column "bdy"; what its records have is "body", "n"; did you mean "body"\?'),
        ("?config=es&column=body&revision=main", "a folder has no revisions"),
    ],
)
def test_what_a_folder_does_not_have(tales: Path, query: str, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        opened(f"hf:{tales}{query}")


def test_a_broken_record_of_a_folder_is_set_aside_at_its_byte(tales: Path) -> None:
    path = tales / "es" / "train.jsonl"
    good = path.read_bytes()
    path.write_bytes(good + b'{"body": "ma\xf1ana"}\n{"body": 3}\n')
    bad: list[Quarantined] = []
    found = list(opened(f"hf:{tales}?config=es&column=body").documents(bad.append))
    assert len(found) == 30
    assert [(b.line, b.byte) for b in bad] == [(31, len(good) + 12), (32, len(good) + 19)]


def test_a_folder_without_a_card_goes_by_the_names_of_its_files(tmp_path: Path) -> None:
    from pyarrow import parquet

    folder = tmp_path / "plain"
    folder.mkdir()
    for split in ("train", "test"):
        parquet.write_table(pyarrow.table({"text": [f"{split} {i}" for i in range(5)]}), folder / f"{split}.parquet")
    assert texts(opened(f"hf:{folder}")) == [f"train {i}" for i in range(5)]
    assert texts(opened(f"hf:{folder}?split=test")) == [f"test {i}" for i in range(5)]


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    rows = [f"uno {i}" for i in range(20)]
    made = datasets.Dataset.from_dict({"text": rows, "n": list(range(20))})
    made.info.license, made.info.citation = "MIT", "Nobody, 1920"
    made.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": made, "test": made.select(range(3))}).save_to_disk(tmp_path / "two")
    for spec in (f"hf:{tmp_path / 'one'}", str(tmp_path / "one"), str(tmp_path / "two")):
        assert texts(opened(spec)) == rows
    source = opened(f"hf:{tmp_path / 'two'}?split=test")
    assert list(source.documents(lambda _: None))[2] == Document("uno 2", "two test[2]")
    assert (source.provenance()["licence"], source.provenance()["citation"]) == ("MIT", "Nobody, 1920")
    before = source.identity(True)
    assert before == opened(f"hf:{tmp_path / 'two'}?split=test").identity(True)
    made.select(range(4)).save_to_disk(tmp_path / "other")
    assert opened(str(tmp_path / "other")).identity(True) != before
    with pytest.raises(SourceError, match=r'no column "tex"; what it has is "text", "n"; did you mean "text"\?'):
        opened(f"hf:{tmp_path / 'one'}?column=tex")
    with pytest.raises(SourceError, match='no split "dev"'):
        opened(f"hf:{tmp_path / 'two'}?split=dev")


def test_saved_rows_that_are_no_text_are_set_aside(tmp_path: Path) -> None:
    made = datasets.Dataset.from_dict({"text": ["uno", None, "tres"]})
    made.save_to_disk(tmp_path / "one")
    bad: list[Quarantined] = []
    found = list(opened(str(tmp_path / "one")).documents(bad.append))
    assert [d.text for d in found] == ["uno", "tres"]
    assert [(b.file, b.line, b.reason) for b in bad] == [("one train", 2, 'the field "text" holds null, not text')]


def test_saved_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "¿Cuántos?"}, {"role": "assistant", "content": "Tres."}]
    datasets.Dataset.from_dict({"messages": [turns] * 3}).save_to_disk(tmp_path / "talk")
    source = opened(str(tmp_path / "talk"))
    assert source.kind == "conversations"
    assert texts(source)[0] == "User: ¿Cuántos?\n\nAssistant: Tres."


def test_settings_do_what_a_name_does(tales: Path) -> None:
    config = CorpusConfig(source=f"hf:{tales}", text_field="body", dataset=DatasetConfig(config="es"), validation=0.3)
    named = CorpusConfig(source=f"hf:{tales}?config=es", text_field="body", validation=0.3)
    assert Corpus(config).fingerprint() == Corpus(named).fingerprint()


# ---- no code -------------------------------------------------------------------------------------------------

RAN = "open('RAN', 'w').close()\n"
BOMB = "".join(f"a{i + 1}: &a{i + 1} {{x: *a{i}, y: *a{i}}}\n" for i in range(59))
HOSTILE: dict[str, dict[str, str]] = {
    "a script of the folder's name": {"hostile.py": RAN},
    "a script and a card that names it": {"hostile.py": RAN, "README.md": "---\nbuilder_script: hostile.py\n---\n"},
    "auto_map": {"README.md": "---\nauto_map: {AutoDataset: evil.Evil}\n---\n", "evil.py": RAN},
    "an object in the card": {"README.md": "---\nlicense: !!python/object/apply:os.system ['touch RAN']\n---\n"},
    "an alias bomb": {"README.md": f"---\na0: &a0 {{x: y}}\n{BOMB}configs: *a59\n---\n"},
    "files outside": {"README.md": "---\nconfigs:\n- config_name: a\n  data_files: ../secret.jsonl\n---\n"},
    "an absolute file": {"README.md": "---\nconfigs:\n- config_name: a\n  data_files: SECRET\n---\n"},
    "a package": {"__init__.py": RAN, "setup.py": RAN, "datasets/__init__.py": RAN},
    "a class in the metadata": {"dataset_infos.json": '{"default": {"builder_name": "evil", "features": "evil"}}'},
    "a pickle beside": {"data.pkl": "cos\nsystem\n(S'touch RAN'\ntR.", "train.pkl": "cos\nsystem\n(S'touch RAN'\ntR."},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_ten_hostile_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / "hostile"
    folder.mkdir()
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"text": "secret"}\n')
    (folder / "train.jsonl").write_text('{"text": "uno"}\n')
    for file, content in HOSTILE[name].items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content.replace("SECRET", str(secret)))
    monkeypatch.chdir(folder)
    before = set(sys.modules)
    for spec in (f"hf:{folder}", str(folder)):
        with contextlib.suppress(SourceError):  # refused, or read without running anything
            source = opened(spec)
            assert [document.text for document in source.documents(lambda _: None)] == ["uno"]
            if spec.startswith("hf:") and any(folder.rglob("*.py")):
                assert "no code of a dataset is ever run" in " ".join(source.notes())
    assert not (folder / "RAN").exists()
    new = [sys.modules[module] for module in set(sys.modules) - before]
    assert not [m for m in new if str(folder) in str(getattr(m, "__file__", "") or "")]


def test_a_card_may_be_as_long_as_it_likes_and_refer_to_itself_a_little(tales: Path) -> None:
    text = "&nbsp; *much* *more* *to* *say*\n" * 100
    (tales / "README.md").write_text(CARD.replace("---\nlicense", "---\na: &a x\nb: [*a, *a]\nlicense") + text)
    assert len(texts(opened(f"hf:{tales}?config=es&column=body"))) == 30


def test_no_switch_for_code_exists() -> None:
    with pytest.raises(SourceError, match='"trust_remote_code" is nothing that a dataset is asked for'):
        opened("hf:owner/name?trust_remote_code=true")
    sources = Path(hub.__file__).parent.rglob("*.py")
    assert not [path for path in sources if "trust_remote_code" in path.read_text(encoding="utf-8")]


# ---- the hub -------------------------------------------------------------------------------------------------


def test_offline_and_not_in_the_cache_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MachineError, match=r"cannot be reached \(HF_HUB_OFFLINE.*is set\), and the dataset is not in"):
        opened("hf:owner/tales")
    (tmp_path / "owner" / "tales").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"a folder owner/tales is here as well; it is written hf:\./owner/tales"):
        opened("hf:owner/tales")


def _parquet(rows: list[str]) -> bytes:
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": rows, "n": list(range(len(rows)))}), buffer)
    return buffer.getvalue()


# Reads the corpora whose names it is told, each in a line, and tells what it found or why not.
CHILD = """
import json, sys
from fabula.corpus.run import CorpusConfig
from fabula.corpus.survey import survey
from fabula.errors import FabulaError
for line in sys.stdin:
    try:
        told = survey(CorpusConfig(source=line.strip(), validation=0.3))
    except FabulaError as error:
        told = {"code": error.exit_code, "error": str(error)}
    print(json.dumps(told), flush=True)
"""


@contextlib.contextmanager
def reader(server: Hub, home: Path, **variables: str) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Another process, since the libraries read their settings once; it dies when it calls another machine."""
    given = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | variables
    path = os.pathsep.join([str(Path(hub.__file__).parents[2]), str(tiny.AUDIT)])
    given |= {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "PYTHONPATH": path}
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, env=given, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        to, back = child.stdin, child.stdout

        def ask(spec: str) -> dict[str, Any]:
            to.write(f"{spec}\n")
            to.flush()
            told: dict[str, Any] = json.loads(back.readline())
            return told

        yield ask
        to.close()
        assert child.wait(60) == 0


def test_a_hub(tmp_path: Path) -> None:
    card = b"---\nlicense: cc0-1.0\n---\n# Tales\n"
    name = "data/train-00000-of-00001.parquet"
    with Hub() as server, reader(server, tmp_path / "home") as ask:
        server.push({"train.jsonl": b'{"text": "uno"}\n', "tales.py": RAN.encode()})
        assert "made by a script, and no code of a dataset is run" in ask("hf:owner/tales")["error"]
        first = server.push({"README.md": card, name: _parquet([f"a{i}" for i in range(40)])})
        now = ask("hf:owner/tales?streaming=true")
        assert now["documents"] == 40
        (source,) = now["sources"]
        assert (source["revision"], source["licence"], source["split"]) == (first, "cc0-1.0", "train")
        assert f"add revision={first}" in " ".join(now["notes"])
        # The branch moved: another corpus. The commit is what it was.
        second = server.push({name: _parquet([f"b{i}" for i in range(30)])})
        later = ask("hf:owner/tales?streaming=false")
        assert (later["documents"], later["sources"][0]["revision"]) == (30, second)
        assert later["fingerprint"] != now["fingerprint"]
        assert ask(f"hf:owner/tales?streaming=true&revision={first}")["fingerprint"] == now["fingerprint"]
        # Small, so kept; the same whether it is kept or not.
        assert ask("hf:owner/tales")["fingerprint"] == later["fingerprint"]
        assert ask("hf:owner/tales?streaming=true")["fingerprint"] == later["fingerprint"]
        for spec, why in (
            ("hf:owner/nothing", "no such dataset, or it is private. Check the name; for private or gated ones log in"),
            ("hf:owner/tales?revision=v9", 'it has no revision "v9"'),
            ("hf:owner/tales?split=tran", 'no split "tran"; did you mean "train"?'),
            ("hf:owner/tales?column=body", 'no column "body"; what it has is "text", "n"'),
        ):
            told = ask(spec)
            assert (told.get("code"), why in told["error"], "\n" in told["error"]) == (2, True, False), told
        # What was kept is read without the hub, at the commit that was kept; another one is refused.
        with reader(server, tmp_path / "home", HF_HUB_OFFLINE="1") as offline:
            server.asked.clear()
            kept = offline("hf:owner/tales")
            assert (kept["fingerprint"], kept["sources"][0]["revision"]) == (later["fingerprint"], second)
            told = offline(f"hf:owner/tales?revision={first}")
            assert (told["code"], f"the cache holds revision {second}" in told["error"]) == (3, True)
            assert not server.asked
        # Where a commit cannot be read the library would give what it kept of another one.
        third = server.push({"train.jsonl": b'{"text": "uno"}\n', "tales.py": RAN.encode()})
        assert f"revision {third} cannot be had" in ask("hf:owner/tales")["error"]
