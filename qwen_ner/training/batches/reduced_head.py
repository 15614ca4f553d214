"""Train a frozen head over the tokens that occur in the training rows only.

In: a model and its training rows. Out: the same model, whose training loss compares each token with those tokens alone.
Knows nothing of how a batch is laid out.

LoRA leaves the head as it is, and most of a vocabulary of 151,936 belongs to other languages: CLUENER's rows use 16,255
tokens. Multiplying with the others takes a sixth of a step on the CPU, and the largest tensors of a step are as wide as
the vocabulary. Evaluation and generation keep the whole head. What this costs in F1 was measured (docs, Levers).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear, pad

from ...data.tokenize import column
from ...files import replace_attributes
from .collate import IGNORED, base_of
from .step import StepTransform

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


class ReducedHead(StepTransform):
    """`head_over` the tokens of the training rows, for a whole training."""

    replayable = True

    @contextmanager
    def around(self, model: PreTrainedModel, rows: Dataset) -> Iterator[None]:
        tokens = tokens_of(rows)
        with head_over(tokens, model) as width:
            if width == len(tokens):
                log.info("The training loss covers the %d tokens that occur in the training rows.", width)
            yield


def tokens_of(rows: Dataset) -> torch.Tensor:
    """All token ids in the prompts and answers (n,), sorted and unique."""
    columns = (column(rows, name) for name in ("prompt_ids", "answer_ids"))
    return torch.tensor(sorted(set(chain.from_iterable(chain(*columns)))))


@contextmanager
def head_over(tokens: torch.Tensor, model: PreTrainedModel) -> Iterator[int]:
    """While the context lasts, `model` in training mode computes the logits (…, n) of `tokens` (n,) and its loss only.

    Yields the width of the logits; a head that is trained, or is not a plain linear layer, stays whole. A label outside
    `tokens` raises `IndexError` on the CPU and fails an assertion on a GPU, like any label outside the vocabulary.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None or head.weight.requires_grad:
        yield head.weight.shape[0]
        return
    base = base_of(model)
    places = torch.full((head.out_features,), -1)
    places[tokens] = torch.arange(len(tokens))
    narrow: list[torch.Tensor] = []

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if not head.training:
            return linear(hidden, head.weight)
        if not narrow:  # not earlier: sharded weights are whole only during a forward pass
            narrow.append(head.weight.detach()[tokens.to(head.weight.device)])
        return linear(hidden, narrow[0])

    def loss(
        logits: torch.Tensor, labels: Any, vocab_size: int, *, shift_labels: Any = None, **options: Any
    ) -> torch.Tensor:
        if not head.training:
            return stock(logits, labels, vocab_size, shift_labels=shift_labels, **options)
        target = pad(labels, (0, 1), value=IGNORED)[..., 1:] if shift_labels is None else shift_labels
        nonlocal places
        places = places.to(target.device)  # where it stays
        place = places[target.clamp_min(0)].masked_fill(target == IGNORED, IGNORED)
        return stock(logits, labels, len(tokens), shift_labels=place, **options)

    stock = base.loss_function
    with replace_attributes(head, forward=forward), replace_attributes(base, loss_function=loss):
        yield len(tokens)
