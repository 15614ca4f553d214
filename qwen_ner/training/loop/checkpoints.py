"""Checkpoints on the disk: how one comes to be whole or not at all, which to go on from, and what a kill left behind.

In: an output folder. Out: a folder called `checkpoint-N` only once all of it is on the disk, and until all of it is to
go. Knows nothing of what is trained.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from safetensors import SafetensorError, safe_open

from ...entities import NerError
from ...files import PARTIAL
from ..preparation import RECIPE_NAME
from ..recipe import NOT_YAML, Recipe

log = logging.getLogger(__name__)

UNFINISHED = f".checkpoint{PARTIAL}"
"""The folder in the output folder that holds checkpoints while they are written and while they are removed."""

LOCK = ".lock"

STATE = "trainer_state.json"

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")

_STEP = re.compile(r"^checkpoint-(\d+)$")


def publish(written: Path, checkpoint: Path) -> None:
    """Give `written`, a folder on the same disk, the name `checkpoint`, once the disk has all of it."""
    for path in (*written.rglob("*"), written):
        _sync(path)
    if checkpoint.exists():
        remove(checkpoint)
    os.replace(written, checkpoint)
    _sync(checkpoint.parent)
    written.parent.rmdir()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(checkpoint: Path) -> None:
    """Remove it; what is half removed has another name."""
    gone = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    gone.parent.mkdir(exist_ok=True)
    os.replace(checkpoint, gone)
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(OSError):  # something else may be on its way there
        gone.parent.rmdir()


def in_order(output: Path) -> list[Path]:
    """The checkpoints of `output` by their step, whatever the clock says of them.

    >>> in_order(Path("no such folder"))
    []
    """
    numbered = [(int(found[1]), path) for path in output.glob("checkpoint-*") if (found := _STEP.search(path.name))]
    return [path for _, path in sorted(numbered)]


def keep(output: Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints until `limit` are left; never the last one and `best`."""
    checkpoints = in_order(output)
    kept = {checkpoints[-1].name, Path(best).name if best else ""} if checkpoints else set()
    excess = len(checkpoints) - max(limit, len(kept - {""})) if limit else 0
    for checkpoint in [path for path in checkpoints if path.name not in kept][: max(0, excess)]:
        remove(checkpoint)


def fault_of(checkpoint: Path) -> str | None:
    """What keeps a training from going on from `checkpoint`, as far as it shows without reading it all; else None."""
    if not checkpoint.is_dir():
        return "no such folder"
    state = checkpoint / STATE
    if not state.is_file():
        return f"it has no {STATE}"
    weights = [path for name in WEIGHTS if (path := checkpoint / name).is_file()]
    if not weights:
        return "it has no weights"
    shards: set[str] = set()
    try:
        json.loads(state.read_text(encoding="utf-8"))
        if weights[0].suffix == ".json":
            shards = set(json.loads(weights[0].read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{STATE} or {weights[0].name} is no JSON of a checkpoint ({error})"
    for path in [*(checkpoint / name for name in sorted(shards)), *checkpoint.glob("*.safetensors")]:
        try:
            with safe_open(path, framework="numpy"):  # reads the header, and compares it with the length of the file
                pass
        except (SafetensorError, OSError) as error:
            return f"{path.name} cannot be read ({error})"
    for path in (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")):
        if not zipfile.is_zipfile(path):
            return f"{path.name} is cut off"
    return None


def checkpoint_to_resume(recipe: Recipe) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means, or None to begin at the beginning.

    `auto` takes the last whole one in the output folder. Keys in which the recipe differs from the one that checkpoint
    was trained with are said. Raises `NerError` where a checkpoint was named that is not whole, or where the machines
    of a training do not find the same.
    """
    wanted, output = recipe.training.resume_from_checkpoint, Path(recipe.training.output_dir)
    if wanted in (None, "", "no", "none", "false"):
        return None
    if wanted not in ("auto", "yes", "true"):
        if fault := fault_of(Path(wanted)):
            raise NerError(
                f"resume_from_checkpoint: {wanted} is no whole checkpoint: {fault}; give auto, none or another folder"
            )
        return wanted
    found = _last_whole(output)
    if recipe.training.world_size > 1:
        from accelerate.utils import gather_object

        steps = gather_object([found.name if found else "none"])
        if len(set(steps)) > 1:
            raise NerError(
                f"output_dir: the processes find different checkpoints to go on from under {output}: "
                f"{', '.join(steps)}; put it on a disk that all machines share, or train with save_on_each_node: true"
            )
    if found is None:
        return None
    log.info("Resuming from %s; resume_from_checkpoint: none begins anew.", found)
    _say_changes(output / RECIPE_NAME, recipe)
    return str(found)


def _last_whole(output: Path) -> Path | None:
    for path in reversed(in_order(output)):
        if fault := fault_of(path):
            log.warning("%s is not whole (%s); it is passed over.", path, fault)
        else:
            return path
    return None


def _say_changes(before: Path, recipe: Recipe) -> None:
    if not before.is_file():
        return
    try:
        old = yaml.safe_load(before.read_text(encoding="utf-8")) or {}
    except NOT_YAML as error:
        log.warning("%s cannot be read (%s): whether the recipe has changed is not known.", before, error)
        return
    changed = sorted(key for key in old.keys() | recipe.values.keys() if old.get(key) != recipe.values.get(key))
    if changed:
        log.warning(
            "The recipe has changed since that checkpoint: %s. What was trained until there stays; to train anew "
            "choose another --output_dir or resume_from_checkpoint: none.",
            ", ".join(f"{key} {old.get(key)} → {recipe.values.get(key)}" for key in changed),
        )


@contextmanager
def alone_in(output: Path, rank: int) -> Iterator[None]:
    """Hold `output` against a second training, and clear away what a killed one left there; both for rank 0 alone.

    A launcher that is killed leaves its ranks behind, and the same command given again would then write beside them.
    The kernel lets go of the folder however this process ends. Raises `NerError` where another holds it.
    """
    if rank != 0:
        yield
        return
    with open(output / LOCK, "a+", encoding="utf-8") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: its lock lives on in forked workers
        except (BlockingIOError, PermissionError):
            lock.seek(0)
            raise NerError(
                f"output_dir: {output} is in use by another training (process {lock.read().strip()}); wait for its "
                "end or stop it with SIGTERM, or choose another --output_dir"
            ) from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): see that no second training writes there.", output, error.strerror)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _clear(output)
        yield


def _clear(output: Path) -> None:
    left = sorted(output.glob(f".*{PARTIAL}"))
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if left:
        log.info("%s: removed what a stopped training left unfinished: %s.", output, ", ".join(p.name for p in left))
