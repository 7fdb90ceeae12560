"""Several processes and one make the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

import fabula
from fabula import checkpoint, storage
from tests import tiny
from tests.distributed.company import Company, CompanyServer, told
from tests.distributed.conftest import RUN
from tests.faults.alike import assert_alike


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in storage.read_json_lines(run / "metrics.jsonl") if line["kind"] == "train"]


def scores(run: Path) -> list[float]:
    return [line["bits_per_byte"] for line in storage.read_json_lines(run / "metrics.jsonl") if line["kind"] != "train"]


def furthest(run: Path, other: Path) -> float:
    """The largest difference between losses and scores of two runs, relative."""
    pairs = [*zip(losses(run), losses(other), strict=True), *zip(scores(run), scores(other), strict=True)]
    assert len(pairs) >= tiny.STEPS
    return max(abs(a - b) / abs(a) for a, b in pairs)


def go(server: CompanyServer, folder: Path, world: int, *settings: str, recipe: str = tiny.RECIPE) -> Path:
    folder.mkdir(exist_ok=True)
    tiny.write_recipe(folder, recipe)
    Company(server, folder, world).run(*RUN, *settings)
    return folder / "runs" / "tiny"


@pytest.mark.parametrize(
    ("world", "way"),
    [
        (2, "ddp"),
        (2, "fsdp"),
        (2, "tensor"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((3, "ddp"), (4, "ddp"), (3, "fsdp"), (3, "tensor"))),
    ],
)
def test_the_loss_curve_of_one_process(
    server: CompanyServer, alone: Path, tmp_path: Path, world: int, way: str
) -> None:
    run = go(server, tmp_path, world, "--train.parallel", way, "--train.micro_rows", "1")
    assert furthest(alone, run) < 1e-5
    mine, theirs = checkpoint.last(alone), checkpoint.last(run)
    assert mine is not None
    assert theirs is not None
    assert theirs.manifest["environment"]["processes"] == world
    for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):
        one, many = load_file(mine.path / name), load_file(theirs.path / name)
        assert [*one] == [n for n in many if not n.startswith("rng.torch.")]
        for key in one:
            if not key.startswith("rng."):
                # Muon makes much of little: where a gradient has almost no direction, rounding gives it one.
                assert (one[key] - many[key]).norm() < 1e-3 * one[key].norm().clamp(min=1e-3), key
    assert fabula.load(run).generate("El conejo", max_new_tokens=4, seed=0).text


@pytest.mark.parametrize("way", ["ddp", "fsdp", "tensor"])
def test_stopped_and_resumed_on_as_many(server: CompanyServer, tmp_path: Path, way: str) -> None:
    """With dropout, whose draws differ between processes, and a mean of weights: bit-identical all the same."""
    settings = f'parallel = "{way}"\naverage = {{ kind = "ema" }}'
    recipe = tiny.RECIPE.replace("[train]\n", f"dropout = 0.1\n\n[train]\n{settings}\n")
    straight = go(server, tmp_path / "straight", 2, recipe=recipe)
    folder = tmp_path / "stopped"
    folder.mkdir()
    tiny.write_recipe(folder, recipe)
    company = Company(server, folder)
    processes = company.start(*RUN, faults={1: "train.step=signal:SIGTERM@9"})
    assert [p.wait() for p in processes] == [143, 143], told(processes)
    company.run("resume", "runs/tiny")
    assert_alike(straight, folder / "runs" / "tiny", way)


def test_what_one_way_saved_another_goes_on_from(server: CompanyServer, alone: Path, tmp_path: Path) -> None:
    """tensor on two, fsdp on two, ddp on three, one: the losses of a run that was never stopped."""
    tiny.write_recipe(tmp_path)
    for way, world in (("tensor", 2), ("fsdp", 2), ("ddp", 3)):
        company = Company(server, tmp_path, world)
        processes = company.start(*RUN, "--train.parallel", way, faults={0: "train.step=signal:SIGTERM@5"})
        assert [p.wait() for p in processes] == [143] * world, told(processes)
    process = server.run(*RUN, cwd=tmp_path)
    assert process.code == 0, process.output
    assert "processes: 3 -> 1" in process.output
    assert furthest(alone, tmp_path / "runs" / "tiny") < 1e-4


def test_a_time_is_turned_into_steps_by_one_clock(server: CompanyServer, tmp_path: Path) -> None:
    tiny.write_recipe(tmp_path)
    Company(server, tmp_path).run(*RUN, "--train.budget", "3s")
    summary = storage.read_json(tmp_path / "runs" / "tiny" / "summary.json")
    assert summary["train"]["steps"] == summary["train"]["planned_steps"] > 3


def test_an_error_of_the_first_ends_all(server: CompanyServer, alone: Path, tmp_path: Path) -> None:
    """No room for a checkpoint: told once, by the one that writes; with room again the run goes on."""
    tiny.write_recipe(tmp_path)
    company = Company(server, tmp_path)
    processes = company.start(*RUN, faults={0: "checkpoint.weights=error:ENOSPC@2"})
    assert [p.wait() for p in processes] == [3, 3], told(processes)
    assert processes[0].output.count("fabula: ") == 1
    assert "fabula" not in processes[1].output
    company.run(*RUN)
    assert furthest(alone, tmp_path / "runs" / "tiny") < 1e-5


def test_fewer_rows_than_processes(server: CompanyServer, tmp_path: Path) -> None:
    tiny.write_recipe(tmp_path)
    processes = Company(server, tmp_path, 3).start(*RUN, "--train.batch_tokens", "64")
    assert [p.wait() for p in processes].count(2) >= 1, told(processes)
    assert "a step of 2 rows cannot be shared out to 3 processes" in told(processes)
