"""Random bits for stochastic rounding, as a pure function of a key and an element's index.

No state is drawn from while rounding, so the same key gives the same bits in eager and compiled code, on any
device, whatever the number of threads or the sharding of the work.
"""

import torch
from torch import Tensor


def fresh_key(generator: torch.Generator) -> Tensor:
    """A 0-dim int64 key drawn from `generator`, on its device; advances the generator by one draw."""
    return torch.randint(2**62, (), generator=generator, device=generator.device)


def uniform(like: Tensor, key: Tensor) -> Tensor:
    """Multiples of 2**-24 in [0, 1), float32, in the shape of `like`: a function of `key` and the flat index."""
    key = key.to(like.device)
    low = _mix(key.to(torch.int32))
    high = _mix(low + (key >> 32).to(torch.int32))
    index = torch.arange(like.numel(), dtype=torch.int32, device=like.device).view(like.shape)
    bits = _mix(_mix(index ^ low) ^ high)
    return (bits & 0xFFFFFF).to(torch.float32) * 2.0**-24


def _mix(h: Tensor) -> Tensor:
    """A bijection of 32-bit words in which each input bit flips each output bit about half of the time.

    Two rounds of xor-shift and odd multiplication; int32 products wrap, the masks make the shifts logical.
    """
    h = h ^ ((h >> 16) & 0xFFFF)
    h = h * 0x7FEB352D
    h = h ^ ((h >> 15) & 0x1FFFF)
    h = h * -0x7B935975
    return h ^ ((h >> 16) & 0xFFFF)
