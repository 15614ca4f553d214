"""Push a trained folder to the Hub, or export it with merged weights.

In: a folder that a training wrote, the id of a repository. Out: one commit there, or none. The folder is only read.
Knows nothing of training.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.trained_texts import TRAINED_TEXTS
from ..entities import NerError
from ..files import share_weights
from ..inference.hub_download import ADAPTER, BESIDE_WEIGHTS, METRICS, explain_faults, local_folder, may_be_repo_id
from .card import write_card
from .neutral import PUSHED, RECIPE, STATE, check_folder, copy_files, neutralise, parent_of, read_recipe, refuse_secrets

if TYPE_CHECKING:
    from huggingface_hub import HfApi


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
    """Push the model in `folder` and its card to the repository `repo_id` in one commit; create it if needed.

    The files of an earlier push are replaced, other files of the repository stay. `merge` merges an adapter into its
    base first; `revision` is an existing branch, `path_in_repo` a folder. Returns the URL of the commit. Raises
    `NerError` and commits nothing if anything fails; a repository created before that stays, empty.
    """
    from huggingface_hub import HfApi, get_token

    folder = Path(folder)
    check_folder(folder)
    if merge and not (folder / ADAPTER).is_file():
        raise NerError("not an adapter, so there is nothing to merge", place=folder, remedy="push it without --merge")
    _base(folder, merge)  # first without the Hub, so that nothing is created there in vain
    api = HfApi(token=token)
    name = claim(api, repo_id, private=private)
    with tempfile.TemporaryDirectory(prefix="qwen_ner_push_") as made:
        base = _base(folder, merge, api)
        source, staged = folder, Path(made) / "staged"
        if merge:
            source = Path(made) / "merged"
            export(folder, source)
        staged.mkdir()
        neutralise(source, staged, name, base)
        if not path_in_repo:
            write_card(source, name, base, staged)
        refuse_secrets(staged, token or get_token(), folder.resolve())
        with explain_faults(name, revision):
            commit = api.upload_folder(
                repo_id=name,
                folder_path=staged,
                path_in_repo=path_in_repo,
                commit_message=message,
                revision=revision,
                delete_patterns=list(PUSHED),
            )
    return str(commit.commit_url)


def claim(api: HfApi, repo_id: str, *, private: bool = False) -> str:
    """The full id of the repository `repo_id`, created if needed. Raises `NerError` if it cannot be written to.

    With `private`, an existing public repository is refused.
    """
    with explain_faults(repo_id):
        name = str(api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id)
        public = private and not api.model_info(name).private
    if public:
        remedy = "make it private on its settings page, or choose another name"
        raise NerError("the repository exists and is public; nothing was pushed", place=name, remedy=remedy)
    return name


def _base(folder: Path, merge: bool, api: HfApi | None = None) -> str | None:
    """The id of the base model on the Hub, if it has one; without `api`, if it looks like one.

    Raises `NerError` for an adapter whose base has none.
    """
    adapter = folder / ADAPTER
    if adapter.is_file():
        name = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    else:
        name = read_recipe(folder).get("model_name_or_path")
    with explain_faults(str(name)):
        local = name is None or Path(name).expanduser().exists() or not may_be_repo_id(name)
        base = None if local or (api and not api.repo_exists(name)) else name
    if base is None and not merge and adapter.is_file():
        remedy = "push it with --merge, or train from a base on the Hub"
        raise NerError("the adapter's base is not on the Hub", value=name, place=folder, remedy=remedy)
    return base


def export(folder: str | Path, out: Path, *, dtype: str = "float32") -> None:
    """Write the model in `folder` (or with that Hub id) to `out` as full weights that transformers alone can run.

    `out` must be empty or absent, and is written whole or not at all. The scores are those of the float32 weights, so
    no other dtype takes them along.
    """
    from ..inference.loading import load_weights

    source = local_folder(folder)
    check_folder(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise NerError("the folder exists and is not empty", place=out, remedy="choose another, or remove it first")
    import torch
    from safetensors import SafetensorError
    from transformers import GenerationConfig

    model = load_weights(source, getattr(torch, dtype))
    try:
        model.generation_config = GenerationConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        place = source / "generation_config.json"
        raise NerError(f"cannot be read ({error})", place=place, remedy="copy it from another checkpoint") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        made = Path(beside) / out.name
        try:
            model.save_pretrained(made)
        except SafetensorError as error:  # a full disk
            remedy = "free space, or choose another folder"
            raise NerError(f"cannot write the weights ({error})", place=out, remedy=remedy) from error
        share_weights(made)
        scores = [METRICS] if dtype == "float32" else []
        copy_files(parent_of(source), made, [RECIPE, TRAINED_TEXTS])  # of a checkpoint
        copy_files(source, made, [*BESIDE_WEIGHTS, RECIPE, STATE, TRAINED_TEXTS, *scores])
        if out.exists():  # empty; Windows replaces no folder
            out.rmdir()
        os.replace(made, out)
