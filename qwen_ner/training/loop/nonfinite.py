"""What goes wrong in a training without an error: gradients that are no numbers, and scores that say so.

In: the Trainer's steps and events. Out: an error that names the rows, or a step left out and counted; warnings. Knows
nothing of entities and of how a batch is laid out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...entities import NerError
from ..finding import listed

log = logging.getLogger(__name__)

STOP, SKIP = "stop", "skip"

PATIENCE = 10
"""Steps left out one after the other before a training stops after all: its weights are no numbers by then."""


@dataclass(frozen=True)
class NumberedCollator:
    """What `collate` makes of the rows, and which they are: `row` (rows,)."""

    collate: Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {**self.collate(rows), "row": torch.tensor([row["row"] for row in rows])}


class GuardedTrainer(Trainer):
    """Trainer that never takes a step of NaN or infinity.

    `args.nonfinite_gradients` "stop" raises `NerError` with the rows of the step, "skip" leaves the step out; `skipped`
    counts these. All ranks see the same gradient, so they decide alike; each names its own rows. In float16 it is the
    scaler that leaves out steps, as a matter of course.
    """

    data_collator: Any
    skipped = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rows: list[int] = []
        self._skipped_since = 0

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        collator = self.data_collator
        self.data_collator = NumberedCollator(collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = collator

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        self._rows += inputs.pop("row").tolist()
        return super().training_step(model, inputs, *args, **kwargs)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called by the Trainer between the last backward pass of a step and the optimizer."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        rows, self._rows = self._rows, []
        if norm is None or self.accelerator.scaler is not None or math.isfinite(float(norm)):
            self._skipped_since = 0
            return norm
        step = self.state.global_step + 1
        found = f"step {step}: the gradient is {float(norm)} in rows {listed(map(str, sorted(rows)), 20)}"
        if getattr(self.args, "nonfinite_gradients", STOP) == STOP or self._skipped_since == PATIENCE - 1:
            since = f", as in the {PATIENCE - 1} steps before" if self._skipped_since else ""
            raise NerError(
                f"{found} of the training data (from 0){since}; look at these rows, lower learning_rate "
                f"({self._get_learning_rate():.2g} here), or leave such steps out with nonfinite_gradients: skip"
            )
        self.skipped += 1
        self._skipped_since += 1
        log.warning("%s; this step is left out (%d so far).", found, self.skipped)
        model.zero_grad(set_to_none=True)  # an optimizer passes over a weight without a gradient
        return norm


class Doubts(TrainerCallback):
    """Says when an evaluation finds a model that writes nothing or nothing right any more, or the loss climbs."""

    def __init__(self) -> None:
        self.best, self.lowest, self.climbing = 0.0, math.inf, False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        f1 = metrics.get("eval_f1")
        if f1 is None or not state.is_world_process_zero:
            return
        written, gold = (metrics["eval_tp"] + metrics[key] for key in ("eval_fp", "eval_fn"))
        if gold and not written and state.global_step:
            log.warning(
                "step %d: the model writes no entity for any of %d rows, which have %d; train longer, and see that the "
                "training data is annotated (qwen-ner stats)",
                state.global_step,
                metrics["eval_rows"],
                gold,
            )
        elif f1 == 0 < self.best:
            log.warning(
                "step %d: f1 fell to 0 from %.2f; learning_rate %s is too high if the loss rose as well",
                state.global_step,
                100 * self.best,
                args.learning_rate,
            )
        self.best = max(self.best, f1)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or not state.is_world_process_zero:
            return
        climbs = loss > 2 * self.lowest + 0.5
        if climbs and not self.climbing:
            log.warning(
                "step %d: the training loss is %.3g after %.3g; it diverges, so lower learning_rate (%s) or "
                "warm up longer",
                state.global_step,
                loss,
                self.lowest,
                args.learning_rate,
            )
        self.climbing = climbs
        self.lowest = min(self.lowest, loss)
