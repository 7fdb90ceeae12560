"""What does each variant get? The first variant's budget, once, as tokens or as FLOPs; and the same validation text.

What depends on this machine (how many steps fit a time, how many validation rows its share of the time) is measured
once for the first variant and written down: on a machine that others use too, a time would be another budget for each
run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fabula.config import Data
from fabula.data.loader import Loader, validation_rows
from fabula.data.shards import Shards
from fabula.device import choose
from fabula.model.config import ModelConfig
from fabula.progress import Progress
from fabula.recipe import Recipe
from fabula.train import run as train_stage
from fabula.train.budget import parse_budget
from fabula.train.config import TrainConfig

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

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    @property
    def flops(self) -> int:
        return self.tokens * self.training_flops_per_token

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
    epoch_rows = Loader(shards.train, context, loaded.seed, train.isolate_documents).n_rows
    rows = len(validation_rows(shards.validation, context))
    device = choose(train.device, train.threads)
    with progress.task("measuring this machine", None, ""):
        _, speed = train_stage.rehearse(train, model, loaded.generate, epoch_rows * context, device)
    plan = train_stage.make_plan(train, model, speed, epoch_rows, rows, loaded.generate)
    tokens = plan.steps * tokens_per_step(train, model)
    # "120: given" alone would not say of what.
    rule = f"{plan.steps:,} steps of {tokens_per_step(train, model):,} tokens"
    why = plan.rules["train.steps"].partition(": ")[2]
    if why != "given":
        rule += f" ({why})"
    if parse_budget(train.budget).unit == "seconds":
        rule += ", counted once, for the first variant, and fixed for all: a time is no fair budget between runs"
    return Budget(
        given=train.budget,
        match=match,
        tokens=tokens,
        flops=tokens * model.training_flops_per_token(),
        evaluation_tokens=plan.evaluation_rows * context,
        rule=rule,
    )


def tokens_per_step(train: TrainConfig, model: ModelConfig) -> int:
    """Tokens of one optimizer step: whole rows."""
    return max(1, train.batch_tokens // model.context_length) * model.context_length


def portion(budget: Budget, train: TrainConfig, model: ModelConfig) -> Portion:
    """A variant's whole number of steps that comes closest to the budget, at least one."""
    per_step = tokens_per_step(train, model)
    per_token = model.training_flops_per_token()
    steps = budget.flops / (per_step * per_token) if budget.match == "flops" else budget.tokens / per_step
    return Portion(
        parameters=model.n_params(),
        training_flops_per_token=per_token,
        tokens_per_step=per_step,
        steps=max(1, round(steps)),
        evaluation_rows=max(1, round(budget.evaluation_tokens / model.context_length)),
    )
