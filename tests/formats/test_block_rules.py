"""Scale rules beyond the largest magnitude, against plain definitions: spreads, 4/6, headroom, outer factors, EDEN."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lpt.formats import Blocks, get
from lpt.formats.eden import round_eden
from lpt.formats.noise import uniform

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
E4M3 = np.array(sorted({(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)} |
                       {m * 2.0**-9 for m in range(8)})[:-1], dtype=np.float32)  # fmt: skip


def values(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.exp2(torch.randint(-3, 3, (*shape[:-1], 1), generator=torch.Generator().manual_seed(seed)))


def near(x: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The nearest level to |x|, the even rank at a tie (both grids are floats), with x's sign."""
    distance = np.abs(np.abs(x)[..., None].astype(np.float64) - levels)
    even = np.arange(len(levels)) % 2 == 0
    nearest = distance == distance.min(-1, keepdims=True)
    return np.sign(x) * levels[(nearest * (1 + even)).argmax(-1)]


def two_level(row: np.ndarray, amax: np.float32, target: float, headroom: float, pick: bool) -> np.ndarray:
    """NVFP4 of one row whose factor belongs to `amax`."""
    f = np.float32
    high = f(6 / headroom)
    factor = f(target * (6 / headroom)) / f(amax)
    out = []
    for block in row.reshape(-1, 16):
        wanted = f(np.abs(block).max()) * f(factor * f(1 / high))
        tried = []
        for scale in (wanted, f(wanted * f(1.5))) if pick else (wanted,):
            b = f(near(scale, E4M3))
            q = near(block * (f(1) / f(b * (f(1) / factor))), E2M1)
            tried.append((q * b / factor).astype(f))
        errors = [((t - block) ** 2).sum(dtype=f) for t in tried]
        out.append(tried[1] if pick and errors[1] < errors[0] else tried[0])
    return np.concatenate(out)


@pytest.mark.parametrize(
    ("name", "target", "headroom", "pick"),
    [("ocp_e2m1/16/e4m3/four_six", 256, 1, True), ("ocp_e2m1/16/e4m3/amax/headroom=1.0625", 448, 17 / 16, False),
     ("ocp_e2m1/16/e4m3/four_six/headroom=1.0625", 256, 17 / 16, True), ("nvfp4", 448, 1, False),
     ("ocp_e2m1/16/e4m3/amax/target=255.99", 255.99, 1, False)],
)  # fmt: skip
def test_two_levels(name: str, target: float, headroom: float, pick: bool) -> None:
    x = values(6, 64)
    got = get(name).round(x).numpy()
    amax = x.abs().amax().numpy()
    wanted = np.stack([two_level(row, amax, target, headroom, pick) for row in x.numpy()])
    np.testing.assert_allclose(got, wanted, rtol=3e-7)


def test_four_six_takes_both_and_is_never_worse() -> None:
    x = values(64, 64, seed=3)
    plain, picked = get("ocp_e2m1/16/e4m3/amax/target=256.0"), get("ocp_e2m1/16/e4m3/four_six")
    error = [(f.round(x) - x).unflatten(1, (4, 16)).square().sum(-1) for f in (plain, picked)]
    assert (error[1] <= error[0]).all() and 0.2 < (error[1] < error[0]).double().mean() < 0.9
    larger = picked.scales(x)[0] / plain.scales(x)[0]
    assert set(larger.unique().tolist()) != {1.0} and larger.max() <= 1.65


def test_headroom_leaves_nothing_to_clip() -> None:
    """Where E4M3 rounds a scale down, amax / scale is above 6; 17/16 is as far as that goes."""
    x = values(512, 16, seed=1)
    assert get("nvfp4").at_scale_0(x).abs().max() > 6.05
    assert get("ocp_e2m1/16/e4m3/amax/headroom=1.0625").at_scale_0(x).abs().max() <= 6


def test_an_outer_factor_of_its_own() -> None:
    """Each 128 elements of a row as if they were a tensor; the last ones fewer. Along another dimension too."""
    fmt, one = get("ocp_e2m1/16/e4m3/amax/outer=128"), get("nvfp4")
    x = values(3, 300)
    wanted = torch.stack([torch.cat([one.round(part) for part in row.split(128)]) for row in x])
    assert fmt.round(x).equal(wanted) and fmt.round(x.t(), 0).equal(wanted.t())
    assert not one.round(x).equal(wanted)
    assert one.local and not fmt.local  # so that compiled passes do not join its rows


@pytest.mark.parametrize("rule", ["rms", "std"])
def test_spreads(rule: str) -> None:
    """Of a power of two and a real scale; shorter last blocks count what they have; zeros round to zero."""
    x = values(4, 80) + 0.5
    for part, at in ((x[:, :32], 0), (x[:, 64:], 2)):
        size = part.double().std(-1, correction=0) if rule == "std" else part.double().square().mean(-1).sqrt()
        got = get(f"ocp_e2m1/32/e8m0/{rule}/spread=2.92247856").scales(x)[:, at]
        assert got.tolist() == [math.floor(math.log2(2.92247856 / 6 * s + 1e-8)) for s in size.tolist()]
        real = get(f"mid4/32/fp32/{rule}/spread=2.514").scales(x)[:, at]
        torch.testing.assert_close(real.double(), (2.514 * size + 1e-8) / 15, rtol=1e-6, atol=0)
    assert get(f"ocp_e2m1/32/e8m0/{rule}/spread=2.9").round(torch.zeros(4, 32)).equal(torch.zeros(4, 32))
    row = get(f"mid4/line/fp32/{rule}/spread=2.514")
    assert row.scales(x).shape == (4, 1) and row.block == get("mid4/line/fp32/rms/spread=2.514").block


