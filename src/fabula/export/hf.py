"""A folder of Hugging Face's format: read into a model of ours, written from one. Only JSON and safetensors are opened.

Nothing in such a folder is run: files of Python are left alone, `auto_map` (a model that needs its own code) is
refused, and so are weights that exist only as pickles. What is wrong is listed at once: keys of config.json that would
change the mathematics, tensors that are missing, left over, of another shape or not finite.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fabula import storage
from fabula.config import Data
from fabula.errors import ConfigError, DamagedError, InputError, nearest
from fabula.export.families import families
from fabula.export.family import Family, Row, to_ours, to_theirs, written
from fabula.export.fields import Theirs
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.kinds import ENCODER_DECODER, AnyConfig, build_model

if TYPE_CHECKING:
    from torch import Tensor

    from fabula.model.kinds import AnyModel

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GENERATION = "generation_config.json"
INDEX = "model.safetensors.index.json"
KIND = "huggingface"  # of the manifest of a folder that we wrote
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack"}
DTYPES = ("float32", "bfloat16", "float16")

# A header or a JSON file beyond this is none of a model of this size.
_MAX_JSON_BYTES = 64 << 20
# Problems of one sort that are written out.
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Foreign:
    """A model that was read from a folder of Hugging Face's format."""

    model: AnyModel
    config: AnyConfig
    family: Family
    dtype: str  # of the weights on the disk; they are float32 here, which holds each of them exactly
    config_json: Theirs
    notes: list[str] = field(default_factory=list)


def is_folder(path: Path) -> bool:
    """Whether a path looks like a folder of Hugging Face's format: neither a run nor a checkpoint of ours."""
    if not (path / CONFIG).is_file() or (path / "checkpoints").is_dir():
        return False
    manifest = path / storage.MANIFEST
    if manifest.is_file():
        said = storage.read_json(manifest)
        return isinstance(said, dict) and said.get("kind") == KIND
    try:
        said = storage.read_json(path / CONFIG)
    except DamagedError:
        return False
    return isinstance(said, dict) and ("model_type" in said or "architectures" in said)


def read_config(folder: Path) -> tuple[Family, Theirs]:
    """The family of a folder and its config.json; InputError when it is none that we know."""
    if not folder.is_dir():
        raise InputError(f"no model at {folder}: not a folder")
    theirs = read_json(folder / CONFIG)
    if theirs is None:
        raise InputError(f"{folder}: no {CONFIG}; not a folder of Hugging Face's format")
    problems = []
    if "auto_map" in theirs:
        problems.append("auto_map: the model needs code of its own, which is never run")
    if theirs.get("quantization_config"):
        problems.append("quantization_config: the weights are quantized; import the original ones")
    name, written = theirs.get("model_type"), theirs.get("architectures") or []
    if not isinstance(written, list):
        written = [written]
    names = {families.get(n).architecture: n for n in families}
    if name is None and len(written) == 1:
        name = names.get(str(written[0]))
    if not isinstance(name, str) or name not in families:
        problems.append(f"model_type {name!r} is not supported; {nearest(str(name), families)}")
    elif written and families.get(name).architecture not in written:
        problems.append(f"architectures is {written}, only {families.get(name).architecture} is supported for {name}")
    if problems:
        raise ConfigError(problems, str(folder / CONFIG))
    return families.get(str(name)), theirs


def read_json(path: Path) -> Data | None:
    """A JSON object; None when there is no such file, DamagedError when it is something else."""
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise DamagedError(f"{path}: larger than {_MAX_JSON_BYTES >> 20} MiB")
    data = storage.read_json(path)
    if not isinstance(data, dict):
        raise DamagedError(f"{path}: not a JSON object; the file is damaged")
    return data


def read(folder: Path) -> Foreign:
    """The model of a folder, in float32. InputError (all problems at once) when it has no exact meaning here,
    DamagedError when a file cannot be read."""
    import torch

    if (folder / storage.MANIFEST).is_file():
        try:
            storage.verify(folder)
        except DamagedError as error:
            raise DamagedError(
                f"{error}. If it was changed on purpose, remove {folder / storage.MANIFEST} and try again"
            ) from None
    family, theirs = read_config(folder)
    files, notes = _weight_files(folder)
    shapes, wrong = _headers(files, family)
    if family.kind == ENCODER_DECODER:
        theirs = _of_both_sides(theirs, shapes, folder)
    config = _settings(family, theirs, folder)
    _check_size(config, shapes, folder)
    with torch.device("meta"):
        model = build_model(config)
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    plan, doubled = _plan(family, config, shapes, own, wrong, notes)
    if wrong:
        raise ConfigError(wrong, f"{folder}: its weights are not those of its {CONFIG}")
    state, dtype = _fill(files, plan, doubled, own, wrong, notes)
    if wrong:
        raise ConfigError(wrong, str(folder))
    model.load_state_dict(state, assign=True)
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    assert not left, left  # families have no tables beside their weights
    return Foreign(model.eval(), config, family, dtype, theirs, notes)


