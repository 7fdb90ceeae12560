"""What is fixed before the first step: steps, rows, validation set, milestones. Pure: speeds in, a plan out.

A time budget's plan is settled once more, from the run's own first steps, and patience may end it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fabula.generate.config import GenerateConfig
from fabula.model.kinds import AnyConfig
from fabula.train.budget import Budget, parse_budget, steps_for
from fabula.train.callbacks import Latest, milestones
from fabula.train.config import TrainConfig
from fabula.train.material import step_rows
from fabula.train.speed import Speed


@dataclass(frozen=True, slots=True)
class Plan:
    """What was fixed before the first step. Rows are rows of context_length tokens."""

    steps: int
    batch_rows: int
    micro_rows: int
    evaluation_rows: int
    milestones: list[int]
    seconds: float  # of a time budget: what is left for steps; 0 for other budgets
    step_seconds: float  # a step, measured
    rules: dict[str, str]  # dotted name of a value to the sentence that explains it
    dtype: str = ""  # the format of the products; empty in runs that began before it was kept
    threads: int = 0  # as many as were measured to be fastest; 0: they were not measured
    compiled: bool = False
    planned_steps: int = 0  # what patience ended early was planned for so many steps; 0: nothing was ended


def make_plan(
    config: TrainConfig,
    model_config: AnyConfig,
    speed: Speed,
    epoch_rows: int,
    validation_rows: int,
    sampling: GenerateConfig,
    row_tokens: float = 0.0,
    spent: float = 0.0,
) -> Plan:
    """Fix the number of steps, the validation set and the milestones of a run.

    A row has `row_tokens` predictions on average; 0: context_length. `spent` are seconds of the budget that are gone.
    """
    context = model_config.context_length
    row_tokens = row_tokens or context
    rows = step_rows(config, row_tokens)
    step_tokens, epoch_tokens = round(rows * row_tokens), round(epoch_rows * row_tokens)
    budget = parse_budget(config.budget)
    pause = config.checkpoints * speed.pause(sampling, context)
    net = 0.0
    if budget.unit == "seconds":
        # What evaluation, samples and saves will take is set aside first; the rest is steps.
        net = max(budget.amount * 0.5, budget.amount * (1 - config.evaluation_share) - pause - spent)
        steps, rule = steps_for(Budget(net, "seconds"), step_tokens, epoch_tokens, speed.step)
        rule += f"; {budget.amount - net:,.0f} s of {budget.amount:,.0f} s set aside for evaluation, samples and saving"
    else:
        steps, rule = steps_for(budget, step_tokens, epoch_tokens, None)
    marks = milestones(steps, config.checkpoints)
    # Where a mean of weights is kept, the end of the run scores it and the last step's weights.
    times = len(marks) + config.average.keeps
    affordable = int(config.evaluation_share * steps * speed.step / times / speed.evaluation_row)
    evaluated = max(1, min(validation_rows, config.evaluation_rows or affordable))
    share = "given" if config.evaluation_rows else f"at most {config.evaluation_share:.0%} of the training time"
    rules = {
        "train.steps": f"{steps:,}: {rule}",
        "train.epochs": f"{steps * rows / epoch_rows:.2f} passes over {epoch_tokens:,} training tokens",
        "train.evaluation_rows": f"{evaluated:,} of {validation_rows:,} validation rows, {times} times: {share}",
    }
    # Fewer rows at once than were asked for, where memory has already shown to be short.
    micro_rows = min(rows, config.micro_rows or rows, speed.micro_rows or rows)
    if speed.micro_rows and micro_rows < min(rows, config.micro_rows or rows):
        rules["train.micro_rows"] = f"{micro_rows}: more rows at once did not fit into memory"
    return Plan(steps, rows, micro_rows, evaluated, marks, net, speed.step, rules)


def settled(plan: Plan, steps: int, step_seconds: float, config: TrainConfig) -> Plan:
    """A plan of other steps for the same time; scored rows follow the pace, so that their share of the time stays."""
    pace = 1.0 if config.evaluation_rows else min(1.0, plan.step_seconds / step_seconds)
    rows = max(1, round(plan.evaluation_rows * pace))
    rule = f"{steps:,}: {plan.seconds:,.0f} s at {step_seconds * 1e3:,.1f} ms a step, the pace of the first steps"
    rules = {**plan.rules, "train.steps": f"{rule}; before the run it was {plan.step_seconds * 1e3:,.1f} ms"}
    return replace(
        plan,
        steps=steps,
        evaluation_rows=rows,
        milestones=milestones(steps, config.checkpoints),
        step_seconds=step_seconds,
        rules=rules,
    )


def ended(plan: Plan, step: int, latest: Latest, rate: float, patience: int) -> Plan:
    """A plan that patience ended after a step; `rate` is the multiplier that the schedule had come down to.

    The schedule was made for the whole run and is cut off: that is said, and which run would have come down to its end.
    """
    told = (
        f"ended after {step:,} of {plan.steps:,} steps: {patience} evaluations in a row were not better than "
        f"{latest.best_bits_per_byte:.4f} bits per byte of step {latest.best_step:,}, which is what is kept as the best"
    )
    if rate > 0.1:
        told += (
            f". The learning rate was still at {rate:.0%} of its peak: a run planned to end about there "
            f"(--train.budget {latest.best_step}steps) comes down to its end and may be better"
        )
    marks = [mark for mark in plan.milestones if mark <= step]
    rules = {**plan.rules, "train.patience": told}
    return replace(plan, steps=step, milestones=marks, rules=rules, planned_steps=plan.steps)
