"""Where do weights lie that are read whole for every token? Side by side, on large pages where the system has them.

A processor finds memory by a table of pages and keeps a few thousand entries of it at hand: of a model of a gigabyte in
pages of 4 KiB it has to look up nearly every one again, and waits. Linux gives pages of 2 MiB to memory that asks for
them before it is first written; elsewhere the pages are what they are.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_PAGE = 2 << 20
# The memory that is asked for at once, if no single piece is larger. What is not written takes none.
_CHUNK = 32 << 20
# What vectors of any processor like, and ggml demands.
_ALIGNMENT = 64
# Of Linux: <sys/mman.h>.
_MADV_HUGEPAGE = 14


class Arena:
    """Memory that is handed out in pieces, one after the other, and given back when nobody holds a piece of it."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> Tensor:
        """`size` bytes (uint8, 1-D) with anything in them, at a multiple of 64."""
        whole = -(-size // _ALIGNMENT) * _ALIGNMENT
        if whole > len(self._free):
            self._free = _chunk(max(whole, _CHUNK))
        piece, self._free = self._free[:size], self._free[whole:]
        return piece

    def settle(self, weights: Sequence[Tensor]) -> Tensor:
        """The rows of matrices (rows, columns) one below the other, float32.

        What is a float32 parameter lies there from now on, so that nothing is held twice.
        """
        rows, columns = sum(len(weight) for weight in weights), weights[0].shape[1]
        made = self.take(4 * rows * columns).view(torch.float32).view(rows, columns)
        begin = 0
        for weight in weights:
            mine = made[begin : begin + len(weight)]
            mine.copy_(weight.detach())
            if isinstance(weight, nn.Parameter) and weight.dtype == torch.float32 and weight.device.type == "cpu":
                weight.data = mine
            begin += len(weight)
        return made


def _chunk(size: int) -> Tensor:
    """Memory that begins with a large page, and has asked for more of them."""
    memory = torch.empty(size + _PAGE, dtype=torch.uint8)
    begin = -memory.data_ptr() % _PAGE
    made = memory[begin : begin + size]
    if sys.platform == "linux":
        # A refusal (a system without large pages) leaves everything as it was.
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(made.data_ptr()), ctypes.c_size_t(size // _PAGE * _PAGE), ctypes.c_int(_MADV_HUGEPAGE)
        )
    return made


__all__ = ["Arena"]
