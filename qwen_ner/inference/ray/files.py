"""The files of a job on Ray: texts in, lines of JSON or Parquet out.

In: names of files and folders, here or by URL (fsspec), of lines of text, JSONL or Parquet; blocks of results. Out: a
`Datasource` whose rows are numbered, and a `Datasink` whose files hold what `qwen-ner predict` writes. Knows nothing of
models.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from ray.data import Datasource, ReadTask
from ray.data.block import BlockAccessor, BlockMetadata
from ray.data.datasource import BlockBasedFileDatasink

from ...data.datasets import TextRow, read_texts, text_row
from ...data.formats.lines import lines_of
from ...entities import NerError
from ...files import json_line
from ..output_file import fingerprint, refuse_other

ROWS = 512
"""Rows that are read at a time."""

PART = 1000
"""Rows that a file of results has at least, if as many are left."""

ERROR = re.compile(rb'\{"id": "(?:[^"\\]|\\.)*", "error": ')
"""The beginning of a line with an error."""

KEY = "row_key"
"""Column that tells the rows of a job apart, as ids need not: the number of the file, and of the row in it."""

ENTITY = pa.struct(
    {"label": pa.string(), "text": pa.string(), "start": pa.int64(), "end": pa.int64(), "score": pa.float64(),
     "ambiguous": pa.bool_()}
)  # fmt: skip
PROBLEM = pa.struct({"kind": pa.string(), "label": pa.string(), "value": pa.string()})
RESULTS = {"entities": pa.list_(ENTITY), "problems": pa.list_(PROBLEM), "error": pa.string()}
READ = pa.schema({"id": pa.string(), "text": pa.string(), "source": pa.string(), "error": pa.string(), KEY: pa.int64()})


@dataclass(frozen=True)
class TextFile:
    """A file of texts: its path or URL, how messages and ids call it, and whether ids begin with that name."""

    url: str
    name: str
    named_ids: bool

    def tables(self, number: int) -> Iterator[pa.Table]:
        """Its rows, some at a time; it is file `number` of the job. Raises `NerError` if it cannot be read."""
        with _local_copy(self.url, self.name) as path:
            lines = not _is_parquet(self.url)
            rows = read_texts(lines_of(path), self.name) if lines else _parquet_texts(path, self.name)
            done = 0
            while chunk := list(islice(rows, ROWS)):
                keys = [number << 32 | done + i for i in range(len(chunk))]
                ids = [f"{self.name}:{row.id}" if self.named_ids else row.id for row in chunk]
                columns = [ids, *([getattr(row, name) for row in chunk] for name in ("text", "source", "fault")), keys]
                yield pa.table(columns, schema=READ)
                done += len(chunk)

    def check(self) -> None:
        """Raise `NerError` for a file here that is no lines of text, JSONL or Parquet, before the job begins."""
        if isinstance(open_place(self.url)[0], LocalFileSystem):
            next(self.tables(0), None)


CHANGES = {
    *("size", "created", "mtime", "modified", "modificationtime", "lastmodified", "updated", "generation"),
    *("etag", "checksum", "crc32c", "md5hash", "contentmd5", "blobid"),
}
"""What changes with a file's contents, as the file systems of fsspec name it; their other fields may change with each
look: when it was read last, a signed address."""


@contextmanager
def _explained(what: str, place: str, remedy: str) -> Iterator[None]:
    """Raise what a file system raises as a `NerError`: each has exceptions of its own."""
    try:
        yield
    except NerError:
        raise
    except Exception as error:
        raise NerError(f"{what} ({error})", place=place, remedy=remedy) from error


def open_place(url: str) -> tuple[Any, str]:
    """The file system (fsspec) and the path of a URL, or of a path here. Raises `NerError` if it has none."""
    remedy = "install what it names on every node, or give a path that all nodes share"
    with _explained("cannot be opened", url, remedy):
        filesystem, path = fsspec.url_to_fs(url)
    return filesystem, path


def arrow_place(url: str) -> tuple[pa.fs.FileSystem, str]:
    """As `open_place`, with a file system of Arrow."""
    filesystem, path = open_place(url)
    local = isinstance(filesystem, LocalFileSystem)
    return pa.fs.LocalFileSystem() if local else pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)), path


def make_folder(filesystem: pa.fs.FileSystem, path: str) -> None:
    """Make the folder, with those above it, unless it is there. Raises `NerError` if that cannot be."""
    with _explained("cannot be made a folder", path, "name a folder with --output that you may write to"):
        filesystem.create_dir(path, recursive=True)


def find_files(names: Iterable[str]) -> list[TextFile]:
    """The files that `names` name, folders with all that is in them, in order. Raises `NerError` if there is none."""
    found: list[tuple[str, str]] = []
    for name in names:
        filesystem, root = open_place(name)
        with _explained("cannot be read", name, "check the address and the credentials"):
            inside = filesystem.find(root) if filesystem.isdir(root) else [root] * filesystem.exists(root)
        kept = [path for path in inside if path == root or not _is_hidden(os.path.relpath(path, root))]
        if not kept:
            raise NerError("no such file, or an empty folder", place=name, remedy="give texts, JSONL or Parquet")
        found += [
            (filesystem.unstrip_protocol(path), name.rstrip("/") + path[len(root.rstrip("/")) :]) for path in kept
        ]
    if len({url for url, _ in found}) < len(found):
        twice = sorted({name for url, name in found if [other for other, _ in found].count(url) > 1})
        raise NerError("a file is given twice", value=twice, remedy="give each once")
    return [TextFile(url, name, len(found) > 1) for url, name in found]


def _is_hidden(path: str) -> bool:
    """Whether it is a file of the system's that wrote the others, or lies in a folder of such: `date=1/_SUCCESS`."""
    return any(part.startswith(("_", ".")) for part in Path(path).parts)


