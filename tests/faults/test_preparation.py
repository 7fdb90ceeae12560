"""Preparing data outlives the death of its processes, and its result depends on nothing but text and settings
(rows D10 and D11)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from fabula import storage
from fabula.corpus.fables import Fables
from fabula.corpus.run import Corpus, CorpusConfig
from fabula.data import encoding
from fabula.data.run import QUARANTINE, DataConfig, run
from fabula.data.shards import Shards
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.base import Tokenizer
from tests import tiny
from tests.faults.forks import Fork
from tests.faults.preparing import POISON, Server, is_ready, poison, poisoned_command, workers_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")

ROOT = Path(__file__).parents[2]


@dataclass
class Prepared:
    """A text in several files, a tokenizer, and what an undisturbed process makes of them."""

    source: Path
    tokenizer: Path
    server: Server
    contents: dict[str, str]
    seconds: float

    def start(self, out: Path, **more: Any) -> Fork:
        """A process that prepares this text."""
        return self.server.start(self.settings(out, **more), out.parent.with_suffix(".log"))

    def settings(self, out: Path, **more: Any) -> dict[str, Any]:
        return {"source": str(self.source), "tokenizer": str(self.tokenizer), "out": str(out), **more}


def contents(folder: Path) -> dict[str, str]:
    """The hash of each file."""
    return {p.relative_to(folder).as_posix(): storage.hash_file(p) for p in folder.rglob("*") if p.is_file()}


def tokenizing(out: Path) -> list[int]:
    """The processes that tokenize for a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(out) in " ".join(words) and "worker" in " ".join(words) and process.info["status"] != "zombie":
            found.append(process.pid)
    return found


def assert_nobody_is_left(out: Path) -> None:
    end = time.monotonic() + 5
    while tokenizing(out.parent):
        assert time.monotonic() < end, f"still there: {tokenizing(out.parent)}"
        time.sleep(0.02)


def write_texts(folder: Path, texts: list[str], names: list[str]) -> Path:
    """A folder of JSONL files; the files are made in the order of `names`, the texts belong to sorted names."""
    folder.mkdir()
    parts = {name: texts[i :: len(names)] for i, name in enumerate(sorted(names))}
    for name in names:
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in parts[name]]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return folder


def prepare(source: Path, tokenizer: Tokenizer, out: Path, **settings: Any) -> Shards:
    corpus = Corpus(CorpusConfig(source=str(source), validation=0.2, max_quarantined=0.1))
    return run(DataConfig(**settings), corpus, tokenizer, out, Silent(), StopFlag())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture(scope="module")
