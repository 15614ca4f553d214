"""One format of annotated data to another: `qwen-ner convert IN OUT`.

In: a data set of any format, the name of a file to write. Out: that file, whole or not at all, and a `Conversion` that
counts and lists what could not be carried over. Rows are read and written one at a time, except Label Studio's JSON,
which is no line format. Knows nothing of tokens of models, or recipes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..entities import Example, NerError
from ..files import beside
from .datasets import NAMED, open_dataset
from .formats import cluener
from .formats.errors import CHANGES, NESTED, Note, count
from .formats.registry import target_name, writers

log = logging.getLogger(__name__)

SHOWN = 10
"""How many places are listed for each kind of loss; all are counted."""


@dataclass
class Losses:
    """What is not carried over: how often, and where the first times."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, where: str) -> None:
        self.counts[what] += 1
        shown = self.places.setdefault(what, [])
        if len(shown) < SHOWN:
            shown.append(where)

    def __str__(self) -> str:
        """A line a kind, with the places below.

        >>> losses = Losses()
        >>> losses.note("scores", "a.jsonl:3")
        >>> print(losses)
        scores: 1
          a.jsonl:3
        """
        lines: list[str] = []
        for what, number in self.counts.items():
            lines += [f"{what}: {number:,}", *(f"  {place}" for place in self.places[what])]
            if number > SHOWN:
                lines.append(f"  … and {number - SHOWN:,} more")
        return "\n".join(lines)


@dataclass(frozen=True)
class Conversion:
    """What was written, and what of the source is not in it."""

    rows: int
    entities: int
    losses: Losses


def convert(
    source: str,
    target: str | Path,
    *,
    to: str | None = None,
    split: str | None = None,
    lossy: bool = False,
    repair: bool = False,
) -> Conversion:
    """Read `source` (as `datasets.read_dataset` does, `split` of it) and write it to the file `target`.

    The content tells the format of the source; `to` (a name of `registry.writers`) or its name that of the target; both
    are logged. Raises `NerError`, and keeps an old `target`, if the source has a fault, or if the target could not hold
    all of its entities and texts. `lossy` then writes the rest; `repair` reads tags that are out of order. What else is
    not carried over (ids, scores, other keys and columns) is counted, listed and logged.
    """
    path = Path(target).expanduser()
    name = target_name(path) if to is None else to
    if name is None or name not in writers():
        what = "the name of the file does not tell its format" if to is None else "unknown format"
        raise NerError(what, value=to, place=path, remedy=f"give --to one of {', '.join(writers())}")
    if path.is_dir() or (path.exists() and path.resolve() == Path(source).expanduser().resolve()):
        fault = "is a folder" if path.is_dir() else "is the source itself"
        raise NerError(fault, place=path, remedy="name another file to write")
    rows = _Rows(source, split, repair)
    log.info("%s is read as %s", source, rows.description)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside(path) as part:
            writers()[name](part, rows, rows.note)
            if not lossy and any(what in rows.losses.counts for what in CHANGES):
                raise NerError(
                    f"{name} cannot hold all of {source}, so nothing is written",
                    place=path,
                    remedy=f"give --lossy to leave this out, or choose jsonl, which holds everything:\n{rows.losses}",
                )
    except OSError as error:
        raise NerError(
            f"cannot be written ({error.strerror or error})", place=path, remedy="choose another place"
        ) from error
    except UnicodeEncodeError as error:
        raise NerError(f"cannot be written ({error})", place=path, remedy="correct the text") from error
    if rows.losses.counts:
        log.warning("Not in %s as it is in %s:\n%s", path, source, rows.losses)
    written = Conversion(rows.count, rows.entities - rows.losses.counts[NESTED], rows.losses)
    log.info("%s is written as %s: %s, %s", path, name, count(written.rows, "row"), f"{written.entities:,} entities")
    return written


class _Rows:
    """The examples of the source, read anew for each iteration, with counts and losses of the last one."""

    def __init__(self, source: str, split: str | None, repair: bool) -> None:
        if source in NAMED and split is None:
            raise NerError("has several splits", place=source, remedy="choose one with --split")
        if (source, split) == ("cluener", "test"):
            raise NerError("the test split has no labels", place=source, remedy="choose train or dev with --split")
        self._read: Callable[[Note], Iterator[Example]]
        if source == "cluener":
            examples = cluener.read_cluener(split or "")
            self.description, self._read = cluener.DESCRIPTION, lambda _: iter(examples)
        else:
            opened = open_dataset(source, split)
            self.description = str(opened)
            self._read = lambda note: opened.examples(repair=repair, note=note)
        self.count, self.entities, self.losses = 0, 0, Losses()

    def note(self, what: str, where: str) -> None:
        self.losses.note(what, where)

    def __iter__(self) -> Iterator[Example]:
        self.count, self.entities, self.losses = 0, 0, Losses()
        for example in self._read(self.note):
            self.count += 1
            self.entities += len(example.entities)
            yield example
