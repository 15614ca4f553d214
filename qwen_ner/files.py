"""Atomic writes and locks, the files that ship with the package, and attributes that are other for a while.

In: a path, and what to write or whose the lock is. Out: the whole file, or the old one unchanged; the lock, or an error
that names its holder. Knows nothing of contents.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import IO, Any

from .entities import NerError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

PARTIAL = ".partial"
"""Suffix of unfinished files, whose names begin with a dot. A process that is killed leaves them behind."""


def read_json(path: Path, remedy: str) -> Any:
    """The content of a JSON file. Raises `NerError`, with this remedy, if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise NerError(f"not JSON ({error})", place=path, remedy=remedy) from None


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, [json.dumps(values, ensure_ascii=False, indent=2) + "\n"])


def json_line(value: Any) -> str:
    """A value as a line of JSON. Half a surrogate pair, which an answer may hold and UTF-8 cannot, is escaped.

    >>> json_line({"text": "三星"})
    '{"text": "三星"}\\n'
    """
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode() + "\n"


def write_text(path: Path, pieces: Iterable[str]) -> None:
    """Write `pieces` atomically: a reader sees the old file or the whole new one. Escapes as `json_line` does."""
    with beside(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.writelines(pieces)


def shipped(folder: str) -> dict[str, Path]:
    """{name: file} of the YAML files that ship in `folder`, which is "recipes" or "accelerate_configs".

    >>> shipped("accelerate_configs")["cpu"].name
    'cpu.yaml'
    """
    root = Path(str(resources.files(__package__) / folder))
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def install_line(extra: str) -> str:
    """The command that installs the extra `extra` of this package: from the checkout that runs, wherever it is called
    from, else by the package's name.
    """
    root = Path(__file__).resolve().parent.parent
    checkout = (root / "pyproject.toml").is_file()
    return f'pip install -e "{root}[{extra}]"' if checkout else f'pip install "qwen_ner[{extra}]"'


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """An empty temporary file next to `path`. It replaces `path` if the block succeeds and is removed if it fails.

    It has the mode of the file that it replaces, else the one that the umask leaves. Its name cannot be guessed, so
    nobody can put a link there first. Of a link, the file that it points to is replaced. Raises `OSError` if the folder
    is not writable, and `NerError` if `path` is a device, a pipe or a folder, which must not be replaced.
    """
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.exists() and not path.is_file():
        raise NerError("not a regular file", place=path, remedy="give the name of a file")
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    part = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}{PARTIAL}")  # a name has 255 bytes at most
    # Not mkstemp, whose files are private whatever the umask is.
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else 0o600))
    try:
        yield part
        if mode is not None:
            os.chmod(part, mode)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def share_weights(folder: Path) -> None:
    """Give the weights in `folder` the mode of the configuration beside them: safetensors writes them for their owner
    alone, whatever the umask is, and a server that runs as another user could not read them."""
    mode = stat.S_IMODE(next(folder.glob("*config.json")).stat().st_mode)
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


@contextmanager
def lock(path: Path, *, owner: str = "") -> Iterator[IO[str]]:
    """Hold the lock file `path`, opened "a+", until the block ends or this process does, however it ends. It stays.

    If another process holds it, raise `NerError` with the `owner` it gave. Without an `owner` what is in the file
    stays. A file system without locks is warned of. Threads of one process do not exclude each other, and opening and
    closing `path` elsewhere in this process releases it.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "a+", encoding="utf-8"))
        try:
            if fcntl is None:  # a file of its own: on Windows nobody else can read a file that is locked
                from filelock import FileLock

                stack.enter_context(FileLock(f"{path}.held", timeout=0))
            else:
                # Not flock, nor filelock, which uses it: forked workers inherit that lock and keep it when this is
                # killed.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError, TimeoutError):
            file.seek(0)
            what = f"in use by {file.read() or 'another process'}"
            raise NerError(what, place=path.parent, remedy="wait until it ends, or stop it") from None
        except OSError as error:
            log.warning("cannot lock %s (%s); make sure that no other process writes there", path, error.strerror)
        if owner:
            file.truncate(0)
            file.write(owner)
            file.flush()
        yield file


@contextmanager
def replace_attributes(owner: object, **values: Any) -> Iterator[None]:
    """Give attributes of `owner` other values while the context lasts. Those it had from its class are then deleted."""
    own, before = vars(owner), {name: getattr(owner, name) for name in values}
    inherited = values.keys() - own.keys()
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if name in inherited and name in own:  # a property keeps its value elsewhere, and is set back
                delattr(owner, name)
            else:
                setattr(owner, name, value)
