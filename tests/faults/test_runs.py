"""A run is one recipe and one process: other settings are refused (row R9), a second process is refused (row R10)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fabula import checkpoint, pipeline, storage
from fabula.device import environment
from fabula.errors import BusyError, FabulaError, InputError
from fabula.progress import Silent
from fabula.train.speed import Speed
from tests import tiny
from tests.faults.alike import assert_alike
from tests.faults.forks import Fork
from tests.faults.forkserver import ForkServer

SPEED = Speed(step=0.1, evaluation_row=0.01, sampled_token=0.001, save=0.05)

needs_fork = pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


# What a refused run may write: it says what it was told, and remembers which files it has hashed.
_LOGS = ("log.txt", "verified.json", storage.LOCK)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of a run with the time at which it was written."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in _LOGS
    }


# ---- R9: changed settings -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its ninth step. Copy it."""
    from fabula.errors import Stopped
    from fabula.train.trainer import Trainer

    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)
        take = Trainer.take_step

        def stopping(self: Trainer, batch: Any) -> Any:
            made = take(self, batch)
            if self.step == 9:
                self.stop.signal_number = 15
            return made

        patch.setattr(Trainer, "take_step", stopping)
        with pytest.raises(Stopped):
            pipeline.run(tiny.write_recipe(folder), runs=folder / "runs")
    return folder / "runs" / "tiny"


@pytest.fixture
def one_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)


# the setting, another value, what is told
REFUSED = [
    *[("model.n_layers", 3, "model.n_layers: 2 -> 3"), ("model.d_model", 64, "model.d_model: 32 -> 64")],
    *[("model.context_length", 16, "model.context_length: 32 -> 16"), ("model.tied", "false", "model.tied: True")],
    *[("model.ffn.d_ff", 96, "model.ffn.d_ff: 64 -> 96"), ("model.attention.n_kv_heads", 2, "n_kv_heads: 1 -> 2")],
    *[("tokenizer.vocab_size", 330, "tokenizer.vocab_size: 320 -> 330")],
    *[("corpus.documents", 61, "corpus.documents: 60 -> 61"), ("corpus.validation", 0.3, "corpus.validation: 0.2")],
    *[("corpus.source", "fables:en", "corpus.source: fables:es -> fables:en")],
    *[("data.shard_tokens", 999, "data.shard_tokens: 134217728 -> 999")],
    *[("train.budget", "30steps", "train.budget: 24steps -> 30steps"), ("train.clip", 0.5, "train.clip: 1.0 -> 0.5")],
    *[("train.batch_tokens", 64, "train.batch_tokens: 128 -> 64"), ("train.micro_rows", 2, "train.micro_rows: 0 -> 2")],
    *[("train.optimizer.lr", 0.5, "train.optimizer.lr: 0.02 -> 0.5")],
    *[("train.optimizer.weight_decay", 0.2, "train.optimizer.weight_decay: 0.1 -> 0.2")],
    *[("train.schedule.decay", 0.1, "train.schedule.decay: 0.5 -> 0.1")],
    *[("train.isolate_documents", "false", "train.isolate_documents: True -> False")],
    *[("train.checkpoints", 3, "train.checkpoints: 4 -> 3"), ("train.skip_spikes", 6, "train.skip_spikes: 0.0 -> 6.0")],
    *[("seed", 1, "seed: 0 -> 1"), ("generate.temperature", 0.1, "generate.temperature: 0.7 -> 0.1")],
]

ALLOWED: list[tuple[str, Any]] = [
    *[("train.keep", 4), ("train.log_every", 1), ("train.save_minutes", 1.5), ("train.save_steps", 5)],
    *[("train.failed_save", "go_on"), ("train.threads", 1), ("train.device", "cpu")],
]


@pytest.mark.row("R9", cases=2)
@pytest.mark.parametrize(("name", "value", "told"), REFUSED, ids=[name for name, _, _ in REFUSED])
def test_another_setting_is_refused_with_what_differs(
    stopped: Path, tmp_path: Path, cli: Any, name: str, value: Any, told: str, cases: int
) -> None:
    """When the recipe is given again, and on resume."""
    run = Path(shutil.copytree(stopped, tmp_path / "runs" / "tiny"))
    tiny.write_recipe(tmp_path)
    before = content(run)
    code, out, err = cli("run", "tiny.toml", "--set", f"{name}={value}")
    assert (code, out) == (2, "")
    assert told in err
    assert "--fresh" in err
    assert "--name" in err
    assert content(run) == before, "a refused run touches nothing"
    code, out, err = cli("resume", "runs/tiny", "--set", f"{name}={value}")
    assert (code, out) == (2, "")
    assert f"{name}: a resumed run is the same run" in err
    assert "train.keep" in err
    assert content(run) == before
    assert storage.holder(run) is None


