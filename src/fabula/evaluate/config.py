"""How a finished model is scored: the [evaluate] section of a recipe. Imports no torch, so that help stays quick."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fabula.config import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """How a finished model is scored."""

    checkpoint: str = setting("best", "best, last or step-N of the run")
    stride: int = setting(0, "new tokens a window of a long document scores; 0: half the context")
    validation_bytes: int = setting(500_000, "bytes of validation text scored at the end of a run, about; 0: all")
    batch_rows: int = setting(16, "windows that are scored together, sources that are translated together")
    translations: int = setting(1000, "pairs: held-out sources that are translated for BLEU and chrF; 0: all")
    beams: int = setting(4, "pairs: texts that the search keeps; 1: greedy")
    length_penalty: float = setting(1.0, "pairs: scores of the search are divided by length^this")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"best|last|(step-)?\d+", self.checkpoint):
            raise ValueError(f'checkpoint="{self.checkpoint}" must be best, last or step-N')
        if not 1 <= self.beams <= 64:
            raise ValueError(f"beams={self.beams} must be from 1 (greedy) to 64; 4 is usual")
        for name in ("stride", "validation_bytes", "translations"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        if self.batch_rows < 1:
            raise ValueError(f"batch_rows={self.batch_rows} must be at least 1")
