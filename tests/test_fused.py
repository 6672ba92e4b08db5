"""Compiled into one pass over memory or not: the same bits, in everything that training leaves behind."""

import pytest
import torch
from torch import Tensor, nn

import lpt
from lpt.formats.fused import fused
from lpt.models import ResNet
from lpt.quantizer import Mode, Quantizer


def left_behind(fuse: bool, weights: str, layout: torch.memory_format, **flow: object) -> dict[str, Tensor]:
    """Parameters, scales and flips after three steps of a small network."""
    torch.manual_seed(0)
    model = ResNet(8, classes=4, in_channels=3, width=4).to(memory_format=layout)
    handle = lpt.attach_(model, lpt.DataFlow(**flow))  # type: ignore[arg-type]
    handle.mode.fused = fuse
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    held = lpt.attach_weights_(model, opt, weights, fused=fuse)
    for i in range(3):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i)).to(memory_format=layout)
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(4)).backward()
        handle.step()
        opt.step()
    scales = {name: q.scale for name, q in handle._parts().items()}
    return {**dict(model.named_parameters()), **scales, **held.masters, "flips": held.flips()}


@pytest.mark.parametrize(
    "weights, flow",
    [
        ("log4_hyst", {}),
        ("int8_sr", {"rounding": "stochastic", "error": "fp152"}),
        ("posit8_1", {"scaling": "current", "activation": "posit8_1"}),
    ],
)
def test_fused_training_leaves_the_same_bits(weights: str, flow: dict[str, object]) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        plain, once = (left_behind(fuse, weights, layout, **flow) for fuse in (False, True))
        different = [name for name in plain if not torch.equal(plain[name], once[name])]
        assert not different


def test_views_and_odd_layouts() -> None:
    x = torch.randn(6, 5, 4)
    views = [x, x.permute(2, 0, 1), x[:, ::2], x[0, 0, :1], x[:0], x[:, :1].expand(6, 5, 4), x[2, 3, 1]]
    for key in (None, "seed"):
        plain, once = (Quantizer(lpt.formats.get("fp134"), 1, True, Mode(fused=f), key) for f in (False, True))
        for quantizer in (plain, once):
            quantizer.scale.fill_(2)
            quantizer.started = True
        for view in views:
            assert torch.equal(plain(view, True), once(view, True)), view.stride()
        assert torch.equal(plain.seen, once.seen)


def test_each_function_is_compiled_by_itself() -> None:
    """More functions of one definition than torch.compile would recompile for."""

    def times(n: int) -> Tensor:
        return fused(lambda x: x * float(n))(torch.ones(3))

    assert [times(n)[0].item() for n in range(12)] == list(range(12))