def files_fingerprint(files: Iterable[TextFile]) -> str:
    """16 hexadecimal digits of the contents of files; of one elsewhere, of its size and what its system says of it."""
    digest = hashlib.sha256()
    for file in files:
        filesystem, path = open_place(file.url)
        told = filesystem.info(path)
        local = isinstance(filesystem, LocalFileSystem)
        state = (
            fingerprint([Path(path)])
            if local
            else sorted((key, str(told[key])) for key in told if re.sub("[-_]", "", key).lower() in CHANGES)
        )
        digest.update(f"{file.name} {state}\n".encode())
    return digest.hexdigest()[:16]


@contextmanager
def _local_copy(url: str, name: str) -> Iterator[Path]:
    """The file itself if it lies here, else a copy: a job reads it for hours, longer than connections hold."""
    filesystem, path = open_place(url)
    with tempfile.TemporaryDirectory(prefix="qwen_ner_") as folder:
        if not isinstance(filesystem, LocalFileSystem):
            copy = os.path.join(folder, os.path.basename(path) or "texts")
            with _explained("cannot be read", name, "check the address, and the credentials on every node"):
                filesystem.get_file(path, copy)
            path = copy
        elif not os.access(path, os.R_OK):
            remedy = "put it where every node can read it: on a shared disk, or at a URL"
            raise NerError(f"cannot be read on node {platform.node()}", place=name, remedy=remedy)
        yield Path(path)


def _is_parquet(url: str) -> bool:
    return url.lower().endswith(".parquet")


def _parquet_texts(path: Path, name: str) -> Iterator[TextRow]:
    """The rows of a Parquet file with a column `text`, and perhaps `id`."""
    remedy = "write it again, or take it out and go on with the others"
    with _explained("cannot be read as Parquet", name, remedy), pq.ParquetFile(path) as file:
        if "text" not in (names := file.schema_arrow.names):
            raise NerError('no column "text"', value=names, place=name, remedy="rename the column of texts")
        columns, number = [column for column in ("id", "text") if column in names], 0
        for batch in file.iter_batches(ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield table_row(row, str(number), f"{name}:{number}")


def table_row(row: dict[str, Any], number: str, place: str) -> TextRow:
    """As `text_row`; a column without a value is one that the row lacks."""
    return text_row({column: value for column, value in row.items() if value is not None}, number, place)


class Texts(Datasource):
    """The rows of text files, with the columns of `READ`: a read task for each file."""

    def __init__(self, files: list[TextFile]) -> None:
        super().__init__()
        self._files = files

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None)
        return [ReadTask(partial(file.tables, number), unknown) for number, file in enumerate(self._files)]


