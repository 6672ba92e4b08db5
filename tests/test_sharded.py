"""Weights of which a process holds a part are refused before work starts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import lpt


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def sharded() -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return model


@pytest.mark.filterwarnings("ignore")  # torch's own, of its mesh
def test_sharded_parameters_are_refused(alone: None) -> None:
    model = sharded()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for attach in (
        lambda: lpt.attach_(model),
        lambda: lpt.attach_products_(model, lpt.Products(x="fp134")),
        lambda: lpt.QuantizedWeights(model),
        lambda: lpt.attach_weights_(model, optimizer),
    ):
        with pytest.raises(ValueError, match=r"'0\.weight' is a DTensor, sharded by fully_shard .* train with DDP"):
            attach()
