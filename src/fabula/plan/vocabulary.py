"""What does a vocabulary cost a model? Its share of the parameters and of the work, and how far the context reaches."""

from __future__ import annotations

import dataclasses

from fabula.config import Data
from fabula.model.kinds import AnyConfig


def cost(name: str, model: AnyConfig, vocab_size: int, bytes_per_token: float, tokens_per_word: float) -> Data:
    """A model with a vocabulary of that size, on text with that many bytes a token.

    Parameters and FLOPs of the vocabulary are those that grow with it: embedding and head. All FLOPs are those of a
    full context; `training_flops_per_byte` is what one byte of text costs in training.
    """
    sized = dataclasses.replace(model, vocab_size=vocab_size)
    one_more = dataclasses.replace(model, vocab_size=vocab_size + 1)
    parameters = vocab_size * (one_more.n_params() - sized.n_params())
    flops = vocab_size * (one_more.flops_per_token() - sized.flops_per_token())
    return {
        "preset": name,
        "vocab_size": vocab_size,
        "parameters": sized.n_params(),
        "vocabulary_parameters": parameters,
        "vocabulary_share": parameters / sized.n_params(),
        "flops_per_token": sized.flops_per_token(),
        "vocabulary_flops_share": flops / sized.flops_per_token(),
        "training_flops_per_byte": sized.training_flops_per_token() / bytes_per_token,
        "context_tokens": sized.context_length,
        "context_bytes": sized.context_length * bytes_per_token,
        "context_words": sized.context_length / tokens_per_word,
    }
