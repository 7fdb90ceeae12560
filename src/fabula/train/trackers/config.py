"""Which trackers are there, which library does each need, and what may be said about them in a recipe?

`metrics.jsonl` is always written and is the truth; a tracker is a mirror of it. Nothing of a tracker's library is
imported here: it never is in the process that trains.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fabula.config import setting
from fabula.errors import nearest, require_extra
from fabula.registry import Registry

if TYPE_CHECKING:
    from fabula.train.trackers.adapters import Tracker

EXTRA = "train"

trackers: Registry[type[Tracker]] = Registry("tracker")
for _name, _class in (
    ("tensorboard", "TensorBoard"),
    ("wandb", "WeightsAndBiases"),
    ("comet", "Comet"),
    ("trackio", "Trackio"),
    ("mlflow", "MLflow"),
):
    trackers.add(_name, f"fabula.train.trackers.adapters:{_class}")

# What must be importable. MLflow keeps its runs in a database, for which its small package brings nothing.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "comet": ("comet_ml",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """What the trackers of `train.trackers` are told."""

    project: str = setting("fabula", "the project that the run is filed under")
    name: str = setting("", "what the run is called there; empty: as here")
    folder: str = setting("", "where local stores are; empty: trackers/ in the run folder, one store for each run")
    online: bool = setting(False, "send to the tracker's server (wandb, comet, trackio, mlflow) instead of keeping it")

    def __post_init__(self) -> None:
        if not self.project.strip():
            raise ValueError("project= must not be empty")


def check_names(names: Sequence[str]) -> None:
    """ValueError for a name that no tracker has, and for one that stands there twice."""
    for name in names:
        if name not in trackers:
            raise ValueError(f'trackers={list(names)}: unknown tracker "{name}": {nearest(name, trackers)}')
    if len(set(names)) < len(names):
        raise ValueError(f"trackers={list(names)}: a tracker is named twice")


def missing(name: str) -> str:
    """The library of a tracker that is not installed; empty when everything is there."""
    return next((library for library in LIBRARIES[name] if importlib.util.find_spec(library) is None), "")


def require(names: Sequence[str]) -> None:
    """MachineError, naming the extra, when a library of one of these trackers is missing; imports none of them."""
    for name in names:
        library = missing(name)
        if library:
            raise require_extra(library, EXTRA, f"train.trackers: {name}")
