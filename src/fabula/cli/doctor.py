"""`fabula doctor`: what this machine and this installation can do, and what to do about what they cannot."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fabula.cli import console
from fabula.cli.recipes import Json

# Optional libraries: what they are for, and the extra that brings them.
_OPTIONAL = {
    "pyarrow": ("Parquet sources", "corpus"),
    "zstandard": (".zst sources", "corpus"),
    "transformers": ("exporting models", "export"),
    "codecarbon": ("measuring energy", "energy"),
    "tensorboard": ("the tracker tensorboard", "train"),
    "wandb": ("the tracker wandb", "train"),
    "comet_ml": ("the tracker comet", "train"),
    "trackio": ("the tracker trackio", "train"),
    "mlflow": ("the tracker mlflow", "train"),
}


def doctor(*, json: Json = False) -> None:
    """What this machine and this installation can do."""
    from fabula.device import choose, environment
    from fabula.plan import hardware

    device = choose()
    machine = hardware.measure(device, Path.cwd())
    facts = environment(device)
    missing = [name for name in _OPTIONAL if importlib.util.find_spec(name) is None]
    found = {
        **facts,
        "matmul_flops_per_second": machine.matmul_flops,
        "memory_bytes": machine.memory_bytes,
        "free_disk_bytes": machine.free_disk_bytes,
        "libraries": {name: _version(name) for name in ("torch", "tokenizers", "safetensors", "numpy", *_OPTIONAL)},
        "compiler": shutil.which("g++") or shutil.which("clang++"),
    }
    if json:
        console.out_json(found)
        return
    rows = [
        ("fabula", str(facts["fabula"])),
        ("python", str(facts["python"])),
        ("torch", f"{facts['torch']}, {facts['instruction_set']}"),
        ("device", f"{device.name}, {facts['dtype']} ({device.reason})"),
        ("processor", f"{facts['cpu']}, {device.threads} threads"),
        ("matrix products", f"{console.quantity(machine.matmul_flops)}FLOP/s measured"),
        ("memory", f"{console.n_bytes(machine.memory_bytes)} free"),
        ("disk", f"{console.n_bytes(machine.free_disk_bytes)} free here"),
        ("compiler", str(found["compiler"] or "none (torch.compile is not used)")),
    ]
    for name, (purpose, extra) in _OPTIONAL.items():
        rows.append(
            (name, f"missing: {purpose}; pip install 'fabula[{extra}]'" if name in missing else f"{_version(name)}")
        )
    console.out(console.table(rows))


def _version(name: str) -> str | None:
    for package in (name, f"{name}-skinny"):  # MLflow comes in two sizes
        with contextlib.suppress(PackageNotFoundError):
            return version(package)
    return None
