"""Several processes train one run, and something happens to one of them (rows P1 to P7)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fabula import checkpoint, storage
from fabula.data.shards import Shards
from tests import tiny
from tests.distributed.company import Company, CompanyServer, told
from tests.distributed.steps import Steppers, together
from tests.faults.alike import assert_alike

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs fork and POSIX signals")

# Checkpoints at steps that no milestone has; the others give up a silent process after this many seconds.
TIMEOUT = "3"
RUN = ("run", "tiny.toml", "--train.budget", "60steps", "--train.save_steps", "7", "--train.peer_timeout", TIMEOUT)


@pytest.fixture(scope="module")
def server() -> Iterator[CompanyServer]:
    with CompanyServer() as made:
        yield made


@pytest.fixture(scope="module")
def steppers() -> Iterator[Steppers]:
    with Steppers() as made:
        yield made


class Straight:
    """Runs of so many processes that nothing happened to, made when they are asked for."""

    def __init__(self, server: CompanyServer, made: Callable[[], Path]) -> None:
        self.server, self.made = server, made
        self.runs: dict[int, Path] = {}

    def __getitem__(self, world: int) -> Path:
        if world not in self.runs:
            folder = self.made()
            tiny.write_recipe(folder)
            Company(self.server, folder, world).run(*RUN)
            self.runs[world] = folder / "runs" / "tiny"
        return self.runs[world]


@pytest.fixture(scope="module")
def straight(server: CompanyServer, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    return Straight(server, lambda: tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="module")
def alone(server: CompanyServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nothing happened to."""
    folder = tmp_path_factory.mktemp("alone")
    tiny.write_recipe(folder)
    process = server.run(*RUN, cwd=folder)
    assert process.code == 0, process.output
    return folder / "runs" / "tiny"


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in storage.read_json_lines(run / "metrics.jsonl") if line["kind"] == "train"]


@pytest.mark.row("P1", cases=4, nightly=30)
def test_a_process_is_killed(server: CompanyServer, straight: Straight, tmp_path: Path, cases: int) -> None:
    """The others end within seconds and say who is gone; the same command goes on, to the same end."""
    chance = random.Random(1)
    for case in range(cases):
        folder = tmp_path / f"case-{case}"
        folder.mkdir()
        tiny.write_recipe(folder)
        world = 4 if case % 4 == 3 else 2
        company, victim = Company(server, folder, world), case % 2
        # Whoever keeps the store: torchrun, or the first process, with which it goes.
        fault = f"train.step=kill@{chance.randint(2, 55)}"
        processes = company.start(*RUN, faults={victim: fault}, hosted=case % 4 < 2)
        assert processes[victim].wait() == -signal.SIGKILL, told(processes)
        others = [p for p in processes if p is not processes[victim]]
        assert [p.wait(30) for p in others] == [3] * (world - 1), told(processes)
        said = "".join(p.output for p in others)
        assert f"rank {victim} " in said, said
        assert " at step " in said, said
        assert "is gone" in said or "was not heard of" in said, said
        company.run(*RUN)
        assert_alike(straight[world], folder / "runs" / "tiny", f"case {case}")
        shutil.rmtree(folder)


@pytest.mark.row("P1", cases=1, nightly=5)
def test_the_launcher_is_killed(server: CompanyServer, straight: Straight, tmp_path: Path, cases: int) -> None:
    """Nobody stays behind: all save and end, and the same command goes on."""
    for case in range(cases):
        folder = tmp_path / f"case-{case}"
        folder.mkdir()
        tiny.write_recipe(folder)
        company = Company(server, folder)
        slow = "train.step=sleep:0.2@*"
        processes = company.start(*RUN, faults={0: slow, 1: slow})
        until = time.monotonic() + 30
        while not (folder / "runs" / "tiny" / "metrics.jsonl").exists() and time.monotonic() < until:
            time.sleep(0.05)
        server.stores.clear()  # torchrun's store goes with it
        assert [p.wait(30) for p in processes] == [143, 143], told(processes)
        newest = checkpoint.last(folder / "runs" / "tiny")
        assert newest is not None
        company.run(*RUN)
        assert_alike(straight[2], folder / "runs" / "tiny", f"case {case}")
        shutil.rmtree(folder)


