"""What a mixture is made of: named components, each with its source and its share. Reads nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fabula.config import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureComponent:
    """One part of a mixture: [corpus.mixture.NAME]."""

    source: str = setting(doc="as corpus.source: a file, a folder, a pattern, fables:es; or several")
    weight: float = setting(0.0, "its share of the training tokens, compared with the others'; 0: by epochs")
    epochs: float = setting(1.0, "without weights: how often it is read in one epoch of the mixture")

    def __post_init__(self) -> None:
        if not self.source.strip(" ,"):
            raise ValueError(f"source={self.source!r} names nothing; give a file, a folder or fables:es")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight={self.weight} must be a number of at least 0; 0 leaves it to epochs")
        if not 0 < self.epochs <= 1000:
            raise ValueError(f"epochs={self.epochs} must be above 0 and at most 1000; leave the component out for 0")


def check(mixture: Mapping[str, MixtureComponent]) -> None:
    """ValueError for what contradicts itself."""
    for name in mixture:
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ValueError(f'mixture="{name}" must be a name of letters, digits and _, as in [corpus.mixture.tales]')
    weighted = [name for name, component in mixture.items() if component.weight]
    if weighted and len(weighted) < len(mixture):
        other = next(name for name in mixture if name not in weighted)
        raise ValueError(f"mixture={weighted[0]} has a weight and {other} has none; give all of them one, or none")
    if weighted and (counted := [name for name, component in mixture.items() if component.epochs != 1]):
        raise ValueError(f"mixture={counted[0]} has a weight and epochs; its weight says how often it is read")
