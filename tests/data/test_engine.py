"""Prepared in parts, by whoever and in whatever order: the same shards with the same hashes as without."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from fabula import storage
from fabula.config import to_data
from fabula.corpus.clean.config import CleanConfig
from fabula.corpus.mixture import MixtureComponent
from fabula.corpus.run import Corpus, CorpusConfig
from fabula.data import engine, parts
from fabula.data.engine import EngineConfig
from fabula.data.run import QUARANTINE, DataConfig, content_key, run
from fabula.data.shards import Shards
from fabula.errors import ConfigError, DamagedError, InputError, MachineError, SourceError, Stopped
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.base import Tokenizer
from tests import tiny

LOCAL = EngineConfig(name="datatrove-local", tasks=3, workers=2)
needs_datatrove = pytest.mark.skipif(importlib.util.find_spec("datatrove") is None, reason="the extra data is missing")


@pytest.fixture
def source(tmp_path: Path, tiny_texts: list[str]) -> Path:
    """Files with duplicates across them, empty and unreadable records, and one file of nothing but a duplicate."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number, name in enumerate("abc"):
        texts = [*tiny_texts[number * 15 : number * 15 + 20], " ", tiny_texts[0]]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    with (folder / "b.jsonl").open("ab") as file:
        file.write(b'{"text": "ma\xf1ana"}\n{"no": 1}\n')
    (folder / "d.jsonl").write_text(json.dumps({"text": tiny_texts[3]}) + "\n", encoding="utf-8")
    return folder


def corpus_of(source: Path, **more: Any) -> Corpus:
    return Corpus(CorpusConfig(source=str(source), validation=0.2, max_quarantined=0.2, **more))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def here(corpus: Corpus, tokenizer: Tokenizer, out: Path, **settings: Any) -> Shards:
    return run(DataConfig(**settings), corpus, tokenizer, out, Silent(), StopFlag())


def work_of(out: Path) -> Path:
    return out.with_name(f".parts-{out.name}")


def make_all(corpus: Corpus, tokenizer: Tokenizer, out: Path, world: int = 1, **settings: Any) -> Path:
    """The parts of a corpus, as tasks make them, the last task first."""
    work = work_of(out)
    work.mkdir(parents=True)
    tokenizer.save(work / "tokenizer")
    key = content_key(DataConfig(**settings), corpus.fingerprint(), tokenizer.fingerprint)
    plan = {"key": key, "corpus": to_data(corpus.config), "engine": {}, "text": corpus.fingerprint()}
    storage.write_json(work / engine.PLAN, plan)
    for rank in reversed(range(world)):
        engine.make_parts(work, rank, world)
    assert not parts.missing(work, len(corpus.units()), key)
    return work


# ---- the same bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "settings"), [(1, {}), (2, {"shard_tokens": 700}), (9, {"batch_documents": 3})])
def test_parts_make_the_same_shards(
    source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path, world: int, settings: dict[str, Any]
) -> None:
    corpus = corpus_of(source)
    here(corpus, tiny_tokenizer, tmp_path / "one" / "data", **settings)
    make_all(corpus, tiny_tokenizer, tmp_path / "two" / "data", world, **settings)
    made = here(corpus, tiny_tokenizer, tmp_path / "two" / "data", engine=LOCAL, **settings)
    assert contents(tmp_path / "one" / "data") == contents(tmp_path / "two" / "data")
    funnel = made.manifest["funnel"]
    assert (funnel["duplicates"] > 10, funnel["empty"], funnel["quarantined"]) == (True, 3, 2)
    assert not work_of(tmp_path / "two" / "data").exists()