@pytest.mark.row("P2", cases=2, nightly=10)
def test_a_process_hangs(server: CompanyServer, straight: Straight, tmp_path: Path, cases: int) -> None:
    """Frozen, or asleep in a step: the others give it up in time and say who, at which step and where."""
    for case in range(cases):
        folder = tmp_path / f"case-{case}"
        folder.mkdir()
        tiny.write_recipe(folder)
        world = 4 if case % 5 == 4 else 2
        company, victim = Company(server, folder, world), case // 2 % 2
        fault = "train.step=signal:SIGSTOP@9" if case % 2 else "train.waiting=sleep:60@9"
        processes = company.start(*RUN, faults={victim: fault})
        others = [p for p in processes if p is not processes[victim]]
        assert [p.wait(30) for p in others] == [3] * (world - 1), told(processes)
        said = "".join(p.output for p in others)
        assert f"rank {victim} " in said, said
        assert " at step " in said, said
        assert "was not heard of" in said or "did not go on" in said, said
        processes[victim].send(signal.SIGKILL)
        processes[victim].wait()
        company.run(*RUN)
        assert_alike(straight[world], folder / "runs" / "tiny", f"case {case}")
        shutil.rmtree(folder)


@pytest.mark.row("P3", cases=1, nightly=3)
def test_resumed_on_other_numbers_of_processes(server: CompanyServer, alone: Path, tmp_path: Path, cases: int) -> None:
    """Two, one, two (at night also three and four): the same rows in the same order, the same losses."""
    for case in range(cases):
        folder = tmp_path / f"case-{case}"
        folder.mkdir()
        tiny.write_recipe(folder)
        for world in ((2, 1, 2), (1, 2, 3, 4), (4, 3, 1, 2))[case]:
            stop = {} if world == 0 else {0: "train.step=signal:SIGTERM@12"}
            if world == 1:
                process = server.run(*RUN, cwd=folder, faults=stop[0])
                assert process.code == 143, process.output
                continue
            processes = Company(server, folder, world).start(*RUN, faults=stop)
            assert [p.wait() for p in processes] == [143] * world, told(processes)
        Company(server, folder, 4 if case else 2).run(*RUN)
        run = folder / "runs" / "tiny"
        pairs = list(zip(losses(alone), losses(run), strict=True))
        assert len(pairs) == 60
        assert max(abs(a - b) / a for a, b in pairs) < 1e-4
        # Where a run is in its data is one number, whoever computes which rows of it.
        ends = [storage.read_json(checkpoint.find(r, "last").path / checkpoint.TRAINER) for r in (alone, run)]
        assert ends[0]["position"] == ends[1]["position"]
        assert ends[0]["tokens"] == ends[1]["tokens"]


@pytest.mark.row("P4", cases=3, nightly=10)
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_nan_in_one_process(steppers: Steppers, tiny_data: Shards, tmp_path: Path, way: str, cases: int) -> None:
    """All pass over the step, and hold equal weights after it."""
    data = tiny_data.folder
    for case in range(cases):
        steps = [2 + case % 5, 7]
        rank, world = ((0, 2), (1, 2), (3, 4))[case % 3]
        (alone,) = steppers.steps(tmp_path, data, 1, wrong={"rank": 0, "what": "nan", "at": steps})
        found = steppers.steps(tmp_path, data, world, way=way, wrong={"rank": rank, "what": "nan", "at": steps})
        assert [one["unapplied"] for one in found] == [steps] * world
        assert len({one["weights"] for one in found}) == 1
        assert abs(alone["losses"][-1] - found[0]["losses"][-1]) < 1e-5


@pytest.mark.row("P4", cases=2, nightly=6)
def test_no_memory_in_one_process(steppers: Steppers, tiny_data: Shards, tmp_path: Path, cases: int) -> None:
    """All halve their rows, the step is taken again, and nothing else changes."""
    data = tiny_data.folder
    (alone,) = steppers.steps(tmp_path, data, 1)
    for case in range(cases):
        wrong = {"rank": case % 2, "what": "memory", "above": 1}
        found = steppers.steps(tmp_path, data, 2, wrong=wrong)
        assert [one["at_once"] for one in found] == [1, 1]
        assert all("out of memory" in one["notes"][0] for one in found)
        assert together(found) == alone["rows"]
        assert max(abs(a - b) for a, b in zip(alone["losses"], found[0]["losses"], strict=True)) < 1e-5
        assert len({one["weights"] for one in found}) == 1


