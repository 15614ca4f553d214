"""What of a trained folder may be published: weights and settings, nothing of the machine, the account and the data.

In: a folder that a training wrote, its id on the Hub. Out: a copy in another folder; the original is only read. Only
files on an allow list are copied. Knows nothing of networks.
"""

from __future__ import annotations

import json
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
from ..data.datasets import is_local
from ..entities import NerError
from ..files import read_json, write_json, write_text
from ..inference.hub_download import ADAPTER, METRICS, MODEL_FILES, MODELSCOPE, WEIGHTS

RECIPE, STATE = "recipe.yaml", "trainer_state.json"

CARD, CURVE = "README.md", "curve.png"

PUSHED = (*MODEL_FILES, RECIPE, METRICS, CARD, CURVE)
"""The files of a repository that we write (patterns of names)."""

PRIVATE_KEYS = {
    "output_dir", "logging_dir", "data_dir", "resume_from_checkpoint", "hub_token", "push_to_hub", "hub_model_id",
    "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision",
}  # fmt: skip
"""Keys of a recipe that name a place or an account."""

TEXTS = {"system_prompt", "labels", "examples"}
"""Keys of a recipe whose values are texts for the model: kept even if they look like a path."""

TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def check_folder(folder: Path) -> NerConfig:
    """The `NerConfig` of a trained folder. Raises `NerError` if it has none, or no safetensors weights."""
    remedy = "pass an output_dir of `qwen-ner train` or a checkpoint in it"
    if not folder.is_dir():
        raise NerError("no such folder", place=folder, remedy=remedy)
    config = NerConfig.load(folder)
    if not any(fnmatch(path.name, pattern) for path in folder.iterdir() for pattern in WEIGHTS):
        raise NerError("no safetensors weights", place=folder, remedy=remedy)
    return config


def read_recipe(folder: Path) -> dict[str, Any]:
    """The recipe of the model in `folder`, empty if there is none; a checkpoint's is in its parent folder."""
    for place in (folder, parent_of(folder)):
        if (place / RECIPE).is_file():
            return yaml.safe_load((place / RECIPE).read_text(encoding="utf-8")) or {}
    return {}


def parent_of(folder: Path) -> Path:
    """The output folder of the training that wrote `folder`, which may be that itself or a checkpoint in it."""
    return folder.parent if folder.name.startswith("checkpoint-") else folder


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """metrics.json of `folder`, or None if there is none."""
    path = folder / METRICS
    return read_json(path, "write it again with `qwen-ner evaluate … --report`") if path.is_file() else None


def copy_files(folder: Path, out: Path, names: Sequence[str] = MODEL_FILES, *, link: bool = False) -> None:
    """Copy the files of `folder` with these names to `out`; with `link`, hard-link those that can be. Do not write to
    a link."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatch(path.name, name) for name in names):
            if link:
                with suppress(OSError):
                    os.link(path.resolve(), out / path.name)
                    continue
            shutil.copyfile(path, out / path.name)


def neutralise(folder: Path, out: Path, repo_id: str, base: str | None) -> None:
    """Write what the repository `repo_id` may hold of the model in `folder`, except its card, to the empty `out`.

    `base` is the Hub id of the base model, if it has one.
    """
    copy_files(folder, out, link=True)
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", ADAPTER):
        if (out / name).is_file():
            values = _without_paths(json.loads((out / name).read_text(encoding="utf-8")))
            if name == ADAPTER:
                values["base_model_name_or_path"] = base
            # `write_json` replaces the link; writing through it would change the training's file.
            write_json(out / name, values)
    metrics, known = read_metrics(folder), read_metrics(parent_of(folder))
    if recipe := read_recipe(folder):
        head = f"# The recipe of {repo_id}, without paths and account settings.\n"
        text = yaml.safe_dump(neutral_recipe(recipe, base, known), allow_unicode=True, sort_keys=False)
        write_text(out / RECIPE, [head, text])
    if metrics:
        write_json(out / METRICS, neutral_metrics(metrics, repo_id, base))


def is_local_data(dataset: str, metrics: Mapping[str, Any] | None) -> bool:
    """Whether a data set is a file or folder, as metrics.json says of the one trained on; otherwise as it looks here.

    `data/medicine` may be a folder of the machine that trained, and a name of the Hub everywhere else.
    """
    training = (metrics or {}).get("training", {})
    said = training.get("local_data") if dataset == training.get("dataset") else None
    return is_local(dataset) if said is None else bool(said)


def data_name(dataset: str, metrics: Mapping[str, Any] | None) -> str:
    """What to publish of a data set's name: of a path its last part."""
    return Path(dataset).expanduser().resolve().name if is_local_data(dataset, metrics) else dataset


