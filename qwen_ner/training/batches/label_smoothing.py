"""Label smoothing (Szegedy et al. 2016, arXiv 1512.00567): a share of each target spread evenly over the vocabulary.

In: logits and targets of the supervised tokens. Out: the smoothed loss, by `label_smoothing_factor` as in the Trainer.
Beside a reduced head the share is spread over the tokens that the training rows have.
"""

from __future__ import annotations

from typing import Any

import torch

from .collate import IGNORED
from .step import Loss, StepTransform


class LabelSmoothing(StepTransform):
    """(1 − ε) · loss + ε · the mean of −log p over the vocabulary."""

    replayable = True

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, count: Any, compute: Loss) -> torch.Tensor:
        share = self.args.label_smoothing_factor
        wide = logits.float()
        spread = wide.logsumexp(-1) - wide.mean(-1)
        uniform = spread.masked_fill(targets == IGNORED, 0.0).sum() / count
        return (1 - share) * compute(logits, targets) + share * uniform