@pytest.mark.row("R9", cases=1)
@pytest.mark.parametrize("section", ["model", "train", "generate", "seed"])
def test_an_edited_recipe_in_the_run_is_refused(
    stopped: Path, tmp_path: Path, one_speed: None, section: str, cases: int
) -> None:
    """`resume` reads the recipe of the run folder: somebody may have edited it."""
    run = Path(shutil.copytree(stopped, tmp_path / "tiny"))
    recipe = run / "recipe.toml"
    old, new = {
        "model": ("n_layers = 2", "n_layers = 3"),
        "train": ("clip = 1.0", "clip = 2.0"),
        "generate": ("temperature = 0.7", "temperature = 0.2"),
        "seed": ("seed = 0", "seed = 7"),
    }[section]
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new, 1))
    before = content(run)
    with pytest.raises(InputError, match=rf"{new.split(' = ')[0]}: .* -> {new.split(' = ')[1]}"):
        pipeline.resume(run)
    assert content(run) == before


@pytest.mark.row("R9", cases=2)
def test_what_does_not_change_the_result_may_change(stopped: Path, tmp_path: Path, one_speed: None, cases: int) -> None:
    """All of them at once, on resume and by giving the recipe again; the run comes to the same end."""
    path = tiny.write_recipe(tmp_path)
    straight = pipeline.run(path, name="straight", runs=tmp_path).folder
    for name in ("resumed", "again")[:cases]:
        run = Path(shutil.copytree(stopped, tmp_path / name))
        if name == "resumed":
            pipeline.resume(run, overrides=dict(ALLOWED))
        else:
            pipeline.run(path, dict(ALLOWED), name=name, runs=tmp_path)
        newest = [checkpoint.last(folder) for folder in (straight, run)]
        assert newest[0] is not None
        assert newest[1] is not None
        files = [c.manifest["files"][checkpoint.WEIGHTS]["sha256"] for c in newest if c]
        assert files[0] == files[1]
        assert len(checkpoint.checkpoints(run)) > len(checkpoint.checkpoints(straight)), "train.keep took effect"


