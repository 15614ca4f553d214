"""A sweep file: what is varied, how it is searched, and the command that runs one trial.

In: the YAML that `wandb sweep` takes. Out: a `Sweep`, or one error that lists every fault. Knows wandb's keys, and of
recipes only how to ask one for its faults; nothing of Optuna.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from ..entities import NerError
from ..training.finding import NOT_YAML, FaultsError, UniqueKeys
from .space import Space, nest, read_parameter, unknown

if TYPE_CHECKING:
    from transformers import TrainingArguments

METRICS: dict[str, Literal["minimize", "maximize"]] = {
    "f1": "maximize",
    "span_f1": "maximize",
    "macro_f1": "maximize",
    "loss": "minimize",
}
"""What a training prints at each evaluation, and its goal: the other one would look for the worst model."""

KEYS = ("program", "method", "metric", "parameters", "early_terminate", "command", "run_cap")
METHODS = ("bayes", "grid", "random")
IGNORED_KEYS = ("name", "description", "project", "entity")

COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
"""wandb's default. It runs a recipe too: a recipe is also Python."""

HYPERBAND = {"min_iter": 1, "max_iter": 1, "s": 1, "eta": 2}
"""The fields of `early_terminate`, and the least value of each."""

OWN_KEYS = {"output_dir": "each trial has its own folder", "resume_from_checkpoint": "each trial starts anew"}

