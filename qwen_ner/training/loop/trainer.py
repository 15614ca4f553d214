"""`NerTrainer`: the Trainer whose evaluation generates and scores, and whose training survives kills and small memory.

In: a model (full or adapter), a tokenizer, token ids. Out: checkpoints that extraction can open as they are, and entity
F1. Knows nothing of YAML.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import torch
from accelerate.utils import DDPCommunicationHookType
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ...contract import NerConfig
from ...files import replace_attributes, share_weights
from ...hub.neutral import STATE
from ...inference.backends.oom import out_of_memory
from ...inference.backends.torch import neutral_generation_config
from ..arguments import CHECKPOINTING, NerTrainingArguments
from ..batches.collate import IGNORED, PaddedCollator, PrefixSharedCollator, RowCollator
from ..batches.gpu.graphs import GraphedPasses, listed_parameters
from ..batches.gpu.layers import fuse_layers
from ..batches.swiglu import recompute_activation
from ..batches.transforms import make_step
from .callbacks import EarlyStopping, EqualScores, LogLines, ProgressLines, StopOnSignal, Stopped
from .checkpoints import UNFINISHED, checkpoint_of, publish, rotate
from .gradients import NonFiniteGradients
from .manifest import write_manifest
from .oom_replay import OutOfMemoryReplay
from .push import PushCallback
from .resuming import Resumption, TrainingComplete
from .whole_model import COMPUTE, WholeModel

log = logging.getLogger(__name__)

COUNT = "num_items_in_batch"
"""The number of supervised tokens in a step, as the Trainer calls it."""


class NerTrainer(Trainer):
    """Trainer whose evaluation writes JSON for every prompt and scores what was really generated.

    `data_collator` is a `PaddedCollator` or a `PrefixSharedCollator`; training and evaluation data are rows of
    `data.tokenize.build_dataset`. `origin` is stored in each checkpoint (`manifest.origin_of`). `row_name` says what
    errors call a training row, by its number from 0. Predictions are token ids (rows, longest), `label_ids` the row
    numbers (rows,).
    """

    args: NerTrainingArguments
    data_collator: Any

    def __init__(
        self,
        *,
        ner_config: NerConfig,
        data_collator: PaddedCollator | PrefixSharedCollator,
        origin: dict[str, Any] | None = None,
        row_name: Callable[[int], str] = str,
        **kwargs: Any,
    ) -> None:
        args = kwargs["args"]
        self.step = make_step(args.step_transforms, args)
        # The callback pushes, and the step smooths; the Trainer's own ways know neither our files nor packed rows.
        with replace_attributes(args, push_to_hub=False, label_smoothing_factor=0.0):
            super().__init__(data_collator=RowCollator(data_collator), **kwargs)
        self.whole = WholeModel(self)  # before the layers are patched for training
        recompute_activation(self.model)
        dtype = COMPUTE.get(self.accelerator.mixed_precision)
        if dtype and args.device.type == "cuda" and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            fuse_layers(self.model, dtype)
        if args.ddp_bf16_gradients:
            self.accelerator.ddp_handler.comm_hook = DDPCommunicationHookType.BF16
        if args.save_on_each_node:  # transformers 5.23 would save in the first process only
            self.model.should_save_on_this_rank = bool
        if getattr(self.model.config, "tie_word_embeddings", False):
            # A head that is the embedding is saved once, and not missing where it is loaded.
            self.model._keys_to_ignore_on_save = set(getattr(self.model, "_tied_weights_keys", None) or ())
        self.ner_config, self.origin, self.row_name = ner_config, origin or {}, row_name
        self.batch_tokens: int | None = None  # the backend's own default
        pad = self.processing_class.pad_token_id
        self.generation_config = neutral_generation_config(ner_config.end_token_ids, pad, ner_config.max_new_tokens)
        # Whatever the base ships (sampling, a repetition penalty) must not travel on with the trained weights.
        self.model.generation_config = self.generation_config
        self.graphs: GraphedPasses | None = None
        self.replay = OutOfMemoryReplay(self, self.step)
        self.gradients = NonFiniteGradients(self)
        self.resumption = Resumption(self)
        self.pushing = PushCallback(self)
        self.stop = StopOnSignal()
        self._add_callbacks()

    def _add_callbacks(self) -> None:
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(LogLines() if self.args.disable_tqdm else ProgressLines())
        self.add_callback(self.gradients)
        self.add_callback(self.whole)
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStopping(self.args.early_stopping_patience))
        if self.args.push_to_hub:
            self.add_callback(self.pushing)

    def train(self, resume_from_checkpoint: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's. Raises `Stopped`, a `KeyboardInterrupt`, after a signal, with a checkpoint on the disk."""
        self.replay.step_rows.clear()
        self.resumption.checkpoint = resume_from_checkpoint
        # A resumed training evaluates first only where its last evaluation was cut short.
        on_start = self.args.eval_on_start and not resume_from_checkpoint
        with ExitStack() as stack:
            stack.enter_context(replace_attributes(self.args, eval_on_start=on_start))
            stack.enter_context(self.step.around(self.model, self.train_dataset))
            stack.enter_context(self._graphs())
            stack.enter_context(self.stop.listening())
            # Last: they change the best score, may evaluate, and end the process.
            for callback in (EqualScores(), self.resumption, self.stop):
                self.add_callback(callback)
                stack.callback(self.callback_handler.callbacks.remove, callback)
            output = self._train(resume_from_checkpoint, *args, **kwargs)
        if self.stop.received:
            raise Stopped(self.args, self.state.global_step)
        return output

    @contextmanager
    def _graphs(self) -> Iterator[None]:
        """On a GPU, replay the passes of this training as CUDA graphs if nothing stands against it."""
        if reason := obstacle(self):
            if self.args.device.type == "cuda":
                log.info("Training steps are launched kernel by kernel, without a CUDA graph: %s.", reason)
            yield
            return
        padded = RowCollator(replace(self.data_collator.collate, padded=True))
        graphs = GraphedPasses(self.args.device)
        with replace_attributes(self, graphs=graphs, data_collator=padded), listed_parameters(self.model):
            yield

    def _train(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().train(*args, **kwargs)
        except TrainingComplete:
            return self._finalize_training(None, 0, time())
        except Stopped:
            self.pushing.cancelled = True
            self.whole.free()
            if self.resumption.saved_step != self.state.global_step:  # an evaluation was cut short
                self._save_checkpoint(self.model_wrapped, None)
            raise
        except RuntimeError as error:
            if out_of_memory(error):
                raise self.replay.explain(error) from error
            raise

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        return super().get_batch_samples(self._count_once(epoch_iterator), num_batches, device)

    def _count_once(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Leave rows out of the loss that are there for the second time.

        Ranks take steps together, so the last batch of an epoch is filled up with rows from its beginning. Trained on,
        these would weigh twice, and two ranks would not give the weights of one.
        """
        # Other ways to fill up the last batches repeat nothing, or not in this order.
        even = self.accelerator.even_batches and self.args.train_sampling_strategy != "batch_rebalance"
        repeats = even and self.args.world_size > 1
        for batch in batches:
            rows = batch["rows"].rows
            # Not accelerate's own `remainder`: the loader of an epoch that is resumed has none.
            last = len(self.train_dataset) % (len(rows) * self.args.world_size)
            if repeats and last and self.accelerator.gradient_state.end_of_dataloader:
                # The first rank takes the first rows of the last batches, the second the next.
                first = last - self.args.process_index * len(rows)
                batch = self.data_collator([{**row, "counted": i < first} for i, row in enumerate(rows)])
            yield batch

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward pass of one micro-batch, through the step's transforms, in parts where memory ends."""
        rows, _ = inputs.pop("rows").rows, inputs.pop("row")

        def run(batch: dict[str, Any], count: Any = num_items_in_batch) -> torch.Tensor:
            return super(NerTrainer, self).training_step(model, batch, count)

        def run_graph(batch: dict[str, Any]) -> torch.Tensor:
            assert self.graphs is not None
            counted = self._prepare_inputs({**batch, COUNT: num_items_in_batch})
            return self.graphs(model, counted, lambda batch: run(batch, batch.pop(COUNT)))

        graphed = self.graphs is not None and num_items_in_batch is not None
        return self.replay.train(model, rows, inputs, num_items_in_batch, run_graph if graphed else run)

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """(loss, generated ids padded with -100, row numbers) of one batch.

        The stock loop gathers them over the ranks, pads, and drops the rows that a sampler repeated at the end.
        """
        inputs, model = self._prepare_inputs(inputs), self.whole.get()
        rows, numbers = inputs.pop("rows").rows, inputs.pop("row")
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.replay.evaluate(model, rows, inputs)
        if prediction_loss_only:
            return loss, None, None
        backend, ends = self.whole.backend(), self.ner_config.end_token_ids
        completions = backend.complete([row["prompt_ids"] for row in rows], self.ner_config.max_new_tokens)
        self.batch_tokens = backend.batch_tokens  # lower where memory ran out, which is then warned of only once
        written = [[*one.ids, *(ends[:1] if one.finished else ())] for one in completions]
        width = max(1, max(map(len, written)))
        padded = torch.tensor([ids + [IGNORED] * (width - len(ids)) for ids in written], device=loss.device)
        return loss, padded, numbers

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a folder that `Extractor.from_pretrained` can open, without the pickled arguments: nobody reads them,
        and they hold hub_token."""
        with replace_attributes(self.args, hub_token=None):
            super().save_model(output_dir, _internal_call=True)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            self.generation_config.save_pretrained(folder)
            self.ner_config.save(folder)
            share_weights(folder)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub("Model save")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Have the Trainer write it elsewhere, then rename it: it is there whole or not at all. All ranks write, the
        first one renames."""
        args, state = self.args, self.state
        checkpoint, before = checkpoint_of(args.output_dir, state.global_step), state.best_model_checkpoint
        written = checkpoint.parent / UNFINISHED / checkpoint.name
        self.resumption.restore_random_state()
        with replace_attributes(args, output_dir=str(written.parent), push_to_hub=False):
            super()._save_checkpoint(model, trial)
        state.best_model_checkpoint = str(checkpoint) if state.best_global_step == state.global_step else before
        self.accelerator.wait_for_everyone()
        if args.should_save:
            state.save_to_json(str(written / STATE))
            write_manifest(written, self.origin)
            publish(written, checkpoint)
            rotate(checkpoint.parent, state.global_step, args.save_total_limit, state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        self.resumption.saved_step = state.global_step

    def push_to_hub(self, commit_message: str | None = "End of training", *args: Any, **kwargs: Any) -> str | None:
        """Push the output folder, from the first rank. Returns the commit's address, or None if that failed."""
        if not self.is_world_process_zero():
            return None
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        return self.pushing.push_output(commit_message or "End of training")


def obstacle(trainer: NerTrainer) -> str:
    """Why the passes of `trainer` cannot be replayed; empty if they can."""
    args, model, accelerator = trainer.args, trainer.model, trainer.accelerator
    of_modules = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_weights = ("_backward_hooks", "_post_accumulate_grad_hooks")
    several = args.world_size > 1 or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    own_pass = any(kind in str(args.optim) for kind in ("layerwise", "lomo", "schedule_free"))
    obstacles = {
        "it takes a GPU": args.device.type != "cuda",
        "several processes exchange gradients": several,
        "it takes bf16": accelerator.mixed_precision != "bf16",
        "its batches are of too many shapes": not getattr(trainer.data_collator.collate, "varlen", False),
        "activations are checkpointed": getattr(args, CHECKPOINTING),
        "a step transform may change from step to step": not trainer.step.replayable,
        "torch_empty_cache_steps is set": args.torch_empty_cache_steps is not None,
        f"the optimizer {args.optim} takes part in each pass": own_pass,
        "a module has hooks": any(getattr(m, name) for m in model.modules() for name in of_modules),
        "a weight has hooks": any(getattr(w, name) for w in model.parameters() for name in of_weights),
    }
    return next((why for why, holds in obstacles.items() if holds), "")
