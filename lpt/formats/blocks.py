"""Block formats: an element format, and a scale for each block of a tensor, found from that block.

    mxfp4 = lpt.formats.get("mxfp4")          # or Blocks("ocp_e2m1", 32)
    q = mxfp4.round(x)                        # blocks of 32 along the last dimension
    codes, scales = mxfp4.encode(x, dim=0)    # along the first

A block is rounded by its element format at its scale: `block_scales` finds that, `tiles` cuts a tensor into blocks.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Format, Stochastic
from .block_options import changed
from .block_scales import SCALES, BlockScale
from .names import NAMED, FormatSpec, misplaced, nearest, per_tensor
from .scaling import Scale, from_scale_0, to_scale_0
from .tiles import Contents, Tiles

LINE = 2**31 - 1  # as the size of a block: all there is along the dimension


class Blocks(Format):
    """A block format. Every block of a tensor has a scale of its own, and its elements are rounded at that scale.

    Args:
        element: a format as `lpt.formats.get` takes it: `ocp_e2m1`, `fp134`, `int8`, `log4`, a list, a Table. Ties and
            saturation are its own.
        block: elements along the dimension that is asked for, a shorter rest at its end; "line", all of them; or (rows,
            columns), a tile, whose columns lie along that dimension and rows along the one before it (of a matrix, the
            other one). Or what lies so whatever dimension is asked for: "tensor", all of it; "sample", each index of
            its first dimension; "flat24x24", tiles of the matrix of its first dimension by all others. "kernel48x48"
            are tiles of (48, 48), which in a product span the whole kernel of a convolution's weight.
        scale: "e8m0", a power of two; "e4m3" or "ue5m3", a small float under an FP32 factor of the whole tensor;
            "fp32", a real number; "squeeze", two of them, between which magnitudes are raised to a power; "static", a
            power of two that is given (`block_scales`).
        rule: how a scale is found. Of e8m0: "floor" (the default), "even", "ceil", "rceil": where a block's largest
            value moves up an octave, see `Format.carry`. Of fp32: "amax" (the default); "inverse", the same in
            TransformerEngine's order of operations; "pow2", the power of two that does not saturate; "sawb", for 4
            bits, from a block's moments. Of both: "rms" or "std", a block's root mean square or standard deviation,
            times `spread`. Of the small floats: "amax"; of e4m3 "four_six", too: amax or 1.5 amax, whichever rounds the
            block with less squared error ("four_six_mae": less absolute error).
        room: octaves left empty above a block's largest value; of e8m0 only.
        spread: see rules "rms" and "std", which need it: what is put at the element's largest value.
        factor: what every scale is multiplied with; of e8m0 only.
        min_scale: the smallest block scale, of a small float; by default 0 for e4m3 (torchao: 2**-6), and 2**-17,
            which is its smallest number, for ue5m3.
        tensor_scale: False sets the tensor's factor to 1; of the small floats only.
        target: what the largest of a tensor's block scales comes to, before it is rounded; of the small floats only.
        headroom: a block's amax is put at 1 / headroom of the element's largest value; of the small floats only.
        outer: elements along the dimension that share an FP32 factor, in place of the tensor; of the small floats only.
        exponent: of a static scale, which needs it.

    Attributes:
        name: what `lpt.formats.get` understands, unless the element is a format of one's own.
        bits: of an element, its share of the block's scale included, as a float: 4.25 for mxfp4.
        lies: "flat" or "kernel", where the block is a word that says so, or else "".

    Raises:
        ValueError: an element of no free scale, or anything else that is not as said above.
    """

    bits: float  # type: ignore[assignment]
    block: tuple[int, ...]

    def __init__(
        self,
        element: FormatSpec,
        block: int | str | Sequence[int],
        scale: str = "e8m0",
        rule: str | None = None,
        **options: Any,
    ) -> None:
        _check_choice("scale", scale, SCALES)
        kind = SCALES[scale]
        self.element = _element(element)
        self.block, self.lies = _shape(block)
        self.scale, self.rule = scale, kind.rules[0] if rule is None else rule
        _check_choice(f"the rule of {scale} scales", self.rule, kind.rules)
        options = changed(scale, self.rule, self.block, options)
        self.name = _name(self, options)
        self.local = "outer" not in options  # a block's scale depends on no neighbours, but on the tensor at most
        if "outer" in options:
            options["outer"] //= self.block[-1]
        self._scales: BlockScale = kind.build(self.element, rule=self.rule, **options)
        self.bits = self.element.bits + self._scales.bits / math.prod(self.block)
        self.top_exponent = self.element.top_exponent
        self._levels = self.element._levels

    # -- rounding ---------------------------------------------------------------------------------------------
    # A Format is told the scale. A block format finds it, and is told the dimension instead.

    def round(  # type: ignore[override]
        self,
        x: Tensor,
        dim: int = -1,
        stochastic: Stochastic = None,
        ties: str | None = None,
        *,
        scale: Tensor | None = None,
    ) -> Tensor:
        """The level nearest to x on the grid of each block.

        Args:
            x: float32, float64, bfloat16 or float16, any shape; not modified, not differentiated.
            dim: blocks run along it.
            stochastic, ties: as `Format.round` takes them.
            scale: what `scales` gave for a tensor of this shape; if not given, x's own.

        Returns:
            x's shape and dtype. A block of zeros gives zeros; nan stays where it is and does not touch its block's
            scale; infinities saturate. A level that the dtype does not hold comes out as the dtype rounds it: in
            float32, levels above 2**128 of blocks next to it are infinite.
        """
        tiles = self._tiles(x, dim)
        return tiles.merged(self.element.round(tiles.x, self._applied(tiles, scale), stochastic, ties))

    def round_tiles(self, x: Tensor, inner: Sequence[int], stochastic: Stochastic = None) -> Tensor:
        """`round`, of whole blocks that lie over the dimensions `inner`."""
        return self.element.round(x, self.applied(self.scale_parts(x, inner)), stochastic)

    def scale_parts(self, x: Tensor, inner: Sequence[int]) -> tuple[Tensor, ...]:
        """The scales of whole blocks that lie over the dimensions `inner`, kept at 1, as `_scales` describes them."""
        return self._scales.of(Contents(x, inner))

    def applied(self, parts: tuple[Tensor, ...]) -> Scale:
        """What the element format is told, of `scale_parts`."""
        return self._scales.applied(*parts)

    def floor(self, x: Tensor, dim: int = -1, *, scale: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """The largest level at or below x on the signed axis, saturated; otherwise as `round`."""
        tiles = self._tiles(x, dim)
        return tiles.merged(self.element.floor(tiles.x, self._applied(tiles, scale)))

    def ceil(self, x: Tensor, dim: int = -1, *, scale: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """The smallest level at or above x on the signed axis, saturated; otherwise as `round`."""
        tiles = self._tiles(x, dim)
        return tiles.merged(self.element.ceil(tiles.x, self._applied(tiles, scale)))

    def directed(  # type: ignore[override]
        self, x: Tensor, up: Tensor, dim: int = -1, *, scale: Tensor | None = None
    ) -> Tensor:
        """`ceil` where `up` (bool, the shape of x) is true and `floor` elsewhere, for the price of one of them."""
        tiles, above = self._tiles(x, dim), self._tiles(up, dim)
        return tiles.merged(self.element.directed(tiles.x, above.x, self._applied(tiles, scale)))

    def at_scale_0(self, x: Tensor, dim: int = -1) -> Tensor:
        """x / scale of its block, float32 or float64: what the element format is asked to round."""
        tiles = self._tiles(x if x.dtype == torch.float64 else x.float(), dim)
        return tiles.merged(to_scale_0(tiles.x, self._applied(tiles, None)))

    # -- scales -----------------------------------------------------------------------------------------------

    def scales(self, x: Tensor, dim: int = -1) -> Tensor:
        """The scales of x's blocks, in x's shape with a dimension's size replaced by its number of blocks.

        int32 exponents of e8m0, -127 for a block of zeros, and of static; float32 factors of fp32, or their
        reciprocals by the rule "inverse"; float64 [2, ...] of squeeze, alpha and beta. Of the small floats float32 [2,
        ...]: first those of the blocks, then the tensor's factor, the same for all; an element q is worth
        q * scales[0] / scales[1].
        """
        tiles = self._tiles(x, dim)
        return tiles.joined(self._scales.of(tiles.contents()))

    def scale_of(self, x: Tensor, channel_dim: int | None = None, room: int = 0, rule: str = "") -> Tensor:
        """`scales(x)`: blocks along the last dimension, whatever `channel_dim`, by the format's own room and rule."""
        return self.scales(x)

    def moved(self, scale: Tensor, other: Tensor, like: Tensor, dim: int = -1) -> Tensor:
        """bool in the shape of `like`, a tensor that these are scales of: elements whose block's scale differs."""
        tiles = self._tiles(like, dim)
        pairs = zip(tiles.parted(scale, self._scales.parts), tiles.parted(other, self._scales.parts), strict=True)
        differ = [a != b for a, b in pairs]
        return tiles.merged(tiles.spread(sum(differ[1:], differ[0])).expand_as(tiles.x))

    def summed(self, values: Tensor, dim: int = -1) -> Tensor:
        """The sum of each block's values, in the shape of the first part of `scales`."""
        tiles = self._tiles(values, dim)
        blocks = tiles.contents()
        return tiles.joined((blocks.x.sum(blocks.inner, keepdim=True),))

    def spread(self, part: Tensor, like: Tensor, dim: int = -1) -> Tensor:
        """What `summed` could have given, in the shape of `like`: each element has that of its block."""
        tiles = self._tiles(like, dim)
        return tiles.merged(tiles.spread(*tiles.parted(part, 1)).expand_as(tiles.x))

    def places(self, scale: Tensor, like: Tensor, dim: int = -1) -> Tensor:
        """int64 in the shape of `like`: which block each element lies in."""
        tiles = self._tiles(like, dim)
        blocks = tiles.amax()
        each = torch.arange(blocks.numel(), device=like.device).view(blocks.shape)
        return tiles.merged(tiles.spread(each).expand_as(tiles.x))

    def _applied(self, tiles: Tiles, scale: Tensor | None) -> Scale:
        parts = self._scales.of(tiles.contents()) if scale is None else tiles.parted(scale, self._scales.parts)
        return self._scales.applied(*map(tiles.spread, parts))

    def _tiles(self, x: Tensor, dim: int) -> Tiles:
        return Tiles(x, self.block, dim, self.lies == "flat")

    @property
    def whole(self) -> bool:
        """Whether a tensor is one block, however large it is."""
        return self.lies == "flat" and self.block == (LINE, LINE)

    def widened(self, times: int) -> Blocks:
        """The same tiles with so many times as many columns."""
        wide = copy.copy(self)
        wide.block = (*self.block[:-1], self.block[-1] * times)
        return wide

    def scale_for(self, exponent: Tensor) -> Tensor:
        raise ValueError(misplaced(self.name))

    def carry(self, rule: str, dtype: torch.dtype = torch.float32) -> int:
        raise ValueError(misplaced(self.name))

    # -- codes ------------------------------------------------------------------------------------------------

    def encode(  # type: ignore[override]
        self, x: Tensor, dim: int = -1, *, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """`round(x, dim, scale=scale)` as the element format's codes, uint8 in x's shape, and the blocks' `scales`."""
        tiles = self._tiles(x, dim)
        parts = self._scales.of(tiles.contents()) if scale is None else tiles.parted(scale, self._scales.parts)
        applied = self._scales.applied(*map(tiles.spread, parts))
        return tiles.merged(self.element.encode(tiles.x, applied)), tiles.joined(parts) if scale is None else scale

    def decode(self, codes: Tensor, scales: Tensor, dim: int = -1) -> Tensor:  # type: ignore[override]
        """The float32 values of uint8 codes at `scales`, of any integer type that holds them where they are exponents.

        Raises:
            ValueError: `codes` are not uint8, or `scales` do not have the shape that `scales` gives.
        """
        tiles = self._tiles(codes, dim)
        return tiles.merged(self.element.decode(tiles.x, self._applied(tiles, scales)))

    def at_scales(self, levels: Tensor, scales: Tensor, dim: int = -1) -> Tensor:
        """Values of the element format, in any shape, at `scales`: what `decode` makes of their codes."""
        tiles = self._tiles(levels, dim)
        return tiles.merged(from_scale_0(tiles.x, self._applied(tiles, scales)))

    @property
    def high(self) -> float:
        return self.element.high

    @property
    def low(self) -> float:
        return self.element.low


def _element(spec: FormatSpec) -> Format:
    element = per_tensor(spec)
    if not element.scaled or element.high <= 0:
        raise ValueError(
            f"element={element.name} does not fit a block: give a format of a scale of its own, such as ocp_e2m1, "
            "fp134, int8, log4"
        )
    return element


_WORDS = {"tensor": f"flat{LINE}x{LINE}", "sample": f"flat1x{LINE}"}


def _shape(block: int | str | Sequence[int]) -> tuple[tuple[int, ...], str]:
    """Its sizes, and how it lies."""
    if block == "line":
        return (LINE,), ""
    spelt = _WORDS.get(block, block) if isinstance(block, str) else ""
    word = re.fullmatch(r"(flat|kernel)([1-9]\d*)x([1-9]\d*)", spelt)
    if word is not None and (word[1] == "flat" or word[2] == word[3]):
        return (int(word[2]), int(word[3])), word[1]
    sizes = tuple(block) if isinstance(block, Sequence) and not isinstance(block, str) else (block,)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes)
    if not whole or len(sizes) not in (1, 2):
        raise ValueError(
            f"block={block!r} is neither a number of elements, such as 32, nor a tile, such as [48, 48], flat24x24 or "
            "kernel48x48, nor one of line, sample, tensor"
        )
    return sizes, ""  # type: ignore[return-value]


def _name(blocks: Blocks, changed: dict[str, object]) -> str:
    """ "element/block/scale/rule", for example "fp134/48x48/e8m0/ceil", and options; or what is in NAMED."""
    shape = "line" if blocks.block == (LINE,) else blocks.lies + "x".join(map(str, blocks.block))
    shape = next((word for word, spelt in _WORDS.items() if spelt == shape), shape)
    parts = [blocks.element.name, shape, blocks.scale, blocks.rule]
    parts += [f"{key}={value}" for key, value in changed.items()]
    name = "/".join(parts)
    return next((short for short, spelt in NAMED.items() if spelt == name), name)


def _check_choice(key: str, got: object, valid: Collection[str]) -> None:
    if got not in valid:
        raise ValueError(f"{key}={got!r} is not one of {', '.join(valid)}{nearest(got, valid)}")
