"""`NerTrainer`: the stock Trainer that also generates while it evaluates; and the model that it trains.

In: a model (full or adapter), a tokenizer, token ids. Out: checkpoints that extraction can use as they are, and
entity F1. Knows nothing of YAML.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
)
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ...contract import NerConfig
from ...entities import NerError
from ...inference.backends.torch import BATCH_TOKENS, generate, neutral_generation_config
from ..batches.collate import IGNORED, EvaluationCollator, block_mask
from ..batches.reduced_head import head_over, tokens_of
from ..batches.swiglu import recompute_activation
from .callbacks import ProgressLines
from .nonfinite import Doubts, GuardedTrainer
from .once import OnceTrainer
from .oom_replay import HalvingTrainer, KeepingCollator
from .pushing import PushingTrainer
from .resumable import ResumableTrainer
from .sharded import ShardedTrainer

log = logging.getLogger(__name__)


class NerTrainer(GuardedTrainer, OnceTrainer, HalvingTrainer, ResumableTrainer, PushingTrainer, ShardedTrainer):
    """Trainer whose evaluation writes JSON for every prompt and scores what was really generated.

    `prediction_step` alone is replaced: the stock loop gathers over ranks, pads, and drops the rows that a sampler
    repeated to fill the last batch. Predictions are token ids (rows, longest), `label_ids` the row numbers (rows,).
    Training data, evaluation data: rows of `data.tokenize.build_dataset`.
    """

    def __init__(self, *args: Any, ner_config: NerConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        recompute_activation(self.model)
        if self.args.save_on_each_node:  # which transformers 5.23 would have of the first process alone
            self.model.should_save_on_this_rank = bool
        self.ner_config = ner_config
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self.add_callback(ProgressLines)
        self.add_callback(Doubts)
        self.batch_tokens = BATCH_TOKENS
        patience = getattr(self.args, "early_stopping_patience", None)
        if patience is not None:
            self.add_callback(EarlyStoppingCallback(patience))
        pad = self.processing_class.pad_token_id
        self.generation_config = neutral_generation_config(ner_config.end_token_ids, pad, ner_config.max_new_tokens)
        # Whatever the base ships (sampling, a repetition penalty) must not travel on with the trained weights.
        self.model.generation_config = self.generation_config

    def train(self, *args: Any, **kwargs: Any) -> Any:
        tokens = tokens_of(self.train_dataset)
        with head_over(tokens, self.model) as width:
            if width == len(tokens):
                log.info("The loss of training is over the %d tokens that the rows have.", width)
            return super().train(*args, **kwargs)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        return self._with_prompts(super().get_eval_dataloader, eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> torch.utils.data.DataLoader:
        return self._with_prompts(super().get_test_dataloader, test_dataset)

    data_collator: Any

    def _with_prompts(self, make: Any, dataset: Any) -> torch.utils.data.DataLoader:
        training_collator = self.data_collator
        collator = EvaluationCollator(training_collator, self.processing_class.pad_token_id)
        self.data_collator = KeepingCollator(collator)
        try:
            return make(dataset)
        finally:
            self.data_collator = training_collator

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """(loss, generated ids padded with -100, row numbers) of one batch."""
        inputs = self._prepare_inputs(inputs)
        model = self.whole or model
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.loss_of(model, inputs["rows"].rows, inputs["loss_inputs"])
        if prediction_loss_only:
            return loss, None, None
        prompts = [
            ids[mask.bool()].tolist() for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)
        ]
        generated = generate(
            self.accelerator.unwrap_model(model),
            prompts,
            max_new_tokens=self.ner_config.max_new_tokens,
            end_token_ids=self.ner_config.end_token_ids,
            pad_token_id=self.processing_class.pad_token_id,
            batch_tokens=self.batch_tokens,
        )
        self.batch_tokens = generated.batch_tokens  # less where the memory did not do: said once, not at every batch
        end = self.ner_config.end_token_ids[0]
        rows = [[*ids, end] if done else ids for ids, done in zip(generated.ids, generated.finished, strict=True)]
        width = max(1, max(map(len, rows)))
        padded = torch.tensor([row + [IGNORED] * (width - len(row)) for row in rows], device=loss.device)
        return loss, padded, inputs["row"]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; the mask of flex attention is made here, on the device where it is used."""
        if "segment" in inputs:
            inputs = {**inputs, "attention_mask": block_mask(inputs["segment"])}
            del inputs["segment"]
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Without the head that is the embedding: such weights are saved once, and never missing."""
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
        missing = [key for key in load_result.missing_keys if key not in tied]
        if missing:
            raise NerError(
                f"output_dir: the weights of a checkpoint in {self.args.output_dir} are not those of this model: "
                f"{', '.join(missing[:5])} missing; remove that checkpoint, or choose another --output_dir"
            )
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Every folder the Trainer writes is one that `Extractor.from_pretrained` can open, without its arguments:
        they are a pickle that nobody reads, and hold hub_token."""
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        if self.args.should_save:
            folder = output_dir if output_dir is not None else self.args.output_dir
            (Path(folder) / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            self.generation_config.save_pretrained(folder)
            self.ner_config.save(folder)
