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
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from safetensors import SafetensorError, safe_open

from ...entities import NerError
from ...files import PARTIAL, lock
from ..finding import join_names
from ..preparation import RECIPE_NAME
from ..recipe import NOT_YAML, Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

UNFINISHED = f".checkpoint{PARTIAL}"
"""The folder inside the output folder that holds checkpoints while they are written and while they are removed."""

LOCK = ".lock"

STATE = "trainer_state.json"

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")

_STEP = re.compile(r"^checkpoint-(\d+)$")


def checkpoint_of(output: str | Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return Path(output) / f"checkpoint-{step}"


def publish(written: Path, checkpoint: Path) -> None:
    """Rename `written`, a folder on the same disk, to `checkpoint`, after all of it has been synced to the disk."""
    for path in (*written.rglob("*"), written):
        _sync(path)
    if checkpoint.exists():
        remove(checkpoint)
    os.replace(written, checkpoint)
    _sync(checkpoint.parent)
    with suppress(OSError):  # a killed process may have left something beside it
        written.parent.rmdir()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(checkpoint: Path) -> None:
    """Rename it first, so that no half-removed folder bears the name of a checkpoint."""
    gone = checkpoint.parent / UNFINISHED / f"removed-{checkpoint.name}"
    gone.parent.mkdir(exist_ok=True)
    os.replace(checkpoint, gone)
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(OSError):  # another checkpoint may be in there
        gone.parent.rmdir()


def in_order(output: Path) -> list[Path]:
    """The checkpoints of `output` ordered by step, whatever their modification times.

    >>> in_order(Path("no such folder"))
    []
    """
    numbered = [(int(found[1]), path) for path in output.glob("checkpoint-*") if (found := _STEP.search(path.name))]
    return [path for _, path in sorted(numbered)]


def rotate(output: Path, limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints until `limit` are left, but never the last one and `best`."""
    checkpoints = in_order(output)
    kept = {checkpoints[-1].name, Path(best).name if best else ""} if checkpoints else set()
    excess = len(checkpoints) - max(limit, len(kept - {""})) if limit else 0
    for checkpoint in [path for path in checkpoints if path.name not in kept][: max(0, excess)]:
        remove(checkpoint)


def fault_of(checkpoint: Path) -> str | None:
    """Why a training cannot resume from `checkpoint`, as far as this shows without reading all of it; else None."""
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
        return f"{STATE} or {weights[0].name} is not the JSON of a checkpoint ({error})"
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


def check_weights(checkpoint: str | bool, model: PreTrainedModel) -> None:
    """Raise `NerError` if a checkpoint with all weights lacks weights of `model`, other than those that are tied."""
    path = Path(str(checkpoint)) / WEIGHTS[0]
    if not path.is_file():
        return
    with safe_open(path, framework="numpy") as weights:
        missing = model.state_dict().keys() - set(weights.keys()) - set(model._keys_to_ignore_on_save or ())
    if missing:
        raise NerError(
            f"its weights are not those of this model: {join_names(sorted(missing))} missing",
            place=str(checkpoint),
            remedy="remove that checkpoint, or choose another --output_dir",
        )


def checkpoint_to_resume(recipe: Recipe) -> str | None:
    """The checkpoint that `resume_from_checkpoint` asks for, or None to start from the beginning.

    `auto` takes the last complete one in the output folder. A warning lists the keys of the recipe that have changed
    since. Raises `NerError` if the checkpoint is incomplete, or if the machines of a training find different ones.
    """
    wanted, output = recipe.training.resume_from_checkpoint, Path(recipe.training.output_dir)
    if wanted in (None, "", "no", "none", "false"):
        return None
    if wanted not in ("auto", "yes", "true"):
        if fault := fault_of(Path(wanted)):
            raise NerError(
                f"not a complete checkpoint: {fault}",
                value=wanted,
                place="resume_from_checkpoint",
                remedy="use auto, none or another folder",
            )
        return wanted
    found = _last_whole(output)
    if recipe.training.world_size > 1:
        from accelerate.utils import gather_object

        steps = gather_object([found.name if found else "none"])
        if len(set(steps)) > 1:
            raise NerError(
                f"the processes find different checkpoints to resume from in {output}",
                value=steps,
                place="output_dir",
                remedy="put it on a disk that all machines share, or train with save_on_each_node: true",
            )
    if found is None:
        return None
    log.info("Resuming from %s; to start over, set resume_from_checkpoint: none.", found)
    _warn_of_changes(output / RECIPE_NAME, recipe)
    return str(found)


def _last_whole(output: Path) -> Path | None:
    for path in reversed(in_order(output)):
        if fault := fault_of(path):
            log.warning("Skipping %s, which is incomplete (%s).", path, fault)
        else:
            return path
    return None


def _warn_of_changes(before: Path, recipe: Recipe) -> None:
    if not before.is_file():
        return
    try:
        old = yaml.safe_load(before.read_text(encoding="utf-8")) or {}
    except NOT_YAML as error:
        log.warning("Cannot read %s (%s), so changes of the recipe go unnoticed.", before, error)
        return
    changed = sorted(key for key in old.keys() | recipe.values.keys() if old.get(key) != recipe.values.get(key))
    if changed:
        log.warning(
            "The recipe has changed since that checkpoint: %s. To start over, choose "
            "another --output_dir or set resume_from_checkpoint: none.",
            ", ".join(f"{key} {old.get(key)} → {recipe.values.get(key)}" for key in changed),
        )


@contextmanager
def alone_in(output: Path, rank: int) -> Iterator[None]:
    """Lock `output` against a second training and clear up after a killed one; on rank 0 only.

    A killed launcher leaves its ranks behind, and the same command run again would write to the same folder. The kernel
    releases the lock however this process ends. Raises `NerError` if another process holds it.
    """
    if rank != 0:
        yield
        return
    with lock(output / LOCK, wait=False, owner=f"another training (process {os.getpid()})"):
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
        names = ", ".join(path.name for path in left)
        log.info("%s: removed unfinished files of a stopped training: %s.", output, names)
