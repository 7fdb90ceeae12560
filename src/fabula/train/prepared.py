"""A new model as training needs it: on its device, attention on its road, what is asked for changed from outside."""

from __future__ import annotations

from fabula.device import Device
from fabula.model.kinds import AnyConfig, AnyModel, build_model
from fabula.train.config import TrainConfig
from fabula.train.precision import to_float8
from fabula.train.recomputing import recompute_blocks


def prepared(config: TrainConfig, model_config: AnyConfig, device: Device) -> tuple[AnyModel, list[str]]:
    """The model, its weights from torch's generator, and what is to be told about it."""
    model = build_model(model_config).to(device.torch)
    notes = [model.choose_path(device.name, config.isolate_documents)]
    if device.dtype == "float8":
        notes.append(f"float8: {len(to_float8(model))} linear layers of the blocks")
    if config.recompute:
        notes.append(f"train.recompute: {recompute_blocks(model)} blocks keep their input alone")
    return model, notes