@needs_datatrove
def test_the_local_engine_makes_the_same_shards(source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = corpus_of(source)
    here(corpus, tiny_tokenizer, tmp_path / "one" / "data")
    here(corpus, tiny_tokenizer, tmp_path / "two" / "data", engine=LOCAL)
    assert contents(tmp_path / "one" / "data") == contents(tmp_path / "two" / "data")
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["data"]


def test_a_mixture_and_a_validation_source(source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    mixed = {
        "files": MixtureComponent(source=str(source)),
        "tales": MixtureComponent(source="fables:en", epochs=2),
    }
    for name, more in (("mixed", {}), ("given", {"validation_source": "fables:es"})):
        corpus = Corpus(CorpusConfig(mixture=mixed, documents=30, validation=0.2, max_quarantined=0.2, **more))
        one = here(corpus, tiny_tokenizer, tmp_path / name / "one")
        make_all(corpus, tiny_tokenizer, tmp_path / name / "two", 2)
        here(corpus, tiny_tokenizer, tmp_path / name / "two", engine=LOCAL)
        assert contents(tmp_path / name / "one") == contents(tmp_path / name / "two")
        assert list(one.train.components) == ["files", "tales"]


def test_conversations_are_split_by_their_question(
    tiny_texts: list[str], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Several answers to one question stay on one side; empty answers are set aside and are no damage."""
    folder = tmp_path / "talk"
    folder.mkdir()
    for name in "ab":
        rows = [
            {"instruction": f"question {n}", "input": "", "output": f"{name} {text}" if n else ""}
            for n, text in enumerate(tiny_texts[:30])
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    corpus = Corpus(CorpusConfig(source=str(folder), validation=0.2))
    one = here(corpus, tiny_tokenizer, tmp_path / "one")
    make_all(corpus, tiny_tokenizer, tmp_path / "two", 2)
    here(corpus, tiny_tokenizer, tmp_path / "two", engine=LOCAL)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert one.manifest["funnel"]["useless"] == 2
    for split in one.splits.values():
        assert split.n_documents % 2 == 0


def test_texts_at_which_the_tokenizer_fails(
    source: Path, tiny_texts: list[str], tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Tokenizer.encode_batch

    def fails(self: Tokenizer, texts: Any) -> Any:
        if any(text in (tiny_texts[7], tiny_texts[33]) for text in texts):
            raise RuntimeError("a panic")
        return encode(self, texts)

    monkeypatch.setattr(Tokenizer, "encode_batch", fails)
    # In this process, where the patch is.
    write = parts.write
    monkeypatch.setattr(parts, "write", lambda *arguments: write(*arguments, safe=False))
    corpus = corpus_of(source)
    here(corpus, tiny_tokenizer, tmp_path / "one")
    make_all(corpus, tiny_tokenizer, tmp_path / "two")
    made = here(corpus, tiny_tokenizer, tmp_path / "two", engine=LOCAL)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert made.manifest["funnel"]["quarantined"] == 4
    reasons = [record["reason"] for record in storage.read_json_lines(tmp_path / "two" / QUARANTINE)]
    assert sum("a panic" in reason for reason in reasons) == 2


@pytest.mark.parametrize("fault", ["data.encoded=error:EIO@2", "data.finished=error:EIO"])
def test_joining_goes_on_where_it_was_stopped(
    source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path, fault: str
) -> None:
    from fabula import faults

    corpus, settings = corpus_of(source), {"shard_tokens": 700, "batch_documents": 5}
    here(corpus, tiny_tokenizer, tmp_path / "one", **settings)
    make_all(corpus, tiny_tokenizer, tmp_path / "two", **settings)
    faults.arm(fault)
    try:
        with pytest.raises((MachineError, OSError)):
            here(corpus, tiny_tokenizer, tmp_path / "two", engine=LOCAL, **settings)
    finally:
        faults.arm("")
    here(corpus, tiny_tokenizer, tmp_path / "two", engine=LOCAL, **settings)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


# ---- what goes wrong ---------------------------------------------------------------------------------------


def test_a_damaged_part_is_found_and_made_again(source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus, out = corpus_of(source), tmp_path / "out" / "data"
    work = make_all(corpus, tiny_tokenizer, out)
    ids = parts.folder_of(work, 1) / "ids"
    raw = bytearray(ids.read_bytes())
    raw[40] ^= 1
    ids.write_bytes(raw)
    with pytest.raises(DamagedError, match=r"part-000001.*it was removed, the same command makes it again"):
        here(corpus, tiny_tokenizer, out, engine=LOCAL)
    assert not out.exists()
    key = content_key(DataConfig(), corpus.fingerprint(), tiny_tokenizer.fingerprint)
    assert parts.missing(work, 4, key) == [1]
    engine.make_parts(work, 0, 1)
    here(corpus, tiny_tokenizer, out, engine=LOCAL)
    here(corpus, tiny_tokenizer, tmp_path / "one")
    assert contents(tmp_path / "one") == contents(out)


def test_parts_of_another_text_are_not_taken(source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    out = tmp_path / "out" / "data"
    corpus = corpus_of(source)
    work = make_all(corpus, tiny_tokenizer, out)
    with (source / "c.jsonl").open("a") as file:
        file.write('{"text": "Una más."}\n')
    changed = corpus_of(source)
    assert parts.missing(work, 4, content_key(DataConfig(), changed.fingerprint(), tiny_tokenizer.fingerprint)) == [
        0,
        1,
        2,
        3,
    ]
    with pytest.raises(InputError, match="the text is not what it was"):
        engine.make_parts(work, 0, 1)


def test_the_same_refusals(source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name, config, said in (
        ("bad", CorpusConfig(source=str(source), validation=0.2, max_quarantined=0.001), "cannot be read"),
        ("empty", CorpusConfig(source=str(source / "d.jsonl"), validation=0.2), "one document cannot be split"),
    ):
        corpus = Corpus(config)
        make_all(corpus, tiny_tokenizer, tmp_path / name)
        messages = []
        for out, chosen in ((tmp_path / name, LOCAL), (tmp_path / f"{name}-here", EngineConfig())):
            with pytest.raises(SourceError, match=said) as caught:
                here(corpus, tiny_tokenizer, out, engine=chosen)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_settings_that_do_not_do(tmp_path: Path, source: Path, tiny_tokenizer: Tokenizer) -> None:
    for settings in ({"tasks": 0}, {"workers": -1}, {"memory": 0}, {"name": "datatrove-slurm"}):
        with pytest.raises((ValueError, ConfigError)):
            EngineConfig(**settings)  # type: ignore[arg-type]
    pairs = Corpus(CorpusConfig(source=str(source), source_field="a", target_field="b"))
    with pytest.raises(InputError, match="pairs are prepared without an engine"):
        engine.prepare_parts(LOCAL, pairs, tiny_tokenizer, tmp_path / "work", "k", Silent(), StopFlag())
    cleaned = corpus_of(source, clean=CleanConfig(unicode="nfc"))
    with pytest.raises(InputError, match=r"leave out \[corpus\.clean\]"):
        here(cleaned, tiny_tokenizer, tmp_path / "data", engine=LOCAL)
    assert not (tmp_path / "data").exists()


def test_without_the_extra(
    source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"fabula\[data\]"):
        here(corpus_of(source), tiny_tokenizer, tmp_path / "data", engine=LOCAL)
    assert not (tmp_path / "data").exists()


@needs_datatrove
def test_tasks_that_fail_are_told(source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    def broken(self: Tokenizer, folder: Path) -> None:
        storage.make_folders(folder)
        (folder / "tokenizer.json").write_text("{}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokenizer, "save", broken)
        with pytest.raises(MachineError, match=r"4 of 4 parts were not made.*not a tokenizer.*lie in .*engine"):
            here(corpus_of(source), tiny_tokenizer, tmp_path / "data", engine=replace(LOCAL, workers=1))
    # Mended, the same command goes on.
    here(corpus_of(source), tiny_tokenizer, tmp_path / "data", engine=LOCAL)


def engines_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(folder) in " ".join(process.info["cmdline"] or []) and process.info["status"] != "zombie":
            found.append(process)
    return found


@needs_datatrove
def test_a_stop_ends_the_engine(source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    stop = StopFlag()
    stop.signal_number = 15
    with pytest.raises(Stopped):
        run(DataConfig(engine=LOCAL), corpus_of(source), tiny_tokenizer, tmp_path / "data", Silent(), stop)
    assert not engines_of(tmp_path / ".parts-data")


@needs_datatrove
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_an_engine_does_not_outlive_whoever_started_it(source: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    work = make_all(corpus_of(source), tiny_tokenizer, tmp_path / "data")
    for number in range(4):
        storage.remove(parts.folder_of(work, number))
    plan = storage.read_json(work / engine.PLAN)
    storage.write_json(work / engine.PLAN, {**plan, "engine": to_data(LOCAL)})
    program = (
        "import subprocess, sys; p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True); "
        "p.wait()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, sys.executable, "-m", "fabula.data.engine", str(work)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    end = time.monotonic() + 20
    while len(engines_of(work)) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    end = time.monotonic() + 5
    while engines_of(work):
        assert time.monotonic() < end, "still there"
        time.sleep(0.02)


@needs_datatrove
def test_what_slurm_would_be_given(tmp_path: Path) -> None:
    config = EngineConfig(name="datatrove-slurm", tasks=7, partition="cpu", memory=6, setup="module load python")
    made = engine.executor({"engine": to_data(config)}, tmp_path)
    assert type(made).__name__ == "SlurmPipelineExecutor"
    assert (made.tasks, made.partition, made.mem_per_cpu_gb, made.env_command) == (7, "cpu", 3, "module load python")
    # What datatrove writes into its pickle of ours is a path.
    assert made.pipeline[0].__dict__ == {"work": str(tmp_path)}


@needs_datatrove
def test_the_command(source: Path, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path)
    for name, more in (("here", []), ("parts", ["--data.engine.name", "datatrove-local", "--data.engine.tasks", "2"])):
        words = ["data", "prepare", str(recipe), "--out", str(tmp_path / name), "--corpus.source", str(source)]
        words += ["--corpus.max_quarantined", "0.2", "--corpus.documents", "0", *more]
        subprocess.run([sys.executable, "-m", "fabula", *words], check=True, capture_output=True, timeout=120)
    assert contents(tmp_path / "here" / "data") == contents(tmp_path / "parts" / "data")
