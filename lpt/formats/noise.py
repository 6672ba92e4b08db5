"""Random bits for stochastic rounding, as a pure function of a key and an element's index.

No state is drawn from while rounding, so the same key gives the same bits in eager and compiled code, on any
device, whatever the number of threads or the sharding of the work.
"""

import torch
from torch import Tensor

_ODD_32 = (0x7FEB352D, -0x7B935975)
_ODD_64 = (-0x61C8864680B583EB, -0x3B314601E57A13AD)


def fresh_key(generator: torch.Generator) -> Tensor:
    """A 0-dim int64 key drawn from `generator`, on its device; advances the generator by one draw."""
    return torch.randint(2**62, (), generator=generator, device=generator.device)


def uniform(like: Tensor, key: Tensor) -> Tensor:
    """Multiples of 2**-24 in [0, 1), float32, in the shape of `like`: a function of `key` and the flat index.

    Keys may be consecutive numbers, or differ in any few bits. Multiplication by an odd number carries each bit
    upwards and the xor with the upper half brings it down again: two rounds for the key, four for the index.
    Products wrap; the masks make the shifts logical. (Each xor with a shift of itself doubles what a compiler
    that inlines has to write, so there are no more of them than the statistics in the tests ask for.)
    """
    key = key.to(like.device) * _ODD_64[0]
    key = (key ^ ((key >> 32) & 0xFFFFFFFF)) * _ODD_64[1]
    low, high = key.to(torch.int32), (key >> 32).to(torch.int32)
    index = torch.arange(like.numel(), dtype=torch.int32, device=like.device).view(like.shape)
    h = (index ^ low) * _ODD_32[0]
    h = (h ^ ((h >> 15) & 0x1FFFF)) * _ODD_32[1] + high
    h = (h ^ ((h >> 16) & 0xFFFF)) * _ODD_32[0]
    h = (h ^ ((h >> 15) & 0x1FFFF)) * _ODD_32[1]
    return ((h >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24
