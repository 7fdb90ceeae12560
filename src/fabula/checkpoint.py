"""The run folder and its checkpoints: safetensors and JSON, never pickle.

    runs/NAME/recipe.toml  tokenizer/  data/  checkpoints/step-NNNNNN/  metrics.jsonl  samples.jsonl  unapplied.jsonl
              summary.json  evaluation.json  emissions.json  trackers/  report/index.html  log.txt  run.lock

A checkpoint is a folder `model.safetensors  config.json  tokenizer.json  trainer.json  optimizer.safetensors
manifest.json`, published in one rename, valid if and only if its manifest verifies. It holds the tokenizer, so
weights and vocabulary cannot be mixed up. What the trainer wants to keep is opaque here: named tensors and plain
data. A model that was imported has no trainer: its manifest says its `origin` instead (decision 0014).
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabula import faults, storage
from fabula.config import Data
from fabula.errors import DamagedError, DivergedError, InputError
from fabula.model.kinds import AnyConfig, described, read
from fabula.tokenizer.base import FILE as TOKENIZER_FILE
from fabula.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from fabula.model.kinds import AnyModel

# Where runs are kept when nobody says.
RUNS = Path("runs")
FORMAT = 1
# Bytes of a checkpoint beside its tensors, generously: vocabulary, counters, generators, settings.
_SMALL_FILES = 1 << 20
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TRAINER = "trainer.json"
OPTIMIZER = "optimizer.safetensors"
FILES = (WEIGHTS, CONFIG, TOKENIZER_FILE, TRAINER, OPTIMIZER)
# What only a model that was trained here has; one that came from elsewhere says its origin in the manifest.
_OF_THE_TRAINER = (TRAINER, OPTIMIZER)
# Numbers in a table of positions, which a model may compute beside its weights.
_LARGEST_TABLE = 1 << 30


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
    def unapplied(self) -> Path:
        return self.root / "unapplied.jsonl"

    @property
    def verified(self) -> Path:
        return self.root / "verified.json"

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

    model: AnyModel
    config: AnyConfig
    tokenizer: Tokenizer
    checkpoint: Checkpoint


def save(
    folder: Path,
    step: int,
    model: AnyModel,
    tokenizer: Tokenizer,
    trainer: Data,
    tensors: Mapping[str, Tensor],
    facts: Data,
) -> Checkpoint:
    """Publish `folder/step-NNNNNN`; when this returns it is durable. Non-finite weights are refused."""
    weights = {name: t.detach().contiguous().cpu() for name, t in model.state_dict().items()}
    bad = [name for name, t in weights.items() if not bool(t.isfinite().all())]
    if bad:
        raise DivergedError(
            f"step {step}: {len(bad)} tensors hold NaN or infinity (first: {bad[0]}); not saved, and nothing older was "
            "touched. The run has diverged: begin another one with a lower learning rate (--train.optimizer.lr)"
        )
    kept = {name: t.detach().contiguous().cpu() for name, t in tensors.items()}
    manifest = {"format": FORMAT, "kind": "checkpoint", "step": step, "tokenizer": tokenizer.fingerprint, **facts}
    final = folder / f"step-{step:06d}"
    size = sum(t.numel() * t.element_size() for t in (*weights.values(), *kept.values())) + _SMALL_FILES
    storage.require_space(folder, size, f"the checkpoint of step {step:,}")
    with storage.publish(final, manifest) as building:
        write_tensors(building / WEIGHTS, weights)
        faults.point("checkpoint.weights")
        storage.write_json(building / CONFIG, described(model.config))
        tokenizer.save(building)
        storage.write_json(building / TRAINER, trainer)
        faults.point("checkpoint.trainer")
        write_tensors(building / OPTIMIZER, kept)
        faults.point("checkpoint.optimizer")
    faults.point("checkpoint.saved")
    return Checkpoint(final, storage.read_json(final / storage.MANIFEST))


def save_imported(final: Path, model: AnyModel, tokenizer: Tokenizer, origin: Data) -> Checkpoint:
    """Publish a checkpoint of a model that was not trained here: without a trainer, and with its `origin`.

    It is a MODEL as any other, but no run can be resumed from it.
    """
    weights = {name: t.detach().contiguous().cpu() for name, t in model.state_dict().items()}
    manifest = {"format": FORMAT, "kind": "checkpoint", "step": 0, "tokenizer": tokenizer.fingerprint, "origin": origin}
    size = sum(t.numel() * t.element_size() for t in weights.values()) + _SMALL_FILES
    storage.require_space(final.parent, size, "the imported model")
    with storage.publish(final, manifest) as building:
        write_tensors(building / WEIGHTS, weights)
        storage.write_json(building / CONFIG, described(model.config))
        tokenizer.save(building)
    return Checkpoint(final, storage.read_json(final / storage.MANIFEST))


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, readable by whoever may read the folder it is in: the library writes it for its owner alone.

    It says that it is of torch, which transformers asks for.
    """
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)


