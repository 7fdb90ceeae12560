"""What would a run take? Pure arithmetic on a model's own prices and a measured step; every number carries its unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fabula.config import Data
from fabula.model.encdec import EncoderDecoderConfig
from fabula.model.kinds import AnyConfig

# Numbers that an optimizer keeps for a weight: of a matrix of the blocks, and of anything else. Adafactor's rows and
# columns are next to nothing.
_KEPT = {
    "adamw": (2, 2),
    "adam": (2, 2),
    "sgd": (1, 1),
    "lion": (1, 1),
    "muon": (1, 2),
    "sophia": (2, 2),
    "adafactor": (0, 0),
}


def state_bytes(model: AnyConfig, optimizer: str, averaged: bool = False) -> int:
    """Weights, gradients and what the optimizer keeps, in float32: 16 bytes a parameter with Adam, less with others.

    4 more where a mean of the weights is kept (`averaged`).
    """
    parts = model.parts()
    matrices = parts["attention"] + parts.get("cross-attention", 0) + parts["ffn"]
    inside, outside = _KEPT[optimizer]
    return 4 * ((2 + averaged) * model.n_params() + inside * matrices + outside * (model.n_params() - matrices))


# A process that has imported torch and taken a step of a tiny model on a CPU. A graphics card's share is not counted.
_PROCESS_BYTES = 340_000_000
# Numbers of the loss's chunks that it holds at once: logits, and their slopes.
_CHUNK_NUMBERS = 1 << 23
# What an allocator holds beside what is in use: the C library's keeps the holes between tensors that come and go,
# torch's for graphics cards keeps less. The first is measured (docs/log.md), the second is not yet.
_HELD_CPU, _HELD = 1.9, 1.1


def training_bytes(
    model: AnyConfig,
    optimizer: str,
    rows: int,
    lengths: tuple[int, int],
    width: int,
    cpu: bool,
    averaged: bool = False,
    recompute: bool = False,
) -> int:
    """The peak of a training step: the process, the state, what is kept for the backward pass, and its own needs.

    `rows` are computed at once; `lengths` are those of a source and a target (of a decoder: 0 and the context);
    `width` is the bytes of a number inside the model. With `recompute` blocks keep their input, and one of them at a
    time what it computes.
    """
    d = model.d_model
    kept = sum(length * _kept(model, reading) for length, reading in zip(lengths, (True, False), strict=True))
    if recompute:
        # The stream is float32 whatever the format.
        kept = kept // model.n_layers + sum(lengths) * d * model.n_layers * 4 // width
    # The backward pass of the widest part: the gradients of its hidden numbers, while its inputs are still there.
    passing = max(lengths) * (model.ffn.n_active_params(d) // d + 4 * d)
    # The last hidden states, their gradient and the norm before them are float32 whatever the format.
    head = 4 * lengths[1] * 3 * d
    loss = 4 * min(_CHUNK_NUMBERS, 2 * rows * lengths[1] * model.vocab_size)
    activations = round((_HELD_CPU if cpu else _HELD) * rows * (width * (kept + passing) + head)) + loss
    state = state_bytes(model, optimizer, averaged)
    return (_PROCESS_BYTES if cpu else 0) + state + _turning(model, optimizer) + activations


def _turning(model: AnyConfig, optimizer: str) -> int:
    """What Muon needs while it turns the matrices of one shape together: four copies of them."""
    parts = model.parts()
    attention = parts["attention"] + parts.get("cross-attention", 0)
    return 16 * max(attention, parts["ffn"]) if optimizer == "muon" else 0


def _kept(model: AnyConfig, reading: bool) -> int:
    """Numbers a token leaves in all layers for the backward pass (`reading`: those of an encoder).

    A layer keeps the input of each norm; queries, keys, values and what attention gave, each beside the matrix that
    made or takes it (queries and keys twice where they have norms of their own); of a feed-forward network the outputs
    of all matrices but the last. What lies between is made again.
    """
    d = model.d_model
    attention = model.attention.n_params(d) // d
    if getattr(model.attention, "qk_norm", False):
        attention += attention // 2
    matrices = model.ffn.n_matrices()
    ffn = model.ffn.n_active_params(d) // d * (matrices - 1) // matrices
    if isinstance(model, EncoderDecoderConfig):
        if reading:
            # The decoder's layers keep keys and values of what was read.
            return model.encoder_layers * (2 * d + attention + ffn) + model.decoder_layers * attention // 2
        return model.decoder_layers * (3 * d + attention + attention // 2 + ffn)
    return 0 if reading else model.n_layers * (2 * d + attention + ffn)


def utilisation(flops_per_token: float, tokens_per_second: float, peak_flops_per_second: float, devices: int) -> float:
    """Share of what the hardware could do that went into the model (MFU, arXiv:2204.02311).

    `tokens_per_second` are those of all `devices` together, `peak_flops_per_second` is that of one of them.
    """
    return flops_per_token * tokens_per_second / (peak_flops_per_second * devices)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run before it is spent."""

    parameters: int
    parts: dict[str, int]
    training_flops_per_token: int
    steps: int
    tokens_per_step: int
    epochs: float
    step_seconds: float
    seconds: float
    total_flops: float
    flops_per_second: float
    peak_flops_per_second: float
    weights_bytes: int
    state_bytes: int
    checkpoint_bytes: int
    cache_bytes: int
    head_share: float

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    @property
    def utilisation(self) -> float:
        """Share of the machine's measured matrix-product peak."""
        return utilisation(1.0, self.flops_per_second, self.peak_flops_per_second, 1)

    def to_data(self) -> Data:
        return {
            "parameters": self.parameters,
            "parts": self.parts,
            "training_flops_per_token": self.training_flops_per_token,
            "steps": self.steps,
            "tokens_per_step": self.tokens_per_step,
            "tokens": self.tokens,
            "epochs": self.epochs,
            "step_seconds": self.step_seconds,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_step / self.step_seconds,
            "total_flops": self.total_flops,
            "flops_per_second": self.flops_per_second,
            "peak_flops_per_second": self.peak_flops_per_second,
            "utilisation": self.utilisation,
            "weights_bytes": self.weights_bytes,
            "state_bytes": self.state_bytes,
            "checkpoint_bytes": self.checkpoint_bytes,
            "cache_bytes": self.cache_bytes,
            "head_share": self.head_share,
        }


