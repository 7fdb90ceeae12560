"""The smallest of everything, for tests: a recipe that trains in a tenth of a second, and ways to run the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fabula.model.attention import GroupedQueryAttention
from fabula.model.config import ModelConfig
from fabula.model.ffn import SwigluFFN
from fabula.model.norms import RMSNormConfig
from fabula.model.positions import Rope

STEPS = 24
CONTEXT = 32
VOCABULARY = 320

# Its sitecustomize.py watches a process for pickle and network.
AUDIT = Path(__file__).parent / "audit"

# Everything that matters is written out: neither presets nor defaults may move what these tests see.
RECIPE = """
description = "the smallest run"

[corpus]
source = "fables:es"
documents = 60
validation = 0.2

[tokenizer]
vocab_size = 320

[model]
preset = "fabula-1m"
context_length = 32
d_model = 32
n_layers = 2
attention = { kind = "gqa", n_heads = 2, n_kv_heads = 1, head_dim = 16, qk_norm = true }
position = { kind = "rope", theta = 10000.0 }
ffn = { kind = "swiglu", d_ff = 64 }
norm = { kind = "rmsnorm", eps = 1e-6 }
tied = true
init = { linear = "fan_in", embedding_std = 0.02, output = "zero" }

[train]
budget = "24steps"
batch_tokens = 128
micro_rows = 0
clip = 1.0
isolate_documents = true
evaluation_share = 0.5
checkpoints = 4
keep = 2
log_every = 1
device = "cpu"
precision = "float32"
threads = 1
optimizer = { kind = "muon", lr = 0.02, momentum = 0.95, ns_steps = 5, weight_decay = 0.1, table_lr = 6e-3, \
vector_lr = 6e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8 }
schedule = { kind = "wsd", warmup = 0.1, final = 0.0, decay = 0.5 }

[evaluate]
validation_bytes = 2000

[generate]
max_new_tokens = 6
temperature = 0.7
prompts = ["El conejo", "Había una vez"]
"""


def model_config(**changes: object) -> ModelConfig:
    """Two layers of width 32."""
    settings: dict[str, object] = dict(
        vocab_size=VOCABULARY,
        context_length=CONTEXT,
        d_model=32,
        n_layers=2,
        attention=GroupedQueryAttention(n_heads=2, n_kv_heads=1, head_dim=16, qk_norm=True),
        position=Rope(theta=10_000.0),
        ffn=SwigluFFN(d_ff=64),
        norm=RMSNormConfig(eps=1e-6),
    )
    return ModelConfig(**{**settings, **changes})  # type: ignore[arg-type]


def write_recipe(folder: Path, text: str = RECIPE, name: str = "tiny.toml") -> Path:
    """The recipe as a file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def command(*arguments: object) -> list[str]:
    """The words that start `fabula` with these arguments."""
    return [sys.executable, "-m", "fabula", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """The environment of a command: one thread, and the audit of tests/audit in it and in all that it starts."""
    audit = os.pathsep.join(p for p in (str(AUDIT), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": audit, **changes}


def on_one_core() -> None:
    """Keep a process that is being started on one core (where the system can): its threads would only wait."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        os.sched_setaffinity(0, {cores[worker % len(cores)]})


def call(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[bytes]:
    """Run `fabula` as a process and wait for it."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        timeout=timeout,
        check=False,
        preexec_fn=on_one_core if os.name == "posix" else None,
    )


def tail(text: bytes | str, lines: int = 5) -> str:
    """The end of an output, for messages of failed tests."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return "\n".join(words.splitlines()[-lines:])


def same(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether two lists of numbers are equal to the last bit."""
    return len(left) == len(right) and all(a == b for a, b in zip(left, right, strict=True))
