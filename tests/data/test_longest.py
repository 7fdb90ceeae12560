"""Documents that do not fit are left out and counted: by data.longest, also over several lives of a process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fabula import recipe as recipes
from fabula import storage
from fabula.corpus.clean.config import CleanConfig
from fabula.corpus.run import Corpus, CorpusConfig
from fabula.data.run import DataConfig, content_settings, run
from fabula.data.shards import Shards
from fabula.errors import ConfigError, InputError, SourceError, Stopped
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.base import Tokenizer
from tests import tiny

CORPUS = CorpusConfig(source="fables:es", documents=60, validation=0.2, clean=CleanConfig(preset="light"))
LIMIT = 640  # about half of these fables are longer


def prepare(tokenizer: Tokenizer, out: Path, longest: Any, corpus: CorpusConfig = CORPUS) -> Shards:
    config = DataConfig(longest=longest, batch_documents=7)
    return run(config, Corpus(corpus), tokenizer, out, Silent(), StopFlag())


def lengths(shards: Shards, split: str) -> list[int]:
    return [len(ids) for ids, _ in shards.splits[split].documents()]  # type: ignore[index]


def test_whole_documents_that_fit_stay(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    everything = prepare(tiny_tokenizer, tmp_path / "all", 0)
    known = lengths(everything, "train")
    limit = sorted(known)[len(known) // 2]
    some = prepare(tiny_tokenizer, tmp_path / "some", limit)
    assert lengths(some, "train") == [n for n in known if n <= limit]
    funnel, before = some.manifest["funnel"], everything.manifest["funnel"]
    left = funnel["too_long"]["train"]
    assert left["documents"] == sum(n > limit for n in known)
    assert left["tokens"] == sum(n for n in known if n > limit)
    assert funnel["records"] == before["records"] == 60
    for split in ("train", "validation"):
        gone = funnel["too_long"][split]
        assert funnel["documents"][split] + gone["documents"] == before["documents"][split]
        assert funnel["bytes"][split] + gone["bytes"] == before["bytes"][split]
        bits = funnel["surprisal_bits"][split] + gone["surprisal_bits"]
        assert bits == pytest.approx(before["surprisal_bits"][split])
        assert some.splits[split].n_bytes == funnel["bytes"][split]  # type: ignore[index]
    assert [step["step"] for step in funnel["cleaning"]] == ["mojibake", "unicode", "control", "whitespace"]
    assert "too_long" not in before


class StopsLater(StopFlag):
    """A signal that comes after some batches."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def check(self, doing: str) -> None:
        self.after -= 1
        if self.after < 0:
            raise Stopped(f"stopped while {doing}", 2)


@pytest.mark.parametrize("after", [1, 3, 6])
def test_the_account_outlives_a_stop(tmp_path: Path, tiny_tokenizer: Tokenizer, after: int) -> None:
    straight = prepare(tiny_tokenizer, tmp_path / "straight" / "data", LIMIT)
    out = tmp_path / "stopped" / "data"
    config = DataConfig(longest=LIMIT, batch_documents=7)
    with pytest.raises(Stopped):
        run(config, Corpus(CORPUS), tiny_tokenizer, out, Silent(), StopsLater(after))
    run(replace(config, workers=1), Corpus(CORPUS), tiny_tokenizer, out, Silent(), StopFlag())
    assert straight.manifest["funnel"]["too_long"]["train"]["documents"] > 3

    def content(folder: Path) -> dict[str, str]:
        return {p.name: storage.hash_file(p) for p in folder.iterdir()}

    assert content(out) == content(straight.folder)


def test_a_pair_goes_whole(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"en": "go", "es": "ve"},
        {"en": "x", "es": "largo " * 60},
        {"en": "now", "es": "ya"},
        {"en": "a", "es": "b"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    corpus = CorpusConfig(source=str(path), source_field="en", target_field="es", validation=0.5)
    shards = prepare(tiny_tokenizer, tmp_path / "data", 20, corpus)
    funnel = shards.manifest["funnel"]
    assert sum(part["documents"] for part in funnel["too_long"].values()) == 1
    assert sum(funnel["documents"].values()) == 3
    assert sum(split.n_documents for split in shards.splits.values()) == 6


def test_a_split_that_would_be_empty_is_refused(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(SourceError, match=r"are longer than 2 tokens \(data.longest\)"):
        prepare(tiny_tokenizer, tmp_path / "data", 2)
    assert not (tmp_path / "data").exists()


def test_the_context_in_numbers(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    loaded = recipes.load(tiny.write_recipe(tmp_path), [("data.longest", "context")])
    assert loaded.data.longest == "context"
    # A document and its end must fit into a row of 32.
    assert recipes.data_config(loaded).longest == 31
    with pytest.raises(InputError, match="give a number"):
        prepare(tiny_tokenizer, tmp_path / "data", "context")
    with pytest.raises(ConfigError, match="longest"):
        recipes.load(tiny.write_recipe(tmp_path), [("data.longest", "-3")])
    assert "longest" not in content_settings(DataConfig())


def test_it_is_shown(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path)
    settings = ("--data.longest", str(LIMIT), "--corpus.clean.preset", "light")
    code, out, _ = cli("data", "prepare", recipe, "--out", "made", *settings)
    assert code == 0
    assert "too long" in out
    assert "white space and line ends made even" in out
