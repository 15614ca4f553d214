"""Drawing tokens from logits, a row at a time with its own temperature, nucleus and random numbers.

In: logits (row, vocabulary), a `Draw` and a `Random` for each row. Out: probabilities, and a column of each row. Knows
nothing of what the tokens mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch

from .base import Draw

FIRST_TOKENS = 64
"""In so many of the likeliest tokens the nucleus is looked for first: sorting the whole vocabulary would take longer
than all else here."""


def probabilities(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """softmax(logits / temperature) of each row, 0 outside its nucleus; not renormalised, and -inf may not be drawn.

    The nucleus are the likeliest tokens that together reach `top_p`, and those that are exactly as likely as the last.

    >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> probabilities(logits, [Draw(1.0, 0.6, seed=0)]).round(decimals=4).tolist()
    [[0.5, 0.30000001192092896, 0.0]]
    """
    temperature, top_p = torch.tensor([[draw.temperature, draw.top_p] for draw in draws]).T.to(logits.device)
    logits = logits.float() - logits.float().amax(-1, keepdim=True)  # so that no temperature makes it overflow
    weights = (logits / temperature[:, None].clamp_min(torch.finfo(torch.float32).tiny)).softmax(-1)
    if all(draw.top_p == 1 for draw in draws):
        return weights
    width = weights.shape[-1]
    for most in (min(FIRST_TOKENS, width), width):
        best = weights.topk(most).values
        short = best.cumsum(-1) < top_p[:, None]
        if not short[:, -1].any():
            break
    last = short.sum(-1, keepdim=True).clamp_max(best.shape[-1] - 1)
    least = best.gather(1, last).masked_fill(top_p[:, None] == 1, 0)
    return weights.masked_fill(weights < least, 0)


def sample(weights: torch.Tensor, random: Sequence[Random]) -> torch.Tensor:
    """A column of each row of `weights` (row, column), as often as its share of the row's sum. Takes a number of each
    `random`.

    The columns are laid end to end in their order, not sorted: near ties, which rounding may turn, keep their place.
    """
    ends = weights.cumsum(-1)
    points = torch.tensor([one.random() for one in random]).to(ends)[:, None] * ends[:, -1:]
    columns = torch.searchsorted(ends, points, right=True)
    # Rounding may put a point at the very end, behind the last column that has a weight.
    return columns.minimum((ends < ends[:, -1:]).sum(-1, keepdim=True))[:, 0]
