"""Do the optimizers that are ours move weights that are spread over processes (DTensor) as they move whole ones?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fabula.train.optimizers import OptimizerConfig, optimizers


@pytest.fixture
def mesh() -> Iterator[object]:
    """One process that believes itself a cluster: the same code runs, nothing leaves it."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(6, 8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)


def steps(net: nn.Module, config: OptimizerConfig) -> list[torch.Tensor]:
    from torch.distributed.tensor import DTensor, distribute_tensor

    built = config.build(net)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for p in net.parameters():
            gradient = torch.randn(p.shape, generator=generator)
            p.grad = distribute_tensor(gradient, p.device_mesh, p.placements) if isinstance(p, DTensor) else gradient
        for optimizer in built:
            optimizer.step()
    return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in net.parameters()]


@pytest.mark.parametrize("kind", list(optimizers))
def test_spread_weights_move_as_whole_ones(mesh: object, kind: str) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    config = optimizers.get(kind)(weight_decay=0.1)
    whole, spread = Net(), Net()
    fully_shard(spread, mesh=mesh)  # type: ignore[arg-type]
    assert all(isinstance(p, DTensor) for p in spread.parameters())
    for p, q in zip(steps(whole, config), steps(spread, config), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_spread_weights_are_averaged_as_whole_ones(mesh: object) -> None:
    from types import SimpleNamespace

    from torch.distributed.fsdp import fully_shard

    from fabula.train.averages import Tail
    from fabula.train.averaging import Average

    shown = []
    for is_spread in (False, True):
        net, average = Net(), Average(Tail(share=1.0))
        if is_spread:
            fully_shard(net, mesh=mesh)  # type: ignore[arg-type]
        for held in range(3):
            steps(net, optimizers.get("sgd")(lr=0.1))
            average.take(net, 1 / (1 + held))
        with average.shown(SimpleNamespace(model=net)):  # type: ignore[arg-type]
            # A copy: of one process the whole is the part itself, which changes places again.
            shown.append([(p.full_tensor() if is_spread else p).detach().clone() for p in net.parameters()])  # type: ignore[attr-defined]
    for p, q in zip(*shown, strict=True):
        assert torch.allclose(p, q, atol=1e-6)
