"""A recipe: one flat YAML file that describes a whole training.

In: a YAML file and `--key value` overrides. Out: the three dataclasses of arguments.py, or one error that lists every
fault. Does not know what the keys do.
"""

from __future__ import annotations

import ast
import difflib
import math
import os
import re
import typing
from argparse import Action
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml
from transformers import HfArgumentParser

from ..entities import NerError
from .arguments import DataArguments, ModelArguments, NerTrainingArguments
from .finding import FaultsError
from .unique_keys import NOT_YAML as NOT_YAML
from .unique_keys import UniqueKeys

LAUNCHER_KEY = 'if __name__ == "__main__"'
"""A recipe is also a Python file, so that `accelerate launch recipes/X.yaml` works. To YAML, the line that makes it one
is this key."""


@dataclass(frozen=True)
class Recipe:
    """The three parts of a recipe, and `values`: the keys that were given in the file or on the command line.

    `hub_token` is not among `values`, which are printed and saved.
    """

    data: DataArguments
    model: ModelArguments
    training: NerTrainingArguments
    values: dict[str, Any]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read `path`, apply `--key value` overrides, check everything.

    `$NAME` in output_dir is replaced from the environment. Raises a `FaultsError` with all faults: unknown keys with
    the nearest known one, values of the wrong type, keys that contradict each other.
    """
    recipe, faults = examine_recipe(path, overrides)
    if recipe is None or faults:
        raise FaultsError(faults, path)
    return recipe


def examine_recipe(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Recipe | None, list[NerError]]:
    """The recipe and its faults, which `load_recipe` raises; `place` is the key. Raises `NerError` for no recipe."""
    # HfArgumentParser makes an argparse action of each field: its type casts, its choices check. Values are cast by
    # type because `2e-5` is a string to YAML 1.1.
    parser = HfArgumentParser((DataArguments, ModelArguments, NerTrainingArguments))
    actions = {action.dest: action for action in parser._actions if action.dest != "help" and action.const is not False}
    faults: list[NerError] = []
    given = {**_read_yaml(Path(path)), **_read_overrides(overrides, faults)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in actions:
            near = difflib.get_close_matches(key, actions, n=1, cutoff=0.6)
            faults.append(NerError("unknown", place=key, remedy=f"did you mean {near[0]}?" if near else None))
            continue
        try:
            values[key] = _cast(actions[key], value)
            if key == "output_dir":
                values[key] = Template(values[key]).substitute(os.environ)
        except NerError as error:
            faults.append(error)
        except KeyError as error:
            faults.append(NerError(f"the environment variable {error.args[0]} is not set", value=value, place=key))
        except ValueError as error:
            faults.append(NerError(str(error), place=key))
    faults += _contradictions({**given, **values})
    try:
        # Without the faulty keys, so that the objections of TrainingArguments itself are found too.
        data, model, training = parser.parse_dict(dict(values))
    except (ValueError, TypeError, KeyError, ImportError, OverflowError) as error:
        return None, [*faults, NerError(" ".join(str(error).split()))]
    return Recipe(data, model, training, {key: values[key] for key in values if key != "hub_token"}), faults


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except UnicodeDecodeError as error:
        raise NerError(f"not UTF-8 at byte {error.start}", place=path, remedy="save it as UTF-8") from None
    except OSError as error:
        what = f"cannot read the recipe ({error.strerror})"
        raise NerError(what, place=path, remedy="the shipped recipes are in recipes/") from None
    except NOT_YAML as error:
        raise NerError(f"not YAML: {error}", place=path) from None
    if not isinstance(tree, dict):
        raise NerError(f"a recipe is `key: value` lines, this is a {type(tree).__name__}", place=path)
    return {str(key): value for key, value in tree.items() if key != LAUNCHER_KEY}


def _read_overrides(tokens: Sequence[str], faults: list[NerError]) -> dict[str, Any]:
    """`--key value`, `--key=value`, `--key v1 v2` and a bare `--flag` as {key: text, list of texts or True}."""
    given: dict[str, Any] = {}
    key = None
    for token in tokens:
        if token.startswith("--") and len(token) > 2:
            key, equals, value = token[2:].partition("=")
            key = key.replace("-", "_")
            given[key] = [value] if equals else []
        elif key is None:
            faults.append(NerError("an override without a key", value=token, remedy="write it as --key value"))
        else:
            given[key].append(token)
    return {key: True if not v else v[0] if len(v) == 1 else v for key, v in given.items()}


_ONE_OR_MORE = ("report_to", "optim_target_modules")
"""Fields of TrainingArguments that are typed `str | list[str]`, of which the action keeps str."""

_TYPES: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", dict: "a mapping of names to values"}


def _cast(action: Action, value: Any) -> Any:
    """`value` as the type of the field that `action` stands for. Raises a `NerError` that says what was expected."""
    optional = action.default is None
    if value is None or (optional and isinstance(value, str) and value.lower() in ("none", "null")):
        if optional:
            return None
        raise NerError("needs a value", place=action.dest)
    kind: Any = typing.get_origin(action.type) or action.type
    if action.nargs == "+" or (isinstance(value, list) and action.dest in _ONE_OR_MORE):
        value = _literal(value) if isinstance(value, str) and value.startswith("[") else value
        return [_scalar(kind, item, action) for item in (value if isinstance(value, list) else [value])]
    # TrainingArguments' own mappings are typed `dict | str`, of which the action keeps str.
    is_mapping = isinstance(value, dict) or (isinstance(value, str) and value.startswith("{"))
    if kind is dict or (is_mapping and action.dest in NerTrainingArguments._VALID_DICT_FIELDS):
        value = _literal(value) if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise NerError(f"not {_TYPES[dict]}", value=value, place=action.dest)
        return value
    return _scalar(kind, value, action)


def _scalar(kind: Any, value: Any, action: Action) -> Any:
    if kind is str and isinstance(value, bool):
        # YAML 1.1 reads no, off and yes as booleans where `eval_strategy: no` means a word.
        value = "yes" if value else "no"
    if kind is int and isinstance(value, str) and (whole := re.fullmatch(r"(-?\d+)\.0", value)):
        value = whole[1]  # how a sweep of wandb writes a number that it drew in steps of 1
    wrong = isinstance(value, (list, dict)) or (kind in (int, float) and isinstance(value, bool))
    try:
        if wrong or (kind is int and isinstance(value, float)):
            raise TypeError
        cast = kind(value if isinstance(value, bool) else str(value))
    except Exception:
        expected = _TYPES.get(kind, "a single value" if wrong else "true or false")
        raise NerError(f"not {expected}", value=value, place=action.dest) from None
    if action.choices is not None and cast not in action.choices:
        remedy = f"choose from {', '.join(map(str, action.choices))}"
        raise NerError("none of its choices", value=value, place=action.dest, remedy=remedy)
    return cast


def _literal(text: str) -> Any:
    """A list or mapping from the command line, written as JSON, YAML or (by sweeps) Python."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last for a stack that is too deep
        try:
            return yaml.safe_load(text)
        except NOT_YAML:
            return text


