"""The folder of a model, given its name: a folder here, or a repository of the Hub or ModelScope, which is downloaded.

In: a path, `user/name` or `modelscope:user/name`, and a revision. Out: a local folder, or a `NerError` that says why it
was not provided and what to do. Knows nothing of what is in the files.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ..columns import first_line
from ..contract import NER_CONFIG_NAME
from ..entities import NerError
from ..files import install_line
from ..reach import WAYS_OUT, silence, unreachable

warn_once = cache(logging.getLogger(__name__).warning)

MODELSCOPE = "modelscope:"
"""Before the name of a model on modelscope.cn, where others have it from the Hugging Face Hub."""

ADAPTER = "adapter_config.json"

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "adapter_model.safetensors")

BESIDE_WEIGHTS = (
    NER_CONFIG_NAME, "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
)  # fmt: skip
"""Files that stay the same when an adapter is merged into its base."""

CONFIGS = ("model.safetensors.index.json", ADAPTER, "config.json", "generation_config.json")

MODEL_FILES = (*WEIGHTS, *CONFIGS, *BESIDE_WEIGHTS)
"""Patterns of the files that make up a trained model: all that is downloaded, and beside card and scores all that is
pushed. No pickle is among them: loading one runs whatever code its author put in it."""


METRICS = "metrics.json"
"""The scores of a trained model."""

WITHOUT_WEIGHTS = (*CONFIGS, *BESIDE_WEIGHTS)


def local_folder(folder: str | Path, revision: str | None = None) -> Path:
    """The folder of a trained model: `folder` itself, or the local copy of the repository of that name at `revision`.

    A repository without `ner_config.json` is refused before its weights are downloaded. What was downloaded before is
    found without a network, too.
    """
    path, name = Path(folder), str(folder)
    if path.exists() or not (may_be_repo_id(name) or name.startswith(MODELSCOPE)):
        if not path.is_dir():
            raise NerError("no such folder", place=name, remedy="give an output_dir of `qwen-ner train` or a Hub id")
        if revision:
            raise NerError("a local folder has no revision", value=revision, place=name, remedy="leave --revision out")
        return path
    if not (download(name, revision, WITHOUT_WEIGHTS) / NER_CONFIG_NAME).is_file():
        what, place = f"no {NER_CONFIG_NAME}: not a qwen_ner model", f"{name}@{revision}" if revision else name
        raise NerError(what, place=place, remedy="give one that `qwen-ner push` wrote")
    return download(name, revision, (*MODEL_FILES, METRICS))


def base_folder(name: str | Path, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a model to start from, whose repository is downloaded with or without its `weights`."""
    if is_absent_folder(str(name)):
        raise NerError("no such folder", place=name, remedy="give the folder of a model, or a Hub id (user/name)")
    if Path(name).is_dir():
        return Path(name)
    ways_out = f"{WAYS_OUT}, or train tiny, a toy made here, to try the rest"
    return download(str(name), revision, MODEL_FILES if weights else WITHOUT_WEIGHTS, ways_out)


def download(name: str, revision: str | None, patterns: Sequence[str], ways_out: str = WAYS_OUT) -> Path:
    """The local copy of the files of a repository that fit `patterns`, brought up to date if its hub can be reached."""
    from huggingface_hub import constants, snapshot_download

    scope = name.startswith(MODELSCOPE)
    fetch, endpoint = _modelscope(name) if scope else (snapshot_download, constants.ENDPOINT)
    reason = None if constants.is_offline_mode() and not scope else silence(endpoint)
    given: dict[str, Any] = {"revision": revision, "allow_patterns": list(patterns)}
    try:
        folder = fetch(name.removeprefix(MODELSCOPE), **given, local_files_only=reason is not None)
    except Exception as error:  # ModelScope's client raises its own, and those of requests
        if reason:
            raise _or_folder(unreachable(name, endpoint, reason, ways_out)) from error
        if not scope:
            raise _or_folder(explain(error, name, revision)) from error
        what = f"ModelScope does not give it ({' '.join(str(error).split()) or type(error).__name__})"
        remedy = "check the name and the revision, or set MODELSCOPE_API_TOKEN if it is private"
        raise NerError(what, value=revision, place=name, remedy=remedy) from error
    if reason:
        warn_once("%s cannot be reached (%s); using %s as it was downloaded before.", endpoint, reason, name)
    return Path(folder)


def _or_folder(error: NerError) -> NerError:
    """`error` about `user/name`; where `user` is a folder here, it says first that there is no `name` in it."""
    parent, _, name = str(error.place).partition("/")
    if not Path(parent).is_dir():
        return error
    near = difflib.get_close_matches(name, [path.name for path in Path(parent).iterdir() if path.is_dir()], n=1)
    remedy = f'did you mean "{parent}/{near[0]}"? Else {error.remedy}' if near else error.remedy
    what = f"no such folder, and as a name of the Hub: {error.what}"
    return NerError(what, value=error.value, place=error.place, remedy=remedy)


