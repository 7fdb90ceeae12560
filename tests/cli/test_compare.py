"""`fabula compare` as a command: what it prints where, with which exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula import storage
from fabula.errors import DivergedError
from fabula.train import run as train_stage
from tests import tiny

Cli = Callable[..., tuple[int, str, str]]
ALIKE = ("--train.budget", "4steps", "--train.checkpoints", "1", "--seeds", "1")


def test_table_document_and_page(cli: Cli, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path)
    arguments = ("compare", recipe, "--vary", "train.optimizer.kind=muon,adamw", "--vary=model.n_layers=1,2", *ALIKE)
    code, out, err = cli(*arguments)
    assert code == 0, err
    lines = out.splitlines()
    header = next(line for line in lines if "bits/byte" in line)
    assert header.split()[:4] == ["optimizer.kind", "n_layers", "parameters", "steps"]
    first = next(i for i, line in enumerate(lines) if line.startswith("─")) + 1
    assert [line.split()[:2] for line in lines[first : first + 4]] == [
        *[["muon", "1"], ["muon", "2"], ["adamw", "1"], ["adamw", "2"]]
    ]
    assert "the first" in lines[first]
    assert str(Path("runs/tiny-compare/report/index.html")) in lines[-1]
    assert "run 4 of 4: adamw, n_layers 2, seed 0" in err
    assert err.count("60 fables from the built-in generator") == 1, "what all runs say is said once"
    code, out, err = cli(*arguments, "--json")
    assert code == 0, err
    assert json.loads(out) == storage.read_json(tmp_path / "runs" / "tiny-compare" / "comparison.json")
    (tmp_path / "runs" / "tiny-compare" / "report" / "index.html").unlink()
    assert cli("report", "runs/tiny-compare")[:2] == (0, str(Path("runs/tiny-compare/report/index.html")) + "\n")


def test_what_is_typed_wrong_makes_nothing(cli: Cli, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path)
    for arguments, told in (
        ((), "nothing to compare"),
        (("--vary", "model.preset"), "NAME=VALUE,VALUE"),
        (("--vary", "train.optimizer.kind=muon,adamww"), 'did you mean "adamw"?'),
        (("--vary", "model.preset=fabula-1m,fabula-1mm"), "[fabula-1mm] model.preset"),
        (("--vary", "model.n_layers=1,2", "--match", "time"), "--match"),
        (("--vary", "model.n_layers=1,2", "--seeds", "0"), "--seeds 0"),
        (("--vary", "model.n_layers=1,2", "--seeds", "40"), "64 are the most"),
        (("--vary", "model.n_layers=1,2", "--name", "../x"), "folder's name"),
    ):
        code, out, err = cli("compare", recipe, *arguments)
        assert (code, out) == (2, ""), err
        assert told in err
        assert "fault of fabula" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.toml"]


def test_a_run_that_fails_is_exit_code_1_and_the_table_is_there(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = train_stage.run

    def failing(config: Any, model: Any, tokenizer: Any, shards: Any, folder: Path, **more: Any) -> Any:
        if folder.name.startswith("adamw"):
            raise DivergedError("3 steps in a row were not finite")
        return train(config, model, tokenizer, shards, folder, **more)

    monkeypatch.setattr(train_stage, "run", failing)
    recipe = tiny.write_recipe(tmp_path)
    arguments = ("compare", recipe, "--vary", "train.optimizer.kind=muon,adamw", *ALIKE)
    code, out, err = cli(*arguments)
    assert code == 1
    assert "adamw, seed 0, diverged: 3 steps in a row were not finite" in out
    assert "fabula: 1 of 2 runs came to nothing: adamw\n" in err
    code, out, _ = cli(*arguments, "--json")
    assert code == 1
    assert json.loads(out)["variants"][1]["runs"][0]["status"] == "diverged"


def test_a_process_that_is_stopped_goes_on(tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path)
    command = tiny.command(
        *("compare", recipe, "--vary", "train.optimizer.kind=muon,adamw", "--train.budget", "40steps", "--seeds", 1)
    )
    slow = tiny.environment(FABULA_FAULTS="train.step=sleep:0.05@*")
    process = subprocess.Popen(command, cwd=tmp_path, env=slow, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    metrics = tmp_path / "runs" / "tiny-compare" / "adamw-seed0" / "metrics.jsonl"
    until = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert out == b""
    assert b"1 of 2 runs finished" in err
    made = subprocess.run(
        [*command, "--json"], cwd=tmp_path, env=tiny.environment(), capture_output=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr
    assert b"resumed from step-" in made.stderr
    assert [row["runs"][0]["steps"] for row in json.loads(made.stdout)["variants"]] == [40, 40]
