"""Batches of pairs: every pair once an epoch, a function of the position, nothing cut, little padding."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fabula import storage
from fabula.corpus.run import Corpus, CorpusConfig
from fabula.data import worker
from fabula.data.pairs import PairBatch, PairLoader
from fabula.data.run import QUARANTINE, DataConfig, run
from fabula.data.shards import Shards, Split, SplitWriter, dtype_for
from fabula.device import Device
from fabula.errors import DamagedError, InputError, Stopped
from fabula.losses import IGNORE
from fabula.progress import Silent, StopFlag, Task
from fabula.tokenizer.base import Tokenizer

EOD, PAD = 0, 1


def write(folder: Path, documents: list[list[int]], shard_tokens: int = 1 << 20) -> Split:
    folder.mkdir(parents=True, exist_ok=True)
    with SplitWriter(folder, "train", 400, EOD, shard_tokens) as writer:
        for ids in documents:
            writer.add(ids, len(ids))
        facts = writer.finish()
    return Split(folder, "train", facts, dtype_for(400), 400)


def numbered(n: int) -> list[list[int]]:
    """Pairs of different lengths whose source begins with their number."""
    return [ids for i in range(n) for ids in ([10 + i] + [2] * (i * 7 % 5), [3] * (i * 11 % 6))]


def rows_of(batch: PairBatch) -> list[tuple[list[int], list[int], list[int]]]:
    """Source, given and predicted ids of each row, without padding."""
    found = []
    for row in range(batch.source.shape[0]):
        length = int((batch.targets[row] != IGNORE).sum())
        source = batch.source[row, : batch.source_lengths[row]].tolist()
        found.append((source, batch.tokens[row, :length].tolist(), batch.targets[row, :length].tolist()))
    return found


# ---- batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_tokens", [1 << 20, 5])
def test_a_batch_of_a_literal_example(tmp_path: Path, shard_tokens: int) -> None:
    split = write(tmp_path, [[5, 6], [7, 8, 9], [], [4]], shard_tokens)
    batch = PairLoader(split, 8, 0, PAD).rows_at(np.array([0, 1]))
    assert batch.source.tolist() == [[5, 6, EOD], [EOD, PAD, PAD]]
    assert batch.source_lengths.tolist() == [3, 1]
    assert batch.tokens.tolist() == [[EOD, 7, 8, 9], [EOD, 4, PAD, PAD]]
    assert batch.targets.tolist() == [[7, 8, 9, EOD], [4, EOD, IGNORE, IGNORE]]
    assert batch.n_targets == 6


def test_rows_lose_columns_of_padding_and_nothing_else(tmp_path: Path) -> None:
    loader = PairLoader(write(tmp_path, numbered(12)), 16, 0, PAD)
    batch = loader.rows_at(np.arange(12))
    for start, stop in itertools.combinations(range(13), 2):
        part = batch.rows(start, stop)
        assert rows_of(part) == rows_of(batch)[start:stop]
        assert part.source.shape[1] == part.source_lengths.max()
        assert part.n_targets == sum(len(t) for _, _, t in rows_of(part))
    assert sum(batch.rows(i, i + 1).n_targets for i in range(12)) == batch.n_targets
    assert batch.to(Device("cpu", "float32", 1, "a test")) is batch


def test_ids_and_bytes_of_a_pair(tmp_path: Path) -> None:
    loader = PairLoader(write(tmp_path, [[5, 6], [7, 8, 9], [2], [4]]), 8, 0, PAD)
    assert loader.ids(0) == ([5, 6], [7, 8, 9])
    assert (loader.target_tokens, loader.target_bytes) == (6, 4)


# ---- order -------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 60), rows=st.integers(1, 9), seed=st.integers(0, 5), batches=st.integers(1, 40))
def test_every_pair_once_an_epoch(
    tmp_path_factory: pytest.TempPathFactory, n: int, rows: int, seed: int, batches: int
) -> None:
    split = write(tmp_path_factory.mktemp("pairs"), numbered(n))
    loader = PairLoader(split, 16, seed, PAD)
    seen = [source[0] - 10 for b in range(batches) for source, _, _ in rows_of(loader.batch(b * rows, rows))]
    assert len(seen) == rows * batches
    for epoch in range(len(seen) // n):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
    last = seen[len(seen) // n * n :]
    assert len(set(last)) == len(last)
    epochs = [e for b in range(batches) for e in loader.places(b * rows, rows)[0]]
    assert epochs == [i // n for i in range(rows * batches)]
    asked = [s for b in range(batches) for s in loader.places(b * rows, rows)[1]]
    assert [int(split.read(s + 1, 1)[0]) - 10 for s in asked] == seen


@given(n=st.integers(1, 80), rows=st.integers(1, 9), place=st.integers(0, 50))
def test_a_batch_is_a_function_of_its_position(
    tmp_path_factory: pytest.TempPathFactory, n: int, rows: int, place: int
) -> None:
    """Asked for first, after others, or by another loader: the same rows."""
    split = write(tmp_path_factory.mktemp("pairs"), numbered(n))
    used = PairLoader(split, 16, 3, PAD)
    for i in range(12):
        used.batch(i * rows, rows)
    again = PairLoader(split, 16, 3, PAD).batch(place * rows, rows)
    for a, b in zip(*([x.source, x.tokens, x.targets] for x in (used.batch(place * rows, rows), again)), strict=True):
        assert torch.equal(a, b)


def test_the_order_differs_between_epochs_and_seeds(tmp_path: Path) -> None:
    split = write(tmp_path, numbered(50))
    orders = [PairLoader(split, 16, seed, PAD).places(epoch * 50, 50)[1] for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(o) for o in orders}) == 4
    assert all(Counter(o) == Counter(orders[0]) for o in orders)


def test_the_stream_goes_on_from_any_place(tmp_path: Path) -> None:
    loader = PairLoader(write(tmp_path, numbered(23)), 16, 0, PAD)
    stream = loader.stream(0, 4)
    whole = [rows_of(next(stream)) for _ in range(20)]
    stream.close()
    for place in (0, 5, 13):
        stream = loader.stream(place * 4, 4)
        assert [rows_of(next(stream)) for _ in range(20 - place)] == whole[place:]
        stream.close()


def test_rows_of_a_batch_are_of_about_one_length(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(0, 40, (600, 1)) + np.random.default_rng(1).integers(0, 4, (600, 2))
    split = write(tmp_path, [[5] * int(n) for n in lengths.ravel()])
    loader = PairLoader(split, 64, 0, PAD)
    places = used = 0
    for first in range(0, 600, 20):
        batch = loader.batch(first, 20)
        places += batch.source.numel() + batch.tokens.numel()
        used += int(batch.source_lengths.sum()) + batch.n_targets
    assert loader.waste(20) == pytest.approx(1 - used / places)
    assert loader.waste(20) < 0.08
    unsorted = loader.rows_at(np.arange(600))
    assert (
        1
        - (int(unsorted.source_lengths.sum()) + unsorted.n_targets)
        / (unsorted.source.numel() + unsorted.tokens.numel())
        > 0.3
    )


def test_what_is_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    split = write(tmp_path, [[2] * 7, [3], [4], [3] * 7, [5], [6], [2] * 8, [3], [4], [3] * 8])
    loader = PairLoader(split, 8, 0, PAD)
    assert (loader.n_rows, loader.too_long) == (3, 2)
    assert loader.pairs.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="no pair that fits the context of 1 tokens"):
        PairLoader(split, 1, 0, PAD)


def test_a_fixed_set_is_spread_and_sorted_by_length(tmp_path: Path) -> None:
    loader = PairLoader(write(tmp_path, numbered(40)), 16, 0, PAD)
    assert sorted(loader.fixed().tolist()) == list(range(40))
    some = loader.fixed(10)
    assert sorted(some.tolist()) == list(range(0, 40, 4))
    longest = [int(max(loader._lengths[i])) for i in some]
    assert longest == sorted(longest)
    assert loader.fixed(10).tolist() == some.tolist()
    assert len(loader.fixed(99)) == 40


def test_texts_are_not_taken_for_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="odd number of documents"):
        PairLoader(write(tmp_path, [[2], [3], [4]]), 8, 0, PAD)


def test_a_damaged_id_is_found(tmp_path: Path) -> None:
    split = write(tmp_path, numbered(6))
    loader = PairLoader(split, 16, 0, PAD)
    assert loader.n_rows == 6  # the index was read while it was whole
    path = next(tmp_path.glob("*.tokens"))
    raw = bytearray(path.read_bytes())
    raw[2:4] = (999).to_bytes(2, "little")
    path.write_bytes(raw)
    with pytest.raises(DamagedError, match=r"position 1 .*is 999"):
        loader.rows_at(np.arange(6))


# ---- preparation -------------------------------------------------------------------------------------------


def pairs_file(folder: Path, n: int = 80) -> Path:
    path = folder / "pairs.tsv"
    path.write_text("".join(f"one {i}\tuno {i} más\n" for i in range(n)), encoding="utf-8")
    return path


def prepare(path: Path, tokenizer: Tokenizer, out: Path, config: DataConfig | None = None) -> Shards:
    corpus = Corpus(CorpusConfig(source=str(path), source_field="1", target_field="2", validation=0.2))
    return run(config or DataConfig(), corpus, tokenizer, out, Silent(), StopFlag())


def texts(split: Split, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(ids) for ids, _ in split.documents()]


@pytest.mark.parametrize("settings", [{}, {"workers": 1}, {"batch_documents": 3}, {"shard_tokens": 50}], ids=str)
def test_shards_hold_source_and_target_in_turn(
    tmp_path: Path, tiny_tokenizer: Tokenizer, settings: dict[str, int]
) -> None:
    shards = prepare(pairs_file(tmp_path), tiny_tokenizer, tmp_path / "data", DataConfig(**settings))
    assert shards.pairs
    assert shards.manifest["records"] == "pairs"
    found = [*texts(shards.train, tiny_tokenizer), *texts(shards.validation, tiny_tokenizer)]
    assert sorted(zip(found[::2], found[1::2], strict=True)) == sorted((f"one {i}", f"uno {i} más") for i in range(80))
    funnel = shards.manifest["funnel"]
    assert sum(funnel["documents"].values()) == 80
    assert shards.train.n_documents == 2 * funnel["documents"]["train"]
    assert storage.read_json(shards.folder / storage.MANIFEST)["records"] == "pairs"


def test_a_half_that_fails_takes_the_other_with_it(
    tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = worker.encode_each

    def failing(tokenizer: Tokenizer, given: list[str]) -> list[object]:
        return [
            worker.Failure("no") if t in ("uno 7 más", "one 9") else ids
            for t, ids in zip(given, real(tokenizer, given), strict=True)
        ]

    monkeypatch.setattr(worker, "encode_each", failing)
    path = pairs_file(tmp_path)
    corpus = Corpus(
        CorpusConfig(source=str(path), source_field="1", target_field="2", validation=0.2, max_quarantined=0.1)
    )
    shards = run(DataConfig(batch_documents=10), corpus, tiny_tokenizer, tmp_path / "data", Silent(), StopFlag())
    found = [*texts(shards.train, tiny_tokenizer), *texts(shards.validation, tiny_tokenizer)]
    kept = [i for i in range(80) if i not in (7, 9)]
    assert sorted(zip(found[::2], found[1::2], strict=True)) == sorted((f"one {i}", f"uno {i} más") for i in kept)
    funnel = shards.manifest["funnel"]
    assert (sum(funnel["documents"].values()), funnel["quarantined"]) == (78, 2)
    assert funnel["bytes"]["train"] == shards.train.n_bytes
    lines = storage.read_json_lines(shards.folder / QUARANTINE)
    assert [line["line"] for line in lines] == [8, 10]


class StopsAfter(Silent):
    """Asks to stop after some batches."""

    def __init__(self, batches: int) -> None:
        self.left, self.stop = batches, StopFlag()

    @contextlib.contextmanager
    def task(self, name: str, total: float | None, unit: str) -> Iterator[Task]:
        outer = self

        class Counting(Task):
            def advance(self, amount: float, note: str = "") -> None:
                outer.left -= 1
                if outer.left == 0:
                    outer.stop.signal_number = 15

            def resize(self, total: float) -> None: ...

        yield Counting()


@pytest.mark.parametrize("batches", [1, 4])
def test_a_preparation_that_was_stopped_goes_on_and_ends_the_same(
    tmp_path: Path, tiny_tokenizer: Tokenizer, batches: int
) -> None:
    path, config = pairs_file(tmp_path), DataConfig(batch_documents=7)
    whole = prepare(path, tiny_tokenizer, tmp_path / "whole", config)
    corpus = Corpus(CorpusConfig(source=str(path), source_field="1", target_field="2", validation=0.2))
    watcher = StopsAfter(batches)
    with pytest.raises(Stopped):
        run(config, corpus, tiny_tokenizer, tmp_path / "data", watcher, watcher.stop)
    made = prepare(path, tiny_tokenizer, tmp_path / "data", config)
    for name in whole.manifest["files"]:
        assert (made.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert made.manifest["files"] == whole.manifest["files"]


def test_texts_do_not_say_that_they_are_pairs(tiny_data: Shards) -> None:
    assert not tiny_data.pairs
    assert "records" not in tiny_data.manifest
