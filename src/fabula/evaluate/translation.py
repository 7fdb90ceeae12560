"""How good are translations (or summaries)? BLEU and chrF by sacrebleu, with every reference of a source.

BLEU: Papineni et al. 2002, Post 2018 (arXiv:1804.08771); chrF: Popović 2015. Both are of the whole set, 0 to 100; the
signature beside a figure says how it was counted, so that it compares with other people's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from fabula.config import Data
from fabula.errors import MachineError, require_extra


@dataclass(frozen=True, slots=True)
class Translated:
    """One source with what the model wrote for it and all references."""

    source: str
    text: str
    references: tuple[str, ...]
    score: float  # mean log-probability of a token as the search saw it, nats
    ended: bool  # False: cut at the length allowed

    def to_data(self) -> Data:
        return {
            "source": self.source,
            "text": self.text,
            "references": list(self.references),
            "score": self.score,
            "ended": self.ended,
        }


def require() -> None:
    """MachineError unless the library is there; before a run, not after hours of it."""
    if importlib.util.find_spec("sacrebleu") is None:
        raise _missing()


def bleu_and_chrf(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Data:
    """BLEU and chrF of `texts`, of which each has one or more `references`, with their signatures.

    {"bleu", "bleu_signature", "brevity_penalty", "length_ratio", "chrf", "chrf_signature"}. ValueError for no texts or
    a text without references; MachineError without sacrebleu.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise _missing() from None
    if not texts or len(texts) != len(references) or not all(references):
        raise ValueError("BLEU needs texts, and at least one reference for each")
    # sacrebleu wants one list for the first references of all, one for the second and so on; None where there is none.
    most = max(len(r) for r in references)
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    bleu, chrf = BLEU(), CHRF()
    first, second = bleu.corpus_score(list(texts), streams), chrf.corpus_score(list(texts), streams)
    return {
        "bleu": float(first.score),
        "bleu_signature": str(bleu.get_signature()),
        "brevity_penalty": float(first.bp),
        "length_ratio": float(first.ratio),
        "chrf": float(second.score),
        "chrf_signature": str(chrf.get_signature()),
    }


def _missing() -> MachineError:
    return require_extra("sacrebleu", "evaluate", "BLEU and chrF of translations")
