"""What is the server doing? Counters for Prometheus, in its text format (version 0.0.4)."""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence

# Upper ends of the classes of durations, in seconds.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Labels = tuple[tuple[str, str], ...]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# name -> kind and what it says
_KNOWN = {
    "fabula_requests_total": ("counter", "Requests that were answered, by route and status."),
    "fabula_tokens_total": ("counter", "Tokens that were read and written."),
    "fabula_texts_total": ("counter", "Texts that ended, by reason."),
    "fabula_refused_total": ("counter", "Texts that were refused because the queue was full."),
    "fabula_streams_dropped_total": ("counter", "Streams whose reader took nothing for too long."),
    "fabula_step_seconds": ("histogram", "A step: a token for every text that is written."),
    "fabula_first_token_seconds": ("histogram", "From a request's arrival to its first token."),
    "fabula_running": ("gauge", "Texts that are being read or written."),
    "fabula_waiting": ("gauge", "Texts that wait for a slot."),
    "fabula_connections": ("gauge", "Open connections."),
    "fabula_resident_bytes": ("gauge", "Memory of the process."),
    "fabula_info": ("gauge", "The version."),
}


class Metrics:
    """Counters and histograms; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, Labels], float] = defaultdict(float)
        self._classes: dict[tuple[str, Labels], list[int]] = {}
        self._sums: dict[tuple[str, Labels], float] = defaultdict(float)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name, _labels(labels)] += amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a duration to a histogram."""
        key = (name, _labels(labels))
        with self._lock:
            classes = self._classes.setdefault(key, [0] * (len(_SECONDS) + 1))
            classes[bisect.bisect_left(_SECONDS, seconds)] += 1
            self._sums[key] += seconds

    def value(self, name: str, **labels: str) -> float:
        """What a counter says; the sum over all that have these labels."""
        wanted = set(_labels(labels))
        with self._lock:
            return sum(v for (n, found), v in self._counts.items() if n == name and wanted <= set(found))

    def text(self, gauges: Iterable[tuple[str, dict[str, str], float]]) -> str:
        """Everything in Prometheus's format, with gauges that are read now."""
        with self._lock:
            samples: dict[str, list[str]] = defaultdict(list)
            for (name, labels), value in sorted(self._counts.items()):
                samples[name].append(_line(name, labels, value))
            for (name, labels), classes in sorted(self._classes.items()):
                samples[name] += _histogram(name, labels, classes, self._sums[name, labels])
        for name, said, value in gauges:
            samples[name].append(_line(name, _labels(said), value))
        lines = []
        for name, (kind, words) in _KNOWN.items():
            if samples[name]:
                lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}", *samples[name]]
        return "\n".join(lines) + "\n"


def _labels(given: dict[str, str]) -> Labels:
    return tuple(sorted(given.items()))


def _histogram(name: str, labels: Labels, classes: Sequence[int], total: float) -> list[str]:
    lines, so_far = [], 0
    for end, count in zip((*map(str, _SECONDS), "+Inf"), classes, strict=True):
        so_far += count
        lines.append(_line(f"{name}_bucket", (*labels, ("le", end)), so_far))
    return [*lines, _line(f"{name}_sum", labels, total), _line(f"{name}_count", labels, so_far)]


def _line(name: str, labels: Labels, value: float) -> str:
    said = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    shown = f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"
    return f"{name}{{{said}}} {shown}" if said else f"{name} {shown}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
