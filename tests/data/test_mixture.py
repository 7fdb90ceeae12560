"""Components are read in their shares, at every moment, and prepared once whatever the shares are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fabula import faults, pipeline, storage
from fabula.config import build
from fabula.corpus.fables import Fables
from fabula.corpus.mixture import MixtureComponent
from fabula.corpus.run import Corpus, CorpusConfig
from fabula.data.loader import Loader
from fabula.data.mixture import Feed, Schedule, shares
from fabula.data.packing import Packing
from fabula.data.run import DataConfig, run
from fabula.data.shards import Shards, Split
from fabula.errors import ConfigError, DamagedError, InputError, MachineError
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.base import Tokenizer
from tests import tiny

KINDS: list[Packing] = ["concat", "best-fit", "pad"]
WEIGHTS = st.lists(st.floats(0.01, 1), min_size=1, max_size=6)


def mixture(**parts: tuple[str, float]) -> dict[str, MixtureComponent]:
    return {name: MixtureComponent(source=source, weight=weight) for name, (source, weight) in parts.items()}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> Shards:
    """Spanish and English fables, prepared as a mixture."""
    parts = mixture(spanish=("fables:es", 1), english=("fables:en", 1))
    corpus = Corpus(CorpusConfig(mixture=parts, documents=40, validation=0.2))
    folder = tmp_path_factory.mktemp("mixed") / "data"
    return run(DataConfig(shard_tokens=5000), corpus, tiny_tokenizer, folder, Silent(), StopFlag())


# ---- the schedule ------------------------------------------------------------------------------------------


@given(weights=WEIGHTS, seed=st.integers(0, 1000))
def test_shares_are_kept_in_every_stretch(weights: list[float], seed: int) -> None:
    wanted = np.array(weights) / sum(weights)
    schedule = Schedule(wanted.tolist(), np.random.default_rng(seed).random(len(weights)).tolist())
    rows = 700
    components, before = schedule.of(np.arange(rows))
    for number, share in enumerate(wanted):
        here = components == number
        # The rows of a component come in order, each once.
        assert before[here].tolist() == list(range(int(here.sum())))
        counts = np.concatenate([[0], np.cumsum(here)])
        assert counts[-1] == schedule.counts(rows)[number]
        for length in (5, 64, 500):
            off = counts[length:] - counts[:-length] - length * share
            assert np.abs(off).max() <= len(weights) + 0.01
    # A row's place in the order is a function of its number.
    some = np.random.default_rng(seed).integers(0, rows, 20)
    for made, expected in zip(schedule.of(some), (components, before), strict=True):
        assert made.tolist() == expected[some].tolist()


def test_a_schedule_needs_no_memory_of_what_was() -> None:
    schedule = Schedule([0.3, 0.7], [0.5, 0.5])
    late = np.arange(2**41, 2**41 + 1000)
    components, before = schedule.of(late)
    assert (components == 0).sum() in (299, 300, 301)
    assert before[components == 0][0] == pytest.approx(0.3 * 2**41, rel=1e-5)


def test_weights_are_shares_of_predictions() -> None:
    parts = list(mixture(a=("x", 3), b=("y", 1)).values())
    # The rows of b are half empty: it needs twice as many for its share.
    assert shares(parts, [100, 50], [64.0, 32.0]).rows == pytest.approx((0.6, 0.4))
    assert shares(parts, [100, 50], [64.0, 32.0]).epoch == 150


def test_epochs_are_passes_in_an_epoch_of_the_mixture() -> None:
    parts = [MixtureComponent(source="x", epochs=3), MixtureComponent(source="y", epochs=0.5)]
    made = shares(parts, [100, 400], [64.0, 64.0])
    assert made.rows == pytest.approx((0.6, 0.4))
    assert made.epoch == 500
    assert Schedule(made.rows, [0.5, 0.5]).counts(made.epoch) == [300, 200]


# ---- rows --------------------------------------------------------------------------------------------------


def test_components_lie_one_after_the_other(mixed: Shards, tiny_tokenizer: Tokenizer) -> None:
    for split in mixed.splits.values():
        assert list(split.components) == ["spanish", "english"]
        spanish, english = split.components.values()
        assert (english.first_document, english.first_token) == (spanish.documents, spanish.tokens)
        assert split.document_starts[english.first_document] == english.first_token
        assert spanish.tokens + english.tokens == split.n_tokens - 1
        assert spanish.bytes + english.bytes == split.n_bytes
        texts = {
            part.name: [tiny_tokenizer.decode(ids) for ids, _ in split.documents(part)] for part in (spanish, english)
        }
        assert sum(len(text.encode()) for text in texts["english"]) == english.bytes
        assert all(" the " in text for text in texts["english"])
        assert not any(" the " in text for text in texts["spanish"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.9, 0.1)])
def test_rows_come_from_their_components(mixed: Shards, kind: Packing, weights: tuple[float, float]) -> None:
    parts = mixture(spanish=("fables:es", weights[0]), english=("fables:en", weights[1]))
    loader = Loader(mixed.train, 24, 3, True, Feed(kind, parts), 1)
    border = mixed.train.components["english"].first_token
    n = 3 * loader.n_rows
    batch = loader.batch(0, n)
    passes, starts = loader.places(0, n)
    tokens = (batch.targets >= 0).sum(dim=1).numpy()
    spanish = np.array(starts) < border
    share = tokens[spanish].sum() / tokens.sum()
    assert share == pytest.approx(weights[0] / sum(weights), abs=0.03)
    assert loader.shares["spanish"] == pytest.approx(weights[0] / sum(weights))
    assert tokens.mean() == pytest.approx(loader.row_tokens, rel=0.03)
    # Each pass over a component has each of its rows once.
    counted = loader.passes(n)
    for name, here in (("spanish", spanish), ("english", ~spanish)):
        rows = loader.rows.n_rows[list(parts).index(name)]
        assert counted[name] == pytest.approx(here.sum() / rows)
        first = [s for s, p, ours in zip(starts, passes, here, strict=True) if ours and p == 0]
        assert len(set(first)) == len(first) == min(rows, here.sum())
    # Exactly resumable: a batch is a function of its position.
    part = Loader(mixed.train, 24, 3, True, Feed(kind, parts), 1).batch(17, 9)
    assert torch.equal(part.tokens, batch.tokens[17:26])
    assert torch.equal(part.targets, batch.targets[17:26])


def test_one_component_alone_is_the_split_without_a_mixture(
    tiny_data: Shards, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    """The same text named as a mixture of one: the same rows in the same order."""
    parts = mixture(all=("fables:es", 1))
    corpus = Corpus(CorpusConfig(mixture=parts, documents=60, validation=0.2))
    made = run(DataConfig(), corpus, tiny_tokenizer, tmp_path / "data", Silent(), StopFlag())
    a = Loader(made.train, 24, 3, True, Feed("concat", parts)).batch(5, 40)
    b = Loader(tiny_data.train, 24, 3, True).batch(5, 40)
    assert torch.equal(a.tokens, b.tokens)


def test_a_component_that_is_not_there(mixed: Shards, tiny_data: Shards) -> None:
    parts = mixture(spanish=("fables:es", 1), french=("fables:fr", 1))
    with pytest.raises(InputError, match="no document of french: it has those of spanish, english"):
        Loader(mixed.train, 24, 0, True, Feed("concat", parts))
    with pytest.raises(InputError, match="prepared as no mixture"):
        Loader(tiny_data.train, 24, 0, True, Feed("concat", parts))
    with pytest.raises(InputError, match=r"spanish in the train split has [\d,]+ tokens, one row needs 100,001"):
        Loader(mixed.train, 100_000, 0, True, Feed("concat", mixture(spanish=("fables:es", 1))))


def test_components_that_do_not_add_up_are_damage(mixed: Shards) -> None:
    facts = dict(mixed.manifest["splits"]["train"])
    facts["components"] = [{**part, "documents": 1} for part in facts["components"]]
    with pytest.raises(DamagedError, match="components of the train split"):
        Split(mixed.folder, "train", facts, mixed.dtype, mixed.manifest["vocab_size"])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_components_survive_the_death_of_a_process(
    mixed: Shards, tiny_tokenizer: Tokenizer, tmp_path: Path, workers: int
) -> None:
    parts = mixture(spanish=("fables:es", 1), english=("fables:en", 1))
    corpus = Corpus(CorpusConfig(mixture=parts, documents=40, validation=0.2))
    config = DataConfig(shard_tokens=5000, batch_documents=7, workers=workers)
    for batch in (2, 5):
        faults.arm(f"data.encoded=error:EIO@{batch}")
        try:
            with pytest.raises((MachineError, OSError)):
                run(config, corpus, tiny_tokenizer, tmp_path / "data", Silent(), StopFlag())
        finally:
            faults.arm("")
    run(config, corpus, tiny_tokenizer, tmp_path / "data", Silent(), StopFlag())
    for path in mixed.folder.iterdir():
        assert path.read_bytes() == (tmp_path / "data" / path.name).read_bytes()


# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": {"weight": 1}}, "corpus.mixture.a.source: missing"),
        ({"a": {"source": " , "}}, "names nothing"),
        ({"a": {"source": "x", "weight": -1}}, "weight=-1"),
        ({"a": {"source": "x", "epochs": 0}}, "epochs=0"),
        ({"a": {"source": "x", "weigth": 1}}, 'did you mean "weight"'),
        ({"a": {"source": "x", "weight": 1}, "b": {"source": "y"}}, "a has a weight and b has none"),
        ({"a": {"source": "x", "weight": 1, "epochs": 2}}, "a has a weight and epochs"),
        ({"a.b": {"source": "x"}}, "a name of letters"),
        ({"a": "x"}, "expected a table"),
    ],
)
def test_a_mixture_that_contradicts_itself(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        build(CorpusConfig, {"mixture": table}, "corpus")


def test_a_mixture_is_instead_of_a_source_and_of_texts() -> None:
    parts = {"a": {"source": "fables:es"}}
    with pytest.raises(ConfigError, match="each component names its own source"):
        build(CorpusConfig, {"mixture": parts, "source": "b.txt"})
    with pytest.raises(ConfigError, match="mixture= is for texts"):
        build(CorpusConfig, {"mixture": parts, "source_field": "es", "target_field": "en"})


def test_the_shares_are_not_in_the_key_of_the_data() -> None:
    def key(**parts: tuple[str, float]) -> str:
        return Corpus(CorpusConfig(mixture=mixture(**parts), documents=20)).fingerprint()

    one = key(a=("fables:es", 1), b=("fables:en", 1))
    assert key(a=("fables:es", 9), b=("fables:en", 0.1)) == one
    assert key(a=("fables:es", 1), c=("fables:en", 1)) != one
    assert key(b=("fables:en", 1), a=("fables:es", 1)) != one


RECIPE = tiny.RECIPE.replace(
    'source = "fables:es"\ndocuments = 60',
    'documents = 30\nmixture.es = { source = "fables:es", weight = 0.8 }\n'
    'mixture.en = { source = "fables:en", weight = 0.2 }',
)


def test_other_shares_train_on_the_same_data(
    tmp_path: Path, quick: None, cli: Callable[..., tuple[int, str, str]]
) -> None:
    recipe = tiny.write_recipe(tmp_path, RECIPE)
    first = pipeline.run(recipe, name="first", runs=tmp_path / "runs")
    found = first.summary["train"]["mixture"]
    assert found["es"]["share"] == pytest.approx(0.8)
    rows = first.summary["train"]["tokens"] / tiny.CONTEXT
    per_pass = Shards(first.folder / "data").train.components["en"].tokens // tiny.CONTEXT
    assert found["en"]["passes"] == pytest.approx(0.2 * rows / per_pass, rel=0.3)
    scored = first.evaluation["validation"]
    assert set(scored["components"]) == {"es", "en"}
    assert sum(part["nats"] for part in scored["components"].values()) == pytest.approx(scored["nats"])
    assert sum(part["bytes"] for part in scored["components"].values()) == scored["bytes"]
    assert "bits per byte" in (first.folder / "report" / "index.html").read_text(encoding="utf-8")
    log = (first.folder / "log.txt").read_text(encoding="utf-8")
    assert "mixture: es 80.0% of the tokens, read " in log
    # Other shares: another model, the same shards, not made again.
    with pytest.raises(InputError, match=r"mixture\.es\.weight"):
        pipeline.run(recipe, {"corpus.mixture.es.weight": 0.5}, name="first", runs=tmp_path / "runs")
    other = pipeline.run(
        recipe, {"corpus.mixture.es.weight": 0.5}, name="other", runs=tmp_path / "runs", prepared=[first.folder]
    )
    assert next(row for row in other.summary["stages"] if row["stage"] == "data")["skipped"]
    hashes = [storage.hash_file(made.folder / "data" / storage.MANIFEST) for made in (first, other)]
    assert hashes[0] == hashes[1]
    code, out, _ = cli("data", "show", other.folder)
    assert code == 0
    assert "  en " in out


def test_a_plan_reads_components_as_often_as_they_are(tmp_path: Path, quick: None) -> None:
    table = (
        'documents = 30\nmixture.es = { source = "fables:es", epochs = EPOCHS }\nmixture.en = { source = "fables:en" }'
    )
    found = []
    for epochs in ("1", "3"):
        text = tiny.RECIPE.replace('source = "fables:es"\ndocuments = 60', table.replace("EPOCHS", epochs))
        found.append(pipeline.plan(tiny.write_recipe(tmp_path, text))["epoch_tokens"])
    # The half that is read three times makes two of one.
    assert found[1] / found[0] == pytest.approx(2, rel=0.15)


def test_where_the_text_of_a_mixture_lies_is_of_no_account(tmp_path: Path, quick: None) -> None:
    texts = [Fables("en", 0)[number].text for number in range(60)]
    for place in ("here", "there"):
        for number, name in enumerate(("a", "b")):
            (tmp_path / place).mkdir(exist_ok=True)
            text = "\n<|endoftext|>\n".join(texts[number * 30 : number * 30 + 30])
            (tmp_path / place / f"{name}.txt").write_text(text, encoding="utf-8")
    table = "".join(f'mixture.{n} = {{ source = "{tmp_path}/here/{n}.txt", weight = 1 }}\n' for n in "ab")
    recipe = tiny.write_recipe(tmp_path, tiny.RECIPE.replace('source = "fables:es"\ndocuments = 60', table))
    pipeline.run(recipe, name="one", runs=tmp_path / "runs")
    moved = {f"corpus.mixture.{name}.source": str(tmp_path / "there" / f"{name}.txt") for name in "ab"}
    again = pipeline.run(recipe, moved, name="one", runs=tmp_path / "runs")
    assert next(row for row in again.summary["stages"] if row["stage"] == "train")["skipped"]
