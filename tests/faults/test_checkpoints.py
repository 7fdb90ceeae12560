"""Damaged and hostile checkpoints are found before anything of them is used, and a good one is always left."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_safetensors

from fabula import checkpoint, pipeline, storage, verify
from fabula.checkpoint import CONFIG, FILES, OPTIMIZER, TRAINER, WEIGHTS, RunFolder
from fabula.errors import DamagedError, DivergedError, InputError
from fabula.storage.verification import sealed
from fabula.tokenizer.base import FILE, Tokenizer
from fabula.tokenizer.bpe import train_bpe
from tests.faults.crashing_disk import QuickDisk, Tree, content_of, used
from tests.faults.savers import Savers, save, small_model

Cli = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and limits on memory")


@pytest.fixture(autouse=True)
def _quick_disk() -> Iterator[None]:
    with used(QuickDisk()):
        yield


def write(folder: Path, content: Tree) -> None:
    """A folder of these files and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)


def run_of_three(run: Path, tokenizer: Tokenizer) -> list[Tree]:
    """A run of three checkpoints, the newest of which is the best; their contents."""
    for step in (1, 2, 3):
        save(run, step, tokenizer, seed=step, bits=5.0 - step)
    contents = [content_of(run / f"checkpoints/step-{step:06d}") for step in (1, 2, 3)]
    return [c for c in contents if isinstance(c, dict)]


# ---- C4 ----------------------------------------------------------------------------------------------------


