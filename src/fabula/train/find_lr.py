"""Which learning rate suits this recipe? A range test on its own data and model (Smith, 2015; arXiv:1506.01186).

The rates rise exponentially, all of an optimizer's together, from far too small to far too large, and the loss is
watched. What is learnt meanwhile is thrown away. The result is plain data: points, a suggestion, and its rule in words.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fabula.config import Data, setting, to_data
from fabula.data.mixture import Feed
from fabula.data.shards import Shards
from fabula.device import environment, seed_everything
from fabula.errors import InputError
from fabula.model.kinds import AnyConfig
from fabula.progress import Progress, StopFlag
from fabula.tokenizer.base import Tokenizer
from fabula.train.config import TrainConfig
from fabula.train.material import material
from fabula.train.precision import place
from fabula.train.prepared import prepared
from fabula.train.schedules import ScheduleConfig
from fabula.train.speed import objective_of
from fabula.train.trainer import BatchSource, Trainer

# The suggestion is the rate at which this share of the fall is made: nearer to the bottom the curve is flat, and where
# the bottom is says little (docs/log.md).
SHARE = 0.8

# The fall ends at the bottom of the first valley, and a valley where the smoothed loss has risen by this share of the
# fall: where weights are normalised it may fall again at absurd rates, which nobody wants.
_RISE = 0.03

# Fewer points than this are no curve.
_LEAST = 10

# Diverged: the loss has come back by this share of what it had fallen, or is above the first one by as many nats.
_BACK, _ABOVE = 0.5, 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class FindConfig:
    """How wide and how fine."""

    steps: int = setting(150, "steps of the range test")
    low: float = setting(1e-3, "where it begins, times the recipe's rates")
    high: float = setting(1e2, "where it ends, times the recipe's rates")

    def __post_init__(self) -> None:
        if not 20 <= self.steps <= 100_000:
            raise ValueError(f"steps={self.steps} must be from 20 to 100,000")
        if not 0 < self.low < self.high:
            raise ValueError(f"low={self.low} must be above 0 and below high={self.high}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rising(ScheduleConfig):
    """From `low` to `high` times the rates, by the same factor at each step. No recipe can name it."""

    low: float
    high: float

    def multiplier(self, step: int, steps: int) -> float:
        return self.low * float((self.high / self.low) ** (step / (steps - 1)))


def run(
    find: FindConfig,
    config: TrainConfig,
    model_config: AnyConfig,
    tokenizer: Tokenizer,
    shards: Shards,
    *,
    seed: int,
    progress: Progress,
    stop: StopFlag,
    feed: Feed | None = None,
) -> Data:
    """Take the steps and read the curve. Nothing is written."""
    shards.check_tokenizer(tokenizer.fingerprint, tokenizer.vocab_size)
    device = place(config)
    made = material(config, model_config, tokenizer, shards, seed, feed)
    seed_everything(seed)
    model, _ = prepared(config, model_config, device)
    source: BatchSource = made.loader
    trainer = Trainer(
        model=model,
        objective=objective_of(model_config),
        optimizers=config.optimizer.build(model),
        schedule=Rising(low=find.low, high=find.high),
        source=source,
        steps=find.steps,
        batch_rows=made.rows,
        micro_rows=min(made.rows, config.micro_rows or made.rows),
        clip=config.clip,
        device=device,
        stop=stop,
        note=progress.note,
    )
    factors: list[float] = []
    losses: list[float] = []
    why = None
    batches = source.stream(0, made.rows, lambda: stop.check("looking for the learning rate"))
    with contextlib.closing(batches), progress.task("raising the rate", find.steps, "steps") as task:
        while why is None and len(losses) < find.steps:
            stop.check("looking for the learning rate")
            record = trainer.take_step(next(batches))
            factors.append(record.lr)
            losses.append(record.loss)
            task.advance(1, f"rates x {record.lr:.2g}, loss {record.loss:.3f}")
            why = diverged(losses)
    return {
        "optimizer": to_data(config.optimizer)["kind"],
        "rates": config.optimizer.rates(),
        "asked": to_data(find),
        "parameters": model_config.n_params(),
        "tokens_per_step": round(made.rows * made.row_tokens),
        "tokens": trainer.tokens,
        "seconds": trainer.seconds,
        "environment": environment(device),
        **read(factors, losses, why, config.optimizer.rates()),
    }


def read(factors: Sequence[float], losses: Sequence[float], why: str | None, rates: dict[str, float]) -> Data:
    """What a curve says: the points, where it is lowest and steepest, and the suggestion. InputError when nothing."""
    finite = [(f, x) for f, x in zip(factors, losses, strict=True) if math.isfinite(x)]
    if len(finite) < _LEAST:
        raise InputError(
            f"the loss was not finite after {len(finite)} steps at a thousandth of the recipe's rates: they are far "
            "too large; divide --train.optimizer.lr and its like by a thousand, and look again"
        )
    places, known = [f for f, _ in finite], [x for _, x in finite]
    curve = smoothed(known)
    noise = math.sqrt(math.fsum((x - s) ** 2 for x, s in zip(known, curve, strict=True)) / len(known))
    lowest = _valley(curve, noise)
    fell = curve[0] - curve[lowest]
    factor = None
    # A fall that is lost in the noise of single batches says nothing.
    if fell > max(2 * noise, 0.05):
        factor = next(f for f, s in zip(places, curve, strict=True) if s <= curve[0] - SHARE * fell)
    return {
        "points": [{"factor": f, "loss": x, "smoothed": s} for f, x, s in zip(places, known, curve, strict=True)],
        "stopped": why,
        "lowest": places[lowest],
        "fell": fell,
        "noise": noise,
        "suggestion": factor,
        "rule": _rule(factor, places[lowest], lowest == len(curve) - 1),
        "settings": {}
        if factor is None
        else {f"train.optimizer.{name}": _rounded(rate * factor) for name, rate in rates.items()},
    }


def _rule(factor: float | None, lowest: float, falling: bool) -> str:
    if factor is None:
        return "none: nowhere did the loss fall by more than twice the noise of single batches; give it more steps"
    told = (
        f"the recipe's rates times {factor:.2g}, where the smoothed loss had made {SHARE:.0%} of its fall (the fall "
        f"ended at {lowest:.2g}: nearer to that the curve is flat, and beyond it what was learnt is lost)"
    )
    return told + ("; the loss was still falling at the end of the range" if falling else "")


def _valley(curve: Sequence[float], noise: float) -> int:
    """Where the curve is lowest before it first rises by more than a little and more than by chance."""
    enough = max(_RISE * (curve[0] - min(curve)), 1.5 * noise, 0.02)
    lowest = 0
    for i, value in enumerate(curve):
        if value < curve[lowest]:
            lowest = i
        # At the very start, where nothing has been learnt, a rise is chance.
        elif lowest and value - curve[lowest] > enough:
            break
    return lowest


def smoothed(losses: Sequence[float]) -> list[float]:
    """Each loss's mean with its neighbours on both sides: the curve is not shifted towards larger rates."""
    reach = max(2, len(losses) // 25)
    windows = (losses[max(0, i - reach) : i + reach + 1] for i in range(len(losses)))
    return [math.fsum(window) / len(window) for window in windows]


def diverged(losses: Sequence[float]) -> str | None:
    """Why a range test ends here, or None: judged by the mean of the last few losses."""
    if not math.isfinite(losses[-1]):
        return "the loss was not finite"
    width = max(3, len(losses) // 15)
    if len(losses) < 3 * width:
        return None
    means = [math.fsum(losses[i - width : i]) / width for i in range(width, len(losses) + 1)]
    first, least, last = means[0], min(means), means[-1]
    if last > first + _ABOVE or (last - least > _BACK * (first - least) and last - least > _ABOVE):
        return f"the loss rose to {last:.2f} after {least:.2f}"
    return None


def _rounded(rate: float) -> float:
    """Two figures: more would pretend."""
    return float(f"{rate:.2g}")
