"""Trackers mirror the log of a run and can do it no harm, whatever their libraries do."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula import pipeline, storage
from fabula.errors import ConfigError, MachineError, Stopped
from fabula.progress import Silent
from fabula.train.config import TrainConfig
from fabula.train.trackers import mirror
from fabula.train.trackers.config import LIBRARIES, trackers
from tests import tiny

# A library of wandb's shape that does what a test wants, at a place where a test wants it.
LIBRARY = """
import json, os, sys, time

def record(**said):
    with open({record!r}, "a") as file:
        file.write(json.dumps(said) + chr(10))

class Html:
    def __init__(self, text, inject):
        self.text = text

def Settings(**settings):
    return settings

class Run:
    url, id, dir, logged = "", "", "", 0
    def define_metric(self, *names, **settings):
        pass
    def log(self, values):
        self.logged += 1
        {log}
        record(**{{name: getattr(value, "text", value) for name, value in values.items()}})
    def finish(self):
        {finish}
        record(finished=True)

def init(**settings):
    {init}
    record(init=settings["id"], mode=settings["mode"], name=settings["name"], settings=len(settings["config"]))
    run = Run()
    run.id, run.dir = settings["id"], str(settings["dir"])
    return run
"""


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)

    @property
    def of_trackers(self) -> list[str]:
        return [said for said in self.said if said.startswith("tracker ")]


Library = Callable[..., Path]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> Library:
    """Makes a module `wandb` that this process finds and that its companions import; returns where it records."""

    def make(init: str = "pass", log: str = "pass", finish: str = "pass") -> Path:
        folder, record = tmp_path / "library", tmp_path / "record.jsonl"
        folder.mkdir()
        source = LIBRARY.format(record=str(record), init=init, log=log, finish=finish)
        (folder / "wandb.py").write_text(source, "utf-8")
        monkeypatch.syspath_prepend(str(folder))
        paths = filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        return record

    return make


def trained(tmp_path: Path, notes: Notes, **over: Any) -> Path:
    settings = {"train.trackers": "wandb", **over}
    return pipeline.run(tiny.write_recipe(tmp_path), settings, runs=tmp_path / "runs", progress=notes).folder


def steps(record: Path, name: str = "train/loss") -> list[int]:
    return [line["step"] for line in storage.read_json_lines(record) if name in line]


def assert_whole(run: Path) -> None:
    """The run is finished and its own log has every step."""
    assert storage.read_json(run / "summary.json")["status"] == "finished"
    lines = storage.read_json_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, tiny.STEPS + 1))


def test_everything_of_a_run_is_mirrored(tmp_path: Path, library: Library) -> None:
    record = library()
    notes = Notes()
    run = trained(tmp_path, notes, **{"train.tracking.name": "mine"})
    assert_whole(run)
    said = storage.read_json_lines(record)
    assert (said[0]["mode"], said[0]["name"]) == ("offline", "mine")
    assert said[0]["settings"] > 50, "the resolved recipe"
    assert said[-1] == {"finished": True}
    assert steps(record) == list(range(1, tiny.STEPS + 1))
    assert steps(record, "validation/bits_per_byte") == [6, 12, 18, 24]
    own = [line for line in storage.read_json_lines(run / "metrics.jsonl") if line["kind"] == "train"]
    theirs = [line for line in said if "train/loss" in line]
    for name in ("loss", "bits_per_byte", "lr", "grad_norm", "tokens_per_second", "mfu", "memory_bytes"):
        assert [line[f"train/{name}"] for line in theirs] == [line[name] for line in own], name
    assert theirs[5]["train/learning_rate"] == own[5]["lr"] * 0.02, "the peak rate of the recipe's optimizer"
    texts = [line["sample-1"] for line in said if "sample-1" in line]
    assert len(texts) == 4
    assert all("El conejo" in text for text in texts)
    assert [line["checkpoint"] for line in said if "checkpoint" in line][-1] == "<pre>step-000024</pre>"
    assert len(notes.of_trackers) == 1
    assert notes.of_trackers[0].startswith("tracker wandb: wandb sync --append ")
    assert "wandb" not in sys.modules, "never in the process that trains"


@pytest.mark.parametrize(
    ("places", "why"),
    [
        ({"init": "raise RuntimeError('no account')"}, "RuntimeError: no account"),
        ({"init": "input('API key? ')"}, "EOFError: EOF when reading a line"),
        ({"init": "os._exit(3)"}, "ended by itself"),
        ({"log": "if self.logged == 3: raise OSError('network is unreachable')"}, "OSError: network is unreachable"),
        ({"finish": "raise ValueError('two\\nlines')"}, "ValueError: two"),
    ],
)
def test_a_tracker_that_raises_does_not_stop_the_run(
    tmp_path: Path, library: Library, places: dict[str, str], why: str
) -> None:
    library(**places)
    notes = Notes()
    assert_whole(trained(tmp_path, notes))
    (said,) = notes.of_trackers
    assert said.startswith(f"tracker wandb: {why}; it is switched off at step ")
    assert said.endswith("metrics.jsonl goes on")


@pytest.mark.parametrize(
    "place", [pytest.param("init", marks=pytest.mark.slow), "log", pytest.param("finish", marks=pytest.mark.slow)]
)
def test_a_tracker_that_hangs_is_left_behind(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    library(**{place: "time.sleep(600)"})
    monkeypatch.setattr(mirror, "_PATIENCE", 2.0)
    notes = Notes()
    assert_whole(trained(tmp_path, notes))
    (said,) = notes.of_trackers
    assert said.startswith("tracker wandb: did not finish in time and was ended; ")


def test_a_resumed_run_says_every_step_once(tmp_path: Path, library: Library) -> None:
    record = library()
    notes = Notes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fabula.train.trainer.faults.point", stop_at(13))
        with pytest.raises(Stopped):
            trained(tmp_path, notes)
    assert steps(record) == list(range(1, 14))
    run = pipeline.resume(tmp_path / "runs" / "tiny", progress=notes).folder
    assert_whole(run)
    assert steps(record) == list(range(1, tiny.STEPS + 1))
    assert steps(record, "sample-2") == [6, 12, 18, 24]
    begun = [line["init"] for line in storage.read_json_lines(record) if "init" in line]
    assert len(begun) == 2
    assert begun[0] == begun[1], "the same run of the tracker"


def stop_at(number: int) -> Callable[[str], None]:
    """A fault: this process is asked to stop after so many steps."""
    passed = 0

    def point(name: str) -> None:
        nonlocal passed
        passed += name == "train.step"
        if name == "train.step" and passed == number:
            os.kill(os.getpid(), signal.SIGTERM)

    return point


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_run_says_every_step_once(tmp_path: Path, library: Library) -> None:
    record = library()
    tiny.write_recipe(tmp_path)
    words = ("--train.trackers", "wandb", "--train.save_steps", "5")
    paths = os.pathsep.join([str(tiny.AUDIT), os.environ["PYTHONPATH"]])
    env = tiny.environment(FABULA_FAULTS="train.step=kill@13", PYTHONPATH=paths)
    killed = tiny.call("run", "tiny.toml", *words, cwd=tmp_path, env=env)
    assert killed.returncode == -signal.SIGKILL, tiny.tail(killed.stderr)
    # At once: the tracker's process of the killed run may still be handing on what that had written.
    run = pipeline.resume(tmp_path / "runs" / "tiny", progress=Notes()).folder
    assert_whole(run)
    assert steps(record) == list(range(1, tiny.STEPS + 1))


def test_trackers_may_differ_between_start_and_resume(copied_run: Path, library: Library) -> None:
    library()
    over = {"train.trackers": "wandb", "train.tracking.project": "other"}
    pipeline.resume(copied_run, overrides=over)  # nothing is left to train: no tracker, and no complaint


def test_a_missing_library_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    for name, libraries in LIBRARIES.items():
        with pytest.raises(MachineError) as told:
            trained(tmp_path, Notes(), **{"train.trackers": name})
        assert str(told.value) == (
            f"train.trackers: {name} needs the library {libraries[0]}; install it with: pip install 'fabula[train]'"
        )
    assert not (tmp_path / "runs").exists()


def test_names_are_checked_with_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='unknown tracker "wandd": did you mean "wandb"'):
        pipeline.load(tiny.write_recipe(tmp_path), {"train.trackers": "wandd"})
    with pytest.raises(ConfigError, match="a tracker is named twice"):
        pipeline.load(tiny.write_recipe(tmp_path), {"train.trackers": "wandb,wandb"})
    with pytest.raises(ConfigError, match=r"train\.tracking: project= must not be empty"):
        pipeline.load(tiny.write_recipe(tmp_path), {"train.tracking.project": " "})
    assert set(LIBRARIES) == set(trackers)
    assert TrainConfig().trackers == ()


def test_stdout_stays_ours(tmp_path: Path, library: Library, cli: Callable[..., tuple[int, str, str]]) -> None:
    library(init="print('Welcome to our service!', flush=True)", log="os.write(1, b'noise'); os.write(2, b'noise')")
    tiny.write_recipe(tmp_path)
    code, out, err = cli("train", "tiny.toml", "--train.trackers", "wandb", "--json")
    assert code == 0, err
    assert json.loads(out)["summary"]["status"] == "finished"
    assert "noise" not in err
    assert "Welcome" not in err
