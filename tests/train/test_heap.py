"""Memory that was freed is there for the next step, without the system's help."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Twenty tensors of 4 MB, filled and freed, three times; printed: pages the system had to provide in the last round.
_ROUNDS = """
import resource, sys, torch
if sys.argv[1] == "keep":
    from fabula.train.heap import keep_freed_memory
    if not keep_freed_memory():
        print("elsewhere")
        raise SystemExit
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(1_000_000) for _ in range(20)]
    del held
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(pages)
"""


def _pages(how: str) -> str:
    done = subprocess.run([sys.executable, "-c", _ROUNDS, how], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_there_for_the_next_step() -> None:
    kept = _pages("keep")
    if kept == "elsewhere":
        pytest.skip("another C library")
    # 80 MB are up to 20,000 pages; fewer where the system gives out several at a time.
    assert 10 * int(kept) < int(_pages("not"))
