"""The trackers of a training, none of which can stop it.

In: a recipe and a trainer. Out: one wandb run, whatever the number of processes, and TensorBoard's scalars, both with
the Trainer's names. Knows nothing of tables and plots.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from transformers import TrainerState
from transformers.integrations import INTEGRATION_TO_CALLBACK, TensorBoardCallback, WandbCallback

from ...entities import NerError
from ..doctor.machine import missing_trackers
from ..loop.trainer import NerTrainer
from ..preparation import Splits
from ..recipe import Recipe
from .wandb_run import WandbTracking


class Tracking:
    """The trackers of one training; without any, `watch` does nothing."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.wandb: WandbTracking | None = None

    def watch(self, trainer: NerTrainer, splits: Splits) -> None:
        """Replace the Trainer's own callbacks by ours, on the first process."""
        split = splits.scored_name
        wandb, tensorboard = (trainer.pop_callback(kind) for kind in (WandbCallback, TensorBoardCallback))
        if wandb and trainer.is_world_process_zero():
            self.wandb = WandbTracking(self.recipe, trainer, splits, split)
            trainer.add_callback(self.wandb)
        if tensorboard and trainer.is_world_process_zero():
            trainer.add_callback(TensorBoardTracking(split))


@contextmanager
def tracking(recipe: Recipe) -> Iterator[Tracking]:
    """The trackers of one training, closed when it ends, however it ends.

    Raises `NerError`, before anything is loaded, for a tracker that is unknown or not installed.
    """
    check_report_to(recipe.training.report_to)
    trackers = Tracking(recipe)
    exit_code = 1
    try:
        yield trackers
        exit_code = 0
        if trackers.wandb:
            trackers.wandb.upload_results()
    except KeyboardInterrupt:
        exit_code = 130
        raise
    finally:
        if trackers.wandb:
            trackers.wandb.finish(exit_code)


def check_report_to(report_to: Sequence[str], installed: Callable[[str], Any] = find_spec) -> None:
    """Raise `NerError` for a tracker that is unknown or not installed.

    >>> check_report_to(["tensorbord"])
    Traceback (most recent call last):
    qwen_ner.entities.NerError: report_to: unknown tracker, got 'tensorbord'; did you mean tensorboard?
    """
    for name in report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            near = difflib.get_close_matches(name, INTEGRATION_TO_CALLBACK, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
            raise NerError("unknown tracker", value=name, place="report_to", remedy=remedy)
    if absent := missing_trackers(report_to, installed):
        remedy = f"pip install {' '.join(absent)}, or report_to: none"
        raise NerError(f"{', '.join(absent)} not installed", place="report_to", remedy=remedy)


class TensorBoardTracking(TensorBoardCallback):
    """The Trainer's own callback, plus the final scores."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self.split, self.prefix = split, f"{split}_"

    def on_predict(self, args: Any, state: TrainerState, control: Any, metrics: dict[str, float], **_: Any) -> None:
        with self._SummaryWriter(log_dir=self.logging_dir) as writer:
            for name, value in metrics.items():
                writer.add_scalar(f"{self.split}/{name.removeprefix(self.prefix)}", value, state.global_step)
