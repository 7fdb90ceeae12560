"""Death, loss of power, full and broken disks while something is written: what was called saved is there afterwards."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from fabula import checkpoint, pipeline, storage
from fabula.errors import FabulaError, MachineError
from fabula.progress import Silent
from fabula.storage.disk import Disk
from fabula.tokenizer.base import Tokenizer
from tests import tiny
from tests.faults.crashing_disk import (
    Claim,
    CrashingDisk,
    FailingDisk,
    ForgetsFiles,
    ForgetsFolders,
    PowerLoss,
    QuickDisk,
    RenamesFirst,
    Tree,
    content_of,
    used,
)
from tests.faults.forks import Fork
from tests.faults.forkserver import ForkServer
from tests.faults.savers import STAGES, Savers, save

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, forks and folders that can be flushed")

RUN = "runs/fable"
Scenario = Callable[[CrashingDisk, Tokenizer], None]


def leftovers(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.name.startswith(".writing-")]


# ---- what is done to the disk ------------------------------------------------------------------------------


def _save(disk: CrashingDisk, tokenizer: Tokenizer, step: int, seed: int, bits: float | None = None) -> None:
    with disk.claiming(Claim(f"{RUN}/checkpoints/step-{step:06d}")):
        save(disk.root / RUN, step, tokenizer, seed, bits)


def _prune(disk: CrashingDisk, gone: Sequence[int]) -> None:
    with disk.claiming(*(Claim(f"{RUN}/checkpoints/step-{step:06d}", gone=True) for step in gone)):
        removed = checkpoint.prune(disk.root / RUN, 2)
    assert [int(p.name[-6:]) for p in removed] == list(gone)


def _first(disk: CrashingDisk, tokenizer: Tokenizer) -> None:
    """A run folder that did not exist."""
    _save(disk, tokenizer, 1, seed=1)


def _pruned(disk: CrashingDisk, tokenizer: Tokenizer) -> None:
    """Checkpoint after checkpoint, the older ones go, the best one stays."""
    for step, bits, gone in [(1, 3.0, []), (2, 1.0, []), (3, 2.0, [1]), (4, 2.0, []), (5, 2.0, [3]), (6, 2.0, [4])]:
        _save(disk, tokenizer, step, step, bits)
        _prune(disk, gone)


def _again(disk: CrashingDisk, tokenizer: Tokenizer) -> None:
    """The newest step is saved once more, twice, in the place of the older one."""
    for step, seed in [(1, 1), (2, 2), (2, 20), (2, 21)]:
        _save(disk, tokenizer, step, seed)


def _files(disk: CrashingDisk, tokenizer: Tokenizer) -> None:
    """Small files are replaced, by longer and by shorter ones."""
    for number in range(6):
        with disk.claiming(Claim(f"{RUN}/stages.json")):
            storage.write_json(disk.root / RUN / "stages.json", {"done": list(range(400 * (number % 3)))})
        with (
            disk.claiming(Claim(f"{RUN}/deep/er/f.bin")),
            storage.open_replacing(disk.root / RUN / "deep/er/f.bin") as f,
        ):
            for part in range(number + 1):
                f.write(bytes([65 + number, 65 + part]) * 700)
                f.flush()
                disk.look()


def _published(disk: CrashingDisk, tokenizer: Tokenizer) -> None:
    """Folders with folders in them are published, replaced, set aside and removed."""
    for number in range(3):
        with disk.claiming(Claim("data")), storage.publish(disk.root / "data", {"n": number}) as building:
            (building / "train").mkdir()
            (building / "train" / "0.bin").write_bytes(bytes([number]) * 3000)
            disk.look()
            storage.write_bytes(building / "validation" / "0.bin", bytes([number, 1]) * 500)
    with disk.claiming(Claim("data", gone=True)):
        storage.remove(disk.root / "data")


def _in_lives(disk: CrashingDisk, tokenizer: Tokenizer) -> None:
    """A folder that is filled by two processes, one after the other."""
    final, account = disk.root / "data", "data/.unfinished-shards/account.json"
    letters = bytes(random.Random(5).randbytes(6000))
    size = 0

    def fill(unfinished: storage.Unfinished, until: int) -> None:
        nonlocal size
        with (unfinished.folder / "a.bin").open("ab") as file:
            while size < until:
                file.write(letters[size : size + 1000])
                size += 1000
                disk.sync_file(file)
                disk.sync_folder(unfinished.folder)
                with disk.claiming(Claim(account)):
                    unfinished.keep({"size": size})

    final = final / "shards"
    with pytest.raises(KeyboardInterrupt), storage.publish_in_lives(final, "key", {}) as unfinished:  # noqa: PT012
        fill(unfinished, 3000)
        raise KeyboardInterrupt
    finishing = Claim(account, gone=True)
    with disk.claiming(Claim("data/shards")), storage.publish_in_lives(final, "key", {}) as unfinished:
        assert unfinished.account == {"size": 3000}
        fill(unfinished, 6000)
        # From here on what was kept may go: the whole folder takes its place.
        finishing.began = len(disk.events)
        disk.claims.append(finishing)
    finishing.returned = len(disk.events)


def _lines(disk: CrashingDisk, tokenizer: Tokenizer) -> None:
    """Lines are appended and flushed before a checkpoint is saved, and cut back to it."""
    run = disk.root / RUN
    for step in range(1, 40):
        storage.append_json_line(run / "metrics.jsonl", {"step": step, "loss": 1 / step, "text": "ñ" * step})
        if step % 13 == 0:
            claim = Claim(f"{RUN}/metrics.jsonl")
            with disk.claiming(claim):
                claim.contents.append((run / "metrics.jsonl").read_bytes())
                storage.sync(run / "metrics.jsonl")
            _save(disk, tokenizer, step, step)
        disk.look()
    claim = Claim(f"{RUN}/metrics.jsonl")
    with disk.claiming(claim):
        claim.contents.append(b"".join((run / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:20]))
        storage.cut_json_lines(run / "metrics.jsonl", lambda record: record["step"] <= 20)


def _failing(step: int, from_end: int, disk: CrashingDisk, tokenizer: Tokenizer) -> None:
    """The disk fails in a save, which is taken back; then it works again."""
    _save(disk, tokenizer, 1, seed=1)
    _save(disk, tokenizer, 2, seed=2)
    counting = FailingDisk(inner=QuickDisk())
    with used(counting):
        shutil.copytree(disk.root / RUN, elsewhere := disk.root.with_name(disk.root.name + "-counted"))
        save(elsewhere, step, tokenizer, seed=3)
    failing = FailingDisk(len(counting.calls) - from_end, errno.EIO, disk)
    # What only clears up may fail without a word.
    with used(failing), contextlib.suppress(MachineError):
        _save(disk, tokenizer, step, seed=3)
    _save(disk, tokenizer, step, seed=4)


SCENARIOS: dict[str, Scenario] = {
    "first": _first,
    "pruned": _pruned,
    "again": _again,
    "files": _files,
    "published": _published,
    "in lives": _in_lives,
    "lines": _lines,
    **{f"failing {from_end} before the end": partial(_failing, 3, from_end) for from_end in (2, 3, 5, 12)},
    **{f"failing again {from_end} before the end": partial(_failing, 2, from_end) for from_end in (2, 3, 4, 5, 12)},
}


class Journals:
    """The journals of the scenarios, made when they are needed."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self._made: dict[tuple[str, type[CrashingDisk]], CrashingDisk] = {}

    def of(self, name: str, kind: type[CrashingDisk] = CrashingDisk) -> CrashingDisk:
        if (name, kind) not in self._made:
            root = self.folder / f"{kind.__name__}-{name}"
            root.mkdir()
            disk = kind(root)
            with used(disk):
                SCENARIOS[name](disk, self.tokenizer)
            self._made[name, kind] = disk
        return self._made[name, kind]


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Journals:
    return Journals(tmp_path_factory.mktemp("journals"), tiny_tokenizer)


