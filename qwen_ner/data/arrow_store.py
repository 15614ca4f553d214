"""Many examples, or predictions, as one sequence on the disk: memory-mapped, each made when it is asked for.

In: `Example`s or `Decoded`s, one at a time. Out: a `Sequence` of them, whose memory does not grow with their number.
Knows nothing of where they come from.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..codec import Decoded, Problem
from ..entities import Entity, Example, NerError

if TYPE_CHECKING:
    from datasets import Dataset
    from typing_extensions import Self  # in typing from Python 3.11 on

T = TypeVar("T")

BATCH = 1_000
"""Rows that are written or read at a time."""


class Stored(Sequence[T]):
    """Values as lines of JSON in `rows`, a `Dataset`. Slices are views of it.

    Its file is removed as soon as it is mapped, so that nothing is left of it, however the process ends. Windows would
    not remove it: there the rows are in memory. `rows` has the texts of examples in a column of their own.
    """

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    @staticmethod
    @abstractmethod
    def load(line: str) -> T:
        """The value that was written as this line."""

    @classmethod
    def of(cls, values: Iterable[T]) -> Self:
        """Write `values` as they come. Raises `NerError` if the disk is full or read-only, and what reading raises."""
        if isinstance(values, cls):
            return values
        import datasets
        import pyarrow  # type: ignore[import-untyped, unused-ignore]

        # Not `Dataset.from_generator`: it wraps what reading raises, draws a bar, and refuses to write no rows.
        schema = pyarrow.schema({"line": pyarrow.string(), "text": pyarrow.string()})
        left, cache = iter(values), cache_folder()
        with writable(cache):
            cache.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=cache, suffix=".arrow")
            try:
                with os.fdopen(handle, "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
                    while batch := list(islice(left, BATCH)):
                        # In ASCII: an answer may hold half a surrogate pair, which a column of texts cannot.
                        lines = [json.dumps(astuple(value)) for value in batch]  # type: ignore[call-overload]
                        texts = [getattr(value, "text", None) for value in batch]
                        writer.write_batch(pyarrow.record_batch([lines, texts], schema))
                return cls(datasets.Dataset.from_file(name, in_memory=os.name == "nt"))
            finally:
                os.unlink(name)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[T]:
        for batch in self.rows.select_columns(["line"]).iter(BATCH):
            yield from map(self.load, batch["line"])

    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):
            return self.select(range(len(self))[at])
        return self.load(self.rows[at]["line"])

    def select(self, positions: Iterable[int]) -> Self:
        """Those at `positions`, in that order."""
        return type(self)(self.rows.select(positions))


class StoredExamples(Stored[Example]):
    """Examples on the disk.

    >>> rows = StoredExamples.of(Example(str(n), f"第{n}句") for n in range(5))
    >>> len(rows), rows[3].text, [example.id for example in rows[1:3]]
    (5, '第3句', ['1', '2'])
    """

    @staticmethod
    def load(line: str) -> Example:
        identity, text, entities, *more = json.loads(line)
        return Example(identity, text, tuple(Entity(*entity) for entity in entities), *more)


class StoredDecoded(Stored[Decoded]):
    """Predictions on the disk."""

    @staticmethod
    def load(line: str) -> Decoded:
        entities, surfaces, problems, logprob = json.loads(line)
        found, pairs = tuple(Entity(*entity) for entity in entities), tuple((label, text) for label, text in surfaces)
        return Decoded(found, pairs, tuple(Problem(*problem) for problem in problems), logprob)


def select_rows(examples: Sequence[Example], positions: Sequence[int]) -> Sequence[Example]:
    """Those at `positions`, on the disk if `examples` are."""
    if isinstance(examples, StoredExamples):
        return examples.select(positions)
    return [examples[at] for at in positions]


def cache_folder() -> Path:
    """Where this package writes in the cache of data sets."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "qwen_ner"


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn the error of a disk that is full or read-only into a `NerError` with its remedy."""
    try:
        yield
    except NerError:  # of what is read, which may be another file that is not readable
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # datasets closes its file on the way, which fails too
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES):
                remedy = "free space there, or set HF_DATASETS_CACHE to another folder"
                fault = f"cannot write the rows ({os.strerror(cause.errno)})"
                raise NerError(fault, place=folder, remedy=remedy) from error
            cause = cause.__context__
        raise
