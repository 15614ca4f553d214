"""The folder of a trained model by its name: one that lies here, or a repository of the Hub, which is downloaded.

In: a path or `user/name`, and a revision. Out: a local folder, or a `NerError` that says what the Hub would not give
and what to do. Knows nothing of what is in the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contract import NER_CONFIG_NAME
from ..entities import NerError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ADAPTER = "adapter_config.json"

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "adapter_model.safetensors")

WEIGHTS_INDEX = "model.safetensors.index.json"

MODEL_FILES = (
    *WEIGHTS,
    WEIGHTS_INDEX,
    "config.json",
    ADAPTER,
    "generation_config.json",
    NER_CONFIG_NAME,
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""The files (patterns of their names) that a trained model is used by: all that is downloaded, and with what is said of
the model all that is pushed. No pickle is among them: to load one is to run whatever its writer put there."""


def local_folder(folder: str | Path, revision: str | None = None) -> Path:
    """`folder` itself, or where the Hub repository of that id lies once it is downloaded at `revision`.

    A repository without `ner_config.json` is refused before its weights are fetched. What was downloaded before is
    found without a network too.
    """
    path = Path(folder)
    if path.exists() or not may_be_repo_id(str(folder)):
        if not path.is_dir():
            raise NerError(f"{folder}: no such folder; give an output_dir of `qwen-ner train` or a Hub id (user/name)")
        if revision:
            raise NerError(f"{folder}: a folder here has no revision {revision}; leave --revision out")
        return path
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with faults_explained(str(folder), revision):
        try:
            hf_hub_download(str(folder), NER_CONFIG_NAME, revision=revision)
        except RemoteEntryNotFoundError as error:
            place = f" at {revision}" if revision else ""
            raise NerError(
                f"{folder}: no {NER_CONFIG_NAME} in that repository{place}, so it is no model of qwen_ner; "
                "give one that `qwen-ner push` wrote"
            ) from error
        return Path(snapshot_download(str(folder), revision=revision, allow_patterns=list(MODEL_FILES)))


SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}
"""How every model is loaded: code that lies beside the weights is never run, and no pickle is read, since reading one
is running it."""


def refuse_pickled(folder: Path) -> None:
    """Raise `NerError` where the weights in `folder` are a pickle (`.bin`, `.pt`, `.ckpt`) and nothing else."""
    names = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    weights = [name for name in names if name.startswith(("pytorch_model", "adapter_model", "model"))]
    if weights and not any(folder.glob("*.safetensors")):
        raise NerError(
            f"{folder}: the weights are a pickle ({weights[0]}), and to load one is to run whatever its writer put "
            "there; take a version with .safetensors, or if you trust it convert it: AutoModelForCausalLM."
            "from_pretrained(folder).save_pretrained(other)"
        )


def may_be_repo_id(name: str) -> bool:
    """Whether `name` is spelled like a repository of the Hub: `user/name`.

    >>> may_be_repo_id("Qwen/Qwen2.5-0.5B-Instruct"), may_be_repo_id("./outputs"), may_be_repo_id("/data/model")
    (True, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def downloaded_commit(name: str, revision: str | None = None) -> str | None:
    """The commit at which the repository `name` was loaded last for `revision`; None for a folder here."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return None
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision


@contextmanager
def faults_explained(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn what `huggingface_hub` raises of the repository `name` into one `NerError` with its remedy."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, NerError):
            raise
        raise explained(error, name, revision) from error


def explained(error: Exception, name: str, revision: str | None = None) -> NerError:
    """What the Hub or the way to it answered about `name`, with the remedy."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # A failed download or upload of a file is told by its cause.
    if isinstance(error, (LocalEntryNotFoundError, RuntimeError)) and isinstance(error.__cause__, HfHubHTTPError):
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    login = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        said = f"no name of a repository ({reason}); give user/name"
    elif isinstance(error, RevisionNotFoundError):
        said = f"the Hub has no revision {revision} of it; give a branch, a tag or a commit of that repository"
    elif isinstance(error, GatedRepoError):
        said = f"access to it has to be asked for on its page first; then {login}"
    elif isinstance(error, LocalTokenNotFoundError) or status == 401:
        said = f"the Hub does not let you in (401): without a valid token, or to what is private or absent; {login}"
    elif isinstance(error, RepositoryNotFoundError) or status == 404:
        said = f"the Hub has no such repository, or not for you (404); check the name, or {login} of who may read it"
    elif status == 403:
        said = (
            "you have no right to write there (403); take a name under your own account, or a token with write access: "
            f"{login}"
        )
    elif status == 409:
        said = "another push changed it in between (409); give the same command again"
    elif status is not None and status < 500:
        said = f"the Hub refused ({reason}); check the name and the token"
    else:
        offline = (
            "HF_HUB_OFFLINE is set; unset it" if constants.is_offline_mode() else "check the network and HF_ENDPOINT"
        )
        said = f"the Hub cannot be reached, or is out of order ({reason}); {offline}, and give the same command again"
    return NerError(f"{name}: {said}")


def repo_on_hub(api: HfApi, name: str) -> str | None:
    """The id under which anyone who may read it finds the model `name`; None for what is no repository of the Hub.

    A folder here is none, though a repository may be called the same. Raises what asking raises.
    """
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if Path(name).expanduser().exists():
        return None
    try:
        return str(api.model_info(name).id)
    except GatedRepoError:
        return name
    except (RepositoryNotFoundError, HFValidationError):
        return None
