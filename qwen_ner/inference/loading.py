"""The parts of a trained folder as transformers objects, refused if they are damaged or do not belong together.

In: a local folder, or a Hub id for the tokenizer. Out: model, tokenizer; `NerError` if one cannot be used.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ..contract import NER_CONFIG_NAME, NerConfig
from ..data.tokenize import end_of_turn
from ..entities import NerError
from .hub_download import ADAPTER, SAFE, explain, refuse_pickled

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNLOADABLE = (OSError, ValueError, RuntimeError, ImportError, SafetensorError)
"""Raised by loading weights that are missing, torn, of another shape, or need a package that is not installed."""


def load_weights(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model in a trained folder, an adapter merged into its base. Raises `NerError` if it cannot be loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    refuse_pickled(path)
    try:
        with warnings.catch_warnings():
            # A layer whose adapter is missing would keep one that does nothing.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            if (path / ADAPTER).is_file():
                from peft import AutoPeftModelForCausalLM

                # Merged in float32: bfloat16 would round most of a small adapter away.
                model = AutoPeftModelForCausalLM.from_pretrained(path, dtype=torch.float32, **SAFE).merge_and_unload()
                return refuse_not_finite(model.to(dtype), str(path))
        model, found = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True, **SAFE)
    except (*UNLOADABLE, UserWarning) as error:
        remedy = "use another checkpoint of the same training, or copy the folder again"
        raise NerError(f"the weights cannot be loaded ({error})", place=path, remedy=remedy) from error
    refuse_others(found, str(path))
    return refuse_not_finite(model, str(path))


def refuse_not_finite(model: PreTrainedModel, place: str) -> PreTrainedModel:
    """`model`; raises `NerError` if a weight is NaN or infinite: every text would become an entity without a score."""
    import torch

    # A sum is not finite if one of its terms is not, and takes a twentieth of the time of looking at each.
    wrong = [name for name, values in model.named_parameters() if not values.sum(dtype=torch.float32).isfinite()]
    if wrong:
        found_names = f"{', '.join(wrong[:5])}, {len(wrong)} in all"
        remedy = "use an earlier checkpoint, or train again with a lower learning rate"
        raise NerError(f"weights are not finite numbers: {found_names}", place=place, remedy=remedy)
    return model


def refuse_others(found: dict[str, Any], place: str) -> None:
    """Raise `NerError` if loading left a weight of the model at random, or one of the file unused.

    `found` is what `from_pretrained` returns with `output_loading_info`.
    """
    for what in ("missing", "unexpected"):
        if names := sorted(found[f"{what}_keys"]):
            found_names = f"{', '.join(names[:5])} {what}, {len(names)} in all"
            remedy = "take both files from the same checkpoint"
            raise NerError(f"the weights do not match config.json: {found_names}", place=place, remedy=remedy)


def check_limits(config: NerConfig, max_length: int, vocabulary: int, path: Path) -> None:
    """Raise `NerError` if `config` does not fit a context of `max_length` tokens, or a `vocabulary` of so many."""
    place = str(path / NER_CONFIG_NAME)
    if config.max_new_tokens >= max_length:
        what, place = f"no room for a text in the model's context of {max_length} tokens", f"{place}: max_new_tokens"
        raise NerError(what, value=config.max_new_tokens, place=place, remedy="lower it")
    if beyond := [token for token in config.end_token_ids if token >= vocabulary]:
        what, place = f"the tokenizer has only {vocabulary} tokens", f"{place}: end_token_ids"
        remedy = "take the file from a checkpoint of the same training"
        raise NerError(what, value=beyond[0], place=place, remedy=remedy)


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a chat template, and with a pad token other than the end token.

    A missing pad token is replaced by another special token, never by the end token, which is supervised. Raises
    `NerError` if there is no such tokenizer.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from transformers import AutoTokenizer

    copy = "copy the tokenizer files beside the weights"
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error.__cause__, (HfHubHTTPError, LocalEntryNotFoundError)):
            raise explain(error.__cause__, str(path), revision) from error
        raise NerError(f"no tokenizer could be loaded ({error})", place=path, remedy=copy) from error
    if not tokenizer("a")["input_ids"]:  # transformers makes an empty one if only the model type is known
        raise NerError("no tokenizer found", place=path, remedy=copy)
    if not tokenizer.chat_template:
        remedy = "use an instruct model, or add a chat_template.jinja"
        raise NerError("the tokenizer has no chat template", place=path, remedy=remedy)
    ends = (end_of_turn(tokenizer), tokenizer.eos_token_id)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        others = [token for token in tokenizer.all_special_tokens if tokenizer.convert_tokens_to_ids(token) not in ends]
        if not others:
            what = "the tokenizer has no special token to pad with but the end token"
            raise NerError(what, place=path, remedy="set pad_token in the tokenizer")
        tokenizer.pad_token = others[0]
    return tokenizer
