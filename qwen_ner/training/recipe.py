"""A recipe: one flat YAML file that says all there is to say of a training.

In: a YAML file and `--key value` overrides. Out: the three dataclasses, or one error that lists every fault. Knows
what may be written, not what is done with it.
"""

from __future__ import annotations

import ast
import difflib
import math
import os
import re
import sys
import typing
from argparse import Action
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from ..codec import SYSTEM_PROMPT
from ..entities import NerError

LAUNCHER_KEY = 'if __name__ == "__main__"'
"""A recipe is also a Python file, for `accelerate launch recipes/X.yaml`; the line that makes it one is this key to
YAML."""


@dataclass
class DataArguments:
    """What is trained on."""

    dataset: str = field(
        default="cluener",
        metadata={"help": "cluener, sample, a file, a folder with {split}.jsonl (.bio, .json, …), or an id on the Hub"},
    )
    data_dir: str | None = field(
        default=None,
        metadata={"help": "CLUENER's folder or zip; otherwise $QWEN_NER_DATA, the cache, the official address"},
    )
    labels: dict[str, str] | None = field(
        default=None,
        metadata={"help": "{name: description}; default: CLUENER's ten, or the labels of your training data"},
    )
    system_prompt: str = field(default=SYSTEM_PROMPT, metadata={"help": "the system turn, in training and afterwards"})
    validation_rows: int = field(
        default=500, metadata={"help": "rows held out of the training split to choose the checkpoint by"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "train on this many rows"})
    negatives: float | None = field(
        default=None, metadata={"help": "add this many rows without entities for every row to train on, say 0.1"}
    )
    negatives_from: str = field(
        default="clauses",
        metadata={"help": "clauses: cut out of the rows to train on; or a file of texts known to hold no entities"},
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "evaluate on this many rows of each split"})
    max_length: int | None = field(
        default=None, metadata={"help": "rows of more tokens are refused and listed; default: the model's context"}
    )
    dataset_num_proc: int | None = field(default=None, metadata={"help": "processes for tokenizing"})
    examples: list[str] = field(
        default_factory=lambda: [], metadata={"help": "sentences whose entities are printed after training"}
    )


@dataclass
class ModelArguments:
    """What is trained: all weights, or with `lora_r` an adapter."""

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
        """Fields for peft's `LoraConfig`, or None for full fine-tuning."""
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
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "stop after this many evaluations without a better f1"}
    )
    nonfinite_gradients: str = field(
        default="stop", metadata={"help": "stop with the rows of the step, or skip: leave the step out and count it"}
    )
    resume_from_checkpoint: str | None = field(
        default="auto", metadata={"help": "auto: the last whole checkpoint in output_dir; none; or a checkpoint's path"}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "no, steps, epoch"})
    save_strategy: str = field(default="epoch", metadata={"help": "no, steps, epoch, best"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints kept: the best and the last ones"})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "end with the checkpoint of the best f1"})
    metric_for_best_model: str | None = field(default="f1", metadata={"help": "f1, span_f1 or macro_f1, of validation"})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "prompts generated at a time, a device"})
    remove_unused_columns: bool = field(default=False, metadata={"help": "must stay false: row numbers are needed"})
    ddp_broadcast_buffers: bool | None = field(
        default=False,
        metadata={"help": "they are constants; sent around, they keep a process from repeating a batch in halves"},
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "default: where there is a GPU"}
    )
    disable_tqdm: bool | None = field(
        default_factory=lambda: not sys.stderr.isatty(), metadata={"help": "default: bars on a terminal only"}
    )


