"""What `fabula plan` says a run needs of memory and disk, against what there is and what the run then took (row U3)."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula import checkpoint, storage
from fabula.plan import hardware
from tests import tiny

Usage = namedtuple("Usage", "total used free")

# d_model, layers, d_ff, context, rows, vocabulary, optimizer: where activations are the most of it, where weights are.
SIZES = [
    (192, 2, 512, 128, 4, 512, "muon"),
    (32, 2, 64, 32, 4, 320, "muon"),
    (128, 4, 384, 256, 24, 512, "adamw"),
    (384, 6, 1024, 64, 1, 1024, "adamw"),
    (512, 5, 1536, 128, 2, 1024, "muon"),
    (192, 3, 512, 512, 6, 2048, "muon"),
]


@pytest.mark.row("U3", cases=2, nightly=6)
@pytest.mark.timeout(600)
def test_the_estimate_of_memory_is_near_what_the_run_takes(tmp_path: Path, cases: int) -> None:
    """Within a fifth, in processes of their own; and the free memory is that of this machine."""
    import psutil

    for number, (width, layers, d_ff, context, rows, vocabulary, optimizer) in enumerate(SIZES[:cases]):
        folder = tmp_path / str(number)
        folder.mkdir()
        tiny.write_recipe(folder)
        heads = width // 32
        settings: dict[str, Any] = {
            **{"model.d_model": width, "model.n_layers": layers, "model.ffn.d_ff": d_ff},
            **{"model.attention.n_heads": heads, "model.attention.n_kv_heads": heads, "model.attention.head_dim": 32},
            **{"model.context_length": context, "train.batch_tokens": rows * context},
            **{"tokenizer.vocab_size": vocabulary, "train.optimizer.kind": optimizer, "corpus.documents": 60},
            **{"train.budget": "3steps", "train.checkpoints": 2, "train.evaluation_share": 0.01},
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        made = tiny.call("plan", "tiny.toml", "--json", *words, cwd=folder, timeout=300)
        assert made.returncode == 0, tiny.tail(made.stderr)
        planned = json.loads(made.stdout)
        trained = tiny.call("train", "tiny.toml", *words, cwd=folder, timeout=300)
        assert trained.returncode == 0, tiny.tail(trained.stderr)
        run = folder / "runs" / "tiny"
        took = storage.read_json(run / "summary.json")["train"]["peak_memory_bytes"]
        share = planned["peak_memory_bytes"] / took
        print(f"{planned['estimate']['parameters']:,} parameters: planned {share:.1%} of {took / 1e6:,.0f} MB")
        assert 0.8 <= share <= 1.2
        assert planned["estimate"]["state_bytes"] < planned["peak_memory_bytes"]
        assert 0 < planned["memory_bytes"] <= psutil.virtual_memory().total
        # The files of a checkpoint beside its tensors (vocabulary, counters) are a few tens of kilobytes.
        found = checkpoint.last(run)
        assert found is not None
        size = sum(facts["bytes"] for facts in found.manifest["files"].values())
        assert 0.8 <= planned["estimate"]["checkpoint_bytes"] / (size - 60_000) <= 1.2 or width == 32


def test_the_plan_says_need_against_have(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    tiny.write_recipe(tmp_path)
    code, out, _ = cli("plan", "tiny.toml")
    assert code == 0
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "B at most (measured by real steps here), " in lines["memory"]
    assert " free" in lines["memory"]
    assert lines["disk"].endswith(" free")
    assert "memory" not in "".join(line for line in out.splitlines() if line.startswith("advice"))
    code, out, _ = cli("plan", "tiny.toml", "--json")
    planned = json.loads(out)
    for name in ("disk_bytes", "free_disk_bytes", "memory_bytes", "peak_memory_bytes"):
        assert planned[name] > 0, name


@pytest.mark.row("U3", cases=3)
@pytest.mark.parametrize("short", ["memory", "state", "disk"])
def test_the_plan_advises_where_it_does_not_fit(
    tmp_path: Path,
    cli: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    short: str,
    cases: int,
) -> None:
    for asked in (["--train.micro_rows", "4"], ["--train.micro_rows", "2"], ["--train.keep", "9"])[:cases]:
        if short == "disk":
            monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 1_000_000))
            expected = "the run needs 0.0 GB of disk, 0.0 GB are free; lower --train.keep"
        elif short == "memory":
            monkeypatch.setattr(hardware, "_memory_bytes", lambda device: 10_000_000)
            rows = {"4": 2, "2": 1}.get(asked[1] if "micro_rows" in asked[0] else "4")
            expected = f"GB of memory, 0.0 GB are free; compute fewer rows at once (--train.micro_rows {rows};"
        else:
            monkeypatch.setattr(hardware, "_memory_bytes", lambda device: 100_000)
            expected = "weights, gradients and moments need 0.0 GB, 0.0 GB are free; choose a smaller model"
        tiny.write_recipe(tmp_path)
        code, out, _ = cli("plan", "tiny.toml", *asked)
        assert code == 0
        assert expected in "\n".join(line for line in out.splitlines() if line.startswith("advice: "))


@pytest.mark.row("U3", cases=3)
def test_the_run_looks_at_the_disk_before_it_trains(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, cases: int
) -> None:
    """With the text and the tokenizer there already, and nothing measured yet."""
    path = tiny.write_recipe(tmp_path)
    assert cli("data", "prepare", path, "--out", tmp_path / "prepared")[0] == 0
    for number, keep in enumerate((2, 3, 20)[:cases]):
        name = f"run-{number}"
        with monkeypatch.context() as patch:
            # What comes before training fits.
            whole = shutil.disk_usage
            free = [10**9]
            patch.setattr(shutil, "disk_usage", lambda folder, free=free: Usage(10**9, 0, free[0]))

            def stage(*arguments: Any, free: Any = free, **named: Any) -> Any:
                from fabula.train.precision import place

                free[0] = 4_000_000
                return place(*arguments, **named)

            patch.setattr("fabula.train.run.place", stage)
            code, out, err = cli("run", path, "--name", name, "--train.keep", keep)
            assert (code, out) == (3, "")
            assert f"a run that keeps {keep} checkpoints of" in err
            assert "4,000,000 are free" in err
            assert "nothing was touched" in err
        assert shutil.disk_usage is whole
        run = tmp_path / "runs" / name
        assert not checkpoint.checkpoints(run)
        assert storage.read_json(run / "summary.json")["status"] == "stopped"
        code, _, err = cli("run", path, "--name", name, "--train.keep", keep, "--train.budget", "2steps")
        assert code == 0, "with room it goes on"
