"""Who may attend to whom? Masks made from lengths and boundaries, never by looking for a token.

True means "may attend". A query always sees itself, so no row is empty and no softmax is NaN.

>>> causal(3, 3).int().tolist()
[[1, 0, 0], [1, 1, 0], [1, 1, 1]]
>>> same_document(torch.tensor([[0, 0, 1]])).int().tolist()
[[[1, 1, 0], [1, 1, 0], [0, 0, 1]]]
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal(n_queries: int, n_keys: int, device: torch.device | None = None) -> Tensor:
    """(T, S): the last query sees every key, each earlier one a key less. With a cache, S > T."""
    key = torch.arange(n_keys, device=device)
    query = torch.arange(n_keys - n_queries, n_keys, device=device)
    return key.unsqueeze(0) <= query.unsqueeze(1)


def same_document(documents: Tensor) -> Tensor:
    """(B, T, T) from document numbers (B, T): only positions of one's own document."""
    return documents.unsqueeze(2) == documents.unsqueeze(1)
