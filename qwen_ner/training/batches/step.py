"""One micro-batch of training: its loss and its backward pass, and what may change them.

In: a model, and a function that runs the Trainer's own forward and backward pass on one micro-batch. Out: the loss,
with its gradients added to the model's. Knows nothing of memory, devices and how a batch is laid out.

A lever (a change to the loss, the head, the embeddings) is a subclass of `StepTransform` in a file of its own, and one
line in `transforms.TRANSFORMS`; a recipe names it in `step_transforms`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel, TrainingArguments

from ...files import replace_attributes
from .collate import IGNORED, base_of

if TYPE_CHECKING:
    from datasets import Dataset

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The loss from logits (…, vocabulary) and the token to predict at each place (…), `IGNORED` where there is none."""

Run = Callable[[], torch.Tensor]
"""Forward and backward pass of one micro-batch; returns the detached loss."""


class StepTransform:
    """One change to the training step. Override the hooks that you need; evaluation never meets them.

    Set `replayable` if `loss` computes the same in every step and never waits for the GPU: a CUDA graph then repeats
    what it launched in the first.
    """

    replayable = False

    def __init__(self, args: TrainingArguments) -> None:
        self.args = args

    @contextmanager
    def around(self, model: PreTrainedModel, rows: Dataset) -> Iterator[None]:
        """Patch `model` for a whole training on `rows`, and undo it at the end."""
        yield

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, count: Any, compute: Loss) -> torch.Tensor:
        """Compute the loss of a micro-batch; `count` is the number of supervised tokens in the whole step."""
        return compute(logits, targets)

    def step(self, model: torch.nn.Module, run: Run) -> torch.Tensor:
        """Run a micro-batch forward and backward, once or more often. Gradients add up; undo patches even on errors:
        after an out-of-memory error the micro-batch is split and tried again."""
        return run()


class Step:
    """Computes micro-batches through a list of transforms, the first of them outermost.

    `has_loss` tells whether the current micro-batch has got as far as its loss, that is, into its backward pass.
    """

    def __init__(self, transforms: Sequence[StepTransform]) -> None:
        self.transforms = list(transforms)
        self.has_loss = False

    @property
    def replayable(self) -> bool:
        """Whether a micro-batch is one pass, in which the transforms compute the same each time."""
        return all(one.replayable and type(one).step is StepTransform.step for one in self.transforms)

    @contextmanager
    def around(self, model: PreTrainedModel, rows: Dataset) -> Iterator[None]:
        """Everything that the transforms change on `model`, for one training."""
        base = base_of(model)
        loss = partial(self._loss, base, base.loss_function)
        with replace_attributes(base, loss_function=loss), ExitStack() as stack:
            for transform in self.transforms:
                stack.enter_context(transform.around(model, rows))
            yield

    def __call__(self, model: torch.nn.Module, run: Run) -> torch.Tensor:
        """The detached loss of one micro-batch."""
        self.has_loss = False
        for transform in reversed(self.transforms):
            run = partial(transform.step, model, run)
        return run()

    def _loss(self, base: Any, stock: Any, logits: Any, labels: Any, vocab_size: int, **options: Any) -> torch.Tensor:
        """Stands in for the model's loss function; the transforms' losses wrap it while the model trains."""
        if (targets := options.pop("shift_labels", None)) is None:
            targets = pad(labels, (0, 1), value=IGNORED)[..., 1:]

        def compute(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return stock(logits, labels, logits.shape[-1], shift_labels=targets, **options)

        if base.training:
            count = options.get("num_items_in_batch")
            count = (targets != IGNORED).sum() if count is None else count
            for transform in reversed(self.transforms):
                compute = partial(transform.loss, count=count, compute=compute)
        loss: torch.Tensor = compute(logits, targets)
        self.has_loss = True
        return loss