def _settings(family: Family, theirs: Theirs, folder: Path) -> AnyConfig:
    try:
        config = to_ours(family, theirs)
        if isinstance(config, EncoderDecoderConfig):
            return dataclasses.replace(config, target_start=_target_start(theirs))
        return config
    except ConfigError as error:
        raise ConfigError(error.problems, f"{folder / CONFIG} ({family.name})") from None


def _of_both_sides(theirs: Theirs, held: Mapping[str, _Held], folder: Path) -> Theirs:
    """What an encoder-decoder's config.json leaves to other files: ids of tokens, and whether the head is tied.

    transformers 5 says that T5's always is, and knows better by the weights.
    """
    said = read_json(folder / GENERATION) or {}
    found = {**theirs, **{name: value for name, value in said.items() if name in _ROLES and value is not None}}
    if theirs.get("scale_decoder_outputs") is not None:
        found["tie_word_embeddings"] = "lm_head.weight" not in held
    # Where nothing is said T5's begin with padding, which is 0.
    found.setdefault("decoder_start_token_id", found.get("pad_token_id", 0))
    return found


_ROLES = {"decoder_start_token_id", "eos_token_id", "pad_token_id"}


def _target_start(theirs: Theirs) -> Literal["end_of_document", "padding"]:
    """The role of the id that a target begins with; ConfigError when it has none that is known here."""
    end, padding = theirs.get("eos_token_id", 1), theirs.get("pad_token_id", 0)
    end = end[0] if isinstance(end, list) and end else end
    start = theirs["decoder_start_token_id"]
    if start is not None and start == end:
        return "end_of_document"
    if start is not None and start == padding:
        return "padding"
    problem = f"decoder_start_token_id is {start!r:.20}, neither pad_token_id ({padding!r:.20}) nor eos_token_id"
    raise ConfigError([f"{problem} ({end!r:.20}): with no other token a target begins here"], CONFIG)


def _weight_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The safetensors files of a folder, and notes on what else lies there."""
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    notes = [f"{name} is a pickle or holds code, and was not opened" for name in pickles]
    scripts = sorted(p.name for p in folder.glob("*.py"))
    notes += [f"{name} is code, and was not run" for name in scripts]
    index = read_json(folder / INDEX)
    if index is None and (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS], notes
    if index is None:
        found = f"; {', '.join(pickles)} are never opened: they may run code" if pickles else ""
        raise InputError(
            f"{folder}: no {WEIGHTS} and no {INDEX}{found}. Save the model with save_pretrained: it writes safetensors"
        )
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise DamagedError(f"{folder / INDEX}: not an index of weights")
    names = sorted(set(shards.values()))
    outside = [name for name in names if Path(name).name != name or Path(name).suffix != ".safetensors"]
    if outside:
        raise InputError(f"{folder / INDEX}: {outside[0]!r:.80} is no safetensors file in this folder")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConfigError([f"{name} is missing" for name in missing], str(folder))
    return [folder / name for name in names], notes


@dataclass(frozen=True, slots=True)
class _Held:
    """One tensor on the disk."""

    file: Path
    name: str  # as it stands in the file
    shape: tuple[int, ...]
    dtype: str


# A tensor of theirs with its place on the disk; and where tied weights were stored a second time, of what.
_Plan = list[tuple[Row, _Held]]
_Doubled = list[tuple[_Held, Row]]

# What safetensors calls the formats of numbers that we read.
_FORMATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def _headers(files: list[Path], family: Family) -> tuple[dict[str, _Held], list[str]]:
    """What tensors there are, by their full names; no weights are read."""
    held: dict[str, _Held] = {}
    wrong = []
    for file in files:
        with _opened(file) as content:
            for name in content.keys():  # noqa: SIM118 - it is not a dict
                part = content.get_slice(name)
                full = name if name.startswith((family.prefix, "lm_head.")) else family.prefix + name
                if full in held:
                    wrong.append(f"{name} stands in {held[full].file.name} and in {file.name}")
                held[full] = _Held(file, name, tuple(part.get_shape()), part.get_dtype())
    return held, wrong


def _opened(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{file}: not a safetensors file that can be read ({error})") from None


def _check_size(config: AnyConfig, held: dict[str, _Held], folder: Path) -> None:
    """InputError for a configuration far larger than its weights, before anything is built of it."""
    numbers = 0
    for tensor in held.values():
        size = 1
        for n in tensor.shape:
            size *= n
        numbers += size
    if config.n_layers > len(held) or config.n_params() > numbers + numbers // 8 + (1 << 20):
        raise InputError(
            f"{folder / CONFIG}: a model of {config.n_layers:,} layers and {config.n_params():,} numbers, but the "
            f"weights are {len(held):,} tensors of {numbers:,} numbers"
        )


def _plan(
    family: Family,
    config: AnyConfig,
    held: dict[str, _Held],
    own: dict[str, tuple[int, ...]],
    wrong: list[str],
    notes: list[str],
) -> tuple[_Plan, _Doubled]:
    """Which tensor on the disk is which of ours; what does not fit is appended to `wrong`."""
    rows = {row.theirs: row for row in family.rows_of(written(family, config), config)}
    twins = dict(family.twins)
    for twin, name in family.twins:  # of tied weights any may be the one that was kept
        if name in rows and name not in held and twin in held and twin not in rows:
            held = {**held, name: held[twin]}
    extra = [name for name in held if name not in rows]
    leftovers = [name for name in extra if re.fullmatch(family.leftovers, name)]
    doubled = [name for name in extra if twins.get(name) in rows]
    if leftovers:
        notes.append(f"{len(leftovers)} tensors that are no weights were left out ({leftovers[0]}, ...)")
    missing = [name for name in rows if name not in held]
    unknown = [name for name in extra if name not in leftovers and name not in doubled]
    _list(wrong, missing, "is missing")
    _list(wrong, unknown, "is not part of this model")
    plan, shapes, formats = [], [], []
    for name, row in rows.items():
        if name not in held:
            continue
        shape = _shape(row, own)
        if held[name].shape != shape:
            shapes.append(f"{name} has shape {held[name].shape}, {CONFIG} says {shape}")
        if held[name].dtype not in _FORMATS:
            formats.append(f"{name} has numbers of {held[name].dtype}; {', '.join(_FORMATS)} are read")
        plan.append((row, held[name]))
    _list(wrong, shapes)
    _list(wrong, formats)
    return plan, [(held[name], rows[twins[name]]) for name in doubled]


def _list(wrong: list[str], problems: list[str], what: str = "") -> None:
    """The first few of a sort, and how many there are more."""
    wrong += [f"{problem} {what}".rstrip() for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        wrong.append(f"and {len(problems) - _SHOWN} more tensors: {what or 'the same'}")


def _shape(row: Row, own: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of their tensor from those of ours."""
    parts = [_part_shape(name, own) for name in row.ours]
    joined = (sum(part[0] for part in parts), *parts[0][1:])
    return joined[::-1] if row.transposed else joined