def _described(path: Path, manifest: Data) -> Checkpoint:
    """A checkpoint by its manifest; DamagedError when that is not what a checkpoint's says."""
    step, bits = manifest.get("step"), manifest.get("bits_per_byte")
    imported = isinstance(manifest.get("origin"), dict)
    needed = [name for name in FILES if not (imported and name in _OF_THE_TRAINER)]
    wrong = [f"no {name} in it" for name in needed if name not in manifest["files"]]
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        wrong.append("its step is no number")
    elif re.fullmatch(r"step-\d+", path.name) and _step_of(path) != step:
        wrong.append(f"it is that of step {step:,}")
    if bits is not None and (isinstance(bits, (bool, str, list, dict)) or not math.isfinite(bits)):
        wrong.append("its bits_per_byte is no number")
    if not isinstance(manifest.get("tokenizer"), str):
        wrong.append("it does not say its tokenizer")
    if wrong and manifest.get("format") == FORMAT:
        raise DamagedError(f"{path}: not a checkpoint: {'; '.join(wrong)}")
    return Checkpoint(path, manifest)


def checkpoints(run: Path) -> list[Checkpoint]:
    """The complete checkpoints of a run by step; sizes are checked, hashes when one is loaded."""
    return _complete_and_damaged(run)[0]


def _complete_and_damaged(run: Path) -> tuple[list[Checkpoint], dict[Path, str]]:
    """The complete checkpoints of a run by step, and what is wrong with the others."""
    found, damaged = [], {}
    folder = RunFolder(run).checkpoints
    for path in sorted(folder.glob("step-*")) if folder.is_dir() else []:
        try:
            found.append(_described(path, storage.verify(path, hashes=False)))
        except DamagedError as error:
            damaged[path] = str(error)
    return sorted(found, key=lambda c: c.step), damaged


