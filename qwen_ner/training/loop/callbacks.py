"""Callbacks beside the training loop: one line per log, early stopping that survives a resume, and a stop on signals.

In: the Trainer's events. Out: lines on the terminal, a checkpoint before the process ends. Knows nothing of data and
models.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import psutil
import torch
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from ...codec import PROBLEM_KINDS
from ..arguments import how_to_go_on

log = logging.getLogger(__name__)

LAUNCHERS = ("accelerate", "torchrun", "torch.distributed", "deepspeed")
"""Parts of the command lines of processes that launch ranks."""


class LogLines(TrainerCallback):
    """Print one short line where the Trainer would print a long dict.

    The full metrics go to metrics.json, trainer_state.json and the trackers of `report_to`. Problems of the answers are
    told where there are some.
    """

    keys = (
        "loss", "grad_norm", "learning_rate", "f1", "span_f1", "macro_f1", "macro_labels", "not_json", "truncated",
        "miscopied", "train_runtime",
    )  # fmt: skip

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        validation = "validation · " if any(key.startswith("eval_") for key in logs) else ""
        if validation and not state.global_step:
            validation += "before training · "
        values = {key.removeprefix("eval_"): value for key, value in logs.items()}
        shown = [key for key in self.keys if key in values and (values[key] or key not in PROBLEM_KINDS)]
        parts = " · ".join(f"{key} {values[key]:.4g}" for key in shown)
        with tqdm.external_write_mode():  # above the progress bars, if there are any
            print(f"step {state.global_step}/{state.max_steps} · {validation}{parts}", flush=True)


class ProgressLines(LogLines, ProgressCallback):
    """The Trainer's progress bars, and the lines of `LogLines` above them."""


class EarlyStopping(EarlyStoppingCallback):
    """The Trainer's early stopping, for a model that begins at 0, and that says why it ended the training.

    Evaluations count from the first one above 0 on: before, the model has not learnt to write answers. After a resume
    the count goes on where the checkpoint's ended.
    """

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if not state.global_step:
            self.early_stopping_patience_counter = 0
            return
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: Any, metric_value: float
    ) -> None:
        if args.greater_is_better and max(metric_value, state.best_metric or 0) <= 0:
            return
        super().check_metric_value(args, state, control, metric_value)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any) -> None:
        at_the_end = control.should_training_stop
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if control.should_training_stop and not at_the_end:
            log.info(
                "Early stopping ends the training at step %d of %d: the best %s is %.4g, of step %s, and "
                "%d evaluations since then were no better (early_stopping_patience).",
                *(state.global_step, state.max_steps, chosen_by(args).removeprefix("eval_"), state.best_metric),
                *(state.best_global_step, self.early_stopping_patience_counter),
            )


class EqualScores(TrainerCallback):
    """Of evaluations with equal scores, have the one with the lowest validation loss be the best; the Trainer keeps
    the first.

    On few validation rows many scores are equal, and a model that learns to write answers has an f1 of 0 for several
    evaluations. The loss still tells them apart. To early stopping an equal score is no better, as to the Trainer's.
    """

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: Any, metrics: Any, **kwargs: Any
    ) -> None:
        if state.best_metric is None or metrics.get(chosen_by(args)) != state.best_metric:
            return
        of_best = [entry for entry in state.log_history if entry["step"] == state.best_global_step]
        if any(metrics["eval_loss"] < entry["eval_loss"] for entry in of_best if "eval_loss" in entry):
            state.best_metric = None  # the Trainer compares behind this event, and any score is better than none


def chosen_by(args: TrainingArguments) -> str:
    """The metric that the best checkpoint is chosen by, as evaluations name it."""
    return f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"


class Stopped(KeyboardInterrupt):
    """A training was stopped by a signal; its checkpoint is on the disk."""

    def __init__(self, args: TrainingArguments, step: int) -> None:
        super().__init__(f"stopped at step {step}; {how_to_go_on(args)}")


class StopOnSignal(TrainerCallback):
    """On SIGINT or SIGTERM, save a checkpoint after the current step and raise `Stopped`; exit at once on a second one.

    An evaluation under way is cut short, since it may take longer than the time that is left. All ranks agree at every
    step: one that left the loop alone would leave the others waiting. A launcher that has died counts as SIGTERM.
    `received` is the number of the signal, on every rank.
    """

    def __init__(self) -> None:
        self.received = 0
        self._pending = 0
        self._launcher: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while the context lasts."""
        self.received, self._pending, self._launcher = 0, 0, launcher()
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._pending:
            raise KeyboardInterrupt
        self._pending = number
        log.warning("Stopping after this step with a checkpoint; send the signal again to stop at once without one.")

    def agree(self, args: TrainingArguments) -> None:
        """Set `received` to the signal that any rank has got."""
        if self._launcher not in (None, os.getppid()):
            self._pending = self._pending or signal.SIGTERM
        # Read once: a signal that arrives while the ranks agree must wait for the next time, or this rank stops alone.
        self.received = self._pending
        if args.world_size > 1:
            flag = torch.tensor(self.received, device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            self.received = int(flag)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.agree(args)
        if self.received:
            control.should_evaluate = False
            # The last step of an epoch is saved by `on_epoch_end`, which comes before the next step.
            control.should_save = state.epoch is None or state.epoch != int(state.epoch)

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        if self.received:
            control.should_evaluate, control.should_save = False, True

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, *rest: Any, **kwargs: Any) -> None:
        self.agree(args)
        if self.received:
            raise Stopped(args, state.global_step)

    on_save = on_prediction_step

    def on_train_end(self, args: TrainingArguments, *rest: Any, **kwargs: Any) -> None:
        self.agree(args)  # a signal may have come while the best checkpoint was loaded


def launcher() -> int | None:
    """The process id of the launcher that started this process, or None if it was started by hand."""
    with suppress(psutil.Error):
        parent = psutil.Process().parent()
        if parent and any(name in " ".join(parent.cmdline()) for name in LAUNCHERS):
            return int(parent.pid)
    return None
