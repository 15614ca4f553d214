"""Push to the Hub while training: `push_to_hub` and related keys of a recipe, as in the Trainer.

In: the folders that the Trainer writes. Out: commits on the Hub, of the files that `hub.push` lets through; never the
pickles that the stock Trainer would push as well. A push that fails is a warning: the training continues, its folder
stays as it is.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import HubStrategy

from ...entities import NerError
from ...files import PARTIAL
from ...hub.neutral import RECIPE, STATE, copy_files
from ...hub.push import claim, push
from ...inference.hub_download import MODEL_FILES
from .checkpoints import checkpoint_of

if TYPE_CHECKING:
    from .trainer import NerTrainer

log = logging.getLogger(__name__)

SNAPSHOT = ".pushing."
"""Prefix of the folders in the output folder that hold a checkpoint while it is pushed; a kill leaves one behind."""


class PushCallback(TrainerCallback):
    """Pushes every checkpoint in the background, one after the other, from the first rank.

    `hub_strategy: checkpoint` and `all_checkpoints` put the model under last-checkpoint/ or the checkpoint's name as
    well; files that only resuming needs are pickled and stay here.
    """

    def __init__(self, trainer: NerTrainer) -> None:
        args, self.trainer = trainer.args, trainer
        self.name: str = args.hub_model_id or Path(args.output_dir).absolute().name
        self.token = args.hub_token  # which is taken out of the arguments while they are saved
        self.api = HfApi(token=self.token)
        self.jobs: list[threading.Thread] = []
        self.cancelled = False  # once true, queued pushes are dropped; one that is running ends with the process

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Create the repository, or warn before the first step that it cannot be had."""
        self.cancelled = False
        if not state.is_world_process_zero:
            return
        try:
            self.name = self.trainer.hub_model_id = claim(self.api, self.name, private=bool(args.hub_private_repo))
        except Exception as error:
            log.warning("Nothing can be pushed so far: %s. Every save tries again.", _reason(error))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Push what was just saved, unless another push is under way (`hub_always_push` queues it)."""
        self.jobs = [job for job in self.jobs if job.is_alive()]
        busy = self.jobs and not args.hub_always_push
        if not state.is_world_process_zero or args.hub_strategy == HubStrategy.END or busy:
            return
        self.trainer.callback_handler.on_push_begin(args, state, control)
        checkpoint = checkpoint_of(args.output_dir, state.global_step)
        try:
            snapshot = _snapshot(checkpoint)
        except OSError as error:
            _warn(checkpoint, state.global_step, error)
            return
        given = (self.jobs[-1:], snapshot, checkpoint, state.global_step)
        # No executor: at exit Python waits for its threads, and a process that is stopped has no time for an upload.
        job = threading.Thread(target=self._push_snapshot, args=given, name="push", daemon=True)
        job.start()
        self.jobs.append(job)

    def _push_snapshot(self, before: list[threading.Thread], snapshot: Path, checkpoint: Path, step: int) -> None:
        for job in before:
            job.join()
        places: list[str | None] = [None]
        if (strategy := self.trainer.args.hub_strategy) in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            places.append("last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name)
        try:
            for place in () if self.cancelled else places:
                self._push(snapshot, f"Training in progress, step {step}", place)
        except Exception as error:
            _warn(checkpoint, step, error)
        finally:
            shutil.rmtree(snapshot, ignore_errors=True)

    def push_output(self, message: str) -> str | None:
        """Push the output folder after all checkpoints; returns the commit's address, None if that failed."""
        args, output = self.trainer.args, Path(self.trainer.args.output_dir)
        for job in self.jobs:
            job.join()
        try:
            address = self._push(output, message)
        except Exception as error:
            private = " --private" if args.hub_private_repo else ""
            log.warning(
                "The model was not pushed: %s. It is complete in %s; push it with\n  qwen-ner push %s %s%s",
                _reason(error), output, output, self.name, private,
            )  # fmt: skip
            return None
        log.info("pushed: %s", address)
        return address

    def _push(self, folder: Path, message: str, place: str | None = None) -> str:
        args = self.trainer.args
        return push(
            folder,
            self.name,
            private=bool(args.hub_private_repo),
            token=self.token,
            revision=args.hub_revision,
            path_in_repo=place,
            message=message,
        )


def _snapshot(checkpoint: Path) -> Path:
    """A folder of hard links, since the Trainer may delete the checkpoint before the push has read it."""
    output = checkpoint.parent
    snapshot = Path(tempfile.mkdtemp(dir=output, prefix=SNAPSHOT, suffix=PARTIAL))
    try:
        copy_files(checkpoint, snapshot, (*MODEL_FILES, STATE), link=True)
        copy_files(output, snapshot, (RECIPE,))
    except OSError:
        shutil.rmtree(snapshot, ignore_errors=True)
        raise
    return snapshot


def _warn(checkpoint: Path, step: int, error: Exception) -> None:
    log.warning("Step %d was not pushed: %s. The training continues; %s is complete.", step, _reason(error), checkpoint)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, NerError) else f"{type(error).__name__}: {error}"
