"""A frozen head, in training over the tokens that the training rows have.

In: a model, and its training rows. Out: the same model, whose loss weighs each token against those alone. Knows nothing
of how a batch is laid out.

An adapter leaves the head as it is, and a vocabulary of 151,936 is mostly of other languages: CLUENER's rows have
16,255 tokens of it. The product with the others is a sixth of the time of a step on the CPU, and the largest tensors of
a step are as wide as the vocabulary. Only the loss of training leaves them out; who evaluates and generates has the
whole head. What it costs in F1 was measured (README, A budget).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear, pad

from ...data.tokenize import column
from .collate import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel


def tokens_of(rows: Dataset) -> torch.Tensor:
    """The token ids of all prompts and answers (n,), ascending, each once."""
    columns = (column(rows, name) for name in ("prompt_ids", "answer_ids"))
    return torch.tensor(sorted(set(chain.from_iterable(chain(*columns)))))


@contextmanager
def head_over(tokens: torch.Tensor, model: PreTrainedModel) -> Iterator[int]:
    """Within, `model` in training mode makes the logits (…, n) of `tokens` (n,) alone, and its loss is over these.

    Gives the width of the logits: a head that is trained, or is no plain linear layer, stays whole. A label that is
    none of `tokens` is an `IndexError` on the CPU and a failed assertion on a GPU, as any outside of a vocabulary.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None or head.weight.requires_grad:
        yield head.weight.shape[0]
        return
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    places = torch.full((head.out_features,), -1)
    places[tokens] = torch.arange(len(tokens))
    narrow: list[torch.Tensor] = []

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if not head.training:
            return linear(hidden, head.weight)
        if not narrow:  # here and not before: sharded weights are whole in a forward pass alone
            narrow.append(head.weight.detach()[tokens.to(head.weight.device)])
        return linear(hidden, narrow[0])

    def loss(
        logits: torch.Tensor, labels: Any, vocab_size: int, *, shift_labels: Any = None, **options: Any
    ) -> torch.Tensor:
        if not head.training:
            return stock(logits, labels, vocab_size, shift_labels=shift_labels, **options)
        target = pad(labels, (0, 1), value=IGNORED)[..., 1:] if shift_labels is None else shift_labels
        place = places.to(target.device)[target.clamp_min(0)].masked_fill(target == IGNORED, IGNORED)
        return stock(logits, labels, len(tokens), shift_labels=place, **options)

    stock = base.loss_function
    head.forward, base.loss_function = forward, loss
    try:
        yield len(tokens)
    finally:
        del head.forward
        base.loss_function = stock
