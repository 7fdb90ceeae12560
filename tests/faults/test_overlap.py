"""Copies planted on both sides of the cut: the exact ones are gone after preparation, the edited ones are reported."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from fabula.corpus.fables import Fables
from fabula.corpus.run import CorpusConfig
from fabula.corpus.run import run as open_corpus
from fabula.data.overlap import near_copies
from fabula.data.run import DataConfig, run
from fabula.data.shards import Shards, Split
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.bpe import train_bpe

EDITED = 0.05


def edited(text: str, words: Sequence[str], chooser: random.Random) -> str:
    """A text in which 5 % of the words, one at least, are replaced, deleted or have another inserted before them."""
    kept = text.split(" ")
    for place in chooser.sample(range(len(kept)), max(1, round(EDITED * len(kept)))):
        kind, other = chooser.choice(("replace", "delete", "insert")), chooser.choice(words)
        kept[place] = {"replace": other, "delete": "", "insert": f"{other} {kept[place]}"}[kind]
    return " ".join(word for word in kept if word)


def prepare(folder: Path, training: list[str], validation: list[str], vocab_size: int) -> Shards:
    """Prepared shards of texts whose side we choose."""
    folder.mkdir(parents=True)
    for name, texts in (("training", training), ("validation", validation)):
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(texts) + "\n", encoding="utf-8")
    corpus = open_corpus(
        CorpusConfig(
            source=str(folder / "training.txt"), validation_source=str(folder / "validation.txt"), split="marker"
        )
    )
    tokenizer = train_bpe(training[:500], vocab_size)
    return run(DataConfig(), corpus, tokenizer, folder / "data", Silent(), StopFlag())


def texts_of(split: Split) -> set[tuple[int, ...]]:
    return {tuple(ids) for ids, _ in split.documents()}


@pytest.mark.row("D12", cases=2000, nightly=6000)
@pytest.mark.parametrize(("language", "vocab_size"), [("es", 2048), ("en", 320)])
def test_copies_over_the_cut(tmp_path: Path, cases: int, language: str, vocab_size: int) -> None:
    # A thousand exact and a thousand edited copies at a time: of larger validation splits only a part is judged.
    for seed in range(cases // 2000):
        check_copies(tmp_path / str(seed), seed, 1000, language, vocab_size)


def check_copies(tmp_path: Path, seed: int, half: int, language: str, vocab_size: int) -> None:
    fables = Fables(language, seed)
    texts = [fables[i].text for i in range(4 * half)]
    exact, originals, others, unrelated = (texts[i * half : (i + 1) * half] for i in range(4))
    chooser = random.Random(12)
    words = " ".join(others).split()
    copies = [edited(text, words, chooser) for text in originals]
    assert not {*copies} & {*texts}

    training = [*exact, *originals, *others]
    planted = prepare(tmp_path / "planted", training, [*exact, *copies, *unrelated], vocab_size)
    assert planted.manifest["funnel"]["in_validation"] == half
    assert not texts_of(planted.train) & texts_of(planted.validation), "an exact copy stands in both splits"
    found = near_copies(planted.validation, planted.train)
    assert found["validation_documents"] == found["judged"] == 3 * half
    assert 0.95 * half <= found["near"] <= half + half // 1000
    # The first `half` validation documents are the exact copies, whose originals are gone from training.
    for pair in found["examples"]:
        assert half <= pair["validation"] < 2 * half
        assert pair["train"] == pair["validation"] - half

    control = prepare(tmp_path / "control", training, [*exact, *unrelated], vocab_size)
    assert near_copies(control.validation, control.train)["near"] <= half // 1000
