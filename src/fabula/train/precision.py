"""In which number format are the products of training made? In the one that measuring shows to be worth it.

Weights, gradients and what optimizers keep are float32 in every format (`check_masters`). Norms and the turn of RoPE
compute in float32 inside, whatever they are given.

    float32    always there
    bfloat16   products in 8 bits of mantissa, the range of float32: nothing to scale
    float16    products in 11 bits, a small range: the loss is scaled (`scaling.py`)
    float8     the blocks' linear layers through torchao, scaled for each tensor; everything else as in bfloat16
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from fabula.device import Device, choose
from fabula.errors import MachineError, require_extra
from fabula.plan.hardware import relative_time
from fabula.train.config import TrainConfig

# A shorter format is taken when its products need less than so much of float32's time: a step is more than products.
_WORTH = 0.67
# And refused on a processor, though asked for, when they need more than so much: noise of the machine is no reason.
_TOO_SLOW = 1.25
# Tensor cores for float8 came with this compute capability (Ada, Hopper).
_FLOAT8 = (8, 9)


def place(config: TrainConfig, dtype: str = "") -> Device:
    """Where a run computes and in which format, with both reasons.

    `dtype` is the format that the run already has, of one that is resumed. MachineError when the device or the format
    that the recipe asks for is not there, or would be slower than float32.
    """
    device = choose(config.device, config.threads)
    asked: Any = config.precision
    if asked == "auto" and dtype and not _missing(device, dtype):
        # What was measured then stays, so that a run is one thing from its beginning to its end.
        return replace(device, dtype=dtype, dtype_reason=f"{dtype}: what the run began with")
    chosen, reason = _measured(device) if asked == "auto" else _asked(device, asked)
    return replace(device, dtype=chosen, dtype_reason=reason)


Short = Literal["bfloat16", "float16", "float8"]


def _measured(device: Device) -> tuple[str, str]:
    """The fastest format for which nothing speaks."""
    # float16 where there is no bfloat16, as on V100 and T4: its scale is one more thing that moves.
    candidates: list[Short] = ["bfloat16", "float16"] if device.name == "cuda" else ["bfloat16"]
    told = []
    for dtype in candidates:
        missing = _missing(device, dtype)
        if missing:
            told.append(f"{dtype} {missing}")
            continue
        times = relative_time(device.name, dtype, device.threads)
        found = f"its products take {times:.2f} times as long as those of float32, measured here"
        if times <= _WORTH:
            return dtype, f"{dtype}: {found}"
        told.append(f"with {dtype} products take {times:.2f} times as long, measured here")
    return "float32", f"float32: {'; '.join(told)}"


def _asked(device: Device, dtype: Literal["float32"] | Short) -> tuple[str, str]:
    """The format that is asked for; MachineError when this machine does not have it or is slower with it."""
    if dtype == "float32":
        return dtype, "float32: asked for"
    missing = _missing(device, dtype)
    if missing:
        raise MachineError(f"train.precision: {dtype} {missing}; use --train.precision auto")
    if dtype == "float8":
        if importlib.util.find_spec("torchao") is None:
            raise require_extra("torchao", "train", "train.precision = float8")
        return dtype, "float8: asked for; products of the blocks, everything else in bfloat16"
    times = relative_time(device.name, dtype, device.threads)
    if device.name == "cpu" and times > _TOO_SLOW:
        raise MachineError(
            f"train.precision: products of {dtype} take {times:.1f} times as long as those of float32 on this "
            "processor (measured now), so every step would; use --train.precision auto"
        )
    return dtype, f"{dtype}: asked for; its products take {times:.2f} times as long as those of float32"


def _missing(device: Device, dtype: str) -> str:
    """Why a format is not there on a device; empty when it is."""
    import torch

    if dtype == "float8":
        if device.name != "cuda":
            return f"needs an NVIDIA card of compute capability 8.9 or higher, this is {device.name}"
        found = torch.cuda.get_device_capability()
        if found < _FLOAT8:
            return f"needs compute capability 8.9 or higher, this card has {found[0]}.{found[1]}"
    if dtype == "bfloat16" and device.name == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "has no units on this card"
    return ""


def to_float8(model: nn.Module, emulate: bool = False) -> list[str]:
    """Let the linear layers of the blocks make their products in float8; returns the names of those layers.

    Scaled for each tensor anew (torchao's dynamic scaling, the recipe of arXiv:2209.05433). Their weights stay the
    float32 parameters that they were, under the same names. Layers whose sides are not multiples of 16 are left as they
    are: the hardware asks for that. `emulate` computes the same without the hardware, for tests.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    found: list[str] = []

    def fits(module: nn.Module, name: str) -> bool:
        # A router's scores decide; the head belongs to the loss.
        inside = "blocks." in name and not name.endswith("router")
        taken = inside and isinstance(module, nn.Linear) and not (module.in_features % 16 or module.out_features % 16)
        if taken:
            found.append(name)
        return taken

    convert_to_float8_training(model, module_filter_fn=fits, config=Float8LinearConfig(emulate=emulate))
    return found


def check_masters(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """TypeError when a trained parameter is not held in float32.

    In bfloat16 a step of less than 1/256 of a weight is lost to rounding, which is most of them (arXiv:1710.03740).
    """
    import torch

    for name, parameter in parameters:
        if parameter.is_floating_point() and parameter.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{name} is held in {str(parameter.dtype).removeprefix('torch.')}: trained weights are float32, "
                "products alone are shorter (Device.autocast)"
            )


__all__ = ["check_masters", "place", "to_float8"]