@pytest.mark.row("R9", cases=1)
@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", 7), ("torch", "2.0.0"), ("python", "3.9.1"), ("cpu", "an abacus"), ("instruction_set", "AVX9")],
)
def test_another_environment_is_announced(
    stopped: Path,
    tmp_path: Path,
    one_speed: None,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
    cases: int,
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "tiny"))
    newest = checkpoint.last(run)
    assert newest is not None
    was = newest.manifest["environment"][name]
    assert was != value
    monkeypatch.setattr("fabula.train.run.environment", lambda device: {**environment(device), name: value})
    notes = Notes()
    pipeline.resume(run, progress=notes)
    (told,) = [note for note in notes.notes if "was made elsewhere" in note]
    assert f"{name}: {was} -> {value}" in told
    assert "last bits" in told
    assert told in (run / "log.txt").read_text()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another text."""
    folder = tmp_path_factory.mktemp("other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)
        changes = {"corpus.source": "fables:en", "train.budget": "2steps"}
        return pipeline.run(tiny.write_recipe(folder), changes, runs=folder).folder


@pytest.mark.row("R9", cases=1)
@pytest.mark.parametrize("how", ["run", "resume"])
@pytest.mark.parametrize("part", ["tokenizer", "data", "both"])
def test_a_swapped_part_of_the_run_is_refused(
    stopped: Path, other: Path, tmp_path: Path, one_speed: None, part: str, how: str, cases: int
) -> None:
    """Each is whole in itself, but of another run."""
    run = Path(shutil.copytree(stopped, tmp_path / "tiny"))
    for name in ("tokenizer", "data") if part == "both" else (part,):
        shutil.rmtree(run / name)
        shutil.copytree(other / name, run / name)
    before = content(run / "checkpoints")
    recipe = tiny.write_recipe(tmp_path)
    with pytest.raises(FabulaError) as caught:
        _ = pipeline.run(recipe, runs=tmp_path) if how == "run" else pipeline.resume(run)
    assert caught.value.exit_code in (2, 4)
    assert "tokenizer" in str(caught.value) or "data" in str(caught.value)
    assert content(run / "checkpoints") == before


@pytest.mark.row("R9", cases=4)
def test_a_step_that_is_not_there_is_an_error(copied_run: Path, tmp_path: Path, cli: Any, cases: int) -> None:
    """Never the newest one instead."""
    tiny.write_recipe(tmp_path)
    asked = [
        ("generate", copied_run, "--checkpoint", "step-7", "--prompt", "El"),
        ("evaluate", copied_run, "--checkpoint", "step-000007"),
        ("run", "tiny.toml", "--evaluate.checkpoint", "step-7"),
        ("generate", copied_run, "--checkpoint", "step-", "--prompt", "El"),
    ]
    for words in asked[:cases]:
        code, out, err = cli(*words)
        assert (code, out) == (2, ""), words
        assert "no checkpoint" in err, words
        assert "steps 18, 24" in err, words


# ---- R10: one process, one folder ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as made:
        yield made


# What waits where it is told to: the holder of a folder.
WAITS = "train.step=sleep:30@4"


def hold(server: ForkServer, folder: Path, command: str) -> tuple[Fork, Path]:
    """A process that holds a folder and stays, and the folder."""
    tiny.write_recipe(folder)
    if command == "data":
        words: tuple[Any, ...] = ("data", "prepare", "tiny.toml", "--out", "runs/tiny")
        process = server.start(*words, cwd=folder, faults="data.encoded=sleep:30@1")
    elif command == "resume":
        first = server.run("run", "tiny.toml", cwd=folder, faults="train.step=signal:SIGTERM@2")
        assert first.code == 143, first.output
        process = server.start("resume", "runs/tiny", cwd=folder, faults=WAITS)
    else:
        process = server.start("run", "tiny.toml", cwd=folder, faults=WAITS)
    run = folder / "runs" / "tiny"
    end = time.monotonic() + 30
    started = (lambda: len(storage.read_json_lines(run / "metrics.jsonl")) >= 3) if command != "data" else None
    while not (started() if started else (run / "tokenizer").exists()):
        assert time.monotonic() < end, process.output
        assert process.poll() is None, process.output
        time.sleep(0.01)
    # It is still on its way to where it waits, and writes: until nothing changes.
    seen: dict[str, Any] = {}
    while command == "data" and seen != (seen := content(run)):
        assert time.monotonic() < end, process.output
        time.sleep(0.5)
    found = storage.holder(run)
    assert found is not None
    assert found.process == process.pid
    return process, run


def words_for(command: str) -> tuple[Any, ...]:
    return {
        "run": ("run", "tiny.toml"),
        "resume": ("resume", "runs/tiny"),
        "data": ("data", "prepare", "tiny.toml", "--out", "runs/tiny"),
        "train": ("train", "tiny.toml"),
        "fresh": ("run", "tiny.toml", "--fresh"),
    }[command]


def kill(process: Fork) -> None:
    process.send(signal.SIGKILL)
    process.wait()


def assert_refused(process: Fork, by: int, began: float) -> float:
    """Ended with exit code 3, naming host and process; returns the seconds it took."""
    code = process.wait(20)
    took = time.monotonic() - began
    assert code == 3, process.output
    assert f"process {by} on {os.uname().nodename}" in process.output
    assert "is writing here" in process.output
    assert "--name" in process.output
    assert "Traceback" not in process.output
    return took


# who holds the folder, who comes second
PAIRS = [
    *[("run", "run"), ("run", "resume"), ("run", "data"), ("run", "train"), ("run", "fresh")],
    *[("resume", "run"), ("resume", "resume"), ("data", "data"), ("data", "run"), ("resume", "fresh")],
]


@needs_fork
@pytest.mark.row("R10", cases=2, nightly=2)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_second_is_refused_and_after_a_kill_it_is_let_in(
    server: ForkServer, tmp_path: Path, first: str, second: str, cases: int
) -> None:
    holder, run = hold(server, tmp_path, first)
    before = content(run)
    try:
        began = time.monotonic()
        took = assert_refused(server.start(*words_for(second), cwd=tmp_path), holder.pid, began)
        assert took < 1.0
        assert content(run) == before, "who is refused touches nothing"
        assert holder.poll() is None
    finally:
        kill(holder)
    # The lock went with the process, although its file still names it.
    assert storage.read_json(run / storage.LOCK)["process"] == holder.pid
    began = time.monotonic()
    with storage.lock(run):
        assert time.monotonic() - began < 0.1
    if (first, second) in (("run", "run"), ("run", "resume"), ("data", "data"), ("resume", "fresh")):
        after = server.run(*words_for(second), cwd=tmp_path)
        assert after.code == 0, after.output


@needs_fork
@pytest.mark.row("R10", cases=1)
def test_a_holder_that_stands_still_holds(server: ForkServer, tmp_path: Path, cases: int) -> None:
    holder, _ = hold(server, tmp_path, "run")
    holder.send(signal.SIGSTOP)
    try:
        took = assert_refused(server.start("run", "tiny.toml", cwd=tmp_path), holder.pid, time.monotonic())
        assert took < 1.0
        holder.send(signal.SIGCONT)
        assert holder.poll() is None
    finally:
        kill(holder)


@needs_fork
@pytest.mark.row("R10", cases=1, nightly=10)
def test_of_many_that_start_together_one_runs(server: ForkServer, tmp_path: Path, cases: int) -> None:
    """And it comes to the end that it would have come to alone."""
    alone = tmp_path / "alone"
    alone.mkdir()
    tiny.write_recipe(alone)
    assert server.run("run", "tiny.toml", cwd=alone).code == 0
    for number in range(cases):
        folder = tmp_path / f"many-{number}"
        folder.mkdir()
        tiny.write_recipe(folder)
        processes = [server.start("run", "tiny.toml", cwd=folder) for _ in range(4)]
        codes = sorted(process.wait() for process in processes)
        assert codes == [0, 3, 3, 3], "\n".join(p.output for p in processes)
        assert_alike(alone / "runs" / "tiny", folder / "runs" / "tiny")


@needs_fork
@pytest.mark.row("R10", cases=1)
def test_real_processes(tmp_path: Path, cases: int) -> None:
    """`python -m fabula` from its start to the refusal: told before torch is imported."""
    tiny.write_recipe(tmp_path)
    first = subprocess.Popen(
        tiny.command("run", "tiny.toml"),
        cwd=tmp_path,
        env=tiny.environment(FABULA_FAULTS="train.step=sleep:60@4"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        run = tmp_path / "runs" / "tiny"
        end = time.monotonic() + 60
        while not len(storage.read_json_lines(run / "metrics.jsonl")) >= 3:
            assert first.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        for words in (("run", "tiny.toml"), ("resume", "runs/tiny"), ("run", "tiny.toml", "--fresh")):
            began = time.monotonic()
            second = tiny.call(*words, cwd=tmp_path)
            took = time.monotonic() - began
            assert second.returncode == 3, tiny.tail(second.stderr)
            assert f"process {first.pid} on {os.uname().nodename}" in second.stderr.decode()
            print(f"fabula {' '.join(words)}: refused {took:.2f} s after its start")
            assert took < 5
        assert len(storage.read_json_lines(run / "metrics.jsonl")) >= 3, "--fresh removed nothing"
    finally:
        first.kill()
        first.wait()
    with storage.lock(run):
        pass  # and the next one is let in


@pytest.mark.row("R10", cases=6)
def test_the_lock_file_of_another_host(tmp_path: Path, cases: int) -> None:
    """On a network file system the lock itself may end at the machine: the file's age tells."""
    path = tmp_path / storage.LOCK
    facts = json.dumps({"host": "elsewhere", "process": 77, "started": "2026-01-01T00:00:00+00:00"})
    done = 0
    for age, held in ((0, True), (20, True), (50, True), (70, False), (3600, False), (-3600, True)):
        path.write_text(facts)
        os.utime(path, (time.time() - age, time.time() - age))
        found = storage.holder(tmp_path)
        assert (found is not None) == held, age
        if held:
            assert str(found) == "process 77 on elsewhere (since 2026-01-01T00:00:00+00:00)"
            with pytest.raises(BusyError, match="process 77 on elsewhere"), storage.lock(tmp_path):
                pass
            with pytest.raises(BusyError, match="process 77 on elsewhere"):
                storage.refuse_if_held(tmp_path)
            assert path.read_text() == facts, "who is refused leaves the file as it is"
        else:
            with storage.lock(tmp_path):
                assert storage.read_json(path)["process"] == os.getpid()
        done += 1
    assert done == cases


