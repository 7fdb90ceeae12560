"""How would a run go whose data does not exist yet? Its plan and its speed, from real steps on made-up ids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fabula.device import Device
from fabula.generate.config import GenerateConfig
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.kinds import AnyConfig
from fabula.progress import StopFlag
from fabula.train.config import TrainConfig
from fabula.train.material import step_rows
from fabula.train.planning import Plan, make_plan
from fabula.train.rehearsal import made_up, peak_of_steps
from fabula.train.speed import Speed, speed_of


def forecast(
    config: TrainConfig,
    model_config: AnyConfig,
    sampling: GenerateConfig,
    epoch_tokens: int,
    device: Device,
    pair_tokens: tuple[float, float] = (0.0, 0.0),
    row_tokens: float = 0.0,
    longest: tuple[int, int] = (0, 0),
) -> tuple[Plan, Speed]:
    """The plan of a run whose data does not exist yet: real steps on made-up ids of an epoch of `epoch_tokens`.

    Of pairs these are those of the targets; `pair_tokens` are the mean lengths of a source and a target, and `longest`
    the longest: time is that of a usual batch, memory that of the one with the longest pairs. Rows of text have
    `row_tokens` predictions on average, the rest is padding; 0: context_length.
    """
    context = model_config.context_length
    if isinstance(model_config, EncoderDecoderConfig):
        row_tokens = min(pair_tokens[1], context)
        rows = step_rows(config, row_tokens)
        widths = [max(2, min(context, round(n))) for n in pair_tokens]
        batch = made_up(model_config, rows, (widths[0], widths[1]), config)
        ones = np.ones(model_config.vocab_size, dtype=np.int64)
        speed = speed_of(config, model_config, batch, batch, ones, device, StopFlag())
        epoch_rows = max(1, round(epoch_tokens / row_tokens))
        plan = make_plan(config, model_config, speed, epoch_rows, max(1, epoch_rows // 20), sampling, row_tokens)
        if longest[1]:
            wide = made_up(model_config, rows, longest, config)
            speed = replace(
                speed, peak_memory_bytes=peak_of_steps(config, model_config, wide, plan.micro_rows, device)[0]
            )
        return plan, speed
    row_tokens = row_tokens or context
    rows = step_rows(config, row_tokens)
    batch = made_up(model_config, rows, (0, context), config)
    lengths = np.ones(model_config.vocab_size, dtype=np.int64)
    speed = speed_of(config, model_config, batch, batch, lengths, device, StopFlag())
    epoch_rows = max(1, int(epoch_tokens / row_tokens))
    plan = make_plan(config, model_config, speed, epoch_rows, max(1, epoch_rows // 20), sampling, row_tokens)
    return plan, speed
