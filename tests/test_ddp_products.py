"""Products, weights and batch normalization on two ranks (gloo, CPU) against one rank with the batch of both.

A block along the batch is one of a rank's share. So two ranks are one rank that rounds each share by itself, bit for
bit; and they are one rank with the whole batch where no block reaches from one share into the other, up to the order of
sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing import spawn

import lpt
from lpt.dataflow.slots import PRODUCTS, SLOTS
from lpt.models.synchronized import synchronize_

MXFP8 = dict.fromkeys(SLOTS, "mxfp8_e4m3_rceil")
RANKS, STEPS = 2, 50


@dataclass(frozen=True)
class Case:
    """A small training: images a step, whether batches are normalized, what computes, the operands of products."""

    batch: int
    normal: bool
    dtype: torch.dtype
    products: dict[str, object]
    shares: int = 1  # into which one rank cuts its batch; their gradients are added
    steps: int = STEPS
    learned: bool = False  # INT4 weights whose scales train, in place of logarithmic ones under hysteresis


TURNED = {n: lpt.Slot("nvfp4", "stochastic", "hp", {"size": 16, "signs": "fresh", "fit": True}) for n in SLOTS}
DELAYED = {n: lpt.Slot("ocp_e4m3/tensor/fp32/inverse", scaling={"history": 4}) for n in SLOTS}
CASES = {
    "uneven": Case(40, False, torch.float32, MXFP8, steps=10),  # 20 images a rank: no whole number of blocks of 32
    "even": Case(64, True, torch.float64, MXFP8, steps=20),
    "float32": Case(64, True, torch.float32, MXFP8),
    "delayed": Case(64, False, torch.float32, DELAYED, steps=3),
    "random": Case(64, False, torch.float32, TURNED, steps=1),
    "learned": Case(64, False, torch.float64, {}, steps=10, learned=True),
}


def network(normal: bool) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d if normal else nn.Identity
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False), norm(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, padding=1, bias=False), norm(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 9, 10),
    )  # fmt: skip


def trained(case: Case, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """The quantized weights after each step, the gradients before the last, and where random bits begin."""
    model = network(case.normal).to(case.dtype)
    synchronize_(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    handle = lpt.attach_products_(model, lpt.Products(**case.products))  # type: ignore[arg-type]
    scheme, how = ("int4/sample/fp32", {"scaling": "lsq"}) if case.learned else ("log4_hyst", {})
    weights = lpt.attach_weights_(model, optimizer, scheme, **how)
    run = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    images = torch.Generator().manual_seed(1)
    seen = []
    for _ in range(case.steps):
        y = torch.randint(10, (case.batch,), generator=images)
        x = torch.randn(case.batch, 1, 6, 6, generator=images) + y.view(-1, 1, 1, 1) / 5
        optimizer.zero_grad()
        share = x.tensor_split(world)[rank], y.tensor_split(world)[rank]
        for own in zip(*(part.tensor_split(case.shares) for part in share), strict=True):
            (nn.functional.cross_entropy(run(own[0].to(case.dtype)), own[1]) / case.shares).backward()
        optimizer.step()
        seen.append(torch.cat([p.detach().flatten() for p in weights.params.values()]))
    keys = [m.product.keys for m in handle.rounding.values() if m.product.keys is not None]
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
    factors = [h.factor.flatten() for m in handle.rounding.values() for h in m.product.histories.values()]
    found = {"factors": torch.cat(factors)} if factors else {}
    return {
        **found,
        "gradients": gradients,
        "weights": torch.stack(seen),
        "keys": torch.stack(keys) if keys else torch.zeros(0),
    }


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=RANKS)
    torch.save({name: trained(case, rank, RANKS) for name, case in CASES.items()}, Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the ranks: the order of sums is a matter of how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(work, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def flips(found: dict[str, Tensor]) -> Tensor:
    """Which weights change at which step."""
    return found["weights"][1:] != found["weights"][:-1]


def test_ranks_hold_the_same_weights(ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    for name in CASES:
        assert ranks[0][name]["weights"].equal(ranks[1][name]["weights"]), name


def test_delayed_scales_are_of_all_ranks(ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    first, second = (found["delayed"]["factors"] for found in ranks)
    assert first.equal(second) and (first != 1).sum() == 3 * 3  # of x, w and e, which the other slots share


def test_blocks_are_of_a_rank(ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    """One rank that rounds both shares apart gives the same bits; one that rounds them together does not."""
    case, two = CASES["uneven"], ranks[0]["uneven"]
    apart, together = trained(replace(case, shares=RANKS)), trained(case)
    assert flips(two).any()
    for what in ("weights", "gradients"):
        assert apart[what].equal(two[what])
    assert not together["gradients"].equal(two["gradients"])


@pytest.mark.parametrize("name", ["even", "float32", "learned"])
def test_ranks_of_whole_blocks_are_one_rank(name: str, ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    """What is left is the order of sums; in float64 it is too small to carry a value over an edge of its grid."""
    one, two = trained(CASES[name]), ranks[0][name]
    agree = (flips(one) == flips(two)).float().mean()
    assert flips(one).any() and agree > 0.999, agree
    if CASES[name].dtype == torch.float64:
        assert agree == 1


def test_random_bits_are_of_a_rank_and_signs_of_all(ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    first, second = (found["random"]["keys"] for found in ranks)
    same = dict(zip((*SLOTS, *PRODUCTS), (first == second).all(0).tolist(), strict=True))
    assert {name for name, equal in same.items() if equal} == {"w", "dgrad_w", *PRODUCTS}
    assert not (first == second).any(0)[[SLOTS.index(name) for name in ("x", "wgrad_e", "wgrad_x", "dgrad_e")]].any()
