"""The trackers of a training, none of which can stop it.

In: a recipe and a trainer. Out: one wandb run, whatever the number of processes, and TensorBoard's scalars, both with
the Trainer's names. Knows nothing of tables and plots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerState
from transformers.integrations import TensorBoardCallback, WandbCallback

from ..doctor.machine import check_report_to
from ..loop.trainer import NerTrainer
from ..preparation import Splits
from ..recipe import Recipe
from .wandb_run import WandbTracking


@contextmanager
def tracking(recipe: Recipe) -> Iterator[Callable[[NerTrainer, Splits], None]]:
    """The trackers of one training, closed when it ends, however it ends.

    Yields what replaces the Trainer's own callbacks by ours, on the first process. Raises `NerError`, before anything
    is loaded, for a tracker that is unknown or not installed.
    """
    check_report_to(recipe.training.report_to)
    started: list[WandbTracking] = []

    def watch(trainer: NerTrainer, splits: Splits) -> None:
        split = splits.scored_name
        wandb, tensorboard = (trainer.pop_callback(kind) for kind in (WandbCallback, TensorBoardCallback))
        if wandb and trainer.is_world_process_zero():
            started.append(WandbTracking(recipe, trainer, splits, split))
            trainer.add_callback(started[0])
        if tensorboard and trainer.is_world_process_zero():
            trainer.add_callback(TensorBoardTracking(split))

    exit_code = 1
    try:
        yield watch
        exit_code = 0
        for run in started:
            run.upload_results()
    except KeyboardInterrupt:
        exit_code = 130
        raise
    finally:
        for run in started:
            run.finish(exit_code)


class TensorBoardTracking(TensorBoardCallback):
    """The Trainer's own callback, plus the final scores."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self.split, self.prefix = split, f"{split}_"

    def on_predict(self, args: Any, state: TrainerState, control: Any, metrics: dict[str, float], **_: Any) -> None:
        with self._SummaryWriter(log_dir=self.logging_dir) as writer:
            for name, value in metrics.items():
                writer.add_scalar(f"{self.split}/{name.removeprefix(self.prefix)}", value, state.global_step)
