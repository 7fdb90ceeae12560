"""Near copies over the cut: what is counted agrees with plain sets of shingles, wherever blocks and shards end."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula.config import Data
from fabula.corpus.run import CorpusConfig
from fabula.corpus.run import run as open_corpus
from fabula.data import overlap
from fabula.data.overlap import near_copies
from fabula.data.run import DataConfig, run
from fabula.data.shards import Shards, Split, SplitWriter, dtype_for
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.bpe import train_bpe

K = 5
VOCABULARY = 4096
Documents = Sequence[Sequence[int]]


def write(folder: Path, name: str, documents: Documents, shard_tokens: int = 1 << 20) -> Split:
    """A split whose ids stand for four bytes each, so that a shingle has 5 ids."""
    folder.mkdir(parents=True, exist_ok=True)
    with SplitWriter(folder, name, VOCABULARY, 0, shard_tokens) as writer:
        for ids in documents:
            writer.add(ids, 4 * len(ids))
        facts = writer.finish()
    return Split(folder, name, facts, dtype_for(VOCABULARY), VOCABULARY)


def find(folder: Path, validation: Documents, train: Documents, **settings: float) -> Data:
    return near_copies(write(folder, "validation", validation), write(folder, "train", train), **settings)  # type: ignore[arg-type]


def ids_of(seed: int, n: int) -> list[int]:
    return random.Random(seed).choices(range(1, VOCABULARY), k=n)


def plainly(validation: Documents, train: Documents, threshold: float) -> Data:
    """The same without hashes, blocks and sketches: right for documents of at most 128 shingles."""

    def shingles(ids: Sequence[int]) -> set[tuple[int, ...]]:
        return {tuple(ids[i : i + K]) for i in range(len(ids) - K + 1)}

    sets = [shingles(ids) for ids in validation]
    common = {s for found in sets for s in found if sum(s in other for other in sets) > overlap._BOILERPLATE}
    sets = [found - common for found in sets]
    judged = [i for i, found in enumerate(sets) if len(found) >= overlap._LEAST_SHINGLES]
    best = []
    for i in judged:
        shares = [len(sets[i] & shingles(ids)) / len(sets[i]) for ids in train]
        if shares and max(shares) >= threshold:
            best.append((-max(shares), i, shares.index(max(shares))))
    return {
        "validation_documents": len(validation),
        "judged": len(judged),
        "near": len(best),
        "share": len(best) / len(judged) if judged else 0.0,
        "examples": [{"validation": i, "train": j, "containment": round(-c, 4)} for c, i, j in sorted(best)[:5]],
    }


NOTHING = {"near": 0, "share": 0.0, "examples": []}


def test_empty_splits(tmp_path: Path) -> None:
    text = ids_of(1, 60)
    assert find(tmp_path / "both", [], []) == {"validation_documents": 0, "judged": 0, **NOTHING}
    assert find(tmp_path / "train", [text], []) == {"validation_documents": 1, "judged": 1, **NOTHING}
    assert find(tmp_path / "validation", [], [text]) == {"validation_documents": 0, "judged": 0, **NOTHING}


def test_one_document(tmp_path: Path) -> None:
    text = ids_of(1, 60)
    found = find(tmp_path / "same", [text], [text])
    assert found == {
        "validation_documents": 1,
        "judged": 1,
        "near": 1,
        "share": 1.0,
        "examples": [{"validation": 0, "train": 0, "containment": 1.0}],
    }
    assert find(tmp_path / "other", [text], [ids_of(2, 60)])["near"] == 0


def test_short_documents_are_not_judged(tmp_path: Path) -> None:
    """Fewer than 16 different shingles tell too little, and shingles do not reach into the next document."""
    long = ids_of(1, 60)
    enough = K - 1 + overlap._LEAST_SHINGLES
    short: list[list[int]] = [long[:n] for n in (0, 1, K - 1, K, K + 1, enough - 1)]
    assert find(tmp_path / "short", short, [long]) == {"validation_documents": 6, "judged": 0, **NOTHING}
    assert find(tmp_path / "enough", [*short, long[:enough]], [long])["near"] == 1
    assert find(tmp_path / "pieces", [long], [long[i : i + K - 1] for i in range(0, 60, K - 1)])["near"] == 0
    assert find(tmp_path / "repeats", [[7] * 500], [[7] * 500]) == {"validation_documents": 1, "judged": 0, **NOTHING}
    assert find(tmp_path / "least", [[]], [[]]) == {"validation_documents": 1, "judged": 0, **NOTHING}


def test_a_part_of_a_longer_document(tmp_path: Path) -> None:
    """Containment looks one way: a validation text inside a training text is near, the reverse is not."""
    long = ids_of(1, 5000)
    assert find(tmp_path / "inside", [long[2000:2300]], [ids_of(2, 90), long])["examples"] == [
        {"validation": 0, "train": 1, "containment": 1.0}
    ]
    assert find(tmp_path / "around", [long], [long[2000:2300]])["near"] == 0


def test_only_one_training_document_counts(tmp_path: Path) -> None:
    text = ids_of(1, 300)
    assert find(tmp_path / "thirds", [text], [text[:100], text[100:200], text[200:]])["near"] == 0
    # The second has more of it than the first, the third as much as the second.
    found = find(tmp_path / "most", [text], [text[:180], text[:220], text[:220]])
    assert [pair["train"] for pair in found["examples"]] == [1]
    assert found["examples"][0]["containment"] == pytest.approx(216 / 296, abs=0.1)


def test_the_threshold_itself_is_near(tmp_path: Path) -> None:
    text = ids_of(1, K - 1 + 16)
    assert find(tmp_path / "half", [text], [text[: K - 1 + 8]])["near"] == 1
    assert find(tmp_path / "less", [text], [text[: K - 1 + 7]])["near"] == 0
    assert find(tmp_path / "lower", [text], [text[: K - 1 + 7]], threshold=0.4)["near"] == 1


def test_a_document_is_one_wherever_blocks_end(tmp_path: Path) -> None:
    text, other = ids_of(1, 60), ids_of(2, 60)
    held = write(tmp_path, "validation", [text])
    for name, train in (("last", [other, text]), ("middle", [other, text, other])):
        seen = write(tmp_path, name, train)
        for block in range(1, 140):
            assert near_copies(held, seen, block=block)["examples"][0]["containment"] == 1.0, (name, block)


def test_a_repeated_shingle_counts_once(tmp_path: Path) -> None:
    text = ids_of(1, 60)
    assert find(tmp_path, [text], [text[:16] * 20])["near"] == 0


def test_boilerplate_counts_nowhere(tmp_path: Path) -> None:
    frame = ids_of(1, 80)
    n = overlap._BOILERPLATE
    validation = [frame + ids_of(10 + i, 40) for i in range(n + 1)]
    train = [frame + ids_of(100 + i, 40) for i in range(50)]
    assert find(tmp_path / "common", validation, train) == {"validation_documents": n + 1, "judged": n + 1, **NOTHING}
    assert find(tmp_path / "rare", validation[:n], train)["near"] == n
    only_frame = [[*frame[:-1], i + 1] for i in range(n + 1)]
    assert find(tmp_path / "nothing else", only_frame, train)["judged"] == 0


# Few ids and few texts, cut and joined: everything overlaps with everything.
POOL = [random.Random(seed).choices(range(1, 6), k=40) for seed in range(4)]
TEXT = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(0, 40)).map(lambda cut: POOL[cut[0]][cut[1] : cut[2]]),
    max_size=3,
).map(lambda parts: [i for part in parts for i in part])


@given(
    validation=st.lists(TEXT, max_size=6),
    train=st.lists(TEXT, max_size=8),
    block=st.integers(1, 70),
    shard_tokens=st.integers(1, 60),
    threshold=st.sampled_from([0.2, 0.5, 0.75, 1.0]),
)
def test_as_plain_sets_of_shingles(
    tmp_path_factory: pytest.TempPathFactory,
    validation: Documents,
    train: Documents,
    block: int,
    shard_tokens: int,
    threshold: float,
) -> None:
    """Whatever the blocks and the shards, also those that end inside a document or a shingle."""
    folder = tmp_path_factory.mktemp("overlap")
    held, seen = write(folder, "validation", validation, shard_tokens), write(folder, "train", train, shard_tokens)
    expected = plainly(validation, train, threshold)
    assert near_copies(held, seen, threshold, block) == expected
    assert near_copies(held, seen, threshold) == expected


def test_blocks_change_nothing_in_sketches(tmp_path: Path) -> None:
    """Long documents, of which only some shingles are compared."""
    long = [ids_of(i, 3000 + 700 * i) for i in range(6)]
    held = write(tmp_path, "validation", [ids[: len(ids) // 2] + ids_of(90, 2200) for ids in long])
    seen = write(tmp_path, "train", long, shard_tokens=5000)
    expected = near_copies(held, seen)
    assert expected["judged"] == 6
    assert 0 < expected["near"] < 6
    for block in (100, 997, 4096, 20_000):
        assert near_copies(held, seen, block=block) == expected


def test_a_large_validation_split_is_judged_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [ids_of(i, 50) for i in range(100)]
    held, seen = write(tmp_path, "validation", documents), write(tmp_path, "train", documents)
    monkeypatch.setattr(overlap, "_MOST_HASHES", 46 * 26)
    found = near_copies(held, seen)
    assert (found["validation_documents"], found["judged"], found["near"], found["share"]) == (100, 25, 25, 1.0)
    assert [pair["validation"] for pair in found["examples"]] == [0, 4, 8, 12, 16]


def test_progress(tmp_path: Path) -> None:
    text = ids_of(1, 500)
    told: list[int] = []
    near_copies(
        write(tmp_path, "validation", [text[:90]]), write(tmp_path, "train", [text]), block=100, advance=told.append
    )
    assert len(told) == 5
    assert 500 - K < sum(told) <= 502


@pytest.mark.parametrize("k", [5, 6, 7, 8, 13, 20, 32])
def test_hashes_know_their_ids_and_their_order(k: int) -> None:
    ids = np.array(ids_of(k, 400))
    hashes = overlap._hashes(ids, k)
    assert len(hashes) == 400 - k + 1
    assert len(set(hashes.tolist())) == len(hashes)
    for i in (0, 7, 400 - k):
        assert overlap._hashes(ids[i : i + k].copy(), k).tolist() == [hashes[i]]
    assert overlap._hashes(ids[:k][::-1].copy(), k)[0] != hashes[0]
    # Uniform: the table and the sketches rely on the leading bits.
    many = overlap._hashes(np.arange(20_000), k) >> np.uint64(60)
    assert np.bincount(many.view(np.int64), minlength=16).min() > 1100


@pytest.mark.parametrize(("per_id", "k"), [(1, 20), (1.5, 14), (3.5, 6), (4, 5), (6, 5), (0.1, 32)])
def test_a_shingle_is_about_20_bytes(tmp_path: Path, per_id: float, k: int) -> None:
    with SplitWriter(tmp_path, "train", 400, 0) as writer:
        writer.add([1] * 1000, int(1000 * per_id))
        split = Split(tmp_path, "train", writer.finish(), dtype_for(400), 400)
    assert overlap._shingle_ids(split, split) == k


# ---- texts -------------------------------------------------------------------------------------------------


def prepare(folder: Path, vocab_size: int, **settings: object) -> Shards:
    corpus = open_corpus(CorpusConfig(**settings))  # type: ignore[arg-type]
    tokenizer = train_bpe(corpus.sample(1 << 20), vocab_size)
    return run(DataConfig(), corpus, tokenizer, folder, Silent(), StopFlag())


@pytest.mark.parametrize("source", ["fables:es", "fables:en"])
def test_fables_are_no_copies_of_each_other(tmp_path: Path, source: str) -> None:
    """Made from common sentences, and yet none has half of another."""
    shards = prepare(tmp_path / "data", 1024, source=source, documents=3000, validation=0.1)
    found = near_copies(shards.validation, shards.train)
    assert found["judged"] == shards.validation.n_documents > 200
    assert found["near"] == 0


def test_it_takes_little_time(tmp_path: Path) -> None:
    """Far below what tokenizing takes, with room for a slow machine: 50 million ids a second were measured."""
    choose = np.random.default_rng(0)
    documents = [(choose.zipf(1.3, 400) % (VOCABULARY - 1) + 1).tolist() for _ in range(2500)]
    held, seen = write(tmp_path, "validation", documents[:100]), write(tmp_path, "train", documents[100:])
    begin = time.process_time()
    near_copies(held, seen)
    assert time.process_time() - begin < 1.0


@pytest.mark.corpora
def test_stories(tmp_path: Path, corpora: Path) -> None:
    """Real stories are no copies of each other, edited ones are."""
    path = corpora / "tinystories-v1.txt"
    shards = prepare(tmp_path / "data", 2048, source=str(path), validation=0.2)
    found = near_copies(shards.validation, shards.train)
    assert found["judged"] >= 0.99 * shards.validation.n_documents
    assert found["near"] == 0

    chooser = random.Random(5)
    stories = [text.strip() for text in path.read_text(encoding="utf-8").split("<|endoftext|>") if text.strip()]
    words = " ".join(stories[-200:]).split()
    copies = []
    for text in stories[:500]:
        kept = text.split(" ")
        for place in chooser.sample(range(len(kept)), max(1, round(0.05 * len(kept)))):
            kept[place] = chooser.choice(words)
        copies.append(" ".join(kept))
    held_out = tmp_path / "copies.txt"
    held_out.write_text("\n<|endoftext|>\n".join(copies), encoding="utf-8")
    shards = prepare(tmp_path / "edited", 2048, source=str(path), validation_source=str(held_out))
    assert near_copies(shards.validation, shards.train)["near"] >= 0.99 * shards.validation.n_documents
