"""A sweep without an account: the file that `wandb sweep` takes, searched by Optuna, each trial a process of its own.

In: a sweep file, how many trials. Out: a folder with each trial's own, the study (sweep.db), plots and the best recipe;
a table on the terminal. Knows nothing of what a trial does but what its log says.

A trial that is RUNNING in sweep.db and has no process is one that was interrupted, however this program ended: the next
start goes on with it, in its folder, so from its last checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..entities import NerError
from .space import choice_of
from .sweep_file import Sweep, flags, headed, read_sweep, recipe_faults
from .trial import TrialProcess, kill, stop

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner

log = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between two looks at the trials."""

LOCK_PATIENCE = 60
"""Seconds that a write waits for another program to let go of sweep.db."""


def sweep(path: Path, *, local: bool, trials: int | None = None, jobs: int = 1, output: Path | None = None) -> None:
    """Check a sweep file; with `local` run it until `trials` trials have ended in all, `jobs` at a time.

    Raises `NerError` for what the user can mend, before any trial as far as it can be known then, and
    `KeyboardInterrupt` after SIGINT or SIGTERM (each trial has a checkpoint).
    """
    if jobs < 1:
        raise NerError(f"--jobs: {jobs} is not a positive number")
    read = read_sweep(path)
    # In a process of its own: a recipe that is read loads torch and may hold a GPU, here for as long as the sweep is.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        faults, here, trackers = pool.submit(recipe_faults, read).result()
    if faults := faults + ([*here, *read.local_faults] if local else []):
        raise NerError(headed(path, faults))
    if not local:
        print(f"{path} is right. With wandb, its agents run the trials:\n  wandb sweep {path}")
        print(f"  wandb agent ENTITY/PROJECT/ID\nWithout: qwen-ner sweep {path} --local --trials 20")
        return
    run(read, output or Path("outputs") / path.stem, _number_of_trials(read, trials), jobs=jobs, extra=_extra(trackers))


