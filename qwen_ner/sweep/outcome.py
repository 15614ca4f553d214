"""What a local sweep ends with: a table, plots, the best recipe.

In: a study. Out: a text for the terminal; history.png, importances.png, parallel_coordinates.png and best.yaml in the
sweep's folder.
"""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..entities import NerError
from .sweep_file import Sweep

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

BEST = """\
# The best of {trials} trials of {sweep}: trial {number}, {metric} {value:.4f} on the validation rows.
#
# Launch     {launch}
# Override   … {path} --key value
#
# This file is YAML to qwen-ner and Python to `accelerate launch`; the next line makes it so.
if __name__ == "__main__": from qwen_ner.cli import main; main(); r\"\"\"

{values}# \"\"\"
"""


def report(sweep: Sweep, study: Study, folder: Path, extra: Sequence[str]) -> str:
    """Write plots and the best recipe; returns the table and where they are.

    Raises `NerError` where no trial ended well.
    `extra` are the overrides that each trial had beside its own.
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    said = table(sweep, trials)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        raise NerError(f"no trial ended well\n{said}\nThe logs: {folder / 'trial-*' / 'log.txt'}")
    paths = [write_best(sweep, study, folder, extra), *draw(sweep, study, folder)]
    return "\n".join([said, "", *(str(path) for path in paths), "", "The best recipe, to train it once more:"]) + (
        f"\n  {shlex.join(sweep.launch_of(paths[0]))}"
    )


def table(sweep: Sweep, trials: list[FrozenTrial]) -> str:
    """A line a trial: number, state, value (of one that was pruned: the last), seconds, and what was varied."""
    head = ["trial", "state", f"eval/{sweep.metric}", "seconds", *sweep.varied, ""]
    rows = [head]
    for trial in trials:
        if not trial.params and not trial.state.is_finished():  # enqueued, never begun
            continue
        last = trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
        value = trial.value if trial.value is not None else last
        given = [_short(trial.params.get(key)) for key in sweep.varied]
        state, failure = trial.state.name.lower(), trial.user_attrs.get("failure", "")
        shown = "-" if value is None else f"{value:.4f}"
        rows.append([str(trial.number), state, shown, f"{trial.user_attrs.get('seconds', 0):.0f}", *given, failure])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_best(sweep: Sweep, study: Study, folder: Path, extra: Sequence[str]) -> Path:
    """best.yaml: the recipe with what the best trial was given, and a folder of its own."""
    from ..training.recipe import load_recipe

    path, trial = folder / "best.yaml", study.best_trial
    overrides = [*sweep.overrides(trial.params), *extra, f"--output_dir={folder / 'best'}"]
    values = load_recipe(sweep.program, overrides).values
    text = BEST.format(
        trials=len(study.get_trials(deepcopy=False)),
        sweep=sweep.path,
        number=trial.number,
        metric=f"eval/{sweep.metric}",
        value=study.best_value,
        launch=shlex.join(sweep.launch_of(path)),
        path=path,
        values=yaml.safe_dump(values, allow_unicode=True, sort_keys=False, width=120),
    )
    path.write_text(text, encoding="utf-8")
    return path


def draw(sweep: Sweep, study: Study, folder: Path) -> list[Path]:
    """The pictures that the finished trials allow, by Optuna's own hand."""
    import matplotlib
    from optuna.trial import TrialState
    from optuna.visualization import matplotlib as plots

    values = {trial.value for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])}
    kinds: dict[str, Callable[..., Any]] = {"history": plots.plot_optimization_history}
    if len(values) > 1 and sweep.varied:
        kinds |= {"importances": plots.plot_param_importances, "parallel_coordinates": plots.plot_parallel_coordinate}
    else:
        log.info("importances.png and parallel_coordinates.png need two finished trials that differ.")
    paths = []
    matplotlib.use("Agg")
    for name, plot in kinds.items():
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna says that its plots are experimental
            figure = plot(study, target_name=f"eval/{sweep.metric}").figure
            figure.set_size_inches(2.5 + 1.5 * max(3, len(sweep.varied)), 5)
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=120, bbox_inches="tight")
            paths.append(path)
    matplotlib.pyplot.close("all")
    return paths
