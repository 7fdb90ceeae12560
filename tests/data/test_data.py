"""Ids on disk and their way into batches: nothing is lost, nothing comes twice, the order depends on the seed alone."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fabula import storage
from fabula.config import Data
from fabula.corpus.run import CorpusConfig
from fabula.corpus.run import run as open_corpus
from fabula.data import packing
from fabula.data.loader import Loader, permute
from fabula.data.run import QUARANTINE, DataConfig, content_settings, run
from fabula.data.shards import Shards, Split, SplitWriter, dtype_for
from fabula.errors import DamagedError, InputError, MachineError, SourceError, Stopped
from fabula.progress import Silent, StopFlag, Task
from fabula.tokenizer.base import Tokenizer

EOD = 0
UNFINISHED = ".unfinished-data"


def write(folder: Path, documents: list[list[int]], vocab: int = 400, shard_tokens: int = 1 << 20) -> Split:
    folder.mkdir(parents=True, exist_ok=True)
    with SplitWriter(folder, "train", vocab, EOD, shard_tokens) as writer:
        for ids in documents:
            writer.add(ids, len(ids))
        facts = writer.finish()
    return Split(folder, "train", facts, dtype_for(vocab), vocab)


def stream(split: Split) -> list[int]:
    return split.read(0, split.n_tokens).tolist()


def prepare(
    source: Path, tokenizer: Tokenizer, out: Path, config: DataConfig | None = None, **corpus: object
) -> Shards:
    settings = CorpusConfig(source=str(source), **corpus)  # type: ignore[arg-type]
    return run(config or DataConfig(), open_corpus(settings), tokenizer, out, Silent(), StopFlag())


# ---- shards ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vocab", "name"), [(300, "uint16"), (65_535, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_the_highest_id_fits(tmp_path: Path, vocab: int, name: str) -> None:
    assert dtype_for(vocab).name == name
    ids = [1, vocab - 1, 2, vocab - 1]
    split = write(tmp_path, [ids], vocab)
    assert stream(split) == [EOD, *ids, EOD]
    assert [d for d, _ in split.documents()] == [ids]


def test_an_id_outside_the_vocabulary_is_never_wrapped(tmp_path: Path) -> None:
    for ids in ([65_536], [-1]):
        with pytest.raises(ValueError, match="does not fit"):
            write(tmp_path, [ids], 65_536)


DOCUMENTS = st.lists(st.lists(st.integers(1, 399), max_size=12), min_size=1, max_size=12)


@given(documents=DOCUMENTS, shard_tokens=st.integers(1, 30))
def test_several_shards_are_one_stream(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], shard_tokens: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    one = write(folder / "one", documents)
    many = write(folder / "many", documents, shard_tokens=shard_tokens)
    expected = [i for d in documents for i in (EOD, *d)] + [EOD]
    assert stream(one) == stream(many) == expected
    assert one.document_starts.tolist() == many.document_starts.tolist()
    assert [d for d, _ in many.documents()] == documents
    assert [n for _, n in many.documents()] == [len(d) for d in documents]
    # Every stretch, across the borders of shards too.
    length = min(3, len(expected))
    starts = np.arange(len(expected) - length + 1)
    for split in (one, many):
        assert split.windows(starts, length).tolist() == [expected[s : s + length] for s in starts]


def test_the_index_points_at_the_ends_of_documents(tmp_path: Path) -> None:
    split = write(tmp_path, [[5, 6, 7], [], [8, 9]])
    assert stream(split) == [0, 5, 6, 7, 0, 0, 8, 9, 0]
    assert split.document_starts.tolist() == [0, 4, 5]
    assert split.document_bytes.tolist() == [3, 0, 2]
    with pytest.raises(IndexError):
        split.read(5, 5)
    with pytest.raises(IndexError):
        split.read(-1, 2)


# ---- packing -----------------------------------------------------------------------------------------------


def test_boundaries_of_a_literal_example() -> None:
    #   0 1 2 3  4 5  6 7 8     stream: three documents
    starts = np.array([0, 4, 6])
    numbers, positions = packing.boundaries(np.array([0, 3, 5]), 4, starts)
    assert numbers.tolist() == [[0, 0, 0, 0], [0, 1, 1, 2], [1, 2, 2, 2]]
    assert positions.tolist() == [[0, 1, 2, 3], [0, 0, 1, 0], [0, 0, 1, 2]]


@given(documents=DOCUMENTS, context=st.integers(1, 6))
def test_boundaries_agree_with_counting(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], context: int
) -> None:
    split = write(tmp_path_factory.mktemp("b"), documents)
    rows = packing.n_rows(split.n_tokens, context)
    at = np.arange(rows) * context
    numbers, positions = packing.boundaries(at, context, split.document_starts)
    owner = np.zeros(split.n_tokens, dtype=int) - 1
    for number, start in enumerate(split.document_starts):
        owner[start:] = number
    for row, start in enumerate(at):
        position = -1
        for column in range(context):
            here = owner[start + column]
            position = position + 1 if column and here == owner[start + column - 1] else 0
            assert numbers[row, column] == here
            assert positions[row, column] == position


# ---- the order ---------------------------------------------------------------------------------------------


@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(n: int, key: int) -> None:
    made = permute(np.arange(n), n, key)
    assert sorted(made.tolist()) == list(range(n))
    some = np.arange(0, n, 7)
    assert permute(some, n, key).tolist() == made[some].tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 2**16 - 1, 2**16, 2**16 + 1])
def test_permute_at_powers_of_two(n: int) -> None:
    assert len(set(permute(np.arange(n), n, 7).tolist())) == n


def test_permute_of_an_enormous_set_needs_no_table() -> None:
    made = permute(np.arange(1000), 10**15, 3)
    assert len(set(made.tolist())) == 1000
    assert made.min() >= 0
    assert made.max() < 10**15


def test_permute_mixes() -> None:
    made = permute(np.arange(1000), 1000, 1)
    assert np.corrcoef(np.arange(1000), made)[0, 1] ** 2 < 0.05
    assert (made != permute(np.arange(1000), 1000, 2)).mean() > 0.9


@given(n_tokens=st.integers(6, 400), context=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_each_row_exactly_once_an_epoch(
    tmp_path_factory: pytest.TempPathFactory, n_tokens: int, context: int, seed: int
) -> None:
    if n_tokens - 1 < context:
        return
    # Ids that tell their place in the stream.
    split = write(tmp_path_factory.mktemp("e"), [list(range(1, n_tokens - 1))], vocab=401)
    loader = Loader(split, context, seed, False)
    assert 1 <= loader.n_rows <= (n_tokens - 1) // context
    # At most one row is given up for the shifts.
    assert loader.n_rows >= (n_tokens - 1) // context - 1
    for epoch in range(3):
        rows = loader.batch(epoch * loader.n_rows, loader.n_rows).tokens.tolist()
        starts = sorted(row[0] for row in rows)
        assert len(set(starts)) == loader.n_rows
        # Rows follow one another without gap or overlap.
        assert all(b - a == context for a, b in itertools.pairwise(starts))
        for row in rows:
            assert row == list(range(row[0], row[0] + context))


def test_targets_are_the_next_tokens(tiny_data: Shards) -> None:
    batch = Loader(tiny_data.train, 16, 0, True).batch(0, 9)
    assert batch.tokens.shape == batch.targets.shape == (9, 16)
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert batch.n_targets == 144


@pytest.mark.parametrize("isolate", [True, False])
def test_the_order_does_not_depend_on_batch_size_or_where_it_begins(tiny_data: Shards, isolate: bool) -> None:
    loader = Loader(tiny_data.train, 16, 5, isolate)
    n = loader.n_rows + 70  # into the second epoch
    whole = loader.batch(0, n)
    for size in (1, 7, 64):
        for start in (0, 3, loader.n_rows - 2):
            part = loader.batch(start, size)
            assert torch.equal(part.tokens, whole.tokens[start : start + size])
            if isolate:
                assert part.documents is not None
                assert whole.documents is not None
                assert torch.equal(part.documents, whole.documents[start : start + size])
            else:
                assert part.documents is None
                assert part.positions is None


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_the_stream_is_the_batches(tiny_data: Shards, ahead: int) -> None:
    loader = Loader(tiny_data.train, 16, 5, True)
    batches = loader.stream(11, 4, ahead=ahead)
    for number in range(12):
        made, expected = next(batches), loader.batch(11 + 4 * number, 4)
        assert torch.equal(made.tokens, expected.tokens)
        assert torch.equal(made.targets, expected.targets)
    batches.close()


def test_a_pinned_stream_is_pinned_by_the_thread_that_reads_ahead(
    tiny_data: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page-locked memory needs a graphics card: here it is only looked who asks for it, and for what."""
    asked: list[str] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        asked.append(threading.current_thread().name)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    loader = Loader(tiny_data.train, 16, 5, True)
    next(loader.stream(0, 4))
    assert asked == []
    loader.pinned = True
    batches = loader.stream(0, 4, ahead=1)
    made, expected = next(batches), loader.batch(0, 4)
    batches.close()
    assert asked[:4] == ["fabula-loader"] * 4, "tokens, targets, positions, documents"
    for name in ("tokens", "targets", "positions", "documents"):
        assert torch.equal(getattr(made, name), getattr(expected, name))


