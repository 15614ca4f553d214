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
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..entities import NerError
from ..files import install_line, lock
from ..training.finding import FaultsError
from .sweep_file import Sweep, check_recipe, flags, read_sweep
from .trial import failure, kill, read_evaluations, start, stop

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner

log = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between two looks at the logs of the trials."""


def sweep(path: Path, *, local: bool, trials: int | None = None, jobs: int = 1, output: Path | None = None) -> None:
    """Check a sweep file; with `local` run it until `trials` trials have ended in all, `jobs` at a time.

    Raises `NerError`, for all that can be known beforehand before any trial, and `KeyboardInterrupt` after SIGINT or
    SIGTERM, once each trial has saved a checkpoint.
    """
    for place, value in (("--jobs", jobs), ("--trials", trials)):
        if value is not None and value < 1:
            raise NerError("not a positive number", value=value, place=place)
    read = read_sweep(path)
    # In a process of its own: to read a recipe loads torch and may hold a GPU, here for as long as the sweep runs.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        faults, trackers = pool.submit(check_recipe, read, local=local).result()
    if faults := [*faults, *(read.local_faults if local else ())]:
        raise FaultsError(faults, path)
    if not local:
        print(f"{path} is valid. With wandb, its agents run the trials:\n  wandb sweep {path}")
        print(f"  wandb agent ENTITY/PROJECT/ID\nWithout: qwen-ner sweep {path} --local --trials 20")
        return
    if "wandb" in trackers:  # which would ask for an account
        others = [tracker for tracker in trackers if tracker != "wandb"] or "none"
        read = replace(read, command=(*read.command, f"--report_to={others}"))
    grid = math.prod(len(space.grid) for space in read.varied.values()) if read.method == "grid" else None
    limits = [limit for limit in (trials or read.run_cap, grid) if limit]
    if not limits:
        raise NerError("the number of trials is missing", place="--trials", remedy="give it, or run_cap in the file")
    run(read, output or Path("outputs") / path.stem, min(limits), jobs=jobs)


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
    with lock(folder / "lock", owner=f"another sweep (process {os.getpid()})"):
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


class Search:
    """Starts the trials that a study asks for, and tells it how they end.

    It does not tell of those that a signal or an error ends: they stay RUNNING, and the next start resumes them.
    """

    def __init__(self, sweep: Sweep, study: Study, folder: Path) -> None:
        self.sweep, self.study, self.folder = sweep, study, folder
        self.running: list[tuple[Trial, subprocess.Popen[bytes]]] = []
        self.interrupted = False

    def run(self, number: int, jobs: int) -> None:
        """Return when `number` trials have ended in all, `jobs` at a time."""
        # SIGINT too: a script's background jobs inherit it ignored.
        before = {n: signal.signal(n, self._interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            stop(self.folder)  # what a sweep that was killed left running
            while (left := number - self._ended()) > 0 and not self.interrupted:
                if len(self.running) < min(jobs, left):
                    self._start()
                self.running = [one for one in self.running if self._goes_on(*one)]
                time.sleep(POLL)
        finally:
            stop(self.folder)
            for _, process in self.running:
                process.wait()
            for n, handler in before.items():
                signal.signal(n, handler)
        if self.interrupted:
            done = f"{self._ended()} of {number} trials have ended; the same command continues from there"
            raise KeyboardInterrupt(done)

    def _ended(self) -> int:
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def _interrupt(self, *_: Any) -> None:
        if self.interrupted:  # for the second time
            kill(self.folder)
        self.interrupted = True

    def _start(self) -> None:
        trial = self.study.ask()
        values = {key: space.suggest(trial, key) for key, space in self.sweep.varied.items()}
        folder = self.folder / f"trial-{trial.number}"
        log.info("%s %s", folder, " ".join(flags(values)))
        self.running.append((trial, start([*self.sweep.launch(values), f"--output_dir={folder}"], folder)))

    def _goes_on(self, trial: Trial, process: subprocess.Popen[bytes]) -> bool:
        """Whether a trial runs on, its new evaluations reported to Optuna, which is told how it ended otherwise.

        Its value is the best of its evaluations but the one before the first step, as a training keeps its best
        checkpoint.
        """
        from optuna.trial import TrialState

        folder, metric = self.folder / f"trial-{trial.number}", self.sweep.metric
        ended = process.poll() is not None  # before the log is read, so that it is read to its end
        if self.interrupted:  # then a signal may have ended it
            return True
        text = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        evaluations = read_evaluations(text, metric)
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        new = sorted(evaluations.keys() - known)
        for n in new:
            trial.report(evaluations[n], n)
        if not ended and not (new and trial.should_prune()):
            return True
        (kill if ended else stop)(folder)
        if not ended:
            self.study.tell(trial, state=TrialState.PRUNED)
            log.info("%s pruned", folder)
        elif process.returncode or not (values := [value for n, value in evaluations.items() if n]):
            error = failure(process.returncode, folder / "log.txt", metric)
            trial.set_user_attr("failure", error.what)
            self.study.tell(trial, state=TrialState.FAIL)
            log.warning("%s failed: %s", folder, error)
        else:
            best = (max if self.sweep.goal == "maximize" else min)(values)
            self.study.tell(trial, best)
            log.info("%s complete, best %s %s", folder, metric, best)
        return False
