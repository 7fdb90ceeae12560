"""A small folder of Hugging Face's format, made without transformers."""

from __future__ import annotations

from pathlib import Path

import torch

from fabula import checkpoint
from fabula.config import dump_json
from fabula.export import hf
from fabula.export.families import families
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.tokenizer.base import Tokenizer
from tests import tiny

WEIGHTS, CONFIG, INDEX = hf.WEIGHTS, hf.CONFIG, hf.INDEX


def write(
    folder: Path,
    tokenizer: Tokenizer | None = None,
    config: ModelConfig | None = None,
    family: str = "qwen3",
    dtype: str = "float32",
) -> Decoder:
    """A random model as a folder; returns what is in it."""
    torch.manual_seed(0)
    model = Decoder(config or tiny.model_config(vocab_size=tiny.VOCABULARY)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.randn_like(parameter) * 0.2).to(getattr(torch, dtype)))
    folder.mkdir(parents=True)
    theirs = hf.config_json(families.get(family), model.config, dtype, {"eos_token_id": 0})
    (folder / CONFIG).write_text(dump_json(theirs), encoding="utf-8")
    checkpoint.write_tensors(folder / WEIGHTS, hf.tensors(families.get(family), theirs, model, dtype))
    if tokenizer is not None:
        tokenizer.save(folder)
    return model
