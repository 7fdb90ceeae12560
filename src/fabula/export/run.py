"""Stage: a model leaves for another format, or comes from one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fabula import checkpoint as checkpoints
from fabula import storage
from fabula.checkpoint import Checkpoint, Loaded
from fabula.config import Data, dump_json, setting
from fabula.errors import DamagedError, InputError
from fabula.export import families, gguf, gguf_check, hf, hf_tokenizer
from fabula.export.family import Family, twin, written
from fabula.export.hf_check import Comparison, check, require_transformers
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.kinds import AnyConfig
from fabula.progress import Progress

Dtype = Literal["auto", "float32", "bfloat16", "float16", "q8_0"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """What to write."""

    to: Literal["hf", "gguf"] = setting("hf", "the format: hf (Hugging Face), gguf (llama.cpp)")
    family: str = setting("auto", "the architecture; auto: the one that is exactly the model")
    dtype: Dtype = setting(
        "auto", "format of the weights (gguf: float32 or q8_0); auto: float32, or that in which they were imported"
    )

    def __post_init__(self) -> None:
        if self.family != "auto":
            families.families.get(self.family)
        fitting = ("auto", "float32", "q8_0") if self.to == "gguf" else ("auto", "float32", "bfloat16", "float16")
        if self.dtype not in fitting:
            raise ValueError(f"dtype={self.dtype}: --to {self.to} writes {', '.join(fitting[1:])}")


@dataclass(frozen=True, slots=True)
class Exported:
    """A folder, or a file of GGUF, that was written, reloaded and compared."""

    folder: Path
    family: str
    architecture: str
    dtype: str
    tensors: int
    bytes: int
    comparison: Comparison | gguf_check.Comparison
    notes: list[str] = field(default_factory=list)

    def to_data(self) -> Data:
        return {
            "folder": str(self.folder),
            "family": self.family,
            "architecture": self.architecture,
            "dtype": self.dtype,
            "tensors": self.tensors,
            "bytes": self.bytes,
            "compared": self.comparison.to_data(),
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class Imported:
    """A checkpoint that was made of another format."""

    checkpoint: Checkpoint
    family: str
    dtype: str
    n_params: int
    notes: list[str]

    def to_data(self) -> Data:
        return {
            "checkpoint": str(self.checkpoint.path),
            "family": self.family,
            "dtype": self.dtype,
            "parameters": self.n_params,
            "notes": self.notes,
        }


def run(config: ExportConfig, loaded: Loaded, out: Path, progress: Progress, replace: bool = False) -> Exported:
    """Write a model to a folder that `transformers` loads (or a file that llama.cpp does), and publish it once that was
    seen to be true.

    InputError when the model has no exact twin there (naming the fields in the way), when `out` exists, or when what
    was written is not the same; then there is no folder.
    """
    if config.to == "gguf":
        return _run_gguf(config, loaded, out, progress, replace)
    _refuse_existing(out, replace, hf.KIND)
    model, tokenizer = loaded.model, loaded.tokenizer
    origin = loaded.checkpoint.manifest.get("origin") or {}
    family, zeros = _family(config.family, loaded.config, origin)
    dtype = str(origin.get("dtype", "float32")) if config.dtype == "auto" else config.dtype
    pairs = loaded.config if isinstance(loaded.config, EncoderDecoderConfig) else None
    tokens = hf_tokenizer.token_ids(tokenizer, None if pairs is None else pairs.target_start)
    generation, notes = dict(tokens), []
    if pairs is not None and pairs.decoder_layers > pairs.encoder_layers:
        # Their cache has as many places as there are blocks that read (seen in 5.23); the others raise an IndexError.
        generation["use_cache"] = False
        notes.append(
            "use_cache is false in generation_config.json: transformers has no cache for more blocks that write than "
            "blocks that read"
        )
    theirs = hf.config_json(family, loaded.config, dtype, tokens)
    require_transformers()  # before gigabytes are written that could not be compared
    made = hf.tensors(family, theirs, model, dtype)
    lost = hf.overflowing(made)
    if lost:
        raise InputError(
            f"{len(lost)} tensors hold numbers too large for {dtype} (first: {lost[0]}); use --dtype bfloat16"
        )
    size = sum(t.numel() * t.element_size() for t in made.values())
    storage.require_space(out.parent, size + (4 << 20), "the exported model")
    manifest: Data = {"kind": hf.KIND, "family": family.name, "dtype": dtype, "tokenizer": tokenizer.fingerprint}
    with storage.publish(out, manifest) as building:
        with progress.task("writing", None, ""):
            texts = {
                hf.CONFIG: dump_json(theirs),
                hf.GENERATION: dump_json(generation),
                **hf_tokenizer.files(tokenizer, loaded.config.context_length, pairs is not None),
            }
            for name, text in texts.items():
                storage.write_text(building / name, text)
            checkpoints.write_tensors(building / hf.WEIGHTS, made)
        count = len(made)
        made.clear()  # room for theirs
        with progress.task("reading it with transformers and comparing", None, ""):
            comparison = check(building, model, tokenizer, dtype)
    if zeros:
        notes.append(f"{family.architecture} has biases that the model lacks; written as zeros: {', '.join(zeros)}")
    return Exported(out, family.name, family.architecture, dtype, count, size, comparison, notes)


def _run_gguf(config: ExportConfig, loaded: Loaded, out: Path, progress: Progress, replace: bool) -> Exported:
    """Write one file that llama.cpp loads, and publish it once that was seen to be true."""
    if out.suffix != ".gguf":
        raise InputError(f"{out}: --to gguf writes one file; give it a name that ends in .gguf")
    if out.exists() and not (replace and out.is_file()):
        raise InputError(f"{out} exists; name another file with --out, or replace it with --force")
    model, tokenizer = gguf.refuse_other_kinds(loaded.model), loaded.tokenizer
    family, zeros = _family(config.family, model.config, loaded.checkpoint.manifest.get("origin") or {})
    words = gguf.check(family, model.config, tokenizer)
    weights: gguf.Weights = "q8_0" if config.dtype == "q8_0" else "float32"
    theirs, model = written(family, model.config), model.cpu().float()
    storage.require_space(out.parent, 4 * model.config.n_params() + (4 << 20), "the exported model")
    with storage.replacing(out) as building:
        with progress.task("writing", None, ""):
            count, size = gguf.write(building, family, theirs, model, tokenizer, words, weights)
        with progress.task("reading it with llama.cpp and comparing", None, ""):
            comparison = gguf_check.check(building, model, tokenizer, weights)
    notes = []
    if zeros:
        notes.append(f"{family.architecture} has biases that the model lacks; written as zeros: {', '.join(zeros)}")
    if weights == "q8_0":
        notes.append("q8_0 rounds the weights to 8 bits: measure the file's quality before you publish it")
    return Exported(out, family.name, gguf.architecture(family), weights, count, size, comparison, notes)


def _family(wanted: str, config: AnyConfig, origin: Data) -> tuple[Family, list[str]]:
    """The family to write: the one asked for, the one that the model came from, or the first that it fits."""
    came_from = origin.get("family")
    if wanted == "auto" and came_from in families.families:
        family = families.families.get(str(came_from))
        problems, zeros = twin(family, config)
        if not problems:
            return family, zeros
    return families.fitting(config, None if wanted == "auto" else wanted)


def bring(folder: Path, out: Path, tokenizer: Path | None = None, replace: bool = False) -> Imported:
    """Make a checkpoint of a folder of Hugging Face's format.

    InputError with everything that has no exact meaning here, or when `out` exists.
    """
    _refuse_existing(out, replace, "checkpoint")
    loaded, notes = _foreign(folder, tokenizer)
    made = checkpoints.save_imported(out, loaded.model, loaded.tokenizer, loaded.checkpoint.manifest["origin"])
    origin = made.manifest["origin"]
    return Imported(made, origin["family"], origin["dtype"], loaded.config.n_params(), notes)


def open_model(path: Path, which: str = "best", note: Callable[[str], None] | None = None) -> Loaded:
    """The model of a run folder, a checkpoint folder or a folder of Hugging Face's format."""
    if not hf.is_folder(path):
        return checkpoints.load(path, which, note)
    loaded, notes = _foreign(path, None)
    for told in notes if note else []:
        assert note is not None
        note(told)
    return loaded