def test_an_error_in_the_thread_reaches_the_reader(tiny_data: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(tiny_data.train, 16, 5, True)

    def breaks(position: int, rows: int) -> None:
        raise OSError("the disk went away")

    monkeypatch.setattr(loader, "batch", breaks)
    with pytest.raises(MachineError, match="went away"):
        next(loader.stream(0, 4))


def test_another_seed_another_order_and_another_epoch_another_cut(tiny_data: Shards) -> None:
    a, b = (Loader(tiny_data.train, 16, seed, False) for seed in (0, 1))
    assert not torch.equal(a.batch(0, 32).tokens, b.batch(0, 32).tokens)
    cuts = {tuple(sorted(map(tuple, a.batch(epoch * a.n_rows, a.n_rows).tokens.tolist()))[0]) for epoch in range(4)}
    assert len(cuts) > 1


def test_validation_rows_are_fixed_spread_and_disjoint(tiny_data: Shards) -> None:
    loader = Loader(tiny_data.validation, 16, 0, True)
    everything = loader.fixed()
    assert everything.tolist() == [16 * i for i in range(len(everything))]
    assert everything[-1] + 17 <= tiny_data.validation.n_tokens
    some = loader.fixed(10)
    assert some.tolist() == Loader(tiny_data.validation, 16, 7, False).fixed(10).tolist()
    assert len(set(some.tolist())) == 10
    assert set(some.tolist()) <= set(everything.tolist())
    assert some[-1] > everything[-1] * 0.8
    assert loader.fixed(10**9).tolist() == everything.tolist()


def test_too_little_text(tmp_path: Path) -> None:
    split = write(tmp_path, [[1, 2, 3]])
    with pytest.raises(InputError, match=r"has 5 tokens, one row needs 33: give more text.*--model\.context_length"):
        Loader(split, 32, 0, True)
    split.name = "validation"
    with pytest.raises(InputError, match=r"one row needs 33.*--corpus\.validation"):
        Loader(split, 32, 0, True)
    assert Loader(split, 4, 0, True).n_rows == 1  # exactly enough


# ---- the stage ---------------------------------------------------------------------------------------------


def test_the_data_are_the_corpus(tiny_corpus: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    shards = prepare(tiny_corpus, tiny_tokenizer, tmp_path / "data", validation=0.2)
    texts = [t.strip() for t in tiny_corpus.read_text(encoding="utf-8").split("<|endoftext|>") if t.strip()]
    found = {name: [tiny_tokenizer.decode(ids) for ids, _ in s.documents()] for name, s in shards.splits.items()}
    assert sorted(found["train"] + found["validation"]) == sorted(texts)
    assert not set(found["train"]) & set(found["validation"])
    assert found["train"]
    assert found["validation"]
    for name, split in shards.splits.items():
        assert split.n_bytes == sum(len(t.encode()) for t in found[name])
        assert split.n_documents == len(found[name])
    manifest = storage.verify(tmp_path / "data")
    assert manifest["tokenizer"] == tiny_tokenizer.fingerprint
    assert manifest["dtype"] == "<u2"


def test_batches_of_documents_and_shards_change_nothing(
    tiny_corpus: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    one = prepare(tiny_corpus, tiny_tokenizer, tmp_path / "one", validation=0.2)
    config = DataConfig(batch_documents=3, shard_tokens=2000)
    many = prepare(tiny_corpus, tiny_tokenizer, tmp_path / "many", config, validation=0.2)
    assert len(list((tmp_path / "many").glob("train-*.tokens"))) > 3
    for name in ("train", "validation"):
        assert stream(one.splits[name]) == stream(many.splits[name])
    a, b = (Loader(s.train, 16, 0, True).batch(100, 8) for s in (one, many))
    assert torch.equal(a.tokens, b.tokens)


def test_duplicates_are_counted_and_kept_once(tmp_path: Path, tiny_texts: list[str], tiny_tokenizer: Tokenizer) -> None:
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in [*tiny_texts, *tiny_texts[:7], " "]))
    shards = prepare(path, tiny_tokenizer, tmp_path / "data", validation=0.2)
    funnel = shards.manifest["funnel"]
    assert funnel["duplicates"] == 7
    assert funnel["empty"] == 1
    assert shards.train.n_documents + shards.validation.n_documents == len(set(tiny_texts))


def test_unreadable_records_are_quarantined_with_their_place(
    tmp_path: Path, tiny_texts: list[str], tiny_tokenizer: Tokenizer
) -> None:
    path = tmp_path / "some bad 🦊.jsonl"
    good = b"".join(json.dumps({"text": t}).encode() + b"\n" for t in tiny_texts)
    path.write_bytes(good + b'{"text": "ma\xf1ana"}\n' + b'{"no": 1}\n')
    shards = prepare(path, tiny_tokenizer, tmp_path / "data", validation=0.2, max_quarantined=0.1)
    assert shards.manifest["funnel"]["quarantined"] == 2
    first, second = storage.read_json_lines(tmp_path / "data" / QUARANTINE)
    assert first["line"] == len(tiny_texts) + 1
    assert first["byte"] == len(good) + 12
    assert "UTF-8" in first["reason"]
    assert 'no field "text"' in second["reason"]
    assert QUARANTINE in storage.verify(tmp_path / "data")["files"]


def test_too_much_that_is_unreadable_stops(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    path = tmp_path / "latin1.txt"
    path.write_bytes("mañana\n\n".encode("latin-1") * 50)
    with pytest.raises(SourceError, match=r"cannot be read.*latin1\.txt"):
        prepare(path, tiny_tokenizer, tmp_path / "data", split="line", document_bytes=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == [UNFINISHED, "latin1.txt"]


def test_a_stop_leaves_nothing_under_the_final_name(
    tiny_corpus: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    stop = StopFlag()
    stop.signal_number = 15
    corpus = open_corpus(CorpusConfig(source=str(tiny_corpus), validation=0.2))
    with pytest.raises(Stopped) as caught:
        run(DataConfig(), corpus, tiny_tokenizer, tmp_path / "data", Silent(), stop)
    assert caught.value.exit_code == 143
    assert sorted(p.name for p in tmp_path.iterdir()) == [UNFINISHED, "corpus.txt"]


# ---- in several lives --------------------------------------------------------------------------------------


class StopsAfter(Silent):
    """Asks to stop after some batches, and listens."""

    def __init__(self, batches: int) -> None:
        self.left, self.stop, self.notes = batches, StopFlag(), list[str]()

    def note(self, message: str) -> None:
        self.notes.append(message)

    @contextlib.contextmanager
    def task(self, name: str, total: float | None, unit: str) -> Iterator[Task]:
        with Silent().task(name, total, unit) as silent:
            if name != "tokenizing":
                yield silent
                return

            class Counting:
                def advance(_, amount: float = 1, note: str = "") -> None:
                    self.left -= 1
                    if self.left == 0:
                        self.stop.signal_number = 15

                def resize(_, total: float) -> None:
                    pass

            yield Counting()


def live(
    source: Path, tokenizer: Tokenizer, out: Path, batches: int = 0, config: DataConfig | None = None
) -> tuple[StopsAfter, bool]:
    """One life, stopped after some batches (0: never); what it said, and whether it came to its end."""
    watcher = StopsAfter(batches)
    corpus = open_corpus(CorpusConfig(source=str(source), validation=0.2))
    try:
        run(config or DataConfig(batch_documents=4), corpus, tokenizer, out, watcher, watcher.stop)
    except Stopped:
        return watcher, False
    return watcher, True


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("shard_tokens", [700, 1 << 20])
def test_what_was_done_is_kept_and_gone_on_with(
    tiny_corpus: Path, tiny_tokenizer: Tokenizer, tmp_path: Path, shard_tokens: int
) -> None:
    config = DataConfig(shard_tokens=shard_tokens)
    assert live(tiny_corpus, tiny_tokenizer, tmp_path / "whole", config=config)[1]
    out = tmp_path / "data"
    done = 0
    # Lives with other batches and workers: only what makes the content decides. Coming by again counts as a batch.
    for number, (batches, batch_documents, workers) in enumerate([(1, 4, 0), (4, 3, 0), (2, 10, 1), (0, 5, 0)]):
        config = DataConfig(shard_tokens=shard_tokens, batch_documents=batch_documents, workers=workers)
        watcher, ended = live(tiny_corpus, tiny_tokenizer, out, batches, config)
        assert watcher.notes[:1] == ([f"going on after {done} documents"] if number else [])
        assert ended == (batches == 0)
        if not ended:
            account = storage.read_json(tmp_path / UNFINISHED / "account.json")
            assert account["documents"] > done
            done = account["documents"]
            assert not out.exists()
    assert contents(out) == contents(tmp_path / "whole")
    assert not (tmp_path / UNFINISHED).exists()


def test_what_is_not_in_the_account_goes(tiny_corpus: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    live(tiny_corpus, tiny_tokenizer, tmp_path / "whole")
    live(tiny_corpus, tiny_tokenizer, tmp_path / "data", 5)
    kept = tmp_path / UNFINISHED
    for path in kept.glob("*.*[ts]"):
        with path.open("ab") as file:
            file.write(b"torn")
    (kept / "train-00007.tokens").write_bytes(b"of a later life")
    (kept / "tokenizer.json").write_bytes(b"{}")
    (kept / QUARANTINE).write_bytes(b"{}")
    watcher, ended = live(tiny_corpus, tiny_tokenizer, tmp_path / "data")
    assert ended
    assert watcher.notes == ["going on after 20 documents"]
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


@pytest.mark.parametrize("how", ["cut", "gone", "account"])
def test_what_the_disk_lost_is_made_anew(
    tiny_corpus: Path, tiny_tokenizer: Tokenizer, tmp_path: Path, how: str
) -> None:
    live(tiny_corpus, tiny_tokenizer, tmp_path / "whole")
    live(tiny_corpus, tiny_tokenizer, tmp_path / "data", 5)
    path = tmp_path / UNFINISHED / "validation-00000.documents"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif how == "gone":
        path.unlink()
    else:
        account = storage.read_json(path.with_name("account.json"))
        del account["splits"]["validation"]
        storage.write_json(path.with_name("account.json"), account)
    watcher, ended = live(tiny_corpus, tiny_tokenizer, tmp_path / "data")
    assert ended
    assert "made anew" in watcher.notes[0]
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


def test_other_settings_or_text_begin_anew(tiny_corpus: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    live(tiny_corpus, tiny_tokenizer, tmp_path / "data", 5)
    config = DataConfig(shard_tokens=700, batch_documents=4)
    assert live(tiny_corpus, tiny_tokenizer, tmp_path / "data", 3, config)[0].notes == []
    tiny_corpus.write_text(tiny_corpus.read_text(encoding="utf-8") + "\nUna más.\n", encoding="utf-8")
    watcher, ended = live(tiny_corpus, tiny_tokenizer, tmp_path / "data", 0, config)
    assert (watcher.notes, ended) == ([], True)
    assert Shards(tmp_path / "data").train.n_documents + Shards(tmp_path / "data").validation.n_documents == 60


def test_only_settings_of_the_content_are_in_its_key() -> None:
    assert content_settings(DataConfig(batch_documents=3, workers=2)) == content_settings(DataConfig())
    assert content_settings(DataConfig(shard_tokens=3)) != content_settings(DataConfig())


def test_near_copies_are_counted_and_said(tmp_path: Path, tiny_texts: list[str], tiny_tokenizer: Tokenizer) -> None:
    path = tmp_path / "copies.jsonl"
    edited = [text.replace(".", "!", 1) for text in tiny_texts]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in [*tiny_texts, *edited]), encoding="utf-8")
    watcher, _ = live(path, tiny_tokenizer, tmp_path / "data")
    overlap = Shards(tmp_path / "data").manifest["overlap"]
    assert overlap["share"] > 0.3
    assert [note for note in watcher.notes if "near copy" in note]


def test_another_tokenizer_is_refused(tiny_data: Shards, tiny_texts: list[str]) -> None:
    from fabula.tokenizer.bpe import train_bpe

    other = train_bpe(tiny_texts[:30], 320)
    with pytest.raises(DamagedError, match="another tokenizer"):
        tiny_data.check_tokenizer(other.fingerprint, other.vocab_size)


def test_folders_that_hold_no_data(tmp_path: Path, tiny_run: Path) -> None:
    with pytest.raises(InputError, match="no prepared data"):
        Shards(tmp_path)
    for folder in (tiny_run / "tokenizer", next((tiny_run / "checkpoints").iterdir())):
        with pytest.raises((InputError, DamagedError)):
            Shards(folder)


def test_a_cut_shard_is_damage(tiny_corpus: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    prepare(tiny_corpus, tiny_tokenizer, tmp_path / "data", validation=0.2)
    path = tmp_path / "data" / "train-00000.tokens"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DamagedError, match=r"train-00000\.tokens"):
        Shards(tmp_path / "data")


def test_an_index_that_does_not_fit_is_damage(tmp_path: Path) -> None:
    """Without its manifest of files too, and for shards prepared before they told their documents."""
    write(tmp_path, [[5, 6, 7], [], [8, 9]])
    shard: Data = {"file": "train-00000", "tokens": 9}
    facts = {"documents": 3, "tokens": 9, "bytes": 5, "shards": [shard]}
    assert Split(tmp_path, "train", facts, dtype_for(400), 400).document_bytes.tolist() == [3, 0, 2]
    for told, wrong in (({}, 2), ({"documents": 3}, 2), ({}, 0)):
        facts = {"documents": 3, "tokens": 9, "bytes": 5, "shards": [{**shard, **told}]}
        index = tmp_path / "train-00000.documents"
        whole = index.read_bytes()
        index.write_bytes(whole[: 16 * wrong + 3 * (wrong == 0)])
        with pytest.raises(DamagedError, match="documents"):
            Split(tmp_path, "train", facts, dtype_for(400), 400)
        index.write_bytes(whole)


def test_the_index_is_read_only_when_asked_for(tmp_path: Path) -> None:
    split = write(tmp_path, [[5, 6, 7], [8]])
    assert not {"document_starts", "document_bytes"} & split.__dict__.keys()
    split.windows(np.array([0, 1]), 3)
    assert not {"document_starts", "document_bytes"} & split.__dict__.keys()
    assert split.document_starts.tolist() == [0, 4]


@pytest.mark.parametrize("name", ["batch_documents", "shard_tokens"])
def test_settings_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        DataConfig(**{name: 0})