def neutral_recipe(
    values: Mapping[str, Any], base: str | None, metrics: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A recipe, or what metrics.json says of its training, without the keys that name a place or an account, and with
    only the last part of each path. Of local data it has no `examples`: `init` takes them from the rows.

    >>> neutral_recipe({"dataset": "/home/me/medicine", "output_dir": "/scratch/me/1", "learning_rate": 1e-3}, None)
    {'dataset': 'medicine', 'learning_rate': 0.001}
    """
    kept = {key: value if key in TEXTS else neutral(value) for key, value in values.items() if key not in PRIVATE_KEYS}
    if "dataset" in kept:
        kept["dataset"] = data_name(str(values["dataset"]), metrics)
        if is_local_data(str(values["dataset"]), metrics):
            kept.pop("examples", None)
    if "negatives_from" in kept:
        kept["negatives_from"] = Path(str(values["negatives_from"])).name
    for key in {"model_name_or_path", "model"} & kept.keys():
        name = kept[key]
        kept[key] = base or (name if name.startswith(MODELSCOPE) else Path(name).name)
    return kept


def neutral_metrics(values: Mapping[str, Any], repo_id: str, base: str | None) -> dict[str, Any]:
    """metrics.json with `repo_id` as the model's name and without paths."""
    data = data_name(values["contract"]["data"], values)
    contract = neutral(values["contract"]) | {"model": repo_id, "data": data}
    training = {"training": neutral_recipe(values["training"], base, values)} if "training" in values else {}
    return {**values, "contract": contract, **training}


def neutral(value: Any) -> Any:
    """`value` with only the last part of each local path in it.

    >>> neutral({"deepspeed": "/home/me/zero2.json", "dataset": "data/medicine", "report_to": ["none"]})
    {'deepspeed': 'zero2.json', 'dataset': 'data/medicine', 'report_to': ['none']}
    """
    if isinstance(value, Mapping):
        return {key: neutral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [neutral(item) for item in value]
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if _is_local_path(value) else value


def _without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model or tokenizer without those that say where it was loaded from."""
    names = {"_name_or_path", "name_or_path"}
    return {
        key: value
        for key, value in values.items()
        if key not in names and (key == "chat_template" or not _is_local_path(value))
    }


def _is_local_path(value: Any) -> bool:
    """Whether `value` looks like a local path: absolute, below a home, or outside the working directory."""
    return isinstance(value, str) and re.match(r"(/|~|\.\.[/\\]|[A-Za-z]:[/\\]|file:)", value) is not None


def refuse_secrets(out: Path, token: str | None, place: Path) -> None:
    """Raise `NerError` if a text file in `out` holds a Hub token or the path `place`.

    A last check: a prompt or the name of a run may hold one.
    """
    local = re.compile(rf"(?<!\w){re.escape(str(place))}")  # `/ner` is not in `user/ner`
    for path in sorted(out.iterdir()):
        if path.suffix not in (".json", ".yaml", ".md", ".jinja") or path.name in ("tokenizer.json", "vocab.json"):
            continue
        text = path.read_text(encoding="utf-8")
        has_token = TOKEN.search(text) or (token and token in text)
        if has_token or local.search(text):
            secret, value = ("a token", None) if has_token else ("a local path", str(place))
            remedy = "nothing was pushed; remove it from the recipe and push again"
            raise NerError(f"contains {secret}", value=value, place=path.name, remedy=remedy)
