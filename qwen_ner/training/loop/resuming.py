"""What a training that continues from a checkpoint needs beside the Trainer's own state, and the Trainer lacks.

In: the Trainer's events. Out: the same weights, evaluations and best checkpoint as an uninterrupted training. The
mean of the training loss that is logged next covers the steps since the resume only.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import IntervalStrategy

from .checkpoints import best_of

if TYPE_CHECKING:
    from .trainer import NerTrainer


log = logging.getLogger(__name__)


class TrainingComplete(Exception):
    """Nothing is left to train. Otherwise the Trainer would take one more step before noticing."""


class Resumption(TrainerCallback):
    """Redoes an evaluation that was cut short, ends a finished training, and fixes what depends on random numbers.

    Evaluations leave the training's random numbers alone, so it does not matter how often and how far one runs. The
    order of an epoch grouped by length is drawn from the number of the epoch. `saved_step` is the last step that has a
    checkpoint.
    """

    def __init__(self, trainer: NerTrainer) -> None:
        self.trainer = trainer
        self.saved_step = -1
        self.checkpoint: str | None = None
        self._random_state = torch.get_rng_state()

    def restore_random_state(self) -> None:
        """Undo the draw of a data loader's seed; an evaluation draws nothing else, since it generates greedily."""
        torch.set_rng_state(self._random_state)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._random_state = torch.get_rng_state()
        self.saved_step = state.global_step
        if not self.checkpoint:
            return
        state.compute_steps(args, state.max_steps)  # the checkpoint's state has those of the command that wrote it
        best = best_of(Path(self.checkpoint))  # the Trainer looks where its folder was
        state.best_model_checkpoint = str(best) if best and best.is_dir() else None
        if evaluation_is_due(args, state):
            metrics = self.trainer._evaluate(None, None)
            if self.trainer._determine_best_metric(metrics=metrics, trial=None):
                state.best_model_checkpoint = self.checkpoint
        if control.should_training_stop or state.global_step >= state.max_steps:
            log.info(
                "Nothing is left to train after step %d of %d; the model is saved and scored again.",
                *(state.global_step, state.max_steps),
            )

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_training_stop or state.global_step >= state.max_steps:
            raise TrainingComplete
        sampler = kwargs["train_dataloader"].batch_sampler
        sampler = getattr(sampler, "batch_sampler", sampler)  # on several ranks, accelerate wraps it
        sampler = getattr(sampler, "sampler", None)
        if isinstance(sampler, LengthGroupedSampler):
            seed = args.seed if args.data_seed is None else args.data_seed
            # Of whole steps, so that another number of processes with as many rows per step goes on in the same order.
            sampler.batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            sampler.generator = torch.Generator().manual_seed(seed + int(state.epoch or 0))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._random_state = torch.get_rng_state()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.restore_random_state()


def evaluation_is_due(args: TrainingArguments, state: TrainerState) -> bool:
    """Whether the evaluation of the current step is missing: it was cut short, or comes after the step's last save."""
    step, epoch = state.global_step, state.epoch or 0
    if any(entry["step"] == step and "eval_loss" in entry for entry in state.log_history):
        return False
    if args.eval_strategy == IntervalStrategy.STEPS:
        return args.eval_delay <= step and (step % state.eval_steps == 0 or step >= state.max_steps)
    by_epoch = args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= epoch
    return by_epoch and (epoch == int(epoch) or step >= state.max_steps)
