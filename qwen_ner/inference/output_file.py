"""The file that a batch prediction writes, and goes on with.

In: a path, a record of what makes the lines (model, format, thresholds), and rows. Out: the path, for one process at a
time, and how many of the rows it has; `FILE.meta.json` beside it holds the record and is the lock. A file with another
record, or lines of other rows, is refused. Knows nothing of how lines are made.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..data.datasets import TextRow
from ..entities import NerError
from ..files import beside, json_line, lock
from .hub_download import MODEL_FILES

META = ".meta.json"

NAME = "model"
"""Key of the record that says how the model was called. It may change: the fingerprint says which model it is."""

START_AGAIN = "remove the file to start again, or choose another --output"


def model_fingerprint(folder: Path) -> str:
    """`fingerprint` of a trained folder: weights or adapter, tokenizer, `ner_config.json`."""
    return fingerprint(sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}))


def fingerprint(paths: Iterable[Path]) -> str:
    """16 hexadecimal digits of the names and contents of files, wherever they lie. A second for each GB or so."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


@contextmanager
def open_output(path: Path | None, record: Mapping[str, Any], *, write: bool = True) -> Iterator[Path | IO[str]]:
    """Where to write lines: `path`, locked until the block ends, or a stream for None, a pipe or a device.

    Of several ranks one has `write`; the others get the path to read what is done. Raises `NerError` if another process
    writes the file, or it has lines of a run with another `record`.
    """
    if path is None or _is_standard_output(path):
        yield sys.stdout
        return
    if path.exists() and not path.is_file() and not path.is_dir():
        with (path if write else Path(os.devnull)).open("a", encoding="utf-8") as stream:
            yield stream
        return
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    with ExitStack() as stack:
        if write:
            try:
                file = stack.enter_context(lock(path.with_name(path.name + META)))
            except NerError as error:
                remedy = "wait until it ends, or choose another --output"
                raise NerError("another process writes this file", place=path, remedy=remedy) from error
            _check_record(path, file, record)
        yield path


def _is_standard_output(path: Path) -> bool:
    """Whether it is another name of it, such as /dev/stdout."""
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def _check_record(path: Path, file: IO[str], record: Mapping[str, Any]) -> None:
    """Write the record to `file`, or compare it with the one there if `path` has lines; any other file is refused."""
    with suppress(FileNotFoundError), path.open("rb") as lines:
        if first := lines.readline():
            file.seek(0)
            try:
                before = dict(json.load(file))
            except (ValueError, TypeError):
                what = f"is not empty, and no {path.name}{META} says what wrote it"
                raise NerError(what, place=path, remedy=START_AGAIN) from None
            if first.endswith(b"\n"):
                refuse_other(before | {NAME: record.get(NAME)}, record, path, START_AGAIN)
                return  # a full disk would leave a file that nothing vouches for
    file.truncate(0)
    json.dump(record, file, indent=2)
    file.write("\n")
    file.flush()


def refuse_other(before: Mapping[str, Any], record: Mapping[str, Any], place: Path | str, remedy: str) -> None:
    """Raise `NerError` if the output at `place` was written with another record than this."""
    if other := [key for key in {**before, **record} if before.get(key) != record.get(key)]:
        found = "; ".join(f"{key} {before.get(key)}, not {record.get(key)}" for key in other)
        raise NerError(f"was written with {found}", place=place, remedy=remedy)


def resume(
    path: Path,
    rows: Iterator[TextRow],
    answer: Callable[[Sequence[TextRow]], list[dict[str, Any]]],
    *,
    size: int,
    write: bool,
) -> tuple[int, int]:
    """Take from `rows` those that the file has lines of; returns how many, and how many of them hold an error.

    A line with an error is replaced by the `answer` to its row if that reads otherwise now; up to `size` rows are
    answered at a time. With `write` the file is written again, without a last line that was cut off. Raises `NerError`,
    and leaves the file unchanged, at a line of another text.
    """
    done = refused = 0
    if not path.exists():
        return done, refused
    with ExitStack() as stack:
        part = stack.enter_context(beside(path)) if write else None
        old = stack.enter_context(path.open("rb"))  # closed before it is replaced: Windows demands it
        new = stack.enter_context(part.open("wb")) if part else None
        whole_lines = (raw for raw in old if raw.endswith(b"\n"))
        while lines := list(islice(whole_lines, size)):
            read = [_match(raw, next(rows, None), f"{path}:{done + i}") for i, raw in enumerate(lines, start=1)]
            again = [i for i, (line, row) in enumerate(read) if "error" in line and line["error"] != row.fault]
            for i, line in zip(again, answer([read[i][1] for i in again]) if again else (), strict=True):
                read[i], lines[i] = (line, read[i][1]), json_line(line).encode()
            if new:
                new.writelines(lines)
            done += len(lines)
            refused += sum("error" in line for line, _ in read)
    return done, refused


def _match(raw: bytes, row: TextRow | None, place: str) -> tuple[dict[str, Any], TextRow]:
    """A line with its row. Raises `NerError` if it is not the row's."""
    try:
        line = json.loads(raw)
        same = row and (line["id"] == row.id or line["id"] == int(row.id))  # a submission's ids are numbers
        if row and same and ("error" in line or line.get("text", row.text) == row.text):
            return line, row
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise NerError("this line belongs to another text", place=place, remedy=START_AGAIN)
