"""What every number format offers. A rounding happens here: `round` scales, `_nearest` of the family decides."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .noise import fresh_key, uniform
from .scaling import FRACTION_BITS, NO_SCALE, RULES, Scale, amax_of, exponent_of, from_scale_0, to_scale_0

NAN_CODE = 0x80  # sign bit set, magnitude zero: the code that -0 would have
TIES = ("even", "away", "zero", "log")
Stochastic = torch.Generator | Tensor | None


class Format:
    """A finite set of real numbers, to be multiplied by a power of two, and the way to round to it.

    Attributes:
        name: what `lpt.formats.get` understands.
        bits: width of a code.
        octaves: valid bits per octave, the hidden one included, largest octave first; None for a format that is
            not such a list.
        top_exponent: exponent of the largest value's octave at scale 0.
        anchor: exponent, at scale 0, of the octave in which a tensor's largest value is put: the top one, unless the
            format resolves another one better (posits).
        ties: of rounding to nearest, see `round`.
        scaled: False for a format used at scale 0 whatever the data (fp32, bf16, fixed point).
        block: shape of the blocks that have a scale of their own (`Blocks`); None where a tensor is given one.
    """

    name: str
    bits: int
    octaves: tuple[int, ...] | None = None
    top_exponent: int = 0
    scaled: bool = True
    ties: str = "even"
    block: tuple[int, ...] | None = None

    # -- rounding ---------------------------------------------------------------------------------------------

    def round(self, x: Tensor, scale: Scale = 0, stochastic: Stochastic = None, ties: str | None = None) -> Tensor:
        """The level nearest to x on the grid of this format times 2**scale.

        Args:
            x: float32, float64, bfloat16 or float16, any shape; not modified, not differentiated.
            scale: integer exponent, or an integer tensor that broadcasts against x; from -252 to 252. Or a Factor
                (`scaling`), where the scale is no power of two.
            stochastic: a generator (advanced by one draw) or an int64 key: x then goes to one of its two
                neighbouring levels, with a probability linear in its place between them, to 2**-24.
            ties: half-way between two levels x goes to the "even" one, "away" from zero, or to that nearer "zero". Or
                "log": the two levels meet at their geometric mean (of 1 and 2 at the root of 2), from which x goes
                away from zero; so nothing but zero becomes zero. None: the format's own, which are even as a rule.

        Returns:
            x's shape and dtype. Saturates at the largest level, for infinities too; nan stays nan; -0 becomes +0.
            A level that the dtype does not hold comes out as the dtype rounds it; for octave lists in float32
            that needs a scale above 127, where 2**128 is infinite, or below -126.
        """
        ties = self.ties if ties is None else ties
        if stochastic is None and ties != "even":
            return self._apply(lambda y: self._parted(y, ties), x, scale, keep_sign=True)
        if stochastic is None:
            return self._apply(self._nearest, x, scale, keep_sign=not self._tiny_is_zero)
        key = stochastic if isinstance(stochastic, Tensor) else fresh_key(stochastic)
        return self._apply(lambda y: self._stochastic(y, uniform(y, key)), x, scale)

    def floor(self, x: Tensor, scale: Scale = 0) -> Tensor:
        """The largest level at or below x on the signed axis, saturated; shapes and dtypes as in `round`."""
        return self._apply(self._floor, x, scale, keep_sign=True)

    def ceil(self, x: Tensor, scale: Scale = 0) -> Tensor:
        """The smallest level at or above x on the signed axis, saturated; shapes and dtypes as in `round`."""
        return self._apply(self._ceil, x, scale, keep_sign=True)

    def directed(self, x: Tensor, up: Tensor, scale: Scale = 0) -> Tensor:
        """`ceil` where `up` (bool, the shape of x) is true and `floor` elsewhere, for the price of one of them."""
        return self._apply(lambda y: self._directed(y, up), x, scale, keep_sign=True)

    def scale_of(self, x: Tensor, channel_dim: int | None = None, room: int = 0, rule: str = "floor") -> Tensor:
        """The scale that puts this format's `anchor` octave `room` octaves above that of x's largest value.

        int32, shaped as `lpt.formats.scale_of` says; zeros for a format that is not `scaled`. `rule`: see `carry`.
        """
        amax = amax_of(x, channel_dim)
        return self.scale_for(exponent_of(amax, room, self.carry(rule, amax.dtype)))

    def scale_for(self, exponent: Tensor) -> Tensor:
        """The scale that puts the `anchor` octave at `exponent` (int32), the sentinel -127 left as it is."""
        if not self.scaled:
            return torch.zeros_like(exponent)
        if self.anchor == 0:
            return exponent
        return torch.where(exponent == NO_SCALE, exponent, exponent - self.anchor)

    def moved(self, scale: Tensor, other: Tensor, like: Tensor) -> Tensor:
        """Where the grids of two scales differ: bool, broadcasts against `like`, a tensor of which they are scales."""
        return scale != other

    def places(self, scale: Tensor, like: Tensor) -> Tensor:
        """Which of the scales each element of `like` has, a tensor of which they are scales: int64 in its shape."""
        return torch.arange(scale.numel(), device=like.device).view(scale.shape).expand_as(like)

    def carry(self, rule: str, dtype: torch.dtype = torch.float32) -> int:
        """What `exponent_of` adds to the bits of a largest magnitude 2**e * f, 1 <= f < 2, to follow a scale rule.

        The octave is e for "floor"; e + 1 for "rounded" (also called "even") where rounding to nearest, were there no
        saturation, would reach 2**(e + 1); for "ceil" where f > 1; for "rceil" where the octave's largest level, at e,
        would saturate it.

        Raises:
            ValueError: another rule.
        """
        one = 1 << FRACTION_BITS[dtype]
        if rule == "floor":
            return 0
        if rule in ("rounded", "even"):
            return 2 * one - math.ceil(self._turn * one)
        if rule == "ceil":
            return one - 1
        if rule == "rceil":
            return 2 * one - math.floor(self._largest * one) - 1
        raise ValueError(f"scale_rule={rule!r} is not one of {', '.join(RULES)}")

    def tied(self, ties: str) -> Format:
        """The same format with other ties."""
        other = copy.copy(self)
        other.ties, other.name = ties, f"{self.name}@{ties}"
        return other

    # -- codes ------------------------------------------------------------------------------------------------

    def values(self) -> Tensor:
        """All values at scale 0: float64, ascending, zero once.

        Raises:
            ValueError: the format has more than 256 values.
        """
        return torch.tensor(self._listed(), dtype=torch.float64)

    def encode(self, x: Tensor, scale: Scale = 0, stochastic: Stochastic = None) -> Tensor:
        """`round(x, scale, stochastic)` as one byte: the sign bit, then the value's rank on its side of zero, 0 for 0.

        0x80 is nan. A format with 256 values, such as int8_full, has no code to spare: its most negative value
        is 0x80, and a nan comes back as that.

        Raises:
            ValueError: the format has more than 256 values.
        """
        levels = self._listed()
        if self.ties != "even" and stochastic is None:
            x = self.round(x, scale)
        if stochastic is None:
            y = self._apply(self._nearest, x, scale, keep_sign=not self._tiny_is_zero, back=False)
        else:
            key = stochastic if isinstance(stochastic, Tensor) else fresh_key(stochastic)
            y = self._apply(lambda y: self._stochastic(y, uniform(y, key)), x, scale, back=False)
        index = torch.bucketize(y.contiguous(), torch.tensor(levels, dtype=y.dtype, device=y.device))
        rank = index.to(torch.int32) - levels.index(0.0)
        code = torch.where(rank < 0, NAN_CODE | -rank, rank)
        return torch.where(y.isnan(), NAN_CODE, code).to(torch.uint8)

    def decode(self, codes: Tensor, scale: Scale = 0) -> Tensor:
        """The float32 values of uint8 codes at `scale`; 0x80 and codes that the format does not use give nan.

        Raises:
            ValueError: the format has more than 256 values, or `codes` are not uint8.
        """
        if codes.dtype != torch.uint8:
            raise ValueError(f"codes are bytes (torch.uint8), got {codes.dtype}")
        levels = self._listed()
        zero = levels.index(0.0)
        table = [math.nan] * 256
        for rank, value in enumerate(levels, start=-zero):
            table[rank if rank >= 0 else NAN_CODE | -rank] = value
        return from_scale_0(torch.tensor(table, device=codes.device)[codes.to(torch.int64)], scale)

    def _listed(self) -> list[float]:
        if self._levels is None:
            raise ValueError(f"{self.name} has more than 256 values: it can be rounded to, but not listed or encoded")
        return self._levels

    # -- what a family defines, at scale 0, on float32 or float64 ---------------------------------------------

    _levels: list[float] | None = None  # all values, ascending; None where there are more than 256

    def _nearest(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def _floor(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def _ceil(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def _directed(self, y: Tensor, up: Tensor) -> Tensor:
        return torch.where(up, self._ceil(y), self._floor(y))

    def _stochastic(self, y: Tensor, noise: Tensor) -> Tensor:
        low, high = self._floor(y), self._ceil(y)
        y = y.clamp(self.low, self.high)
        return torch.where(noise * (high - low) < y - low, high, low)

    def _parted(self, y: Tensor, ties: str) -> Tensor:
        """To nearest, with ties that are not even. Both distances are exact wherever they are nearly equal."""
        below, above = self._floor(y), self._ceil(y)
        y = y.clamp(self.low, self.high)
        inner, outer = torch.where(y < 0, above, below), torch.where(y < 0, below, above)
        if ties == "log":
            up = y.double().square() >= inner.double() * outer.double()
        elif ties in TIES:
            near, far = (y - inner).abs(), (outer - y).abs()
            up = near >= far if ties == "away" else near > far
        else:
            raise ValueError(f"ties={ties!r} is not one of {', '.join(TIES)}")
        return torch.where(up, outer, inner)

    @property
    def anchor(self) -> int:
        return self.top_exponent

    @property
    def _largest(self) -> float:
        """The largest significand, 1 to below 2, of the anchor octave."""
        return self.high / 2.0**self.anchor

    @property
    def _turn(self) -> float:
        """The smallest significand that rounds up to 2: half-way between the largest one and 2."""
        return 1 + self._largest / 2

    @property
    def low(self) -> float:
        """The smallest value at scale 0."""
        return -self.high

    @property
    def high(self) -> float:
        """The largest value at scale 0."""
        raise NotImplementedError

    # -- shared plumbing --------------------------------------------------------------------------------------

    _double: bool = False  # True where float32 arithmetic cannot hold the rounding itself
    _tiny_is_zero: bool = True  # False where rounding to nearest never turns a nonzero value into zero

    def _apply(
        self,
        at_scale_0: Callable[[Tensor], Tensor],
        x: Tensor,
        scale: Scale,
        keep_sign: bool = False,
        back: bool = True,
    ) -> Tensor:
        """Scale x to the grid at scale 0, round there, and scale back to x's magnitude and dtype."""
        if not x.is_floating_point():
            raise ValueError(f"{self.name} rounds floating tensors, got {x.dtype}: convert with .float() first")
        dtype = x.dtype
        x = x.detach().to(torch.float64 if self._double or dtype == torch.float64 else torch.float32)
        y = to_scale_0(x, scale)
        if keep_sign and y is not x:
            # Scaling may underflow a value far below the grid to zero, but it still lies on one side of zero.
            y = torch.where((y == 0) & (x != 0), torch.copysign(torch.full_like(y, torch.finfo(y.dtype).tiny), x), y)
        y = at_scale_0(y)
        return from_scale_0(y, scale).to(dtype) if back else y

    def __repr__(self) -> str:
        return f"Format({self.name})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Format) and all(getattr(self, a) == getattr(other, a) for a in _IDENTITY)

    def __hash__(self) -> int:
        return hash((self.name, self.bits))


_IDENTITY = ("name", "bits", "octaves", "top_exponent", "scaled", "_levels")
