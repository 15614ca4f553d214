"""What happens beside the training loop: one line a log, and a checkpoint before the process is stopped.

In: the Trainer's events. Out: lines on the terminal, a stop at the next step. Knows nothing of data and models.
"""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

log = logging.getLogger(__name__)


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


class StopOnSignal(TrainerCallback):
    """On SIGINT or SIGTERM: a checkpoint at the next step, then the end; a second one stops at once.

    `received` is the signal's number afterwards, on every rank: ranks agree on it at each step, since one that left the
    loop alone would leave the others waiting for it.
    """

    def __init__(self) -> None:
        self.received = 0
        self._asked = 0
        self._before: dict[int, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = number
        log.warning("Stopping with a checkpoint at the next step; once more stops at once, without it.")

    def _agree(self, args: TrainingArguments) -> None:
        # What comes while the ranks agree is for the next time: this rank alone would know of it.
        self.received = self._asked
        if args.world_size > 1:
            flag = torch.tensor(self.received, device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            self.received = int(flag)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._agree(args)
        if self.received:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._agree(args)  # it may have come in the last evaluation
        for number, before in self._before.items():
            signal.signal(number, before)
