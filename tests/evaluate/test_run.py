"""The evaluation stage: a file and a split to a score with a name and a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fabula.config import build
from fabula.corpus.run import CorpusConfig
from fabula.data.shards import Shards
from fabula.device import Device
from fabula.errors import ConfigError, InputError, SourceError, Stopped
from fabula.evaluate.config import EvaluateConfig
from fabula.evaluate.intrinsic import score_documents
from fabula.evaluate.run import run, run_on_split
from fabula.model.decoder import Decoder
from fabula.progress import Silent, StopFlag
from fabula.tokenizer.base import Tokenizer
from tests import tiny

CPU = Device("cpu", "float32", 1, "test")


@pytest.fixture(scope="module")
def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder(tiny.model_config()).eval()


def on(model: Decoder, tokenizer: Tokenizer, path: Path, split: Any = "blank", **settings: Any) -> Any:
    config, corpus = EvaluateConfig(**settings), CorpusConfig(source=str(path), split=split, document_bytes=1)
    return run(config, model, tokenizer, str(path), corpus, CPU, Silent(), StopFlag())


def test_every_byte_of_a_file_is_scored_once(model: Decoder, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = ["El conejo saltó.", "La zorra 🦊 rió.\nY se fue.", "Fin"]
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    made = on(model, tiny_tokenizer, path)
    by_hand = score_documents(
        model, [(tiny_tokenizer.encode(t), len(t.encode())) for t in texts], tiny_tokenizer.special.end_of_document, CPU
    )
    assert made.score.nats == pytest.approx(by_hand.nats, rel=1e-5)
    assert (made.score.tokens, made.score.bytes, made.score.documents) == (by_hand.tokens, by_hand.bytes, 3)
    raw = b"".join(len(t.encode()).to_bytes(8, "little") + t.encode() for t in texts)
    assert made.sha256 == hashlib.sha256(raw).hexdigest()
    data = made.to_data()
    assert data["name"] == str(path)
    assert data["bits_per_byte"] == made.score.bits_per_byte


def test_repeated_documents_count_as_often_as_they_stand_there(
    model: Decoder, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("uno\n\nuno\n\nuno\n", encoding="utf-8")
    assert on(model, tiny_tokenizer, path).score.documents == 3


def test_how_the_work_is_cut_changes_nothing(model: Decoder, tiny_tokenizer: Tokenizer, tiny_corpus: Path) -> None:
    scores = [on(model, tiny_tokenizer, tiny_corpus, "marker", batch_rows=rows).score for rows in (8, 32)]
    assert scores[0].nats == pytest.approx(scores[1].nats, rel=1e-5)
    assert scores[0].documents == 60
    assert on(model, tiny_tokenizer, tiny_corpus, "marker", stride=32).score.tokens == scores[0].tokens


def test_nothing_to_score_is_an_error(model: Decoder, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises((SourceError, InputError)):
        on(model, tiny_tokenizer, tmp_path / "empty.txt")
    with pytest.raises(SourceError):
        on(model, tiny_tokenizer, tmp_path / "nowhere.txt")


def test_a_stride_beyond_the_context_is_the_users_error(
    model: Decoder, tiny_tokenizer: Tokenizer, tiny_corpus: Path
) -> None:
    with pytest.raises(InputError, match="stride=33 must be between 1 and the context length 32"):
        on(model, tiny_tokenizer, tiny_corpus, stride=33)


def test_a_split_is_scored_up_to_its_bytes(model: Decoder, tiny_tokenizer: Tokenizer, tiny_data: Shards) -> None:
    def score(limit: int) -> Any:
        config = EvaluateConfig(validation_bytes=limit)
        return run_on_split(config, model, tiny_tokenizer, tiny_data.validation, CPU, Silent(), StopFlag())

    whole, some, first = score(0), score(3000), score(1)
    assert (whole.score.documents, whole.score.bytes) == (
        tiny_data.validation.n_documents,
        tiny_data.validation.n_bytes,
    )
    assert first.score.documents == 1
    assert 3000 <= some.score.bytes < whole.score.bytes
    assert len({e.sha256 for e in (whole, some, first)}) == 3
    assert score(10**9).sha256 == whole.sha256


def test_a_stop_is_heard(model: Decoder, tiny_tokenizer: Tokenizer, tiny_data: Shards) -> None:
    stop = StopFlag()
    stop.signal_number = 15
    with pytest.raises(Stopped):
        run_on_split(EvaluateConfig(), model, tiny_tokenizer, tiny_data.validation, CPU, Silent(), stop)


def documents_of(data: Shards) -> Iterator[tuple[list[int], int]]:
    yield from ((list(ids), n) for ids, n in data.validation.documents())


def test_the_bytes_of_a_document_are_those_of_its_tokens(tiny_tokenizer: Tokenizer, tiny_data: Shards) -> None:
    lengths = tiny_tokenizer.byte_lengths()
    for ids, n_bytes in documents_of(tiny_data):
        assert sum(lengths[i] for i in ids) == n_bytes == len(tiny_tokenizer.decode_bytes(ids))


@pytest.mark.parametrize(("name", "value"), [("stride", -1), ("validation_bytes", -1), ("batch_rows", 0)])
def test_settings_out_of_range(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value} must be at least"):
        build(EvaluateConfig, {name: value}, "evaluate")