def _modelscope(name: str) -> tuple[Callable[..., str], str]:
    """The download of ModelScope's own client, which knows its cache and its token, and the address of its hub."""
    repository = name.removeprefix(MODELSCOPE)
    if not may_be_repo_id(repository):
        raise NerError("not a name of ModelScope", value=repository, place=name, remedy="give modelscope:user/name")
    try:
        from modelscope import snapshot_download
    except ImportError as error:
        remedy = f"install it: {install_line('modelscope')}"
        raise NerError("ModelScope's client is not installed", place=name, remedy=remedy) from error
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn"
    return snapshot_download, endpoint if "://" in endpoint else f"https://{endpoint}"


PICKLE = re.compile(r"(pytorch_|adapter_)?model.*\.(bin|pt|pth|ckpt)$")

SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
"""How every model is loaded: code beside the weights is never run, and no pickle is read, since reading one runs it."""


def refuse_pickled(folder: Path) -> None:
    """Raise `NerError` if the only weights in `folder` are a pickle (`.bin`, `.pt`, `.pth`, `.ckpt`)."""
    weights = sorted(path.name for path in folder.glob("*") if PICKLE.match(path.name))
    if weights and not any(folder.glob("*.safetensors")):
        what = "the weights are a pickle, and loading one runs whatever code its author put in it"
        convert = "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(other)"
        remedy = f"use a version with .safetensors, or if you trust it convert it: {convert}"
        raise NerError(what, place=folder / weights[0], remedy=remedy)


def may_be_repo_id(name: str) -> bool:
    """Whether `name` has the form of a Hub id: `user/name`.

    >>> may_be_repo_id("Qwen/Qwen2.5-0.5B-Instruct"), may_be_repo_id("./outputs"), may_be_repo_id("/data/model")
    (True, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def is_absent_folder(name: str) -> bool:
    """Whether `name` can only be a folder, since it is no Hub id, and there is none.

    >>> is_absent_folder("/data/gone"), is_absent_folder("./gone"), is_absent_folder("Qwen/gone"), is_absent_folder("/")
    (True, True, False, False)
    """
    return not (name.startswith(MODELSCOPE) or re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name) or Path(name).is_dir())


@contextmanager
def explain_faults(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn what `huggingface_hub` raises about writing to the repository `name` into a `NerError` with a remedy."""
    try:
        yield
    except NerError:
        raise
    except Exception as error:
        raise explain(error, name, revision, writing=True) from error


def explain(error: Exception, name: str, revision: str | None = None, *, writing: bool = False) -> NerError:
    """What the Hub, or the connection to it, answered about `name`, with a remedy. Raises `error` if it is another."""
    from huggingface_hub import constants, errors

    if not isinstance(error, (errors.HTTPError, OSError, ValueError, RuntimeError)):
        raise error
    # A failed download or upload of a file is explained by its cause.
    if isinstance(error, (errors.LocalEntryNotFoundError, RuntimeError)):
        error = error.__cause__ if isinstance(error.__cause__, errors.HfHubHTTPError) else error
    status = getattr(getattr(error, "response", None), "status_code", None)
    status = 401 if isinstance(error, errors.LocalTokenNotFoundError) else status
    reason = first_line(error)
    login, again = "log in with `hf auth login`, or set HF_TOKEN", "run the same command again"
    write = f"use a name under your own account, or a token with write access: {login}"
    answers: dict[Any, tuple[str, str]] = {
        errors.HFValidationError: (f"not a repository name ({reason})", "give user/name"),
        errors.RevisionNotFoundError: ("no such revision on the Hub", "give a branch, a tag or a commit of it"),
        errors.GatedRepoError: ("the repository is gated", f"request access on its page, then {login}"),
        401: ("no valid token, or the repository is private or does not exist", login),
        403: ("you have no right to write there", write),
        404: ("no such repository on the Hub, or none that you may read", f"check the name, or {login}"),
        409: ("another push changed the repository in between", again),
    }
    if known := answers.get(type(error)) or answers.get(status):
        value = revision if isinstance(error, errors.RevisionNotFoundError) else status
        return NerError(known[0], value=value, place=name, remedy=known[1])
    if status is not None and status < 500:
        what, remedy = f"the Hub refused ({reason})", "check the name and the token"
    else:
        offline = "HF_HUB_OFFLINE is set; unset it"
        offline += "" if writing else f", or run hf download {name} where there is a network"
        remedy = offline if constants.is_offline_mode() else f"check the network and HF_ENDPOINT, and {again}"
        what = f"the Hub cannot be reached, or is down ({reason})"
    return NerError(what, place=name, remedy=remedy)
