"""What does each variant get? The first variant's budget, once, as tokens or as FLOPs; and the same validation text.

What depends on this machine (how many steps fit a time, how many validation rows its share of the time) is measured
once for the first variant and written down: on a machine that others use too, a time would be another budget for each
run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fabula.config import Data
from fabula.data.loader import Loader
from fabula.data.mixture import Feed
from fabula.data.shards import Shards
from fabula.model.config import ModelConfig
from fabula.progress import Progress
from fabula.recipe import Recipe, feed
from fabula.train.budget import parse_budget
from fabula.train.config import TrainConfig
from fabula.train.forecast import forecast
from fabula.train.material import step_rows
from fabula.train.planning import make_plan
from fabula.train.precision import place

Match = Literal["tokens", "flops"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What every variant gets. `evaluation_tokens` is the size of the fixed validation set, in the first's tokens."""

    given: str
    match: Match
    tokens: int  # of the first variant
    flops: int  # of the first variant's training
    evaluation_tokens: int
    rule: str


@dataclass(frozen=True, slots=True)
class Portion:
    """The budget in the terms of one variant."""

    parameters: int
    training_flops_per_token: int
    tokens_per_step: int
    steps: int
    evaluation_rows: int
    places_per_step: int = 0  # with padding, which costs as much as text; 0: there is none

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    @property
    def flops(self) -> int:
        return self.steps * (self.places_per_step or self.tokens_per_step) * self.training_flops_per_token

    def to_data(self) -> Data:
        return {
            "parameters": self.parameters,
            "training_flops_per_token": self.training_flops_per_token,
            "tokens_per_step": self.tokens_per_step,
            "steps": self.steps,
            "tokens": self.tokens,
            "flops": self.flops,
            "evaluation_rows": self.evaluation_rows,
        }


def settle(loaded: Recipe, model: ModelConfig, shards: Shards, match: Match, progress: Progress) -> Budget:
    """The budget of the first variant's recipe; takes some seconds, as real steps are timed."""
    train, context = loaded.train, model.context_length
    loader = _loader(loaded, model, shards)
    checker = Loader(shards.validation, context, loaded.seed, train.isolate_documents, Feed(loaded.data.packing))
    epoch_rows, rows = loader.n_rows, len(checker.fixed())
    device = place(train)
    with progress.task("measuring this machine", None, ""):
        _, speed = forecast(train, model, loaded.generate, epoch_rows * context, device, row_tokens=loader.row_tokens)
    plan = make_plan(train, model, speed, epoch_rows, rows, loaded.generate, loader.row_tokens)
    per_step = tokens_per_step(train, model, loader.row_tokens)
    tokens = plan.steps * per_step
    # "120: given" alone would not say of what.
    rule = f"{plan.steps:,} steps of {per_step:,} tokens"
    why = plan.rules["train.steps"].partition(": ")[2]
    if why != "given":
        rule += f" ({why})"
    if parse_budget(train.budget).unit == "seconds":
        rule += ", counted once, for the first variant, and fixed for all: a time is no fair budget between runs"
    return Budget(
        given=train.budget,
        match=match,
        tokens=tokens,
        flops=plan.steps * plan.batch_rows * context * model.training_flops_per_token(),
        evaluation_tokens=plan.evaluation_rows * context,
        rule=rule,
    )


def row_tokens(loaded: Recipe, model: ModelConfig, shards: Shards) -> float:
    """Predictions of a row of a variant's data, on average; the rest of it is padding."""
    return _loader(loaded, model, shards).row_tokens


def _loader(loaded: Recipe, model: ModelConfig, shards: Shards) -> Loader:
    train = loaded.train
    return Loader(shards.train, model.context_length, loaded.seed, train.isolate_documents, feed(loaded))


def tokens_per_step(train: TrainConfig, model: ModelConfig, row_tokens: float = 0.0) -> int:
    """Tokens of one optimizer step: whole rows, of `row_tokens` predictions each (0: of the whole context)."""
    each = row_tokens or model.context_length
    return round(step_rows(train, each) * each)


def portion(budget: Budget, train: TrainConfig, model: ModelConfig, row_tokens: float = 0.0) -> Portion:
    """A variant's whole number of steps that comes closest to the budget, at least one."""
    context = model.context_length
    per_step = tokens_per_step(train, model, row_tokens)
    places = step_rows(train, row_tokens or context) * context
    per_token = model.training_flops_per_token()
    steps = budget.flops / (places * per_token) if budget.match == "flops" else budget.tokens / per_step
    return Portion(
        parameters=model.n_params(),
        training_flops_per_token=per_token,
        tokens_per_step=per_step,
        steps=max(1, round(steps)),
        evaluation_rows=max(1, round(budget.evaluation_tokens / context)),
        places_per_step=places,
    )
