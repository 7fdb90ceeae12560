"""The run folder and its checkpoints: safetensors and JSON, never pickle.

    runs/NAME/recipe.toml  tokenizer/  data/  checkpoints/step-NNNNNN/  metrics.jsonl  samples.jsonl
              summary.json  evaluation.json  report/index.html  log.txt

A checkpoint is a folder `model.safetensors  config.json  tokenizer.json  trainer.json  optimizer.safetensors
manifest.json`, published in one rename, valid if and only if its manifest verifies. It holds the tokenizer, so
weights and vocabulary cannot be mixed up. What the trainer wants to keep is opaque here: named tensors and plain
data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabula import storage
from fabula.config import Data, build, to_data
from fabula.errors import DamagedError, FabulaError, InputError
from fabula.model.config import ModelConfig
from fabula.tokenizer.base import FILE as TOKENIZER_FILE
from fabula.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from fabula.model.decoder import Decoder

FORMAT = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TRAINER = "trainer.json"
OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The places of a run; creates nothing by itself."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.toml"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.root / "samples.jsonl"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def stages(self) -> Path:
        return self.root / "stages.json"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint on disk and what its manifest says."""

    path: Path
    manifest: Data

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def bits_per_byte(self) -> float | None:
        """Validation bits per byte when it was saved, where it was measured."""
        value = self.manifest.get("bits_per_byte")
        return None if value is None else float(value)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A rebuilt model with its tokenizer and the checkpoint it came from."""

    model: Decoder
    config: ModelConfig
    tokenizer: Tokenizer
    checkpoint: Checkpoint


def save(
    folder: Path,
    step: int,
    model: Decoder,
    tokenizer: Tokenizer,
    trainer: Data,
    tensors: Mapping[str, Tensor],
    facts: Data,
) -> Checkpoint:
    """Publish `folder/step-NNNNNN`; when this returns it is durable. Non-finite weights are refused."""
    from safetensors.torch import save_file

    weights = {name: t.detach().contiguous().cpu() for name, t in model.state_dict().items()}
    bad = [name for name, t in weights.items() if not bool(t.isfinite().all())]
    if bad:
        raise FabulaError(
            f"step {step}: {len(bad)} tensors hold NaN or infinity (first: {bad[0]}); not saved. The run has diverged: "
            "lower the learning rate (--train.optimizer.lr) and resume from the last good checkpoint"
        )
    manifest = {"format": FORMAT, "kind": "checkpoint", "step": step, "tokenizer": tokenizer.fingerprint, **facts}
    final = folder / f"step-{step:06d}"
    with storage.publish(final, manifest) as building:
        save_file(weights, building / WEIGHTS, metadata={"format": "pt"})
        storage.write_json(building / CONFIG, to_data(model.config))
        tokenizer.save(building)
        storage.write_json(building / TRAINER, trainer)
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, building / OPTIMIZER)
    return Checkpoint(final, storage.read_json(final / storage.MANIFEST))


def checkpoints(run: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run by step; sizes are checked, hashes when one is loaded."""
    found = []
    folder = RunFolder(run).checkpoints
    for path in sorted(folder.glob("step-*")) if folder.is_dir() else []:
        try:
            found.append(Checkpoint(path, storage.verify(path, hashes=False)))
        except DamagedError:
            continue
    return sorted(found, key=lambda c: c.step)


