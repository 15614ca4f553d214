"""A trained folder as others may have it: weights and settings, and nothing of the machine, the account and the data.

In: a folder that a training wrote, its name on the Hub. Out: a copy in another folder; the first is only read. What is
copied is a list of names, not all but a list. Knows nothing of networks.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from ..contract import NerConfig
from ..entities import NerError
from ..files import write_json, write_text
from ..inference.hub_download import ADAPTER, MODEL_FILES, WEIGHTS

log = logging.getLogger(__name__)

RECIPE, METRICS, STATE, PREDICTIONS = "recipe.yaml", "metrics.json", "trainer_state.json", "predictions.jsonl"

CARD, CURVE = "README.md", "curve.png"

PUSHED = (*MODEL_FILES, RECIPE, METRICS, CARD, CURVE)
"""All that a repository gets from here (patterns of names)."""

OF_THE_MACHINE = {
    "output_dir", "logging_dir", "data_dir", "resume_from_checkpoint", "hub_token", "push_to_hub", "hub_model_id",
    "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision",
}  # fmt: skip
"""Keys of a recipe that say where and for whom it ran, not what was done."""

TEXTS = {"system_prompt", "labels", "examples"}
"""Keys of a recipe whose values are words for the model: kept as they are, whatever they look like."""

TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def check_trained(folder: Path) -> NerConfig:
    """The `NerConfig` of a folder with safetensors weights. Raises `NerError` where it is none."""
    if not folder.is_dir():
        raise NerError(f"{folder}: no such folder; give an output_dir of `qwen-ner train`, or a checkpoint in it")
    config = NerConfig.load(folder)
    if not any(fnmatch(path.name, pattern) for path in folder.iterdir() for pattern in WEIGHTS):
        raise NerError(f"{folder}: no weights as safetensors lie there; give a folder whose training has saved a model")
    return config


def read_recipe(folder: Path) -> dict[str, Any]:
    """The recipe that the model in `folder` was trained by; a checkpoint's lies in the folder above it."""
    for place in (folder, folder.parent) if folder.name.startswith("checkpoint-") else (folder,):
        if (place / RECIPE).is_file():
            return yaml.safe_load((place / RECIPE).read_text(encoding="utf-8")) or {}
    return {}


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """metrics.json of `folder`, or None where the model has none of this version."""
    path = folder / METRICS
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NerError(f"{path}: not JSON ({error}); write it anew with `qwen-ner evaluate … --report`") from None
    if "contract" not in values or "intervals" not in values:
        log.warning("%s is of an older version and left out; `qwen-ner evaluate … --report` writes a new one.", path)
        return None
    return values


def base_of(folder: Path) -> str | None:
    """What the model in `folder` was trained from, as it was called there: a Hub id or a folder; None if not known."""
    if (folder / ADAPTER).is_file():
        return json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    name = read_recipe(folder).get("model_name_or_path")
    return None if name == "tiny" else name


def copy_files(folder: Path, out: Path, names: Sequence[str] = MODEL_FILES, *, link: bool = False) -> None:
    """Put the files of `folder` with these names into `out`; with `link` as links where the file system has them, for
    what is only to be read."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatch(path.name, name) for name in names):
            if link:
                with suppress(OSError):
                    os.link(path.resolve(), out / path.name)
                    continue
            shutil.copyfile(path, out / path.name)


def neutralise(folder: Path, out: Path, repo_id: str, base: str | None) -> None:
    """Write to the empty `out` what a repository `repo_id` may hold of the model in `folder`, its card excepted.

    `base` is the Hub id of the base model, where it has one.
    """
    copy_files(folder, out, link=True)
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", ADAPTER):
        if (out / name).is_file():
            values = _without_paths(json.loads((out / name).read_text(encoding="utf-8")))
            if name == ADAPTER:
                values["base_model_name_or_path"] = base
            # Written anew, never into the link: that would be the file of the training.
            write_json(out / name, values)
    if recipe := read_recipe(folder):
        head = f"# The recipe that {repo_id} was trained by, without what was particular to the machine.\n"
        text = yaml.safe_dump(neutral_recipe(recipe, base), allow_unicode=True, sort_keys=False)
        write_text(out / RECIPE, [head, text])
    if metrics := read_metrics(folder):
        write_json(out / METRICS, neutral_metrics(metrics, repo_id, base))


def neutral_recipe(values: Mapping[str, Any], base: str | None) -> dict[str, Any]:
    """The keys of a recipe that say what was done; of a path its last part.

    >>> neutral_recipe({"dataset": "/home/me/medicine", "output_dir": "/scratch/me/1", "learning_rate": 1e-3}, None)
    {'dataset': 'medicine', 'learning_rate': 0.001}
    """
    kept = {
        key: value if key in TEXTS else neutral(value) for key, value in values.items() if key not in OF_THE_MACHINE
    }
    if "model_name_or_path" in kept:
        kept["model_name_or_path"] = base or Path(kept["model_name_or_path"]).name
    return kept


def neutral_metrics(values: Mapping[str, Any], repo_id: str, base: str | None) -> dict[str, Any]:
    """metrics.json as the model's of that name: in what it says of model, data and training there is no path."""
    contract = {key: neutral(value) for key, value in values["contract"].items()} | {"model": repo_id}
    training = {key: neutral(value) for key, value in values.get("training", {}).items()}
    if "model" in training:
        training["model"] = base or Path(training["model"]).name
    return {**values, "contract": contract, **({"training": training} if training else {})}


def neutral(value: Any) -> Any:
    """`value` with the last part alone of each path of the machine in it.

    >>> neutral({"deepspeed": "/home/me/zero2.json", "dataset": "data/medicine", "report_to": ["none"]})
    {'deepspeed': 'zero2.json', 'dataset': 'data/medicine', 'report_to': ['none']}
    """
    if isinstance(value, Mapping):
        return {key: neutral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [neutral(item) for item in value]
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if _is_of_the_machine(value) else value


def _without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a saved model or tokenizer without those that say where it was loaded from."""
    names = {"_name_or_path", "name_or_path"}
    return {
        key: value
        for key, value in values.items()
        if key not in names and (key == "chat_template" or not _is_of_the_machine(value))
    }


def _is_of_the_machine(value: Any) -> bool:
    """Whether it is spelled like a place on one machine: absolute, from a home, or out of the working directory."""
    return isinstance(value, str) and re.match(r"(/|~|\.\.[/\\]|[A-Za-z]:[/\\]|file:)", value) is not None


def refuse_secrets(out: Path, token: str | None, place: Path) -> None:
    """Raise `NerError` where a text file in `out` holds a token of the Hub or the path `place`.

    A last look: a prompt or the name of a run may have been given one.
    """
    for path in sorted(out.iterdir()):
        if path.suffix not in (".json", ".yaml", ".md", ".jinja") or path.name in ("tokenizer.json", "vocab.json"):
            continue
        text = path.read_text(encoding="utf-8")
        has_token = TOKEN.search(text) or (token and token in text)
        if has_token or str(place) in text:
            what = "a token" if has_token else f"the path {place}"
            raise NerError(
                f"{path.name} would hold {what}; nothing was pushed; take it out of the recipe and push again"
            )
