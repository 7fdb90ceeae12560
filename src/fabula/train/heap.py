"""What becomes of the memory that a step has freed? On Linux it stays with the process, for the next step.

A step frees nearly all that it has taken. glibc would give it back to the system, which hands it out anew page by page,
zeroed, at every step: on a CPU that can cost more than the arithmetic of norms and activations (docs/log.md). The most
that the process ever holds stays the same; it is given back when the process ends.
"""

from __future__ import annotations

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h), and the largest size it lets the heap serve.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 32 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Ask the C library to keep what is freed, in this process from now on; False where it is not glibc."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
