"""Values of a recipe that `TrainingArguments` accepts and a training cannot use.

In: the keys and values that were given. Out: a fault for each that is out of range, contradicts another, or asks the
Trainer for something that does not work with packed rows and generated answers. Does not know how a recipe is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..entities import LabelSet, NerError
from ..evaluation.scoring import score

_SHARDING = (
    "belongs in the accelerate config, which also launches the processes",
    "remove it and launch with accelerate_configs/fsdp2_4gpu.yaml or zero2_4gpu.yaml",
)
_COMPILED = "is not supported: every batch is packed to another length, so each step would be compiled again"

UNSUPPORTED: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("deepspeed", "fsdp", "fsdp_config", "parallelism_config"), _SHARDING),
    **dict.fromkeys(("torch_compile", "torch_compile_backend", "torch_compile_mode"), (_COMPILED, "remove it")),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), ("would score other weights than are saved", "remove it")),
    "auto_find_batch_size": ("has no effect", "remove it: a batch that does not fit is taken in parts anyway"),
    "batch_eval_metrics": ("is not supported: the scores are of all validation rows at once", "remove it"),
    "dataloader_drop_last": ("would leave rows out of every evaluation too", "remove it"),
    "debug": ("is not supported", "remove it: nonfinite_gradients names the rows whose gradient overflows"),
    "enable_jit_checkpoint": ("is not supported", "remove it: SIGTERM writes a checkpoint anyway"),
    "eval_use_gather_object": ("is not supported: predictions are gathered as tensors", "remove it"),
    "include_for_metrics": ("has no effect: the scores need the generated answers alone", "remove it"),
    "label_names": ("has no effect: the labels of a row are its answer", "remove it; entity labels go under labels"),
    "liger_kernel_config": ("is not supported", "remove it"),
    "neftune_noise_alpha": ("is not supported: packing would change its noise", "remove it"),
    "prediction_loss_only": ("would leave evaluations without f1", "remove it"),
    "restore_callback_states_from_checkpoint": ("is not supported", "remove it: early stopping counts on anyway"),
    "use_cache": ("has no use in training", "remove it: evaluations have a cache anyway"),
    "use_liger_kernel": ("is not supported: its loss cannot read packed rows", "remove it; reduced_head saves as much"),
}
"""Keys of TrainingArguments that may only be off, and what is wrong with them, what to do instead."""

MUST_BE: dict[str, tuple[Any, str]] = {
    "do_train": (True, "qwen-ner train always trains; to score a folder use qwen-ner evaluate"),
    "eval_do_concat_batches": (True, "the scores are of all validation rows at once"),
    "length_column_name": ("length", "the rows have no other"),
    "remove_unused_columns": (False, "predictions find their gold by the row column"),
}
"""Keys with one value that works, and why."""


RANGES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    (
        "max_new_tokens lora_r lora_alpha max_length max_train_samples max_eval_samples "
        "dataset_num_proc per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps "
        "eval_accumulation_steps early_stopping_patience num_train_epochs logging_steps eval_steps save_steps "
        "dataloader_prefetch_factor ddp_timeout",
        "not a positive number",
        lambda value: 0 < value < math.inf,
    ),
    (
        "validation_rows learning_rate weight_decay adam_epsilon max_grad_norm warmup_steps dataloader_num_workers "
        "eval_delay save_total_limit",
        "not a number from 0 on",
        lambda value: 0 <= value < math.inf,
    ),
    ("lora_dropout label_smoothing_factor adam_beta1 adam_beta2", "not from 0 up to 1", lambda value: 0 <= value < 1),
    ("seed data_seed", "not from 0 up to 2³²", lambda value: 0 <= value < 2**32),
    ("max_steps", "neither a positive number nor -1, for num_train_epochs", lambda value: value > 0 or value == -1),
    ("negatives", "not a share above 0", lambda value: 0 < value < math.inf),
)
"""Keys, what is wrong with a value that is out of their range, and whether one is in it."""

METRICS = (
    *(name for name, value in score([], [], LabelSet.of(["x"])).metrics().items() if type(value) is float),
    "loss",
)
"""What the best checkpoint can be chosen by, with f1_x for each label x."""


NEEDS = {
    "lora_alpha": ("lora_r", "lora_r: 16"),
    "lora_dropout": ("lora_r", "lora_r: 16"),
    "lora_target_modules": ("lora_r", "lora_r: 16"),
    "negatives_from": ("negatives", "negatives: 0.1"),
    "dataloader_persistent_workers": ("dataloader_num_workers", "dataloader_num_workers: 2"),
}
"""Keys without effect unless another is set, and an example of that."""


def contradictions(values: dict[str, Any]) -> list[NerError]:
    """The faults of these values; `place` is the key. Those of `UNSUPPORTED` must not reach TrainingArguments."""
    from .batches.transforms import transform_faults

    faults = [
        NerError(what, value=values[key], place=key, remedy=remedy)
        for key, (what, remedy) in UNSUPPORTED.items()
        if values.get(key)
    ]
    for key, (only, why) in MUST_BE.items():
        if values.get(key, only) != only:
            faults.append(NerError(f"must stay {str(only).lower()}", value=values[key], place=key, remedy=why))
    for key, what, holds in ((key, what, holds) for keys, what, holds in RANGES for key in keys.split()):
        if type(values.get(key)) in (int, float) and not holds(values[key]):
            remedy = "0.1 adds one row for every ten" if key == "negatives" else None
            faults.append(NerError(what, value=values[key], place=key, remedy=remedy))
    for key, (needed, example) in NEEDS.items():
        if values.get(key) not in (None, False) and not values.get(needed):
            remedy = f"set {example} or remove it"
            faults.append(NerError(f"set without {needed}, so it has no effect", place=key, remedy=remedy))
    names, smoothing = values.get("step_transforms"), values.get("label_smoothing_factor")
    names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    faults += transform_faults(names, smoothing)
    return [*faults, *_best(values), *_schedule(values), *_unsupported(values)]


def _best(values: dict[str, Any]) -> Iterator[NerError]:
    """What evaluations and the choice of the best checkpoint ask of each other."""
    if values.get("eval_strategy") == "no":
        for key in ("early_stopping_patience", "eval_on_start", "load_best_model_at_end", "save_strategy"):
            if values.get(key) and (key != "save_strategy" or values[key] == "best"):
                remedy = "set eval_strategy to steps or epoch, or turn this off"
                yield NerError("eval_strategy: no evaluates nothing", place=key, remedy=remedy)
    if values.get("early_stopping_patience") is not None and values.get("load_best_model_at_end") is False:
        what = "needs load_best_model_at_end: true, or the last model is kept, which is worse"
        yield NerError(what, place="early_stopping_patience", remedy="or set early_stopping_patience: none")
    if values.get("eval_strategy") == values.get("save_strategy") == "steps":
        every, saved = values.get("eval_steps") or values.get("logging_steps", 500), values.get("save_steps", 500)
        if values.get("load_best_model_at_end", True) and every != saved:
            what = f"with an evaluation every {every} steps, the best one may be of a step that has no checkpoint"
            remedy = "set eval_steps and save_steps to the same number, or save_strategy: best"
            yield NerError(what, value=saved, place="save_steps", remedy=remedy)
    metric = str(values.get("metric_for_best_model") or "f1").removeprefix("eval_")
    if metric not in METRICS and not metric.startswith("f1_"):
        names = f"choose from {', '.join(METRICS)}, or f1_ and a label"
        yield NerError("unknown metric", value=metric, place="metric_for_best_model", remedy=names)
    elif (greater := values.get("greater_is_better")) is (metric == "loss"):
        what = f"the best {metric} is the {'lowest' if metric == 'loss' else 'highest'}"
        yield NerError(what, value=greater, place="greater_is_better", remedy="remove it")


def _schedule(values: dict[str, Any]) -> list[NerError]:
    """Arguments that the learning rate schedule refuses, or lacks."""
    from transformers import SchedulerType, get_scheduler

    kind, options = values.get("lr_scheduler_type"), values.get("lr_scheduler_kwargs")
    if (kind or "linear") not in tuple(SchedulerType) or not isinstance(options or {}, dict):
        return []  # a fault that is reported already
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    try:
        get_scheduler(kind or "linear", optimizer, 1, 9, dict(options or {}))
    except (TypeError, ValueError) as error:
        return [NerError(str(error), value=options, place="lr_scheduler_kwargs")]
    return []


def _unsupported(values: dict[str, Any]) -> Iterator[NerError]:
    """What is not a whole key of `UNSUPPORTED`."""
    config = values.get("accelerator_config")
    config = config if isinstance(config, dict) else {}
    accumulation = config.get("gradient_accumulation_kwargs")
    collated, repeated = "a batch is collated where it is used", "no step that runs out of memory could be taken again"
    for options, key, why in (
        (config, "dispatch_batches", collated),
        (config, "split_batches", collated),
        (accumulation, "sync_each_batch", repeated),
    ):
        if isinstance(options, dict) and options.get(key):
            what = f"{key} is not supported: {why}"
            yield NerError(what, place="accelerator_config", remedy=f"remove {key}")
    optim = str(values.get("optim") or "")
    if "lomo" in optim or "layerwise" in optim:
        what = "is not supported: it steps inside of the backward pass, so no gradient can be checked or computed again"
        yield NerError(what, value=optim, place="optim", remedy="use adamw_torch_fused")
