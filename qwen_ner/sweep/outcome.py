"""The outcome of a local sweep: a table, plots, the best recipe.

In: a study. Out: a text for the terminal; history.png, importances.png, parallel_coordinates.png and best.yaml in the
sweep's folder.
"""

from __future__ import annotations

import logging
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ..entities import NerError
from .sweep_file import Sweep

if TYPE_CHECKING:
    from optuna import Study

log = logging.getLogger(__name__)

BEST = """\
# The best of {trials} trials of {sweep}: trial {number}, eval/{metric} {value:.4f} on the validation rows.
#
# Launch     {launch}
# Override   … {path} --key value
#
# This file is YAML to qwen-ner and Python to `accelerate launch`; the next line makes it so.
if __name__ == "__main__": from qwen_ner.cli import main; main(); r\"\"\"

{values}# \"\"\"
"""


def report(sweep: Sweep, study: Study, folder: Path) -> str:
    """Write plots and the best recipe; returns the table and where they are.

    Raises `NerError` where no trial succeeded.
    """
    from optuna.trial import TrialState

    table = format_table(sweep, study)
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if not complete:
        raise NerError(f"no trial succeeded\n{table}\nThe logs: {folder / 'trial-*' / 'log.txt'}")
    best = write_best(sweep, study, folder)
    paths = [best, *draw(sweep, study, folder, distinct=len({trial.value for trial in complete}) > 1)]
    launch = shlex.join(sweep.launch_recipe(best))
    return "\n".join([table, "", *map(str, paths), "", "To train the best recipe once more:", f"  {launch}"])


def format_table(sweep: Sweep, study: Study) -> str:
    """A line a trial: number, state, value (the last one if it was pruned), seconds, what was varied, why it failed."""
    rows = [["trial", "state", f"eval/{sweep.metric}", "seconds", *sweep.varied, ""]]
    for trial in study.get_trials(deepcopy=False):
        if trial.params or trial.state.is_finished():  # not one of a grid that waits for its turn
            values = sweep.values(trial.params)
            numbers = [trial.value, trial.duration and trial.duration.total_seconds()]
            shown = ["-" if n is None else f"{n:.{digits}f}" for n, digits in zip(numbers, (4, 0), strict=True)]
            varied = [f"{v:.4g}" if isinstance(v := values.get(key), float) else str(v) for key in sweep.varied]
            failure = trial.user_attrs.get("failure", "")
            rows.append([str(trial.number), trial.state.name.lower(), *shown, *varied, failure])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def write_best(sweep: Sweep, study: Study, folder: Path) -> Path:
    """best.yaml: the recipe with the values of the best trial and an output folder of its own."""
    from ..training.recipe import load_recipe

    path, trial = folder / "best.yaml", study.best_trial
    overrides = [*sweep.overrides(sweep.values(trial.params)), f"--output_dir={folder / 'best'}"]
    text = BEST.format(
        trials=len(study.get_trials(deepcopy=False)),
        sweep=sweep.path,
        number=trial.number,
        metric=sweep.metric,
        value=study.best_value,
        launch=shlex.join(sweep.launch_recipe(path)),
        path=path,
        values=yaml.safe_dump(
            load_recipe(sweep.program, overrides).values, allow_unicode=True, sort_keys=False, width=120
        ),
    )
    path.write_text(text, encoding="utf-8")
    return path


def draw(sweep: Sweep, study: Study, folder: Path, distinct: bool) -> list[Path]:
    """The plots that Optuna can draw; two of the three need trials of distinct values."""
    import matplotlib
    from optuna.visualization import matplotlib as plots

    kinds = {"history": plots.plot_optimization_history}
    if distinct and sweep.varied:
        kinds |= {"importances": plots.plot_param_importances, "parallel_coordinates": plots.plot_parallel_coordinate}
    else:
        log.info("importances.png and parallel_coordinates.png need two completed trials that differ.")
    matplotlib.use("Agg")
    for name, plot in kinds.items():
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its plots experimental
            figure = plot(study, target_name=f"eval/{sweep.metric}").figure
            figure.set_size_inches(2.5 + 1.5 * max(3, len(sweep.varied)), 5)
            figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
    matplotlib.pyplot.close("all")
    return [folder / f"{name}.png" for name in kinds]
