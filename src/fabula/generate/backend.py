"""What must a model's runtime be able to do so that requests can be run on it?

A backend holds up to `capacity` sequences of ids, each with its memory, told apart by a number. It reads ids and says
what may come next. It knows no text, no sampling and no requests: `batch.py` runs those, on any backend. PyTorch's is
`decoding.py`; a compiled runtime offers the same.

Called from one thread. Logits are float32 on the CPU, (V) or more rows of it, and the caller's to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

Wanted = Literal["none", "last", "all"]


class Backend(Protocol):
    """Sequences of ids with a memory."""

    context_length: int  # most ids that a sequence holds
    vocab_size: int  # V, of the logits
    capacity: int  # most sequences at a time
    deterministic: bool  # whether the logits of a sequence are the same to the bit whatever stands beside it in `step`

    def open(self) -> int:
        """The number of a new sequence without ids; MachineError when `capacity` are open."""

    def length(self, sequence: int) -> int:
        """Ids that a sequence has read."""

    def read(self, sequence: int, ids: Sequence[int], wanted: Wanted = "last") -> Tensor | None:
        """Read ids on; returns what may follow the last of them (V), or each of them (n, V).

        ValueError, and nothing read, when they do not fit the context.
        """

    def step(self, sequences: Sequence[int], ids: Sequence[int]) -> Tensor:
        """One id for each of R different sequences; returns what may follow (R, V)."""

    def rewind(self, sequence: int, length: int) -> None:
        """Forget everything after the first `length` ids."""

    def copy(self, sequence: int, length: int) -> int:
        """The number of a new sequence that has read the first `length` ids of another; both go on apart."""

    def close(self, sequence: int) -> None:
        """Forget a sequence; its number may be given to another."""