def _step_of(path: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int("0" + "".join(filter(str.isdigit, path.name)))


def newest_sound(run: Path, note: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies by hash; newer ones that do not are set aside, and `note` is told.

    None when there is no checkpoint at all; DamagedError when there are some and none is sound, or when the newest
    sound one is of a format that this version does not read.
    """
    folder = RunFolder(run).checkpoints
    found = list(folder.glob("step-*")) if folder.is_dir() else []
    for path in sorted(found, key=_step_of, reverse=True):
        try:
            sound = _described(path, storage.verify(path))
        except DamagedError as error:
            aside = storage.set_aside(path)
            note(f"{error}; set aside as {aside.name}, the checkpoint before it is used")
            continue
        _check_format(sound)
        return sound
    if found:
        raise DamagedError(f"{run}: none of its {len(found)} checkpoints is sound; begin again with --fresh")
    return None


def _check_format(checkpoint: Checkpoint) -> None:
    found = checkpoint.manifest.get("format")
    if found != FORMAT:
        raise DamagedError(
            f"{checkpoint.path}: checkpoint format {found}, this version reads {FORMAT}; use the version of fabula "
            "that wrote it"
        )


def changed_environment(checkpoint: Checkpoint, present: Data) -> list[str]:
    """What differs between the environment that made a checkpoint and the present one, as "name: was -> is".

    While nothing does, a resumed run is bit-identical with one that was never stopped.
    """
    before = checkpoint.manifest.get("environment") or {}
    matters = (
        "torch",
        "instruction_set",
        "threads",
        "processes",
        "device",
        "dtype",
        "compiled",
        "cpu",
        "python",
        "fabula",
        "platform",
    )
    return [f"{n}: {before[n]} -> {present.get(n)}" for n in matters if n in before and before[n] != present.get(n)]


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
        run = Path(RUNS, path)
        near = f"; did you mean {run}?" if run.is_dir() else ""
        raise InputError(f"no model at {path}: neither a run folder nor a checkpoint{near}")
    remains = any((path / name).exists() for name in (*FILES, storage.MANIFEST))
    if re.fullmatch(r"step-\d+", path.name) or (remains and not RunFolder(path).checkpoints.is_dir()):
        manifest = storage.verify(path, hashes=False)
        if manifest.get("kind") != "checkpoint":
            raise InputError(
                f"{path}: neither a run folder nor a checkpoint (its manifest says: {manifest.get('kind')})"
            )
        return _described(path, manifest)
    chosen: Checkpoint | None
    if which in ("best", "last"):
        chosen = best(path) if which == "best" else last(path)
    else:
        wanted = which.removeprefix("step-").lstrip("0") or "0"
        steps = {str(c.step): c for c in checkpoints(path)}
        if wanted not in steps:
            # One that is there and damaged says what is wrong with it.
            for damaged in (p for p in _complete_and_damaged(path)[1] if str(_step_of(p)) == wanted):
                _described(damaged, storage.verify(damaged, hashes=False))
            raise InputError(f'{path}: no checkpoint "{which}"; there are: best, last, steps {", ".join(steps)}')
        chosen = steps[wanted]
    if chosen is None:
        there = list(RunFolder(path).checkpoints.glob("step-*"))
        if there:
            raise DamagedError(f"{path}: none of its {len(there)} checkpoints is complete")
        raise InputError(f"{path}: no checkpoints here; train first: fabula run RECIPE")
    return chosen


def load(path: Path, which: str = "best", note: Callable[[str], None] | None = None) -> Loaded:
    """Rebuild a model from a run or checkpoint folder; everything is verified by hash first.

    A damaged `best` or `last` of a run gives way to the one that comes next, and `note` is told (a warning without it);
    a checkpoint that was named itself and is damaged is refused.
    """
    from fabula.model.kinds import build_model

    checkpoint = find(path, which)
    if which in ("best", "last") and checkpoint.path != path:
        checkpoint = _sound(path, which, note)
    else:
        storage.verify(checkpoint.path)
    _check_format(checkpoint)
    config = _model_config(checkpoint)
    tokenizer = Tokenizer.load(checkpoint.path / TOKENIZER_FILE)
    if tokenizer.fingerprint != checkpoint.manifest["tokenizer"]:
        raise DamagedError(f"{checkpoint.path}: its tokenizer is not the one it was trained with")
    model = build_model(config)
    restore_weights(model, checkpoint)
    return Loaded(model.eval(), config, tokenizer, checkpoint)


def _model_config(checkpoint: Checkpoint) -> AnyConfig:
    """The settings of a checkpoint's model; DamagedError when they are none, or far too large for its weights."""
    path = checkpoint.path / CONFIG
    try:
        config = read(_with_new_names(storage.read_json(path)), str(path))
        n_params = config.n_params()
    except InputError as error:
        raise DamagedError(f"{error}; the file is damaged") from None
    size = (checkpoint.path / WEIGHTS).stat().st_size
    if n_params > size or config.context_length * config.d_model > size + _LARGEST_TABLE:
        raise DamagedError(
            f"{path}: a model of {n_params:,} numbers and a context of {config.context_length:,} tokens, but {WEIGHTS} "
            f"has only {size:,} bytes"
        )
    return config


def _with_new_names(data: Any) -> Any:
    """Settings as they are called today: before 0.1.0 was released, one bias stood for three."""
    attention = data.get("attention") if isinstance(data, dict) else None
    if not isinstance(attention, dict) or "qkv_bias" not in attention:
        return data
    kept = {name: value for name, value in attention.items() if name != "qkv_bias"}
    return {**data, "attention": {**kept, **dict.fromkeys(("q_bias", "k_bias", "v_bias"), attention["qkv_bias"])}}


def _sound(run: Path, which: str, note: Callable[[str], None] | None) -> Checkpoint:
    """The best or last checkpoint of a run that verifies by hash."""
    found, damaged = _complete_and_damaged(run)
    newest = found[-1].step if found else 0
    # Any of those that are not complete may have been the best one.
    problems = [problem for path, problem in damaged.items() if which == "best" or _step_of(path) > newest]
    if which == "best":
        # Worst first; those that were never measured before all others.
        found.sort(key=lambda c: (-math.inf if c.bits_per_byte is None else -c.bits_per_byte, c.step))
    for checkpoint in reversed(found):
        try:
            storage.verify(checkpoint.path)
        except DamagedError as error:
            problems.append(str(error))
            continue
        if problems:
            told = f"{'; '.join(problems)}; {checkpoint.path.name} is used instead"
            if note is None:
                warnings.warn(told, stacklevel=3)
            else:
                note(told)
        return checkpoint
    raise DamagedError(f"{run}: none of its checkpoints is sound: {'; '.join(problems)}")


def restore_weights(model: AnyModel, checkpoint: Checkpoint) -> None:
    """Fill a model's weights from a checkpoint; DamagedError listing what does not fit."""
    weights = _tensors(checkpoint.path / WEIGHTS)
    _compare(model, weights, checkpoint)
    model.load_state_dict(weights)


def _compare(model: AnyModel, weights: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """DamagedError listing the first five tensors that do not fit, and their number."""
    own = model.state_dict()
    wrong = [f"{n} is missing" for n in own if n not in weights]
    wrong += [f"{n} is not part of this model" for n in weights if n not in own]
    both = [(n, weights[n], t) for n, t in own.items() if n in weights]
    wrong += [f"{n} has shape {tuple(w.shape)}, the model {tuple(t.shape)}" for n, w, t in both if w.shape != t.shape]
    wrong += [
        f"{n} has numbers of {w.dtype}, the model {t.dtype}"
        for n, w, t in both
        if w.shape == t.shape and w.dtype != t.dtype
    ]
    if wrong:
        shown = "; ".join(wrong[:5])
        raise DamagedError(f"{checkpoint.path}: {len(wrong)} tensors do not fit: {shown}")


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; DamagedError when it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise DamagedError(f"{path}: missing; the folder is incomplete") from None
    except SafetensorError as error:
        raise DamagedError(f"{path}: not a safetensors file that can be read ({error})") from None


def trainer_data(checkpoint: Checkpoint) -> Data:
    """What the trainer kept as plain data."""
    data = storage.read_json(checkpoint.path / TRAINER)
    if not isinstance(data, dict):
        raise DamagedError(f"{checkpoint.path / TRAINER}: not what a trainer keeps; the file is damaged")
    return data


def trainer_state(checkpoint: Checkpoint) -> tuple[Data, dict[str, Any]]:
    """What the trainer kept: plain data and named tensors."""
    return trainer_data(checkpoint), dict(_tensors(checkpoint.path / OPTIMIZER))


def prune(run: Path, keep: int, known: storage.Known | None = None) -> list[Path]:
    """Remove all but the newest `keep` checkpoints and the best one; at least two are always kept.

    Only those that verify by hash count, and damaged ones are left where they are: whatever is wrong with the newest,
    a good one remains. Files that are `known` are not read again.
    """
    known = known or storage.Known()
    sound = []
    for checkpoint in checkpoints(run):
        try:
            storage.verify(checkpoint.path, known=known)
        except DamagedError:
            continue
        sound.append(checkpoint)
    measured = [c for c in sound if c.bits_per_byte is not None]
    top = min(measured, key=lambda c: (c.bits_per_byte, -c.step), default=None)
    kept = {c.path for c in sound[-max(2, keep) :]} | ({top.path} if top else set())
    removed = [c.path for c in sound if c.path not in kept]
    for path in removed:
        storage.remove(path)
    faults.point("checkpoint.pruned")
    return removed
