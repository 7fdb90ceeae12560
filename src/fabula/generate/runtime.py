"""Which engine generates: PyTorch, which has every architecture, or the compiled one, and why?

`auto` takes the compiled one wherever it can: on a CPU, for a decoder whose every part has a form there, with the extra
installed. Before it is used it has to give the PyTorch model's logits for a few ids; what does not is never used.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from fabula.device import Device
from fabula.errors import InputError, MachineError, nearest
from fabula.generate.compiled import CompiledDecoder
from fabula.generate.graphs import Weights, in_the_way
from fabula.model.decoder import Decoder
from fabula.model.kinds import AnyModel

EngineName = Literal["auto", "torch", "compiled"]

# Ids whose logits are compared, and how far they may lie apart as a share of their length.
_PROBE = 8
_SHARES: dict[Weights, float] = {"float32": 1e-4, "int8": 0.25}


def choose_engine(
    model: AnyModel, device: Device, name: str = "auto", weights: str = "float32", n_ids: int | None = None
) -> tuple[CompiledDecoder | None, str]:
    """The compiled decoder, or None for PyTorch, and the reason.

    InputError or MachineError when the compiled one (or 8-bit weights, which only it has) is asked for and cannot be.
    """
    if name not in get_args(EngineName):
        raise InputError(f'unknown engine "{name}": {nearest(name, get_args(EngineName))}')
    if weights not in _SHARES:
        raise InputError(f'unknown weights "{weights}": {nearest(weights, _SHARES)}')
    kind: Weights = "int8" if weights == "int8" else "float32"
    if name == "torch":
        if kind != "float32":
            raise InputError(f"weights={weights}: only the compiled engine has them (engine = compiled)")
        return None, "asked for"
    try:
        return _compiled(model, device, kind, n_ids), "asked for" if name == "compiled" else "faster on a CPU"
    except (InputError, MachineError) as error:
        if name == "compiled" or kind != "float32":
            raise
        return None, str(error)


def _compiled(model: AnyModel, device: Device, weights: Weights, n_ids: int | None) -> CompiledDecoder:
    if device.name != "cpu":
        raise InputError(f"the compiled engine runs on the CPU, not on {device.name}")
    if not isinstance(model, Decoder):
        raise InputError("the compiled engine runs decoders only")
    problems = in_the_way(model.config)
    if problems:
        raise InputError(f"the compiled engine does not cover this model: {'; '.join(problems)}")
    made = CompiledDecoder(model, weights, device.threads, n_ids=n_ids)
    try:
        apart = _apart(made, model)
    except BaseException:
        made.release()
        raise
    if not apart <= _SHARES[weights]:
        made.release()
        raise MachineError(
            f"the compiled engine gives other logits than the model here (apart by {apart:.2g} of their length)"
        )
    return made


def _apart(made: CompiledDecoder, model: Decoder) -> float:
    """The length of the difference of logits, read at once and then stepped, as a share of theirs."""
    n = min(_PROBE, model.config.context_length)
    ids = [i * 7919 % model.config.vocab_size for i in range(n)]
    was_training = model.training
    with torch.inference_mode():
        expected = model.eval()(torch.tensor([ids]))[0, -1, : made.vocab_size]
    model.train(was_training)
    sequence, largest = made.open(), 0.0
    try:
        read = made.read(sequence, ids)
        assert read is not None
        found = [read]
        if n > 1:
            made.rewind(sequence, n - 1)
            found.append(made.step([sequence], ids[-1:])[0])
        for logits in found:
            largest = max(largest, float((logits - expected).norm() / expected.norm().clamp(min=1e-6)))
            if not bool(logits.isfinite().all()):
                return float("nan")
    finally:
        made.close(sequence)
    return largest
