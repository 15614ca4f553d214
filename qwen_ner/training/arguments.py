"""The keys of a recipe: what to train on, what to train, and how.

Three dataclasses, each field with the help text of its key. They do not know how a recipe is read.
"""

# ruff: noqa: RUF009 (`key` is `dataclasses.field`)
from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from ..inference.backends.torch import has_bf16

log = logging.getLogger(__name__)

CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, name)
)
"""The key that computes activations again in the backward pass: transformers renamed it in 5.23."""

MIXED_PRECISION = "ACCELERATE_MIXED_PRECISION"
"""Where `accelerate launch` leaves the precision of its config."""

AUTO = ("auto", "yes", "true")
"""Values of resume_from_checkpoint for the last whole checkpoint in output_dir."""

PATIENT_STEPS = 100
"""Early stopping that waits for fewer steps than this may end a training that would still get better."""


def key(default: Any, help: str) -> Any:
    """A field with its help text. A function as default is called for each instance."""
    metadata = {"help": help}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class DataArguments:
    """What to train on."""

    dataset: str = key("cluener", "cluener, sample, a file, a folder with {split}.jsonl (.bio, .json, …), or a Hub id")
    data_dir: str | None = key(None, "folder or zip of CLUENER; default: $QWEN_NER_DATA, the cache, a download")
    labels: dict[str, str] | None = key(None, "{name: description}; others are excluded; default: CLUENER's, or all")
    repair: bool = key(False, "accept tags in an invalid order, and brat texts edited after annotation; list each")
    target: Literal["json", "inline"] = key("json", "json, or inline: the text again, [三星 company] for an entity")
    system_prompt: str | None = key(None, "system turn, in training and in use; default: that of the target")
    validation_rows: int = key(500, "rows of train held out to choose the checkpoint; own data: ≤ 10 %, none with dev")
    max_train_samples: int | None = key(None, "train on at most this many rows")
    negatives: float | None = key(None, "rows without entities to add, per training row; 0.1 adds one for every ten")
    negatives_from: str = key("clauses", "clauses: cut from the training rows; or a file of texts without entities")
    max_eval_samples: int | None = key(None, "evaluate at most this many rows of each split")
    max_length: int | None = key(None, "rows of more tokens are split into windows; default: the model's context")
    dataset_num_proc: int | None = key(None, "processes for tokenizing")
    examples: list[str] = key(list, "sentences to extract from, and print, after training")


@dataclass
class ModelArguments:
    """What to train: all weights, or an adapter if `lora_r` is set."""

    model_name_or_path: str = key("tiny", "a Hub id, modelscope:user/name, a folder, or tiny: a small Qwen2 made here")
    model_revision: str | None = key(None, "branch, tag or commit of the model on its hub")
    attn_implementation: str | None = key(None, "sdpa, eager, …")
    lora_r: int | None = key(None, "rank of the LoRA adapter; unset: full fine-tuning")
    lora_alpha: int | None = key(None, "scale of the adapter; default: twice the rank")
    lora_dropout: float | None = key(None, "dropout before the adapter; default: 0")
    lora_target_modules: list[str] | None = key(None, "layers to adapt; default: every linear layer but the head")

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

    output_dir: str = key("outputs/run", "checkpoints, the best model, metrics.json")
    max_new_tokens: int | None = key(None, "most tokens in an answer; default: 1.5 times the longest in training")
    step_transforms: list[str] = key(lambda: ["reduced_head"], "changes to each training step, by name")
    early_stopping_patience: int | None = key(
        None, "stop after this many evaluations that are no better; counted once the score is above 0"
    )
    nonfinite_gradients: Literal["stop", "skip"] = key(
        "stop", "stop: fail and name the rows; skip: skip the step and count it"
    )
    resume_from_checkpoint: str | None = key("auto", "auto: the last whole checkpoint in output_dir; none; or a path")
    eval_strategy: str = key("epoch", "no, steps, epoch")
    save_strategy: str = key("epoch", "no, steps, epoch, best")
    save_total_limit: int | None = key(2, "how many checkpoints to keep, the best included")
    load_best_model_at_end: bool = key(True, "end with the best checkpoint by metric_for_best_model")
    metric_for_best_model: str = key(
        "f1",
        "of the validation: f1, precision, recall, span_f1, span_precision, span_recall, macro_f1, loss; or f1_ and a "
        "label",
    )
    per_device_eval_batch_size: int = key(32, "prompts generated at once, per device")
    remove_unused_columns: bool = key(False, "must stay false: row numbers are needed")
    ddp_broadcast_buffers: bool = key(False, "off: they are constant; on, no batch can be retried in halves")
    ddp_find_unused_parameters: bool = key(False, "off: every step uses every trained weight")
    project: str = key("qwen-ner", "project of wandb, where WANDB_PROJECT is not set")
    ddp_bf16_gradients: bool = key(False, "processes exchange gradients in bf16, half the bytes; for slow links")
    dataloader_pin_memory: bool = key(torch.cuda.is_available, "default: true if there is a GPU")
    disable_tqdm: bool | None = key(lambda: not sys.stderr.isatty(), "default: bars on a terminal only")

    def __post_init__(self) -> None:
        """As the base class's, in float32 where bfloat16 is emulated (GPUs before Ampere; CPUs without AVX512).

        The best metric is the highest, but of the loss: the base class goes by the end of the name, and f1_x may be of
        a label that ends so.
        """
        asked = self.bf16 or (not self.fp16 and os.environ.get(MIXED_PRECISION) == "bf16")
        if asked and emulates_bf16(use_cpu=self.use_cpu):
            faster = " Faster, if the loss stays finite: float16, by --bf16 false --fp16 true."
            log.warning(
                "This %s has no bf16 of its own, or does not tell: training in float32.%s",
                *(("CPU", "") if self.use_cpu else ("GPU", faster)),
            )
            self.bf16: bool = False
            if MIXED_PRECISION in os.environ:
                os.environ[MIXED_PRECISION] = "no"
        if self.metric_for_best_model and self.greater_is_better is None:
            self.greater_is_better: bool | None = self.metric_for_best_model.removeprefix("eval_") != "loss"
        super().__post_init__()

    @property
    def device(self) -> torch.device:
        """The device of this process. One of several on a CPU gets "cpu:0", which `torch.load` does not know."""
        found: torch.device = super().device
        return torch.device("cpu") if found.type == "cpu" else found


def how_to_go_on(args: TrainingArguments, *options: str) -> str:
    """The command that goes on with a training that has ended early, with these `options` too.

    >>> how_to_go_on(NerTrainingArguments(use_cpu=True))
    'run the same command again: it goes on from the last whole checkpoint'
    """
    then = "it goes on from the last whole checkpoint"
    if args.save_only_model:
        options, then = (*options, "--resume_from_checkpoint none"), "save_only_model leaves nothing to go on from"
    elif str(args.resume_from_checkpoint).lower() not in AUTO:
        options = (*options, "--resume_from_checkpoint auto")
    return f"run the same command {' '.join(('with', *options)) if options else 'again'}: {then}"


def emulates_bf16(*, use_cpu: bool = False) -> bool:
    """Whether the GPU that is there, or the CPU, computes in bfloat16 by way of float32 only: not `has_bf16`."""
    if use_cpu:
        return not has_bf16("cpu")
    if not torch.cuda.is_available():
        return torch.backends.mps.is_available()
    return not has_bf16("cuda")