def _part_shape(name: str, own: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of one of ours; a bias that the model lacks is as long as its weight has rows."""
    if name in own:
        return own[name]
    return own[name.removesuffix(".bias") + ".weight"][:1]


def _fill(
    files: list[Path],
    plan: _Plan,
    doubled: _Doubled,
    own: dict[str, tuple[int, ...]],
    wrong: list[str],
    notes: list[str],
) -> tuple[dict[str, Tensor], str]:
    """Our tensors in float32, and the format of theirs."""
    import torch

    state: dict[str, Tensor] = {}
    formats: Counter[str] = Counter()
    unsound = []
    for file in files:
        with _opened(file) as content:
            for row, held in plan:
                if held.file != file:
                    continue
                tensor: Tensor = content.get_tensor(held.name)
                formats[_FORMATS[held.dtype]] += tensor.numel()
                # A copy: what safetensors hands out may lie in the file.
                whole = (tensor.t() if row.transposed else tensor).to(torch.float32, copy=True).contiguous()
                if not bool(whole.isfinite().all()):
                    unsound.append(held.name)
                parts = whole.split([_part_shape(name, own)[0] for name in row.ours])
                state.update(zip(row.ours, (p.clone() if len(parts) > 1 else p for p in parts), strict=True))
    for held, row in doubled:
        with _opened(held.file) as content:
            first = state[row.ours[0]]
            if held.shape != tuple(first.shape) or not torch.equal(content.get_tensor(held.name).float(), first):
                wrong.append(f"{held.name} is tied to {row.theirs} by {CONFIG}, but differs from it")
    _list(wrong, unsound, "holds NaN or infinity")
    dtype = formats.most_common(1)[0][0]
    if len(formats) > 1:
        dtype = "float32"
        notes.append(f"weights in several formats ({', '.join(sorted(formats))}): an export writes float32")
    return state, dtype


# ---- writing ----------------------------------------------------------------------------------------------------


def tensors(family: Family, theirs: Theirs, model: AnyModel, dtype: str) -> dict[str, Tensor]:
    """A model's weights under their names, in their layout; biases that the class has and the model lacks are zeros."""
    import torch

    state = model.state_dict()
    own = {name: tuple(tensor.shape) for name, tensor in state.items()}
    made = {}
    for row in family.rows_of(theirs, model.config):
        parts = [state[name] if name in state else torch.zeros(_part_shape(name, own)) for name in row.ours]
        parts = [part.detach().cpu() for part in parts]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        whole = whole.t() if row.transposed else whole
        made[row.theirs] = whole.to(getattr(torch, dtype), copy=True).contiguous()
    return made


def config_json(family: Family, config: AnyConfig, dtype: str, tokens: Data) -> Theirs:
    """config.json; `tokens` are the ids of roles (eos_token_id, ...). Read alike by transformers 4 and 5."""
    theirs = to_theirs(family, config)
    return {**theirs, **tokens, "dtype": dtype, "torch_dtype": dtype, "use_cache": True}


def overflowing(made: dict[str, Tensor]) -> list[str]:
    """Tensors that became infinite by rounding (float16 ends at 65,504)."""
    return [name for name, tensor in made.items() if not bool(tensor.isfinite().all())]
