"""Who tokenizes does not matter: the same ids from this process and from others, whatever becomes of these."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula.corpus.document import Document
from fabula.data import encoding, worker
from fabula.data.encoding import Here, Item, Processes
from fabula.data.worker import Failure
from fabula.errors import DamagedError, InputError, MachineError, Stopped
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=8)


def batches(texts: list[str], size: int = 3) -> Iterator[list[Item]]:
    items = [Item(i, "train", Document(t, f"t[{i}]"), len(t.encode())) for i, t in enumerate(texts)]
    return iter([items[i : i + size] for i in range(0, len(items), size)])


# ---- frames ------------------------------------------------------------------------------------------------


@given(texts=TEXTS)
def test_texts_come_back(texts: list[str]) -> None:
    assert worker.unpack_texts(worker.pack_texts(texts)) == texts


@given(results=st.lists(st.one_of(st.lists(st.integers(0, 2**32 - 1), max_size=9), st.builds(Failure, st.text()))))
def test_results_come_back(results: list[list[int] | Failure]) -> None:
    found = worker.unpack_results(worker.pack_results(results))
    for expected, made in zip(results, found, strict=True):
        if isinstance(expected, Failure):
            assert isinstance(made, Failure)
            assert made.reason == expected.reason.encode("utf-8", "backslashreplace").decode("utf-8")
        else:
            assert not isinstance(made, Failure)
            assert np.frombuffer(made, "<u4").tolist() == expected


def test_a_torn_frame_is_the_end() -> None:
    file = io.BytesIO()
    worker.write_frame(file, b"first")
    worker.write_frame(file, b"second")
    whole = file.getvalue()
    for cut in range(len(whole)):
        torn = io.BytesIO(whole[:cut])
        assert worker.read_frame(torn) == (b"first" if cut >= 13 else None)
        assert worker.read_frame(torn) is None


# ---- one text and its neighbours ---------------------------------------------------------------------------


def test_a_text_that_fails_does_not_harm_the_others(tiny_tokenizer: Tokenizer) -> None:
    found = worker.encode_each(tiny_tokenizer, ["uno", "d\ud800s", "tres"])
    assert found[0] == tiny_tokenizer.encode("uno")
    assert isinstance(found[1], Failure)
    assert "lone surrogate" in found[1].reason
    assert found[2] == tiny_tokenizer.encode("tres")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_no_fault_of_a_text_is_raised(
    tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fails(self: Tokenizer, texts: object) -> None:
        raise error

    monkeypatch.setattr(Tokenizer, "encode_batch", fails)
    with pytest.raises(error):
        worker.encode_each(tiny_tokenizer, ["uno"])


# ---- processes ---------------------------------------------------------------------------------------------


def test_processes_give_the_same_ids_in_order(tiny_tokenizer: Tokenizer, tiny_texts: list[str], tmp_path: Path) -> None:
    texts = [*tiny_texts, "", "\x00 漢字 🦊\r\n", "<|endoftext|>", "x" * 2_000_000]
    here = [(b, [list(r) for r in results]) for b, results in Here(tiny_tokenizer).encode(batches(texts), StopFlag())]
    with Processes(tiny_tokenizer, tmp_path, 2, Silent()) as processes:
        there = [(b, [list(r) for r in results]) for b, results in processes.encode(batches(texts), StopFlag())]
    assert here == there
    assert [item.number for batch, _ in there for item in batch] == list(range(len(texts)))


def test_no_more_is_in_flight_than_is_asked_for(
    tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    def counted() -> Iterator[list[Item]]:
        nonlocal taken
        for batch in batches(["uno dos tres"] * 60, 1):
            taken += 1
            yield batch

    with Processes(tiny_tokenizer, tmp_path, 2, Silent()) as processes:
        for given_back, _ in enumerate(processes.encode(counted(), StopFlag())):
            assert taken - given_back <= 4
        monkeypatch.setattr(encoding, "_IN_FLIGHT_BYTES", 1)
        taken = 0
        for given_back, _ in enumerate(processes.encode(counted(), StopFlag())):
            assert taken - given_back == 1


def test_a_stop_does_not_wait_for_a_long_text(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    stop = StopFlag()
    timer = threading.Timer(0.5, lambda: setattr(stop, "signal_number", 15))
    began = time.monotonic()
    with Processes(tiny_tokenizer, tmp_path, 1, Silent()) as processes:
        timer.start()
        with pytest.raises(Stopped):
            list(processes.encode(batches(["una fábula " * 5_000_000]), stop))
    assert time.monotonic() - began < 4


def test_an_error_of_the_source_ends_the_processes(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    def fails() -> Iterator[list[Item]]:
        yield from batches(["uno"])
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"), Processes(tiny_tokenizer, tmp_path, 2, Silent()) as processes:
        list(processes.encode(fails(), StopFlag()))
    assert all(process._running is None for process in processes._processes)


def test_processes_that_do_not_start(
    tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "command", lambda folder: [sys.executable, "-c", "raise SystemExit(7)"])
    monkeypatch.setattr(encoding, "_STARTS", 2)
    with Processes(tiny_tokenizer, tmp_path, 1, Silent()) as processes:
        with pytest.raises(MachineError, match="2 times one ended with exit code 7 at once"):
            list(processes.encode(batches(["uno"]), StopFlag()))
        monkeypatch.setattr(encoding, "command", lambda folder: [str(tmp_path / "no such program")])
        with pytest.raises(MachineError, match="could not be started"):
            list(processes.encode(batches(["uno"]), StopFlag()))


@pytest.mark.parametrize("damage", ["other", "broken"])
def test_processes_with_another_tokenizer(
    tiny_tokenizer: Tokenizer, tiny_texts: list[str], tmp_path: Path, damage: str
) -> None:
    with Processes(tiny_tokenizer, tmp_path, 1, Silent()) as processes:
        if damage == "other":
            train_bpe(tiny_texts[:20], 300).save(tmp_path)
        else:
            (tmp_path / "tokenizer.json").write_bytes(b"{}")
        with pytest.raises(DamagedError, match="another one" if damage == "other" else "not a tokenizer"):
            list(processes.encode(batches(["uno"]), StopFlag()))


def test_a_worker_imports_little_and_ends_with_its_input(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save(tmp_path)
    program = (
        "import sys, runpy; from pathlib import Path; from fabula.data import worker; worker.main(Path(sys.argv[1])); "
        "sys.stderr.write(repr(sorted({'torch', 'numpy'} & sys.modules.keys())))"
    )
    made = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], input=b"", capture_output=True, timeout=60, check=True
    )
    assert made.stderr == b"[]"
    assert tiny_tokenizer.fingerprint.encode() in made.stdout
    # In a folder with a file that has the name of a library, too.
    (tmp_path / "tokenizers.py").write_text("raise SystemExit(9)")
    made = subprocess.run(encoding.command(tmp_path), input=b"", capture_output=True, timeout=60, cwd=tmp_path)
    assert made.returncode == 0
    assert tiny_tokenizer.fingerprint.encode() in made.stdout


def test_the_usual_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= encoding.usual_processes() <= 8
    monkeypatch.setattr(encoding, "cores", lambda: 64)
    assert encoding.usual_processes() == 8
    assert encoding.cores() <= (os.cpu_count() or 1) or encoding.cores() == 64
