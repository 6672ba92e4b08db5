"""Rounded tensors as codes and scales in as few bytes as they need: what a product keeps for its gradients.

A code is that of `Format.encode`, two of them a byte where they have at most four bits; a power-of-two scale is one
byte, a small float one byte as well, any other scale a float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import NAN_CODE, Format


def fits(format: Any) -> bool:
    """Whether codes hold each of its values and nan: fewer than 256 of them."""
    levels = (format.element if format.block is not None else format)._levels
    return levels is not None and len(levels) < 256


def encoded(format: Any, inner: Sequence[int], x: Tensor, key: Tensor | None) -> tuple[Tensor, ...]:
    """What `format.round_tiles` gives, as codes and scales. At least one element."""
    parts = format.scale_parts(x, inner)
    codes = format.element.encode(x, format.applied(parts), key)
    return packed(format.element, codes), *(_stored(format, part) for part in parts)


def decoded(format: Any, inner: Sequence[int], shape: Sequence[int], tensors: Sequence[Tensor]) -> Tensor:
    """float32 of what `encoded` made of a tensor of this shape."""
    parts = tuple(_restored(format, part) for part in tensors[1:])
    count = int(torch.Size(shape).numel())
    codes = unpacked(format.element, tensors[0], count).view(torch.Size(shape))
    value: Tensor = format.element.decode(codes, format.applied(parts))
    return value


def packed(element: Format, codes: Tensor) -> Tensor:
    """Codes [...] as bytes [n]: two codes each where 15 values are all there are."""
    codes = codes.reshape(-1)
    if not _halves(element):
        return codes
    return paired(nibbles(codes))


def unpacked(element: Format, held: Tensor, count: int) -> Tensor:
    """The `count` codes that `packed` has put into bytes."""
    if not _halves(element):
        return held
    codes = apart(held, count)
    return (codes << 4 & NAN_CODE) | (codes & 7)


def nibbles(codes: Tensor) -> Tensor:
    """`Format.encode`'s codes of a format of few values in four bits: the sign, then the rank."""
    return (codes >> 4 & 8) | (codes & 7)


def paired(nibbles: Tensor) -> Tensor:
    """Nibbles [n], two a byte, the first in the lower half."""
    nibbles = torch.cat([nibbles, nibbles.new_zeros(1)]) if len(nibbles) % 2 else nibbles
    return nibbles[0::2] | nibbles[1::2] << 4


def apart(held: Tensor, count: int) -> Tensor:
    """The `count` nibbles that `paired` has put into bytes."""
    return torch.stack([held & 15, held >> 4], 1).view(-1)[:count]


def _halves(element: Format) -> bool:
    levels = element._levels or []
    below = sum(level < 0 for level in levels)
    return max(below, len(levels) - 1 - below) <= 7


def _stored(format: Any, part: Tensor) -> Tensor:
    if part.dtype == torch.int32:
        return part.to(torch.int8)
    small = _small(format)
    return small.encode(part) if small is not None and part.numel() > 1 else part


def _restored(format: Any, part: Tensor) -> Tensor:
    if part.dtype == torch.int8:
        return part.to(torch.int32)
    small = _small(format)
    return small.decode(part) if small is not None and part.dtype == torch.uint8 else part


def _small(format: Any) -> Any:
    """The small float that a block's scale is, if it has a code."""
    small = getattr(format._scales, "format", None)
    return small if small is not None and small._levels is not None else None
