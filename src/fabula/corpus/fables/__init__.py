"""The built-in corpus: an offline generator of little fables about cooperation, in Spanish and in English.

The exact probability of every text is known, so the corpus has a known entropy: the limit that no model can
pass. See docs/fables.md.
"""

from __future__ import annotations

from .lots import ChoicePoint
from .plan import CHANCES, FEATURES, LANGUAGES, SETUPS
from .tale import (
    Derivation,
    EntropyEstimate,
    Fable,
    Fables,
    choice_points,
    entropy_estimate,
    parse,
    surprisal_bits,
)

__all__ = [
    "CHANCES",
    "FEATURES",
    "LANGUAGES",
    "SETUPS",
    "ChoicePoint",
    "Derivation",
    "EntropyEstimate",
    "Fable",
    "Fables",
    "choice_points",
    "entropy_estimate",
    "parse",
    "surprisal_bits",
]
