"""Damaged and foreign shards: found by their sizes at every open, by their hashes, by the ids in them (D7, D8)."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fabula import pipeline, storage
from fabula.data.loader import Loader
from fabula.data.shards import FORMAT, Shards, SplitWriter, dtype_for
from fabula.errors import DamagedError
from fabula.tokenizer.bpe import train_bpe
from tests import tiny

PAGE = 4096


def make(folder: Path, n_pages: int, vocab_size: int = 400, shards: int = 1) -> Path:
    """A data folder whose train files together have somewhat more than `n_pages` pages of ids."""
    chance = np.random.default_rng(0)
    with storage.publish(folder, manifest := _facts(vocab_size)) as building:
        splits = {}
        n_ids = n_pages * PAGE // dtype_for(vocab_size).itemsize
        for name, wanted in (("train", n_ids), ("validation", 5000)):
            with SplitWriter(building, name, vocab_size, 0, n_ids // shards) as writer:
                while writer.n_tokens <= wanted:
                    ids = chance.integers(1, vocab_size, size=int(chance.integers(1, 12)))
                    writer.add(ids, 3 * len(ids))
                splits[name] = writer.finish()
        manifest["splits"] = splits
    return folder


def _facts(vocab_size: int) -> dict[str, object]:
    dtype = dtype_for(vocab_size).str
    return {"format": FORMAT, "kind": "data", "tokenizer": "0" * 64, "vocab_size": vocab_size, "dtype": dtype}


# ---- D7 ----------------------------------------------------------------------------------------------------


@pytest.mark.row("D7", cases=10)
def test_another_tokenizer_of_equal_size_is_refused_before_the_first_step(
    copied_run: Path, tiny_texts: list[str], cases: int
) -> None:
    shutil.rmtree(copied_run / "checkpoints")
    steps = (copied_run / "metrics.jsonl").read_bytes()
    for case in range(cases):
        other = train_bpe(random.Random(case).sample(tiny_texts, 30), tiny.VOCABULARY)
        assert other.vocab_size == Shards(copied_run / "data").manifest["vocab_size"]
        other.save(copied_run / "tokenizer")
        with pytest.raises(DamagedError, match=r"made with another tokenizer"):
            pipeline.resume(copied_run)
        assert not list((copied_run / "checkpoints").glob("*"))
        assert (copied_run / "metrics.jsonl").read_bytes() == steps


@pytest.mark.row("D7", cases=10, nightly=100)
@pytest.mark.parametrize("vocab_size", [400, 70_000])
def test_a_patched_id_is_named_with_its_place(tmp_path: Path, vocab_size: int, cases: int) -> None:
    folder = make(tmp_path / "data", 8, vocab_size, shards=3)
    chance = random.Random(vocab_size)
    size = dtype_for(vocab_size).itemsize
    for _ in range(cases):
        path = chance.choice(sorted(folder.glob("train-*.tokens")))
        # What is before the first row of an epoch and after the last is not read.
        place = chance.randrange(16, path.stat().st_size // size - 40)
        bad = chance.randrange(vocab_size, 1 << 8 * size)
        with path.open("rb+") as file:
            file.seek(place * size)
            before = file.read(size)
            file.seek(place * size)
            file.write(bad.to_bytes(size, "little"))
        train = Shards(folder).train
        loader = Loader(train, 16, 0, True)
        where = f"{path}: the id at position {place:,} (byte {place * size:,}) is {bad:,}, the vocabulary"
        with pytest.raises(DamagedError, match=re.escape(where)):
            loader.batch(0, loader.n_rows)
        with pytest.raises(DamagedError, match=re.escape(where)):
            train.read(0, train.n_tokens)
        with path.open("rb+") as file:
            file.seek(place * size)
            file.write(before)


# ---- D8 ----------------------------------------------------------------------------------------------------


@pytest.mark.row("D8", cases=200, nightly=1000)
def test_a_cut_at_every_page_is_found_at_open(tmp_path: Path, cases: int) -> None:
    folder = make(tmp_path / "data", cases)
    path = folder / "train-00000.tokens"
    for page in reversed(range(cases)):
        os.truncate(path, page * PAGE)
        with pytest.raises(DamagedError, match=r"train-00000\.tokens"):
            Shards(folder)


@pytest.mark.row("D8", cases=20, nightly=100)
def test_a_cut_index_is_found_at_open(tmp_path: Path, cases: int) -> None:
    folder = make(tmp_path / "data", 2 * cases)
    path = folder / "train-00000.documents"
    assert path.stat().st_size > cases * PAGE
    for page in reversed(range(cases)):
        os.truncate(path, page * PAGE)
        with pytest.raises(DamagedError, match=r"train-00000\.documents"):
            Shards(folder)


@pytest.mark.row("D8", cases=300, nightly=1500)
def test_a_flipped_bit_is_found_by_verify(tmp_path: Path, cases: int) -> None:
    folder = make(tmp_path / "data", 20, shards=3)
    files = sorted(p for p in folder.iterdir() if p.name != storage.MANIFEST)
    storage.verify(folder)
    for case in range(cases):
        chance = random.Random(case)
        path = chance.choice(files)
        place, bit = chance.randrange(path.stat().st_size), 1 << chance.randrange(8)
        _flip(path, place, bit)
        with pytest.raises(DamagedError) as caught:
            storage.verify(folder)
        assert path.name in str(caught.value)
        _flip(path, place, bit)
    storage.verify(folder)


@pytest.mark.row("D8", cases=30, nightly=150)
def test_extended_and_zeroed_files_are_found(tmp_path: Path, cases: int) -> None:
    folder = make(tmp_path / "data", 20, shards=2)
    files = sorted(p for p in folder.iterdir() if p.name != storage.MANIFEST)
    for case in range(cases):
        chance = random.Random(case)
        path = chance.choice(files)
        whole = path.read_bytes()
        if case % 2:
            path.write_bytes(whole + chance.randbytes(chance.choice([1, 2, 16, PAGE])))
            with pytest.raises(DamagedError) as caught:
                Shards(folder)
        else:
            start = chance.randrange(len(whole) - 64)
            stop = min(len(whole), start + chance.choice([64, PAGE]))
            path.write_bytes(whole[:start] + bytes(stop - start) + whole[stop:])
            Shards(folder)  # of the right size
            with pytest.raises(DamagedError) as caught:
                storage.verify(folder)
        assert path.name in str(caught.value)
        path.write_bytes(whole)
    storage.verify(folder)


def _flip(path: Path, place: int, bit: int) -> None:
    with path.open("rb+") as file:
        file.seek(place)
        value = file.read(1)[0]
        file.seek(place)
        file.write(bytes([value ^ bit]))
