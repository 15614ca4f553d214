"""What happens beside the training loop: one line a log, and a checkpoint before the process is stopped.

In: the Trainer's events. Out: lines on the terminal, a stop at the next step. Knows nothing of data and models.
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
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

log = logging.getLogger(__name__)

LAUNCHERS = ("accelerate", "torchrun", "torch.distributed", "deepspeed")
"""What the command of a process that starts ranks holds."""


class ProgressLines(ProgressCallback):
    """The Trainer's bars on a terminal, and everywhere one short line for what it would print as a long dict.

    The full metrics go to metrics.json, trainer_state.json and the trackers of `report_to`.
    """

    shown = (
        "loss",
        "grad_norm",
        "learning_rate",
        "f1",
        "span_f1",
        "macro_f1",
        "not_json",
        "truncated",
        "train_runtime",
    )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.disable_tqdm:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not args.disable_tqdm:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        evaluated = any(key.startswith("eval_") for key in logs)
        values = {key.removeprefix("eval_"): value for key, value in logs.items()}
        parts = [f"{key} {values[key]:.4g}" for key in self.shown if key in values]
        line = f"step {state.global_step}/{state.max_steps} · {'validation · ' if evaluated else ''}{' · '.join(parts)}"
        if self.training_bar is not None:
            self.training_bar.write(line)
        else:
            print(line, flush=True)


class Stopped(KeyboardInterrupt):
    """A training ended early, with a checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}; the same command goes on from there")


class StopOnSignal(TrainerCallback):
    """On SIGINT or SIGTERM: a checkpoint after this step, then the end; a second one stops at once. An evaluation that
    is under way is cut short by `Stopped`, since it may take longer than what is left of the time.

    `received` is the signal's number afterwards, on every rank: ranks agree on it at each step, since one that left the
    loop alone would leave the others waiting for it. A launcher that is gone counts as SIGTERM. `evaluation_due` is
    whether an evaluation was left out for it.
    """

    def __init__(self) -> None:
        self.received = 0
        self.evaluation_due = False
        self._asked = 0
        self._launcher: int | None = None
        self._listening = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over for as long as the context lasts."""
        self.received, self.evaluation_due, self._asked = 0, False, 0
        self._launcher = launcher()
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        self._listening = True
        try:
            yield
        finally:
            self._listening = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = number
        log.warning("Stopping with a checkpoint at the next step; once more stops at once, without it.")

    def agree(self, args: TrainingArguments) -> None:
        """Set `received` to what any rank was told."""
        if self._launcher not in (None, os.getppid()):
            self._asked = self._asked or signal.SIGTERM
        # What comes while the ranks agree is for the next time: this rank alone would know of it.
        self.received = self._asked
        if args.world_size > 1:
            flag = torch.tensor(self.received, device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            self.received = int(flag)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.agree(args)
        if self.received:
            # The end of an epoch comes before the next step, and has more to do.
            ends_epoch = state.epoch is not None and state.epoch == int(state.epoch)
            control.should_save = not ends_epoch
            self._leave_out_evaluation(control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.received:
            control.should_save = True
            self._leave_out_evaluation(control)

    def _leave_out_evaluation(self, control: TrainerControl) -> None:
        self.evaluation_due |= control.should_evaluate
        control.should_evaluate = False

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._listening:
            self.agree(args)
            if self.received:
                raise Stopped(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.agree(args)  # it may have come while the best checkpoint was loaded


def launcher() -> int | None:
    """The process id of the launcher that this process was started by; None where it was started by hand."""
    with suppress(psutil.Error):
        parent = psutil.Process().parent()
        if parent and any(name in " ".join(parent.cmdline()) for name in LAUNCHERS):
            return int(parent.pid)
    return None
