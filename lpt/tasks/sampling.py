"""How a language model goes on from what it has read."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def go_on(
    following: Callable[[list[int]], Tensor], begun: list[int], count: int, temperature: float,
    generator: torch.Generator,
) -> list[int]:  # fmt: skip
    """`count` tokens drawn one after the other, each with the chances softmax(scores / temperature).

    Args:
        following: all tokens so far -> scores (V,) of the next.
        begun: at least one token, which what is drawn follows.
        temperature: 0 takes the likeliest each time, the first of equals.
        generator: on the CPU, where tokens are drawn, so that every device draws alike from equal scores.
    """
    tokens = list(begun)
    for _ in range(count):
        scores = following(tokens).double().cpu()
        if temperature == 0:
            tokens.append(int(scores.argmax()))
        else:
            chances = ((scores - scores.max()) / temperature).softmax(-1)  # less the largest: a tiny divisor is no inf
            tokens.append(int(torch.multinomial(chances, 1, generator=generator)))
    return tokens[len(begun) :]