def estimate(
    model: AnyConfig,
    *,
    optimizer: str,
    steps: int,
    batch_rows: int,
    epoch_tokens: int,
    step_seconds: float,
    overhead_seconds: float,
    peak_flops: float,
    row_tokens: float = 0.0,
    averaged: bool = False,
) -> Estimate:
    """Price a run. `overhead_seconds` is what evaluation, samples and saves take beside the steps.

    `row_tokens` are the predictions of a row, where these are not context_length (0); `averaged`: a mean of the weights
    is kept.
    """
    parameters = model.n_params()
    tokens_per_step = round(batch_rows * (row_tokens or model.context_length))
    length = max(1, round(row_tokens)) if row_tokens else model.context_length
    per_token = 3 * model.flops_per_token(length)
    state = state_bytes(model, optimizer, averaged)
    return Estimate(
        parameters=parameters,
        parts=model.parts(),
        training_flops_per_token=per_token,
        steps=steps,
        tokens_per_step=tokens_per_step,
        epochs=steps * tokens_per_step / max(1, epoch_tokens),
        step_seconds=step_seconds,
        seconds=steps * step_seconds + overhead_seconds,
        total_flops=float(per_token) * tokens_per_step * steps,
        flops_per_second=per_token * tokens_per_step / step_seconds,
        peak_flops_per_second=peak_flops,
        weights_bytes=4 * parameters,
        state_bytes=state,
        # Weights and moments; the gradient is not saved.
        checkpoint_bytes=state - 4 * parameters,
        cache_bytes=model.cache_bytes(),
        head_share=2 * model.d_model * model.vocab_size / model.flops_per_token(length),
    )


def advice(estimated: Estimate) -> list[str]:
    """Warnings about a plan, each with the way out."""
    found = []
    if estimated.head_share > 0.4:
        found.append(
            f"the vocabulary head takes {estimated.head_share:.0%} of the work; try a smaller --tokenizer.vocab_size"
        )
    if estimated.steps < 200:
        found.append(
            f"only {estimated.steps} steps: too few to learn; use a smaller model, --train.batch_tokens "
            f"{max(256, estimated.tokens_per_step // 2)}, or a longer budget"
        )
    if estimated.epochs > WORN:
        found.append(repeats("the text", estimated.epochs))
    return found


# Passes over one text until which repeating it is nearly as good as new text, and how slowly what a repeat is worth
# fades: both of Muennighoff et al. (2023), arXiv:2305.16264, the second their fitted R*.
WORN = 4
_FADES = 15.4


def worth(passes: float) -> float:
    """Passes over new text that teach as much as `passes` over the same text (the law of arXiv:2305.16264).

    >>> round(worth(4), 1), round(worth(40), 1)
    (3.7, 15.2)
    """
    again = max(0.0, passes - 1)
    return min(passes, 1.0) + _FADES * (1 - math.exp(-again / _FADES))


def repeats(what: str, passes: float, mixed: bool = False) -> str:
    """What to know, and to do, about a text that is read more than four times."""
    said = (
        f"{what} is read {passes:,.1f} times: beyond about {WORN} passes repeated text teaches less than new text "
        f"(Muennighoff et al. 2023: by their law these are worth {worth(passes):.1f} of new text), and the model "
        f"begins to learn it by heart. {passes / WORN:,.1f} times as much text would be read {WORN} times"
    )
    if mixed:
        return f"{said}; or give it a smaller weight (or epochs)"
    return (
        f"{said}; else take --train.budget {WORN}epochs, or let the validation text decide: --train.patience 3, "
        "--model.dropout 0.1"
    )
