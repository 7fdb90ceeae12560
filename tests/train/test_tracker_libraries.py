"""Each tracker logs a real run offline with its real library, over a stop and a resume; nothing leaves the machine.

The processes are watched by tests/audit: one that calls another machine dies, and what it logged is not there.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fabula import storage
from fabula.train.trackers.config import LIBRARIES, missing
from tests import tiny

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="the run is stopped by a signal"),
    pytest.mark.timeout(600),
]

THERE = [name for name in LIBRARIES if not missing(name)]
STEPS = list(range(1, tiny.STEPS + 1))
MEASURED = {"loss", "bits_per_byte", "lr", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "memory_bytes"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every tracker whose library is here, stopped at step 13 and resumed."""
    if not THERE:
        pytest.skip("no tracker's library is installed; pip install 'fabula[train]'")
    folder = tmp_path_factory.mktemp("tracked")
    tiny.write_recipe(folder)
    # Whatever the user has set, nothing goes online by itself.
    env = {"WANDB_MODE": "online", "TRACKIO_SPACE_ID": "nobody/nothing", "MLFLOW_TRACKING_URI": "http://192.0.2.1"}
    stopping = tiny.environment(FABULA_FAULTS="train.step=signal:SIGTERM@13", **env)
    words = ("--train.trackers", ",".join(THERE))
    stopped = tiny.call("run", "tiny.toml", *words, cwd=folder, env=stopping, timeout=300)
    assert stopped.returncode == 128 + signal.SIGTERM, tiny.tail(stopped.stderr)
    made = tiny.call("resume", "runs/tiny", cwd=folder, env=tiny.environment(**env), timeout=300)
    assert made.returncode == 0, tiny.tail(made.stderr)
    assert b"switched off" not in stopped.stderr + made.stderr, tiny.tail(stopped.stderr + made.stderr, 20)
    return folder / "runs" / "tiny"


def local(run: Path, name: str) -> Path:
    if name not in THERE:
        pytest.skip(f"{missing(name)} is not installed; pip install 'fabula[train]'")
    return run / "trackers" / name


def losses(run: Path) -> dict[int, float]:
    lines = storage.read_json_lines(run / "metrics.jsonl")
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def test_tensorboard(run: Path) -> None:
    (folder,) = (p for p in local(run, "tensorboard").iterdir() if p.is_dir())
    # In a process of its own: reading event files imports what this one must not.
    code = (
        "import json, sys\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "a = EventAccumulator(sys.argv[1]); a.Reload(); tags = a.Tags()\n"
        "print(json.dumps({'scalars': {t: [(e.step, e.value) for e in a.Scalars(t)] for t in tags['scalars']},\n"
        "  'texts': {t: [e.step for e in a.Tensors(t)] for t in tags['tensors']}}))\n"
    )
    made = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, check=True, timeout=120)
    found = json.loads(made.stdout)
    assert {f"train/{name}" for name in MEASURED} <= found["scalars"].keys()
    assert [step for step, _ in found["scalars"]["train/loss"]] == STEPS
    for step, value in found["scalars"]["train/loss"]:
        assert value == pytest.approx(losses(run)[step], rel=1e-6)
    assert [step for step, _ in found["scalars"]["validation/bits_per_byte"]] == [6, 12, 18, 24]
    assert found["texts"]["sample-1"] == [6, 12, 18, 24]
    assert {"settings", "checkpoint"} <= found["texts"].keys()


def test_wandb(run: Path) -> None:
    files = sorted(local(run, "wandb").glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1, "two halves of one run, which `wandb sync` joins"
    content = b"".join(file.read_bytes() for file in files)
    for loss in losses(run).values():
        assert json.dumps(loss).encode() in content
    assert b"train/mfu" in content
    assert b"step-000024" in b"".join(p.read_bytes() for p in local(run, "wandb").rglob("*.html")) + content


def test_comet(run: Path) -> None:
    archives = sorted(local(run, "comet").glob("*.zip"))
    assert len(archives) == 2
    found: dict[int, float] = {}
    keys, measured = set(), set()
    for archive in archives:
        with zipfile.ZipFile(archive) as file:
            keys.add(json.loads(file.read("experiment.json"))["offline_id"])
            for line in file.read("messages.json").decode("utf-8").splitlines():
                message = json.loads(line)
                if message["type"] == "metric_msg":
                    metric = message["payload"]["metric"]
                    measured.add(metric["metricName"])
                    if metric["metricName"] == "train/loss":
                        assert metric["step"] not in found
                        found[metric["step"]] = metric["metricValue"]
    assert len(keys) == 1
    assert {f"train/{name}" for name in MEASURED} <= measured
    assert found == losses(run)


def test_trackio(run: Path) -> None:
    with sqlite3.connect(local(run, "trackio") / "fabula.db") as database:
        rows = database.execute("select step, metrics from metrics where run_name = 'tiny'").fetchall()
    values = [(step, json.loads(metrics)) for step, metrics in rows]
    assert {step: line["train/loss"] for step, line in values if "train/loss" in line} == losses(run)
    assert sorted(step for step, line in values if "train/loss" in line) == STEPS
    assert sorted(step for step, line in values if "sample-2" in line) == [6, 12, 18, 24]


def test_mlflow(run: Path) -> None:
    with sqlite3.connect(local(run, "mlflow") / "mlflow.db") as database:
        (kept,) = database.execute("select run_uuid, name, status from runs").fetchall()
        assert kept[1:] == ("tiny", "FINISHED")
        rows = database.execute("select step, value from metrics where key = 'train/loss'").fetchall()
        names = {name for (name,) in database.execute("select distinct key from metrics")}
        settings = dict(database.execute("select key, value from params").fetchall())
    assert dict(rows) == pytest.approx(losses(run))
    assert sorted(step for step, _ in rows) == STEPS
    assert {f"train/{name}" for name in MEASURED} <= names
    assert settings["train.optimizer.lr"] == "0.02"
    assert len(list((local(run, "mlflow") / "files").rglob("sample-1/*.txt"))) == 4


def test_a_library_is_imported_only_where_it_is_used() -> None:
    code = "import sys, fabula.train.run; print(sorted(set(sys.modules) & set(sys.argv[1:])))"
    names = [library for libraries in LIBRARIES.values() for library in libraries]
    made = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, check=True, timeout=120)
    assert made.stdout.strip() == b"[]"