@pytest.mark.row("P5", cases=3, nightly=10)
def test_processes_that_mean_different_runs(server: CompanyServer, tmp_path: Path, cases: int) -> None:
    """Refused at once with what differs, and nothing is made."""
    different = [
        ("--train.clip", "0.5"),
        ("--corpus.documents", "61"),
        ("--train.optimizer.lr", "0.01"),
        ("--model.n_layers", "3"),
        ("--train.parallel", "fsdp"),
    ]
    for case in range(cases):
        folder = tmp_path / f"case-{case}"
        folder.mkdir()
        tiny.write_recipe(folder)
        setting = different[case % len(different)]
        world = 4 if case % 3 == 2 else 2
        processes = Company(server, folder, world).start(*RUN, more={1: setting})
        assert [p.wait(30) for p in processes] == [2] * world, told(processes)
        said = processes[0].output
        assert f"{setting[0].removeprefix('--')} is " in said, said
        assert "in rank 1" in said, said
        assert not (folder / "runs").exists()


@pytest.mark.row("P6", cases=3, nightly=50)
def test_many_processes_begin_together(server: CompanyServer, tmp_path: Path, cases: int) -> None:
    """Four at once, again and again, in one folder: the first makes what there is to make, and nobody stumbles."""
    tiny.write_recipe(tmp_path)
    for case in range(cases):
        words = ("train", "tiny.toml", "--train.budget", "3steps", "--name", f"run-{case % 2}", "--fresh")
        Company(server, tmp_path, 4).run(*words, "--train.peer_timeout", "20")


@pytest.mark.row("P6", cases=1)
def test_nobody_beyond_this_machine_can_connect(server: CompanyServer, tmp_path: Path, cases: int) -> None:
    """Every socket that the processes listen on is one of the loopback."""
    import psutil

    tiny.write_recipe(tmp_path)
    processes = Company(server, tmp_path, 2).start(*RUN, faults={0: "train.step=sleep:2@3"}, hosted=False)
    listening: list[str] = []
    until = time.monotonic() + 30
    while not (tmp_path / "runs" / "tiny" / "metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.05)
    for process in processes:
        found = psutil.Process(process.pid).net_connections("inet")
        listening += [c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN]
    assert [p.wait() for p in processes] == [0, 0], told(processes)
    assert listening
    assert all(ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1") for ip in listening), listening


@pytest.mark.row("P6", cases=3)
@pytest.mark.parametrize(
    ("missing", "told_of"),
    [("WORLD_SIZE", "WORLD_SIZE"), ("MASTER_ADDR", "MASTER_ADDR"), ("MASTER_PORT", "MASTER_PORT")],
)
def test_a_launcher_that_says_too_little(
    server: CompanyServer, tmp_path: Path, missing: str, told_of: str, cases: int
) -> None:
    tiny.write_recipe(tmp_path)
    said = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    process = server.start(*RUN, cwd=tmp_path, env={n: v for n, v in said.items() if n != missing})
    assert process.wait() == 2
    assert told_of in process.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.row("P7", cases=4, nightly=10)
def test_a_signal_to_one_process(server: CompanyServer, straight: Straight, tmp_path: Path, cases: int) -> None:
    """All stop at the same step with one checkpoint of it, whatever they were doing, and go on to the same end."""
    places = ("train.step", "train.evaluating", "train.sampling", "train.saving", "train.waiting")
    for case in range(cases):
        folder = tmp_path / f"case-{case}"
        folder.mkdir()
        tiny.write_recipe(folder)
        company, place = Company(server, folder), places[case % len(places)]
        whom = 0 if place == "train.sampling" else case % 2
        processes = company.start(*RUN, faults={whom: f"{place}=signal:SIGTERM@3"})
        assert [p.wait() for p in processes] == [143, 143], told(processes)
        newest = checkpoint.last(folder / "runs" / "tiny")
        assert newest is not None
        steps = [line["step"] for line in storage.read_json_lines(folder / "runs" / "tiny" / "metrics.jsonl")]
        assert newest.step == max(steps)
        assert sum(p.output.count("stopped while") for p in processes) == 1, told(processes)
        company.run(*RUN)
        assert_alike(straight[2], folder / "runs" / "tiny", place)
        shutil.rmtree(folder)
