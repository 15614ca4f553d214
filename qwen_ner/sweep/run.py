"""A sweep without an account: the file that `wandb sweep` takes, searched by Optuna, each trial a process of its own.

In: a sweep file and the number of trials. Out: a folder with each trial's own, the study (study.journal), plots and the
best recipe; a table on the terminal. Knows nothing of a trial but its log.

A trial that is RUNNING in the journal when a sweep starts was interrupted, however that happened: it is queued again
under its number, and so resumes in its folder from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import signal
import subprocess
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..entities import NerError
from ..files import install_line, lock
from .sweep_file import Sweep, check_recipe, flags, raise_faults, read_sweep
from .trial import failure, kill, read_evaluations, start, stop

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner

log = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between two looks at a trial's log."""


def sweep(path: Path, *, local: bool, trials: int | None = None, jobs: int = 1, output: Path | None = None) -> None:
    """Check a sweep file; with `local` run it until `trials` trials have ended in all, `jobs` at a time.

    Raises `NerError`, for all that can be known beforehand before any trial, and `KeyboardInterrupt` after SIGINT or
    SIGTERM, once each trial has saved a checkpoint.
    """
    if jobs < 1:
        raise NerError("not a positive number", value=jobs, place="--jobs")
    read = read_sweep(path)
    # In a process of its own: to read a recipe loads torch and may hold a GPU, here for as long as the sweep runs.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        faults, own, trackers = pool.submit(check_recipe, read).result()
    raise_faults(path, faults + ([*own, *read.local_faults] if local else []))
    if not local:
        print(f"{path} is valid. With wandb, its agents run the trials:\n  wandb sweep {path}")
        print(f"  wandb agent ENTITY/PROJECT/ID\nWithout: qwen-ner sweep {path} --local --trials 20")
        return
    others = [tracker for tracker in trackers if tracker != "wandb"]  # which would ask for an account
    if others != trackers:
        read = replace(read, command=(*read.command, f"--report_to={others or 'none'}"))
    run(read, output or Path("outputs") / path.stem, _number_of_trials(read, trials), jobs=jobs)


def _number_of_trials(sweep: Sweep, trials: int | None) -> int:
    grid = math.prod(len(space.grid) for space in sweep.varied.values()) if sweep.method == "grid" else None
    limits = [limit for limit in (trials, sweep.run_cap, grid) if limit is not None]
    if not limits:
        raise NerError("the number of trials is missing", place="--trials", remedy="give it, or run_cap in the file")
    if min(limits) < 1:
        raise NerError("needs a positive number", value=min(limits), place="--trials")
    return min(limits)


def run(sweep: Sweep, folder: Path, number: int, *, jobs: int = 1) -> None:
    """Search in `folder` until `number` trials have ended in all; print the table and where the rest is.

    Raises as `sweep`.
    """
    try:
        import optuna
    except ImportError:
        raise NerError("--local needs Optuna", remedy=install_line("sweep")) from None
    from .outcome import report

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "lock", wait=False, owner=f"another sweep (process {os.getpid()})"):
        study = open_study(sweep, folder, number)
        Search(sweep, study, folder).run(number, jobs)
        print(report(sweep, study, folder))