def newest_sound(run: Path, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies by hash; newer ones that do not are set aside, and `note` is told.

    None when there is no checkpoint at all; DamagedError when there are some and none is sound.
    """
    folder = RunFolder(run).checkpoints
    found = list(folder.glob("step-*")) if folder.is_dir() else []
    for path in sorted(found, key=lambda p: int("0" + "".join(filter(str.isdigit, p.name))), reverse=True):
        try:
            return Checkpoint(path, storage.verify(path))
        except DamagedError as error:
            aside = storage.set_aside(path)
            note(f"{error}; set aside as {aside.name}")
    if found:
        raise DamagedError(f"{run}: none of its {len(found)} checkpoints is sound; begin again with --fresh")
    return None


def last(run: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run."""
    found = checkpoints(run)
    return found[-1] if found else None


def best(run: Path) -> Checkpoint | None:
    """The checkpoint with the fewest validation bits per byte; the newest of equals; `last` if none was measured."""
    found = checkpoints(run)
    measured = [c for c in found if c.bits_per_byte is not None]
    if not measured:
        return found[-1] if found else None
    return min(measured, key=lambda c: (c.bits_per_byte, -c.step))


def find(path: Path, which: str = "best") -> Checkpoint:
    """The checkpoint that MODEL means: a checkpoint folder itself, or `best`, `last` or `step-N` of a run folder."""
    if not path.exists():
        raise InputError(f"no model at {path}: neither a run folder nor a checkpoint")
    if (path / WEIGHTS).exists() or (path / storage.MANIFEST).exists():
        manifest = storage.verify(path, hashes=False)
        if manifest.get("kind") != "checkpoint":
            raise InputError(
                f"{path}: neither a run folder nor a checkpoint (its manifest says: {manifest.get('kind')})"
            )
        return Checkpoint(path, manifest)
    chosen: Checkpoint | None
    if which in ("best", "last"):
        chosen = best(path) if which == "best" else last(path)
    else:
        wanted = which.removeprefix("step-").lstrip("0") or "0"
        steps = {str(c.step): c for c in checkpoints(path)}
        if wanted not in steps:
            raise InputError(f'{path}: no checkpoint "{which}"; there are: best, last, steps {", ".join(steps)}')
        chosen = steps[wanted]
    if chosen is None:
        damaged = list(RunFolder(path).checkpoints.glob("step-*"))
        if damaged:
            raise DamagedError(f"{path}: none of its {len(damaged)} checkpoints is complete")
        raise InputError(f"{path}: no checkpoints here; train first: fabula run RECIPE")
    return chosen


def load(path: Path, which: str = "best") -> Loaded:
    """Rebuild a model from a run or checkpoint folder; everything is verified by hash first."""
    from fabula.model.decoder import Decoder

    checkpoint = find(path, which)
    storage.verify(checkpoint.path)
    if checkpoint.manifest.get("format") != FORMAT:
        raise DamagedError(
            f"{checkpoint.path}: checkpoint format {checkpoint.manifest.get('format')}, this version reads {FORMAT}"
        )
    config = build(ModelConfig, storage.read_json(checkpoint.path / CONFIG), "config.json")
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_FILE)
    if tokenizer.fingerprint != checkpoint.manifest["tokenizer"]:
        raise DamagedError(f"{checkpoint.path}: its tokenizer is not the one it was trained with")
    model = Decoder(config)
    restore_weights(model, checkpoint)
    return Loaded(model.eval(), config, tokenizer, checkpoint)


def restore_weights(model: Decoder, checkpoint: Checkpoint) -> None:
    """Fill a model's weights from a checkpoint; DamagedError listing what does not fit."""
    from safetensors.torch import load_file

    weights = load_file(checkpoint.path / WEIGHTS)
    own = model.state_dict()
    wrong = [f"{n} is missing" for n in own if n not in weights]
    wrong += [f"{n} is not part of this model" for n in weights if n not in own]
    wrong += [
        f"{n} has shape {tuple(weights[n].shape)}, the model {tuple(t.shape)}"
        for n, t in own.items()
        if n in weights and weights[n].shape != t.shape
    ]
    if wrong:
        shown = "; ".join(wrong[:5])
        raise DamagedError(f"{checkpoint.path}: {len(wrong)} tensors do not fit: {shown}")
    model.load_state_dict(weights)


def trainer_state(checkpoint: Checkpoint) -> tuple[Data, dict[str, Any]]:
    """What the trainer kept: plain data and named tensors."""
    from safetensors.torch import load_file

    return storage.read_json(checkpoint.path / TRAINER), load_file(checkpoint.path / OPTIMIZER)


def prune(run: Path, keep: int) -> list[Path]:
    """Remove all but the newest `keep` checkpoints and the best one; at least two are always kept."""
    found = checkpoints(run)
    top = best(run)
    kept = {c.path for c in found[-max(2, keep) :]} | ({top.path} if top else set())
    removed = [c.path for c in found if c.path not in kept]
    for path in removed:
        storage.remove(path)
    return removed