# ---- and what must be there afterwards ---------------------------------------------------------------------


def acceptable(claims: Sequence[Claim], moment: int) -> dict[str, list[Tree | bytes | None]]:
    """What each path may be after a death at a moment: what was announced last, or what was begun since."""
    found: dict[str, list[Tree | bytes | None]] = {}
    for claim in claims:
        known = found.setdefault(claim.path, [None])
        if claim.began > moment:
            continue
        made: list[Tree | bytes | None] = [None] if claim.gone else list(claim.contents)
        if claim.returned is not None and claim.returned < moment:
            known[:] = made[-1:]
        else:
            known += made
    return found


def recover(root: Path) -> checkpoint.Checkpoint | None:
    """What a resumed run does first. No note is expected: nothing damaged ever has a name that says it is whole."""
    notes: list[str] = []
    for folder in (root, root / "data", root / RUN, root / RUN / "deep" / "er", root / RUN / "checkpoints"):
        storage.sweep(folder)
    newest = checkpoint.newest_sound(root / RUN, notes.append)
    assert notes == []
    return newest


def check(root: Path, claims: Sequence[Claim], moment: int) -> None:
    """Recover, and compare with what was claimed."""
    newest = recover(root)
    assert [p for p in leftovers(root) if ".unfinished-" not in p] == []
    expected = acceptable(claims, moment)
    steps = {int(path[-6:]): allowed for path, allowed in expected.items() if "/checkpoints/" in path}
    surely = max((step for step, allowed in steps.items() if None not in allowed), default=0)
    assert (newest.step if newest else 0) >= surely
    for found in checkpoint.checkpoints(root / RUN):
        storage.verify(found.path)
    for path, allowed in expected.items():
        if path.endswith(".jsonl"):
            _check_lines(root / path, min((a or b"" for a in allowed), key=len))
            continue
        assert content_of(root / path) in allowed, path
    account = root / "data/.unfinished-shards/account.json"
    if account.exists():
        size = storage.read_json(account)["size"]
        letters = (account.parent / "a.bin").read_bytes()
        assert letters[:size] == bytes(random.Random(5).randbytes(6000))[:size]


