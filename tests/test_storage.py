"""Files and folders appear whole or not at all, whatever happens half-way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabula import storage
from fabula.errors import DamagedError, InputError, MachineError
from fabula.storage.disk import Disk, in_use


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.startswith(".writing-")]


def sealed(folder: Path) -> Path:
    with storage.publish(folder, {"kind": "thing", "step": 3}) as building:
        storage.write_text(building / "a.txt", "añb")
        storage.write_bytes(building / "inner" / "b.bin", bytes(range(256)))
    return folder


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# ---- files -------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "f.txt"
    storage.write_text(path, "uno")
    storage.write_text(path, "dos: ñ 🦊")
    assert path.read_text(encoding="utf-8") == "dos: ñ 🦊"
    assert leftovers(tmp_path) == []


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    storage.write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), storage.open_replacing(path) as file:  # noqa: PT012
        file.write(b"half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        storage.write_json(tmp_path / "x.json", {"loss": float("nan")})
    with pytest.raises(ValueError):
        storage.append_json_line(tmp_path / "x.jsonl", {"loss": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "out.txt").mkdir()
    (tmp_path / "out.txt" / "mine").write_text("precious")
    with pytest.raises(InputError, match="folder stands where a file"):
        storage.write_text(tmp_path / "out.txt", "x")
    assert (tmp_path / "out.txt" / "mine").read_text() == "precious"
    assert leftovers(tmp_path) == []


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match="file stands where a folder"):
        storage.write_text(tmp_path / "file" / "x.txt", "x")
    with pytest.raises(InputError, match="file stands where a folder"):
        sealed(tmp_path / "file")
    with pytest.raises(InputError, match="file stands where a folder"):
        sealed(tmp_path / "file" / "deeper" / "still")
    with pytest.raises(InputError, match="file stands where a folder"):
        storage.append_line(tmp_path / "file" / "log.txt", "x")
    assert (tmp_path / "file").read_text() == "precious"
    assert leftovers(tmp_path) == []


def test_a_name_that_no_disk_takes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too long"):
        storage.write_text(tmp_path / ("x" * 300), "x")


def test_names_that_are_not_unicode_can_be_written_about(tmp_path: Path) -> None:
    """A file called b"ma\\xf1ana.txt" (Latin-1) reaches Python as a lone surrogate."""
    name = os.fsdecode(b"ma\xf1ana.txt")
    storage.append_line(tmp_path / "log.txt", f"read {name}")
    storage.append_json_line(tmp_path / "q.jsonl", {"file": name})
    storage.write_json(tmp_path / "q.json", {"file": name})
    assert storage.read_json_lines(tmp_path / "q.jsonl") == [{"file": name}]
    assert storage.read_json(tmp_path / "q.json") == {"file": name}
    assert storage.hash_data(name) != storage.hash_data("mañana.txt")


# ---- JSON and its lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"a": 1} x', b"NaN,"])
def test_broken_json_is_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"x\.json"):
        storage.read_json(path)


def test_missing_json_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="missing"):
        storage.read_json(tmp_path / "x.json")


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    for step in (1, 2):
        storage.append_json_line(path, {"step": step, "word": "ñandú"})
    whole = path.read_bytes()
    line = len(whole) // 2
    for cut in range(line + 1, len(whole)):
        path.write_bytes(whole[:cut])
        records = storage.read_json_lines(path)
        # Without its line end the last record may still be whole.
        assert [r["step"] for r in records] in ([1], [1, 2])
        assert len(records) == 1 or cut == len(whole) - 1


def test_damage_in_the_middle_is_not_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(DamagedError, match="line 2"):
        storage.read_json_lines(path)
    path.write_bytes(b'{"step": 1}\n\x00\x00\x00\n{"step": 3}\n')
    with pytest.raises(DamagedError, match="line 2"):
        storage.read_json_lines(path)


def test_a_damaged_line_that_was_ended_is_damage(tmp_path: Path) -> None:
    """Only a line without its end can be torn."""
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n{"ste\n')
    with pytest.raises(DamagedError, match="line 2"):
        storage.read_json_lines(path)


def test_no_file_no_records(tmp_path: Path) -> None:
    assert storage.read_json_lines(tmp_path / "none.jsonl") == []


def test_equal_data_equal_hash() -> None:
    assert storage.hash_data({"a": 1, "b": [1, 2]}) == storage.hash_data({"b": (1, 2), "a": 1})
    assert storage.hash_data({"a": 1}) != storage.hash_data({"a": 1.5})
    assert storage.hash_data({"a": "1"}) != storage.hash_data({"a": 1})


# ---- folders -----------------------------------------------------------------------------------------------


def test_publish_writes_a_manifest_that_verifies(tmp_path: Path) -> None:
    manifest = storage.verify(sealed(tmp_path / "thing"))
    assert manifest["kind"] == "thing"
    assert manifest["step"] == 3
    assert set(manifest["files"]) == {"a.txt", "inner/b.bin"}
    assert manifest["files"]["inner/b.bin"]["bytes"] == 256
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_and_keeps_the_older_folder(tmp_path: Path, error: type[BaseException]) -> None:
    old = sealed(tmp_path / "thing")
    before = storage.verify(old)
    for final in (tmp_path / "thing", tmp_path / "new"):
        with pytest.raises(error), storage.publish(final) as building:  # noqa: PT012
            (building / "half.txt").write_text("half")
            raise error
    assert storage.verify(old) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thing"]


def test_publish_replaces_the_older_folder_whole(tmp_path: Path) -> None:
    sealed(tmp_path / "thing")
    with storage.publish(tmp_path / "thing", {"kind": "other"}) as building:
        (building / "c.txt").write_text("c")
    assert set(storage.verify(tmp_path / "thing")["files"]) == {"c.txt"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thing"]


def test_when_the_swap_fails_the_older_folder_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = sealed(tmp_path / "thing")

    class Failing(Disk):
        def rename(self, before: Path, after: Path) -> None:
            if after == old and "-old-" not in before.name:
                raise OSError(5, "Input/output error")
            super().rename(before, after)

    monkeypatch.setattr(in_use, "disk", Failing())
    with pytest.raises(MachineError, match="input/output"), storage.publish(old) as building:
        (building / "c.txt").write_text("c")
    monkeypatch.undo()
    assert set(storage.verify(old)["files"]) == {"a.txt", "inner/b.bin"}
    assert leftovers(tmp_path) == []


def test_publish_into_the_present_folder_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with storage.publish(Path("x") / ".." / "y") as building:
        (building / "c.txt").write_text("c")
    storage.verify(tmp_path / "here" / "y")


def test_a_folder_is_shared_without_room_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with storage.publish(tmp_path / "one", {"kind": "x", "notes": ["y"]}) as building:
        (building / "a.txt").write_text("a")
        (building / "deep").mkdir()
        (building / "deep" / "b.txt").write_text("b")
    storage.share(tmp_path / "one", tmp_path / "two" / "one")
    one, two = tmp_path / "one", tmp_path / "two" / "one"
    assert storage.verify(two)["notes"] == ["y"]
    assert (one / storage.MANIFEST).read_bytes() == (two / storage.MANIFEST).read_bytes()
    assert (one / "deep" / "b.txt").samefile(two / "deep" / "b.txt")
    storage.remove(one)
    assert (two / "a.txt").read_text() == "a"

    def refused(*a: object) -> None:
        raise OSError("no second names here")

    monkeypatch.setattr(os, "link", refused)
    storage.share(two, tmp_path / "three")
    assert storage.verify(tmp_path / "three") == storage.verify(two)
    assert not (tmp_path / "three" / "a.txt").samefile(two / "a.txt")
    (two / "a.txt").write_text("b")
    with pytest.raises(DamagedError, match=r"a\.txt"):
        storage.share(two, tmp_path / "four")
    assert not (tmp_path / "four").exists()


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    def fresh() -> Path:
        storage.remove(tmp_path / "thing")
        return sealed(tmp_path / "thing")

    (fresh() / "a.txt").unlink()
    with pytest.raises(DamagedError, match=r"a\.txt: missing"):
        storage.verify(tmp_path / "thing", hashes=False)

    with (fresh() / "inner" / "b.bin").open("rb+") as file:
        file.truncate(255)
    with pytest.raises(DamagedError, match=r"b\.bin: 255 bytes, the manifest says 256"):
        storage.verify(tmp_path / "thing", hashes=False)

    path = fresh() / "inner" / "b.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    storage.verify(tmp_path / "thing", hashes=False)  # sizes alone cannot tell
    with pytest.raises(DamagedError, match=r"b\.bin: its SHA-256"):
        storage.verify(tmp_path / "thing")

    (fresh() / storage.MANIFEST).unlink()
    with pytest.raises(DamagedError, match="incomplete"):
        storage.verify(tmp_path / "thing")


@pytest.mark.parametrize(
    "manifest",
    ["[]", "{}", '{"files": []}', '{"files": {"a.txt": 3}}', '{"files": {"a.txt": {}}}', "", '{"files"', "\x00"],
)
def test_a_damaged_manifest_is_damage(tmp_path: Path, manifest: str) -> None:
    folder = sealed(tmp_path / "thing")
    (folder / storage.MANIFEST).write_text(manifest)
    with pytest.raises(DamagedError):
        storage.verify(folder)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "thing")
    path = folder / "inner" / "b.bin"
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        with pytest.raises(DamagedError):
            storage.verify(folder)


def test_verify_tells_its_progress(tmp_path: Path) -> None:
    told: list[int] = []
    manifest = storage.verify(sealed(tmp_path / "thing"), progress=told.append)
    assert sum(told) == sum(f["bytes"] for f in manifest["files"].values())


def test_remove_is_content_with_nothing(tmp_path: Path) -> None:
    storage.remove(tmp_path / "none")
    storage.remove(sealed(tmp_path / "thing"))
    storage.write_text(tmp_path / "f", "x")
    storage.remove(tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


# ---- what dead processes left ------------------------------------------------------------------------------


def test_sweep_removes_leftovers_of_dead_processes_only(tmp_path: Path) -> None:
    dead, alive = dead_process(), os.getppid()
    gone = tmp_path / f".writing-step-000010-{dead}-abcdef01"
    gone.mkdir()
    (gone / "half").write_text("x")
    gone_file = tmp_path / f".writing-metrics.jsonl-{dead}-12345678"
    gone_file.write_text("x")
    kept = tmp_path / f".writing-step-000010-{alive}-abcdef01"
    kept.mkdir()
    # Eight random hexadecimal letters are all digits once in forty-three times: they are not a process.
    kept_digits = tmp_path / f".writing-step-000010-{alive}-99999999"
    kept_digits.mkdir()
    mine = tmp_path / ".writing-a-novel"
    mine.write_text("not ours")
    other = tmp_path / "step-000010"
    other.mkdir()
    # Left by a process that had our id, or the parent's, before us: in a container they are always the same.
    ours = tmp_path / f".writing-step-000010-{os.getpid()}-abcdef02"
    ours.mkdir()
    older = tmp_path / f".writing-step-000010-{alive}-abcdef03"
    older.mkdir()
    os.utime(older, (1_000_000_000, 1_000_000_000))
    assert sorted(storage.sweep(tmp_path)) == sorted([gone, gone_file, ours, older])
    assert sorted(tmp_path.iterdir()) == sorted([kept, kept_digits, mine, other])


def test_sweep_leaves_what_this_process_is_writing(tmp_path: Path) -> None:
    with storage.publish(tmp_path / "thing") as building:
        (building / "a").write_text("a")
        assert storage.sweep(tmp_path) == []
    storage.verify(tmp_path / "thing")


def test_sweep_puts_back_a_folder_whose_replacement_never_came(tmp_path: Path) -> None:
    dead = dead_process()
    sealed(tmp_path / "data").rename(tmp_path / f".writing-data-{dead}-old-abcdef01")
    (tmp_path / f".writing-data-{dead}-12ab34cd").mkdir()
    storage.sweep(tmp_path)
    storage.verify(tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_sweep_removes_what_stepped_aside_when_the_new_one_is_there(tmp_path: Path) -> None:
    dead = dead_process()
    sealed(tmp_path / f".writing-data-{dead}-old-abcdef01")
    sealed(tmp_path / "data")
    storage.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_sweep_of_no_folder(tmp_path: Path) -> None:
    assert storage.sweep(tmp_path / "none") == []


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    storage.write_text(path, "old")
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom fabula import storage\n"
        "with storage.open_replacing(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert path.read_text() == "old"
    assert len(leftovers(tmp_path)) == 1
    storage.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


# ---- a machine that says no --------------------------------------------------------------------------------


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's answer is made up: the tests may run as root, who may write everywhere."""
    sealed(tmp_path / "thing")

    def refuses(self: Path, *a: object, **k: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(MachineError, match="no permission"):
        storage.write_text(tmp_path / "x", "x")
    with pytest.raises(MachineError, match="no permission"):
        storage.append_line(tmp_path / "x", "x")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(MachineError, match="no permission"), storage.publish(tmp_path / "thing"):
        pass
    monkeypatch.undo()
    storage.verify(tmp_path / "thing")


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no modes on Windows")
def test_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        (folder / "probe").touch()
    except OSError:
        pass
    else:
        pytest.skip("this user may write everywhere")
    with pytest.raises(MachineError, match="no permission"):
        storage.write_text(folder / "x", "x")
    with pytest.raises(MachineError, match="no permission"), storage.publish(folder / "y"):
        pass


FULL = """
import json, resource, sys
from pathlib import Path
from fabula import checkpoint, storage
from fabula.errors import MachineError
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
said = []
def expect(work):
    try:
        work()
    except MachineError as error:
        said.append(str(error))
    else:
        said.append("")
expect(lambda: storage.write_bytes(folder / "old.bin", bytes(20_000)))
def build():
    with storage.publish(folder / "thing") as building:
        with (building / "big").open("wb") as file:
            file.write(bytes(20_000))
expect(build)
def save():
    from tests import tiny
    from fabula.model.decoder import Decoder
    from fabula.tokenizer.base import Tokenizer
    model = Decoder(tiny.model_config())
    checkpoint.save(folder / "checkpoints", 1, model, Tokenizer.load(folder), {}, {}, {})
expect(save)
print(json.dumps(said))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_a_full_disk(tmp_path: Path, tiny_tokenizer) -> None:  # type: ignore[no-untyped-def]
    """A limit on the size of files stands for a full disk: both fail in the middle of a write."""
    (tmp_path / "old.bin").write_bytes(b"old")
    sealed(tmp_path / "thing")
    tiny_tokenizer.save(tmp_path)
    made = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert made.returncode == 0, made.stderr
    for said in json.loads(made.stdout):
        assert "full" in said
        assert str(tmp_path) in said
    assert (tmp_path / "old.bin").read_bytes() == b"old"
    storage.verify(tmp_path / "thing")
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "checkpoints" / "step-000001").exists()
