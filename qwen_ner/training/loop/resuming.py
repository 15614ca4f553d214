"""What a training that continues from a checkpoint needs beside the Trainer's own state, and the Trainer lacks.

In: the Trainer's events. Out: the same weights, evaluations and best checkpoint as an uninterrupted training. The
mean of the training loss that is logged next covers the steps since the resume only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import IntervalStrategy

from ...entities import NerError
from .checkpoints import best_of, checkpoint_of

if TYPE_CHECKING:
    from .trainer import NerTrainer


log = logging.getLogger(__name__)


class TrainingComplete(Exception):
    """Nothing is left to train. Otherwise the Trainer would take one more step before noticing."""


class Resumption(TrainerCallback):
    """Redoes an evaluation that was cut short, ends a finished training, and fixes what depends on random numbers.

    Evaluations leave the training's random numbers alone, so it does not matter how often and how far one runs. The
    order of an epoch grouped by length is drawn from the number of the epoch. `saved_step` is the last step that has a
    checkpoint; `loading` says that `checkpoint` is not in use yet.
    """

    def __init__(self, trainer: NerTrainer) -> None:
        self.trainer = trainer
        self.saved_step = -1
        self.checkpoint: str | bool | None = None
        self.loading = False
        self._random_state = torch.get_rng_state()

    def restore_random_state(self) -> None:
        """Undo the draw of a data loader's seed; an evaluation draws nothing else, since it generates greedily."""
        torch.set_rng_state(self._random_state)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._random_state = torch.get_rng_state()
        self.saved_step = state.global_step
        if isinstance(self.checkpoint, str):
            best = best_of(Path(self.checkpoint))
            state.best_model_checkpoint = str(best) if best and best.is_dir() else None
            if best and best.is_dir():
                log.info("The best checkpoint so far is %s.", best)
        if state.global_step and evaluation_is_due(args, state):
            metrics = self.trainer._evaluate(None, None)
            if self.trainer._determine_best_metric(metrics=metrics, trial=None):
                given = isinstance(self.checkpoint, str)  # it may be in another folder
                checkpoint = self.checkpoint if given else checkpoint_of(args.output_dir, state.global_step)
                state.best_model_checkpoint = str(checkpoint)
        if state.global_step and (control.should_training_stop or state.global_step >= state.max_steps):
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
            sampler.generator = torch.Generator().manual_seed(seed + int(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.loading = False

    def explain(self, error: Exception) -> NerError:
        """What to raise for an error of loading `checkpoint`: its form is right, but it has no checksums."""
        lines = str(error).splitlines() or [type(error).__name__]
        return NerError(
            f"cannot be loaded into this training ({' '.join(line.strip() for line in lines[:2])})",
            place=self.checkpoint,
            remedy="remove it, which leaves the one before, or choose another --output_dir",
        )

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


@contextmanager
def without_lost_best() -> Iterator[None]:
    """Leave out the Trainer's line that the best checkpoint is lost: `Resumption` finds it where its folder is now."""
    logger, lost = logging.getLogger("transformers.trainer"), "The best checkpoint"
    logger.addFilter(keep := lambda record: not record.getMessage().startswith(lost))
    try:
        yield
    finally:
        logger.removeFilter(keep)


@contextmanager
def replace_attributes(owner: object, **values: Any) -> Iterator[None]:
    """Give attributes of `owner` other values while the context lasts."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
