"""A trained folder to the Hub, whole or not at all; and to a folder of merged weights.

In: a folder that a training wrote, the name of a repository. Out: a commit there. The folder is only read, whatever
happens on the way. Knows nothing of training.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..entities import NerError
from ..files import write_text
from ..inference.hub_download import (
    ADAPTER,
    MODEL_FILES,
    WEIGHTS,
    WEIGHTS_INDEX,
    faults_explained,
    local_folder,
    repo_on_hub,
)
from .card import draw_curve, history, model_card
from .neutral import (
    CARD,
    CURVE,
    METRICS,
    PUSHED,
    RECIPE,
    STATE,
    base_of,
    check_trained,
    copy_files,
    neutralise,
    read_metrics,
    refuse_secrets,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    merge: bool = False,
    token: str | None = None,
    revision: str | None = None,
    path_in_repo: str | None = None,
    message: str = "Push by qwen-ner",
) -> str:
    """Put the model in `folder` and its card into the repository `repo_id`, made if need be, as one commit.

    What the repository held of an earlier model of ours is replaced, other files in it stay. `merge` pushes an
    adapter's weights merged into its base's; `revision` is a branch that is there, `path_in_repo` a folder. Returns the
    address of the commit. Raises `NerError` with the remedy, and the Hub is as it was.
    """
    from huggingface_hub import HfApi, get_token

    folder = Path(folder)
    check_trained(folder)
    if merge and not (folder / ADAPTER).is_file():
        raise NerError(f"{folder}: all weights are there, nothing is to be merged; push it without --merge")
    api = HfApi(token=token)
    name = claim(api, repo_id, private=private)
    with tempfile.TemporaryDirectory(prefix="qwen_ner_push_") as made:
        base = _base(api, folder, merge)
        source, staged = folder, Path(made) / "staged"
        if merge:
            source = Path(made) / "merged"
            export(folder, source)
        staged.mkdir()
        neutralise(source, staged, name, base)
        if not path_in_repo:
            write_text(staged / CARD, [model_card(source, name, base_model=base)])
            if log_history := history(source):
                draw_curve(log_history, staged / CURVE)
        refuse_secrets(staged, token or get_token(), folder.resolve())
        return _upload(api, staged, name, revision, path_in_repo, message)


def claim(api: HfApi, repo_id: str, *, private: bool = False) -> str:
    """The full id of the repository `repo_id`, which is there afterwards. Raises `NerError` where it cannot be had.

    A repository that is public is never pushed to when a private one is asked for.
    """
    with faults_explained(repo_id):
        name = str(api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id)
        public = private and not api.model_info(name).private
    if public:
        raise NerError(
            f"{name}: a private repository is asked for, and this one is there already and public; nothing was pushed; "
            "make it private on its settings page, or take another name"
        )
    return name


def _base(api: HfApi, folder: Path, merge: bool) -> str | None:
    """The id of the base model on the Hub; None where it has none. Raises `NerError` for an adapter without one."""
    called = base_of(folder)
    with faults_explained(str(called)):
        base = repo_on_hub(api, called) if called else None
    if base is None and not merge and (folder / ADAPTER).is_file():
        raise NerError(
            f"{folder}: an adapter of {called}, which is no repository of the Hub: nobody could load it from there; "
            "push it with --merge, or train from a base on the Hub"
        )
    return base


def _upload(api: HfApi, staged: Path, name: str, revision: str | None, path_in_repo: str | None, message: str) -> str:
    with faults_explained(name, revision):
        commit = api.upload_folder(
            repo_id=name,
            folder_path=staged,
            path_in_repo=path_in_repo,
            commit_message=message,
            revision=revision,
            delete_patterns=list(PUSHED),
        )
    return str(commit.commit_url)


def export(folder: str | Path, out: Path, *, dtype: str = "float32") -> None:
    """Write the model in `folder` (or of that Hub id) to `out` as whole weights that transformers alone can run.

    `out` comes whole or not at all, and must not hold anything yet. In float32 the weights are those that were scored,
    so the scores go with them; in another dtype they are others', and are left behind.
    """
    from ..inference.loading import load_weights

    source = local_folder(folder)
    check_trained(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise NerError(f"{out} is there already; choose another folder, or remove it first")
    import torch
    from safetensors import SafetensorError
    from transformers import GenerationConfig

    model = load_weights(source, getattr(torch, dtype))
    try:
        model.generation_config = GenerationConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise NerError(f"{source}: generation_config.json: {error}; copy it from another checkpoint") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        model.save_pretrained(made)
        beside = set(MODEL_FILES) - {*WEIGHTS, WEIGHTS_INDEX, ADAPTER, "config.json", "generation_config.json"}
        scores = {METRICS} if dtype == "float32" and read_metrics(source) else set()
        copy_files(source, made, [*beside, RECIPE, STATE, *scores])
        os.chmod(made, 0o755)
        os.replace(made, out)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, SafetensorError):  # a full disk, as safetensors tells it
            raise NerError(f"{out}: the weights cannot be written ({error}); free space or choose another") from error
        raise
