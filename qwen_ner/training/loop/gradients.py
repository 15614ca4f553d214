"""No step is taken with gradients that are not finite.

In: the Trainer's events. Out: an error that names the rows, or a step that is skipped and counted. Knows nothing of
entities and of how a batch is laid out.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerState

from ...columns import join_names
from ...entities import NerError

if TYPE_CHECKING:
    from .trainer import NerTrainer

log = logging.getLogger(__name__)

PATIENCE = 10
"""Steps skipped in a row before a training stops after all: by then its weights are not finite."""


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

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any) -> None:
        """Runs after clipping, with the norm before it: clipped by a norm that overflows, a gradient is all zeros."""
        if self.trainer.accelerator.scaler is not None or math.isfinite(self._norm(model)):
            self._in_a_row = 0
            return
        numbers = sorted(row["row"] for rows in self.trainer.replay.step_rows for row in rows)
        rows = join_names(map(self.trainer.row_name, numbers), 20)
        place, found = f"step {state.global_step + 1}", f"the gradient is not finite in rows {rows}"
        stops = self.trainer.args.nonfinite_gradients == "stop"
        if stops or self._in_a_row == PATIENCE - 1:
            since = f", like in the {PATIENCE - 1} steps before" if self._in_a_row else ""
            rate = self.trainer.lr_scheduler.get_last_lr()[0]
            remedy = f"check these rows or lower learning_rate (now {rate:.2g})"
            remedy += ", or set nonfinite_gradients: skip" if stops else ""
            raise NerError(f"{found} of the training data{since}", place=place, remedy=remedy)
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
