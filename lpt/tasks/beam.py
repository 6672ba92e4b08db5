"""Beam search for encoder-decoder models.

N sentences, B hypotheses each, V tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def beam_search(
    model: Any, source: Tensor, begin: int, end: int, beam: int = 5, length_penalty: float = 1.0
) -> list[list[int]]:
    """The best translation found of each sentence, judged by log p / length**length_penalty.

    No translation is longer than `longest`. The result does not depend on which sentences are
    searched together, but for the order in which sums are taken.

    Args:
        model: with `pad`, `encode` and `following`, as `lpt.models.Transformer` has them.
        source: tokens (N, S), filled up with `model.pad`.
        begin, end: the tokens that a translation begins and ends with.
        beam: B.

    Returns:
        For each sentence its tokens, without begin, end and padding.
    """
    count, device = len(source), source.device
    memory, mask = (x.repeat_interleave(beam, 0) for x in model.encode(source))
    limits = longest((source != model.pad).sum(1))[:, None]
    caches: list[dict[str, Tensor]] = [{} for _ in model.decoder.layers]
    tokens = torch.full((count, beam, 1), begin, device=device)
    scores = torch.full((count, beam), -torch.inf, device=device)
    scores[:, 0] = 0.0  # all hypotheses begin alike: one is enough
    lengths = torch.zeros(count, beam, device=device)
    ended = torch.zeros(count, beam, dtype=torch.bool, device=device)
    first_row = torch.arange(count, device=device)[:, None] * beam
    for position in range(int(limits.max())):
        steps = model.following(tokens[:, :, -1].flatten(), position, memory, mask, caches).float().log_softmax(-1)
        over = (position + 1 >= limits).expand(count, beam)
        steps = _allowed(steps.view(count, beam, -1), over, ended, model.pad, begin, end)
        totals = scores[:, :, None] + steps
        lengths = lengths + ~ended
        ranked = totals / lengths[:, :, None] ** length_penalty
        best = ranked.flatten(1).topk(beam).indices  # (N, B)
        origin, token = best // steps.shape[-1], best % steps.shape[-1]
        scores = totals.flatten(1).gather(1, best)
        lengths = lengths.gather(1, origin)
        ended = ended.gather(1, origin) | (token == end)
        tokens = torch.cat([tokens.gather(1, origin[:, :, None].expand_as(tokens)), token[:, :, None]], 2)
        if ended.all():
            break
        rows = (first_row + origin).flatten()
        for cache in caches:
            cache |= {name: cache[name][rows] for name in ("keys", "values")}
    chosen = tokens[:, 0, 1:]  # topk sorts: the first is the best
    return [[t for t in row if t not in (end, model.pad)] for row in chosen.tolist()]


def longest(lengths: Tensor) -> Tensor:
    """Most tokens of translations, the end included, of sentences of so many tokens."""
    return lengths * 3 // 2 + 10


def _allowed(steps: Tensor, over: Tensor, ended: Tensor, pad: int, begin: int, end: int) -> Tensor:
    """Log-probabilities (N, B, V) of what may follow: neither padding nor `begin`; the end alone where no more tokens
    are allowed (`over`, (N, B)); padding alone, and for certain, where the end has come (`ended`, (N, B))."""
    steps[:, :, [pad, begin]] = -torch.inf
    steps = torch.where(over[:, :, None], _only(end, steps, steps[:, :, end]), steps)
    return torch.where(ended[:, :, None], _only(pad, steps, torch.zeros_like(steps[:, :, pad])), steps)


def _only(token: int, steps: Tensor, value: Tensor) -> Tensor:
    """Log-probabilities (N, B, V) that allow one token alone, at `value` (N, B)."""
    only = torch.full_like(steps, -torch.inf)
    only[:, :, token] = value
    return only
