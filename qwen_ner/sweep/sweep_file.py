"""A sweep file: what is varied, how it is searched, and the command that runs one trial.

In: the YAML that `wandb sweep` takes. Out: a `Sweep`, or one error that lists every fault. Knows wandb's keys, and of
recipes only how to ask one for its faults; nothing of Optuna.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..entities import NerError
from ..training.finding import NOT_YAML, FaultsError, UniqueKeys
from .space import Space, is_whole, nest, read_parameter, unknown

METRICS: dict[str, Literal["minimize", "maximize"]] = {
    "f1": "maximize",
    "span_f1": "maximize",
    "macro_f1": "maximize",
    "loss": "minimize",
}
"""What a training prints at each evaluation, and its goal."""

KEYS = ("program", "method", "metric", "parameters", "early_terminate", "command", "run_cap")
METHODS = ("bayes", "grid", "random")
IGNORED_KEYS = ("name", "description", "project", "entity")

COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
"""wandb's default. It runs a recipe too: a recipe is also Python."""

HYPERBAND = {"min_iter": 1, "max_iter": 1, "s": 1, "eta": 2}
"""The fields of `early_terminate`, and the least value of each."""

OWN_KEYS = {"output_dir": "each trial has its own folder", "resume_from_checkpoint": "each trial starts anew"}

_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_MACRO = re.compile(r"\$\{(?!envvar:)[^}]*\}")