def open_study(sweep: Sweep, folder: Path, number: int) -> Study:
    """The study in `folder`, new or resumed, with what must be run first in its queue: interrupted trials, a grid.

    Raises `NerError` where it belongs to another sweep.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    journal = folder / "study.journal"
    if journal.exists():  # a full disk may have torn its last line
        with journal.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(
        storage=storage, study_name="sweep", direction=sweep.goal, load_if_exists=True, pruner=_pruner(sweep)
    )
    identity = json.loads(json.dumps(sweep.identity, default=str))
    known = study.user_attrs.get("sweep", identity)
    if changed := [key for key in identity if identity[key] != known.get(key)]:
        what = f"its trials do not compare with {sweep.path}, which changed in {', '.join(changed)}"
        raise NerError(what, place=folder, remedy="use another --output, or remove that folder")
    study.set_user_attr("sweep", identity)
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
    if sweep.method == "grid":
        points = product(*(space.grid for _, space in sorted(sweep.varied.items())))
        for point in islice(points, len(trials), number):
            study.enqueue_trial(dict(zip(sorted(sweep.varied), point, strict=True)))
    # A sampler with the same seed would draw the same trials again after each start.
    sampler = optuna.samplers.TPESampler if sweep.method == "bayes" else optuna.samplers.RandomSampler
    study.sampler = sampler(seed=len(trials))
    return study


def _pruner(sweep: Sweep) -> BasePruner:
    """As `early_terminate` says; a step is an evaluation.

    wandb's hyperband has one bracket: at min_iter, min_iter·eta, … a trial continues if it is in the best 1/eta of all
    that came so far. To Optuna that is successive halving; its HyperbandPruner spreads trials over several brackets.
    """
    from optuna import pruners

    early = sweep.early_terminate
    if not early:
        return pruners.NopPruner()
    eta = early.get("eta", 3)
    first = early.get("min_iter") or max(1, early["max_iter"] // eta ** early.get("s", 1))
    return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=eta)


class Interrupted(BaseException):
    """Passes through Optuna, which catches the others: the trial stays RUNNING, and the next start resumes it."""


class Search:
    """Runs the trials that a study asks for, and ends them upon a signal or an error."""

    def __init__(self, sweep: Sweep, study: Study, folder: Path) -> None:
        self.sweep, self.study, self.folder = sweep, study, folder
        self.interrupted: BaseException | None = None

    def run(self, number: int, jobs: int) -> None:
        """Return when `number` trials have ended in all."""
        # SIGINT too: a script's background jobs inherit it ignored.
        before = {n: signal.signal(n, self._interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            stop(self.folder)  # what a sweep that was killed left running
            if (left := number - self._ended()) > 0:
                with suppress(Interrupted):
                    self.study.optimize(self._objective, n_trials=left, n_jobs=jobs, catch=(NerError,))
        finally:
            kill(self.folder)
            for n, handler in before.items():
                signal.signal(n, handler)
        if isinstance(self.interrupted, KeyboardInterrupt):
            done = f"{self._ended()} of {number} trials have ended; the same command continues from there"
            raise KeyboardInterrupt(done) from None
        if self.interrupted:
            raise self.interrupted

    def _ended(self) -> int:
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def _interrupt(self, *_: Any) -> None:
        if self.interrupted:  # for the second time
            kill(self.folder)
        self.interrupted = self.interrupted or KeyboardInterrupt()

    def _objective(self, trial: Trial) -> float:
        from optuna import TrialPruned

        folder = self.folder / f"trial-{trial.number}"
        try:
            best = self._run_trial(trial, folder)
        except TrialPruned:
            log.info("%s pruned", folder)
            raise
        except NerError as error:
            trial.set_user_attr("failure", error.what)
            log.warning("%s failed: %s", folder, error)
            raise
        except BaseException as error:
            self.interrupted = self.interrupted or error
            raise Interrupted from error
        log.info("%s complete, best %s %s", folder, self.sweep.metric, best)
        return best

    def _run_trial(self, trial: Trial, folder: Path) -> float:
        """The best value of the trial's evaluations, as a training keeps its best checkpoint.

        Raises `TrialPruned`, `NerError` for a trial that failed, and `Interrupted`.
        """
        from optuna import TrialPruned

        values = {key: space.suggest(trial, key) for key, space in self.sweep.varied.items()}
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        if self.interrupted:
            raise Interrupted
        log.info("%s %s", folder, " ".join(flags(values)))
        process = start([*self.sweep.launch(values), f"--output_dir={folder}"], folder)
        while True:
            ended = process.poll() is not None  # before the log is read, so that it is read to its end
            text = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
            evaluations = read_evaluations(text, self.sweep.metric)
            new = sorted(evaluations.keys() - known)
            for n in new:
                trial.report(evaluations[n], n)
            known = evaluations
            pruned = bool(new) and not ended and trial.should_prune()
            if ended or pruned or self.interrupted:
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
        (kill if ended else stop)(folder)
        process.wait()
        if pruned:
            raise TrialPruned
        if self.interrupted:  # by `kill` too, after which psutil knows the exit code, and `process` does not
            raise Interrupted
        if process.returncode or not evaluations:
            raise failure(process.returncode, folder / "log.txt", self.sweep.metric)
        return (max if self.sweep.goal == "maximize" else min)(evaluations.values())