@dataclass(frozen=True)
class Recipe:
    """The three parts of a recipe, and `values`: the keys that were really given, file and command line together, but
    for `hub_token`, since values are printed and saved."""

    data: DataArguments
    model: ModelArguments
    training: NerTrainingArguments
    values: dict[str, Any]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read `path`, lay `--key value` overrides over it, check everything.

    `$NAME` in output_dir is filled in from the environment. Raises `NerError` that lists all faults: unknown keys with
    the nearest known one, values of the wrong type, keys that contradict each other.
    """
    recipe, faults = examine_recipe(path, overrides)
    if recipe is None or faults:
        said = "\n  ".join([f"{path} has {len(faults)} fault{'s'[: len(faults) > 1]}", *faults])
        raise NerError(said.encode("utf-8", "backslashreplace").decode())  # an argument may be no UTF-8
    return recipe


def examine_recipe(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe | None, list[str]]:
    """What `load_recipe` reads, and the faults that it would raise. Raises `NerError` for a file that is no recipe."""
    # HfArgumentParser turns annotations into argparse actions; its types cast, its choices check. Cast by type, because
    # `2e-5` is a string to YAML 1.1.
    parser = HfArgumentParser((DataArguments, ModelArguments, NerTrainingArguments))
    actions = {action.dest: action for action in parser._actions if action.dest != "help" and action.const is not False}
    faults: list[str] = []
    given = {**_read_yaml(Path(path)), **_read_overrides(overrides, faults)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in actions:
            near = difflib.get_close_matches(key, actions, n=1, cutoff=0.6)
            faults.append(f"{key}: unknown" + (f"; did you mean {near[0]}?" if near else ""))
            continue
        try:
            values[key] = _cast(actions[key], value)
            if key == "output_dir":
                values[key] = Template(values[key]).substitute(os.environ)
        except KeyError as error:
            faults.append(f"{key}: {_show(value)} names ${error.args[0]}, which the environment does not hold")
        except ValueError as error:
            faults.append(f"{key}: {error}")
    faults += _contradictions({**given, **values})
    try:
        # With the faulty keys left out this still finds what TrainingArguments itself objects to.
        data, model, training = parser.parse_dict(dict(values))
    except (ValueError, TypeError, KeyError, ImportError, OverflowError) as error:
        return None, [*faults, " ".join(str(error).split())]
    kept = {key: value for key, value in values.items() if key != "hub_token"}
    return Recipe(data, model, training, kept), faults


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NerError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise NerError(
            f"{path}: no recipe could be read there ({error.strerror}); the shipped ones are in recipes/"
        ) from None
    try:
        tree = yaml.load(text, _UniqueKeys)
    except NOT_YAML as error:
        raise NerError(f"{path}: not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise NerError(f"{path}: a recipe is `key: value` lines; this holds {type(tree).__name__}")
    return {str(key): value for key, value in tree.items() if key != LAUNCHER_KEY}


NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises: its own errors, and those of numbers, dates and nesting beyond what Python takes."""


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key given twice, where the plain loader would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", key_node.start_mark)
        return super().construct_mapping(node, deep)


def _read_overrides(tokens: Sequence[str], faults: list[str]) -> dict[str, Any]:
    """`--key value`, `--key=value`, `--key v1 v2` and a bare `--flag`, as {key: text, list of texts or True}."""
    given: dict[str, Any] = {}
    key = None
    for token in tokens:
        if token.startswith("--") and len(token) > 2:
            key, equals, value = token[2:].partition("=")
            key = key.replace("-", "_")
            given[key] = [value] if equals else []
        elif key is None:
            faults.append(f"{token!r}: overrides are written --key value")
        else:
            given[key].append(token)
    return {key: True if not v else v[0] if len(v) == 1 else v for key, v in given.items()}


def _cast(action: Action, value: Any) -> Any:
    """`value` as the type of the field that `action` was made from. Raises ValueError that says what was expected."""
    optional = action.default is None
    if value is None or (optional and isinstance(value, str) and value.lower() in ("none", "null")):
        if optional:
            return None
        raise ValueError("needs a value")
    kind: Any = typing.get_origin(action.type) or action.type
    if action.nargs == "+" or (isinstance(value, list) and action.dest in _ONE_OR_MORE):
        value = _literal(value) if isinstance(value, str) and value.startswith("[") else value
        return [_scalar(kind, item, action) for item in (value if isinstance(value, list) else [value])]
    # TrainingArguments' own mappings are typed `dict | str`, of which the action keeps str.
    named = isinstance(value, dict) or (isinstance(value, str) and value.startswith("{"))
    if kind is dict or (named and action.dest in TrainingArguments._VALID_DICT_FIELDS):
        value = _literal(value) if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise ValueError(f"{_show(value)} is not {_NAMES[dict]}")
        return value
    return _scalar(kind, value, action)


