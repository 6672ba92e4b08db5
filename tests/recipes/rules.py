"""What the 8-bit and weight-only recipes do to the operands of a Linear, from their rules alone: float64, by loops.

x (tokens, in), w (out, in), e (tokens, out). `u` are uniform random numbers in the shape of what is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Block = Callable[[Tensor, Tensor | None], Tensor]


def octave(y: Tensor) -> Tensor:
    """floor(log2|y|), of 0 far below everything."""
    return torch.where(y == 0, -1000, torch.frexp(y.double()).exponent - 1)


def spacing(y: Tensor, mantissa: int, smallest: int) -> Tensor:
    return torch.ldexp(torch.ones_like(y), octave(y).clamp(min=smallest) - mantissa)


def minifloat(
    y: Tensor, mantissa: int, smallest: int, high: float, u: Tensor | None = None, away: bool = False
) -> Tensor:
    """y on a float's grid: `smallest` is the exponent of its smallest normal octave."""
    y = y.double().clamp(-high, high)
    s = spacing(y, mantissa, smallest)
    if u is not None:
        low = (y / s).floor() * s
        return torch.where(u * s < y - low, low + s, low)
    if away:
        return y.sign() * (y.abs() / s + 0.5).floor() * s
    return (y / s).round() * s


def e4m3(y: Tensor, u: Tensor | None = None, away: bool = False) -> Tensor:
    return minifloat(y, 3, -6, 448, u, away)


def e5m2(y: Tensor) -> Tensor:
    return minifloat(y, 2, -14, 57344)


def by_blocks(x: Tensor, rows: int, columns: int, rule: Block, u: Tensor | None = None) -> Tensor:
    """`rule` on each tile of a matrix, those at the ends shorter."""
    out = torch.empty_like(x, dtype=torch.float64)
    for i in range(0, x.shape[0], rows):
        for j in range(0, x.shape[1], columns):
            at = slice(i, i + rows), slice(j, j + columns)
            out[at] = rule(x[at], None if u is None else u[at])
    return out


def amax(x: Tensor) -> float:
    return x.abs().max().item()


def power(x: Tensor, exponent: int) -> Tensor:
    return x.double() * 2.0**exponent


# -- one block each ---------------------------------------------------------------------------------------------------


def mx_rceil(x: Tensor, u: Tensor | None) -> Tensor:
    e = math.ceil(math.log2(amax(x) / 448))  # the smallest that does not saturate
    return power(e4m3(power(x, -e)), e)


def mx_floor_away(x: Tensor, u: Tensor | None) -> Tensor:
    e = math.floor(math.log2(amax(x))) - 8
    return power(e4m3(power(x, -e), away=True), e)


def block_minifloat(exponent: int, mantissa: int) -> Block:
    def rule(x: Tensor, u: Tensor | None) -> Tensor:
        e = math.floor(math.log2(amax(x)))
        y = minifloat(power(x, -e), mantissa, 2 - 2**exponent, 2 - 2.0**-mantissa, u)
        return power(y, e)

    return rule


def by_amax(x: Tensor, u: Tensor | None) -> Tensor:
    scale = torch.tensor(amax(x)) / torch.tensor(448.0)
    return (e4m3(x / scale).float() * scale).double()


def te(x: Tensor, high: float, factor: Tensor | None = None) -> Tensor:
    """TransformerEngine's cast, at a factor of old or at this tensor's own."""
    factor = torch.tensor(high) / x.abs().max() if factor is None else factor
    q = (e4m3 if high == 448 else e5m2)(x * factor).float()
    return (q * (1 / factor)).double()


def squeezed(x: Tensor) -> Tensor:
    log = x[x != 0].double().abs().log2()
    alpha = 15 / (log.max() - log.mean())
    beta = -alpha * log.mean()
    y = e5m2((x.sign() * 2**beta * x.double().abs() ** alpha).float())
    return y.sign() * (2**-beta * y.abs()) ** (1 / alpha)


def sawb(x: Tensor, unsigned: bool) -> Tensor:
    clip = 12.1 * x.double().square().mean().sqrt() - 12.2 * x.double().abs().mean()
    low, high = (0, 15) if unsigned else (-7, 7)
    return (x / (clip / high)).round().clamp(low, high) * (clip / high)


def luq(e: Tensor, u: Tensor) -> Tensor:
    top = e.abs().max()
    return minifloat(e / top, 0, -6, 1, u) * top.double()


def bfp(bits: int) -> Block:
    """HBFP: an exponent above the largest value, symmetric."""

    def rule(x: Tensor, u: Tensor | None) -> Tensor:
        exponent = math.ceil(math.log2(amax(x)))
        step = 2.0 ** (exponent - bits)
        y = (x.double() / step).floor()
        y = y + (u.double() < x.double() / step - y) if u is not None else (x.double() / step).round()
        return (y * step).clamp(-(2.0**exponent) + step, 2.0**exponent - step)

    return rule


def swalp(x: Tensor, u: Tensor | None) -> Tensor:
    step = 2.0 ** (math.floor(math.log2(amax(x))) - 6)
    y = (x.double() / step).floor()
    y = y + (u.double() < x.double() / step - y) if u is not None else (x.double() / step).round()
    return y.clamp(-128, 127) * step


def fp143(x: Tensor, bias: int, u: Tensor | None = None) -> Tensor:
    return power(minifloat(power(x, -bias), 3, -14, 1.875, u), bias)


def fp152(x: Tensor, bias: int, u: Tensor | None = None) -> Tensor:
    return power(minifloat(power(x, -bias), 2, -30, 1.75, u), bias)


def fp169(x: Tensor) -> Tensor:
    return minifloat(x, 9, -30, 2.0**33 * (1 - 2.0**-10))


def shifted(w: Tensor) -> Tensor:
    """sgn(w) 2**round(log2|w|), exactly: up from the root of 2."""
    k = octave(w)
    k = k + (w.double().square() >= torch.ldexp(torch.ones_like(w, dtype=torch.float64), 2 * k + 1))
    return torch.where(w == 0, 0.0, w.sign() * torch.ldexp(torch.ones_like(w, dtype=torch.float64), k))
