"""How many processor threads train fastest? Tried on the run's own steps, where the run is long enough to notice.

More threads are not always faster: a small step is over before all have begun, and on a machine that others use, one of
them waits. Every core is taken unless fewer are clearly faster, since numbers depend on the count to the last bit, and
the same recipe on the same machine should not come out differently for a little noise.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

# Fewer threads are taken when a step then takes less than so much of its time with all.
_CLEARLY = 0.9
# Steps with each count, and how much of the run trying may take.
_STEPS, _SHARE = 4, 0.01


def candidates(cores: int) -> list[int]:
    """Counts worth trying, all cores first.

    >>> candidates(8), candidates(2), candidates(1)
    ([8, 4, 1], [2, 1], [1])
    """
    return sorted({cores, max(1, cores // 2), 1}, reverse=True)


def fastest(
    counts: list[int], step: Callable[[int], float], run_seconds: Callable[[float], float]
) -> tuple[int, str] | None:
    """The count that trains fastest, and why; None when the run is too short to try.

    `step(count)` takes a step with so many threads and returns its seconds; `run_seconds(s)` says how long the run is
    when a step takes that long. Counts are tried in turn, so that a busy moment of the machine meets all of them.
    """
    if len(counts) < 2:
        return None
    first = min(step(counts[0]) for _ in range(2))  # the first one makes what the optimizer keeps
    # Of one thread a step may take as many times as long as there are threads now.
    most = _STEPS * sum(first * counts[0] / count for count in counts)
    if most > _SHARE * run_seconds(first):
        return None
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(_STEPS):
        for count in counts:
            times[count].append(step(count))
    found = {count: statistics.median(each) for count, each in times.items()}
    best = min(counts, key=lambda count: found[count])
    chosen = best if found[best] < _CLEARLY * found[counts[0]] else counts[0]
    told = ", ".join(f"{found[count] * 1e3:,.1f} ms with {count}" for count in counts)
    return chosen, f"{chosen}: a step takes {told} (measured here)"
