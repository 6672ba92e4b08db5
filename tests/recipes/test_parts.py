"""The parts that recipes are made of, where a Linear does not show them: convolutions, refusals, averages by epoch."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import lpt
from lpt.callbacks.averaging import EpochAveraging
from lpt.dataflow import attach_products_


def octave(x: torch.Tensor) -> int:
    return math.frexp(x.abs().max().item())[1] - 1


def test_a_tile_of_a_convolutions_weight_spans_its_kernel_and_a_sample_its_pixels() -> None:
    torch.manual_seed(0)
    conv, int4 = nn.Conv2d(5, 6, 3, bias=False), lpt.formats.get("int4")
    with torch.no_grad():
        conv.weight.mul_(torch.logspace(-2, 2, 6 * 5 * 9).view(6, 5, 3, 3))
    w, x = conv.weight.detach().clone(), torch.randn(3, 5, 4, 4) * torch.tensor([1e-3, 1.0, 1e3]).view(3, 1, 1, 1)
    wanted = w.clone()
    for i in range(0, 6, 4):
        for j in range(0, 5, 4):
            at = slice(i, i + 4), slice(j, j + 4)
            wanted[at] = int4.round(w[at], octave(w[at]))
    samples = torch.stack([int4.round(one, octave(one)) for one in x])
    slots = dict.fromkeys(("w", "dgrad_w"), "int4/kernel4x4") | dict.fromkeys(("x", "wgrad_x"), "int4/sample")
    attach_products_(conv, lpt.Products(**slots))
    x.requires_grad_()
    y = conv(x)
    assert y.equal(nn.functional.conv2d(samples, wanted))
    e = torch.randn_like(y)
    y.backward(e)
    inner, weight = samples.requires_grad_(), wanted.requires_grad_()
    nn.functional.conv2d(inner, weight).backward(e)
    assert x.grad is not None and inner.grad is not None and weight.grad is not None and conv.weight.grad is not None
    torch.testing.assert_close(x.grad, inner.grad)
    torch.testing.assert_close(conv.weight.grad, weight.grad)


def test_a_history_stands_still_in_evaluation_and_in_a_probe() -> None:
    linear = nn.Linear(4, 3)
    slot = lpt.Slot("ocp_e4m3/tensor/fp32/inverse", scaling={"history": 2})
    handle = attach_products_(linear, lpt.Products(x=slot))
    x = torch.full((2, 4), 3.0)
    history = handle.rounding[""].product.histories["x"]
    linear.eval()(x)
    with handle.probe():
        linear.train()(x)
    assert history.factor.item() == 1 and not history.amaxes.any()
    linear(x)
    assert history.factor.item() == pytest.approx(448 / 3) and history.amaxes.tolist() == [3, 0]
    linear(x * 0)
    linear(x * 0)
    assert history.amaxes.tolist() == [0, 0] and history.factor.item() == pytest.approx(448 / 3)  # 0 keeps the old one
    linear(x * math.inf)
    assert history.factor.item() == pytest.approx(448 / 3)
    state = {key: value.clone() for key, value in handle.state_dict().items()}
    with pytest.raises(ValueError, match="of another length"):
        handle.load_state_dict({**state, "/x/amaxes": torch.zeros(5)})


@pytest.mark.parametrize(
    ("slot", "said"),
    [
        ({"format": "ocp_e4m3", "scaling": {"history": 2}}, "is for one FP32 scale a tensor"),
        ({"format": "ocp_e4m3/tensor/fp32/inverse", "scaling": {"history": 0}}, "no whole number from 1 upward"),
        ({"format": "ocp_e4m3/tensor/fp32/inverse", "scaling": {"take": "mean"}}, "not one of max, recent"),
        ({"format": "ocp_e4m3/tensor/fp32/inverse", "scaling": "current"}, "write {history: 1024, take: max}"),
        ({"format": "int4", "unsigned": "uint4"}, "give formats such as int4/tensor"),
        ({"format": "int4", "rounding": "up"}, "is not one of nearest, stochastic, floor, away, zero, log, eden"),
    ],
)
def test_slots_that_are_refused(slot: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        lpt.Slot(**slot)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["master", "gradient", "momentum"])
def test_what_is_kept_in_no_such_format(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}='bf16' is not one of fp32, fp169.*nor a block format"):
        lpt.QuantizedWeights(nn.Linear(2, 2), "int8", **{key: "bf16"})


def test_tiles_over_kernels_are_not_for_weights() -> None:
    with pytest.raises(ValueError, match="tiles over a kernel are for products="):
        lpt.QuantizedWeights(nn.Conv2d(2, 2, 3), "fp125/kernel48x48")


def test_epochs_are_averaged_from_a_share_of_the_run_on() -> None:
    model, averaging = nn.Linear(2, 2), EpochAveraging(start=0.5)
    task, seen = SimpleNamespace(model=model, total_steps=8), []
    for step in range(1, 9):
        with torch.no_grad():
            model.weight.fill_(float(step))
        averaging._step = step
        averaging.on_step(SimpleNamespace(is_last_batch=step % 2 == 0), task, {})  # type: ignore[arg-type]
        seen.append(averaging.averages["weight"][0, 0].item() if averaging.averages else None)
    assert seen == [None, None, None, 4, 4, 5, 5, 6]  # epochs end at 4, 6 and 8
    other = EpochAveraging(start=0.5)
    other.load_state_dict(averaging.state_dict())
    assert other.count == 3 and other.averages["weight"].equal(averaging.averages["weight"])
    with pytest.raises(ValueError, match=r"averaging\.start=2: give a share"):
        EpochAveraging(start=2)
