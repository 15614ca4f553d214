"""The parts of a trained folder as transformers' objects, refused where they are not whole or not of each other.

In: a local folder, or a Hub id for the tokenizer. Out: model, tokenizer; `NerError` where one cannot be used.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from ..contract import NER_CONFIG_NAME, NerConfig
from ..data.tokenize import end_of_turn
from ..entities import NerError
from .hub_download import ADAPTER, SAFE, explained, refuse_pickled

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNLOADABLE = (OSError, ValueError, RuntimeError, ImportError, SafetensorError)
"""What loading weights raises where they are absent, torn, of another shape, or need a package that is not there."""


def load_weights(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model in a trained folder, an adapter merged into its base. Raises `NerError` where it cannot be loaded."""
    from transformers import AutoModelForCausalLM

    refuse_pickled(path)
    try:
        with warnings.catch_warnings():
            # A layer whose adapter is not found would keep one that does nothing.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            if (path / ADAPTER).is_file():
                from peft import AutoPeftModelForCausalLM

                # Merged in float32: bfloat16 would round most of a small adapter away.
                model = AutoPeftModelForCausalLM.from_pretrained(path, dtype=torch.float32, **SAFE).merge_and_unload()
                return model.to(dtype)
        model, found = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True, **SAFE)
    except (*UNLOADABLE, UserWarning) as error:
        raise NerError(
            f"{path}: the weights cannot be loaded: {error}; take another checkpoint of the same training, or copy the "
            "folder anew"
        ) from error
    refuse_others(found, str(path))
    return model


def refuse_others(found: dict[str, Any], place: str) -> None:
    """Raise `NerError` where loading left a weight of the model at random, or one of the file unused.

    `found` is what `from_pretrained` tells with `output_loading_info`.
    """
    for what in ("missing_keys", "unexpected_keys"):
        if names := sorted(found[what]):
            raise NerError(
                f"{place}: the weights are not those of the model in config.json: {', '.join(names[:5])} "
                f"{what.split('_')[0]}, {len(names)} in all; take both files from the same checkpoint"
            )


def check_limits(config: NerConfig, model: PreTrainedModel, path: Path) -> None:
    """Raise `NerError` where the file was edited to what the model cannot do."""
    place, context, tokens = path / NER_CONFIG_NAME, model.config.max_position_embeddings, model.config.vocab_size
    if config.max_new_tokens >= context:
        raise NerError(
            f"{place}: max_new_tokens: {config.max_new_tokens} leaves no room for a text in the model's context of "
            f"{context} tokens; lower it"
        )
    if beyond := [token for token in config.end_token_ids if token >= tokens]:
        raise NerError(
            f"{place}: end_token_ids: the model has {tokens} tokens, and no {beyond[0]}; take the file from a "
            "checkpoint of the same training"
        )


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, checked for what is needed here: a chat template, a pad token beside the end token.

    Raises `NerError` where there is none. A missing pad token is filled with another special token, never with the end
    token, which is supervised.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error.__cause__, (HfHubHTTPError, LocalEntryNotFoundError)):
            raise explained(error.__cause__, str(path), revision) from error
        raise NerError(
            f"{path}: no tokenizer could be loaded ({error}); copy the tokenizer files beside the weights"
        ) from error
    if not tokenizer("a")["input_ids"]:  # transformers makes an empty one where the model type alone is known
        raise NerError(f"{path}: no tokenizer lies there; copy the tokenizer files beside the weights")
    if not tokenizer.chat_template:
        raise NerError(
            f"{path}: the tokenizer has no chat template; use an instruct model, or add chat_template.jinja to it"
        )
    ends = (end_of_turn(tokenizer), tokenizer.eos_token_id)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        others = [token for token in tokenizer.all_special_tokens if tokenizer.convert_tokens_to_ids(token) not in ends]
        if not others:
            raise NerError(f"{path}: no special token but the end token to pad with; set pad_token in the tokenizer")
        tokenizer.pad_token = others[0]
    return tokenizer