def _flip(new: Tree, old: Tree, name: str, chance: random.Random) -> None:
    data = bytearray(new[name])
    for _ in range(chance.choice([1, 1, 1, 5])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    new[name] = bytes(data)


def _cut(new: Tree, old: Tree, name: str, chance: random.Random) -> None:
    new[name] = new[name][: chance.randrange(len(new[name]))]


def _delete(new: Tree, old: Tree, name: str, chance: random.Random) -> None:
    del new[name]


def _swap(new: Tree, old: Tree, name: str, chance: random.Random) -> None:
    new[name] = old[name] if old[name] != new[name] else new[chance.choice([n for n in new if n != name])]


def _extend(new: Tree, old: Tree, name: str, chance: random.Random) -> None:
    # One more line end after a JSON document is the only addition that changes nothing; it is not damage.
    new[name] += chance.choice([b"\x00", b"x", b"}", new[name], chance.randbytes(4096)])


def _empty(new: Tree, old: Tree, name: str, chance: random.Random) -> None:
    new[name] = b""


def _zero(new: Tree, old: Tree, name: str, chance: random.Random) -> None:
    start = chance.randrange(len(new[name]))
    end = min(len(new[name]), start + chance.choice([1, 512, 4096]))
    new[name] = new[name][:start] + bytes(end - start) + new[name][end:]


def _half_copied(new: Tree, old: Tree, name: str, chance: random.Random) -> None:
    names = chance.sample(sorted(new), len(new))
    there = chance.randrange(len(names))
    for gone in names[there + 1 :]:
        del new[gone]
    new[names[there]] = new[names[there]][: chance.randrange(len(new[names[there]]))]


def _rename(new: Tree, old: Tree, name: str, chance: random.Random) -> None:
    new[f"{name}.bak"] = new.pop(name)


_DAMAGES = [_flip, _flip, _flip, _cut, _delete, _swap, _extend, _empty, _zero, _half_copied, _rename]


def damaged(new: Tree, old: Tree, case: int) -> Tree:
    """A checkpoint with something wrong, never equal to the right one; `old` is the one before it."""
    chance = random.Random(case)
    while True:
        made = dict(new)
        name = chance.choice(sorted(made))
        _DAMAGES[case % len(_DAMAGES)](made, old, name, chance)
        if made != new:
            return made


@pytest.mark.row("C4", cases=200, nightly=10_000)
def test_damage_of_the_newest_is_found(tmp_path: Path, tiny_tokenizer: Tokenizer, cases: int) -> None:
    contents = run_of_three(tmp_path, tiny_tokenizer)
    folder = tmp_path / "checkpoints"
    newest = folder / "step-000003"
    for case in range(cases):
        content = damaged(contents[2], contents[1], case)
        write(newest, content)
        told: list[str] = []
        for which in ("last", "best"):
            loaded = checkpoint.load(tmp_path, which, told.append)
            assert loaded.checkpoint.step == 2, case
            assert len(told) == 1, case
            assert "step-000003" in told.pop(), case
            assert content_of(loaded.checkpoint.path) == contents[1], case
        for path, which in ((newest, "best"), (tmp_path, "step-3")):
            with pytest.raises(DamagedError, match="step-000003"):
                checkpoint.load(path, which)
        resumed = checkpoint.newest_sound(tmp_path, told.append)
        assert resumed is not None
        assert resumed.step == 2, case
        assert len(told) == 1, case
        assert "set aside as damaged-step-000003, the checkpoint before it is used" in told[0], case
        assert content_of(folder / "damaged-step-000003") == content, case


@pytest.mark.row("C4", cases=11)
def test_the_commands_say_so(cli: Cli, copied_run: Path, cases: int) -> None:
    """Loud when something else is used, exit 4 when a damaged one was named."""
    found = checkpoint.checkpoints(copied_run)
    newest, older = found[-1].path, found[-2].path
    new, old = content_of(newest), content_of(older)
    assert isinstance(new, dict)
    assert isinstance(old, dict)
    few = ("--max-new-tokens", 2)
    for case in range(cases):
        write(newest, damaged(new, old, case))
        for words in ((newest,), (copied_run, "--checkpoint", newest.name)):
            code, out, err = cli("generate", *words, *few)
            assert (code, out) == (4, ""), (case, err)
            assert newest.name in err
            assert "Traceback" not in err
        code, _, err = cli("generate", copied_run, "--checkpoint", "last", *few)
        assert code == 0, (case, err)
        assert re.search(f"{newest.name}.*{older.name} is used instead", err), (case, err)
    import fabula

    # From Python the same is a warning, unless somebody listens.
    with pytest.warns(UserWarning, match="is used instead"):
        fabula.load(copied_run, "last")


# ---- C5 ----------------------------------------------------------------------------------------------------


class _Model:
    """What `save` needs of a model: the smallest there is."""

    def __init__(self, config: object, weights: torch.Tensor) -> None:
        self.config, self.weights = config, weights

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weights": self.weights}


class _Vocabulary:
    """What it needs of a tokenizer."""

    fingerprint = "f" * 64

    def save(self, folder: Path) -> None:
        (folder / FILE).write_bytes(b"{}")


@pytest.mark.row("C5", cases=1000, nightly=5000)
def test_a_good_one_is_always_left(memory: Path, cases: int) -> None:
    """Saves, refused saves, damage, restarts and pruning in any order."""
    config = small_model().config
    for case in range(cases):
        run = memory / str(case)
        _retain(random.Random(case), run, config)
        shutil.rmtree(run, ignore_errors=True)


def _retain(chance: random.Random, run: Path, config: object) -> None:
    folder = RunFolder(run).checkpoints
    good: dict[int, float | None] = {}  # undamaged steps with their quality
    bad: set[int] = set()
    known, step = storage.Known(), 0

    def make(value: float) -> None:
        bits = chance.choice([None, round(chance.uniform(1, 3), 1)])
        weights = torch.full((chance.randrange(1, 40),), value)
        made = checkpoint.save(
            *(folder, step, _Model(config, weights), _Vocabulary(), {"step": step}),  # type: ignore[arg-type]
            *({"m": torch.zeros(2)}, {"bits_per_byte": bits}),
        )
        known.learn(made.path)
        good[step] = bits
        bad.discard(step)

    for _ in range(chance.randrange(3, 10)):
        what = chance.randrange(8)
        if what == 0 and good:
            victim = chance.choice(sorted(good))
            path = folder / f"step-{victim:06d}" / chance.choice([*FILES, storage.MANIFEST])
            data = path.read_bytes()
            path.unlink()
            if chance.random() < 0.7:
                # A new file, as a bad disk does not make it: its time must differ for what is known by its time.
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if chance.random() < 0.5 else data[: len(data) // 2])
                os.utime(path, ns=(1, 1))
            del good[victim]
            bad.add(victim)
        elif what == 1:
            known = storage.Known()
        elif what == 2:
            step += chance.randrange(1, 4)
            with pytest.raises(DivergedError):
                make(float(chance.choice(["nan", "inf"])))
        else:
            step += chance.choice([0, 1, 1, 1, 7])  # sometimes the same once more
            make(float(step))
            keep = chance.randrange(2, 6)
            before = dict(good)
            removed = [int(p.name[-6:]) for p in checkpoint.prune(run, keep, known)]
            for gone in removed:
                del good[gone]
            there = {int(p.name[-6:]) for p in folder.iterdir()}
            assert there == set(good) | bad, "only good ones are removed, and nothing is left over"
            newest = sorted(before)[-keep:]
            assert set(newest) <= set(good)
            measured = {s: b for s, b in before.items() if b is not None}
            best = min(measured, key=lambda s: (measured[s], -s), default=None)
            assert best is None or best in good
            assert set(good) == {*newest, *([best] if best is not None else [])}
            assert len(good) >= min(2, len(before))
    for each in good:
        storage.verify(folder / f"step-{each:06d}")
    if good:
        found = checkpoint.newest_sound(run, lambda note: None)
        assert found is not None
        assert found.step == max(good)


# ---- C6 ----------------------------------------------------------------------------------------------------


class _Bomb:
    """What pickle makes of this runs a command."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.sentinel}'",)


def _zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, data)
    return buffer.getvalue()


def _header(tensors: object, data: bytes = b"\x00" * 64, size: int | None = None) -> bytes:
    """A safetensors file of our own making."""
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if size is None else size & (1 << 64) - 1) + text + data


def _one(**facts: object) -> dict[str, Any]:
    return {"embedding.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **facts}}


def _config(data: bytes, *path: str, value: object) -> bytes:
    made = json.loads(data)
    place = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(made).encode()


_DEEP = b"[" * 200_000 + b"]" * 200_000
_DIGITS = b'{"step": ' + b"9" * 10_000 + b"}"


def payloads(good: Tree, bomb: bytes) -> list[tuple[str, dict[str, bytes], dict[str, Any]]]:
    """Each with a name: files that take the place of others, and entries of the manifest that do."""
    config = good[CONFIG]
    made: list[tuple[str, dict[str, bytes], dict[str, Any]]] = [
        ("pickle as weights", {WEIGHTS: bomb}, {}),
        ("pickle as optimizer", {OPTIMIZER: bomb}, {}),
        ("pickle as config", {CONFIG: bomb}, {}),
        ("pickle as trainer", {TRAINER: bomb}, {}),
        ("pickle as tokenizer", {FILE: bomb}, {}),
        ("torch's zip as weights", {WEIGHTS: _zipped("archive/data.pkl", bomb)}, {}),
        ("a zip at the end of the optimizer", {OPTIMIZER: good[OPTIMIZER] + _zipped("archive/data.pkl", bomb)}, {}),
        (
            "a pickle inside a tensor's bytes",
            {WEIGHTS: _header({"a": {"dtype": "U8", "shape": [len(bomb)], "data_offsets": [0, len(bomb)]}}, bomb)},
            {},
        ),
        (
            "pickles and code beside, listed too",
            {
                "pytorch_model.bin": bomb,
                "modeling.py": b"raise SystemExit(9)",
                "__init__.py": b"raise SystemExit(9)",
                WEIGHTS: b"",
            },
            {},
        ),
        (
            "numpy as weights",
            {WEIGHTS: b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"},
            {},
        ),
        ("a header of 2^63 bytes", {WEIGHTS: _header(b"{}", size=1 << 63)}, {}),
        ("a header of -1 bytes", {WEIGHTS: _header(b"{}", size=-1)}, {}),
        ("a header of 99 MB that is not there", {WEIGHTS: _header(b"{}", size=99_000_000)}, {}),
        ("overlapping tensors", {WEIGHTS: _header({**_one(), "b": _one()["embedding.weight"]})}, {}),
        ("a hole between tensors", {WEIGHTS: _header(_one(data_offsets=[32, 96]), bytes(96))}, {}),
        ("offsets beyond the end", {WEIGHTS: _header(_one(data_offsets=[1 << 40, (1 << 40) + 64]))}, {}),
        ("offsets backwards", {WEIGHTS: _header(_one(data_offsets=[64, 0]))}, {}),
        ("a kind of number that is none", {WEIGHTS: _header(_one(dtype="O"))}, {}),
        ("complex numbers", {WEIGHTS: _header(_one(dtype="C64", shape=[2, 4]))}, {}),
        ("numbers of four bits", {WEIGHTS: _header(_one(dtype="F4", shape=[8, 16]))}, {}),
        ("a negative shape", {WEIGHTS: _header(_one(shape=[-4, -4]))}, {}),
        ("a shape whose product overflows", {WEIGHTS: _header(_one(shape=[1 << 32, 1 << 32, 4]))}, {}),
        ("2^62 empty rows", {WEIGHTS: _header(_one(shape=[1 << 62, 0], data_offsets=[0, 0]), b"")}, {}),
        (
            "names twice",
            {WEIGHTS: _header(b'{"a": 1, "a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}')},
            {},
        ),
        ("a header that is a list", {WEIGHTS: _header(b"[1, 2]", b"")}, {}),
        ("a deep header", {WEIGHTS: _header(_DEEP, b"")}, {}),
        *((f"deep JSON as {name}", {name: _DEEP}, {}) for name in (CONFIG, TRAINER)),
        *((f"ten thousand digits in {name}", {name: _DIGITS}, {}) for name in (CONFIG, TRAINER)),
        ("NaN for a width", {CONFIG: _config(config, "d_model", value=float("nan"))}, {}),
        ("a billion layers", {CONFIG: _config(config, "n_layers", value=10**9)}, {}),
        ("a width of 10^12", {CONFIG: _config(config, "d_model", value=10**12)}, {}),
        ("a width of 10^400", {CONFIG: _config(config, "d_model", value=10**400)}, {}),
        ("a vocabulary of -1", {CONFIG: _config(config, "vocab_size", value=-1)}, {}),
        (
            "a context of 10^13 with tables",
            {
                CONFIG: _config(
                    _config(config, "context_length", value=10**13), "position", value={"kind": "sinusoidal"}
                )
            },
            {},
        ),
        ("a kind of attention that is code", {CONFIG: _config(config, "attention", "kind", value="os:system")}, {}),
        ("heads that do not divide", {CONFIG: _config(config, "attention", "n_kv_heads", value=0)}, {}),
        ("a null as trainer", {TRAINER: b"null"}, {}),
        ("a step that is text", {}, {"step": "7; rm -rf"}),
        ("a step of ten thousand digits", {storage.MANIFEST: _DIGITS}, {}),
        ("a negative step", {}, {"step": -1}),
        ("a list as quality", {}, {"bits_per_byte": [1]}),
        ("no tokenizer", {}, {"tokenizer": None}),
        ("a deep manifest", {storage.MANIFEST: _DEEP}, {}),
        ("NaN in the manifest", {storage.MANIFEST: b'{"files": {}, "sealed": "sha256:0", "x": NaN}'}, {}),
        ("a pickle as manifest", {storage.MANIFEST: bomb}, {}),
        ("nothing listed", {}, {"files": {}}),
        ("sizes as text", {}, {"files": {name: {"bytes": "7", "sha256": "0"} for name in FILES}}),
        ("names as places", {}, {"files": ["model.safetensors"]}),
    ]
    return made


def reseal(folder: Path, manifest: dict[str, Any], changes: dict[str, Any], files: dict[str, bytes]) -> None:
    """Make the manifest agree with the files, as an attacker would; then change what it says, and seal that."""
    (folder / storage.MANIFEST).unlink(missing_ok=True)
    for name, data in files.items():
        if name != storage.MANIFEST:
            (folder / name).write_bytes(data)
    storage.seal(folder, {k: v for k, v in manifest.items() if k != "files"})
    if changes:
        said = {**storage.read_json(folder / storage.MANIFEST), **changes}
        storage.write_json(folder / storage.MANIFEST, sealed(said))
    if storage.MANIFEST in files:
        (folder / storage.MANIFEST).write_bytes(files[storage.MANIFEST])


def refuse(folder: str, sentinel: str) -> None:
    """Load a hostile checkpoint in every way there is. Runs in a process of its own with little memory."""
    path = Path(folder)
    checkpoint.trainer_state(checkpoint.load(path.parents[2] / "good").checkpoint)  # whatever is imported for that
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for work in (
        lambda: checkpoint.load(path),
        lambda: checkpoint.load(path.parents[1], "last", print),
        # Past the checks that come before, too.
        lambda: checkpoint.restore_weights(small_model(), checkpoint.Checkpoint(path, {})),
        lambda: checkpoint.trainer_state(checkpoint.Checkpoint(path, {})),
        lambda: checkpoint.newest_sound(path.parents[1], print),
        lambda: list(verify.examine(path.parents[1], lambda size: None)),
    ):
        try:
            work()
        except (DamagedError, InputError) as error:
            print(error)
            refused += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    size = sum(p.stat().st_size for p in path.parent.rglob("*") if p.is_file())
    assert grown < size + (64 << 20), f"{grown:,} bytes more"
    assert not Path(sentinel).exists()
    print("refused", refused)


@pytest.mark.row("C6", cases=50)
def test_hostile_files(tmp_path: Path, tiny_tokenizer: Tokenizer, savers: Savers, cases: int) -> None:
    saved = save(tmp_path, 1, tiny_tokenizer, seed=1)
    good = content_of(saved.path)
    assert isinstance(good, dict)
    write(tmp_path / "good", good)
    sentinel = tmp_path / "it ran"
    bomb = pickle.dumps(_Bomb(sentinel))
    made = payloads(good, bomb)
    assert len(made) == cases
    for number, (name, files, changes) in enumerate(made):
        folder = tmp_path / str(number) / "checkpoints" / "step-000001"  # `good` is beside the numbers
        write(folder, good)
        reseal(folder, saved.manifest, changes, files)
        process = savers.call("tests.faults.test_checkpoints:refuse", folder, sentinel, cwd=tmp_path, memory=2 << 30)
        assert process.wait() == 0, f"{name}: {process.output}"
        # `load` of the folder is refused in any case, but for what only the trainer reads.
        told = int(process.output.split("refused ")[-1])
        assert told >= 1, f"{name}: {process.output}"
        assert not sentinel.exists(), name


_OUTSIDE: list[Callable[[Path, Path], str]] = [
    lambda folder, secret: "../secret",
    lambda folder, secret: str(secret),
    lambda folder, secret: f"./../{folder.name}/../secret",
    lambda folder, secret: f"../{folder.name}/{CONFIG}",  # inside, but by a way that leads outside
    lambda folder, secret: (folder / "link").symlink_to(secret) or "link",  # type: ignore[func-returns-value]
    lambda folder, secret: (folder / "up").symlink_to(folder.parent) or "up/secret",  # type: ignore[func-returns-value]
    lambda folder, secret: (folder / "loop").symlink_to("loop") or "loop",  # type: ignore[func-returns-value]
    lambda folder, secret: (folder / "proc").symlink_to("/proc/self/environ") or "proc",  # type: ignore[func-returns-value]
    lambda folder, secret: "a\x00b",
    lambda folder, secret: "x" * 5000,
    lambda folder, secret: "",
    lambda folder, secret: ".",
    lambda folder, secret: "/dev/zero",
    lambda folder, secret: os.mkfifo(folder / "fifo") or "fifo",  # type: ignore[func-returns-value]
]


@pytest.mark.row("C6", cases=14)
def test_a_manifest_leads_nowhere_else(
    tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    """Names that lead out of the folder are refused without a look at what is there."""
    saved = save(tmp_path, 1, tiny_tokenizer)
    good = content_of(saved.path)
    assert isinstance(good, dict)
    secret = saved.path.parent / "secret"
    secret.write_bytes(b"secret")
    hashed: list[Path] = []
    hash_file = storage.hash_file
    monkeypatch.setattr("fabula.storage.verification.hash_file", lambda p: hashed.append(p) or hash_file(p))
    assert len(_OUTSIDE) == cases
    for make in _OUTSIDE:
        write(saved.path, good)
        name = make(saved.path, secret)
        manifest = storage.read_json(saved.path / storage.MANIFEST)
        manifest["files"][name] = {"bytes": 6, "sha256": hash_file(secret)}
        storage.write_json(saved.path / storage.MANIFEST, sealed(manifest))
        for work in (
            lambda: storage.verify(saved.path),
            lambda: checkpoint.load(saved.path),
            lambda: storage.verify(saved.path, known=storage.Known()),
        ):
            with pytest.raises(DamagedError):
                work()
        assert all(p.resolve().is_relative_to(saved.path) and ".." not in p.parts for p in hashed), name


def mutated(good: bytes, case: int) -> bytes:
    """A safetensors file with something wrong, mostly in its header."""
    chance = random.Random(case)
    size = struct.unpack("<Q", good[:8])[0]
    data = bytearray(good)
    kind = case % 4
    if kind == 0:
        for _ in range(chance.choice([1, 1, 3, 30])):
            data[chance.randrange(8 + size)] = chance.randrange(256)
    elif kind == 1:
        header = json.loads(good[8 : 8 + size])
        for _ in range(chance.choice([1, 2])):
            facts = header[chance.choice(sorted(header))]
            odd = [
                None,
                True,
                0,
                -1,
                1 << 31,
                1 << 63,
                1e308,
                "",
                "F32",
                "I64",
                "BOOL",
                "F8_E4M3",
                [],
                {},
                [1 << 62],
                [0, -4],
            ]
            facts[chance.choice([*facts, "shape", "dtype", "data_offsets", "more"])] = chance.choice(odd)
        return _header(header, good[8 + size :])
    elif kind == 2:
        at = chance.randrange(len(data))
        data[at : at + chance.choice([1, 8, 100, len(data)])] = chance.choice([b"", b"\x00" * 9, b'"', b"}", data[:60]])
    else:
        data[:8] = struct.pack("<Q", chance.choice([0, 1, size - 1, size + 1, chance.randrange(1 << 64), 1 << 40]))
    return bytes(data)


def load_mutated(folder: str, cases: int) -> None:
    """Give them all to the function that reads tensors; runs in a process of its own."""
    good = (Path(folder) / "good").read_bytes()
    path = Path(folder) / "mutated.safetensors"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for case in range(cases):
        path.write_bytes(mutated(good, case))
        try:
            tensors = checkpoint._tensors(path)
        except DamagedError:
            refused += 1
        else:
            size = sum(t.numel() * t.element_size() for t in tensors.values())
            assert size <= path.stat().st_size, case
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 64 << 20
    print("refused", refused)


@pytest.mark.row("C6", cases=500, nightly=100_000)
def test_mutated_tensors(tmp_path: Path, savers: Savers, cases: int) -> None:
    (tmp_path / "good").write_bytes(to_safetensors({n: t.detach() for n, t in small_model().state_dict().items()}))
    process = savers.call("tests.faults.test_checkpoints:load_mutated", tmp_path, cases, cwd=tmp_path, memory=1 << 30)
    assert process.wait(250) == 0, process.output
    assert int(process.output.split()[-1]) > cases // 2


@pytest.mark.row("C6", cases=500, nightly=2000)
def test_mutated_weights_with_a_manifest_that_agrees(tmp_path: Path, tiny_tokenizer: Tokenizer, cases: int) -> None:
    saved = save(tmp_path, 1, tiny_tokenizer)
    good = (saved.path / WEIGHTS).read_bytes()
    names = set(small_model().state_dict())
    manifest = dict(saved.manifest)
    refused = 0
    for case in range(cases):
        data = mutated(good, case)
        (saved.path / WEIGHTS).write_bytes(data)
        manifest["files"][WEIGHTS] = {"bytes": len(data), "sha256": storage.hash_file(saved.path / WEIGHTS)}
        storage.write_json(saved.path / storage.MANIFEST, sealed(manifest))
        try:
            loaded = checkpoint.load(saved.path)
        except DamagedError:
            refused += 1
        else:
            # Other numbers in the right places are what the manifest promises here.
            assert set(loaded.model.state_dict()) == names, case
    assert refused > cases // 2


# ---- C7 ----------------------------------------------------------------------------------------------------

_Weights = dict[str, torch.Tensor]


def _without(count: int) -> Callable[[_Weights], _Weights]:
    return lambda w: dict(sorted(w.items())[count:])


def _with(count: int) -> Callable[[_Weights], _Weights]:
    return lambda w: {**w, **{f"extra.{n}": torch.zeros(2) for n in range(count)}}


def _all(change: Callable[[torch.Tensor], torch.Tensor], count: int) -> Callable[[_Weights], _Weights]:
    return lambda w: {n: change(t) if i < count else t for i, (n, t) in enumerate(sorted(w.items()))}


# What is done to the weights, how many tensors do not fit then, and what is said about them.
_MISFITS: list[tuple[Callable[[_Weights], _Weights], int, str]] = [
    *((_without(count), count, "is missing") for count in (1, 2, 7)),
    (lambda w: {}, 0, "is missing"),
    *((_with(count), count, "is not part of this model") for count in (1, 5, 6, 60)),
    *((_all(lambda t: torch.zeros(*t.shape, 2), count), count, "has shape") for count in (1, 6)),
    (_all(lambda t: t.flatten()[:-1], 3), 3, "has shape"),
    (_all(lambda t: torch.zeros(0), 1), 1, "has shape"),
    (_all(lambda t: t[None], 6), 6, "has shape"),
    *((_all(lambda t, d=d: t.to(d), 2), 2, "has numbers of") for d in (torch.float16, torch.bfloat16, torch.float64)),  # type: ignore[misc]
    (_all(lambda t: t.to(torch.int64), 6), 6, "has numbers of torch.int64, the model torch.float32"),
    (lambda w: {**_with(3)(_without(3)(w))}, 6, "is missing"),
    (
        lambda w: {n.replace("blocks", "layers").replace("layers.0", "h.0") + "_": t for n, t in w.items()},
        0,
        "is missing",
    ),
]


@pytest.mark.row("C7", cases=20)
def test_tensors_that_do_not_fit(tmp_path: Path, tiny_tokenizer: Tokenizer, cases: int) -> None:
    saved = save(tmp_path, 1, tiny_tokenizer)
    own = {n: t.detach() for n, t in small_model().state_dict().items()}
    assert len(_MISFITS) + 1 == cases
    for change, count, said in _MISFITS:
        weights = change(own)
        data = to_safetensors({n: t.contiguous() for n, t in weights.items()})
        # Long enough for what the settings ask for, so that the names are compared.
        data = data if len(data) > 20_000 else to_safetensors({**weights, "padding": torch.zeros(30_000)})
        reseal(saved.path, saved.manifest, {}, {WEIGHTS: data})
        with pytest.raises(DamagedError, match=said) as caught:
            checkpoint.load(saved.path)
        text = str(caught.value)
        found = int(text.split(" tensors do not fit")[0].split()[-1])
        assert found in (count, count + 1) or count == 0, text
        assert text.count("; ") == min(found, 5) - 1, text
        with pytest.raises(DamagedError, match=said):
            checkpoint.restore_weights(small_model(), saved)
    # Another vocabulary: of the tokenizer, not of the weights.
    write(saved.path, {n: d for n, d in _other_vocabulary(saved.path, own).items() if n != storage.MANIFEST})
    reseal(saved.path, saved.manifest, {}, {})
    with pytest.raises(DamagedError, match="its tokenizer is not the one it was trained with"):
        checkpoint.load(saved.path)


def _other_vocabulary(folder: Path, own: _Weights) -> Tree:
    train_bpe(["la zorra y el cuervo " * 60], 270).save(folder)
    content = content_of(folder)
    assert isinstance(content, dict)
    return {**content, WEIGHTS: to_safetensors(own)}


@pytest.mark.row("C6", cases=12)
def test_a_trainers_state_that_is_none(copied_run: Path, cases: int) -> None:
    """Hashes that are right do not make it readable: `resume` says which file, without a traceback."""
    newest = checkpoint.last(copied_run)
    assert newest is not None
    whole = storage.read_json(newest.path / checkpoint.TRAINER)
    stages = storage.read_json(copied_run / "stages.json")
    del stages["train"]
    storage.write_json(copied_run / "stages.json", stages)
    broken = [
        *({k: v for k, v in whole.items() if k != gone} for gone in ("plan", "latest", "rng", "micro_rows", "spikes")),
        *({**whole, name: "x"} for name in ("plan", "latest", "rng", "callbacks", "unapplied_in_row", "steps")),
        [],
    ]
    assert len(broken) == cases
    for state in broken:
        storage.write_json(newest.path / checkpoint.TRAINER, state)
        described = {k: v for k, v in newest.manifest.items() if k != "files"}
        (newest.path / storage.MANIFEST).unlink()
        storage.seal(newest.path, described)
        with pytest.raises(DamagedError):
            pipeline.resume(copied_run)
