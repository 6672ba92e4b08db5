"""Weights in block formats: blocks along in-features, under every rule for the next weight."""

import pytest
import torch
from torch import Tensor, nn

import lpt
from lpt.errors import UserError
from lpt.formats import get
from lpt.formats.kernels import Library
from lpt.hardware.operands import blocks
from lpt.weights import hysteresis
from lpt.weights.contraction import InFeatures


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(40, 8, 3, groups=1, padding=1)
        self.up = nn.ConvTranspose2d(8, 12, 2, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.conv(x).relu()).mean((2, 3)))


def trained(scheme: str, steps: int = 3, **options: object) -> tuple[Net, lpt.QuantizedWeights]:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    weights = lpt.attach_weights_(model, optimizer, scheme, **options)
    for i in range(steps):
        optimizer.zero_grad()
        x = torch.randn(2, 40, 4, 4, generator=torch.Generator().manual_seed(i))
        model(x).square().mean().backward()
        optimizer.step()
    return model, weights


def test_blocks_lie_along_in_features() -> None:
    """By hand: out and in of each pixel, of each group."""
    model, fmt = Net(), get("mxfp4")
    views = {name: InFeatures.of(model, name).view(w) for name, w in model.named_parameters() if w.ndim > 1}
    shapes = {name: tuple(view.shape) for name, view in views.items()}
    assert shapes == {"conv.weight": (3, 3, 8, 40), "up.weight": (2, 2, 2, 6, 4), "head.weight": (5, 12)}
    assert views["conv.weight"][1, 2, 3, 4] == model.conv.weight[3, 4, 1, 2]
    assert views["up.weight"][1, 0, 1, 3, 2] == model.up.weight[4 + 2, 3, 0, 1]
    assert all(view.data_ptr() == model.get_parameter(name).data_ptr() for name, view in views.items())
    _, held = trained("mxfp4", 0)
    assert {name: tuple(s.shape) for name, s in held.scales.items()} == {
        "conv.weight": (3, 3, 8, 2), "up.weight": (2, 2, 2, 6, 1), "head.weight": (5, 1)
    }  # fmt: skip
    for pixel in range(9):
        w = held.masters["conv.weight"][:, :, pixel // 3, pixel % 3]
        assert held.params["conv.weight"][:, :, pixel // 3, pixel % 3].equal(fmt.round(w))


@pytest.mark.parametrize(
    "scheme",
    ["mxfp4", "mxfp4_hyst", "nvfp4_hyst", "mxfp8_e4m3_rceil_hyst", "bm8_a_sr", "ocp_e2m1/16x16/e4m3/amax_hyst"],
)
def test_weights_lie_on_their_blocks_after_training(scheme: str) -> None:
    _, held = trained(scheme)
    fmt = held.scheme.format
    for name, p in held.params.items():
        master, value = (held.by_channel(name, w) for w in (held.masters[name], p.detach()))
        assert fmt.scales(master).equal(held.scales[name])  # type: ignore[attr-defined]
        assert fmt.round(value, scale=held.scales[name]).equal(value) and not value.equal(master)
        low, high = fmt.floor(master, scale=held.scales[name]), fmt.ceil(master, scale=held.scales[name])
        assert ((value == low) | (value == high)).all()
    level, regrid, seen = held.flips().sum(0).tolist()
    assert seen == 3 * sum(p.numel() for p in held.params.values()) and level + regrid > 0
    _, fused = trained(scheme, kernels=Library(ahead=False))
    assert all(p.equal(fused.params[name]) for name, p in held.params.items())


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "ocp_e4m3/16/fp32"])
@pytest.mark.parametrize("width", [0.0, 0.4, 1.0])
def test_hysteresis_over_blocks(name: str, width: float) -> None:
    """The definition, on the new grid."""
    generator = torch.Generator().manual_seed(0)
    fmt = get(name)
    master, previous = torch.randn(4, 50, generator=generator), fmt.round(torch.randn(4, 50, generator=generator))
    scale = fmt.scale_of(master)
    got = hysteresis(master, previous, name, scale, width)
    low, high = fmt.floor(master, scale=scale), fmt.ceil(master, scale=scale)
    up = master >= previous
    way = (1 + width) / 2 * (high - low)
    moved = torch.where(up, torch.where(master >= low + way, high, low), torch.where(master <= high - way, low, high))
    wanted = fmt.round(master, scale=scale) if width == 0 else torch.where(low == high, low, moved)
    assert got.equal(wanted)


def test_flips_of_moved_blocks_are_regrid_flips() -> None:
    model = nn.Linear(64, 2, bias=False)
    model.weight.data = torch.linspace(-1, 1, 128).view(2, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    held = lpt.attach_weights_(model, optimizer, "mxfp4")
    change = torch.zeros(2, 64)
    change[0, :32] = 1.0  # to three halves: the exponent of its block moves
    change[1, 40] = 0.3  # to another level of its own block
    model.weight.grad = -change
    optimizer.step()
    level, regrid, _ = held.flips()[0].tolist()
    assert level == 1 and 20 < regrid <= 32


def test_a_saved_state_goes_on() -> None:
    _, held = trained("nvfp4_hyst")
    state = {key: value.clone() if isinstance(value, Tensor) else value for key, value in held.state_dict().items()}
    _, other = trained("nvfp4_hyst", 1)
    other.load_state_dict(state)
    assert all(s.equal(other.scales[name]) for name, s in held.scales.items())
    assert all(p.equal(other.params[name]) for name, p in held.params.items())


@pytest.mark.parametrize("options", [{"scaling": "tracked"}, {"room": 1}, {"scale_rule": "ceil"}])
def test_what_a_block_format_decides_itself(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="mxfp4 is a block format, with a rule and room of its own: leave scaling"):
        lpt.QuantizedWeights(Net(), "mxfp4_hyst", **options)  # type: ignore[arg-type]


def test_misspelt_schemes() -> None:
    with pytest.raises(ValueError, match=r"unknown weight scheme 'mxpf4_hyst'.*the nearest is 'mxfp4'"):
        lpt.weights.scheme("mxpf4_hyst")


def test_a_block_format_where_a_tensor_has_one_scale() -> None:
    for refused in (
        lambda: lpt.DataFlow(activation="mxfp4"),
        lambda: lpt.DataFlow(rules=[{"pattern": "*", "error": "nvfp4"}]),
        lambda: blocks("bm8_a"),  # of hardware, which knows some block formats, and this is none of them
    ):
        with pytest.raises((ValueError, UserError), match="is a block format"):
            refused()
