"""Levers of the training step that are measured before any of them enters the package: FGM and R-Drop.

In: micro-batches of the Trainer, packed or padded. Out: their losses and gradients. Both keep the size of a plain
step's loss and gradient, so that learning rate and clipping need not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from qwen_ner.data.tokenize import column
from qwen_ner.inference.backends.prefix_cache import shared_prefix
from qwen_ner.training.batches.collate import IGNORED
from qwen_ner.training.batches.step import Loss, Run, StepTransform


class FGM(StepTransform):
    """Half of the loss where each example's embeddings are moved by `epsilon` to where its loss grows fastest.

    Miyato et al., "Adversarial Training Methods for Semi-Supervised Text Classification" (arXiv 1605.07725): the output
    of the embeddings moves by ε · g / ‖g‖, with g its gradient over the example. What all prompts begin with stays, as
    packs compute it once for all: the gradient is that of the rows one by one. Takes twice the time of a plain step.
    """

    def __init__(self, args: Any, epsilon: float) -> None:
        super().__init__(args)
        self.epsilon = epsilon

    @contextmanager
    def around(self, model: Any, rows: Any) -> Iterator[None]:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.backbone, self.embeddings = base.base_model, base.get_input_embeddings()
        self.prefix = len(shared_prefix(list(column(rows, "prompt_ids"))))
        yield

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, count: Any, compute: Loss) -> torch.Tensor:
        return compute(logits, targets) / 2

    def step(self, model: torch.nn.Module, run: Run) -> torch.Tensor:
        inputs: dict[str, torch.Tensor] = {}
        moves: list[torch.Tensor] = []

        def note(module: Any, args: Any, given: dict[str, Any]) -> None:
            inputs.update({name: value for name, value in given.items() if isinstance(value, torch.Tensor)})

        def move(module: Any, args: Any, embedded: torch.Tensor) -> torch.Tensor:
            if not moves:
                moves.append(torch.zeros_like(embedded, requires_grad=True))
            return embedded + moves[0]

        with ExitStack() as stack:
            for handle in (
                self.backbone.register_forward_pre_hook(note, with_kwargs=True),
                self.embeddings.register_forward_hook(move),
            ):
                stack.callback(handle.remove)
            clean = run()
            slope = moves[0].grad
            assert slope is not None
            moves[0] = slope * self._scales(slope, examples(inputs, self.prefix))
            return clean + run()

    def _scales(self, slope: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
        """ε / ‖g‖ of the example that each token belongs to, (rows, tokens, 1); 0 where it belongs to none."""
        squares = slope.float().square().sum(-1)
        norms = squares.new_zeros(int(example.max()) + 1).index_add(0, example.flatten(), squares.flatten()).sqrt()
        scales = torch.where(norms > 0, self.epsilon / norms, 0.0)
        scales[0] = 0.0
        return scales[example][..., None]


def examples(inputs: dict[str, torch.Tensor], prefix: int) -> torch.Tensor:
    """The number of the example, from 1, that each token (rows, tokens) of a batch belongs to; 0 for padding and for
    the first `prefix` tokens of each."""
    if "own" in inputs:  # a pack
        own, place, positions = inputs["own"], inputs["place"], inputs["position_ids"]
        number = torch.zeros_like(positions)
        number[0, own.flatten()[place]] = place // own.shape[1] + 1
        # Alone, an example shares all of its prompt but one token with itself.
        return torch.where(positions >= prefix, 1, 0) if len(own) == 1 else number
    mask = inputs["attention_mask"]
    if mask.dim() != 2:
        raise ValueError("FGM knows packs of sdpa attention, and padded batches")
    number = torch.arange(1, len(mask) + 1, device=mask.device)[:, None] * mask
    number[:, :prefix] = 0
    return number


class RDrop(StepTransform):
    """Two passes with other dropout, and `alpha` times how far their predictions differ, all of it halved.

    Wu et al., "R-Drop: Regularized Dropout for Neural Networks" (arXiv 2106.14448): the loss of both passes, and α/2 ·
    (KL(p₁ ‖ p₂) + KL(p₂ ‖ p₁)) over the supervised tokens. Takes twice the time and the memory of a plain step.
    """

    def __init__(self, args: Any, alpha: float) -> None:
        super().__init__(args)
        self.alpha = alpha

    def step(self, model: torch.nn.Module, run: Run) -> torch.Tensor:
        def note(module: Any, args: Any, given: dict[str, Any]) -> None:
            # Not what accelerate wraps it in: one `autocast`, which, entered twice, would stay on behind the step.
            forward = getattr(module, "_original_forward", module.forward)
            self.again = lambda: forward(*args, **given)

        self.second: list[torch.Tensor] | None = None
        handle = model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            return run()
        finally:
            handle.remove()
            del self.again

    def loss(self, logits: torch.Tensor, targets: torch.Tensor, count: Any, compute: Loss) -> torch.Tensor:
        if self.second is not None:  # inside of the second pass
            self.second.append(logits)
            return compute(logits, targets)
        one, self.second = compute(logits, targets), []
        try:
            two = self.again().loss
            logs = [each[targets != IGNORED].float().log_softmax(-1) for each in (logits, *self.second)]
        finally:
            self.second = None
        # Both divergences together; of equal predictions it is 0, and so is each of its gradients.
        apart = ((logs[0].exp() - logs[1].exp()) * (logs[0] - logs[1])).sum() / count
        return (one + two) / 2 + self.alpha / 4 * apart
