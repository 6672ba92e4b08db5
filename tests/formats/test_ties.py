"""Other midpoints than ties to even, fixed point, and scales of a whole tensor: by fractions and by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lpt.formats import Blocks, get

NAMES = ("ocp_e2m1", "fp143", "log4", "int4", "int8_full", "posit8_1", "7x5,4,3,2,1", "[3,1,2]")


def by_fractions(x: float, name: str, ties: str) -> float:
    levels = [Fraction(v) for v in get(name).values().tolist()]
    y = min(max(Fraction(x), levels[0]), levels[-1])
    low, high = max(v for v in levels if v <= y), min(v for v in levels if v >= y)
    inner, outer = sorted((low, high), key=abs)
    if ties == "log":
        up = y * y >= inner * outer
    else:
        near, far = abs(y - inner), abs(outer - y)
        up = near >= far if ties == "away" else near > far
    return float(outer if up else inner)


@pytest.mark.parametrize("ties", ["away", "zero", "log"])
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_midpoints(name: str, ties: str, data: st.DataObject) -> None:
    levels = get(name).values().tolist()
    between = [(a + b) / 2 for a, b in pairwise(levels)]
    near = st.sampled_from([*levels, *between, *(math.sqrt(a * b) for a, b in pairwise(levels) if a * b > 0)])
    x = data.draw(st.one_of(near, st.floats(-4, 4, width=32)))
    x = torch.tensor(x).float().item()
    for dtype in (torch.float32, torch.float64):
        got = get(name).round(torch.tensor([x], dtype=dtype), ties=ties).item()
        assert got == by_fractions(x, name, ties), (x, dtype)


def test_nothing_but_zero_becomes_zero_at_geometric_midpoints() -> None:
    x = torch.tensor([0.0, 1e-45, -1e-45, math.nan, math.inf])
    assert get("log4").round(x, 10, ties="log").tolist()[:3] == [0.0, 2.0**4, -(2.0**4)]
    with pytest.raises(ValueError, match="ties='up' is not one of even, away, zero, log"):
        get("log4").round(x, ties="up")


def test_fixed_point() -> None:
    f, step = get("fixed32_16"), 2.0**-16
    x = torch.tensor([1.5 * step, 2.5 * step, -0.25 * step, 1e6, -1e6, math.nan])
    assert f.round(x).tolist()[:3] == [2 * step, 2 * step, 0.0] and f.bits == 32
    assert f.floor(x).tolist()[:3] == [step, 2 * step, -step] and f.ceil(x).tolist()[:3] == [2 * step, 3 * step, 0.0]
    assert f.floor(x)[3:5].tolist() == [2.0**15 - 2.0**-9, -(2.0**15)] and f.round(x)[5].isnan()


WORDS = {"tensor": (1, 1), "sample": (6, 1), "flat4x8": (2, 3)}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_words_for_blocks(word: str, dim: int) -> None:
    """They lie as the tensor does, whatever the dimension: by loops over the matrix of its first dimension."""
    x = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 20).view(5, 4)
    fmt = get(f"int8/{word}")
    rows, columns = {"tensor": (6, 20), "sample": (1, 20), "flat4x8": (4, 8)}[word]
    wanted, flat = torch.empty(6, 20), x.view(6, 20)
    for i in range(0, 6, rows):
        for j in range(0, 20, columns):
            part = flat[i : i + rows, j : j + columns]
            wanted[i : i + rows, j : j + columns] = get("int8").round(part, math.frexp(part.abs().max().item())[1] - 1)
    assert fmt.round(x, dim).equal(wanted.view_as(x)) and tuple(fmt.scales(x, dim).shape) == WORDS[word]
    assert fmt.name == f"int8/{word}/e8m0/floor" and get(fmt.name) == fmt
    codes, scales = fmt.encode(x, dim)
    assert fmt.decode(codes, scales, dim).equal(wanted.view_as(x))
    assert fmt.round(x.transpose(0, 1).contiguous().transpose(0, 1), dim).equal(wanted.view_as(x))
    for shape in ((), (3,), (0,), (2, 0)):
        assert fmt.round(torch.zeros(shape)).shape == shape


def test_squeeze() -> None:
    """S2FP8 as its paper has it; a tensor of one magnitude stays what it is."""
    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)) * 1e-6
    x[0, :3] = 0
    log = x[x != 0].double().abs().log2()
    alpha = 15 / (log.max() - log.mean())
    beta = -alpha * log.mean()
    y = get("ocp_e5m2").round(x.sign() * 2**beta * x.double().abs() ** alpha)
    fmt = get("ocp_e5m2/tensor/squeeze")
    torch.testing.assert_close(fmt.round(x), (y.sign() * (2**-beta * y.abs()) ** (1 / alpha)).float())
    assert y.abs().max() == 2.0**15 and (fmt.round(x) == 0).equal(y == 0)
    assert fmt.scales(x).flatten().tolist() == pytest.approx([alpha.item(), beta.item()])
    torch.testing.assert_close(fmt.round(torch.full((3, 3), -0.3)), torch.full((3, 3), -0.3))


def test_sawb_inverse_static() -> None:
    x = torch.randn(50, 9, generator=torch.Generator().manual_seed(1))
    clip = 12.1 * x.square().mean().sqrt() - 12.2 * x.abs().mean()
    q = (x / (clip / 7)).round().clamp(-7, 7)
    torch.testing.assert_close(get("int4/tensor/fp32/sawb").round(x), q * (clip / 7))
    assert get("int4/tensor/fp32/sawb").round(torch.ones(4, 4)).equal(torch.ones(4, 4))  # no clip: by amax
    factor = torch.tensor(448.0) / x.abs().max()
    wanted = get("ocp_e4m3").round(x * factor) * (1 / factor)
    assert get("ocp_e4m3/tensor/fp32/inverse").round(x).equal(wanted)
    static = Blocks("fp143", "tensor", "static", exponent=7)
    assert static.high * 2**7 == 240 and static.round(x).equal(get("fp143").round(x, 7))
    assert static.name == "fp143/tensor/static/fixed/exponent=7" and get(static.name) == static
    with pytest.raises(ValueError, match="a static scale is 2"):
        Blocks("fp143", "tensor", "static")
