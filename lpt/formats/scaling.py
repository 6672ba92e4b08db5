"""Power-of-two scales: the exponent of a tensor's largest magnitude, read from its bits. And other factors."""

from typing import Protocol

import torch
from torch import Tensor

NO_SCALE = -127  # the scale of a tensor without a nonzero finite value
RULES = ("floor", "rounded", "ceil", "rceil")  # where a maximum moves up an octave: `Format.carry`
FRACTION_BITS = {torch.float32: 23, torch.float64: 52}
EXPONENT_BITS = {torch.float32: (torch.int32, 0x7F800000), torch.float64: (torch.int64, 0x7FF << 52)}  # inf's, too


def check_room(key: str, room: object, least: int = 0) -> None:
    """Raise if `room` is no number of octaves that a scale can have above a value.

    Raises:
        ValueError: it is not a whole number from `least` to 127.
    """
    if not isinstance(room, int) or isinstance(room, bool) or not least <= room <= 127:
        raise ValueError(f"{key}={room!r}: give octaves of headroom, a whole number from {least} to 127")


def scale_of(x: Tensor, channel_dim: int | None = None, room: int = 0) -> Tensor:
    """Exponent of the largest finite |x|, plus `room` octaves of headroom (the paper's shared exponent bias).

    Args:
        x: any floating tensor.
        channel_dim: one scale for each index of this dimension; None gives one scale for the tensor.
        room: octaves left empty above the largest value.

    Returns:
        int32, with the reduced dimensions kept at 1, so that it broadcasts against `x`. -127 where there is no
        nonzero finite value (a tensor of zeros, or of no elements).

    Raises:
        ValueError: `channel_dim` is not a dimension of `x`.
    """
    if channel_dim is not None and not -x.ndim <= channel_dim < x.ndim:
        raise ValueError(f"channel_dim={channel_dim} is not a dimension of a tensor of shape {tuple(x.shape)}")
    return exponent_of(amax_of(x, channel_dim), room)


def amax_of(x: Tensor, channel_dim: int | None = None) -> Tensor:
    """The largest finite |x| (0 where there is none), float32 or float64, reduced dimensions kept at 1."""
    x = x.detach()
    if x.dtype != torch.float64:
        x = x.float()
    kept = None if channel_dim is None else channel_dim % x.ndim
    dims = [d for d in range(x.ndim) if d != kept]
    if x.numel() == 0:
        return x.new_zeros([1 if d in dims else size for d, size in enumerate(x.shape)])
    if torch.compiler.is_compiling():
        # A maximum of floats must hand on nan, which takes four instructions where one of integers takes one.
        largest = finite_bits(x).amax(dims, keepdim=True) if dims else finite_bits(x)
        return largest.view(x.dtype)
    return finite_magnitude(x).amax(dims, keepdim=True) if dims else finite_magnitude(x)


def finite_magnitude(x: Tensor) -> Tensor:
    """|x|, float32 or float64, and 0 where x is not finite."""
    if torch.compiler.is_compiling():  # nan_to_num would not be vectorized
        return finite_bits(x).view(x.dtype)
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0).abs_()


def finite_bits(x: Tensor) -> Tensor:
    """The bits of `finite_magnitude`, which as integers are in the order of the magnitudes."""
    integer, infinity = EXPONENT_BITS[x.dtype]
    magnitude = x.view(integer) & (infinity | (infinity - 1))
    return torch.where(magnitude < infinity, magnitude, 0)


def exponent_of(amax: Tensor, room: int = 0, carry: Tensor | int = 0) -> Tensor:
    """floor(log2(amax)) + room from the bits of a non-negative tensor; int32; -127 where amax is 0.

    A float32 subnormal reads as -127, so that no scale is below the sentinel. `carry`, an integer or a tensor of such,
    is added to the bits first: amaxes whose significand it carries over count to the octave above (`Format.carry`).
    """
    if amax.dtype == torch.float64:
        exponent = (((amax.view(torch.int64) + carry) >> 52) - 1023).clamp(min=NO_SCALE).to(torch.int32)
    else:
        exponent = ((amax.view(torch.int32) + carry) >> 23) - 127
    return torch.where(amax > 0, exponent + room, NO_SCALE)


def times_power_of_two(x: Tensor, exponent: Tensor | int) -> Tensor:
    """x * 2**exponent in x's dtype: exponents from -252 to 254 in float32, from -2044 to 2046 in float64.

    The factor is applied in two halves: neither 2**130 nor 2**-130 is a normal float32, yet both scales occur.
    """
    if isinstance(exponent, int):
        if exponent == 0:
            return x
        first = exponent >> 1
        return (x * 2.0**first).mul_(2.0 ** (exponent - first))
    half = exponent >> 1
    factors = held(power_of_two(half, x.dtype)), held(power_of_two(exponent - half, x.dtype))
    return (x * factors[0]).mul_(factors[1])


def held(scale: Tensor) -> Tensor:
    """`scale`, which compiled code computes once for each block, and not anew for each of a block's elements."""
    if torch.compiler.is_compiling() and any(size != 1 for size in scale.shape) and _can_hold():
        return torch.ops._inductor_test.realize(scale)  # type: ignore[no-any-return]
    return scale


def _can_hold() -> bool:
    """Import the operator, which takes seconds, when it is first compiled."""
    import torch._inductor.test_operators

    return hasattr(torch.ops._inductor_test, "realize")


# As torch.compiler.assume_constant_result marks a function, without its imports: it runs while torch.compile looks on.
_can_hold._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Factor(Protocol):
    """A scale that is no power of two, where a format is asked to round: how to reach scale 0 from x, and back."""

    def into(self, x: Tensor) -> Tensor: ...

    def out_of(self, y: Tensor) -> Tensor: ...


Scale = Tensor | int | Factor  # an integer exponent, or a tensor of such, or a Factor


def to_scale_0(x: Tensor, scale: Scale) -> Tensor:
    """x / 2**scale, or as a Factor has it."""
    return times_power_of_two(x, -scale) if isinstance(scale, (Tensor, int)) else scale.into(x)


def from_scale_0(y: Tensor, scale: Scale) -> Tensor:
    """y * 2**scale, or as a Factor has it."""
    return times_power_of_two(y, scale) if isinstance(scale, (Tensor, int)) else scale.out_of(y)


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2**exponent, assembled from bits: exponents from -126 to 127 in float32, from -1022 to 1023 in float64."""
    if dtype == torch.float64:
        return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)
