"""`fabula verify`: what is whole is told with its size, what is not with its reason and exit code 4."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]


def test_a_whole_run(cli: Cli, copied_run: Path) -> None:
    code, out, _ = cli("verify", copied_run)
    assert code == 0
    assert "step-000024" in out
    assert "as they were written" in out
    code, out, _ = cli("verify", copied_run, "--json")
    told = json.loads(out)
    names = [Path(row["folder"]).name for row in told["sound"]]
    assert names == ["tokenizer", "data", *sorted(p.name for p in (copied_run / "checkpoints").iterdir())]
    assert all(row["bytes"] > 0 for row in told["sound"])
    assert told["problems"] == []


@pytest.mark.parametrize("part", ["data", "tokenizer", "checkpoints/step-000024"])
def test_a_part_of_it_alone(cli: Cli, copied_run: Path, part: str) -> None:
    assert cli("verify", copied_run / part)[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        *("data/train-00000.tokens", "data/train-00000.documents", "data/manifest.json", "tokenizer/tokenizer.json"),
        *("checkpoints/step-000024/model.safetensors", "checkpoints/step-000018/trainer.json"),
        *("checkpoints/step-000018/manifest.json",),
    ],
)
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_damage_anywhere(cli: Cli, copied_run: Path, name: str, how: str) -> None:
    path = copied_run / name
    content = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if how == "flip" else content[:-1])
    code, out, err = cli("verify", copied_run, "--json")
    assert code == 4
    problems = json.loads(out)["problems"]
    assert len(problems) == 1
    assert path.parent.name in problems[0]["path"]
    assert path.parent.name in err


def test_logs_are_read_too(cli: Cli, copied_run: Path) -> None:
    lines = (copied_run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (copied_run / "metrics.jsonl").write_bytes(b"".join([lines[0], b"\x00\x01\n", *lines[1:]]))
    (copied_run / "summary.json").write_text("{")
    code, out, _ = cli("verify", copied_run, "--json")
    assert code == 4
    assert {Path(p["path"]).name for p in json.loads(out)["problems"]} == {"metrics.jsonl", "summary.json"}


def test_what_is_nothing_to_verify(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "novels").mkdir()
    for path in ("novels", "nowhere"):
        code, out, err = cli("verify", path)
        assert (code, out) == (2, "")
        assert "nothing here to verify" in err


def test_a_run_that_has_only_begun(cli: Cli, copied_run: Path) -> None:
    shutil.rmtree(copied_run / "checkpoints")
    assert cli("verify", copied_run)[0] == 0