def _foreign(folder: Path, tokenizer: Path | None) -> tuple[Loaded, list[str]]:
    """A folder of Hugging Face's format as if it were a checkpoint of ours."""
    found = hf.read(folder)
    words = hf_tokenizer.read(folder, found.config_json, found.config.vocab_size, tokenizer)
    if isinstance(found.config, EncoderDecoderConfig):
        said, start = found.config_json["decoder_start_token_id"], words.special.of(found.config.target_start)
        if said != start:
            raise InputError(
                f"{folder}: what it writes begins with id {said} ({found.config.target_start}), but that of the "
                f"tokenizer is {start}"
            )
    notes = list(found.notes)
    if words.changes:
        notes.append(f"the tokenizer changes texts before it cuts them: {words.changes}")
    origin = {"format": hf.KIND, "family": found.family.name, "dtype": found.dtype}
    checkpoint = Checkpoint(folder, {"kind": hf.KIND, "step": 0, "tokenizer": words.fingerprint, "origin": origin})
    return Loaded(found.model, found.config, words, checkpoint), notes


def _refuse_existing(out: Path, replace: bool, kind: str) -> None:
    """InputError when there is something at `out`, unless it is of the same kind and to be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not replace:
        raise InputError(f"{out} exists; name another folder with --out, or replace it with --force")
    try:
        found = storage.read_json(out / storage.MANIFEST).get("kind") if out.is_dir() else None
    except (DamagedError, AttributeError):
        found = None
    if found != kind:
        raise InputError(f"{out} exists and is not what this command writes: it is not replaced, name another folder")


__all__ = ["ExportConfig", "Exported", "Imported", "bring", "open_model", "run"]
