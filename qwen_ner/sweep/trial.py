"""The processes of one trial, and its log.

In: a command and a folder. Out: the evaluations so far, why it failed, and no process left behind. Knows nothing of
searching.

The log is the only channel from a training to its sweep: the lines that `callbacks.LogLines` prints. It is a file,
not a pipe, so a trial outlives a sweep that is killed, and a user can read why it failed.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from ..entities import NerError

MARK = "QWEN_NER_TRIAL"
"""Environment variable of every process of a trial: launcher, ranks and their children. torchrun puts its ranks in
sessions of their own and a launcher may die before them, so neither a process group nor a parent finds them all."""

PATIENCE = 120.0
"""Seconds between SIGTERM, upon which a training saves a checkpoint, and SIGKILL."""

KILLED = 9
"""SIGKILL, which Windows has no name for."""

_EVALUATION = re.compile(r"step (\d+)/\d+ · validation · (.*)\n")
_METRIC = re.compile(r"(\w+) ([-+.\de]+)(?= ·|$)")
_ERROR = re.compile(r"(\[rank\d+\]: *)?(error: |(?!.*(CalledProcessError|ChildFailedError))[\w.]+(Error|Exception)\b)")


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start a trial in a session of its own. `folder` is its output folder and gets log.txt. Raises `NerError`."""
    folder.mkdir(parents=True, exist_ok=True)
    # accelerate is beside this Python, even where that is not activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, MARK: str(folder.resolve()), "PATH": path}
    try:
        with open(folder / "log.txt", "ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
    except OSError as error:
        raise NerError(f"cannot start {command[0]} ({error.strerror})", place="command") from None


def read_evaluations(log: str, metric: str) -> dict[int, float]:
    """{n: value} of the n-th evaluation after the first step; 0 is the one before it, where there is one.

    A training that resumes from a checkpoint repeats some evaluations: the first of a step counts.

    >>> read_evaluations("step 10/20 · loss 0.5\\nstep 20/20 · validation · loss 0.4 · f1 0.61 · truncated 3\\n", "f1")
    {1: 0.61}
    """
    by_step: dict[int, float] = {}
    for step, metrics in _EVALUATION.findall(log):
        by_step.setdefault(int(step), float(dict(_METRIC.findall(metrics)).get(metric, math.nan)))
    values = [value for _, value in sorted(by_step.items()) if math.isfinite(value)]
    return dict(enumerate(values, start=0 if 0 in by_step else 1))


def failure(code: int, log: Path, metric: str) -> NerError:
    """Why a trial failed, with the lines of its log that say it: the last error but the launcher's own, or the end."""
    lines = [line for line in log.read_bytes()[-20_000:].decode("utf-8", "replace").splitlines() if line.strip()]
    at = max((n for n, line in enumerate(lines) if _ERROR.match(line)), default=len(lines) - 5)
    last = "\n  ".join(["", *lines[max(0, at) :][:8]])
    if code in (-KILLED, 128 + KILLED) or re.search("out of ?memory", last, re.IGNORECASE):
        remedy = "lower per_device_train_batch_size or max_length, or use fewer --jobs"
        return NerError("out of memory", place=log, remedy=remedy + last)
    return NerError(f"exit code {code}" if code else f"no evaluation with {metric}", place=log, remedy=last)


def stop(folder: Path) -> None:
    """End the trial in `folder`, or the trials of the sweep in it: SIGTERM, then SIGKILL after `PATIENCE` seconds.

    Each process group gets one signal, through its outermost process: a training that is signalled twice ends without a
    checkpoint, and a launcher signals its ranks itself.
    """
    processes = find_processes(folder)
    if hasattr(os, "killpg"):  # Windows has no signal that a training could answer with a checkpoint
        inner, groups = {process.pid for process in processes}, set()
        for process in processes:
            with suppress(psutil.Error, ProcessLookupError):
                if process.ppid() not in inner:
                    groups.add(os.getpgid(process.pid))
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)
        psutil.wait_procs(processes, timeout=PATIENCE)
    kill(folder)


def kill(folder: Path) -> None:
    """End them at once."""
    while processes := find_processes(folder):
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=10)


def find_processes(folder: Path) -> list[psutil.Process]:
    """The processes of the trial in `folder`, or of the trials of the sweep in it."""
    found, folder = [], folder.resolve()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            mark = process.environ().get(MARK)
            if mark and folder in (Path(mark), Path(mark).parent) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
