"""Stopped and resumed in every pattern, a run is the run that was never stopped, with tolerance zero (row R8)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabula import checkpoint, storage
from tests import tiny
from tests.faults.alike import assert_alike
from tests.faults.forkserver import ForkServer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and POSIX signals")

RUN = ("run", "tiny.toml", "--train.budget", "48steps", "--train.log_every", "5")
MILESTONES = (12, 24, 36, 48)

# Where the run is stopped (S), killed (K) or left to end, in the order of its lives.
PATTERNS = {
    "stopped at its first step": ["S1"],
    "stopped between two milestones": ["S17"],
    "stopped at a milestone": ["S24"],
    "stopped at its last step": ["S48"],
    "killed before its first checkpoint": ["K5"],
    "stopped, killed, stopped, killed": ["S7", "K3", "S11", "K9"],
}
VARIANTS = {
    "muon": (),
    "adamw": ("--train.optimizer.kind", "adamw", "--train.optimizer.lr", "0.003"),
    "small rows, spikes, a mean of weights": (
        *("--train.micro_rows", "3", "--train.skip_spikes", "3"),
        *("--train.average.kind", "ema", "--train.average.length", "0.2"),
    ),
    "rows across documents, a mean of the tail": (
        *("--train.isolate_documents", "false", "--train.schedule.kind", "cosine"),
        *("--train.average.kind", "tail", "--train.average.share", "0.6"),
    ),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as made:
        yield made


@pytest.fixture(scope="module")
def straights(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each variant that nothing happened to."""
    made = {}
    for name, settings in VARIANTS.items():
        folder = tmp_path_factory.mktemp("straight")
        tiny.write_recipe(folder, recipe(settings))
        process = server.run(*RUN, *without_kinds(settings), cwd=folder)
        assert process.code == 0, process.output
        made[name] = folder / "runs" / "tiny"
    return made


def recipe(settings: tuple[str, ...]) -> str:
    """The tiny recipe with another optimizer or schedule in place of its tables."""
    lines = tiny.RECIPE.splitlines()
    for kind in ("optimizer", "schedule"):
        if f"--train.{kind}.kind" in settings:
            start = next(i for i, line in enumerate(lines) if line.startswith(f"{kind} ="))
            stop = next(i for i in range(start, len(lines)) if lines[i].endswith("}"))
            chosen = settings[settings.index(f"--train.{kind}.kind") + 1]
            lines[start : stop + 1] = [f'{kind} = {{ kind = "{chosen}" }}']
    return "\n".join(lines) + "\n"


def without_kinds(settings: tuple[str, ...]) -> tuple[str, ...]:
    pairs = zip(settings[::2], settings[1::2], strict=True)
    written = ("--train.optimizer.kind", "--train.schedule.kind")  # in the recipe
    return tuple(word for name, value in pairs if name not in written for word in (name, value))


@pytest.mark.row("R8", cases=1)
@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_every_pattern_ends_alike(
    server: ForkServer, straights: dict[str, Path], tmp_path: Path, variant: str, pattern: str, cases: int
) -> None:
    settings = VARIANTS[variant]
    tiny.write_recipe(tmp_path, recipe(settings))
    command: tuple[str, ...] = (*RUN, *without_kinds(settings))
    for life in PATTERNS[pattern]:
        action = "signal:SIGTERM" if life[0] == "S" else "kill"
        process = server.run(*command, cwd=tmp_path, faults=f"train.step={action}@{life[1:]}")
        assert process.code == (143 if life[0] == "S" else -9), process.output
        if checkpoint.last(tmp_path / "runs" / "tiny") is not None:
            command = ("resume", "runs/tiny")
    process = server.run(*command, cwd=tmp_path)
    assert process.code == 0, process.output
    assert_alike(straights[variant], tmp_path / "runs" / "tiny", f"{variant}, {pattern}")


@pytest.mark.row("R8", cases=6)
def test_logs_are_cut_back(server: ForkServer, straights: dict[str, Path], tmp_path: Path, cases: int) -> None:
    """Lines after the checkpoint, double lines and a torn last line are gone after a resume."""
    for turn in range(cases):
        folder = tmp_path / str(turn)
        folder.mkdir()
        tiny.write_recipe(folder)
        run = folder / "runs" / "tiny"
        process = server.run(*RUN, cwd=folder, faults="train.step=kill@30")
        assert process.code == -9, process.output
        for name in ("metrics.jsonl", "samples.jsonl"):
            whole = (run / name).read_bytes()
            more = [
                whole.splitlines(keepends=True)[-1][:-3],  # torn
                b"\x00" * 100,  # a file system that had given the length but not the bytes
                json.dumps({"kind": "train", "step": 31, "loss": 1.0}).encode() + b"\n",
                json.dumps({"kind": "train", "step": 47, "loss": 1.0}).encode() + b"\n{",
                b'{"kind": "evaluation", "step": 36, "los',
                b"\xff\xfe\n",
            ][turn % 6]
            (run / name).write_bytes(whole + more)
        process = server.run("resume", "runs/tiny", cwd=folder)
        assert process.code == 0, process.output
        assert_alike(straights["muon"], run, f"case {turn}")


def test_a_resume_late_in_a_long_run_reads_no_more_than_an_early_one(tmp_path: Path, tiny_data) -> None:  # type: ignore[no-untyped-def]
    """The place in the data is computed, the logs are cut from their end: step 1,000,000 costs what step 10 costs."""
    from fabula.data.loader import Loader

    read: list[int] = []
    windows = type(tiny_data.train).windows

    for step in (10, 1_000_000):
        loader = Loader(tiny_data.train, tiny.CONTEXT, 0, True)
        seen = 0

        def counting(split, starts, length):  # type: ignore[no-untyped-def]
            nonlocal seen
            seen += len(starts) * length
            return windows(split, starts, length)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(tiny_data.train), "windows", counting)
            loader.batch(step * 4, 4)
        read.append(seen)
    assert read[0] == read[1]

    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"kind": "train", "step": s}) + "\n" for s in range(1, 200_001)))
    touched: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        loads = json.loads
        patch.setattr("fabula.storage.files.json.loads", lambda line: touched.append(1) or loads(line))
        storage.cut_json_lines(path, lambda record: record["step"] <= 199_990)
    assert len(touched) == 11
    assert storage.last_json_lines(path, 1)[0]["step"] == 199_990
