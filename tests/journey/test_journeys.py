"""Whole ways through the product, as processes: what a person at a terminal sees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fabula import checkpoint, storage
from tests import tiny

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes of POSIX")


def start(*arguments: object, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        tiny.command(*arguments),
        cwd=cwd,
        env=tiny.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=tiny.on_one_core if os.name == "posix" else None,
    )


def wait_for_steps(run: Path, step: int, process: subprocess.Popen[bytes], timeout: float = 60) -> None:
    """Return when the run has written a line of metrics for a step."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        lines = (run / "metrics.jsonl").read_bytes().count(b"\n") if (run / "metrics.jsonl").exists() else 0
        if lines >= step:
            return
        if process.poll() is not None:
            break
        time.sleep(0.01)
    process.kill()
    pytest.fail(f"never came to step {step}: {tiny.tail(process.communicate()[1])}")


@posix
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interrupted_in_the_middle_and_resumed(tmp_path: Path, number: int, code: int) -> None:
    tiny.write_recipe(tmp_path)
    run = tmp_path / "runs" / "tiny"
    process = start("run", "tiny.toml", "--train.budget", "3000steps", cwd=tmp_path)
    wait_for_steps(run, 40, process)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, tiny.tail(err)
    assert out == b""
    last_line = err.decode().splitlines()[-1]
    newest = checkpoint.last(run)
    assert newest is not None
    assert last_line == (
        f"fabula: stopped while training; the state at step {newest.step:,} is saved. "
        "Continue with: fabula resume runs/tiny"
    )
    assert not list(run.rglob(".writing-*"))
    # Going on for real takes 3,000 steps; a second interruption shows that it goes on from there.
    process = start("resume", "runs/tiny", cwd=tmp_path)
    lines = (run / "metrics.jsonl").read_bytes().count(b"\n")
    wait_for_steps(run, lines + 30, process)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, tiny.tail(err)
    steps = [r["step"] for r in storage.read_json_lines(run / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    after = checkpoint.last(run)
    assert after is not None
    assert after.step == steps[-1] > newest.step


@posix
def test_killed_without_warning_and_resumed(tmp_path: Path) -> None:
    """SIGKILL: nothing is saved at the end, but what was saved before is whole."""
    tiny.write_recipe(tmp_path)
    run = tmp_path / "runs" / "tiny"
    process = start("run", "tiny.toml", "--train.budget", "200steps", "--train.checkpoints", "20", cwd=tmp_path)
    wait_for_steps(run, 50, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    made = tiny.call("resume", "runs/tiny", "--json", cwd=tmp_path)
    assert made.returncode == 0, tiny.tail(made.stderr)
    summary = json.loads(made.stdout)["summary"]
    assert summary["train"]["steps"] == 200
    assert 0 < summary["train"]["entered_at_step"] < 200
    steps = [r["step"] for r in storage.read_json_lines(run / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == list(range(1, 201))
    assert not list(run.rglob(".writing-*"))


def test_from_a_text_to_a_model_that_speaks(tmp_path: Path, tiny_texts: list[str]) -> None:
    """A folder of texts with an emoji and spaces in every name; the model is moved, and still speaks."""
    source = tmp_path / "mis cuentos 🦊"
    source.mkdir()
    for number, text in enumerate(tiny_texts):
        (source / f"cuento número {number}.txt").write_text(text, encoding="utf-8")
    tiny.write_recipe(tmp_path, name="mi receta ñ.toml")
    made = tiny.call("run", "mi receta ñ.toml", "--corpus.source", source.name, "--name", "año 🏡", cwd=tmp_path)
    assert made.returncode == 0, tiny.tail(made.stderr)
    shown = made.stdout.decode("utf-8")
    assert "El conejo" in shown
    assert "runs/año 🏡" in shown
    moved = tmp_path / "en otra parte"
    shutil.move(tmp_path / "runs" / "año 🏡", moved)
    shutil.rmtree(source)
    spoken = tiny.call("generate", moved, "--prompt", "¡Ñandú!", "--max-new-tokens", 8, "--json")
    assert json.loads(spoken.stdout)["prompt"] == "¡Ñandú!"
    scored = tiny.call("evaluate", moved, "--json")
    assert json.loads(scored.stdout)["bits_per_byte"] > 0


def test_the_module_is_the_command() -> None:
    made = tiny.call("--version")
    assert made.returncode == 0
    assert made.stdout.strip()


def test_errors_of_a_process_go_to_stderr(tmp_path: Path) -> None:
    made = tiny.call("run", "none.toml", cwd=tmp_path)
    assert (made.returncode, made.stdout) == (2, b"")
    assert made.stderr == b"fabula: no such recipe: none.toml\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.corpora
def test_spanish_tales_with_their_accents(tmp_path: Path, corpora: Path) -> None:
    tiny.write_recipe(tmp_path)
    text = (corpora / "cuentos-es.txt").read_text(encoding="utf-8")[:120_000]
    (tmp_path / "cuentos.txt").write_text(text, encoding="utf-8")
    made = tiny.call("run", "tiny.toml", "--corpus.source", "cuentos.txt", "--json", cwd=tmp_path)
    assert made.returncode == 0, tiny.tail(made.stderr)
    assert "Había una vez" in made.stdout.decode("utf-8")
    page = (tmp_path / "runs" / "tiny" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Había una vez" in page
