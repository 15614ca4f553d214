"""A training that may be stopped at any moment: the same command ends it as if nothing had happened.

In: the Trainer's steps, evaluations and saves; signals. Out: checkpoints that are whole once they have their name, with
what the Trainer's own lack: the sums behind the loss that is logged next, and an evaluation that was cut short.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import IntervalStrategy

from ...files import write_json
from .callbacks import StopOnSignal, Stopped
from .checkpoints import STATE, UNFINISHED, keep, publish

log = logging.getLogger(__name__)

MEANWHILE = "meanwhile.json"
"""In a checkpoint, what its `trainer_state.json` does not hold."""


class ResumableTrainer(Trainer):
    """Trainer whose weights, log and scores do not depend on where it was stopped.

    Raises `Stopped`, a `KeyboardInterrupt`, after a signal, with a checkpoint. Evaluations do not touch the random
    numbers of the training, so it does not matter when, how often and how far one runs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._saving, self._saved_at = False, -1
        self._meanwhile: dict[str, Any] = {}
        self._order = torch.Generator()
        super().__init__(*args, **kwargs)
        self.stop = StopOnSignal()
        self.add_callback(self.stop)
        self.add_callback(_TakeUp(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        with self._resuming(resume_from_checkpoint), self.stop.listening():
            output = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.stop.received:
            raise Stopped(self.state.global_step)
        return output

    @contextmanager
    def _resuming(self, checkpoint: str | bool | None) -> Iterator[None]:
        """A training that goes on evaluates first where its last evaluation was cut short, and only there."""
        on_start, self._meanwhile = self.args.eval_on_start, {}
        if isinstance(checkpoint, str):
            path = Path(checkpoint) / MEANWHILE
            if path.is_file():
                self._meanwhile = json.loads(path.read_text(encoding="utf-8"))
            else:
                log.warning("%s is of an older version: the mean of the training loss begins anew there.", checkpoint)
            self.args.eval_on_start = bool(self._meanwhile.get("evaluation_due"))
        try:
            yield
        finally:
            self.args.eval_on_start = on_start

    def _take_up(self) -> None:
        """Go on with the sums and counts of the checkpoint, once the Trainer has set its own to nothing."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                saved = self.state.stateful_callbacks.get("EarlyStoppingCallback")
                if isinstance(saved, dict):
                    name = "early_stopping_patience_counter"
                    setattr(callback, name, saved["attributes"][name])
        if not self._meanwhile:
            return
        losses = self._meanwhile["losses"]
        same = len(losses) == self.args.world_size
        self._tr_loss += losses[self.args.process_index] if same else sum(losses) / len(losses)
        self._total_loss_scalar = self._meanwhile["logged"]
        self._globalstep_last_logged = self._meanwhile["last_logged"]

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if isinstance(sampler, LengthGroupedSampler):
            self._order = sampler.generator = torch.Generator()
        return sampler

    def _run_epoch(self, *args: Any, epoch: int, **kwargs: Any) -> None:
        """Nothing where the training was at its end when the process was stopped. The order of an epoch grouped by
        length is drawn from its number: the Trainer would draw it before it has the checkpoint's random numbers."""
        patience = [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
        given_up = any(c.early_stopping_patience_counter >= c.early_stopping_patience for c in patience)
        if given_up or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._order.manual_seed(seed + epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's, whose mean of the training loss is that of the steps since it was resumed."""
        if "train_loss" in logs and self._meanwhile:
            logs["train_loss"] = self._total_loss_scalar / self.state.global_step
        super().log(logs, *args, **kwargs)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        cut_short = skip_scheduler and bool(self._meanwhile)  # it is the first thing that a resumed training does
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler and not cut_short)
        if cut_short and self._determine_best_metric(metrics=metrics, trial=trial):
            self.state.best_model_checkpoint = str(self._checkpoint())
        return metrics

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
        except Stopped:
            self.stop.evaluation_due = True
            self.control.should_evaluate, self.control.should_save = False, True
            super()._maybe_log_save_evaluate(*args, **kwargs)
            raise
        if self.stop.received and self._saved_at == self.state.global_step:
            raise Stopped(self.state.global_step)

    def _checkpoint(self) -> Path:
        """Where the checkpoint of this step is in the end."""
        return Path(super()._get_output_dir(None)) / f"checkpoint-{self.state.global_step}"

    def _get_output_dir(self, trial: Any) -> str:
        output = super()._get_output_dir(trial)
        return os.path.join(output, UNFINISHED) if self._saving else output

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._saving:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Have the Trainer write it elsewhere, then give it its name; all ranks write, one renames."""
        state, checkpoint = self.state, self._checkpoint()
        meanwhile = self._sums() | {"evaluation_due": self._evaluation_is_due()}
        best, self._saving = state.best_model_checkpoint, True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving = False
        chosen = checkpoint.with_name(f"checkpoint-{state.best_global_step}") if state.best_global_step else None
        state.best_model_checkpoint = str(chosen) if chosen and (chosen == checkpoint or chosen.is_dir()) else best
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            written = checkpoint.parent / UNFINISHED / checkpoint.name
            state.save_to_json(str(written / STATE))
            write_json(written / MEANWHILE, meanwhile)
            publish(written, checkpoint)
            keep(checkpoint.parent, self.args.save_total_limit, state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        self._saved_at = state.global_step
        self.stop.agree(self.args)

    def _sums(self) -> dict[str, Any]:
        """The loss of each rank since it was logged last, the sum of what was logged before, and when that was."""
        losses = self.accelerator.gather(self._tr_loss.detach().reshape(1))
        return {
            "losses": losses.tolist(),
            "logged": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
        }

    def _evaluation_is_due(self) -> bool:
        """Whether one of this step is still to come: it was cut short, or an epoch's is made after its last save."""
        epoch = self.state.epoch
        if self.stop.evaluation_due:
            return True
        if self.args.eval_strategy != IntervalStrategy.EPOCH or epoch != int(epoch) or epoch < self.args.eval_delay:
            return False
        step = self.state.global_step
        return not any(entry["step"] == step and "eval_loss" in entry for entry in self.state.log_history)


class _TakeUp(TrainerCallback):
    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer._take_up()
