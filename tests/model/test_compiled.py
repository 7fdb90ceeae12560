"""A compiled model is the model: one graph, no breaks, the same numbers forwards and backwards.

The backend is the one that traces and differentiates but generates no code: what it shows is that torch can follow our
hand-written gradients. It needs no C compiler.
"""

from __future__ import annotations

import torch

from fabula.losses import linear_cross_entropy
from tests.contracts.variants import build, config, tokens


def test_compiled_is_not_compiled() -> None:
    model, ids = build(config(n_layers=1)), tokens(2, 8)

    def loss(row: torch.Tensor) -> torch.Tensor:
        hidden = model.hidden(row[:, :-1]).flatten(0, 1)
        return linear_cross_entropy(hidden, model.head_weight, row[:, 1:].flatten())

    results = []
    for run in (torch.compile(loss, backend="aot_eager", fullgraph=True), loss):
        model.zero_grad()
        total = run(ids)
        total.backward()
        results.append([total.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for compiled, eager in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)
