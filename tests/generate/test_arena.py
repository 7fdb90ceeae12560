"""Weights laid side by side: the same numbers, held once, and where they may be."""

from __future__ import annotations

import gc
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fabula.generate.arena import Arena
from fabula.generate.compiled import CompiledDecoder
from fabula.generate.ggml import Q8_0, q8_0_bytes, quantize
from fabula.generate.graphs import Weights
from fabula.model.decoder import Decoder
from fabula.model.presets import presets


@pytest.mark.parametrize("sizes", [(1, 63, 64, 65), (33 << 20, 7), (5, 31 << 20, 3 << 20, 40 << 20, 1)])
def test_pieces_are_aligned_and_apart(sizes: tuple[int, ...]) -> None:
    arena = Arena()
    pieces = [arena.take(size) for size in sizes]
    ends = sorted((piece.data_ptr(), piece.data_ptr() + len(piece)) for piece in pieces)
    assert [len(piece) for piece in pieces] == list(sizes)
    assert all(begin % 64 == 0 for begin, _ in ends)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ends))


def test_matrices_lie_one_below_the_other_and_are_held_once() -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(5, rows) for rows in (3, 4)]
    before = [linear.weight.detach().clone() for linear in linears]
    made = Arena().settle([linear.weight for linear in linears])
    assert torch.equal(made, torch.cat(before))
    assert [linear.weight.data_ptr() for linear in linears] == [made.data_ptr(), made.data_ptr() + 4 * 3 * 5]
    with torch.no_grad():
        linears[1].weight[0, 0] = 7
    assert made[3, 0] == 7


def test_other_numbers_are_copied_and_left_as_they_are() -> None:
    half = nn.Parameter(torch.randn(2, 4, dtype=torch.bfloat16))
    plain = torch.randn(3, 4)
    made = Arena().settle([half, plain])
    assert half.dtype == torch.bfloat16
    assert plain.data_ptr() != made[2:].data_ptr()
    assert torch.equal(made, torch.cat([half.detach().float(), plain]))


def test_blocks_are_not_written_past_their_room() -> None:
    with pytest.raises(ValueError, match="there is room for 5"):
        quantize(torch.ones(2, 64), torch.empty(5, dtype=torch.uint8))
    assert q8_0_bytes(2, 64) == 2 * 2 * 34
    assert Q8_0 == 8


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_model_computes_the_same_before_and_after(weights: Weights) -> None:
    """While the engine shares its weights, and when it is gone."""
    torch.manual_seed(0)
    model = Decoder(replace(presets.get("fabula-1m").config, vocab_size=64, tied=False)).eval()
    ids = torch.arange(40).remainder(64)[None]
    with torch.inference_mode():
        before = model.logits(model.hidden(ids))
        engine = CompiledDecoder(model, weights, threads=1)
        during = model.logits(model.hidden(ids))
        engine.release()
        del engine
        gc.collect()
        after = model.logits(model.hidden(ids))
    assert torch.equal(before, during)
    assert torch.equal(before, after)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of its pages")
def test_a_large_piece_gets_large_pages_where_they_are_given() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.is_file() or "[never]" in setting.read_text():
        pytest.skip("this system gives no large pages")
    piece = Arena().take(64 << 20)
    piece.fill_(1)
    flags, here = "", False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            begin, end = (int(part, 16) for part in first.split("-"))
            here = begin <= piece.data_ptr() < end
        elif here and first == "VmFlags:":
            flags = line
    assert " hg" in flags, flags
