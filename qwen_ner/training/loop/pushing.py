"""What a Trainer pushes, and when: `push_to_hub` and its kin in a recipe, as in Trainer.

In: the folders that the Trainer writes. Out: commits on the Hub, of what `hub.push` lets through; never the pickles
that the stock Trainer would push beside it. A push that fails is a warning: the training goes on, its folder stays as
it is.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ...entities import NerError
from ...files import PARTIAL, write_text
from ...hub.card import model_card
from ...hub.neutral import CARD, RECIPE, STATE, copy_files
from ...hub.push import claim, push
from ...inference.hub_download import MODEL_FILES

log = logging.getLogger(__name__)

SNAPSHOT = ".pushing."
"""Folders in the output folder that hold a checkpoint while it is pushed; a killed process leaves one behind."""


class PushingTrainer(Trainer):
    """Trainer that pushes models of ours: whole, with our card, in the background, from the first rank alone.

    `hub_strategy: checkpoint` and `all_checkpoints` put the models under last-checkpoint/ or their own names as well;
    what only resuming needs is pickled and stays here.
    """

    push_in_progress: Any = None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, or say before the first step that there is none to be had."""
        if not self.is_world_process_zero():
            return
        self.hub_model_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        try:
            api = HfApi(token=token or self.args.hub_token)
            self.hub_model_id = claim(api, self.hub_model_id, private=bool(self.args.hub_private_repo))
        except Exception as error:
            log.warning("Nothing can be pushed so far: %s. It is tried again at every save.", _reason(error))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push what was just saved, unless another push is under way (`hub_always_push` queues it)."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        checkpoint, output = Path(checkpoint_folder), Path(self.args.output_dir)
        places: list[str | None] = [None]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            places.append("last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name)
        # The Trainer may delete the checkpoint before the push has read it.
        snapshot = Path(tempfile.mkdtemp(dir=output, prefix=SNAPSHOT, suffix=PARTIAL))
        copy_files(checkpoint, snapshot, (*MODEL_FILES, STATE), link=True)
        copy_files(output, snapshot, (RECIPE,))
        step = self.state.global_step

        def job() -> None:
            try:
                for place in places:
                    self._push(snapshot, f"Training in progress, step {step}", place)
            except Exception as error:
                log.warning(
                    "Step %d was not pushed: %s. The training goes on; %s is whole.", step, _reason(error), checkpoint
                )
            finally:
                shutil.rmtree(snapshot, ignore_errors=True)

        jobs = [*(self.push_in_progress.jobs if busy else []), _in_background(job)]
        self.push_in_progress = PushInProgress(jobs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Push what lies in the output folder. Returns the commit's address; None where it failed or was another
        rank's to do."""
        if not self.is_world_process_zero():
            return None
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._finish_current_push()
        output = Path(self.args.output_dir)
        try:
            address = self._push(output, commit_message or "End of training")
        except Exception as error:
            name = self.hub_model_id or self.args.hub_model_id or output.absolute().name
            private_too = " --private" if self.args.hub_private_repo else ""
            log.warning(
                "The model was not pushed: %s. It is whole in %s; push it with\n  qwen-ner push %s %s%s",
                _reason(error), output, output, name, private_too,
            )  # fmt: skip
            return None
        log.info("pushed: %s", address)
        return address

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write our card to the output folder."""
        if self.is_world_process_zero():
            output = Path(self.args.output_dir)
            write_text(output / CARD, [model_card(output, self.hub_model_id or output.absolute().name)])

    def _push(self, folder: Path, message: str, place: str | None = None) -> str:
        return push(
            folder,
            self.hub_model_id or Path(self.args.output_dir).absolute().name,
            private=bool(self.args.hub_private_repo),
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            path_in_repo=place,
            message=message,
        )


_waiting: SimpleQueue[tuple[Future[None], Callable[[], None]]] = SimpleQueue()


@cache
def _worker() -> threading.Thread:
    """Pushes one after the other. A process that is stopped does not wait for it: its time is for the checkpoint."""

    def work() -> None:
        while True:
            future, job = _waiting.get()
            if future.set_running_or_notify_cancel():
                job()  # explains what goes wrong itself
                future.set_result(None)

    thread = threading.Thread(target=work, name="push", daemon=True)
    thread.start()
    return thread


def _in_background(job: Callable[[], None]) -> Future[None]:
    future: Future[None] = Future()
    _waiting.put((future, job))
    _worker()
    return future


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, NerError) else f"{type(error).__name__}: {error}"
