"""Is this step a spike? Loss or gradient norm far above what the last steps were, in standard deviations.

Skipping such steps is an option (as OLMo-core's SkipStepOptimizer does). The window takes every finite value, also
those of skipped steps: after a lasting change of level it widens, so that training is never locked out.
"""

from __future__ import annotations

import math
from collections import deque

from fabula.config import Data

WINDOW = 128


class Spikes:
    """Remembers the last losses and norms and judges the next; `sigma` 0 judges nothing."""

    def __init__(self, sigma: float, window: int = WINDOW) -> None:
        self.sigma = sigma
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)

    def judge(self, loss: float, norm: float) -> str | None:
        """Why a step is a spike, or None. Both values must be finite; nothing is judged before the window is full."""
        if not self.sigma:
            return None
        found = None
        for name, value, known in (("loss", loss, self._losses), ("gradient norm", norm, self._norms)):
            if found is None and len(known) == known.maxlen:
                mean = math.fsum(known) / len(known)
                spread = math.sqrt(math.fsum((x - mean) ** 2 for x in known) / len(known))
                if value > mean + self.sigma * spread:
                    found = (
                        f"a spike: the {name} {value:.4g} is more than {self.sigma:g} standard deviations "
                        f"({spread:.3g}) above the mean of the last {len(known)} steps ({mean:.4g})"
                    )
            known.append(value)
        return found

    def state(self) -> Data:
        """The window as plain data."""
        return {"losses": list(self._losses), "norms": list(self._norms)}

    def restore(self, state: Data) -> None:
        """Continue from what `state` returned."""
        self._losses.extend(state["losses"])
        self._norms.extend(state["norms"])
