"""A sweep file: what is varied, how it is searched, and the command that runs one trial.

In: the YAML that `wandb sweep` takes. Out: a `Sweep`, or one error that lists every fault. Knows wandb's words and what
each means; nothing of Optuna, and of recipes only how to ask one for its faults.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ..entities import NerError
from .space import Choice, Range, read_parameter

Goal = Literal["minimize", "maximize"]

METRICS: dict[str, Goal] = {
    "f1": "maximize",
    "span_f1": "maximize",
    "macro_f1": "maximize",
    "loss": "minimize",
}
"""What a training prints at each evaluation, and which way is better."""

KEYS = ("program", "method", "metric", "parameters", "early_terminate", "command", "run_cap")
IDLE_KEYS = ("name", "description", "project", "entity")

COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
"""wandb's, where a file gives none. It runs a recipe too: a recipe is also Python."""

OWN_KEYS = {"output_dir": "each trial has its own folder", "resume_from_checkpoint": "a trial begins anew"}


@dataclass(frozen=True)
class Sweep:
    """A sweep file that was read and is right, but for what the recipe says of its keys (`recipe_faults`).

    `fixed` are the parameters of one value, `varied` the others. `local_faults` is what wandb can search and Optuna
    cannot. `told` is all that makes two sweeps comparable: what the file says, and the recipe.
    """

    path: Path
    program: str
    method: str
    metric: str
    goal: Goal
    fixed: Mapping[str, Any]
    varied: Mapping[str, Choice | Range]
    early_terminate: Mapping[str, Any]
    command: tuple[str, ...]
    run_cap: int | None
    local_faults: tuple[str, ...]
    told: Mapping[str, Any]

    def launch(self, values: Mapping[str, Any]) -> list[str]:
        """The command of one trial, its macros filled in as wandb's agent does it."""
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
        """What of `launch(values)` the recipe reads: all that stands behind it, where it stands there."""
        words = self.launch(values)
        if self.program in words:
            return words[words.index(self.program) + 1 :]
        return flags({**self.fixed, **values})

    def launch_of(self, recipe: Path) -> list[str]:
        """The command that runs `recipe` as the trials were run, without any override."""
        words = self.launch({})
        before = words[: words.index(self.program)] if self.program in words else ["accelerate", "launch"]
        return [*before, str(recipe)]


def flags(values: Mapping[str, Any]) -> list[str]:
    """Overrides as wandb's agent writes them: lists as Python does, booleans as True and False."""
    return [f"--{key}={value}" for key, value in values.items()]


_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_MACRO = re.compile(r"\$\{(?!envvar:)[^}]*\}")


def read_sweep(path: Path) -> Sweep:
    """Raises `NerError` that lists all faults of the file."""
    tree = _read_yaml(path)
    faults = [
        f"{key}: not read here; what is read: {', '.join(KEYS)}" for key in tree if key not in (*KEYS, *IDLE_KEYS)
    ]
    program, command = str(tree.get("program", "")), tree.get("command") or list(COMMAND)
    if not program:
        faults.append("program: missing; name the recipe that the trials train, program: recipes/lora.yaml")
    elif not Path(program).is_file():
        faults.append(f"program: {program} is not there; it is looked for from the folder the command is given in")
    method = tree.get("method")
    if method not in ("bayes", "grid", "random"):
        faults.append(f"method: {method} is none of bayes, grid, random")
    metric, goal = _metric(tree.get("metric"), faults)
    fixed, varied, local_faults = _parameters(tree.get("parameters"), method == "grid", faults)
    if isinstance(command, list):
        faults += _command_faults([str(word) for word in command])
    else:
        faults.append("command: must be a list, one element a word")
    cap = tree.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        faults.append(f"run_cap: {cap} is not a positive number")
    early = tree.get("early_terminate") or {}
    local_faults += _early_faults(early)
    if faults:
        raise NerError(headed(path, faults))
    told = {key: tree.get(key) for key in KEYS if key != "run_cap"} | {f"what {program} says": _said_by(Path(program))}
    words = tuple(str(word) for word in command)
    return Sweep(
        path, program, str(method), metric, goal, fixed, varied, early, words, cap, tuple(local_faults), told
    )  # fmt: skip


def headed(path: Path, faults: list[str]) -> str:
    """One message of all `faults` of a file."""
    return "\n  ".join([f"{path} has {len(faults)} fault{'s'[: len(faults) > 1]}", *faults])


def recipe_faults(sweep: Sweep) -> tuple[list[str], list[str], list[str]]:
    """(what the recipe has against the sweep's keys and values, what it has against itself, its trackers).

    The second is a matter of the machine as well: bf16 where there is no GPU. Each value of a list and both ends of
    each range are tried, one parameter at a time. Reads the recipe as a training does, so it loads torch and may take
    hold of a GPU: to be called in a process of its own.
    """
    from ..training.recipe import examine_recipe

    faults = [f"{key}: cannot be swept; {why}" for key, why in OWN_KEYS.items() if key in {*sweep.fixed, *sweep.varied}]
    own = examine_recipe(sweep.program, ["--output_dir=anywhere"])[1]
    here: list[str] = []
    trackers: list[str] = []
    for values in _probes(sweep):
        recipe, found = examine_recipe(sweep.program, [*sweep.overrides(values), "--output_dir=anywhere"])
        trackers = list(recipe.training.report_to) if recipe else trackers
        faults += [fault for fault in found if fault not in faults and fault not in own]
        here += [fault for fault in found if fault in own and fault not in here]
    return faults, here, trackers


