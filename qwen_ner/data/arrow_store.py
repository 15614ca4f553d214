"""Many examples, or predictions, as one sequence that lies on the disk: memory-mapped, each made when it is asked for.

In: `Example`s or `Decoded`s, one at a time. Out: a `Sequence` of them, whose memory does not grow with their number.
Knows nothing of where they come from.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..codec import Decoded, Problem
from ..entities import Entity, Example, NerError

if TYPE_CHECKING:
    from datasets import Dataset
    from typing_extensions import Self  # of typing from Python 3.11 on

BATCH = 1_000
"""Rows that are written, or read in turn, at a time."""


T = TypeVar("T")


class Stored(Sequence[T]):
    """Values of one kind in a memory-mapped file; `rows` has a row a value. Slices are views of the same file."""

    shared = False
    """Whether the file is kept, named by what is in it, for all who hold the same; else nobody finds it, and it is gone
    with the sequence."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    @staticmethod
    @abstractmethod
    def features() -> dict[str, Any]:
        """The columns of `rows`."""

    @staticmethod
    @abstractmethod
    def row_of(value: T) -> dict[str, Any]:
        """The row that `value_of` makes equal again."""

    @staticmethod
    @abstractmethod
    def value_of(row: dict[str, Any]) -> T: ...

    @classmethod
    def of(cls, values: Iterable[T]) -> Self:
        """Write `values` as they come. Raises `NerError` where that is not possible, and what reading them raises."""
        if isinstance(values, cls):
            return values
        import datasets
        import pyarrow  # type: ignore[import-untyped, unused-ignore]

        schema = datasets.Features(cls.features()).arrow_schema
        folder, digest, left = cache_folder() / "examples", hashlib.sha256(), iter(values)
        with writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=folder)
        path = Path(part)
        try:
            with os.fdopen(handle, "wb") as file, writable(folder), pyarrow.ipc.new_stream(file, schema) as writer:
                while batch := [cls.row_of(value) for value in islice(left, BATCH)]:
                    digest.update(repr(batch).encode("utf-8", "surrogatepass"))
                    writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            if cls.shared:
                path = folder / f"{digest.hexdigest()[:32]}.arrow"
                os.replace(part, path)
            return cls(datasets.Dataset.from_file(str(path)))
        finally:
            Path(part).unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[T]:
        for table in self.rows.with_format("arrow").iter(BATCH):
            yield from map(self.value_of, table.to_pylist())

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Self: ...
    def __getitem__(self, at: int | slice) -> T | Self:
        if isinstance(at, slice):
            return self.select(range(len(self))[at])
        return self.value_of(self.rows[at])

    def select(self, positions: Iterable[int]) -> Self:
        """Those at `positions`, in that order."""
        return type(self)(self.rows.select(positions))


class StoredExamples(Stored[Example]):
    """Examples in a file of the cache of data sets. `rows` has id, text, source and entities.

    >>> rows = StoredExamples.of(Example(str(n), f"第{n}句") for n in range(5))
    >>> len(rows), rows[3].text, [example.id for example in rows[1:3]]
    (5, '第3句', ['1', '2'])
    """

    shared = True

    @staticmethod
    def features() -> dict[str, Any]:
        import datasets

        value = datasets.Value
        offsets, judged = dict.fromkeys(("start", "end"), value("int32")), {"score": value("float64")}
        entity = {**_texts("label", "text"), **offsets, **judged, "ambiguous": value("bool")}
        return {**_texts("id", "text", "source"), "entities": datasets.List(entity)}

    @staticmethod
    def row_of(value: Example) -> dict[str, Any]:
        entities = [_entity_row(entity) for entity in value.entities]
        return {"id": value.id, "text": value.text, "source": value.source, "entities": entities}

    @staticmethod
    def value_of(row: dict[str, Any]) -> Example:
        return Example(row["id"], row["text"], tuple(Entity(**e) for e in row["entities"]), row["source"])


class StoredDecoded(Stored[Decoded]):
    """Predictions, as long as somebody holds them."""

    @staticmethod
    def features() -> dict[str, Any]:
        return _texts("line")

    @staticmethod
    def row_of(value: Decoded) -> dict[str, Any]:
        entities = [_entity_row(entity) for entity in value.entities]
        problems = [{"kind": p.kind, "value": p.value, "label": p.label} for p in value.problems]
        # In ASCII, since an answer may hold half a surrogate pair, which no column of texts does.
        return {"line": json.dumps({"entities": entities, "surfaces": value.surfaces, "problems": problems})}

    @staticmethod
    def value_of(row: dict[str, Any]) -> Decoded:
        line = json.loads(row["line"])
        return Decoded(
            tuple(Entity(**entity) for entity in line["entities"]),
            tuple((label, surface) for label, surface in line["surfaces"]),
            tuple(Problem(**problem) for problem in line["problems"]),
        )


def _entity_row(entity: Entity) -> dict[str, Any]:
    return {name: getattr(entity, name) for name in ("label", "text", "start", "end", "score", "ambiguous")}


def _texts(*names: str) -> dict[str, Any]:
    import datasets

    return dict.fromkeys(names, datasets.Value("string"))


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