def _contradictions(values: dict[str, Any]) -> list[NerError]:
    """Values that TrainingArguments does not object to, and that are out of range or contradict each other."""
    faults: list[NerError] = []

    def report(key: str, what: str, remedy: str | None = None, value: Any = None) -> None:
        faults.append(NerError(what, value=value, place=key, remedy=remedy))

    if values.get("lora_r") is None:
        for key in ("lora_alpha", "lora_dropout", "lora_target_modules"):
            if values.get(key) is not None:
                report(key, "set without lora_r, so no adapter would be trained", "set lora_r or remove it")
    if values.get("eval_strategy") == "no":
        for key, off in (("early_stopping_patience", "none"), ("eval_on_start", "false")):
            if values.get(key):
                report(key, "eval_strategy: no evaluates nothing", f"set it to steps or epoch, or {key}: {off}")
    if values.get("early_stopping_patience") is not None and values.get("load_best_model_at_end") is False:
        what = "needs load_best_model_at_end: true, or the last model is kept, which is worse"
        report("early_stopping_patience", what, "or set early_stopping_patience: none")
    if values.get("remove_unused_columns"):
        report("remove_unused_columns", "must stay false", "predictions find their gold by the row column")
    if values.get("label_smoothing_factor") and "label_smoothing" not in (values.get("step_transforms") or ()):
        what = "has no effect without its step transform"
        report("label_smoothing_factor", what, "add label_smoothing to step_transforms")
    if values.get("negatives_from") is not None and values.get("negatives") is None:
        report("negatives_from", "set without negatives, so no row would be added", "say how many, negatives: 0.1")
    if (choice := values.get("nonfinite_gradients", "stop")) not in ("stop", "skip"):
        report("nonfinite_gradients", "neither stop nor skip", value=choice)
    share = values.get("negatives")
    if isinstance(share, (int, float)) and not 0 < share < math.inf:
        report("negatives", "not a share above 0", "0.1 adds one row for every ten", share)
    for key in ("validation_rows", "max_new_tokens", "lora_r", "max_length", "max_train_samples", "max_eval_samples"):
        if isinstance(values.get(key), int) and values[key] <= 0:
            report(key, "not a positive number", value=values[key])
    return faults + _unknown_transforms(values.get("step_transforms"))


def _unknown_transforms(names: Any) -> list[NerError]:
    from .batches.transforms import TRANSFORMS as known

    given, remedy = names if isinstance(names, list) else [], f"choose from {', '.join(known)}"
    return [
        NerError("unknown step transform", value=name, place="step_transforms", remedy=remedy)
        for name in given
        if name not in known
    ]