def test_a_factor_on_every_scale() -> None:
    x = values(5, 64)
    fmt, plain = get({"element": "ocp_e2m1", "block": 32, "factor": 4 / 3}), get("mxfp4")
    third = torch.tensor(4 / 3)
    y = plain.at_scale_0(x) / third
    assert y.abs().max() < 6  # 3/4 of what floor leaves below 8
    scale = torch.exp2(plain.scales(x).float()).repeat_interleave(32, 1)
    assert fmt.round(x).equal(get("ocp_e2m1").round(y) * third * scale)
    codes, scales = fmt.encode(x)
    assert fmt.decode(codes, scales).equal(fmt.round(x))


def test_a_grid_without_zero() -> None:
    fmt = get("mid4")
    assert fmt.values().tolist() == [float(v) for v in range(-15, 16, 2)] and fmt.bits == 4
    x = torch.linspace(-20, 20, 1001)
    wanted = (x.clamp(-15, 15) / 2 + 0.5).round() * 2 - 1
    assert fmt.round(x).equal(wanted)
    assert (fmt.floor(x) <= x.clamp(-15, 15)).all() and (fmt.ceil(x) >= x.clamp(-15, 15)).all()
    assert (fmt.ceil(x) - fmt.floor(x)).max() == 2
    assert fmt.decode(fmt.encode(x)).equal(fmt.round(x)) and len(fmt.encode(x).unique()) == 16
    noisy = torch.stack([fmt.round(torch.tensor([0.5]), stochastic=torch.tensor(i)) for i in range(4000)])
    assert abs(noisy.mean().item() - 0.5) < 0.06 and set(noisy.unique().tolist()) == {-1.0, 1.0}


def test_eden_by_hand() -> None:
    """Of each 128 elements, the factor <y, y> / <y, q>, into scales that are rounded stochastically."""
    fmt, key = get("ocp_e2m1/16/e4m3/amax/target=255.99/headroom=0.988125"), torch.tensor(7)
    x = values(3, 256)
    got = round_eden(fmt, x, -1, 128, key)
    b, whole = fmt.scales(x)
    noise = uniform(b, key).numpy()
    for row in range(3):
        for group in range(2):
            at = range(8 * group, 8 * group + 8)
            blocks = x[row].view(16, 16)[8 * group : 8 * group + 8].double().numpy()
            scale = (b[row, at] / whole[row, at]).double().numpy()
            y = blocks / scale[:, None]
            q = near(y, E2M1).astype(np.float64)
            factor = (y * y).sum() / (y * q).sum()
            for i, block in enumerate(at):
                wanted = float(b[row, block]) * factor
                low = E4M3[wanted >= E4M3][-1]
                high = E4M3[wanted < E4M3][0]
                picked = high if noise[row, block] * (high - low) < wanted - low else low
                value = q[i] * picked / float(whole[row, block])
                np.testing.assert_allclose(got[row].view(16, 16)[block].numpy(), value, rtol=1e-6)
    assert round_eden(fmt, x.t(), 0, 128, key).equal(got.t())


def test_eden_is_right_along_x_on_the_mean() -> None:
    """<x, E[Q(x)]> = <x, x> where all blocks have one scale; rounding to nearest shrinks it."""
    fmt = get("ocp_e2m1/16/e4m3/amax/target=255.99")
    x = torch.full((1, 128), 0.31)
    x[:, ::16] = 3.5
    found = torch.stack([round_eden(fmt, x, -1, 128, torch.tensor(i)) for i in range(2000)]).double().mean(0)
    exact = (x.double() * x).sum()
    assert abs(((x * found).sum() / exact).item() - 1) < 2e-3
    assert abs(((x.double() * fmt.round(x)).sum() / exact).item() - 1) > 3e-3


@pytest.mark.parametrize(
    ("name", "said"),
    [("ocp_e2m1/32/e8m0/rms", "have a spread"), ("ocp_e2m1/32/e8m0/floor/spread=2.0", "no other has one"),
     ("ocp_e2m1/16/e4m3/amax/outer=100", "a multiple of the block"), ("ocp_e2m1/16x16/e4m3/amax/outer=128", "tiles"),
     ("ocp_e2m1/16/e4m3/amax/headroom=0", "a positive number"), ("mxfp4/rms", "block format"),
     ("ocp_e2m1/32/fp32/amax/factor=2.0", "no option of fp32"),
     ("ocp_e2m1/32/e8m0/floor/sprad=1", "got element, .*sprad")],
)  # fmt: skip
def test_mistakes(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        get(name)
    with pytest.raises(ValueError, match="such as nvfp4"):
        round_eden(Blocks("ocp_e2m1", 32), torch.zeros(32), 0, 128, torch.tensor(0))
