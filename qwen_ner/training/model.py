"""The model that is trained: float32 weights, and around them an adapter where one is asked for.

In: a name or a folder, peft's `LoraConfig` fields. Out: a causal LM. Knows nothing of recipes and data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ..entities import NerError
from ..inference.hub_download import SAFE, downloaded_commit, refuse_pickled
from ..inference.loading import UNLOADABLE, refuse_others


def load_model(
    model_name_or_path: str,
    *,
    revision: str | None = None,
    attn_implementation: str | None = None,
    lora: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """A causal LM with float32 master weights, and around it a LoRA adapter if `lora` gives peft's `LoraConfig` fields.

    The dtype is asked for: a checkpoint in bfloat16 would otherwise be trained in bfloat16, whose eight bits lose
    updates of a small learning rate; mixed precision is the Trainer's matter. Raises `NerError` where the model
    cannot be loaded.
    """
    refuse_pickled(Path(model_name_or_path))
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            model_name_or_path,
            revision=revision,
            dtype=torch.float32,
            attn_implementation=attn_implementation,
            output_loading_info=True,
            **SAFE,
        )
    except UNLOADABLE as error:
        raise NerError(f"model_name_or_path: {model_name_or_path} cannot be loaded: {error}") from error
    if found["missing_keys"]:  # what a base has beside them, such as a head for another task, is not used
        refuse_others(found, f"model_name_or_path: {model_name_or_path}")
    return adapted(model, lora, downloaded_commit(model_name_or_path, revision))


def adapted(model: PreTrainedModel, lora: dict[str, Any] | None, revision: str | None = None) -> PreTrainedModel:
    """`model` with a LoRA adapter of these `LoraConfig` fields around it; as it is without any.

    `revision` is the base's on the Hub: the adapter fits no other, and names it in what is saved.
    """
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    try:
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", revision=revision, **lora))
    except ValueError as error:
        raise NerError(f"lora_target_modules: {error}") from error
