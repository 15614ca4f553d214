"""The parts of a trained folder as transformers objects, refused if they are damaged or do not belong together.

In: a local folder, or for the tokenizer any name that `base_folder` takes. Out: model, tokenizer; `NerError` if one
cannot be used.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..contract import NER_CONFIG_NAME, NerConfig
from ..data.tokenize import end_token_ids
from ..entities import NerError
from .hub_download import ADAPTER, SAFE, base_folder, is_absent_folder, refuse_pickled

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNLOADABLE = (
    *(OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError),
    *(SafetensorError, StrictDataclassError),
)
"""Raised by loading weights that are missing, torn, of another shape, or need a package that is not installed, and by
a config.json whose values are none of theirs."""


def load_weights(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model in a trained folder, an adapter merged into its base. Raises `NerError` if it cannot be loaded."""
    import torch
    from transformers import AutoModelForCausalLM

    refuse_pickled(path)
    place, remedy = path / ADAPTER, "use another checkpoint of the same training, or copy the folder again"
    try:
        if not place.is_file():
            model, found = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, output_loading_info=True, **SAFE)
            refuse_others(found, str(path))
            return refuse_not_finite(model, str(path))
        from peft import PeftConfig, PeftModel

        given = PeftConfig.from_pretrained(str(path))
        base = check_base(given.base_model_name_or_path, place)
        remedy = f"check its base model ({base}; base_model_name_or_path in {ADAPTER} names it), or {remedy}"
        folder = base_folder(base, given.revision)
        refuse_pickled(folder)
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **SAFE)
        with warnings.catch_warnings():
            # A layer whose adapter is missing would keep one that does nothing.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(plain, path)
        refuse_tied(adapted, place, "train it again without these layers in lora_target_modules")
        # Merged in float32: bfloat16 would round most of a small adapter away.
        return refuse_not_finite(adapted.merge_and_unload().to(dtype), str(path))
    except NerError:
        raise
    except (*UNLOADABLE, UserWarning) as error:
        raise NerError(f"the weights cannot be loaded ({error})", place=path, remedy=remedy) from error


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


def check_base(base: Any, place: Path) -> str:
    """`base`, the base model that `place` names. Raises `NerError` if it is no name, or an absent folder."""
    remedy = "set base_model_name_or_path to the folder of the base model, or to its Hub id"
    if not isinstance(base, str) or not base:
        raise NerError("names no base model", value=base, place=place, remedy=remedy)
    if is_absent_folder(base):
        what, remedy = "the folder of the base model is missing", f"put it back, or {remedy}"
        raise NerError(what, value=base, place=place, remedy=remedy)
    return base


def tied_layers(model: torch.nn.Module) -> list[str]:
    """The names of the layers with a weight that another layer has too, such as a head tied to the embeddings."""
    weights = list(model.named_parameters(remove_duplicate=False))
    owners = Counter(id(weight) for _, weight in weights)
    return [name.rpartition(".")[0] for name, weight in weights if owners[id(weight)] > 1]


def refuse_tied(model: PeftModel, place: Path | str, remedy: str) -> None:
    """Raise `NerError` if `model` has an adapter on one of its `tied_layers`.

    It acts on that layer alone in training, and on the other one too once it is merged.
    """
    layers = (name.rpartition(".base_layer") for name in tied_layers(model))
    if adapted := [name.rpartition(".")[2] for name, base, _ in layers if base]:
        what = "another layer has the same weight (tie_word_embeddings), and merging the adapter would change both"
        raise NerError(what, value=", ".join(adapted), place=place, remedy=remedy)


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
        what = f"no room for a text in the model's context of {max_length} tokens"
        raise NerError(what, value=config.max_new_tokens, place=f"{place}: max_new_tokens", remedy="lower it")
    if beyond := [token for token in config.end_token_ids if token >= vocabulary]:
        what, remedy = f"the tokenizer has only {vocabulary} tokens", "take the file of a checkpoint of this training"
        raise NerError(what, value=beyond[0], place=f"{place}: end_token_ids", remedy=remedy)


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a chat template, and with a pad token other than the end token.

    A missing pad token is replaced by another special token, never by the end token, which is supervised. Raises
    `NerError` if there is no such tokenizer.
    """
    from transformers import AutoTokenizer

    folder = base_folder(path, revision, weights=False)
    copy = "copy the tokenizer files beside the weights"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (*UNLOADABLE, AttributeError) as error:
        remedy = "put the config.json of these weights there again" if isinstance(error, StrictDataclassError) else copy
        raise NerError(f"no tokenizer could be loaded ({error})", place=path, remedy=remedy) from error
    if not tokenizer("a")["input_ids"]:  # transformers makes an empty one if only the model type is known
        raise NerError("no tokenizer found", place=path, remedy=copy)
    if not tokenizer.chat_template:
        raise NerError("no chat template", place=path, remedy="use an instruct model, or add a chat_template.jinja")
    ends = end_token_ids(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        others = [token for token in tokenizer.all_special_tokens if tokenizer.convert_tokens_to_ids(token) not in ends]
        if not others:
            raise NerError("only the end token could pad", place=path, remedy="set pad_token in the tokenizer")
        tokenizer.pad_token = others[0]
    return tokenizer


def decode_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]) -> list[str]:
    """Completions as text, special tokens kept: one inside an answer is the model's fault and must be seen."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    return [tokenizer.decode(row, **options) for row in ids]
