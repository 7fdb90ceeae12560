"""How long is a run? What a user says, and the number of steps that it means.

A budget is a time ("5m", "90s", "1.5h"), or an amount ("200steps", "20Mtokens", "3epochs"). A time is turned into steps
by measuring this machine; the number is then fixed and written down, so that the schedule ends exactly at the end and a
resumed run is the same run.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from fabula.errors import InputError

Unit = Literal["seconds", "steps", "tokens", "epochs"]

_TIME = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SCALE = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount of one unit."""

    amount: float
    unit: Unit


def parse_budget(text: str) -> Budget:
    """A budget from what a user wrote.

    >>> parse_budget("5m")
    Budget(amount=300.0, unit='seconds')
    >>> parse_budget("20Mtokens")
    Budget(amount=20000000.0, unit='tokens')
    >>> parse_budget("200steps")
    Budget(amount=200.0, unit='steps')
    """
    compact = text.strip().lower().replace(" ", "").replace("_", "")
    # A comma stands between thousands only: "1,5h" is one and a half to half the world, and must not become 15.
    found = re.fullmatch(r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)([a-z]+)", compact, re.ASCII)
    if found and math.isfinite(float(found[1].replace(",", ""))):
        number, word = float(found[1].replace(",", "")), found[2]
        if word in _TIME and number > 0:
            return Budget(number * _TIME[word], "seconds")
        counted = re.fullmatch(r"([kmgb]?)(step|token|epoch)s?", word)
        if counted and number > 0:
            unit: Unit = {"step": "steps", "token": "tokens", "epoch": "epochs"}[counted[2]]  # type: ignore[assignment]
            return Budget(number * _SCALE[counted[1]], unit)
    raise InputError(
        f'"{text}" is not a budget; give a time (90s, 5m, 1.5h) or an amount (200steps, 20Mtokens, 3epochs) above 0'
    )


def steps_for(budget: Budget, tokens_per_step: int, epoch_tokens: int, step_seconds: float | None) -> tuple[int, str]:
    """The number of steps a budget means, at least 1, and the rule in words.

    `step_seconds` is the measured time of a step with its share of evaluation and saving; needed for times only.
    """
    if budget.unit == "steps":
        return max(1, round(budget.amount)), "given"
    if budget.unit == "seconds":
        if step_seconds is None:
            raise ValueError("a time budget needs a measured step")
        steps = max(1, int(budget.amount / step_seconds))
        return steps, f"{budget.amount:,.0f} s at {step_seconds * 1e3:,.1f} ms a step, measured here at the start"
    tokens = budget.amount if budget.unit == "tokens" else budget.amount * epoch_tokens
    steps = max(1, round(tokens / tokens_per_step))
    return steps, f"{tokens:,.0f} tokens at {tokens_per_step:,} a step"
