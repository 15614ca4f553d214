"""The keys of a recipe: what to train on, what to train, and how.

Three dataclasses, each field with the help text of its key. They do not know how a recipe is read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from ..codec import SYSTEM_PROMPT


@dataclass
class DataArguments:
    """What to train on."""

    dataset: str = field(
        default="cluener",
        metadata={"help": "cluener, sample, a file, a folder with {split}.jsonl (.bio, .json, …), or a Hub id"},
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "folder or zip of CLUENER; default: $QWEN_NER_DATA, the cache, then the official address"},
    )
    labels: dict[str, str] | None = field(
        default=None,
        metadata={"help": "{name: description}; default: the ten of CLUENER, or the labels of the training data"},
    )
    system_prompt: str = field(default=SYSTEM_PROMPT, metadata={"help": "system turn, in training and in use"})
    validation_rows: int = field(
        default=500, metadata={"help": "rows held out of the training split to choose the best checkpoint"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "train on this many rows at most"})
    negatives: float | None = field(
        default=None, metadata={"help": "rows without entities to add, per training row; 0.1 adds one for every ten"}
    )
    negatives_from: str = field(
        default="clauses",
        metadata={"help": "clauses: cut from the training rows; or a file of texts known to have no entities"},
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "evaluate at most this many rows of each split"}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "longer rows (in tokens) are left out and listed; default: the model's context"}
    )
    dataset_num_proc: int | None = field(default=None, metadata={"help": "processes for tokenizing"})
    examples: list[str] = field(
        default_factory=lambda: [], metadata={"help": "sentences to extract from, and print, after training"}
    )


@dataclass
class ModelArguments:
    """What to train: all weights, or an adapter if `lora_r` is set."""

    model_name_or_path: str = field(
        default="tiny", metadata={"help": "a Hub id, a folder, or tiny: a small Qwen2 made on the spot"}
    )
    model_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit on the Hub"})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager, flex_attention, …"})
    lora_r: int | None = field(default=None, metadata={"help": "rank of the LoRA adapter; unset: full fine-tuning"})
    lora_alpha: int | None = field(default=None, metadata={"help": "scale of the adapter; default: twice the rank"})
    lora_dropout: float | None = field(default=None, metadata={"help": "dropout before the adapter; default: 0"})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "layers that get an adapter; default: every linear layer but the head"}
    )

    def lora(self) -> dict[str, Any] | None:
        """Fields of peft's `LoraConfig`, or None for full fine-tuning."""
        if self.lora_r is None:
            return None
        return {
            "r": self.lora_r,
            "lora_alpha": self.lora_alpha or 2 * self.lora_r,
            "lora_dropout": self.lora_dropout or 0.0,
            "target_modules": self.lora_target_modules or "all-linear",
        }


@dataclass
class NerTrainingArguments(TrainingArguments):
    """TrainingArguments with this task's defaults: generate, score, keep the best, resume."""

    output_dir: str = field(default="outputs/run", metadata={"help": "checkpoints, the best model, metrics.json"})
    max_new_tokens: int = field(default=128, metadata={"help": "longest answer; CLUENER's longest has 61 tokens"})
    step_transforms: list[str] = field(
        default_factory=lambda: ["reduced_head"],
        metadata={"help": "levers applied to each training step, by name"},
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "stop after this many evaluations without a better f1"}
    )
    nonfinite_gradients: str = field(
        default="stop", metadata={"help": "stop: end with the rows of the step; skip: leave the step out and count it"}
    )
    resume_from_checkpoint: str | None = field(
        default="auto", metadata={"help": "auto: the last whole checkpoint in output_dir; none; or a checkpoint's path"}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "no, steps, epoch"})
    save_strategy: str = field(default="epoch", metadata={"help": "no, steps, epoch, best"})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "how many checkpoints to keep, the best included"}
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "end with the checkpoint of the best f1"})
    metric_for_best_model: str | None = field(default="f1", metadata={"help": "f1, span_f1 or macro_f1 of validation"})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "prompts generated at once, per device"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay false: row numbers are needed"})
    ddp_broadcast_buffers: bool | None = field(
        default=False,
        metadata={"help": "buffers are constants; broadcasting them keeps a process from repeating a batch in halves"},
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "default: true if there is a GPU"}
    )
    disable_tqdm: bool | None = field(
        default_factory=lambda: not sys.stderr.isatty(), metadata={"help": "default: bars on a terminal only"}
    )