def _check_lines(path: Path, flushed: bytes | Tree) -> None:
    """What was flushed is there; whatever came after it goes when a resumed run cuts the file back."""
    assert isinstance(flushed, bytes)
    last = json.loads(flushed.splitlines()[-1])["step"] if flushed else 0
    storage.cut_json_lines(path, lambda record: isinstance(record, dict) and record["step"] <= last)
    if flushed:
        assert path.read_bytes() == flushed
    else:
        assert len(storage.read_json_lines(path)) <= 0


def lose_power(disk: CrashingDisk, case: int, folder: Path, tokenizer: Tokenizer) -> None:
    """One case: a moment, a state, the recovery; sometimes power goes once more meanwhile, or the run goes on."""
    chance = random.Random(case)
    moment = chance.randint(disk.began, len(disk.events))
    here = folder / str(case)
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    root = here / "once"
    PowerLoss(disk, moment).draw(chance, root)
    if case % 8 == 1:
        second = CrashingDisk(root)
        with used(second):
            recover(root)
        root = here / "twice"
        PowerLoss(second, chance.randint(second.began, len(second.events))).draw(chance, root)
    check(root, disk.claims, moment)
    if case % 16 == 2:
        save(root / RUN, 99, tokenizer, seed=9)
        checkpoint.prune(root / RUN, 2)
        loaded = checkpoint.load(root / RUN, "last")
        assert loaded.checkpoint.step == 99
    shutil.rmtree(here)


@pytest.mark.row("C2", cases=1000, nightly=20_000)
def test_power_is_lost(journals: Journals, tmp_path: Path, cases: int) -> None:
    names = list(SCENARIOS)
    with used(QuickDisk()):
        for case in range(cases):
            name = names[case % len(names)]
            disk = journals.of(name)
            try:
                lose_power(disk, case, tmp_path, journals.tokenizer)
            except (AssertionError, FabulaError, OSError) as error:
                raise AssertionError(f"case {case}, {name}: {error}") from error


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((ForgetsFiles, name) for name in ("first", "pruned", "again", "files", "published", "in lives", "lines")),
        *((ForgetsFolders, name) for name in ("first", "pruned", "again", "files", "published", "in lives", "lines")),
        *((RenamesFirst, name) for name in ("first", "pruned", "again", "files", "published")),
    ],
)
def test_a_worse_disk_is_found_out(journals: Journals, tmp_path: Path, kind: type[CrashingDisk], name: str) -> None:
    """The same check must fail when something is not flushed, or too late: or it would prove nothing."""
    disk = journals.of(name, kind)
    with used(QuickDisk()):
        for case in range(500):
            try:
                lose_power(disk, case, tmp_path, journals.tokenizer)
            except (AssertionError, FabulaError, OSError):
                return
    pytest.fail("nothing was found")