def prepared(server: Server, tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    fables = Fables("es", 0)
    texts = [fables[i].text for i in range(300)]
    source = write_texts(folder / "text", texts + texts[:5], [f"{n}.jsonl" for n in "abcde"])
    with (source / "a.jsonl").open("ab") as file:
        file.write(b'{"text": "ma\xf1ana"}\n')
    tiny_tokenizer.save(folder / "tokenizer")
    made = Prepared(source, folder / "tokenizer", server, {}, 0.0)
    made.start(folder / "warm" / "data").wait()  # the server has come up
    child = made.start(folder / "data")
    began = time.monotonic()
    assert child.wait() == 0, child.output
    made.seconds = time.monotonic() - began
    made.contents = contents(folder / "data")
    assert storage.read_json(folder / "data" / storage.MANIFEST)["funnel"]["quarantined"] == 1
    return made


def killed(prepared: Prepared, out: Path, delay: float, **settings: Any) -> str:
    """What a process said that was killed after a while, if it had not ended."""
    child = prepared.start(out, **settings)
    time.sleep(delay)
    child.send(signal.SIGKILL)
    child.wait()
    assert_nobody_is_left(out)
    return child.output


def finished(prepared: Prepared, out: Path, **settings: Any) -> str:
    """What a process said that went on to the end; its result is the undisturbed one."""
    child = prepared.start(out, **settings)
    assert child.wait() == 0, child.output
    assert contents(out) == prepared.contents
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    assert_nobody_is_left(out)
    return child.output


@pytest.mark.row("D10", cases=10, nightly=50)
def test_killed_at_any_moment(prepared: Prepared, tmp_path: Path, cases: int) -> None:
    went_on = 0
    for case in range(cases):
        chance = random.Random(case)
        out = tmp_path / str(case) / "data"
        workers = (0, 1, 2, 3)[case % 4]
        # A process that tokenizes needs a while to start; slowed down, every part of the work is met.
        slow = f"data.encoded=sleep:{0.01 if workers else 0.005}@*"
        span = prepared.seconds + 0.15 + (0.4 if workers else 0.0)
        for _ in range(chance.randint(1, 2)):
            killed(prepared, out, chance.random() * span, workers=workers, faults=slow)
        went_on += "going on after" in finished(prepared, out, workers=chance.choice((0, workers)))
        shutil.rmtree(out.parent)
    assert went_on >= cases // 5


POINTS = [
    *("folder.begun=kill", "data.kept=kill", "data.kept=kill@3", "data.encoded=kill@7", "data.finished=kill"),
    *("folder.filled=kill", "folder.described=kill", "folder.sealed=kill", "folder.renamed=kill"),
    "folder.published=kill",
]


@pytest.mark.row("D10", cases=1)
@pytest.mark.parametrize("fault", POINTS)
def test_killed_at_every_point(prepared: Prepared, tmp_path: Path, fault: str) -> None:
    out = tmp_path / "data"
    child = prepared.start(out, faults=fault)
    assert child.wait() == -signal.SIGKILL, child.output
    finished(prepared, out, workers=1)


@pytest.mark.row("D10", cases=4, nightly=20)
def test_killed_processes_that_tokenize(prepared: Prepared, tmp_path: Path, cases: int) -> None:
    deaths = 0
    for case in range(cases):
        chance = random.Random(case)
        out = tmp_path / str(case) / "data"
        slow = "data.encoded=sleep:0.015@*"
        child = prepared.start(out, workers=1 + case % 2, faults=slow)
        early = 0
        while child.poll() is None:
            time.sleep(chance.uniform(0.2, 0.8))
            for process in workers_of(child):
                # Five that die in a row before they are ready end the preparation, as they should. On a slow machine
                # most are killed that early: so at most four of them, and of those that work as many as chance has it.
                ready = is_ready(process)
                if chance.random() < 0.7 and (ready or early < 4):
                    early += not ready
                    process.kill()
        assert child.wait() == 0, child.output
        deaths += child.output.count("was killed by signal 9; another one takes its place")
        assert contents(out) == prepared.contents
        assert_nobody_is_left(out)
    assert deaths > 0


@pytest.mark.row("D10", cases=2)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_what_was_done(prepared: Prepared, tmp_path: Path, number: int) -> None:
    out = tmp_path / "data"
    for workers in (0, 2):
        child = prepared.start(out, workers=workers, faults="data.encoded=sleep:0.1@*", keep_bytes=1 << 30)
        time.sleep(0.8)
        child.send(number)
        began = time.monotonic()
        assert child.wait() == 128 + number, child.output
        assert time.monotonic() - began < 2
        assert not out.exists()
        kept = storage.read_json(tmp_path / ".unfinished-data" / "account.json")
        assert (kept["documents"] > 0) == (workers == 0 or "going on" in child.output)
    assert "going on after" in finished(prepared, out)


# ---- poison ------------------------------------------------------------------------------------------------


@pytest.fixture
def poisonous(tmp_path: Path) -> Callable[[str], Path]:
    """A text with one document that some tokenizers do not survive."""
    fables = Fables("es", 0)
    texts = [fables[i].text for i in range(60)]
    texts[33] = f"Una fábula con {POISON} dentro."
    return lambda name: write_texts(tmp_path / name, texts, ["a.jsonl", "b.jsonl"])


def assert_all_but_the_poison(shards: Shards, source: Path, tokenizer: Tokenizer, reason: str) -> None:
    found = sorted(tokenizer.decode(ids) for split in shards.splits.values() for ids, _ in split.documents())
    lines = [line for p in sorted(source.iterdir()) for line in p.read_text(encoding="utf-8").splitlines()]
    assert found == sorted(text for line in lines if POISON not in (text := json.loads(line)["text"]))
    (record,) = storage.read_json_lines(shards.folder / QUARANTINE)
    assert (record["file"], record["line"], record["reason"]) == ("b.jsonl", 17, reason)
    assert POISON in record["excerpt"]
    funnel = storage.verify(shards.folder)["funnel"]
    assert (funnel["quarantined"], funnel["records"]) == (1, 60)
    assert funnel["first_quarantined"] == [record]
    for name, split in shards.splits.items():
        assert (funnel["documents"][name], funnel["bytes"][name]) == (split.n_documents, split.n_bytes)


@pytest.mark.row("D10", cases=2)
def test_a_text_that_kills_is_set_aside(
    poisonous: Callable[[str], Path], prepared: Prepared, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source, out = poisonous("text"), tmp_path / "out"
    settings = {**prepared.settings(out / "0"), "source": str(source), "poison": "kill"}
    # Tokenized in the process itself, the text takes it along; the next life is warned.
    assert prepared.server.start({**settings, "workers": 0}, tmp_path / "log").wait() == -signal.SIGKILL
    assert prepared.server.start({**settings, "workers": 0}, tmp_path / "log").wait() == 0
    for workers in (1, 2):
        child = prepared.server.start(
            {**settings, "workers": workers, "out": str(out / str(workers))}, tmp_path / "log"
        )
        assert child.wait() == 0, child.output
        assert child.output.count("killed by signal 9") == 3  # with its neighbours, and twice alone
    assert contents(out / "0") == contents(out / "1") == contents(out / "2")
    assert_all_but_the_poison(Shards(out / "1"), source, tiny_tokenizer, encoding.DIED)


@pytest.mark.row("D10", cases=1)
def test_a_text_that_takes_for_ever_is_set_aside(
    poisonous: Callable[[str], Path], tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "command", poisoned_command("hang"))
    monkeypatch.setattr(encoding, "_PATIENCE_SECONDS", 0.7)
    monkeypatch.setattr(encoding, "_SLOWEST_BYTES_PER_SECOND", 10**9)
    monkeypatch.chdir(ROOT)
    source = poisonous("text")
    shards = prepare(source, tiny_tokenizer, tmp_path / "data", workers=1)
    assert_all_but_the_poison(shards, source, tiny_tokenizer, encoding.DIED)


@pytest.mark.row("D10", cases=2)
def test_a_panic_is_set_aside_whoever_tokenizes(
    poisonous: Callable[[str], Path], tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = poisonous("text")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(encoding, "command", poisoned_command("panic"))
    monkeypatch.setattr(Tokenizer, "encode_batch", Tokenizer.encode_batch)
    there = prepare(source, tiny_tokenizer, tmp_path / "there", workers=1)
    poison("panic")
    here = prepare(source, tiny_tokenizer, tmp_path / "here")
    assert contents(there.folder) == contents(here.folder)
    assert_all_but_the_poison(here, source, tiny_tokenizer, "the tokenizer failed on it: index out of bounds")


@pytest.mark.row("D10", cases=1)
def test_a_process_that_is_busy_does_not_outlive_its_parent(
    poisonous: Callable[[str], Path], prepared: Prepared, tmp_path: Path
) -> None:
    """Also in the middle of a text that takes minutes; and the death of a busy one is seen at once."""
    settings = {**prepared.settings(tmp_path / "out" / "data"), "source": str(poisonous("text"))}
    child = prepared.server.start({**settings, "workers": 1, "poison": "hang"}, tmp_path / "log")
    while not workers_of(child):
        time.sleep(0.01)
    time.sleep(0.7)
    (first,) = workers_of(child)
    first.kill()
    began = time.monotonic()
    while not (others := [p for p in workers_of(child) if p.pid != first.pid]):
        assert time.monotonic() - began < 5
        time.sleep(0.01)
    time.sleep(0.5)
    assert others[0].is_running()
    child.send(signal.SIGKILL)
    child.wait()
    assert_nobody_is_left(tmp_path / "out" / "data")


@pytest.mark.row("D10", cases=1)
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of the address space")
def test_a_text_that_takes_all_memory_is_set_aside(
    tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20)); "
        "from pathlib import Path; from fabula.data import worker; worker.main(Path(sys.argv[1]))"
    )
    monkeypatch.setattr(encoding, "command", lambda folder: [sys.executable, "-c", program, str(folder)])
    fables = Fables("es", 0)
    texts = [fables[i].text for i in range(60)]
    texts[33] = f"{POISON} " * 3_000_000
    source = write_texts(tmp_path / "text", texts, ["a.jsonl", "b.jsonl"])
    shards = prepare(source, tiny_tokenizer, tmp_path / "data", workers=1)
    assert_all_but_the_poison(shards, source, tiny_tokenizer, encoding.DIED)


@pytest.mark.row("D10", cases=1)
def test_the_command_goes_on(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    words = ("data", "prepare", tiny.write_recipe(tmp_path), "--data.batch_documents", 5, "--out")
    made = tiny.call(*words, tmp_path / "killed", env=tiny.environment(FABULA_FAULTS="data.encoded=kill@4"))
    assert made.returncode == -signal.SIGKILL, made.stderr
    assert not (tmp_path / "killed" / "data").exists()
    for name in ("killed", "straight"):
        code, _, err = cli(*words, tmp_path / name)
        assert code == 0, err
    assert contents(tmp_path / "killed" / "data") == contents(tmp_path / "straight" / "data")


# ---- the same bytes ----------------------------------------------------------------------------------------


@pytest.mark.row("D11", cases=1)
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_neither_workers_nor_the_order_of_listing_matter(
    prepared: Prepared, tiny_tokenizer: Tokenizer, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    names = sorted(p.name for p in prepared.source.iterdir())
    for folder in (first, second):
        (folder / "text").mkdir(parents=True)
        for name in names:
            shutil.copyfile(prepared.source / name, folder / "text" / name)
        random.Random(workers).shuffle(names)
    monkeypatch.chdir(first)
    prepare(Path("text"), tiny_tokenizer, first / "data")
    # The same folder, its files made in another order and listed in yet another.
    walk = os.walk

    def shuffled(*arguments: Any, **named: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for place, folders, found in walk(*arguments, **named):
            random.Random(workers).shuffle(found)
            yield place, folders, found

    monkeypatch.setattr(os, "walk", shuffled)
    monkeypatch.chdir(second)
    prepare(Path("text"), tiny_tokenizer, second / "data", workers=workers, batch_documents=7)
    assert contents(first / "data") == contents(second / "data")
    assert contents(first / "data").keys() == prepared.contents.keys()
