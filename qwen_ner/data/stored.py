"""Many examples as one sequence that lies on the disk: memory-mapped, each made when it is asked for.

In: `Example`s, one at a time. Out: a `Sequence` of them, whose memory does not grow with their number. Knows nothing of
where they come from.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..entities import Entity, Example, NerError

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1_000
"""Rows that are written, or read in turn, at a time."""


class StoredExamples(Sequence[Example]):
    """Examples in a file of the cache of data sets, named by what is in it, so that all who hold the same share it.

    Slices and selections are views of the same file. `rows` has a row an example: id, text, source, entities.

    >>> rows = StoredExamples.of(Example(str(n), f"第{n}句") for n in range(5))
    >>> len(rows), rows[3].text, [example.id for example in rows[1:3]]
    (5, '第3句', ['1', '2'])
    """

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    @classmethod
    def of(cls, examples: Iterable[Example]) -> StoredExamples:
        """Write `examples` as they come. Raises `NerError` where that is not possible, and what reading them raises."""
        if isinstance(examples, StoredExamples):
            return examples
        import datasets
        import pyarrow  # type: ignore[import-untyped, unused-ignore]

        value = datasets.Value
        entity = {"label": value("string"), "start": value("int32"), "end": value("int32"), "score": value("float64")}
        schema = datasets.Features(
            {
                **dict.fromkeys(("id", "text", "source"), value("string")),
                "entities": datasets.List({**entity, "ambiguous": value("bool")}),
            }
        ).arrow_schema
        folder, digest, left = cache_folder() / "examples", hashlib.sha256(), iter(examples)
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as file, writable(folder), pyarrow.ipc.new_stream(file, schema) as writer:
                while batch := [_row(example) for example in islice(left, BATCH)]:
                    digest.update(repr(batch).encode("utf-8", "surrogatepass"))
                    writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            path = folder / f"{digest.hexdigest()[:32]}.arrow"
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)
        return cls(datasets.Dataset.from_file(str(path)))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Example]:
        for table in self.rows.with_format("arrow").iter(BATCH):
            yield from map(example_of, table.to_pylist())

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> StoredExamples: ...
    def __getitem__(self, at: int | slice) -> Example | StoredExamples:
        if isinstance(at, slice):
            return self.select(range(len(self))[at])
        return example_of(self.rows[at])

    def select(self, positions: Iterable[int]) -> StoredExamples:
        """Those at `positions`, in that order."""
        return StoredExamples(self.rows.select(positions))


def _row(example: Example) -> dict[str, Any]:
    entities = [
        {"label": e.label, "start": e.start, "end": e.end, "score": e.score, "ambiguous": e.ambiguous}
        for e in example.entities
    ]
    return {"id": example.id, "text": example.text, "source": example.source, "entities": entities}


def example_of(row: dict[str, Any]) -> Example:
    """The example that a row of `StoredExamples.rows` holds."""
    text = row["text"]
    entities = (Entity(text=text[e["start"] : e["end"]], **e) for e in row["entities"])
    return Example(row["id"], text, tuple(entities), row["source"])


def selected(examples: Sequence[Example], positions: Sequence[int]) -> Sequence[Example]:
    """Those at `positions`, on the disk where `examples` are."""
    if isinstance(examples, StoredExamples):
        return examples.select(positions)
    return [examples[at] for at in positions]


def cache_folder() -> Path:
    """Where this package keeps what it writes into the cache of data sets."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "qwen_ner"


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn what a disk that is full or cannot be written raises into a `NerError` with its remedy."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # datasets closes its file on the way, which fails too
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES):
                raise NerError(
                    f"{folder}: the rows cannot be written ({os.strerror(cause.errno)}); free space there, or set "
                    "HF_DATASETS_CACHE to another folder"
                ) from error
            cause = cause.__context__
        raise
