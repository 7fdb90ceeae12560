"""A T5 as it is published, weights and unigram tokenizer, comes in and goes out again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import fabula
from fabula.export import run as stage
from fabula.export.run import ExportConfig
from fabula.progress import Silent
from fabula.tokenizer.base import FILE
from tests.parity.test_huggingface import quiet
from tests.parity.test_t5_folders import t5 as settings
from tests.tokenizer.test_published import t5

pytestmark = pytest.mark.filterwarnings("ignore::Warning:transformers", "ignore::UserWarning:torch")


def test_a_published_t5(tiny_texts: list[str], tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    data = t5(tiny_texts)
    ids = len(data["model"]["vocab"]) + 28  # as there: the model has more ids than its tokenizer
    folder = tmp_path / "published"
    with quiet() as transformers:
        torch.manual_seed(1)
        config = transformers.T5Config(
            **settings(vocab_size=ids, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
        )
        transformers.T5ForConditionalGeneration(config).eval().save_pretrained(folder)
    (folder / FILE).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    made = stage.bring(folder, tmp_path / "brought", None, False)
    assert any("characters that it has no token for become unknown" in note for note in made.notes)
    tokenizer = fabula.load(tmp_path / "brought").tokenizer
    assert (tokenizer.vocab_size, tokenizer.special.end_of_document, tokenizer.special.padding) == (ids, 1, 0)
    loaded = stage.open_model(tmp_path / "brought", "best", lambda text: None)
    # Reloaded by transformers and compared: logits, greedy tokens, ids of texts.
    stage.run(ExportConfig(to="hf"), loaded, tmp_path / "out", Silent(), False)
    assert json.loads((tmp_path / "out" / FILE).read_text(encoding="utf-8"))["model"]["type"] == "Unigram"
