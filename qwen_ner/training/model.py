"""The model to train: float32 weights, and a LoRA adapter around them if one is asked for.

In: the name of a model, peft's `LoraConfig` fields. Out: a causal LM, or its outline without weights. Does not know
recipes or data.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ..entities import NerError
from ..inference.hub_download import ADAPTER, MODELSCOPE, SAFE, base_folder, refuse_pickled
from ..inference.loading import UNLOADABLE, refuse_others, refuse_tied, tied_layers

ALL_LINEAR = "all-linear"
"""peft's name for every linear layer but the head."""


def load_model(
    model_name_or_path: str,
    *,
    revision: str | None = None,
    attn_implementation: str | None = None,
    lora: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """A causal LM with float32 master weights, with a LoRA adapter around it if `lora` has peft's `LoraConfig` fields.

    The dtype is explicit: a bfloat16 checkpoint would otherwise be trained in bfloat16, whose eight bits lose the
    updates of a small learning rate. Mixed precision is left to the Trainer. Raises `NerError` if the model cannot be
    loaded.
    """
    folder = _folder(model_name_or_path, revision)
    refuse_pickled(folder)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=attn_implementation,
            output_loading_info=True,
            **SAFE,
        )
    except UNLOADABLE as error:
        own = "leave attn_implementation out: packs use torch's FlashAttention on GPUs that have it"
        remedy = own if "flash" in (attn_implementation or "") else None
        what, place = f"cannot be loaded ({error})", "model_name_or_path"
        raise NerError(what, value=model_name_or_path, place=place, remedy=remedy) from error
    if found["missing_keys"]:  # unexpected keys, such as the head of another task, are ignored
        refuse_others(found, f"model_name_or_path: {model_name_or_path}")
    from_modelscope = model_name_or_path.startswith(MODELSCOPE)
    if from_modelscope:  # peft looks for its config.json on the Hub with each save
        warnings.filterwarnings("ignore", message=f"Could not find a config file in {MODELSCOPE}")
    model.name_or_path = model_name_or_path  # which the adapter names: the folder may be one of this machine's cache
    # The Hub's client downloads to snapshots/<commit>; ModelScope's does not say which commit it is.
    commit = revision if from_modelscope else folder.name
    return add_adapter(model, lora, None if folder == Path(model_name_or_path) else commit)


def outline_model(
    model_name_or_path: str,
    *,
    revision: str | None = None,
    attn_implementation: str | None = None,
    lora: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """The model that `load_model` loads, without its weights: every parameter is on the meta device.

    Needs nothing but config.json. Raises `NerError` if the model cannot be built from it.
    """
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attn_implementation}
    folder = _folder(model_name_or_path, revision, weights=False)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, **options)
    except UNLOADABLE as error:
        what, place = f"cannot be built from its config.json ({' '.join(str(error).split())})", "model_name_or_path"
        remedy = "put the config.json of these weights there again, and leave attn_implementation out if it is set"
        raise NerError(what, value=model_name_or_path, place=place, remedy=remedy) from error
    with torch.device("meta"):
        return add_adapter(model, lora)


def _folder(name: str, revision: str | None, *, weights: bool = True) -> Path:
    """`base_folder`; its errors name the key of the recipe. Raises `NerError` for an adapter."""
    try:
        folder = base_folder(name, revision, weights=weights)
    except NerError as error:
        raise NerError(error.what, value=name, place="model_name_or_path", remedy=error.remedy) from error
    if (folder / ADAPTER).is_file():
        remedy = f"write whole weights, qwen-ner export {name} OUT --merge, and name OUT"
        raise NerError("an adapter, not a whole model", value=name, place="model_name_or_path", remedy=remedy)
    return folder


def add_adapter(model: PreTrainedModel, lora: dict[str, Any] | None, revision: str | None = None) -> PreTrainedModel:
    """`model` with a LoRA adapter of these `LoraConfig` fields around it; the model itself if `lora` is None.

    `revision` is the commit of the base on the Hub. The adapter fits no other, so it is saved with it.
    """
    if lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    targets, place = lora["target_modules"], "lora_target_modules"
    if list(targets) == [ALL_LINEAR]:
        targets = ALL_LINEAR
    if targets != ALL_LINEAR:
        _refuse_absent_layers(model, targets, place)
    config = LoraConfig(task_type="CAUSAL_LM", revision=revision, **{**lora, "target_modules": targets})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # refused below
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise NerError(str(error), place="the adapter") from error
    refuse_tied(adapted, place, "leave it out")
    return adapted


def _refuse_absent_layers(model: PreTrainedModel, names: Sequence[str], place: str) -> None:
    """Raise `NerError` if one of `names` is no layer with a weight matrix; peft would leave it out without a word."""
    layers = [name for name, module in model.named_modules() if getattr(module, "weight", torch.empty(0)).dim() > 1]
    if absent := [own for own in names if not any(f".{layer}".endswith(f".{own}") for layer in layers)]:
        tied = tied_layers(model)
        known = dict.fromkeys(layer.rpartition(".")[2] for layer in layers if layer not in tied)
        remedy = f"choose from {', '.join([ALL_LINEAR, *known])}"
        raise NerError("the model has no such layer", value=", ".join(absent), place=place, remedy=remedy)
