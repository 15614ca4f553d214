"""A recipe: one flat YAML file that describes a whole training.

In: a YAML file and `--key value` overrides. Out: the three dataclasses of arguments.py, or one error that lists every
fault. Does not know what the keys do.
"""

from __future__ import annotations

import ast
import difflib
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

from ..data.formats.errors import nearest
from ..entities import NerError
from ..files import shipped
from .arguments import DataArguments, ModelArguments, NerTrainingArguments
from .contradictions import UNSUPPORTED, contradictions
from .finding import NOT_YAML, FaultsError, UniqueKeys

LAUNCHER_KEY = 'if __name__ == "__main__"'
"""A recipe is also a Python file, so that `accelerate launch recipes/X.yaml` works. To YAML, the line that makes it one
is this key."""

QUOTES = '"""'

CLOSING = f"# {QUOTES}"
"""The last line of such a recipe: it ends the string that Python takes the keys for."""

LAUNCHER_LINE = f"{LAUNCHER_KEY}: from qwen_ner.cli import main; main(); r{QUOTES}"


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
    """Read `path`, a file or the name of a shipped recipe, apply `--key value` overrides, check everything.

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
    parts = (DataArguments, ModelArguments, NerTrainingArguments)
    hints = {name: hint for part in parts for name, hint in typing.get_type_hints(part).items()}
    parser = HfArgumentParser(parts)
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
            values[key] = _cast(actions[key], value, type(None) in typing.get_args(hints[key]))
            if key == "report_to":
                values[key] = values[key] or "none"  # there it is a word
            if key == "output_dir":
                values[key] = Template(values[key]).substitute(os.environ)
        except NerError as error:
            faults.append(error)
        except KeyError as error:
            faults.append(NerError(f"the environment variable {error.args[0]} is not set", value=value, place=key))
        except ValueError as error:
            faults.append(NerError(str(error), place=key))
    faults += contradictions({**given, **values})
    try:
        # Without the faulty keys, so that the objections of TrainingArguments itself are found too.
        data, model, training = parser.parse_dict({key: values[key] for key in values if key not in UNSUPPORTED})
    except (ValueError, TypeError, KeyError, ImportError, OverflowError) as error:
        return None, [*faults, NerError(" ".join(str(error).split()))]
    if "optim" in values and all(fault.place != "optim" for fault in faults):
        from transformers import Trainer

        try:
            Trainer.get_optimizer_cls_and_kwargs(training)
        except (ImportError, ValueError) as error:
            if "install" in str(error):  # others are about the model, which it gets later
                faults.append(NerError(str(error), value=values["optim"], place="optim"))
    return Recipe(data, model, training, {key: values[key] for key in values if key != "hub_token"}), faults


def shipped_recipes() -> dict[str, Path]:
    """{name: file} of the recipes that ship with the package; a sweep is none."""
    return {name: path for name, path in shipped("recipes").items() if LAUNCHER_KEY in path.read_text(encoding="utf-8")}


def recipe_path(given: str | Path) -> Path:
    """The file `given`, or the shipped recipe of this name; `given` itself if there is neither.

    >>> recipe_path("quickstart").name
    'quickstart.yaml'
    """
    return Path(given) if Path(given).is_file() else shipped_recipes().get(str(given), Path(given))


def _read_yaml(given: Path) -> dict[str, Any]:
    path = recipe_path(given)
    try:
        content = path.read_bytes()
        tree = yaml.load(content.decode("utf-8-sig"), UniqueKeys)
    except UnicodeDecodeError as error:
        raise NerError(f"not UTF-8 at byte {error.start}", place=path, remedy="save it as UTF-8") from None
    except OSError as error:
        what = f"cannot read the recipe ({error.strerror})"
        known = shipped_recipes()
        remedy = f"give a file, or the name of a shipped recipe: {', '.join(known)}{nearest(path.stem, known)}"
        raise NerError(what, place=path, remedy=remedy) from None
    except NOT_YAML as error:
        raise NerError(f"not YAML: {error}", place=path) from None
    if not isinstance(tree, dict):
        raise NerError(f"a recipe is `key: value` lines, this is a {type(tree).__name__}", place=path)
    if LAUNCHER_KEY in tree:
        _check_python(path, content)
    return {str(key): value for key, value in tree.items() if key != LAUNCHER_KEY}


def _check_python(path: Path, content: bytes) -> None:
    """Raise `NerError` unless a recipe that can be launched is one statement to Python, with all keys in its string.

    Python would run what is outside after the training, and print it where that fails.
    """
    remedy = f"put all keys between the launcher line and a last line {CLOSING}, with no other {QUOTES} there"
    try:
        statements = ast.parse(content).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        what = f"`accelerate launch` would run it as Python, which cannot read it ({getattr(error, 'msg', error)})"
        raise NerError(what, place=f"{path}:{getattr(error, 'lineno', 1)}", remedy=remedy) from None
    first, *others = statements
    keys = first.body[-1] if isinstance(first, ast.If) and not first.orelse else first
    whole = isinstance(keys, ast.Expr) and isinstance(keys.value, ast.Constant) and keys.lineno == first.lineno
    if others or not whole:
        line = others[0].lineno if others else first.end_lineno
        what = "this line is outside of the quotes, where Python would run it"
        raise NerError(what, place=f"{path}:{line}", remedy=remedy)


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


def _cast(action: Action, value: Any, optional: bool) -> Any:
    """`value` as the type of the field that `action` stands for. Raises a `NerError` that says what was expected."""
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
        texts = [*value, *filter(None, value.values())] if action.dest == "labels" else []
        if strange := [text for text in texts if not isinstance(text, str)]:
            # YAML 1.1 reads no, off and yes as booleans.
            raise NerError("not a text", value=strange[0], place=action.dest, remedy="put it in quotes")
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
