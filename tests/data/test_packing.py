"""Whole documents in rows: nothing is lost, nothing comes twice, nothing is cut that fits, and the waste is as told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fabula import faults, pipeline, storage
from fabula.config import load_toml
from fabula.data import packing
from fabula.data.loader import Loader
from fabula.data.mixture import Feed
from fabula.data.packing import Packing
from fabula.data.rows import Pieces
from fabula.data.shards import Shards, Split, SplitWriter, dtype_for
from fabula.errors import InputError, Stopped
from fabula.losses import IGNORE
from fabula.model.decoder import Decoder
from tests import tiny

PAD = 1
PACKED: list[Packing] = ["best-fit", "pad"]
LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=40)


def write(folder: Path, lengths: list[int], shard_tokens: int = 1 << 20) -> Split:
    """Documents of some lengths, whose ids tell their place in the stream."""
    folder.mkdir(parents=True, exist_ok=True)
    with SplitWriter(folder, "train", 5000, 0, shard_tokens) as writer:
        place = 0
        for length in lengths:
            writer.add(range(place + 1, place + 1 + length), length)
            place += length + 1
        return Split(folder, "train", writer.finish(), dtype_for(5000), 5000)


def loader(split: Split, context: int, kind: Packing, seed: int = 0, isolate: bool = True) -> Loader:
    return Loader(split, context, seed, isolate, Feed(kind), PAD)


# ---- best fit ----------------------------------------------------------------------------------------------


def one_by_one(sizes: list[int], room: int) -> list[int]:
    """What is left in the rows of best-fit decreasing as it is told in a book."""
    left: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [row for row, free in enumerate(left) if free >= size]
        if fitting:
            left[min(fitting, key=lambda row: left[row])] -= size
        else:
            left.append(room - size)
    return sorted(left)


@given(sizes=st.lists(st.integers(1, 20), max_size=60), room=st.integers(20, 40))
def test_best_fit_is_best_fit_decreasing(sizes: list[int], room: int) -> None:
    rows, count = packing.best_fit(np.array(sizes, dtype=np.int32), room)
    used = np.bincount(rows, weights=sizes, minlength=count) if sizes else np.zeros(0)
    assert sorted((room - used).astype(int).tolist()) == one_by_one(sizes, room)
    assert set(rows.tolist()) == set(range(count))


def test_best_fit_of_a_million_documents() -> None:
    sizes = np.minimum(np.random.default_rng(0).lognormal(5, 1, 1_000_000) + 1, 1024).astype(np.int32)
    rows, count = packing.best_fit(sizes, 1024)
    used = np.bincount(rows, weights=sizes, minlength=count)
    assert used.max() <= 1024
    assert count <= 1.001 * sizes.sum() / 1024 + 1, "that many short documents fill nearly every place"


# ---- rows --------------------------------------------------------------------------------------------------


@given(lengths=LENGTHS, context=st.integers(1, 24), shard_tokens=st.sampled_from([17, 1 << 20]))
@pytest.mark.parametrize("kind", PACKED)
def test_every_prediction_exactly_once_a_pass(
    tmp_path_factory: pytest.TempPathFactory, kind: Packing, lengths: list[int], context: int, shard_tokens: int
) -> None:
    split = write(tmp_path_factory.mktemp("p"), lengths, shard_tokens)
    made = loader(split, context, kind)
    stream = split.read(0, split.n_tokens)
    wanted = Counter(zip(stream[:-1].tolist(), stream[1:].tolist(), strict=True))
    for epoch in range(2):
        batch = made.batch(epoch * made.n_rows, made.n_rows)
        inside = batch.targets != IGNORE
        assert Counter(zip(batch.tokens[inside].tolist(), batch.targets[inside].tolist(), strict=True)) == wanted
        # Padding stands at the end of rows, and nowhere else.
        filled = inside.sum(dim=1)
        assert torch.equal(inside, torch.arange(context) < filled[:, None])
        assert (batch.tokens[~inside] == PAD).all()
        assert filled.min() > 0
    # The figures are those of the batches.
    found = made.figures()
    assert found["rows"] == made.n_rows
    assert found["padding"] == made.n_rows * context - sum(wanted.values())
    assert found["waste"] == pytest.approx(1 - made.row_tokens / context)
    assert found["cut"] == sum(length + 1 > context for length in lengths)


@given(lengths=LENGTHS, context=st.integers(1, 24))
@pytest.mark.parametrize("kind", PACKED)
def test_no_document_is_cut_that_fits(
    tmp_path_factory: pytest.TempPathFactory, kind: Packing, lengths: list[int], context: int
) -> None:
    split = write(tmp_path_factory.mktemp("p"), lengths)
    rows = loader(split, context, kind).rows
    assert isinstance(rows, Pieces)
    pieces = dict(zip(rows.packed.starts.tolist(), rows.packed.sizes.tolist(), strict=True))
    for start, length in zip(split.document_starts.tolist(), lengths, strict=True):
        predictions = length + 1
        if predictions <= context:
            assert pieces[start] == predictions
        else:
            # Of one that does not fit only the last piece is not a whole row.
            parts = [pieces[place] for place in range(start, start + predictions, context)]
            assert parts[:-1] == [context] * (len(parts) - 1)
            assert sum(parts) == predictions
    if kind == "pad":
        assert rows.packed.n_rows == len(pieces), "one document, or a piece of one, a row"


@pytest.mark.parametrize("kind", PACKED)
def test_documents_and_positions_of_a_row(tmp_path: Path, kind: Packing) -> None:
    split = write(tmp_path, [2, 5, 2, 1])  # 3, 6, 3 and 2 predictions
    batch = loader(split, 4, kind).rows_at(np.arange(4))
    if kind == "pad":
        assert batch.documents is None, "a row is one document: no mask is needed"
        assert batch.tokens.tolist() == [[0, 1, 2, PAD], [0, 4, 5, 6], [7, 8, PAD, PAD], [0, 10, 11, PAD]]
        assert batch.targets[0].tolist() == [1, 2, 0, IGNORE]
        return
    assert batch.documents is not None
    assert batch.positions is not None
    assert batch.tokens.tolist() == [[0, 4, 5, 6], [0, 1, 2, PAD], [0, 10, 11, PAD], [7, 8, 0, 13]]
    assert batch.targets.tolist() == [[4, 5, 6, 7], [1, 2, 0, IGNORE], [10, 11, 0, IGNORE], [8, 0, 13, 0]]
    assert batch.documents.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 2, 0], [0, 1, 0, 1]]
    assert loader(split, 4, kind, isolate=False).batch(0, 4).documents is None


def test_packed_rows_give_the_logits_of_padded_ones(tiny_data: Shards) -> None:
    """What a model predicts for a document does not depend on the packing, to the last documents of a row."""
    torch.manual_seed(0)
    model = Decoder(tiny.model_config(context_length=160)).eval()
    # Some rows of the data, documents of all lengths among them.
    found: dict[tuple[int, ...], Any] = {}
    with torch.inference_mode():
        for kind in PACKED:
            made = loader(tiny_data.train, 160, kind)
            batch = made.batch(0, made.n_rows)
            logits = model(batch.tokens, positions=batch.positions, documents=batch.documents)
            for row in range(made.n_rows):
                numbers = torch.zeros(160).long() if batch.documents is None else batch.documents[row]
                for number in numbers.unique():
                    here = (numbers == number) & (batch.targets[row] != IGNORE)
                    if not here.any():
                        continue
                    key = tuple(batch.tokens[row, here].tolist())
                    if kind == "best-fit":
                        found[key] = logits[row, here]
                    else:
                        torch.testing.assert_close(logits[row, here], found.pop(key), atol=1e-4, rtol=1e-4)
    assert not found


# ---- order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACKED)
def test_a_batch_is_a_function_of_its_position(tiny_data: Shards, kind: Packing) -> None:
    made = loader(tiny_data.train, 48, kind, seed=5)
    whole = made.batch(0, made.n_rows + 30)
    for start, rows in ((0, 1), (3, 7), (made.n_rows - 2, 9)):
        part = loader(tiny_data.train, 48, kind, seed=5).batch(start, rows)
        assert torch.equal(part.tokens, whole.tokens[start : start + rows])
        assert torch.equal(part.targets, whole.targets[start : start + rows])
    epochs, starts = made.places(made.n_rows - 1, 2)
    assert epochs == [0, 1]
    assert all(0 <= start < tiny_data.train.n_tokens for start in starts)
    assert not torch.equal(loader(tiny_data.train, 48, kind, seed=6).batch(0, 20).tokens, whole.tokens[:20])


@pytest.mark.parametrize("kind", PACKED)
def test_validation_rows_have_every_prediction_once(tiny_data: Shards, kind: Packing) -> None:
    made = loader(tiny_data.validation, 48, kind)
    everything = made.rows_at(made.fixed())
    assert everything.n_targets == tiny_data.validation.n_tokens - 1
    some = made.fixed(5)
    assert len(set(some.tolist())) == 5
    assert some.tolist() == loader(tiny_data.validation, 48, kind, seed=9).fixed(5).tolist()


# ---- figures -----------------------------------------------------------------------------------------------


def test_figures_of_a_literal_example() -> None:
    starts = np.array([0, 3, 9, 12])  # 3, 6, 3 and 2 predictions
    concat, fit, pad = (packing.figures(kind, starts, 14, 4) for kind in ("concat", "best-fit", "pad"))
    assert (concat["rows"], concat["padding"], concat["cut"]) == (3, 0, 1)
    assert (fit["rows"], fit["padding"], fit["waste"], fit["cut"]) == (4, 2, 2 / 16, 1)
    assert (pad["rows"], pad["padding"], pad["waste"], pad["cut"]) == (5, 6, 6 / 20, 1)
    # A stretch in the middle of a stream.
    assert packing.figures("concat", starts + 100, 114, 4) == concat
    assert packing.added([fit, pad])["waste"] == 8 / 36


def test_nothing_to_pack(tmp_path: Path) -> None:
    for kind in PACKED:
        with pytest.raises(InputError, match=r"has 0 tokens, one row needs 9"):
            loader(write(tmp_path / kind, []), 8, kind)
        assert packing.figures(kind, np.zeros(0, dtype=np.int64), 0, 8)["waste"] == 0
        assert loader(write(tmp_path / kind, [0]), 8, kind).batch(0, 3).n_targets == 3


def test_show_tells_what_each_packing_costs(tiny_run: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = cli("data", "show", tiny_run)
    assert code == 0
    train = Shards(tiny_run / "data").train
    found = packing.figures("best-fit", train.document_starts, train.n_tokens - 1, tiny.CONTEXT)
    row = next(line.split() for line in out.splitlines() if "best-fit" in line)
    assert row[:4] == [str(tiny.CONTEXT), "best-fit", f"{found['rows']:,}", f"{found['waste']:.2%}"]
    code, out, _ = cli("data", "show", tiny_run, "--context", 100, "--json")
    assert code == 0
    assert '"context": 100' in out
    assert cli("data", "show", tiny_run, "--context", 0)[0] == 2


# ---- a run -------------------------------------------------------------------------------------------------


def test_a_packed_run_resumes_to_the_last_bit(tmp_path: Path, quick: None) -> None:
    recipe = tiny.write_recipe(tmp_path)
    packed = {"data.packing": "best-fit", "train.save_steps": 5}
    whole = pipeline.run(recipe, packed, name="whole", runs=tmp_path)
    faults.arm("train.step=signal:SIGTERM@13")
    try:
        with pytest.raises(Stopped):
            pipeline.run(recipe, packed, name="halves", runs=tmp_path)
    finally:
        faults.arm("")
    again = pipeline.resume(tmp_path / "halves")
    weights = [tmp_path / name / "checkpoints" / "step-000024" / "model.safetensors" for name in ("whole", "halves")]
    assert storage.hash_file(weights[0]) == storage.hash_file(weights[1])
    found = again.summary["train"]["packing"]
    assert found == whole.summary["train"]["packing"]
    assert 0 < found["waste"] < 0.2
    assert "of them padding" in (tmp_path / "whole" / "log.txt").read_text(encoding="utf-8")
    page = (tmp_path / "whole" / "report" / "index.html").read_text(encoding="utf-8")
    assert "packing best-fit" in page
    assert load_toml(tmp_path / "whole" / "recipe.toml")["data"]["packing"] == "best-fit"
    # The shards are the same for all packings; the trained model is not.
    with pytest.raises(InputError, match="packing"):
        pipeline.run(recipe, {"data.packing": "pad", "train.save_steps": 5}, name="whole", runs=tmp_path)


def test_a_plan_tells_the_padding(tmp_path: Path, quick: None) -> None:
    recipe = tiny.write_recipe(tmp_path)
    found = {kind: pipeline.plan(recipe, {"data.packing": kind}) for kind in ("concat", "best-fit", "pad")}
    assert "packing" not in found["concat"]
    assert found["pad"]["packing"]["waste"] > found["best-fit"]["packing"]["waste"] > 0
    assert found["pad"]["estimate"]["tokens_per_step"] == pytest.approx(128, rel=0.25)