class Results(BlockBasedFileDatasink):
    """Writes blocks of `READ` and `RESULTS` to a folder, `PART` rows a file or some more.

    `form` is json, lines as `qwen-ner predict` writes them, or parquet. `record` is a file that each node must see.
    """

    def __init__(self, folder: str, filesystem: pa.fs.FileSystem, form: str, record: str) -> None:
        kind = "jsonl" if form == "json" else form
        super().__init__(folder, filesystem=filesystem, file_format=kind, min_rows_per_file=PART)
        self._form, self._record = form, record

    def write_block(self, block: BlockAccessor, *more: Any) -> None:
        if self.filesystem.get_file_info(self._record).type is pa.fs.FileType.NotFound:
            what, remedy = f"node {platform.node()} does not see this folder", "give one that all nodes share, or a URL"
            raise NerError(what, place=self.path, remedy=remedy)
        super().write_block(block, *more)

    def write_block_to_file(self, block: BlockAccessor, file: pa.NativeFile) -> None:
        table = block.to_arrow()
        if self._form == "parquet":
            pq.write_table(table.select(["id", "text", *RESULTS]), file)
        else:
            for row in table.to_pylist():
                file.write(json_line(_line(row)).encode())

    def count(self) -> tuple[int, int]:
        """How many rows the folder has, of this run and of those before, and how many of them hold an error."""
        import ray

        counted = ray.remote(num_cpus=0.25)(_count_rows)
        paths = [part.path for part in self.filesystem.get_file_info(pa.fs.FileSelector(self.path))]
        found = ray.get([counted.remote(self.filesystem, path) for path in paths])
        return sum(rows for rows, _ in found), sum(errors for _, errors in found)


def _line(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the object that `qwen-ner predict` writes for it, which leaves out what is absent."""
    if row["error"] is not None:
        return {"id": row["id"], "error": row["error"]}
    entities = [{key: value for key, value in entity.items() if value is not None} for entity in row["entities"]]
    line = {"id": row["id"], "text": row["text"], "entities": entities}
    return line | ({"problems": row["problems"]} if row["problems"] else {})


def _count_rows(filesystem: pa.fs.FileSystem, path: str) -> tuple[int, int]:
    """How many rows a file of results has, and how many of them hold an error."""
    with filesystem.open_input_file(path) as file:
        if _is_parquet(path):
            errors = pq.read_table(file, columns=["error"])["error"]
            return len(errors), len(errors) - errors.null_count
        rows = errors = 0
        for line in io.BufferedReader(file):
            rows, errors = rows + 1, errors + bool(ERROR.match(line))
        return rows, errors


def open_record(filesystem: pa.fs.FileSystem, folder: str, path: str, record: dict[str, Any]) -> None:
    """Write `record` to `path` if the results in `folder` are to begin; raise `NerError` if they are of another one."""
    remedy = f"remove it and {os.path.dirname(path)} to start again, or choose another --output"
    selector = pa.fs.FileSelector(folder, allow_not_found=True)
    if filesystem.get_file_info(path).type is pa.fs.FileType.NotFound:
        if filesystem.get_file_info(selector):
            raise NerError("is not empty, and no .job beside it says what wrote it", place=folder, remedy=remedy)
        with filesystem.open_output_stream(path) as file:
            file.write((json.dumps(record, indent=2) + "\n").encode())
        return
    with filesystem.open_input_file(path) as file:
        try:
            before = dict(json.loads(file.read()))
        except (ValueError, TypeError):
            raise NerError("is not the record of a job", place=path, remedy=remedy) from None
    refuse_other(before, record, folder, remedy)