EXAMPLE = "see recipes/sweep.yaml for an example"

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
        macros = {
            "${env}": ["/usr/bin/env"],
            "${interpreter}": [sys.executable],
            "${program}": [self.program],
            "${args}": flags({**self.fixed, **values}),
        }
        filled = (_ENVIRONMENT.sub(lambda found: os.environ.get(found[1], found[1]), word) for word in self.command)
        return [word for element in filled for word in macros.get(element, [element])]

    @property
    def set_again(self) -> set[str]:
        """The keys that the command sets behind those of a trial."""
        after = self.command[self.command.index("${args}") + 1 :] if "${args}" in self.command else ()
        words = replace(self, command=tuple(after)).launch({})
        return {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The part of `launch(values)` that the recipe reads: what follows its name."""
        words = self.launch(values)
        return words[words.index(self.program) + 1 :]

    def launch_recipe(self, recipe: Path) -> list[str]:
        """The command that runs `recipe` as the trials were run, without overrides."""
        if self.command == COMMAND:  # the same, and easier to read
            return ["qwen-ner", "train", str(recipe)]
        words = self.launch({})
        return [*words[: words.index(self.program)], str(recipe)]


def flags(values: Mapping[str, Any]) -> list[str]:
    """Overrides as wandb's agent writes them: lists as Python does, booleans as True and False."""
    return [f"--{key}={value}" for key, value in values.items()]


def read_sweep(path: Path) -> Sweep:
    """Raises `FaultsError` with all faults of the file."""
    tree = _read_yaml(path)
    if "parameters" not in tree:
        raise NerError("no `parameters`, so no sweep", place=path, remedy=EXAMPLE)
    faults, spaces = [*_find_faults(tree)], _parameters(tree["parameters"], tree.get("method") == "grid")
    if faults := faults + [space for space in spaces.values() if isinstance(space, NerError)]:
        raise FaultsError(faults, path)
    known = {key: space for key, space in spaces.items() if isinstance(space, Space)}
    program, early = str(tree["program"]), tree.get("early_terminate") or {}
    local_faults = [nest(key, space.unsupported) for key, space in known.items() if space.unsupported]
    if early.get("strict"):
        local_faults.append(NerError("Optuna has none", place="early_terminate.strict", remedy="remove it"))
    return Sweep(
        path,
        program,
        method=tree["method"],
        metric=tree["metric"]["name"].removeprefix("eval/"),
        fixed={key: space.values[0] for key, space in known.items() if len(space.values) == 1},
        varied={key: space for key, space in known.items() if len(space.values) != 1},
        early_terminate=early,
        command=tuple(map(str, tree.get("command", COMMAND))),
        run_cap=tree.get("run_cap"),
        local_faults=tuple(local_faults),
        identity={key: tree.get(key) for key in KEYS if key != "run_cap"} | {program: _read_yaml(Path(program))},
    )


def check_recipe(sweep: Sweep, *, local: bool = False) -> tuple[list[NerError], list[str]]:
    """(the faults that the recipe finds in the sweep's keys and values, its trackers).

    With `local` also those of the recipe itself, which depend on the machine: bf16 without a GPU. Each value of a list
    and both ends of each range are tried, one parameter at a time. Loads torch and may take hold of a GPU, so call it
    in a process of its own.
    """
    from ..training.recipe import examine_recipe

    metric_faults = list[NerError]()
    swept = {*sweep.fixed, *sweep.varied}
    unsupported = {fault.place for fault in sweep.local_faults}  # their values are not known
    own = set() if local else {str(fault) for fault in examine_recipe(sweep.program, ["--output_dir=anywhere"])[1]}
    first = {key: space.probes[0] for key, space in sweep.varied.items()}
    others = [{**first, key: value} for key, space in sweep.varied.items() for value in space.probes[1:]]
    faults = [NerError("cannot be swept", place=key, remedy=OWN_KEYS[key]) for key in OWN_KEYS if key in swept]
    again = [key for key in sorted(swept) if key.replace("-", "_") in sweep.set_again]
    what = "is set again in `command`, behind ${args}, and that counts"
    faults += [NerError(what, place=key, remedy="remove it there") for key in again]
    for values in [first, *others]:
        recipe, found = examine_recipe(sweep.program, [*sweep.overrides(values), "--output_dir=anywhere"])
        faults += [fault for fault in found if fault.place not in unsupported or fault.what == "unknown"]
        metric_faults += _metric_faults(recipe.training, sweep.metric) if recipe else []
    told = {str(fault): fault for fault in faults if str(fault) not in own}
    told |= {str(fault): fault for fault in metric_faults}
    return [*told.values()], list(recipe.training.report_to) if recipe else []


def _metric_faults(args: TrainingArguments, metric: str) -> Iterator[NerError]:
    """What keeps a trial from having a value of `metric`, or its best one from being that of the model it keeps."""
    from ..training.loop.callbacks import chosen_by

    if args.eval_strategy == "no":
        remedy = "set eval_strategy: epoch in the recipe"
        yield NerError("a trial without evaluations has no value", value="no", place="eval_strategy", remedy=remedy)
    elif args.load_best_model_at_end and (kept := chosen_by(args).removeprefix("eval_")) != metric:
        what = f"keeps another checkpoint than the one that eval/{metric} finds best"
        remedy = f"set metric_for_best_model: {metric} in the recipe, or search for another metric"
        yield NerError(what, value=kept, place="metric_for_best_model", remedy=remedy)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except OSError as error:
        raise NerError(f"cannot read the sweep file ({error.strerror})", place=path, remedy=EXAMPLE) from None
    except NOT_YAML as error:
        raise NerError(f"not YAML: {error}", place=path) from None
    return {str(key): value for key, value in tree.items()} if isinstance(tree, dict) else {}


def _find_faults(tree: Mapping[str, Any]) -> Iterator[NerError]:
    """What is wrong with the keys of a sweep file, but for its parameters."""
    for key in tree:
        if key not in (*KEYS, *IGNORED_KEYS):
            yield unknown(key, KEYS)
    if not Path(program := str(tree.get("program", ""))).is_file():
        remedy = "name a recipe, relative to the current folder"
        yield NerError("no such file", value=program, place="program", remedy=remedy)
    if (method := tree.get("method")) not in METHODS:
        yield NerError("unknown method", value=method, place="method", remedy=f"choose from {', '.join(METHODS)}")
    if not _is_whole(cap := tree.get("run_cap", 1), 1):
        yield NerError("not a positive number", value=cap, place="run_cap")
    metrics = [{"name": f"eval/{name}", "goal": goal} for name, goal in METRICS.items()]
    metric = tree.get("metric")  # wandb's default goal is minimize
    if not isinstance(metric, dict) or {"goal": "minimize", **metric} not in metrics:
        remedy = f"choose from {yaml.safe_dump(metrics, default_flow_style=True, sort_keys=False, width=999).strip()}"
        yield NerError("not a metric of a training with its goal", value=metric, place="metric", remedy=remedy)
    command = tree.get("command", COMMAND)
    if not isinstance(command, (list, tuple)) or not {"${program}", "${args}"} <= {*map(str, command)}:
        yield NerError("must be a list of words, ${program} and ${args} among them", value=command, place="command")
    elif strange := [word for word in map(str, command) if _MACRO.search(word) and word not in COMMAND]:
        # wandb drops a macro that it does not know, without a word.
        what = f"a macro is an element of its own, one of {', '.join(COMMAND)}"
        yield NerError(what, value=strange[0], place="command")
    if (early := tree.get("early_terminate")) and not _is_hyperband(early):
        remedy = "write {type: hyperband, min_iter: 1, eta: 3}, or max_iter and s for min_iter; eta is at least 2"
        yield NerError("not wandb's hyperband", value=early, place="early_terminate", remedy=remedy)


def _is_hyperband(early: Any) -> bool:
    """Whether it has known fields in their ranges, and what tells the first rung: min_iter, or max_iter and s."""
    return (
        isinstance(early, dict)
        and early.get("type") == "hyperband"
        and early.keys() <= {"type", "strict", *HYPERBAND}
        and all(_is_whole(early.get(key, least), least) for key, least in HYPERBAND.items())
        and not early.keys().isdisjoint({"min_iter", "max_iter"})
    )


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least  # True is none


def _parameters(given: Any, grid: bool) -> dict[str, Space | NerError]:
    """What is tried of each key, or what is wrong with it."""
    if not isinstance(given, dict) or not given:
        what = "must be a mapping of recipe keys to what is tried"
        return {"": NerError(what, value=given, place="parameters")}
    spaces: dict[str, Space | NerError] = {}
    for key, spec in given.items():
        try:
            spaces[str(key)] = space = read_parameter(spec)
            if grid and not space.grid:
                raise NerError("a grid needs values, or whole numbers from min to max")
        except NerError as error:
            spaces[str(key)] = nest(str(key), error)
    return spaces
