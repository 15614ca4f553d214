"""One trial of a sweep: its processes, and what their log says.

In: a command and a folder. Out: the evaluations as they come, how it ended, and no process left behind. Knows nothing
of searching.

The log is the one way from a training to its sweep: the lines that `callbacks.ProgressLines` prints for people. It is
a file, not a pipe, so that a sweep that was killed neither breaks its trials nor misses what they said meanwhile; and
it is what a user reads when a trial has failed.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from ..entities import NerError
from .sweep_file import search_path

MARK = "QWEN_NER_TRIAL"
"""Environment variable that every process of a trial has: launcher, ranks and what they start. torchrun puts its ranks
in sessions of their own and a launcher may die before them, so neither a process group nor a parent finds them all."""

PATIENCE = 120.0
"""Seconds for a checkpoint after SIGTERM; then SIGKILL."""

_EVALUATION = re.compile(r"step (\d+)/\d+ · validation · (.*)")
_METRIC = re.compile(r"(\w+) (nan|[-+.\de]+)(?: ·|$)")
_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|Cannot allocate memory|can't allocate memory|\bSIGKILL\b", re.IGNORECASE
)

_ERROR = re.compile(r"(\[rank\d+\]: *)?(error: |(?!.*(CalledProcessError|ChildFailedError))[\w.]+(Error|Exception)\b)")


class TrialProcess:
    """A running trial. `folder` is its output folder, and holds log.txt."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Starts `command` in a session of its own, or raises `NerError`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.evaluations = Evaluations(folder / "log.txt")
        given = {**environment, MARK: str(folder.resolve()), "PATH": search_path()}
        try:
            with open(self.evaluations.path, "ab") as log:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=given, start_new_session=True
                )
        except OSError as error:
            raise NerError(f"command: {command[0]} cannot be started ({error.strerror})") from None

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def failure(self) -> str | None:
        """Why an ended trial has no result; None where it ended well."""
        code = self.process.returncode
        if code == 0:
            return None
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL) or _MEMORY.search("\n".join(self._lines()[-60:])):
            return "out of memory; lower per_device_train_batch_size or max_length, or run fewer --jobs at a time"
        return f"stopped by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def last_words(self) -> list[str]:
        """The lines of the log that say best why a trial failed: its last error but the launcher's own, or its end."""
        lines = self._lines()
        at = max((n for n, line in enumerate(lines) if _ERROR.match(line)), default=len(lines) - 5)
        said = lines[max(0, at) :][:8]
        return said[: next((n for n, line in enumerate(said) if line.startswith("Traceback")), None)]

    def _lines(self) -> list[str]:
        lines = self.evaluations.path.read_bytes()[-20_000:].decode("utf-8", "replace").splitlines()
        return [line for line in lines if line.strip()]


class Evaluations:
    """The evaluations in a log, in the order they came; each is {metric: value} at a step of the training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._of_step: dict[int, dict[str, float]] = {}

    def of(self, metric: str) -> dict[int, float]:
        """{n: value} of the n-th evaluation since the first step; 0 is the one before it, where there is one.

        A training that goes on from a checkpoint evaluates some steps once more: what was said first stays.
        """
        with open(self.path, "rb") as log:
            log.seek(self._read)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._read += len(whole + newline)
        for step, metrics in evaluations_in(whole.decode("utf-8", "replace").splitlines()):
            self._of_step.setdefault(step, metrics)
        values = [m[metric] for _, m in sorted(self._of_step.items()) if math.isfinite(m.get(metric, math.nan))]
        return dict(enumerate(values, start=0 if 0 in self._of_step else 1))


def evaluations_in(lines: Iterable[str]) -> list[tuple[int, dict[str, float]]]:
    """(step, metrics) of each line that tells an evaluation.

    >>> evaluations_in(["step 10/100 · loss 0.5", "step 20/100 · validation · loss 0.4 · f1 0.61 · truncated 3"])
    [(20, {'loss': 0.4, 'f1': 0.61, 'truncated': 3.0})]
    """
    found = []
    for line in lines:
        if match := _EVALUATION.search(line):
            metrics = {name: float(value) for name, value in _METRIC.findall(match[2].rstrip())}
            found.append((int(match[1]), metrics))
    return found


def stop(folder: Path, patience: float = PATIENCE) -> None:
    """End all processes of the trial in `folder`, or of all trials below it: SIGTERM, and SIGKILL after `patience`.

    Each group of processes is told once, through the one that the others come from: a training that is told twice ends
    without a checkpoint, and a launcher tells its ranks itself.
    """
    processes = _marked(folder)
    inner = {process.pid for process in processes}
    groups = set()
    for process in processes:
        with suppress(psutil.Error, ProcessLookupError):
            if process.ppid() not in inner:
                groups.add(os.getpgid(process.pid))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
    psutil.wait_procs(processes, timeout=patience)
    kill(folder)


def kill(folder: Path) -> None:
    """End them at once."""
    while processes := _marked(folder):
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=10)


def _marked(folder: Path) -> list[psutil.Process]:
    found, folder = [], folder.resolve()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            mark = process.environ().get(MARK)
            if mark and folder in (Path(mark), *Path(mark).parents) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
