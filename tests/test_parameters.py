"""Which parameters are weights, by what their module is; which are not, and why; where output channels lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import lpt
from lpt.models import LSTMLanguageModel
from lpt.weights.parameters import channel_dim, quantizable, why_not


class OwnConv(nn.Conv2d):
    pass


class OwnNorm(nn.LayerNorm):
    pass


class OwnProduct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.ones(3, 2))
        self.position = nn.Parameter(torch.ones(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.in_proj_weight)


class OwnMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))

    def forward(self, w: Tensor) -> Tensor:
        return w * self.weight


def parametrized(how: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(how(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("net", "weights", "left"),
    [
        (nn.Linear(2, 1), ["weight"], {}),
        (OwnConv(1, 2, 3), ["weight"], {}),
        (nn.Bilinear(2, 2, 2), ["weight"], {}),
        (nn.EmbeddingBag(3, 2), ["weight"], {}),
        (nn.LSTM(2, 3), ["weight_ih_l0", "weight_hh_l0"], {}),
        (nn.MultiheadAttention(4, 2, bias=False), ["in_proj_weight", "out_proj.weight"], {}),
        (OwnProduct(), ["in_proj_weight"], {"position": "not called weight"}),
        (nn.LayerNorm([2, 3, 4]), [], {"weight": r"normalization's scales \(LayerNorm\)", "bias": "normalization"}),
        (OwnNorm([2, 3]), [], {"weight": "OwnNorm", "bias": "OwnNorm"}),
        (nn.RMSNorm([2, 3]), [], {"weight": "RMSNorm"}),
        (nn.Sequential(nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.InstanceNorm1d(2, affine=True)), [], {}),
        (nn.PReLU(4), [], {}),
        (nn.Linear(2, 2, dtype=torch.complex64), [], {"weight": "not real numbers"}),
        (parametrized(parametrizations.weight_norm), [], {"0.weight": r"parametrization \(WeightNorm\)"}),
        (parametrized(parametrizations.spectral_norm), [], {"0.weight": r"parametrization \(SpectralNorm\)"}),
        (parametrized(parametrizations.orthogonal), [], {"0.weight": r"parametrization \(Orthogonal\)"}),
        (parametrized(torch.nn.utils.spectral_norm), [], {"0.weight": r"hook \(SpectralNorm\)"}),
        (torch.nn.utils.prune.identity(nn.Linear(2, 2), "weight"), ["weight_orig"], {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_roles(net: nn.Module, weights: list[str], left: dict[str, str]) -> None:
    assert list(quantizable(net)) == weights
    reasons = why_not(net)
    assert reasons.keys() == left.keys()
    for name, told in left.items():
        with pytest.raises(ValueError, match=told):
            raise ValueError(reasons[name])


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_the_old_weight_norm_is_left_out_and_a_parametrizations_own_weights_are() -> None:
    net = nn.Sequential(torch.nn.utils.weight_norm(nn.Conv2d(1, 2, 3)), nn.Linear(2, 2))
    parametrize.register_parametrization(net[1], "weight", OwnMask())
    assert quantizable(net) == {} and list(why_not(net)) == ["0.weight", "1.weight"]
    counted = net[1].parametrizations.weight.original._version
    lpt.QuantizedWeights(nn.Sequential(net, nn.Linear(2, 2)), "int4")
    assert net[1].parametrizations.weight.original._version == counted


def test_tied_weights_count_once_and_lazy_ones_are_told() -> None:
    model = LSTMLanguageModel(7, width=4, layers=1, tied=True)
    assert "decoder.weight" not in quantizable(model) and "embedding.weight" in quantizable(model)
    net = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"'1.weight' of LazyLinear has no shape yet: run the model once"):
        lpt.QuantizedWeights(net, "int4")
    net(torch.ones(1, 2))
    assert lpt.QuantizedWeights(net, "int4").names == ["0.weight", "1.weight"]


def test_left_out_is_told_by_the_handle() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    parametrizations.weight_norm(net[0])
    weights = lpt.attach_weights_(net, torch.optim.SGD(net.parameters(), lr=0.1), "log4")
    assert weights.names == ["1.weight"] and "parametrization" in weights.left_out["0.weight"]


@settings(max_examples=30, deadline=None)
@given(
    dims=st.integers(1, 3), groups=st.integers(1, 3), into=st.integers(1, 3), out=st.integers(1, 3),
    transposed=st.booleans(), seed=st.integers(0, 99), scaling=st.sampled_from(["current", "tracked", "delayed"]),
)  # fmt: skip
def test_one_scale_per_output_channel(dims, groups, into, out, transposed, seed, scaling):
    """An output channel is quantized as if it were alone: its own kernel, cut out by what it computes."""
    torch.manual_seed(seed)
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    layer = kind(groups * into, groups * out, 2, groups=groups, bias=False)
    with torch.no_grad():
        layer.weight.mul_(torch.exp2(torch.randint(-8, 8, layer.weight.shape)))
    master = layer.weight.detach().clone()
    weights = lpt.QuantizedWeights(nn.Sequential(layer), "int4", scaling=scaling)
    assert weights.scales["0.weight"].numel() == layer.out_channels
    assert channel_dim(layer, "weight") == int(transposed)
    for _ in range(2):
        for channel in range(layer.out_channels):
            group, own = divmod(channel, out)
            place = (slice(group * into, (group + 1) * into), own) if transposed else (channel,)
            alone = nn.Sequential(nn.Linear(2, 2, bias=False))
            alone[0].weight = nn.Parameter(master[place].reshape(1, -1).clone())
            lpt.QuantizedWeights(alone, "int4")
            assert torch.equal(layer.weight[place].reshape(1, -1), alone[0].weight)
        weights.swap_in()
        weights.update()
    view = weights.by_channel("0.weight", layer.weight.detach())
    assert torch.equal(lpt.formats.get("int4").round(view, weights.scales["0.weight"]), view)
