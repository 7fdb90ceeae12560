"""Are two runs the same run? Everything that training made is compared with tolerance zero; times are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fabula import checkpoint, storage

# Named facts that tell how long something took, or where.
_TIMES = {"seconds", "tokens_per_second", "mfu", "memory_bytes"}


def assert_alike(run: Path, other: Path, what: str = "") -> None:
    """AssertionError naming the first difference between two finished runs."""
    for left, right, name in _pairs(run, other):
        assert left == right, f"{what}: {name} differs: {_shown(left)} against {_shown(right)}"


def _pairs(run: Path, other: Path) -> Any:
    a, b = (checkpoint.last(folder) for folder in (run, other))
    assert a is not None, f"{run} has no checkpoint"
    assert b is not None, f"{other} has no checkpoint"
    yield a.step, b.step, "the last step"
    for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.TOKENIZER_FILE):
        yield a.manifest["files"][name]["sha256"], b.manifest["files"][name]["sha256"], f"the last {name}"
    yield a.bits_per_byte, b.bits_per_byte, "bits per byte of the last checkpoint"
    top = [checkpoint.best(folder) for folder in (run, other)]
    yield *(t.step if t else None for t in top), "the best step"
    yield *(_timeless(storage.read_json(c.path / checkpoint.TRAINER)) for c in (a, b)), "the trainer's state"
    for name in ("metrics.jsonl", "samples.jsonl", "unapplied.jsonl"):
        yield *(_timeless(storage.read_json_lines(folder / name)) for folder in (run, other)), name
    yield *(_timeless(storage.read_json(folder / "evaluation.json")) for folder in (run, other)), "evaluation.json"
    for name in ("data", "tokenizer"):
        yield *(storage.verify(folder / name) for folder in (run, other)), name
    for folder in (run, other):
        leftovers = [p.name for p in folder.rglob("*") if p.name.startswith((".writing-", ".unfinished-"))]
        yield leftovers, [], f"what is left over in {folder}"
        yield storage.read_json(folder / "summary.json")["status"], "finished", f"the status of {folder}"


def _timeless(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _timeless(value) for name, value in data.items() if name not in _TIMES}
    return [_timeless(value) for value in data] if isinstance(data, list) else data


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:600]
