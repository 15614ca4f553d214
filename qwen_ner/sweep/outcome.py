"""The outcome of a local sweep: a table, plots, the best recipe.

In: a study. Out: a text for the terminal; history.png, importances.png, parallel_coordinates.png and best.yaml in the
sweep's folder.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..columns import align
from ..entities import NerError
from ..files import write_text
from .sweep_file import Sweep

if TYPE_CHECKING:
    from optuna import Study


def report(sweep: Sweep, study: Study, folder: Path) -> str:
    """Write plots and the best recipe; returns the table and where they are.

    Raises `NerError` where no trial succeeded.
    """
    table = format_table(sweep, study)
    if not any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)):
        raise NerError(f"no trial succeeded; see trial-*/log.txt there\n{table}", place=folder)
    best = write_best(sweep, study, folder)
    launch = shlex.join(sweep.launch_recipe(best))
    paths = map(str, [best, *draw(sweep, study, folder)])
    said = "To train the best recipe once more:"
    if sweep.goal == "maximize" and study.best_value == 0:
        said = (
            f"No trial scored above 0, so {sweep.metric} does not tell them apart and best.yaml is only the first of "
            "them: raise num_train_epochs or max_steps, and search again. To train it once more all the same:"
        )
    return "\n".join([table, "", *paths, "", said, f"  {launch}"])


def format_table(sweep: Sweep, study: Study) -> str:
    """A line a trial: number, state, value (the last one if it was pruned), seconds, what was varied, why it failed."""
    rows = [["trial", "state", f"eval/{sweep.metric}", "seconds", *sweep.varied, ""]]
    for trial in study.get_trials(deepcopy=False):
        if trial.params or trial.state.is_finished():  # not one of a grid that waits for its turn
            values = sweep.values(trial.params)
            value = "-" if trial.value is None else f"{trial.value:.4f}"
            seconds = f"{trial.duration.total_seconds():.0f}" if trial.duration else "-"
            varied = [f"{v:.4g}" if isinstance(v := values.get(key), float) else str(v) for key in sweep.varied]
            failure = trial.user_attrs.get("failure", "")
            rows.append([str(trial.number), trial.state.name.lower(), value, seconds, *varied, failure])
    return "\n".join(align(rows))


def write_best(sweep: Sweep, study: Study, folder: Path) -> Path:
    """best.yaml: the recipe with the values of the best trial and an output folder of its own."""
    from ..training.recipe import CLOSING, LAUNCHER_LINE, load_recipe

    path, trial = folder / "best.yaml", study.best_trial
    overrides = [*sweep.overrides(sweep.values(trial.params)), f"--output_dir={folder / 'best'}"]
    recipe = load_recipe(sweep.program, overrides).values
    about = f"# The best trial of {sweep.path}: trial {trial.number}, eval/{sweep.metric} {trial.value:.4f}"
    launch = f"# Launch: {shlex.join(sweep.launch_recipe(path))}"
    keys = yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False, width=120)
    write_text(path, [f"{about} on the validation rows.\n{launch}\n{LAUNCHER_LINE}\n\n{keys}{CLOSING}\n"])
    return path


def draw(sweep: Sweep, study: Study, folder: Path) -> list[Path]:
    """The plots that Optuna can draw; two of the three need trials of distinct values."""
    import matplotlib
    from optuna.visualization import matplotlib as plots

    kinds: dict[str, Callable[..., Any]] = {"history": plots.plot_optimization_history}
    if sweep.varied and len({trial.value for trial in study.get_trials() if trial.state.name == "COMPLETE"}) > 1:
        kinds |= {"importances": plots.plot_param_importances, "parallel_coordinates": plots.plot_parallel_coordinate}
    matplotlib.use("Agg")
    for name, plot in kinds.items():
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its plots experimental
            figure = plot(study, target_name=f"eval/{sweep.metric}").figure
            figure.set_size_inches(2.5 + 1.5 * max(3, len(sweep.varied)), 5)
            figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
    matplotlib.pyplot.close("all")
    return [folder / f"{name}.png" for name in kinds]
