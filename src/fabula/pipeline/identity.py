"""Is it the same run? Which settings bear on what is trained, and how two of them differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from fabula.config import Data, to_data
from fabula.recipe import Recipe

# Settings that change how a run is done, not what comes out of it: they may differ between start and resume.
INCIDENTAL = (
    "device",
    "precision",
    "compile",
    "recompute",
    "threads",
    "keep",
    "log_every",
    "save_minutes",
    "save_steps",
    "failed_save",
    "parallel",
    "peer_timeout",
    "trackers",
    "tracking",
)

# Settings of optimizers that came later and by default change nothing: runs of before go on.
_LATER = ("cautious", "decay_tables", "base_width")


def settings_that_matter(loaded: Recipe) -> Data:
    """The [train] section without what may differ between two halves of the same run."""
    found = {name: value for name, value in to_data(loaded.train).items() if name not in INCIDENTAL}
    # Runs of before there were these settings go on.
    if not loaded.train.average.keeps:
        del found["average"]
    if not loaded.train.patience:
        del found["patience"]
    usual = to_data(type(loaded.train.optimizer)())
    found["optimizer"] = {n: v for n, v in found["optimizer"].items() if n not in _LATER or v != usual[n]}
    return found


def feeding(loaded: Recipe) -> Data:
    """How the data are read, where that is not as it always was: older runs go on."""
    found: Data = {}
    if loaded.data.packing != "concat":
        found["packing"] = loaded.data.packing
    if loaded.corpus.mixture:
        # What the data are made of is in the data; where that lay is of no account.
        parts = loaded.corpus.mixture
        found["mixture"] = {name: {"weight": parts[name].weight, "epochs": parts[name].epochs} for name in parts}
    return found


def completed(known: Mapping[str, Any], config: Any) -> Data:
    """What a run is known by of a section, and with it what is missing there and at its default in `config`.

    `config` is the section as it is now: settings that came after the run are then no difference.
    """
    found = dict(known)
    if known.get("kind", "") != to_data(config).get("kind", ""):
        return found
    present = to_data(config)
    for field in dataclasses.fields(config):
        value, was = getattr(config, field.name), known.get(field.name)
        if dataclasses.is_dataclass(value) and isinstance(was, Mapping):
            found[field.name] = completed(was, value)
        elif field.name not in known:
            factory = field.default_factory
            usual = field.default if factory is dataclasses.MISSING else factory()
            found[field.name] = present[field.name] if value == usual else was
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """What two nested tables have different: dotted name, old value, new value."""
    for name in [*old, *(n for n in new if n not in old)]:
        was, now = old.get(name), new.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from differences(was, now, f"{prefix}{name}.")
        elif was != now:
            yield f"{prefix}{name}", was, now


def is_incidental(key: str) -> bool:
    """Whether a setting, by its dotted name, changes how a run is done and not what comes out of it."""
    section, _, name = key.replace("-", "_").partition(".")
    return section == "train" and name.split(".")[0] in INCIDENTAL