@dataclass(frozen=True)
class Sweep:
    """A valid sweep file; `check_recipe` has the recipe check it too.

    `fixed` are the parameters of one value, `varied` the others. `local_faults` are what wandb can do and Optuna
    cannot. `identity` is all that makes two sweeps comparable: what the file says, and the recipe.
    """

    path: Path
    program: str
    method: str
    metric: str
    fixed: Mapping[str, Any]
    varied: Mapping[str, Space]
    early_terminate: Mapping[str, Any]
    command: tuple[str, ...]
    run_cap: int | None
    local_faults: tuple[NerError, ...]
    identity: Mapping[str, Any]

    @property
    def goal(self) -> Literal["minimize", "maximize"]:
        return METRICS[self.metric]

    def values(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial gets of what Optuna drew for it."""
        return {key: self.varied[key].value(value) for key, value in drawn.items()}

    def launch(self, values: Mapping[str, Any]) -> list[str]:
        """The command of one trial, its macros filled in as wandb's agent does."""
        given = {**self.fixed, **values}
        macros = {
            "${env}": ["/usr/bin/env"],
            "${interpreter}": [sys.executable],
            "${program}": [self.program],
            "${args}": flags(given),
            "${args_no_equals}": [word for key, value in given.items() for word in (f"--{key}", str(value))],
        }
        filled = (_ENVIRONMENT.sub(lambda found: os.environ.get(found[1], found[1]), word) for word in self.command)
        return [word for element in filled for word in macros.get(element, [element])]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The part of `launch(values)` that the recipe reads: what follows its name."""
        words = self.launch(values)
        return words[words.index(self.program) + 1 :]

    def launch_recipe(self, recipe: Path) -> list[str]:
        """The command that runs `recipe` as the trials were run, without overrides."""
        words = self.launch({})
        return [*words[: words.index(self.program)], str(recipe)]


def flags(values: Mapping[str, Any]) -> list[str]:
    """Overrides as wandb's agent writes them: lists as Python does, booleans as True and False."""
    return [f"--{key}={value}" for key, value in values.items()]


def search_path() -> str:
    """PATH, preceded by the folder of this Python: accelerate is beside it even where it is not activated."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def read_sweep(path: Path) -> Sweep:
    """Raises `FaultsError` with all faults of the file."""
    tree = _read_yaml(path)
    if "parameters" not in tree:
        raise NerError("no `parameters`, so no sweep", place=path, remedy="see recipes/sweep.yaml for an example")
    faults = [unknown(key, KEYS) for key in tree if key not in (*KEYS, *IGNORED_KEYS)]
    program, method = str(tree.get("program", "")), tree.get("method")
    if not Path(program).is_file():
        remedy = "name a recipe, relative to the current folder"
        faults.append(NerError("no such file", value=program, place="program", remedy=remedy))
    if method not in METHODS:
        remedy = f"choose from {', '.join(METHODS)}"
        faults.append(NerError("unknown method", value=method, place="method", remedy=remedy))
    if not is_whole(cap := tree.get("run_cap", 1), 1):
        faults.append(NerError("not a positive number", value=cap, place="run_cap"))
    metric = _metric(tree.get("metric"), faults)
    spaces = _parameters(tree["parameters"], method == "grid", faults)
    command = _command(tree.get("command", COMMAND), program, faults)
    early = tree.get("early_terminate") or {}
    local_faults = [nest(key, space.unsupported) for key, space in spaces.items() if space.unsupported]
    faults += _early_faults(tree.get("early_terminate"))
    raise_faults(path, faults)
    if early.get("strict"):
        local_faults.append(NerError("Optuna has none", place="early_terminate.strict", remedy="remove it"))
    identity = {key: tree.get(key) for key in KEYS if key != "run_cap"} | {program: _read_yaml(Path(program))}
    fixed = {key: space.values[0] for key, space in spaces.items() if len(space.values) == 1}
    varied = {key: space for key, space in spaces.items() if key not in fixed}
    shared = (early, command, tree.get("run_cap"), tuple(local_faults), identity)
    return Sweep(path, program, str(method), metric, fixed, varied, *shared)


def raise_faults(path: Path, faults: list[NerError]) -> None:
    """Raise one `FaultsError` of all `faults` of a file, if there are any."""
    if faults:
        raise FaultsError(faults, path)


def check_recipe(sweep: Sweep) -> tuple[list[NerError], list[NerError], list[str]]:
    """(the faults that the recipe finds in the sweep's keys and values, those of the recipe itself, its trackers).

    The second depend on the machine too: bf16 without a GPU. Each value of a list and both ends of each range are
    tried, one parameter at a time. Loads torch and may take hold of a GPU, so call it in a process of its own.
    """
    from ..training.recipe import examine_recipe

    swept = [key for key in OWN_KEYS if key in {*sweep.fixed, *sweep.varied}]
    faults = {key: NerError("cannot be swept", place=key, remedy=OWN_KEYS[key]) for key in swept}
    unsupported = {fault.place for fault in sweep.local_faults}  # their values are not known
    base = {str(fault) for fault in examine_recipe(sweep.program, ["--output_dir=anywhere"])[1]}
    own: dict[str, NerError] = {}
    trackers: list[str] = []
    first = {key: space.probes[0] for key, space in sweep.varied.items()}
    others = [{**first, key: value} for key, space in sweep.varied.items() for value in space.probes[1:]]
    for values in [first, *others]:
        recipe, found = examine_recipe(sweep.program, [*sweep.overrides(values), "--output_dir=anywhere"])
        trackers = list(recipe.training.report_to) if recipe else trackers
        for fault in found:
            if fault.place not in unsupported or fault.what == "unknown":
                (own if str(fault) in base else faults).setdefault(str(fault), fault)
    return list(faults.values()), list(own.values()), trackers


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except OSError as error:
        remedy = "see recipes/sweep.yaml for an example"
        raise NerError(f"cannot read the sweep file ({error.strerror})", place=path, remedy=remedy) from None
    except NOT_YAML as error:
        raise NerError(f"not YAML: {error}", place=path) from None
    return {str(key): value for key, value in tree.items()} if isinstance(tree, dict) else {}


def _metric(given: Any, faults: list[NerError]) -> str:
    if not isinstance(given, dict):
        remedy = "write metric: {name: eval/f1, goal: maximize}"
        faults.append(NerError("must be a mapping of name and goal", value=given, place="metric", remedy=remedy))
        return ""
    metric = {str(key): value for key, value in given.items()}
    prefix, _, name = str(metric.get("name")).partition("/")
    goal = metric.get("goal", "minimize")  # wandb's default
    if prefix != "eval" or name not in METRICS:
        remedy = f"choose from {', '.join(f'eval/{known}' for known in METRICS)}"
        faults.append(NerError("unknown metric", value=metric.get("name"), place="metric.name", remedy=remedy))
    elif goal != METRICS[name]:
        what, remedy = f"would look for the worst {name}", f"set {METRICS[name]}; wandb's default is minimize"
        faults.append(NerError(what, value=goal, place="metric.goal", remedy=remedy))
    faults += [nest("metric", unknown(key, ("name", "goal"))) for key in metric if key not in ("name", "goal")]
    return name


def _parameters(given: Any, grid: bool, faults: list[NerError]) -> dict[str, Space]:
    spaces: dict[str, Space] = {}
    if not isinstance(given, dict) or not given:
        faults.append(NerError("must be a mapping of recipe keys to what is tried", value=given, place="parameters"))
        return spaces
    for key, spec in given.items():
        try:
            spaces[str(key)] = space = read_parameter(spec)
        except NerError as error:
            faults.append(nest(str(key), error))
        else:
            if grid and not space.grid:
                faults.append(NerError("a grid needs values, or whole numbers from min to max", place=str(key)))
    return spaces


def _command(given: Any, program: str, faults: list[NerError]) -> tuple[str, ...]:
    """A macro is a whole element to wandb; one that it does not know vanishes from the command without a word."""
    if not isinstance(given, (list, tuple)):
        faults.append(NerError("must be a list, one element a word", value=given, place="command"))
        return ()
    command, macros = tuple(map(str, given)), (*COMMAND, "${args_no_equals}")
    for word in command:
        if _MACRO.search(word) and word not in macros:
            what = f"a macro is an element of its own, one of {', '.join(macros)}"
            faults.append(NerError(what, value=word, place="command"))
    if not {"${program}", program} & set(command) or not {"${args}", "${args_no_equals}"} & set(command):
        faults.append(NerError("needs ${program} and ${args}", place="command"))
    return command


def _early_faults(early: Any) -> list[NerError]:
    if early is None or early == {}:
        return []
    if not isinstance(early, dict) or early.get("type") != "hyperband":
        kind = early.get("type") if isinstance(early, dict) else early
        remedy = "write early_terminate: {type: hyperband, min_iter: 3}, wandb's only type"
        return [NerError("unknown type", value=kind, place="early_terminate.type", remedy=remedy)]
    faults = [unknown(str(key), HYPERBAND) for key in early if key not in ("type", "strict", *HYPERBAND)]
    for key, least in HYPERBAND.items():
        if not is_whole(early.get(key, least), least):
            remedy = f"give a whole number from {least} on"
            faults.append(NerError("out of range", value=early[key], place=key, remedy=remedy))
    if not {"min_iter", "max_iter"} & set(early):
        faults.append(NerError("the first rung is missing", remedy="give min_iter, or max_iter and s"))
    return [nest("early_terminate", fault) for fault in faults]
