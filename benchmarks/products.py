"""A few rows by a matrix, as `F.linear` computes it (MKL) and by oneDNN: which reads a model's weights sooner?

    python benchmarks/products.py [--rows 1,4,32] [--threads 2] [--rounds 7]

As many matrices of a shape as no cache holds, one after the other, by both libraries in turn. Prints microseconds a
product (the median of the rounds), the ratio, and what the weights would take at 25 GB/s.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from fabula.generate.products import Linear, by_onednn

# Of alexandria-9m and lillm-39m.
SHAPES = (
    (256, 256), (1024, 256), (256, 1024), (8259, 256), (512, 512), (256, 512), (1408, 512), (512, 1408), (8192, 512),
)  # fmt: skip
BYTES = 100e6  # of the matrices of a shape


def microseconds(linear: Linear, x: torch.Tensor, weights: list[torch.Tensor]) -> float:
    begin = time.perf_counter()
    for weight in weights:
        linear(x, weight, None)
    return (time.perf_counter() - begin) / len(weights) * 1e6


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1,4,32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| matrix | rows | F.linear, us | oneDNN, us | ratio | at 25 GB/s |\n|---|---|---|---|---|---|")
    for out, width in SHAPES:
        size = 4 * out * width
        weights = [torch.randn(out, width) for _ in range(int(BYTES // size) + 1)]
        for rows in map(int, given.rows.split(",")):
            x, found = torch.randn(rows, width), ([], [])
            for _ in range(given.rounds):
                for times, linear in zip(found, (F.linear, by_onednn), strict=True):
                    times.append(microseconds(linear, x, weights))
            usual, other = map(statistics.median, found)
            print(
                f"| {out} x {width} | {rows} | {usual:.0f} | {other:.0f} | {other / usual:.2f} | {size / 25e3:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