def _probes(sweep: Sweep) -> Iterator[dict[str, Any]]:
    tried = {key: space.probes() for key, space in sweep.varied.items()}
    first = {key: values[0] for key, values in tried.items() if values}
    yield first
    for key, values in tried.items():
        for value in values[1:]:
            yield {**first, key: value}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NerError(f"{path}: no sweep could be read there ({error.strerror}); recipes/sweep.yaml is one") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NerError(f"{path}: not YAML: {error}") from None
    if not isinstance(tree, dict) or "parameters" not in tree:
        raise NerError(f"{path}: no sweep, which has `parameters`; recipes/sweep.yaml is one")
    return {str(key): value for key, value in tree.items()}


def _said_by(program: Path) -> Any:
    text = program.read_text(encoding="utf-8", errors="replace")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # no recipe; a script that reads overrides like one
        return text


def _metric(given: Any, faults: list[str]) -> tuple[str, Goal]:
    metric = given if isinstance(given, dict) else {}
    name = str(metric.get("name", "")).removeprefix("eval/")
    goal = metric.get("goal", "minimize")  # wandb's default
    if name not in METRICS or not str(metric.get("name")).startswith("eval/"):
        known = ", ".join(f"eval/{known}" for known in METRICS)
        faults.append(f"metric: name: {metric.get('name')} is none of {known}")
    elif goal != METRICS[name]:
        faults.append(f"metric: goal: {goal} (wandb's default is minimize) would look for the worst {name}")
    faults += [f"metric: {key}: not read here; remove it" for key in metric if key not in ("name", "goal")]
    return name, METRICS.get(name, "maximize")


def _parameters(
    given: Any, grid: bool, faults: list[str]
) -> tuple[dict[str, Any], dict[str, Choice | Range], list[str]]:
    if not isinstance(given, dict) or not given:
        faults.append("parameters: must be a mapping of recipe keys to what is tried")
        return {}, {}, []
    fixed: dict[str, Any] = {}
    varied: dict[str, Choice | Range] = {}
    local_faults = []
    for key, spec in given.items():
        try:
            read = read_parameter(spec)
        except ValueError as error:
            faults.append(f"{key}: {error}")
            continue
        if isinstance(read, str):
            local_faults.append(f"{key}: {read}")
        elif isinstance(read, Choice) and len(read.values) == 1:
            fixed[str(key)] = read.values[0]
        else:
            varied[str(key)] = read
            if grid and read.grid() is None:
                faults.append(f"{key}: a grid needs values, or whole numbers from min to max")
    return fixed, varied, local_faults


def _command_faults(command: list[str]) -> list[str]:
    """Macros are whole elements to wandb; one that it does not know vanishes from the command without a word."""
    faults = []
    known = {*COMMAND, "${args_no_equals}"}
    for word in command:
        for macro in _MACRO.findall(word):
            if word != macro:
                faults.append(f"command: {word}: a macro must be an element of its own, so {macro} stays as it is")
            elif macro not in known:
                faults.append(f"command: {macro}: a recipe reads `--key=value`; write ${{args}}")
    if not {"${args}", "${args_no_equals}"} & set(command):
        faults.append("command: without ${args} all trials are the same")
    first = command[0] if command else ""
    if not _MACRO.search(first) and not shutil.which(first, path=search_path()):
        faults.append(f"command: {first} is not a program that can be found")
    return faults


def search_path() -> str:
    """PATH, and before it the folder of this Python: accelerate stands beside it, activated or not."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _early_faults(early: Any) -> list[str]:
    if not isinstance(early, dict):
        return ["early_terminate: must be a mapping with a type"]
    if not early:
        return []
    kind = early.get("type")
    known = {"hyperband": ("min_iter", "max_iter", "s", "eta"), "median": ("min_iter",)}
    if kind not in known:
        return [f"early_terminate: type: {kind} is none of hyperband, median"]
    faults = []
    for key, value in early.items():
        if key == "type":
            continue
        if key not in known[kind]:
            faults.append(f"early_terminate: {key}: not read with type: {kind}; remove it")
        elif not isinstance(value, int) or value < (2 if key == "eta" else 1):
            faults.append(f"early_terminate: {key}: {value} is not a whole number from {2 if key == 'eta' else 1} on")
    if kind == "hyperband" and "min_iter" not in early and "max_iter" not in early:
        faults.append("early_terminate: hyperband needs min_iter, or max_iter and s")
    return faults
