"""Checkpoints on the disk: written whole or not at all, which one to resume from, and what a kill leaves behind.

In: an output folder. Out: folders that are named `checkpoint-N` only while they are complete. Knows nothing of what is
trained.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...entities import NerError
from ...files import PARTIAL, lock
from ...hub.neutral import STATE
from ..arguments import AUTO
from ..recipe import Recipe
from .manifest import MODEL_ONLY, check_origin, damage_of, fault_of

log = logging.getLogger(__name__)

UNFINISHED = f".checkpoint{PARTIAL}"
"""The folder inside the output folder that holds checkpoints while they are written and while they are removed."""

LOCK = ".lock"

_STEP = re.compile(r"^checkpoint-(\d+)$")


def checkpoint_of(output: str | Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return Path(output) / f"checkpoint-{step}"


def publish(written: Path, checkpoint: Path) -> None:
    """Rename `written`, a folder on the same disk, to `checkpoint`, after all of it has been synced to the disk."""
    for path in (*written.rglob("*"), written):
        _sync(path)
    if os.path.lexists(checkpoint):
        remove(checkpoint)
    os.replace(written, checkpoint)
    _sync(checkpoint.parent)
    with suppress(OSError):  # a killed process may have left something beside it
        written.parent.rmdir()


def _sync(path: Path) -> None:
    windows = os.name == "nt"  # syncs no folder, and a file only through a handle that may write
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(checkpoint: Path) -> None:
    """Rename it first, so that no half-removed folder bears the name of a checkpoint."""
    gone = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    gone.parent.mkdir(exist_ok=True)
    os.replace(checkpoint, gone)
    _discard(gone)
    with suppress(OSError):  # another checkpoint may be in there
        gone.parent.rmdir()


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:  # a link, or a file of the user's
        path.unlink(missing_ok=True)


def in_order(output: Path) -> list[Path]:
    """The checkpoints of `output` ordered by step, whatever their modification times.

    >>> in_order(Path("no such folder"))
    []
    """
    numbered = [(int(found[1]), path) for path in output.glob("checkpoint-*") if (found := _STEP.search(path.name))]
    return [path for _, path in sorted(numbered)]


def rotate(output: Path, step: int, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints until `limit` are left, but never that of `step`, the last one, and `best`.

    Later ones were left by an earlier run and would be resumed from; they are removed first.
    """
    checkpoints, last = in_order(output), checkpoint_of(output, step)
    until = checkpoints.index(last) + 1
    for later in checkpoints[until:]:
        log.info("Removing %s, a later step that an earlier run has left.", later)
        remove(later)
    kept = {last.name, Path(best or last).name}
    excess = until - max(limit, len(kept)) if limit else 0
    for checkpoint in [path for path in checkpoints[:until] if path.name not in kept][: max(0, excess)]:
        remove(checkpoint)


def best_of(checkpoint: Path) -> Path | None:
    """The best checkpoint so far when `checkpoint` was written, or None: beside it, wherever both have been moved."""
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    if not (recorded := state["best_model_checkpoint"]):
        return None
    if Path(recorded).name == checkpoint_of("", state["global_step"]).name:  # itself, whatever its name is now
        return checkpoint
    beside = checkpoint.parent / Path(recorded).name
    return beside if beside.is_dir() else Path(recorded)  # of a training that resumed from another folder


def checkpoint_to_resume(recipe: Recipe, origin: dict[str, Any]) -> str | None:
    """The checkpoint that `resume_from_checkpoint` asks for, or None to start from the beginning.

    `auto` takes the last complete one in the output folder. Raises `NerError` if the checkpoint is incomplete, its
    training had another `origin`, its best checkpoint is gone, or if the machines of a training find different ones.
    """
    wanted = recipe.training.resume_from_checkpoint or "none"
    if wanted.lower() in ("no", "none", "false"):
        return None
    beside = wanted.lower() in AUTO
    found = _last_whole(Path(recipe.training.output_dir), recipe.training.world_size) if beside else Path(wanted)
    if found is None:
        return None
    if beside:
        log.info("Resuming from %s; to start over, set resume_from_checkpoint: none.", found)
    elif fault := fault_of(found):
        what, remedy = f"not a complete checkpoint: {fault}", "use auto, none or another folder"
        raise NerError(what, value=wanted, place="resume_from_checkpoint", remedy=remedy)
    check_origin(found, origin, beside=beside)
    best = best_of(found) if recipe.training.load_best_model_at_end else None
    if best and best != found and (fault := damage_of(best)):
        what = f"the best checkpoint so far, which the training would end with, cannot be loaded: {fault}"
        remedy = "put it back, set load_best_model_at_end: false, or start over with --resume_from_checkpoint none"
        raise NerError(what, value=str(best), place=str(found), remedy=remedy)
    return str(found)


def _last_whole(output: Path, world_size: int) -> Path | None:
    """The last checkpoint that can be resumed from, the same on all processes."""
    found, faults = None, list[str]()
    for path in reversed(in_order(output)):
        if not (fault := fault_of(path)):
            found = path
            break
        faults.append(fault)
        log.warning("Skipping %s, which is incomplete (%s).", path, fault)
    if world_size > 1:
        from accelerate.utils import gather_object

        steps = gather_object([found.name if found else "none"])
        if len(set(steps)) > 1:
            what = f"the processes find different checkpoints to resume from in {output}"
            remedy = "put it on a disk that all machines share, or train with save_on_each_node: true"
            raise NerError(what, value=steps, place="output_dir", remedy=remedy)
    if found is None and MODEL_ONLY in faults:
        what = "no training can resume from its checkpoints, which were saved with save_only_model: true"
        remedy = "choose another --output_dir, or train from the beginning with --resume_from_checkpoint none"
        raise NerError(what, value=str(output), place="output_dir", remedy=remedy)
    if found is None and faults:
        log.warning("No checkpoint in %s is complete: training from the beginning.", output)
    return found


@contextmanager
def alone_in(output: Path, rank: int) -> Iterator[None]:
    """Lock `output` against a second training and clear up after a killed one; on rank 0 only.

    A killed launcher leaves its ranks behind, and the same command run again would write to the same folder. The kernel
    releases the lock however this process ends. Raises `NerError` if another process holds it.
    """
    if rank != 0:
        yield
        return
    with lock(output / LOCK, owner=f"another training (process {os.getpid()})"):
        left = sorted(output.glob(f".*{PARTIAL}"))
        for path in left:
            _discard(path)
        if left:
            names = ", ".join(path.name for path in left)
            log.info("%s: removed unfinished files of a stopped training: %s.", output, names)
        yield