@pytest.mark.row("R10", cases=3)
def test_torn_lock_files(tmp_path: Path, cases: int) -> None:
    """A holder that died while it wrote its name holds nothing."""
    for text in ("", '{"host": "else', "[3]")[:cases]:
        (tmp_path / storage.LOCK).write_text(text)
        if text != "[3]" and text:
            assert storage.holder(tmp_path) is not None, "it may be another host's"
            os.utime(tmp_path / storage.LOCK, (1, 1))
        elif text:
            os.utime(tmp_path / storage.LOCK, (1, 1))
        with storage.lock(tmp_path):
            pass


@pytest.mark.row("R10", cases=50, nightly=300)
def test_who_only_looks_keeps_nobody_out(tmp_path: Path, cases: int) -> None:
    """`holder` has the lock for an instant; a run that begins just then must not be refused."""
    done, looks = threading.Event(), [0]
    (tmp_path / storage.LOCK).write_text(
        json.dumps({"host": os.uname().nodename, "process": 999_999_999, "started": "then"})
    )

    def look() -> None:
        while not done.is_set():
            storage.holder(tmp_path)
            looks[0] += 1

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(cases):
            with storage.lock(tmp_path):
                pass
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()
    assert looks[0] > 0


@needs_fork
@pytest.mark.row("R10", cases=1)
@pytest.mark.parametrize("how", ["removed", "renamed", "lock"])
def test_a_folder_that_is_taken_away_from_its_holder(server: ForkServer, tmp_path: Path, how: str, cases: int) -> None:
    """Whoever makes it again is alone in it: the first writes nothing more, and says why it ends."""
    tiny.write_recipe(tmp_path)
    first = server.start("run", "tiny.toml", cwd=tmp_path, faults="train.step=sleep:1.5@9")
    run = tmp_path / "runs" / "tiny"
    end = time.monotonic() + 30
    while len([r for r in storage.read_json_lines(run / "metrics.jsonl") if r["kind"] == "train"]) < 8:
        assert time.monotonic() < end, first.output
        time.sleep(0.01)
    time.sleep(0.1)  # now it sleeps in its ninth step
    if how == "removed":
        shutil.rmtree(run)
    elif how == "renamed":
        run.rename(tmp_path / "runs" / "elsewhere")
    else:
        (run / storage.LOCK).unlink()
    second = server.run("run", "tiny.toml", cwd=tmp_path)
    assert second.code == 0, second.output
    made = content(run)
    assert first.wait() == 3, first.output
    assert "was removed or replaced while process" in first.output
    assert "Traceback" not in first.output
    assert content(run) == made, "two processes wrote into one folder"
    alone = tmp_path / "alone"
    alone.mkdir()
    tiny.write_recipe(alone)
    assert server.run("run", "tiny.toml", cwd=alone).code == 0
    assert_alike(alone / "runs" / "tiny", run)


@pytest.mark.row("R10", cases=1)
def test_a_holder_does_not_remove_the_lock_of_another(tmp_path: Path, cases: int) -> None:
    """The folder was remade, holds nothing but the lock of its new owner, and the old one ends."""
    folder = tmp_path / "run"
    with contextlib.ExitStack() as stack:
        stack.enter_context(storage.lock(folder))
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / storage.LOCK).write_text("another's")
        with pytest.raises(BusyError, match="removed or replaced"):
            storage.check_held(folder)
    assert (folder / storage.LOCK).read_text() == "another's"
    storage.check_held(folder)  # held by nobody here: nothing to say


@needs_fork
@pytest.mark.row("R10", cases=1)
def test_a_folder_of_one_s_own_leaves_no_trace(tmp_path: Path, cases: int) -> None:
    with storage.lock(tmp_path / "new" / "run"):
        pass
    assert not (tmp_path / "new" / "run").exists()
