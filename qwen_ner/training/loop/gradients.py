"""What goes wrong in a training without an error: gradients that are not finite, and scores and losses that collapse.

In: the Trainer's events. Out: an error that names the rows, or a step that is skipped and counted; warnings. Knows
nothing of entities and of how a batch is laid out.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...entities import NerError
from ..finding import join_names

if TYPE_CHECKING:
    from .trainer import NerTrainer

log = logging.getLogger(__name__)

STOP, SKIP = "stop", "skip"

PATIENCE = 10
"""Steps skipped in a row before a training stops after all: by then its weights are not finite."""

FALLEN_FROM = 0.1
"""An f1 that falls to 0 from less has only just begun to rise: a few rows more or less right."""


class NonFiniteGradients(TrainerCallback):
    """Never take an optimizer step with NaN or infinite gradients.

    `args.nonfinite_gradients` "stop" raises `NerError` with the rows of the step; "skip" drops the gradients and counts
    the step in `skipped`. All ranks see the norm of the same gradient, so they decide alike; each names its own rows.
    In float16 the gradient scaler skips such steps as a matter of course.
    """

    def __init__(self, trainer: NerTrainer) -> None:
        self.trainer = trainer
        self.skipped, self._in_a_row = 0, 0
        self._clipped: Any = None
        self._clip = trainer.accelerator.clip_grad_norm_
        trainer.accelerator.clip_grad_norm_ = self._clip_and_keep

    def _clip_and_keep(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer computes the norm in every step, but shows it to no callback."""
        self._clipped = self._clip(*args, **kwargs)
        return self._clipped

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Runs after clipping, with the norm before it: clipped by a norm that overflows, a gradient is all zeros."""
        if self.trainer.accelerator.scaler is not None or math.isfinite(self._norm(model)):
            self._in_a_row = 0
            return
        rows = join_names(map(str, sorted(row["row"] for rows in self.trainer.replay.step_rows for row in rows)), 20)
        place, found = f"step {state.global_step + 1}", f"the gradient is not finite in rows {rows}"
        if getattr(args, "nonfinite_gradients", STOP) == STOP or self._in_a_row == PATIENCE - 1:
            since = f", like in the {PATIENCE - 1} steps before" if self._in_a_row else ""
            raise NerError(
                f"{found} of the training data (counted from 0){since}",
                place=place,
                remedy=f"check these rows, lower learning_rate (now {self.trainer.lr_scheduler.get_last_lr()[0]:.2g}), "
                "or skip such steps with nonfinite_gradients: skip",
            )
        self.skipped += 1
        self._in_a_row += 1
        log.warning("%s: %s; this step is skipped (%d so far).", place, found, self.skipped)
        model.zero_grad(set_to_none=True)  # an optimizer passes over weights without a gradient

    def _norm(self, model: torch.nn.Module) -> float:
        if self.trainer.deepspeed is not None:
            return float(self.trainer.deepspeed.get_global_grad_norm())
        norm, self._clipped = self._clipped, None
        if norm is None:  # gradients of several device meshes are clipped by other means
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # FSDP: over all shards


class CollapseWarnings(TrainerCallback):
    """Warn when an evaluation finds a model that writes nothing or nothing right, or when the loss climbs."""

    def __init__(self) -> None:
        self.best, self.lowest, self.climbing, self.silent = 0.0, math.inf, False, False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        f1 = metrics.get("eval_f1")
        if f1 is None or not state.is_world_process_zero:
            return
        written, gold = (metrics["eval_tp"] + metrics[key] for key in ("eval_fp", "eval_fn"))
        was_silent, self.silent = self.silent, bool(gold and not written and state.global_step)
        if self.silent and not was_silent:
            log.warning(
                "step %d: the model wrote no entity for any of %d rows, which have %d. In the first steps that is "
                "normal; if it lasts, train longer, and make sure the training data is annotated (qwen-ner stats)",
                state.global_step,
                metrics["eval_rows"],
                gold,
            )
        elif not self.silent and f1 == 0 and self.best >= FALLEN_FROM:
            log.warning(
                "step %d: f1 fell from %.2f to 0; if the loss rose as well, learning_rate %s is too high",
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
                "step %d: the training loss rose from %.3g to %.3g; the training diverges, lower learning_rate (%s) or "
                "warm up longer",
                state.global_step,
                self.lowest,
                loss,
                args.learning_rate,
            )
        self.climbing = climbs
        self.lowest = min(self.lowest, loss)
