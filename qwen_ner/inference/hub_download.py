"""The folder of a trained model, given its name: a folder here, or a repository of the Hub, which is downloaded.

In: a path or `user/name`, and a revision. Out: a local folder, or a `NerError` that says why the Hub did not provide it
and what to do. Knows nothing of what is in the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..contract import NER_CONFIG_NAME
from ..entities import NerError

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


def local_folder(folder: str | Path, revision: str | None = None) -> Path:
    """`folder` itself, or the local copy of the Hub repository of that id at `revision`, which is downloaded.

    A repository without `ner_config.json` is refused before its weights are downloaded. What was downloaded before is
    found without a network, too.
    """
    path, name = Path(folder), str(folder)
    if path.exists() or not may_be_repo_id(name):
        if not path.is_dir():
            remedy = "give an output_dir of `qwen-ner train` or a Hub id (user/name)"
            raise NerError("no such folder", place=name, remedy=remedy)
        if revision:
            raise NerError("a local folder has no revision", value=revision, place=name, remedy="leave --revision out")
        return path
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with explain_faults(name, revision):
        try:
            hf_hub_download(name, NER_CONFIG_NAME, revision=revision)
        except RemoteEntryNotFoundError as error:
            what, place = f"no {NER_CONFIG_NAME}: not a qwen_ner model", f"{name}@{revision}" if revision else name
            raise NerError(what, place=place, remedy="give one that `qwen-ner push` wrote") from error
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(MODEL_FILES)))


SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
"""How every model is loaded: code beside the weights is never run, and no pickle is read, since reading one runs it."""


def refuse_pickled(folder: Path) -> None:
    """Raise `NerError` if the only weights in `folder` are a pickle (`.bin`, `.pt`, `.pth`, `.ckpt`)."""
    pickles = (path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    weights = sorted(name for name in pickles if name.startswith(("pytorch_model", "adapter_model", "model")))
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
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return not Path(name).is_dir()
    return False


def downloaded_commit(name: str, revision: str | None = None) -> str | None:
    """The commit of the repository `name` that was last downloaded for `revision`; None for a local folder."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return None
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision


@contextmanager
def explain_faults(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn what `huggingface_hub` raises about the repository `name` into a `NerError` with a remedy."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except NerError:
        raise
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise explain(error, name, revision) from error


def explain(error: Exception, name: str, revision: str | None = None) -> NerError:
    """What the Hub, or the connection to it, answered about `name`, with a remedy."""
    from huggingface_hub import constants, errors

    # A failed download or upload of a file is explained by its cause.
    if isinstance(error, (errors.LocalEntryNotFoundError, RuntimeError)):
        error = error.__cause__ if isinstance(error.__cause__, errors.HfHubHTTPError) else error
    status = getattr(getattr(error, "response", None), "status_code", None)
    status = 401 if isinstance(error, errors.LocalTokenNotFoundError) else status
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
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
        offline = constants.is_offline_mode()
        network = "HF_HUB_OFFLINE is set; unset it" if offline else "check the network and HF_ENDPOINT"
        what, remedy = f"the Hub cannot be reached, or is down ({reason})", f"{network}, and {again}"
    return NerError(what, place=name, remedy=remedy)