_ONE_OR_MORE = ("report_to", "optim_target_modules")
"""Fields of TrainingArguments typed `str | list[str]`, of which the action keeps str."""

_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", dict: "a mapping of names to values"}


def _scalar(kind: Any, value: Any, action: Action) -> Any:
    if isinstance(value, (list, dict)):
        raise ValueError(f"{_show(value)} is not {_NAMES.get(kind, 'a single value')}")
    if kind is str and isinstance(value, bool):
        # YAML 1.1 reads no, off and yes as booleans where `eval_strategy: no` means a word.
        value = "yes" if value else "no"
    if kind is int and isinstance(value, float):
        raise ValueError(f"{value} is not a whole number")
    if kind is int and isinstance(value, str) and (whole := re.fullmatch(r"(-?\d+)\.0", value)):
        value = whole[1]  # so a sweep of wandb writes what it drew in steps of 1
    if kind in (int, float) and isinstance(value, bool):
        raise ValueError(f"{_show(value)} is not {_NAMES[kind]}")
    try:
        cast = kind(value if isinstance(value, bool) else str(value))
    except Exception:
        raise ValueError(f"{_show(value)} is not {_NAMES.get(kind, 'true or false')}") from None
    if action.choices is not None and cast not in action.choices:
        raise ValueError(f"{_show(value)} is none of {', '.join(map(str, action.choices))}")
    return cast


def _literal(text: str) -> Any:
    """A list or mapping from the command line, as JSON, YAML or (as sweeps write it) Python."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last of its own stack
        try:
            return yaml.safe_load(text)
        except NOT_YAML:
            return text


def _show(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _contradictions(values: dict[str, Any]) -> list[str]:
    """Keys that are each right and together wrong, beyond what TrainingArguments checks itself."""
    faults = []
    if values.get("lora_r") is None:
        idle = [key for key in ("lora_alpha", "lora_dropout", "lora_target_modules") if values.get(key) is not None]
        faults += [
            f"{key}: set without lora_r, so no adapter would be trained; set lora_r or remove it" for key in idle
        ]
    if values.get("eval_strategy") == "no":
        for key, off in (("early_stopping_patience", "none"), ("eval_on_start", "false")):
            if values.get(key):
                faults.append(f"{key}: nothing is evaluated with eval_strategy: no; steps or epoch, or {key}: {off}")
    if values.get("early_stopping_patience") is not None and values.get("load_best_model_at_end") is False:
        faults.append(
            "early_stopping_patience: needs load_best_model_at_end: true, or the worse last model is kept; or "
            "early_stopping_patience: none"
        )
    if values.get("remove_unused_columns"):
        faults.append("remove_unused_columns: must stay false; predictions find their gold by the row column")
    if values.get("label_smoothing_factor"):
        faults.append("label_smoothing_factor: not read here; the loss is that of the supervised tokens alone")
    if values.get("negatives_from") is not None and values.get("negatives") is None:
        faults.append("negatives_from: set without negatives, so no row would be added; say how many, negatives: 0.1")
    if values.get("nonfinite_gradients", "stop") not in ("stop", "skip"):
        faults.append(f"nonfinite_gradients: {_show(values['nonfinite_gradients'])} is neither stop nor skip")
    share = values.get("negatives")
    if isinstance(share, (int, float)) and not 0 < share < math.inf:
        faults.append(f"negatives: {share} is not a share above 0; 0.1 adds one row for every ten")
    for key in ("validation_rows", "max_new_tokens", "lora_r", "max_length", "max_train_samples", "max_eval_samples"):
        if isinstance(values.get(key), int) and values[key] <= 0:
            faults.append(f"{key}: {values[key]} is not a positive number")
    return faults
