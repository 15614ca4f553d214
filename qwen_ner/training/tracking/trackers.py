"""What a training tells its trackers, and that none of them stops it.

In: a recipe, and a trainer at work. Out: one wandb run, whatever the number of processes; TensorBoard's scalars; both
under the Trainer's names. Knows nothing of what is shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK, TensorBoardCallback, WandbCallback

from ...entities import NerError
from ..doctor.machine import missing_trackers
from ..loop.trainer import NerTrainer
from ..preparation import FINAL_SPLIT, Splits
from ..recipe import Recipe
from .wandb_run import WandbTracking


class Tracking:
    """The trackers of one training. `watch` gives them to its trainer; without any it does nothing."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.wandb: WandbTracking | None = None

    def watch(self, trainer: NerTrainer, splits: Splits) -> None:
        """Put our callbacks in the places of the Trainer's own."""
        split = FINAL_SPLIT if splits.final else "validation"
        if trainer.pop_callback(WandbCallback) is not None:
            self.wandb = WandbTracking(self.recipe, trainer, splits, split)
            trainer.add_callback(self.wandb)
        if trainer.pop_callback(TensorBoardCallback) is not None:
            trainer.add_callback(TensorBoardTracking(split))


@contextmanager
def tracking(recipe: Recipe) -> Iterator[Tracking]:
    """The trackers of one training, closed at its end, however it ends.

    Raises `NerError`, before anything is loaded, for a tracker that is unknown or not installed.
    """
    check_report_to(recipe.training.report_to)
    trackers = Tracking(recipe)
    try:
        yield trackers
    except BaseException as error:
        if trackers.wandb:
            trackers.wandb.finish(130 if isinstance(error, KeyboardInterrupt) else 1)
        raise
    if trackers.wandb:
        trackers.wandb.upload_results()
        trackers.wandb.finish(0)


def check_report_to(report_to: Sequence[str], installed: Callable[[str], Any] = find_spec) -> None:
    """Raise `NerError` where a tracker of that name does not exist or is not installed.

    >>> check_report_to(["tensorbord"])
    Traceback (most recent call last):
    qwen_ner.entities.NerError: report_to: tensorbord is no tracker; did you mean tensorboard?
    """
    for name in report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            near = difflib.get_close_matches(name, INTEGRATION_TO_CALLBACK, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
            raise NerError(f"report_to: {name} is no tracker; {remedy}")
    if absent := missing_trackers(report_to, installed):
        raise NerError(
            f"report_to: {', '.join(absent)} not installed; pip install {' '.join(absent)}, or report_to: none"
        )


class TensorBoardTracking(TensorBoardCallback):
    """The Trainer's own callback, and the final scores."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self.split, self.prefix = split, f"{split}_"

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero:
            return
        with self._SummaryWriter(log_dir=self.logging_dir) as writer:
            for name, value in metrics.items():
                writer.add_scalar(f"{self.split}/{name.removeprefix(self.prefix)}", value, state.global_step)