def run(sweep: Sweep, folder: Path, number: int, *, jobs: int = 1, extra: Sequence[str] = ()) -> None:
    """Search in `folder` until `number` trials have ended in all; print the table and where the rest is.

    `extra` are overrides that every trial is given beside its own. Raises as `sweep`.
    """
    try:
        import optuna
    except ImportError:
        raise NerError('--local searches with Optuna; pip install "qwen_ner[sweep]"') from None
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    from .outcome import report

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # SIGINT too: what a script starts behind `&` inherits it ignored.
    before = {n: signal.signal(n, signal.default_int_handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _alone_in(folder, sweep.path):
            study = open_study(sweep, folder)
            for key, space in sweep.varied.items():
                log.info("%s: %s", key, space)
            _search(Search(sweep, study, folder, number, extra), jobs)
            print(report(sweep, study, folder, extra))
    except (StorageInternalError, SQLAlchemyError) as error:
        raise NerError(
            f"{folder / 'sweep.db'}: {' '.join(str(error.__cause__ or error).split())[:200]}; close it where another "
            "program has it open; the same command goes on"
        ) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _search(search: Search, jobs: int) -> None:
    stop(search.folder)  # what a sweep that was killed left behind
    try:
        search.run(jobs)
    except KeyboardInterrupt:
        log.warning("Stopping the running trials with a checkpoint; once more stops at once, without it.")
        stop(search.folder)
        ended = sum(trial.state.is_finished() for trial in search.study.get_trials(deepcopy=False))
        raise KeyboardInterrupt(
            f"{ended} of {search.number} trials have ended; the same command goes on from there"
        ) from None
    finally:
        kill(search.folder)


def _number_of_trials(sweep: Sweep, trials: int | None) -> int:
    grid = None
    if sweep.method == "grid":
        grid = 1
        for space in sweep.varied.values():
            grid *= len(space.grid() or ())
    limits = [limit for limit in (trials, sweep.run_cap, grid) if limit is not None]
    if not limits:
        raise NerError("--trials: how many are to be run? The file has no run_cap either")
    if min(limits) < 1:
        raise NerError(f"--trials: {trials} is not a positive number")
    return min(limits)


def _extra(trackers: Sequence[str]) -> list[str]:
    """What is laid over the command without an account: any tracker but wandb."""
    if "wandb" not in trackers:
        return []
    kept = [tracker for tracker in trackers if tracker != "wandb"]
    return [f"--report_to={kept or 'none'}"]


@contextmanager
def _alone_in(folder: Path, path: Path) -> Iterator[None]:
    """Hold `folder` against a second sweep. The kernel lets go of it however this process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise NerError(
                f"{folder} is in use by another sweep ({lock.read()}); wait for its end, or give another --output"
            ) from None
        lock.truncate(0)
        lock.write(f"{path}, process {os.getpid()}")
        lock.flush()
        yield


def open_study(sweep: Sweep, folder: Path) -> Study:
    """The study in `folder`, made where there is none. Raises `NerError` where it is another sweep's."""
    import optuna
    from optuna.storages import RDBStorage

    wait: dict[str, Any] = {"connect_args": {"timeout": LOCK_PATIENCE}}
    storage = RDBStorage(f"sqlite:///{folder / 'sweep.db'}", engine_kwargs=wait)
    study = optuna.create_study(
        storage=storage, study_name="sweep", direction=sweep.goal, load_if_exists=True, pruner=_pruner(sweep)
    )
    told = json.loads(json.dumps(sweep.told, default=str))
    known = study.user_attrs.setdefault("sweep", told)
    if differing := [key for key in told if told[key] != known.get(key)]:
        raise NerError(
            f"{folder} holds a sweep whose trials do not compare with {sweep.path}: changed: {', '.join(differing)}; "
            "give another --output, or remove that folder"
        )
    study.set_user_attr("sweep", told)
    # A sampler that is seeded alike would draw the same trials again after each start.
    seed = len(study.get_trials(deepcopy=False))
    samplers = optuna.samplers
    study.sampler = samplers.TPESampler(seed=seed) if sweep.method == "bayes" else samplers.RandomSampler(seed=seed)
    return study


def _pruner(sweep: Sweep) -> BasePruner:
    """As `early_terminate` says; without it none, as with wandb. A step is an evaluation.

    wandb's hyperband has one bracket: at min_iter, min_iter·eta, … a trial goes on if it is in the best 1/eta of all
    that came so far. To Optuna that is successive halving; its HyperbandPruner spreads trials over several brackets.
    """
    from optuna import pruners

    early = sweep.early_terminate
    if not early:
        return pruners.NopPruner()
    if early["type"] == "median":
        return pruners.MedianPruner(n_warmup_steps=early.get("min_iter", 1) - 1)
    eta = early.get("eta", 3)
    least = early.get("min_iter") or max(1, early["max_iter"] // eta ** early.get("s", 1))
    return pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=eta)


class Search:
    """The trials of a study: asked for, run, told."""

    def __init__(self, sweep: Sweep, study: Study, folder: Path, number: int, extra: Sequence[str]) -> None:
        self.sweep, self.study, self.folder, self.number, self.extra = sweep, study, folder, number, extra
        self.space = {key: space.distribution() for key, space in sweep.varied.items()}
        self.environment = dict(os.environ)
        self.running: list[Running] = []

    def run(self, jobs: int) -> None:
        """Return when all trials have ended."""
        waiting = self._interrupted()
        while True:
            while len(self.running) < jobs and (trial := waiting.pop() if waiting else self._ask()):
                self.running.append(self._start(trial))
            if not self.running:
                return
            time.sleep(POLL)
            self.running = [running for running in self.running if running.goes_on()]

    def _interrupted(self) -> list[Trial]:
        from optuna import Trial
        from optuna.trial import TrialState

        frozen = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return [Trial(self.study, trial._trial_id) for trial in reversed(frozen)]

    def _ask(self) -> Trial | None:
        from optuna.trial import TrialState

        begun = sum(trial.state != TrialState.WAITING for trial in self.study.get_trials(deepcopy=False))
        if begun >= self.number:
            return None
        if self.sweep.method == "grid":  # in wandb's order
            grids = {key: map(choice_of, space.grid() or ()) for key, space in sorted(self.sweep.varied.items())}
            values = next(islice(product(*grids.values()), begun, None))
            self.study.enqueue_trial(dict(zip(grids, values, strict=True)), skip_if_exists=True)
        return self.study.ask(self.space)

    def _start(self, trial: Trial) -> Running:
        folder = self.folder / f"trial-{trial.number}"
        command = [*self.sweep.launch(trial.params), f"--output_dir={folder}", *self.extra]
        log.info("%s %s", folder, " ".join(flags(trial.params)))
        return Running(self.sweep, self.study, trial, TrialProcess(command, folder, self.environment))


class Running:
    """A trial and its process: what the one says is reported to the other."""

    def __init__(self, sweep: Sweep, study: Study, trial: Trial, process: TrialProcess) -> None:
        self.sweep, self.study, self.trial, self.process = sweep, study, trial, process
        self.known = set(study.trials[trial.number].intermediate_values)
        self.before, self.started = trial.user_attrs.get("seconds", 0.0), time.monotonic()

    def goes_on(self) -> bool:
        """Report what is new; tell the study and return False where the trial has ended or is given up."""
        from optuna.trial import TrialState

        ended = self.process.ended  # before the log is read, so that it is read to its end
        values = self.process.evaluations.of(self.sweep.metric)
        new = [n for n in values if n not in self.known]
        for n in new:
            self.trial.report(values[n], n)
        self.known.update(new)
        if new or ended:
            self.trial.set_user_attr("seconds", round(self.before + time.monotonic() - self.started, 1))
        pruned = not ended and bool(new) and self.trial.should_prune()
        if not ended and not pruned:
            return True
        if pruned:
            stop(self.process.folder)
        kill(self.process.folder)
        self.process.process.wait()
        failure = None if pruned else self.process.failure()
        if not pruned and not failure and not values:
            failure = f"ended well and printed no evaluation with {self.sweep.metric}; does the recipe evaluate?"
        best = (max if self.sweep.goal == "maximize" else min)(values.values(), default=None)
        if failure:
            self.trial.set_user_attr("failure", failure)
            self.study.tell(self.trial, state=TrialState.FAIL)
            said = "\n  ".join([f"{failure}; from {self.process.evaluations.path}:", *self.process.last_words()])
            log.warning("%s failed: %s", self.process.folder, said)
        elif pruned:
            self.study.tell(self.trial, state=TrialState.PRUNED)
            log.info("%s pruned at evaluation %d, %s %s", self.process.folder, max(values), self.sweep.metric, best)
        else:
            self.study.tell(self.trial, best)  # the checkpoint that a training keeps is its best
            log.info("%s complete, best %s %s", self.process.folder, self.sweep.metric, best)
        return False