@pytest.mark.row("C1", cases=300, nightly=1500)
def test_death_between_any_two_calls(journals: Journals, tmp_path: Path, cases: int) -> None:
    """The power stays on: all that was written is there, and the newest is whole."""
    moments = [
        (name, m) for name in SCENARIOS for m in range(journals.of(name).began, len(journals.of(name).events) + 1)
    ]
    assert len(moments) >= cases
    with used(QuickDisk()):
        for case in range(cases):
            name, moment = moments[case * len(moments) // cases]
            disk = journals.of(name)
            PowerLoss(disk, moment).everything(tmp_path / str(case))
            try:
                check(tmp_path / str(case), disk.claims, moment)
            except (AssertionError, FabulaError, OSError) as error:
                raise AssertionError(f"{name}, moment {moment}: {error}") from error
            shutil.rmtree(tmp_path / str(case))


# ---- C1: death of a process --------------------------------------------------------------------------------


class Reference:
    """A run of three checkpoints, and what `save_again` makes of it, stage by stage."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, savers: Savers) -> None:
        self.base = folder / "base"
        self.base.mkdir()
        for step in (1, 2, 3):
            save(self.base, step, tokenizer, step)
        storage.write_json(self.base / "stages.json", {"done": 1})
        tokenizer.save(self.base)
        done = self.copy(folder / "done")
        process = savers.call("tests.faults.savers:count_points", done, cwd=folder)
        assert process.wait() == 0, process.output
        self.passed: dict[str, int] = json.loads(process.output.splitlines()[-1])
        new = self.copy(folder / "new")
        save(new, 4, tokenizer, seed=4)
        # Each path before, and after each of the stages.
        first, last = content_of(self.base / "checkpoints/step-000001"), content_of(self.base / "stages.json")
        second = content_of(self.base / "checkpoints/step-000002")
        four, again = (content_of(f / "checkpoints/step-000004") for f in (new, done))
        stages = content_of(done / "stages.json")
        self.expected = {
            "checkpoints/step-000001": [first, first, None, None, None],
            "checkpoints/step-000002": [second, second, None, None, None],
            "checkpoints/step-000003": [content_of(self.base / "checkpoints/step-000003")] * 5,
            "checkpoints/step-000004": [None, four, four, again, again],
            "stages.json": [last, last, last, last, stages],
        }

    def copy(self, target: Path) -> Path:
        """The run of three checkpoints once more; its files are shared, since none is ever written in place."""
        shutil.rmtree(target, ignore_errors=True)
        return Path(shutil.copytree(self.base, target, copy_function=os.link))

    def check(self, run: Path, process: Fork) -> None:
        """After a death: what was announced is there, bit-exact, or what came next; the same work can be done again."""
        stage = len([line for line in process.output.splitlines() if line in STAGES])
        notes: list[str] = []
        for folder in (run, run / "checkpoints"):
            storage.sweep(folder)
        newest = checkpoint.newest_sound(run, notes.append)
        assert notes == []
        assert newest is not None
        assert newest.step >= (4 if stage else 3)
        assert leftovers(run) == []
        for path, states in self.expected.items():
            assert content_of(run / path) in states[stage : stage + 2], path
        assert {p.name for p in (run / "checkpoints").iterdir()} <= {f"step-{step:06d}" for step in (1, 2, 3, 4)}
        assert checkpoint.load(run, "last").checkpoint.step == newest.step

    def check_again(self, run: Path, savers: Savers) -> None:
        process = savers.call("tests.faults.savers:save_again", run, cwd=run.parent)
        assert process.wait() == 0, process.output
        for path, states in self.expected.items():
            assert content_of(run / path) == states[-1]


@pytest.fixture(scope="module")
def reference(memory: Path, tiny_tokenizer: Tokenizer, savers: Savers) -> Reference:
    return Reference(memory, tiny_tokenizer, savers)


# What a save, a swap, a prune and a replaced file pass by; the points of other stages have tests of their own.
OWN_POINTS = {
    *("file.begun", "file.written", "file.synced", "file.renamed", "file.published"),
    *("folder.begun", "folder.filled", "folder.synced", "folder.described", "folder.sealed", "folder.aside"),
    *("folder.renamed", "folder.published", "folder.removing", "folder.removed"),
    *("checkpoint.weights", "checkpoint.trainer", "checkpoint.optimizer", "checkpoint.saved", "checkpoint.pruned"),
}


@pytest.mark.row("C1", cases=90, nightly=360)
def test_killed_at_every_point(reference: Reference, savers: Savers, memory: Path, cases: int) -> None:
    """Every passing of every point of two saves, a prune and a replaced file."""
    assert set(reference.passed) == OWN_POINTS
    places = [f"{name}=kill@{n + 1}" for name, times in reference.passed.items() for n in range(times)]
    assert cases >= len(places)
    for case in range(cases):
        place = places[case % len(places)]
        run = reference.copy(memory / str(case))
        process = savers.call("tests.faults.savers:save_again", run, faults=place, cwd=memory)
        assert process.wait() == -signal.SIGKILL, f"{place}: {process.output}"
        try:
            reference.check(run, process)
            if case % 6 == 0:
                reference.check_again(run, savers)
        except (AssertionError, FabulaError, OSError) as error:
            raise AssertionError(f"{place}: {error}") from error
        shutil.rmtree(run)


# ---- C1 and C2: the calls that the system really sees ------------------------------------------------------

_CALLS = "write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,openat"


@pytest.fixture(scope="module")
def strace(savers: Savers) -> Callable[..., Fork]:
    """Start a fork under strace with these options."""
    if shutil.which("strace") is None:
        pytest.skip("no strace here: the named points and the recorded disk stand for it")

    def start(run: Path, *options: str) -> Fork:
        go = run.with_name(f"{run.name}-go")
        for old in run.parent.glob(f"{go.name}*"):
            old.unlink()
        process = savers.call("tests.faults.savers:save_again", run, cwd=run.parent, go=go)
        while not go.with_name(f"{go.name}-ready").exists():
            assert process.poll() is None, process.output
            time.sleep(0.002)
        words = ["strace", "-f", "-y", "-s", "0", *options, "-p", str(process.pid)]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            said = ""
            while "attached" not in said:
                line = tracer.stderr.readline()
                said += line
                if not line:
                    process.send(signal.SIGKILL)
                    pytest.skip(f"strace may not attach here: {said.strip()}")
            go.touch()
            process.wait()
            tracer.communicate()
        return process

    return start


@pytest.fixture(scope="module")
def trace(strace: Callable[..., Fork], reference: Reference, memory: Path) -> list[str]:
    """The calls of one undisturbed process, in strace's words."""
    folder = memory / "trace"
    folder.mkdir()
    process = strace(reference.copy(folder / "run"), "-e", f"trace={_CALLS}", "-o", str(folder / "trace"))
    assert process.code == 0, process.output
    return (folder / "trace").read_text().splitlines()


@pytest.mark.row("C1", cases=24, nightly=250)
def test_killed_at_calls_of_the_system(
    strace: Callable[..., Fork], trace: list[str], reference: Reference, memory: Path, cases: int
) -> None:
    """SIGKILL on entering a call: every K-th one of a kind, over all kinds that write."""
    counts: dict[str, int] = {}
    for line in trace:
        name = line.split(maxsplit=1)[1].split("(")[0]
        counts[name] = counts.get(name, 0) + 1
    places = [(name, n + 1) for name in sorted(counts) if name in _CALLS.split(",") for n in range(counts[name])]
    assert len(places) > 100
    for case in range(cases):
        name, number = places[case * len(places) // cases]
        run = reference.copy(memory / str(case))
        options = ("-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={number}", "-o", "/dev/null")
        process = strace(run, *options)
        assert process.code == -signal.SIGKILL, f"{name} {number}: {process.output}"
        try:
            reference.check(run, process)
        except (AssertionError, FabulaError, OSError) as error:
            raise AssertionError(f"{name} {number}: {error}") from error
        shutil.rmtree(run)


_OPENED = re.compile(r'openat\([^,]*, "(?P<path>[^"]*)", (?P<flags>[A-Z_|]+)')
_FILE = re.compile(r"(?P<call>\w+)\(\d+<(?P<path>[^>]*)>")
_NAMES = re.compile(r'"([^"]*)"')


def disorder(trace: Sequence[str], root: Path) -> list[str]:
    """What is out of order in the calls of a process below a folder; empty when nothing is.

    Each file is flushed after it was last written to, and each folder after a name was made in it, before they, or a
    folder that they are in, are given a name that is not temporary; and each such name is flushed, by its folder,
    before the next line of output, which announces it.
    """
    unflushed: set[str] = set()
    waiting: dict[str, str] = {}  # folders with names that are not flushed, and the newest of these
    wrong: list[str] = []
    for line in trace:
        call = line.split(maxsplit=1)[1] if line[:1].isdigit() else line
        if " = -1 " in call:
            continue
        name = call.split("(")[0]
        opened, file = _OPENED.match(call), _FILE.match(call)
        if opened and {"O_CREAT", "O_TRUNC"} & set(opened["flags"].split("|")):
            if opened["path"].startswith(str(root)):
                unflushed |= {opened["path"], str(Path(opened["path"]).parent)}
        elif file and name in ("write", "pwrite64", "ftruncate"):
            if file["path"].startswith(str(root)):
                unflushed.add(file["path"])
            else:
                wrong += [f"{last} is announced, but {folder} was not flushed" for folder, last in waiting.items()]
                waiting.clear()
        elif file and name in ("fsync", "fdatasync"):
            unflushed.discard(file["path"])
            waiting.pop(file["path"], None)
        elif name.startswith("rename"):
            old, new = _NAMES.findall(call)
            inside = {path for path in unflushed if path == old or path.startswith(f"{old}/")}
            final = not any(part.startswith((".writing-", ".tmp")) for part in Path(new).relative_to(root).parts)
            if final:
                wrong += [f"{new} gets its name, but {path} was not flushed" for path in sorted(inside)]
                waiting[str(Path(new).parent)] = new
            unflushed = {new + p[len(old) :] if p in inside else p for p in unflushed} | {str(Path(new).parent)}
        elif name.startswith("unlink"):
            unflushed -= set(_NAMES.findall(call))
    return wrong


@pytest.mark.row("C2", cases=1)
def test_the_calls_are_in_order(trace: list[str], cases: int) -> None:
    """Bytes before names, names before announcements: in what the system was really asked for."""
    places = [line for line in trace if "/checkpoints/" in line]
    assert places
    found = re.search(r'"(/[^"]*?/run)/', "\n".join(trace))
    assert found
    root = Path(found[1])
    assert disorder(trace, root) == []
    # Without flushes it is not: each file of a checkpoint, the folder that holds them, the folder of its name.
    flushes = [_FILE.search(line)["path"] if "fsync(" in line else "" for line in trace]  # type: ignore[index]
    for name in (*checkpoint.FILES, storage.MANIFEST, "stages.json"):
        left = [line for line, path in zip(trace, flushes, strict=True) if name not in Path(path).name]
        assert any(name in problem for problem in disorder(left, root)), name
    for place in ("/checkpoints", "/run"):
        left = [line for line, path in zip(trace, flushes, strict=True) if not path.endswith(place)]
        assert any("is announced" in problem for problem in disorder(left, root)), place
    left = [line for line, path in zip(trace, flushes, strict=True) if "/.writing-step-000004-" not in path[-40:]]
    assert any("is announced" not in problem for problem in disorder(left, root))


# ---- C3: disks that refuse ---------------------------------------------------------------------------------

_REFUSALS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)


def _swept(run: Path, tokenizer: Tokenizer) -> None:
    """A start that finds leftovers: one to put back, one to remove, a checkpoint to set aside."""
    folder = run / "checkpoints"
    if (folder / "step-000003").exists():
        (folder / "step-000003").rename(folder / ".writing-step-000003-999999999-old-abcdef01")
        (folder / ".writing-step-000004-999999999-abcdef01").mkdir()
        shutil.copytree(folder / "step-000001", folder / "step-000009")
        (folder / "step-000009" / storage.MANIFEST).unlink()
    storage.sweep(folder)
    newest = checkpoint.newest_sound(run, lambda note: None)
    assert newest is not None


_OPERATIONS: dict[str, Callable[[Path, Tokenizer], object]] = {
    "save": lambda run, tokenizer: save(run, 4, tokenizer, seed=4),
    "save again": lambda run, tokenizer: save(run, 3, tokenizer, seed=4),
    "replace": lambda run, tokenizer: storage.write_json(run / "stages.json", {"done": 2}),
    "replace in a new folder": lambda run, tokenizer: storage.write_bytes(run / "a" / "b" / "c", b"abc"),
    "prune": lambda run, tokenizer: checkpoint.prune(run, 2),
    "start": _swept,
    "flush": lambda run, tokenizer: storage.sync(run / "stages.json"),
}


@pytest.mark.row("C3", cases=340, nightly=850)
def test_every_call_is_refused_once(reference: Reference, memory: Path, tiny_tokenizer: Tokenizer, cases: int) -> None:
    """The error names the place, what is older is untouched, nothing is left over, and the same works afterwards."""
    with used(QuickDisk()):
        places: list[tuple[str, int]] = []
        for name, work in _OPERATIONS.items():
            counting = FailingDisk(inner=QuickDisk())
            run = reference.copy(memory / f"counted {name}")
            with used(counting):
                work(run, tiny_tokenizer)
            places += [(name, n) for n in range(len(counting.calls))]
        assert 4 * len(places) <= cases, len(places)
        for case in range(cases):
            name, number = places[case % len(places)]
            try:
                _refuse_once(reference, memory / str(case), tiny_tokenizer, name, number, case)
            except (AssertionError, OSError) as error:
                raise AssertionError(f"{name}, call {number}: {error}") from error


def _refuse_once(reference: Reference, run: Path, tokenizer: Tokenizer, name: str, number: int, case: int) -> None:
    work = _OPERATIONS[name]
    reference.copy(run)
    disk = FailingDisk(number, _REFUSALS[case % len(_REFUSALS)], QuickDisk())
    with used(disk):
        said = ""
        try:
            work(run, tokenizer)
        except MachineError as error:
            said = f"{error.exit_code} {error}"
        if said:
            assert str(run) in said
            assert said.startswith("3 ")
        else:
            # Only the clearing up of what has no final name, and flushing that, goes on without an error.
            assert re.match(r"(remove_folder|unlink) .*/\.writing-|sync_folder .*/checkpoints$", disk.calls[number]), (
                disk.calls[number]
            )
            assert disk.calls[number].startswith(("remove", "unlink")) or name in ("save again", "start")
    if not disk.calls[number].startswith("remove_folder") and name != "start":
        assert leftovers(run) == []
    notes: list[str] = []
    storage.sweep(run)
    storage.sweep(run / "checkpoints")
    assert leftovers(run) == []
    newest = checkpoint.newest_sound(run, notes.append)
    assert newest is not None
    assert newest.step >= 3
    assert all("step-000009" in note for note in notes)
    for step in (2, 3):
        path = f"checkpoints/step-{step:06d}"
        whole = content_of(run / path) == reference.expected[path][0]
        assert whole or (step, name) in ((3, "save again"), (2, "prune")), path
    work(run, tokenizer)
    assert leftovers(run) == []
    newest = checkpoint.newest_sound(run, notes.append)
    assert newest is not None
    assert newest.step == (4 if name == "save" else 3)
    shutil.rmtree(run)


@pytest.mark.row("C3", cases=2)
def test_a_device_that_is_always_full(tmp_path: Path, cases: int) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with pytest.raises(MachineError, match=r"log\.txt: the disk is full"):
        storage.append_line(tmp_path / "log.txt", "x")
    with (  # noqa: PT012
        pytest.raises(MachineError, match="thing: the disk is full"),
        storage.publish(tmp_path / "thing") as building,
    ):
        (building / "big").symlink_to("/dev/full")
        (building / "big").write_bytes(bytes(5000))
    assert [p.name for p in tmp_path.iterdir()] == ["log.txt"]


@pytest.mark.row("C3", cases=20, nightly=200)
def test_files_that_may_grow_only_so_far(reference: Reference, savers: Savers, memory: Path, cases: int) -> None:
    """Writes fail in the middle, those of safetensors and tokenizers too."""
    sizes = sorted(p.stat().st_size for p in (reference.base / "checkpoints/step-000003").iterdir())
    for case in range(cases):
        run = reference.copy(memory / str(case))
        limit = 500 + case * (sizes[-1] - 500) // cases  # the output is a file too
        process = savers.call("tests.faults.savers:save_one", run, 4, 4, cwd=memory, largest_file=limit)
        assert process.wait() == 3, f"{limit}: {process.output}"
        assert str(run) in process.output
        assert leftovers(run) == []
        reference.check(run, process)
        shutil.rmtree(run)


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.row("C3", cases=2)
@pytest.mark.usefixtures("quick")
def test_a_failed_save_stops_the_run_or_does_not(tmp_path: Path, cases: int) -> None:
    class Full(Disk):
        def make_folder(self, folder: Path) -> None:
            if folder.name.startswith(".writing-step-000012"):
                raise OSError(errno.ENOSPC, "No space left on device", str(folder))
            super().make_folder(folder)

    recipe = tiny.write_recipe(tmp_path)
    for choice in ("stop", "go_on"):
        watcher = Notes()
        with used(Full()):
            if choice == "stop":
                with pytest.raises(MachineError, match=r"step-000012: the disk is full \([\d,]+ bytes free\)"):
                    pipeline.run(recipe, {"train.failed_save": choice}, name=choice, runs=tmp_path, progress=watcher)
            else:
                pipeline.run(recipe, {"train.failed_save": choice}, name=choice, runs=tmp_path, progress=watcher)
        steps = [c.step for c in checkpoint.checkpoints(tmp_path / choice)]
        assert 12 not in steps
        assert (24 in steps) == (choice == "go_on")
        assert (6 in steps) or choice == "go_on"
        assert any("going on without this checkpoint" in note for note in watcher.notes) == (choice == "go_on")
    pipeline.resume(tmp_path / "stop")
    first, second = (checkpoint.load(tmp_path / name, "last").model.state_dict() for name in ("stop", "go_on"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=8m", "fabula-test", str(place)]
    if sys.platform != "linux" or shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("a small disk needs root on Linux; limits on files stand for it")
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _is_stopped(process: Fork) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def _fill(disk: Path, but: int) -> Path:
    """A foreign file that takes all of a disk but some bytes."""
    foreign = disk / "foreign.bin"
    with foreign.open("wb", buffering=0) as file:
        free = shutil.disk_usage(disk).free - but
        while free > 0:
            free -= file.write(bytes(min(free, 65536)))
    return foreign


@pytest.mark.row("C3", cases=3, nightly=4)
def test_a_full_disk(small_disk: Path, tmp_path: Path, cases: int) -> None:
    """Refused before the run if it cannot fit; filled by others meanwhile, it stops, and goes on when there is room."""
    recipe = tiny.write_recipe(tmp_path)
    with ForkServer() as server:
        refused = server.run("run", recipe, "--train.keep", 50, cwd=small_disk)
        assert refused.code == 3
        assert re.search(
            r"keeps 50 checkpoints of [\d,]+ bytes each needs [\d,]+ bytes, [\d,]+ are free", refused.output
        )
        assert not list(small_disk.rglob("step-*"))
        shutil.rmtree(small_disk / "runs")

        assert server.run("run", recipe, cwd=tmp_path).code == 0
        (whole,) = (tmp_path / "runs").iterdir()
        wanted = checkpoint.load(whole, "last").model.state_dict()
        for but, setting, code in ((0, "stop", 3), (900_000, "go_on", 0), (40_000, "stop", 3))[: cases - 1]:
            stopped = server.start(
                *("run", recipe, "--train.failed_save", setting), cwd=small_disk, faults="train.step=signal:SIGSTOP@9"
            )
            while not _is_stopped(stopped):
                assert stopped.poll() is None, stopped.output
                time.sleep(0.005)
            (run,) = (small_disk / "runs").iterdir()
            assert [c.step for c in checkpoint.checkpoints(run)] == [6]
            foreign = _fill(small_disk, but)
            os.kill(stopped.pid, signal.SIGCONT)
            assert stopped.wait() == code, stopped.output
            said = r"needs [\d,]+ bytes, [\d,]+ are free|the disk is full \([\d,]+ bytes free\)"
            assert re.search(said, stopped.output), stopped.output
            generated = server.run("generate", run, "--prompt", "El", cwd=tmp_path)
            assert generated.code == 0, generated.output
            assert leftovers(run) == []
            foreign.unlink()
            resumed = server.run("resume", run, cwd=tmp_path)
            assert resumed.code == 0, resumed.output
            found = checkpoint.load(run, "last").model.state_dict()
            assert all(torch.equal(wanted[name], found[name]) for name in wanted)
            assert leftovers(run) == []
            shutil.rmtree(small_disk / "runs")
